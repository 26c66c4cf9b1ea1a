//! The gated recurrent unit over a whole sequence.
//!
//! With `a_t = W_hh h_{t−1} + b_hh` and gx, both cut into the gates r, z, n:
//!
//! ```text
//! r = σ(gx_r + a_r)    z = σ(gx_z + a_z)    n = tanh(gx_n + r a_n)    h_t = (1 − z) n + z h_{t−1}
//!
//! dn′ = dh (1 − z)(1 − n²)     dz′ = dh (h_{t−1} − n) z(1 − z)     dr′ = dn′ a_n r(1 − r)
//! dgx = (dr′, dz′, dn′)        da = (dr′, dz′, dn′ r)
//! dh_{t−1} = dh z + da W_hh    dW_hh = Σ_t da_tᵀ h_{t−1}           db_hh = Σ_t da_t
//! ```
//!
//! da differs from dgx only in its last third, dn′ r, which backward keeps beside dgx.

use super::recurrent::{Sequence, Weights, bias_gradient, matrix, part, start, states};
use super::rows::{each, load, plus, store};
use super::scratch;
use super::simd::{Kernel, Real, Strips, Vector, for_strips, math};

/// `y` `[t, b, h]` and, for the way back, `gates` r, z, n, a_n `[t, b, 4·h]` from `gx` `[t, b, 3·h]`, `w`
/// `[3·h, h]`, `bias` `[3·h]` and `h0` `[b, h]`; from the last step to the first where `reverse`.
pub fn forward<T: Real>(
    y: &mut [T],
    gates: &mut [T],
    gx: &[T],
    w: &[T],
    bias: Option<&[T]>,
    h0: &[T],
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 3, reverse);
    let wide = 3 * h;
    scratch::with(Weights::<T>::room(&sequence, h, wide), |packed| {
        let w = Weights::forward(packed, &sequence, w, 3);
        let slice = sequence.slice;
        let outputs = [
            Strips { data: y, row: b * h, width: slice * h },
            Strips { data: gates, row: b * 4 * h, width: slice * 4 * h },
        ];
        let work = sequence.work();
        for_strips(outputs, sequence.slices(), work, |slice, [mut y, mut gates]| {
            let rows = sequence.rows(slice);
            scratch::with(rows.len() * wide, |a: &mut [T]| {
                for step in 0..t {
                    let times = sequence.times(step);
                    let (before, y) = states(&mut y, sequence.part(h0, 0, &rows, h), times);
                    w.product(a, matrix(before, h), rows.len(), false);
                    let gx = sequence.part(gx, times.0, &rows, wide);
                    let gates = gates.row(times.0);
                    sequence.each_rows(rows.len(), [(y, h), (gates, 4 * h)], |rows, [y, gates]| {
                        let (a, gx) = (part(a, &rows, wide), part(gx, &rows, wide));
                        let before = part(before, &rows, h);
                        T::dispatch(Forward { y, gates, a, gx, bias, before, h });
                    });
                }
            });
        });
    });
}

/// The gates of a step, row by row.
struct Forward<'a, T> {
    y: &'a mut [T],
    gates: &'a mut [T],
    a: &'a [T],
    gx: &'a [T],
    bias: Option<&'a [T]>,
    before: &'a [T],
    h: usize,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let h = self.h;
        for (row, y) in self.y.chunks_exact_mut(h).enumerate() {
            let wide = row * 3 * h..(row + 1) * 3 * h;
            let (a, gx) = (&self.a[wide.clone()], &self.gx[wide]);
            let gates = &mut self.gates[row * 4 * h..(row + 1) * 4 * h];
            let before = &self.before[row * h..(row + 1) * h];
            each(
                h,
                #[inline(always)]
                |at, n| {
                    // a and gx of the three gates
                    let (mut a_gates, mut gx_gates) = ([V::zero(); 3], [V::zero(); 3]);
                    for gate in 0..3 {
                        let at = gate * h + at;
                        a_gates[gate] = plus(load(a, at, n), self.bias, at, n);
                        gx_gates[gate] = load(gx, at, n);
                    }
                    let ([a_r, a_z, a_n], [gx_r, gx_z, gx_n]) = (a_gates, gx_gates);
                    let (r, z) = (math::sigmoid(gx_r.add(a_r)), math::sigmoid(gx_z.add(a_z)));
                    let new = math::tanh(r.mul_add(a_n, gx_n));
                    // (1 − z) n + z h = n + z (h − n)
                    store(load::<V>(before, at, n).sub(new).mul_add(z, new), y, at, n);
                    for (gate, v) in [r, z, new, a_n].into_iter().enumerate() {
                        store(v, gates, gate * h + at, n);
                    }
                },
            );
        }
    }
}

