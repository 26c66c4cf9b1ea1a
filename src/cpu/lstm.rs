//! Long short-term memory over a whole sequence.
//!
//! With `z_t = gx_t + W_hh h_{t−1} + b_hh`, cut into the gates i, f, g, o:
//!
//! ```text
//! i, f, o = σ(z)     g = tanh(z)     c_t = f c_{t−1} + i g     h_t = o tanh(c_t)
//!
//! do = dh tanh(c)                    dc += dh o (1 − tanh²(c))
//! di = dc g    df = dc c_{t−1}    dg = dc i    dc_{t−1} = dc f
//! dz = (di i(1−i), df f(1−f), dg (1−g²), do o(1−o))            dh_{t−1} = dz W_hh
//! dW_hh = Σ_t dz_tᵀ h_{t−1}          db_hh = Σ_t dz_t
//! ```
//!
//! A step is one product and one pass over the gates. The gates and c are kept for the way back.

use super::recurrent::{Sequence, Weights, bias_gradient, matrix, part, start, states};
use super::rows::{each, load, plus, store};
use super::scratch;
use super::simd::{Kernel, Real, Strips, Vector, for_strips, math};

/// `y` and `c` `[t, b, h]` and the `gates` i, f, g, o `[t, b, 4·h]` from `gx` `[t, b, 4·h]`, `w` `[4·h, h]`, `bias`
/// `[4·h]`, `h0` and `c0` `[b, h]`; from the last step to the first where `reverse`.
pub fn forward<T: Real>(
    y: &mut [T],
    c: &mut [T],
    gates: &mut [T],
    gx: &[T],
    w: &[T],
    bias: Option<&[T]>,
    h0: &[T],
    c0: &[T],
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 4, reverse);
    let wide = 4 * h;
    scratch::with(Weights::<T>::room(&sequence, h, wide), |packed| {
        let w = Weights::forward(packed, &sequence, w, 4);
        let slice = sequence.slice;
        let outputs = [
            Strips { data: y, row: b * h, width: slice * h },
            Strips { data: c, row: b * h, width: slice * h },
            Strips { data: gates, row: b * wide, width: slice * wide },
        ];
        let work = sequence.work();
        for_strips(outputs, sequence.slices(), work, |slice, [mut y, mut c, mut gates]| {
            let rows = sequence.rows(slice);
            scratch::with(rows.len() * wide, |z: &mut [T]| {
                for step in 0..t {
                    let times = sequence.times(step);
                    let (h_before, y) = states(&mut y, sequence.part(h0, 0, &rows, h), times);
                    let (c_before, c) = states(&mut c, sequence.part(c0, 0, &rows, h), times);
                    w.product(z, matrix(h_before, h), rows.len(), false);
                    let gx = sequence.part(gx, times.0, &rows, wide);
                    let gates = gates.row(times.0);
                    let outputs = [(y, h), (c, h), (gates, wide)];
                    sequence.each_rows(rows.len(), outputs, |rows, [y, c, gates]| {
                        let (z, gx) = (part(z, &rows, wide), part(gx, &rows, wide));
                        let c_before = part(c_before, &rows, h);
                        T::dispatch(Forward { y, c, gates, z, gx, bias, c_before, h });
                    });
                }
            });
        });
    });
}

/// The gates of a step, row by row.
struct Forward<'a, T> {
    y: &'a mut [T],
    c: &'a mut [T],
    gates: &'a mut [T],
    z: &'a [T],
    gx: &'a [T],
    bias: Option<&'a [T]>,
    c_before: &'a [T],
    h: usize,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let h = self.h;
        let outputs = self.y.chunks_exact_mut(h).zip(self.c.chunks_exact_mut(h));
        for (row, (y, c)) in outputs.enumerate() {
            let wide = row * 4 * h..(row + 1) * 4 * h;
            let (z, gx) = (&self.z[wide.clone()], &self.gx[wide.clone()]);
            let gates = &mut self.gates[wide];
            let c_before = &self.c_before[row * h..(row + 1) * h];
            each(
                h,
                #[inline(always)]
                |at, n| {
                    // z of the four gates
                    let mut sums = [V::zero(); 4];
                    for (gate, sum) in sums.iter_mut().enumerate() {
                        let at = gate * h + at;
                        *sum = load::<V>(gx, at, n).add(plus(load(z, at, n), self.bias, at, n));
                    }
                    let (i, f) = (math::sigmoid(sums[0]), math::sigmoid(sums[1]));
                    let (g, o) = (math::tanh(sums[2]), math::sigmoid(sums[3]));
                    let new = i.mul_add(g, f.mul(load(c_before, at, n)));
                    store(new, c, at, n);
                    store(o.mul(math::tanh(new)), y, at, n);
                    for (gate, v) in [i, f, g, o].into_iter().enumerate() {
                        store(v, gates, gate * h + at, n);
                    }
                },
            );
        }
    }
}

