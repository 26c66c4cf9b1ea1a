//! Binary cross-entropy on logits, element by element.
//!
//! With target t and the weight q of positives (1 without):
//!
//! ```text
//! ℓ  = (1−t) max(x, 0) + q t max(−x, 0) + (1 + (q−1) t) ln(1 + e^{−|x|})
//! dx = g (σ(x) (1 + (q−1) t) − q t)
//! ```

use super::rows::{each, load, load_or, store};
use super::simd::{Kernel, Real, Vector, math};
use super::threads::{self, CHUNK};

/// What an element costs, in simple element operations.
const COST: usize = 12;

/// `losses` (ℓ) of the logits `x` and targets `t`, all of `numel` elements in rows of `cols`; `weight` (q)
/// has `cols`.
pub fn forward<T: Real>(
    losses: &mut [T],
    x: &[T],
    t: &[T],
    weight: Option<&[T]>,
    numel: usize,
    cols: usize,
) {
    let (row, some) = pieces(weight, cols);
    threads::for_chunks(losses, some, COST * numel, |i, losses| {
        let range = i * some..i * some + losses.len();
        let (x, t) = (&x[range.clone()], &t[range]);
        T::dispatch(Pass { out: losses, x, t, weight, g: None, row });
    });
}

/// `dx` from the gradient `g` of each loss; the rest as in [`forward`].
pub fn backward<T: Real>(
    dx: &mut [T],
    g: &[T],
    x: &[T],
    t: &[T],
    weight: Option<&[T]>,
    numel: usize,
    cols: usize,
) {
    let (row, some) = pieces(weight, cols);
    threads::for_chunks(dx, some, COST * numel, |i, dx| {
        let range = i * some..i * some + dx.len();
        let (x, t, g) = (&x[range.clone()], &t[range.clone()], Some(&g[range]));
        T::dispatch(Pass { out: dx, x, t, weight, g, row });
    });
}

/// Elements walked at a time, and elements of a task. Without weights rows do not matter.
fn pieces<T>(weight: Option<&[T]>, cols: usize) -> (usize, usize) {
    let row = if weight.is_some() { cols.max(1) } else { CHUNK };
    (row, (CHUNK / row).max(1) * row)
}

/// Forward without `g`, backward with it.
struct Pass<'a, T> {
    out: &'a mut [T],
    x: &'a [T],
    t: &'a [T],
    weight: Option<&'a [T]>,
    g: Option<&'a [T]>,
    row: usize,
}

impl<T: Real> Kernel<T> for Pass<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let one = V::splat(T::ONE);
        for (i, out) in self.out.chunks_mut(self.row).enumerate() {
            let from = i * self.row;
            each(
                out.len(),
                #[inline(always)]
                |at, n| {
                    let x: V = load(self.x, from + at, n);
                    let t: V = load(self.t, from + at, n);
                    let q = load_or(self.weight, at, n, one);
                    // 1 + (q − 1) t
                    let both = q.sub(one).mul_add(t, one);
                    let v = match self.g {
                        None => {
                            let tail = math::log1p(math::exp_nonpositive(x.abs().neg()));
                            let right = x.max(V::zero()).mul(one.sub(t));
                            let left = x.neg().max(V::zero()).mul(q.mul(t));
                            tail.mul_add(both, left.add(right))
                        }
                        Some(g) => {
                            let d = math::sigmoid(x).mul_add(both, q.mul(t).neg());
                            d.mul(load(g, from + at, n))
                        }
                    };
                    store(v, out, at, n);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    fn plain(x: f64, t: f64, q: f64) -> (f64, f64) {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        let loss = -(q * t * -((-x).exp().ln_1p()) + (1.0 - t) * -(x.exp().ln_1p()));
        (loss, -q * t * (1.0 - sigmoid) + (1.0 - t) * sigmoid)
    }

    fn ours<T: Real>(x: &[T], t: &[T], g: &[T], q: Option<&[T]>, cols: usize) -> [Vec<T>; 2] {
        let (mut losses, mut dx) = (x.to_vec(), x.to_vec());
        forward(&mut losses, x, t, q, x.len(), cols);
        backward(&mut dx, g, x, t, q, x.len(), cols);
        [losses, dx]
    }

    #[test]
    fn follows_the_definition_at_every_width() {
        for (rows, cols) in (1..40).map(|cols| (3, cols)).chain([(0, 3), (3, 0), (9000, 5)]) {
            let n = rows * cols;
            let (x, g) = (numbers(n, 9.0, 1), numbers(n, 1.0, 2));
            let t: Vec<f64> = numbers(n, 1.0, 3).iter().map(|t| t.abs()).collect();
            let q: Vec<f64> = numbers(cols, 3.0, 4).iter().map(|q| q.abs()).collect();
            for weighted in [false, true] {
                let at = |i: usize| plain(x[i], t[i], if weighted { q[i % cols] } else { 1.0 });
                let losses: Vec<f64> = (0..n).map(|i| at(i).0).collect();
                let dx: Vec<f64> = (0..n).map(|i| g[i] * at(i).1).collect();
                let (q32, q) = (narrow(&q), &q[..]);
                let wide = ours(&x, &t, &g, weighted.then_some(q), cols);
                let single =
                    ours(&narrow(&x), &narrow(&t), &narrow(&g), weighted.then_some(&q32[..]), cols);
                close(&wide[0], &losses, 1e-12);
                close(&wide[1], &dx, 1e-12);
                close(&single[0], &losses, 1e-6);
                close(&single[1], &dx, 1e-6);
            }
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let [losses, dx] = ours(&[500.0f32, -500.0, 20.0], &[0.0, 1.0, 1.0], &[1.0; 3], None, 3);
        assert_eq!((losses[0], losses[1], dx[0], dx[1]), (500.0, 500.0, 1.0, -1.0));
        assert!((losses[2] as f64 / (-20f64).exp() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let n = 60_002;
        let [x, t, g] = [1, 2, 3].map(|seed| narrow(&numbers(n, 4.0, seed)));
        same_bits(|| ours(&x, &t, &g, Some(&[0.3, 2.0]), 2).concat());
    }
}