/// The gradients `dgx` `[t, b, 3·h]`, `dw` `[3·h, h]`, `db` `[3·h]` and `dh0` `[b, h]` from those of all outputs,
/// `dy`, and of the last state, `dh_n` `[b, h]` (each may be missing); `y` and `gates` are the outputs of
/// [`forward`].
pub fn backward<T: Real>(
    dgx: &mut [T],
    dw: &mut [T],
    db: Option<&mut [T]>,
    dh0: &mut [T],
    dy: Option<&[T]>,
    dh_n: Option<&[T]>,
    y: &[T],
    gates: &[T],
    w: &[T],
    h0: &[T],
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 3, reverse);
    let wide = 3 * h;
    start(dh0, dh_n);
    let (rz_room, n_room) =
        (Weights::<T>::room(&sequence, 2 * h, h), Weights::<T>::room(&sequence, h, h));
    scratch::with(rz_room + n_room + t * b * h, |room| {
        let (rz_packed, room) = room.split_at_mut(rz_room);
        let (n_packed, da_n) = room.split_at_mut(n_room);
        let w_rz = Weights::backward(rz_packed, &sequence, w, 0, 2);
        let w_n = Weights::backward(n_packed, &sequence, w, 2, 1);
        let slice = sequence.slice;
        let outputs = [
            Strips { data: &mut *dgx, row: b * wide, width: slice * wide },
            Strips { data: dh0, row: b * h, width: slice * h },
            Strips { data: &mut *da_n, row: b * h, width: slice * h },
        ];
        let work = sequence.work();
        for_strips(outputs, sequence.slices(), work, |slice, [mut dgx, mut dh, mut da_n]| {
            let rows = sequence.rows(slice);
            let dh = dh.row(0);
            for step in (0..t).rev() {
                let (at, before) = sequence.times(step);
                let (dgx, da_n) = (dgx.row(at), da_n.row(at));
                let before = match before {
                    Some(before) => sequence.part(y, before, &rows, h),
                    None => sequence.part(h0, 0, &rows, h),
                };
                let gates = sequence.part(gates, at, &rows, 4 * h);
                let dy = dy.map(|dy| sequence.part(dy, at, &rows, h));
                let outputs = [(&mut *dgx, wide), (&mut *da_n, h), (&mut *dh, h)];
                sequence.each_rows(rows.len(), outputs, |rows, [dgx, da_n, dh]| {
                    let (dy, before) = (dy.map(|dy| part(dy, &rows, h)), part(before, &rows, h));
                    let gates = part(gates, &rows, 4 * h);
                    T::dispatch(Backward { dgx, da_n, dh, dy, before, gates, h });
                });
                w_rz.product(dh, matrix(dgx, wide), rows.len(), true);
                w_n.product(dh, matrix(da_n, h), rows.len(), true);
            }
        });
        let (dw_rz, dw_n) = dw.split_at_mut(2 * h * h);
        sequence.weight_gradient(dw_rz, 2, (dgx, wide), y, h0);
        sequence.weight_gradient(dw_n, 1, (da_n, h), y, h0);
        if let Some(db) = db {
            bias_gradient(db, dgx);
            bias_gradient(&mut db[2 * h..], da_n);
        }
    });
}

