//! Softmax of rows and its logarithm.
//!
//! Each row is walked three times while it lies in the cache: its largest element m, then `eˣ⁻ᵐ` and its
//! sum, then the division. The exponent is never positive, so nothing overflows, and the sum is at least 1.
//! A row of −∞ throughout gives NaN.
//!
//! ```text
//! softmax:       y = eˣ⁻ᵐ / Σ eˣ⁻ᵐ             dx = y (dy − Σ dy y)
//! log_softmax:   y = (x − m) − ln Σ eˣ⁻ᵐ       dx = dy − eʸ Σ dy
//! ```

use super::rows::{each, keep, largest, load, rows_per_task, store, sums};
use super::simd::{Kernel, Real, Vector, math};
use super::threads;

/// What an element costs, in simple element operations.
const COST: usize = 6;

/// `y = softmax(x)`, both `[rows, cols]`.
pub fn forward<T: Real>(y: &mut [T], x: &[T], rows: usize, cols: usize) {
    let some = rows_per_task(cols) * cols;
    threads::for_chunks(y, some, COST * rows * cols, |i, y| {
        let x = &x[i * some..i * some + y.len()];
        T::dispatch(Forward { y, x, cols, log: false });
    });
}

/// `y = log_softmax(x)`, both `[rows, cols]`.
pub fn log_forward<T: Real>(y: &mut [T], x: &[T], rows: usize, cols: usize) {
    let some = rows_per_task(cols) * cols;
    threads::for_chunks(y, some, COST * rows * cols, |i, y| {
        let x = &x[i * some..i * some + y.len()];
        T::dispatch(Forward { y, x, cols, log: true });
    });
}

/// The gradient of [`forward`] from its output `y`; all `[rows, cols]`.
pub fn backward<T: Real>(dx: &mut [T], dy: &[T], y: &[T], rows: usize, cols: usize) {
    let some = rows_per_task(cols) * cols;
    threads::for_chunks(dx, some, 2 * rows * cols, |i, dx| {
        let range = i * some..i * some + dx.len();
        T::dispatch(Backward { dx, dy: &dy[range.clone()], y: &y[range], cols, log: false });
    });
}

/// The gradient of [`log_forward`] from its output `y`; all `[rows, cols]`.
pub fn log_backward<T: Real>(dx: &mut [T], dy: &[T], y: &[T], rows: usize, cols: usize) {
    let some = rows_per_task(cols) * cols;
    threads::for_chunks(dx, some, COST * rows * cols, |i, dx| {
        let range = i * some..i * some + dx.len();
        T::dispatch(Backward { dx, dy: &dy[range.clone()], y: &y[range], cols, log: true });
    });
}

struct Forward<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
    cols: usize,
    log: bool,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let cols = self.cols;
        for (y, x) in self.y.chunks_exact_mut(cols).zip(self.x.chunks_exact(cols)) {
            let max = V::splat(largest::<V>(x));
            let [sum] = sums::<V, 1>(
                cols,
                #[inline(always)]
                |acc, at, n| {
                    let e = math::exp_nonpositive(load::<V>(x, at, n).sub(max));
                    if !self.log {
                        store(e, y, at, n);
                    }
                    acc[0] = acc[0].add(keep(e, n, V::zero()));
                },
            );
            if self.log {
                let log_sum = math::log(V::splat(sum));
                each(
                    cols,
                    #[inline(always)]
                    |at, n| {
                        store(load::<V>(x, at, n).sub(max).sub(log_sum), y, at, n);
                    },
                );
            } else {
                let share = V::splat(T::ONE).div(V::splat(sum));
                each(
                    cols,
                    #[inline(always)]
                    |at, n| store(load::<V>(y, at, n).mul(share), y, at, n),
                );
            }
        }
    }
}

