//! The simple recurrence over a whole sequence.
//!
//! ```text
//! h_t = φ(gx_t + W_hh h_{t−1} + b_hh)         φ = tanh or relu
//!
//! dz_t  = (dy_t + dh_t) φ′(h_t)               dh_{t−1} = dz_t W_hh
//! dW_hh = Σ_t dz_tᵀ h_{t−1}                   db_hh = Σ_t dz_t
//! ```
//!
//! φ′ is 1 − h² or [h > 0], so the outputs are all that backward needs.

use super::recurrent::{Sequence, Weights, bias_gradient, matrix, part, start, states};
use super::rows::{each, load, plus, store};
use super::scratch;
use super::simd::{Kernel, Real, Strips, Vector, for_strips, math};

/// φ of a simple recurrence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nonlinearity {
    /// tanh.
    #[default]
    Tanh,
    /// max(0, ·).
    Relu,
}

/// `y` `[t, b, h]` from `gx` `[t, b, h]`, `w` `[h, h]`, `bias` `[h]` and `h0` `[b, h]`; from the last step to the
/// first where `reverse`.
pub fn forward<T: Real>(
    y: &mut [T],
    gx: &[T],
    w: &[T],
    bias: Option<&[T]>,
    h0: &[T],
    t: usize,
    b: usize,
    h: usize,
    nonlinearity: Nonlinearity,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 1, reverse);
    scratch::with(Weights::<T>::room(&sequence, h, h), |packed| {
        let w = Weights::forward(packed, &sequence, w, 1);
        let outputs = [Strips { data: y, row: b * h, width: sequence.slice * h }];
        for_strips(outputs, sequence.slices(), sequence.work(), |slice, [mut y]| {
            let rows = sequence.rows(slice);
            for step in 0..t {
                let times = sequence.times(step);
                let (before, z) = states(&mut y, sequence.part(h0, 0, &rows, h), times);
                w.product(z, matrix(before, h), rows.len(), false);
                let gx = sequence.part(gx, times.0, &rows, h);
                sequence.each_rows(rows.len(), [(z, h)], |rows, [z]| {
                    let gx = part(gx, &rows, h);
                    T::dispatch(Activate { z, gx, bias, h, nonlinearity });
                });
            }
        });
    });
}

/// z = φ(z + gx + bias).
struct Activate<'a, T> {
    z: &'a mut [T],
    gx: &'a [T],
    bias: Option<&'a [T]>,
    h: usize,
    nonlinearity: Nonlinearity,
}

impl<T: Real> Kernel<T> for Activate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        for (z, gx) in self.z.chunks_exact_mut(self.h).zip(self.gx.chunks_exact(self.h)) {
            each(
                self.h,
                #[inline(always)]
                |at, n| {
                    let a: V = load(z, at, n);
                    let a = plus(a, self.bias, at, n);
                    let a = load::<V>(gx, at, n).add(a);
                    let y = match self.nonlinearity {
                        Nonlinearity::Tanh => math::tanh(a),
                        // The second operand where either is NaN: NaN stays.
                        Nonlinearity::Relu => V::zero().max(a),
                    };
                    store(y, z, at, n);
                },
            );
        }
    }
}

/// The gradients `dgx` `[t, b, h]`, `dw` `[h, h]`, `db` `[h]` and `dh0` `[b, h]` from those of all outputs,
/// `dy`, and of the last state, `dh_n` `[b, h]` (each may be missing); `y` is the output of [`forward`].
pub fn backward<T: Real>(
    dgx: &mut [T],
    dw: &mut [T],
    db: Option<&mut [T]>,
    dh0: &mut [T],
    dy: Option<&[T]>,
    dh_n: Option<&[T]>,
    y: &[T],
    w: &[T],
    h0: &[T],
    t: usize,
    b: usize,
    h: usize,
    nonlinearity: Nonlinearity,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 1, reverse);
    start(dh0, dh_n);
    scratch::with(Weights::<T>::room(&sequence, h, h), |packed| {
        let w = Weights::backward(packed, &sequence, w, 0, 1);
        let width = sequence.slice * h;
        let outputs = [
            Strips { data: &mut *dgx, row: b * h, width },
            Strips { data: dh0, row: b * h, width },
        ];
        for_strips(outputs, sequence.slices(), sequence.work(), |slice, [mut dgx, mut dh]| {
            let rows = sequence.rows(slice);
            let dh = dh.row(0);
            for step in (0..t).rev() {
                let at = sequence.times(step).0;
                let dz = dgx.row(at);
                let dy = dy.map(|dy| sequence.part(dy, at, &rows, h));
                let y = sequence.part(y, at, &rows, h);
                sequence.each_rows(rows.len(), [(&mut *dz, h)], |rows, [dz]| {
                    let (dh, dy) = (part(dh, &rows, h), dy.map(|dy| part(dy, &rows, h)));
                    T::dispatch(Slope { dz, dh, dy, y: part(y, &rows, h), nonlinearity });
                });
                w.product(dh, matrix(dz, h), rows.len(), false);
            }
        });
    });
    sequence.weight_gradient(dw, 1, (dgx, h), y, h0);
    if let Some(db) = db {
        bias_gradient(db, dgx);
    }
}