/// The gradients `dgx` `[t, b, 4·h]`, `dw` `[4·h, h]`, `db` `[4·h]`, `dh0` and `dc0` `[b, h]` from those of all
/// outputs, `dy`, and of the last states, `dh_n` and `dc_n` `[b, h]` (each may be missing); `y`, `c` and
/// `gates` are the outputs of [`forward`].
pub fn backward<T: Real>(
    dgx: &mut [T],
    dw: &mut [T],
    db: Option<&mut [T]>,
    dh0: &mut [T],
    dc0: &mut [T],
    dy: Option<&[T]>,
    dh_n: Option<&[T]>,
    dc_n: Option<&[T]>,
    y: &[T],
    c: &[T],
    gates: &[T],
    w: &[T],
    h0: &[T],
    c0: &[T],
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence::new::<T>(t, b, h, 4, reverse);
    let wide = 4 * h;
    start(dh0, dh_n);
    start(dc0, dc_n);
    scratch::with(Weights::<T>::room(&sequence, wide, h), |packed| {
        let w = Weights::backward(packed, &sequence, w, 0, 4);
        let slice = sequence.slice;
        let outputs = [
            Strips { data: &mut *dgx, row: b * wide, width: slice * wide },
            Strips { data: dh0, row: b * h, width: slice * h },
            Strips { data: dc0, row: b * h, width: slice * h },
        ];
        let work = sequence.work();
        for_strips(outputs, sequence.slices(), work, |slice, [mut dgx, mut dh, mut dc]| {
            let rows = sequence.rows(slice);
            let (dh, dc) = (dh.row(0), dc.row(0));
            for step in (0..t).rev() {
                let (at, before) = sequence.times(step);
                let dz = dgx.row(at);
                let c_before = match before {
                    Some(before) => sequence.part(c, before, &rows, h),
                    None => sequence.part(c0, 0, &rows, h),
                };
                let gates = sequence.part(gates, at, &rows, wide);
                let dy = dy.map(|dy| sequence.part(dy, at, &rows, h));
                let c = sequence.part(c, at, &rows, h);
                let outputs = [(&mut *dz, wide), (&mut *dc, h)];
                sequence.each_rows(rows.len(), outputs, |rows, [dz, dc]| {
                    let (dh, dy) = (part(dh, &rows, h), dy.map(|dy| part(dy, &rows, h)));
                    let (c, c_before) = (part(c, &rows, h), part(c_before, &rows, h));
                    let gates = part(gates, &rows, wide);
                    T::dispatch(Backward { dz, dc, dh, dy, c, c_before, gates, h });
                });
                w.product(dh, matrix(dz, wide), rows.len(), false);
            }
        });
    });
    sequence.weight_gradient(dw, 4, (dgx, wide), y, h0);
    if let Some(db) = db {
        bias_gradient(db, dgx);
    }
}