/// The gates of a step on the way back; dh from that after the step to dh z.
struct Backward<'a, T> {
    dgx: &'a mut [T],
    da_n: &'a mut [T],
    dh: &'a mut [T],
    dy: Option<&'a [T]>,
    before: &'a [T],
    gates: &'a [T],
    h: usize,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let h = self.h;
        let one = V::splat(T::ONE);
        for (row, dgx) in self.dgx.chunks_exact_mut(3 * h).enumerate() {
            let gates = &self.gates[row * 4 * h..(row + 1) * 4 * h];
            let from = row * h;
            each(
                h,
                #[inline(always)]
                |at, n| {
                    let here = from + at;
                    let dh: V = load(self.dh, here, n);
                    let dh = plus(dh, self.dy, here, n);
                    let (r, z): (V, V) = (load(gates, at, n), load(gates, h + at, n));
                    let (new, a_n): (V, V) =
                        (load(gates, 2 * h + at, n), load(gates, 3 * h + at, n));
                    let dn = dh.mul(one.sub(z)).mul(new.neg_mul_add(new, one));
                    let dz = dh.mul(load::<V>(self.before, here, n).sub(new));
                    let dz = dz.mul(z.neg_mul_add(z, z));
                    let dr = dn.mul(a_n).mul(r.neg_mul_add(r, r));
                    for (gate, v) in [dr, dz, dn].into_iter().enumerate() {
                        store(v, dgx, gate * h + at, n);
                    }
                    store(dn.mul(r), self.da_n, here, n);
                    store(dh.mul(z), self.dh, here, n);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recurrent::testing::*;
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    type Shape = (usize, usize, usize);

    /// y and h_n from gx, w, bias, h0.
    fn plain(x: &[Vec<f64>], shape: Shape, reverse: bool) -> [Vec<f64>; 2] {
        let (_, b, h) = shape;
        let (y, [last]) = unroll(shape, [&x[3]], reverse, |time, row, [before]| {
            let a = affine(&x[1], &x[2], before);
            let gx = &x[0][(time * b + row) * 3 * h..];
            let unit = |j: usize| {
                let r = sigmoid(gx[j] + a[j]);
                let z = sigmoid(gx[h + j] + a[h + j]);
                let n = (gx[2 * h + j] + r * a[2 * h + j]).tanh();
                (1.0 - z) * n + z * before[j]
            };
            [(0..h).map(unit).collect()]
        });
        [y, last]
    }

    /// y, then the gradients of gx, w, bias and h0.
    fn ours<T: Real>(
        x: &[Vec<T>],
        [dy, dh_n]: [Option<&[T]>; 2],
        (t, b, h): Shape,
        reverse: bool,
    ) -> [Vec<T>; 5] {
        let new = |n| vec![T::from_f64(f64::NAN); n];
        let (mut y, mut gates) = (new(t * b * h), new(t * b * 4 * h));
        forward(&mut y, &mut gates, &x[0], &x[1], Some(&x[2]), &x[3], t, b, h, reverse);
        let (mut dgx, mut dw, mut db) = (new(t * b * 3 * h), new(3 * h * h), new(3 * h));
        let (mut dh0, w) = (new(b * h), &x[1]);
        let out_b = Some(&mut db[..]);
        backward(
            &mut dgx, &mut dw, out_b, &mut dh0, dy, dh_n, &y, &gates, w, &x[3], t, b, h, reverse,
        );
        [y, dgx, dw, db, dh0]
    }

    #[test]
    fn follows_the_formulas_in_every_shape() {
        for (i, shape) in SHAPES.into_iter().enumerate() {
            let ((t, b, h), reverse) = (shape, i % 2 == 0);
            let x = inputs(shape, 3, 1);
            let (dy, dh_n) = (numbers(t * b * h, 1.0, 8), numbers(b * h, 1.0, 9));
            let loss = |x: &[Vec<f64>]| {
                let [y, last] = plain(x, shape, reverse);
                dot(&y, &dy) + dot(&last, &dh_n)
            };
            let got = ours(&x, [Some(&dy), Some(&dh_n)], shape, reverse);
            close(&got[0], &plain(&x, shape, reverse)[0], 1e-12);
            if h <= 17 {
                (0..4).for_each(|i| close(&got[i + 1], &slope(&x, i, loss), 1e-7));
            }
            let x32: Vec<Vec<f32>> = x.iter().map(|x| narrow(x)).collect();
            let (dy, dh_n) = (narrow(&dy), narrow(&dh_n));
            let single = ours(&x32, [Some(&dy), Some(&dh_n)], shape, reverse);
            (0..5).for_each(|i| close(&single[i], &got[i], 2e-5));
        }
    }

    #[test]
    fn missing_gradients_count_as_zero() {
        let x = inputs((3, 2, 5), 3, 1);
        let (dy, dh) = (numbers(30, 1.0, 8), numbers(10, 1.0, 9));
        let got = ours(&x, [Some(&dy), None], (3, 2, 5), false);
        assert_eq!(got, ours(&x, [Some(&dy), Some(&[0.0; 10])], (3, 2, 5), false));
        let got = ours(&x, [None, Some(&dh)], (3, 2, 5), true);
        assert_eq!(got, ours(&x, [Some(&[0.0; 30]), Some(&dh)], (3, 2, 5), true));
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        // W_hh cut by rows of the batch, and one so large that it is cut by its columns.
        for shape in [(4, 37, 50), (2, 19, 300)] {
            let (t, b, h) = shape;
            let x: Vec<Vec<f32>> = inputs(shape, 3, 1).iter().map(|x| narrow(x)).collect();
            let dy = narrow(&numbers(t * b * h, 1.0, 8));
            same_bits(|| ours(&x, [Some(&dy), None], shape, true).concat());
        }
    }
}