/// dz = (dy + dh) φ′.
struct Slope<'a, T> {
    dz: &'a mut [T],
    dh: &'a [T],
    dy: Option<&'a [T]>,
    y: &'a [T],
    nonlinearity: Nonlinearity,
}

impl<T: Real> Kernel<T> for Slope<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        each(
            self.dz.len(),
            #[inline(always)]
            |at, n| {
                let dh: V = load(self.dh, at, n);
                let dh = plus(dh, self.dy, at, n);
                let y: V = load(self.y, at, n);
                let dz = match self.nonlinearity {
                    Nonlinearity::Tanh => dh.mul(y.neg_mul_add(y, V::splat(T::ONE))),
                    Nonlinearity::Relu => V::select(V::zero().lt(y), dh, V::zero()),
                };
                store(dz, self.dz, at, n);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::recurrent::testing::*;
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    type Shape = (usize, usize, usize);

    /// y and h_n from gx, w, bias, h0.
    fn plain(x: &[Vec<f64>], shape: Shape, kind: Nonlinearity, reverse: bool) -> [Vec<f64>; 2] {
        let (_, b, h) = shape;
        let (y, [last]) = unroll(shape, [&x[3]], reverse, |time, row, [before]| {
            let z = affine(&x[1], &x[2], before);
            let gx = &x[0][(time * b + row) * h..];
            let act = |z: f64| if kind == Nonlinearity::Tanh { z.tanh() } else { z.max(0.0) };
            [(0..h).map(|j| act(gx[j] + z[j])).collect()]
        });
        [y, last]
    }

    /// y, then the gradients of gx, w, bias and h0.
    fn ours<T: Real>(
        x: &[Vec<T>],
        d: [Option<&[T]>; 2],
        (t, b, h): Shape,
        kind: Nonlinearity,
        reverse: bool,
    ) -> [Vec<T>; 5] {
        let new = |n| vec![T::from_f64(f64::NAN); n];
        let mut y = new(t * b * h);
        forward(&mut y, &x[0], &x[1], Some(&x[2]), &x[3], t, b, h, kind, reverse);
        let (mut dgx, mut dw, mut db, mut dh0) = (new(y.len()), new(h * h), new(h), new(b * h));
        let outputs = (&mut dgx, &mut dw, Some(&mut db[..]), &mut dh0);
        backward(
            outputs.0, outputs.1, outputs.2, outputs.3, d[0], d[1], &y, &x[1], &x[3], t, b, h,
            kind, reverse,
        );
        [y, dgx, dw, db, dh0]
    }

    #[test]
    fn follows_the_formulas_in_every_shape() {
        for (shape, reverse, kind) in SHAPES.into_iter().flat_map(|shape| {
            [(shape, false, Nonlinearity::Tanh), (shape, true, Nonlinearity::Relu)]
        }) {
            let (t, b, h) = shape;
            let x = inputs(shape, 1, 1);
            let (dy, dh_n) = (numbers(t * b * h, 1.0, 8), numbers(b * h, 1.0, 9));
            let loss = |x: &[Vec<f64>]| {
                let [y, last] = plain(x, shape, kind, reverse);
                dot(&y, &dy) + dot(&last, &dh_n)
            };
            let got = ours(&x, [Some(&dy), Some(&dh_n)], shape, kind, reverse);
            close(&got[0], &plain(&x, shape, kind, reverse)[0], 1e-12);
            (0..4).for_each(|i| close(&got[i + 1], &slope(&x, i, loss), 1e-7));
            let x32: Vec<Vec<f32>> = x.iter().map(|x| narrow(x)).collect();
            let (dy32, dh32) = (narrow(&dy), narrow(&dh_n));
            let single = ours(&x32, [Some(&dy32), Some(&dh32)], shape, kind, reverse);
            (0..5).for_each(|i| close(&single[i], &got[i], 2e-5));
        }
    }

    #[test]
    fn missing_gradients_count_as_zero() {
        let shape = (3, 2, 5);
        let x = inputs(shape, 1, 1);
        let (dy, dh) = (numbers(30, 1.0, 8), numbers(10, 1.0, 9));
        let kind = Nonlinearity::Tanh;
        let got = ours(&x, [Some(&dy), None], shape, kind, false);
        let want = ours(&x, [Some(&dy), Some(&[0.0; 10])], shape, kind, false);
        assert_eq!(got, want);
        let got = ours(&x, [None, Some(&dh)], shape, kind, true);
        let want = ours(&x, [Some(&[0.0; 30]), Some(&dh)], shape, kind, true);
        assert_eq!(got, want);
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        // W_hh cut by rows of the batch, and one so large that it is cut by its columns.
        for shape in [(4, 37, 50), (2, 19, 520)] {
            let (t, b, h) = shape;
            let x: Vec<Vec<f32>> = inputs(shape, 1, 1).iter().map(|x| narrow(x)).collect();
            let dy = narrow(&numbers(t * b * h, 1.0, 8));
            same_bits(|| ours(&x, [Some(&dy), None], shape, Nonlinearity::Tanh, true).concat());
        }
    }
}