/// The gates of a step on the way back: dz, and dc from that after the step to that before it.
struct Backward<'a, T> {
    dz: &'a mut [T],
    dc: &'a mut [T],
    dh: &'a [T],
    dy: Option<&'a [T]>,
    c: &'a [T],
    c_before: &'a [T],
    gates: &'a [T],
    h: usize,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let h = self.h;
        let one = V::splat(T::ONE);
        for (row, dz) in self.dz.chunks_exact_mut(4 * h).enumerate() {
            let gates = &self.gates[row * 4 * h..(row + 1) * 4 * h];
            let from = row * h;
            each(
                h,
                #[inline(always)]
                |at, n| {
                    let here = from + at;
                    let dh: V = load(self.dh, here, n);
                    let dh = plus(dh, self.dy, here, n);
                    let (i, f): (V, V) = (load(gates, at, n), load(gates, h + at, n));
                    let (g, o): (V, V) = (load(gates, 2 * h + at, n), load(gates, 3 * h + at, n));
                    let tanh_c = math::tanh(load::<V>(self.c, here, n));
                    let through = dh.mul(o).mul(tanh_c.neg_mul_add(tanh_c, one));
                    let dc = load::<V>(self.dc, here, n).add(through);
                    let parts = [
                        dc.mul(g).mul(i.neg_mul_add(i, i)),
                        dc.mul(load(self.c_before, here, n)).mul(f.neg_mul_add(f, f)),
                        dc.mul(i).mul(g.neg_mul_add(g, one)),
                        dh.mul(tanh_c).mul(o.neg_mul_add(o, o)),
                    ];
                    for (gate, v) in parts.into_iter().enumerate() {
                        store(v, dz, gate * h + at, n);
                    }
                    store(dc.mul(f), self.dc, here, n);
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

    /// y, h_n and c_n from gx, w, bias, h0, c0.
    fn plain(x: &[Vec<f64>], shape: Shape, reverse: bool) -> [Vec<f64>; 3] {
        let (_, b, h) = shape;
        let (y, [h_n, c_n]) = unroll(shape, [&x[3], &x[4]], reverse, |time, row, [before, c]| {
            let a = affine(&x[1], &x[2], before);
            let gx = &x[0][(time * b + row) * 4 * h..];
            let z = |gate: usize, j: usize| gx[gate * h + j] + a[gate * h + j];
            let c: Vec<f64> = (0..h)
                .map(|j| sigmoid(z(1, j)) * c[j] + sigmoid(z(0, j)) * z(2, j).tanh())
                .collect();
            [(0..h).map(|j| sigmoid(z(3, j)) * c[j].tanh()).collect(), c]
        });
        [y, h_n, c_n]
    }

    /// y, then the gradients of gx, w, bias, h0 and c0.
    fn ours<T: Real>(
        x: &[Vec<T>],
        d: [Option<&[T]>; 3],
        (t, b, h): Shape,
        reverse: bool,
    ) -> [Vec<T>; 6] {
        let new = |n| vec![T::from_f64(f64::NAN); n];
        let (mut y, mut c, mut gates) = (new(t * b * h), new(t * b * h), new(t * b * 4 * h));
        let bias = Some(&x[2][..]);
        forward(&mut y, &mut c, &mut gates, &x[0], &x[1], bias, &x[3], &x[4], t, b, h, reverse);
        let (mut dgx, mut dw, mut db) = (new(gates.len()), new(4 * h * h), new(4 * h));
        let (mut dh0, mut dc0) = (new(b * h), new(b * h));
        let (out_b, [dy, dh_n, dc_n]) = (Some(&mut db[..]), d);
        backward(
            &mut dgx, &mut dw, out_b, &mut dh0, &mut dc0, dy, dh_n, dc_n, &y, &c, &gates, &x[1],
            &x[3], &x[4], t, b, h, reverse,
        );
        [y, dgx, dw, db, dh0, dc0]
    }

    #[test]
    fn follows_the_formulas_in_every_shape() {
        for (i, shape) in SHAPES.into_iter().enumerate() {
            let ((t, b, h), reverse) = (shape, i % 2 == 0);
            let x = inputs(shape, 4, 2);
            let dy = numbers(t * b * h, 1.0, 8);
            let (dh_n, dc_n) = (numbers(b * h, 1.0, 9), numbers(b * h, 1.0, 10));
            let loss = |x: &[Vec<f64>]| {
                let [y, h_n, c_n] = plain(x, shape, reverse);
                dot(&y, &dy) + dot(&h_n, &dh_n) + dot(&c_n, &dc_n)
            };
            let got = ours(&x, [Some(&dy), Some(&dh_n), Some(&dc_n)], shape, reverse);
            close(&got[0], &plain(&x, shape, reverse)[0], 1e-12);
            if h <= 17 {
                (0..5).for_each(|i| close(&got[i + 1], &slope(&x, i, loss), 1e-7));
            }
            let x32: Vec<Vec<f32>> = x.iter().map(|x| narrow(x)).collect();
            let [dy, dh_n, dc_n] = [dy, dh_n, dc_n].map(|d| narrow(&d));
            let single = ours(&x32, [Some(&dy), Some(&dh_n), Some(&dc_n)], shape, reverse);
            (0..6).for_each(|i| close(&single[i], &got[i], 2e-5));
        }
    }

    #[test]
    fn missing_gradients_count_as_zero() {
        let x = inputs((3, 2, 5), 4, 2);
        let (dy, d, none) = (numbers(30, 1.0, 8), numbers(10, 1.0, 9), [0.0; 30]);
        let (zero, all) = (Some(&none[..10]), Some(&none[..]));
        let got = ours(&x, [Some(&dy), None, None], (3, 2, 5), false);
        assert_eq!(got, ours(&x, [Some(&dy), zero, zero], (3, 2, 5), false));
        let got = ours(&x, [None, None, Some(&d)], (3, 2, 5), true);
        assert_eq!(got, ours(&x, [all, zero, Some(&d)], (3, 2, 5), true));
    }

    #[test]
    fn one_step_at_a_time_gives_the_bits_of_the_whole_sequence() {
        let (t, b, h) = (20, 2, 33);
        let x: Vec<Vec<f32>> = inputs((t, b, h), 4, 2).iter().map(|x| narrow(x)).collect();
        let run = |gx: &[f32], h0: &[f32], c0: &[f32], t| {
            let (mut y, mut c) = (vec![0.0; t * b * h], vec![0.0; t * b * h]);
            let (mut gates, w, bias) = (vec![0.0; t * b * 4 * h], &x[1], Some(&x[2][..]));
            forward(&mut y, &mut c, &mut gates, gx, w, bias, h0, c0, t, b, h, false);
            (y, c)
        };
        let (whole, _) = run(&x[0], &x[3], &x[4], t);
        let (mut state, mut cell, mut steps) = (x[3].clone(), x[4].clone(), Vec::new());
        for gx in x[0].chunks(b * 4 * h) {
            (state, cell) = run(gx, &state, &cell, 1);
            steps.extend_from_slice(&state);
        }
        assert_eq!(steps, whole);
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        // W_hh cut by rows of the batch, and one so large that it is cut by its columns.
        for shape in [(4, 37, 50), (2, 19, 260)] {
            let (t, b, h) = shape;
            let x: Vec<Vec<f32>> = inputs(shape, 4, 2).iter().map(|x| narrow(x)).collect();
            let dy = narrow(&numbers(t * b * h, 1.0, 8));
            same_bits(|| ours(&x, [Some(&dy), None, None], shape, true).concat());
        }
    }
}