struct Backward<'a, T> {
    dx: &'a mut [T],
    dy: &'a [T],
    y: &'a [T],
    cols: usize,
    log: bool,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let cols = self.cols;
        let inputs = self.dy.chunks_exact(cols).zip(self.y.chunks_exact(cols));
        for (dx, (dy, y)) in self.dx.chunks_exact_mut(cols).zip(inputs) {
            if self.log {
                let [sum] = sums::<V, 1>(
                    cols,
                    #[inline(always)]
                    |acc, at, n| acc[0] = acc[0].add(load(dy, at, n)),
                );
                let sum = V::splat(sum);
                each(
                    cols,
                    #[inline(always)]
                    |at, n| {
                        let p = math::exp_nonpositive(load::<V>(y, at, n));
                        store(p.neg_mul_add(sum, load(dy, at, n)), dx, at, n);
                    },
                );
            } else {
                let [dot] = sums::<V, 1>(
                    cols,
                    #[inline(always)]
                    |acc, at, n| {
                        acc[0] = load::<V>(dy, at, n).mul_add(load(y, at, n), acc[0]);
                    },
                );
                let dot = V::splat(dot);
                each(
                    cols,
                    #[inline(always)]
                    |at, n| {
                        let d = load::<V>(dy, at, n).sub(dot);
                        store(load::<V>(y, at, n).mul(d), dx, at, n);
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    /// softmax, log_softmax and their gradients by the formulas.
    fn plain(x: &[f64], dy: &[f64], cols: usize) -> [Vec<f64>; 4] {
        let mut out: [Vec<f64>; 4] = Default::default();
        for (x, dy) in x.chunks(cols).zip(dy.chunks(cols)) {
            let max = x.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f64 = x.iter().map(|x| (x - max).exp()).sum();
            let y: Vec<f64> = x.iter().map(|x| (x - max).exp() / sum).collect();
            let dot: f64 = y.iter().zip(dy).map(|(y, d)| y * d).sum();
            let total: f64 = dy.iter().sum();
            for j in 0..cols {
                out[0].push(y[j]);
                out[1].push(x[j] - max - sum.ln());
                out[2].push(y[j] * (dy[j] - dot));
                out[3].push(dy[j] - y[j] * total);
            }
        }
        out
    }

    fn ours<T: Real>(x: &[T], dy: &[T], rows: usize, cols: usize) -> [Vec<T>; 4] {
        let mut out: [Vec<T>; 4] = std::array::from_fn(|_| vec![T::from_f64(9.0); rows * cols]);
        let [y, log_y, dx, log_dx] = &mut out;
        forward(y, x, rows, cols);
        log_forward(log_y, x, rows, cols);
        backward(dx, dy, y, rows, cols);
        log_backward(log_dx, dy, log_y, rows, cols);
        out
    }

    #[test]
    fn follows_the_formulas_at_every_width() {
        let shapes = (1..40).map(|cols| (5, cols));
        for (rows, cols) in shapes.chain([(0, 7), (300, 65), (130, 1000), (2, 50_000)]) {
            let (x, dy) = (numbers(rows * cols, 8.0, 1), numbers(rows * cols, 1.0, 2));
            let want = plain(&x, &dy, cols);
            let wide = ours(&x, &dy, rows, cols);
            let single = ours(&narrow(&x), &narrow(&dy), rows, cols);
            for i in 0..4 {
                close(&wide[i], &want[i], 1e-12);
                close(&single[i], &want[i], if i == 3 { 5e-6 } else { 1e-6 });
            }
        }
        assert!(ours::<f32>(&[], &[], 3, 0)[0].is_empty());
    }

    #[test]
    fn masked_elements_get_nothing_and_a_masked_row_gives_nan() {
        let low = f32::NEG_INFINITY;
        let mut x = vec![low; 60];
        (x[3], x[19], x[21]) = (1000.0, 1000.0, -1000.0);
        let (mut y, mut log_y) = (vec![9.0; 60], vec![9.0; 60]);
        forward(&mut y, &x, 3, 20);
        log_forward(&mut log_y, &x, 3, 20);
        for i in 0..20 {
            let there = i == 3 || i == 19;
            assert_eq!(y[i], if there { 0.5 } else { 0.0 });
            assert_eq!(log_y[i], if there { -std::f32::consts::LN_2 } else { low });
        }
        assert_eq!((y[21], y[22], log_y[21]), (1.0, 0.0, 0.0));
        assert!(y[40..].iter().chain(&log_y[40..]).all(|y| y.is_nan()));
        x[5] = f32::NAN;
        forward(&mut y, &x, 3, 20);
        assert!(y[..20].iter().all(|y| y.is_nan()) && y[21] == 1.0);
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let (rows, cols) = (300, 203);
        let [x, dy] = [5, 6].map(|seed| narrow(&numbers(rows * cols, 4.0, seed)));
        same_bits(|| ours(&x, &dy, rows, cols).concat());
    }
}
