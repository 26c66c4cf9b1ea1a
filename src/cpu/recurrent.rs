//! What the three recurrences share: the order of steps, the cut of the batch, the sums over time.
//!
//! # How a sequence is computed
//!
//! All of x W_ihᵀ is one large product before the sequence begins, and dW_hh is one after it has ended.
//! What has to happen step by step is `h_{t−1} W_hhᵀ`: a small product with the same matrix every time. So
//! W_hh is packed once ([`Weights`]), and the rows of the batch, which never meet, are cut into slices, one
//! for each thread. A thread takes a slice through all of time without waiting for the others:
//!
//! ```text
//!            t = 0      1      2   …
//! slice 0   [product, gates] [product, gates] …      thread 0
//! slice 1   [product, gates] [product, gates] …      thread 1
//! ```
//!
//! Each slice reads all of W_hh at every step. That is well as long as it stays in a core's second cache. A larger one
//! (4 MB are 512 units of an LSTM) is cut by its columns instead: the batch is one slice, all threads meet at every
//! step, and each reads its part of W_hh only:
//!
//! ```text
//! t = 0   [product, columns 0 ..] | [gates, rows 0 ..]      thread 0
//!         [product, columns n ..] | [gates, rows m ..]      thread 1
//! ```
//!
//! No sum crosses slices or columns, so the bits depend on neither.

use super::gemm::{Epilogue, Mat, Panels, gemm};
use super::reduce::{self, Reduce};
use super::simd::{Real, Strip, for_pieces};
use super::threads;

/// Rows of a slice at most: what a slice writes in a step should stay in the first cache.
const SLICE: usize = 32;

/// Bytes of W_hh that a core's second cache holds, beside what else passes through it.
const NEAR: usize = 1 << 20;

/// Rows whose gates are one piece of work where all threads meet at every step.
const GATE_ROWS: usize = 8;

/// The shape of a sequence and the order of its steps.
#[derive(Clone, Copy)]
pub(super) struct Sequence {
    /// Steps.
    pub(super) t: usize,
    /// Rows of the batch.
    pub(super) b: usize,
    /// Hidden units.
    pub(super) h: usize,
    /// Gates of a unit, as W_hh has them.
    gates: usize,
    /// Whether the last step of time comes first.
    pub(super) reverse: bool,
    /// Rows of a slice of the batch.
    pub(super) slice: usize,
}

impl Sequence {
    /// A sequence of `t` steps of `b` rows with W_hh `[gates · h, h]` of T, cut for the threads that are here.
    pub(super) fn new<T>(t: usize, b: usize, h: usize, gates: usize, reverse: bool) -> Sequence {
        let slice = if gates * h * h * size_of::<T>() > NEAR {
            b.max(1)
        } else {
            b.div_ceil(rayon::current_num_threads()).next_multiple_of(4).clamp(4, SLICE)
        };
        Sequence { t, b, h, gates, reverse, slice }
    }

    /// The time of step `i`, and the time of the step before it.
    pub(super) fn times(&self, i: usize) -> (usize, Option<usize>) {
        let time = |i: usize| if self.reverse { self.t - 1 - i } else { i };
        (time(i), i.checked_sub(1).map(time))
    }

    /// How many slices there are; none where there is nothing to compute.
    pub(super) fn slices(&self) -> usize {
        if self.h == 0 { 0 } else { self.b.div_ceil(self.slice) }
    }

    /// The rows of the batch in slice `i`.
    pub(super) fn rows(&self, i: usize) -> std::ops::Range<usize> {
        i * self.slice..self.b.min((i + 1) * self.slice)
    }

    /// Of x `[t, b, width]` the rows of a slice at time `time`.
    pub(super) fn part<'a, T>(
        &self,
        x: &'a [T],
        time: usize,
        rows: &std::ops::Range<usize>,
        width: usize,
    ) -> &'a [T] {
        part(&x[time * self.b * width..], rows, width)
    }

    /// What the steps cost, in simple element operations.
    pub(super) fn work(&self) -> usize {
        self.t * self.b * self.gates * self.h * (self.h / 16 + 8)
    }

    /// Calls `f(rows, pieces)` for some rows of a slice after the other, side by side where no other slice is at work;
    /// the outputs are `[rows of the slice, width]`.
    pub(super) fn each_rows<T: Real, const N: usize>(
        &self,
        rows: usize,
        outputs: [(&mut [T], usize); N],
        f: impl Fn(std::ops::Range<usize>, [&mut [T]; N]) + Sync + Send,
    ) {
        let work = rows * self.gates * self.h * 8;
        if !threads::worth_it(work) {
            return f(0..rows, outputs.map(|(data, _)| data));
        }
        let outputs = outputs.map(|(data, width)| (data, GATE_ROWS * width));
        for_pieces(outputs, rows.div_ceil(GATE_ROWS), work, |i, pieces| {
            f(i * GATE_ROWS..rows.min((i + 1) * GATE_ROWS), pieces);
        });
    }

    /// `dw = Σ_t dz_tᵀ h_{t−1}`: dz is `[t, b, dz_row]`, of which the first `gates · h` columns count,
    /// y `[t, b, h]` the states after each step, h0 `[b, h]` the one before the first.
    pub(super) fn weight_gradient<T: Real>(
        &self,
        dw: &mut [T],
        gates: usize,
        (dz, dz_row): (&[T], usize),
        y: &[T],
        h0: &[T],
    ) {
        let Sequence { t, b, h, reverse, .. } = *self;
        let (m, later) = (gates * h, t.saturating_sub(1));
        // In time, y lies one step before dz, or after it in reverse.
        let (dz_from, y_from) = if reverse { (0, 1) } else { (1, 0) };
        let across = |from: usize| Mat {
            data: dz.get(from * b * dz_row..).unwrap_or(&[]),
            row_stride: 1,
            col_stride: dz_row,
        };
        let down = |data| Mat { data, row_stride: h, col_stride: 1 };
        let states = down(y.get(y_from * b * h..).unwrap_or(&[]));
        gemm(dw, h, across(dz_from), states, m, h, later * b, false, Epilogue::None);
        if t > 0 {
            let first = if reverse { t - 1 } else { 0 };
            gemm(dw, h, across(first), down(h0), m, h, b, true, Epilogue::None);
        }
    }
}

/// Rows that have to meet a matrix before packing it pays.
const PACK_FROM: usize = 16;

/// A part of W_hh as the right-hand side of the products of all steps.
pub(super) enum Weights<'a, T> {
    /// Packed once for the whole sequence.
    Packed(Panels<'a, T>),
    /// As it lies, for a step or two: one word after the other out of a language model.
    Plain(Mat<'a, T>, usize, usize),
}

impl<'a, T: Real> Weights<'a, T> {
    /// Elements of room that [`Weights::new`] needs for a matrix `[k, n]`.
    pub(super) fn room(sequence: &Sequence, k: usize, n: usize) -> usize {
        if sequence.t * sequence.b < PACK_FROM { 0 } else { Panels::<T>::room(k, n) }
    }

    /// W_hhᵀ of `w` `[gates · h, h]`, for `h W_hhᵀ`: h rows and `gates · h` columns.
    pub(super) fn forward(
        room: &'a mut [T],
        sequence: &Sequence,
        w: &'a [T],
        gates: usize,
    ) -> Self {
        let h = sequence.h;
        Weights::new(room, sequence, Mat { data: w, row_stride: 1, col_stride: h }, h, gates * h)
    }

    /// `gates` gates of W_hh from `first` on, for `dz W_hh`: `gates · h` rows and h columns.
    pub(super) fn backward(
        room: &'a mut [T],
        sequence: &Sequence,
        w: &'a [T],
        first: usize,
        gates: usize,
    ) -> Self {
        let h = sequence.h;
        let w = matrix(&w[first * h * h..(first + gates) * h * h], h);
        Weights::new(room, sequence, w, gates * h, h)
    }

    fn new(room: &'a mut [T], sequence: &Sequence, b: Mat<'a, T>, k: usize, n: usize) -> Self {
        if sequence.t * sequence.b < PACK_FROM {
            Weights::Plain(b, k, n)
        } else {
            Weights::Packed(Panels::pack(room, b, k, n))
        }
    }

    /// `c = a W`, or `c += a W` with `add`, for `m` rows of a; c has as many columns as W.
    pub(super) fn product(&self, c: &mut [T], a: Mat<'_, T>, m: usize, add: bool) {
        match *self {
            Weights::Packed(panels) => panels.product(c, a, m, add),
            Weights::Plain(b, k, n) => gemm(c, n, a, b, m, n, k, add, Epilogue::None),
        }
    }
}

/// A row-major matrix with rows of `row` elements.
pub(super) fn matrix<T>(data: &[T], row: usize) -> Mat<'_, T> {
    Mat { data, row_stride: row, col_stride: 1 }
}

/// The state before step time `t` (for reading) and the place of the state after it (for writing).
pub(super) fn states<'a, T>(
    strip: &'a mut Strip<'_, T>,
    initial: &'a [T],
    (t, before): (usize, Option<usize>),
) -> (&'a [T], &'a mut [T]) {
    match before {
        Some(before) => strip.two_rows(before, t),
        None => (initial, strip.row(t)),
    }
}

/// Some rows of a matrix `[…, width]`.
pub(super) fn part<'a, T>(x: &'a [T], rows: &std::ops::Range<usize>, width: usize) -> &'a [T] {
    &x[rows.start * width..rows.end * width]
}

/// A gradient that may not have come: 0 then.
pub(super) fn start<T: Real>(carry: &mut [T], arrived: Option<&[T]>) {
    match arrived {
        Some(arrived) => carry.copy_from_slice(arrived),
        None => carry.fill(T::ZERO),
    }
}

/// `db = Σ_t dz_t`, over rows of `db.len()` columns.
pub(super) fn bias_gradient<T: Real>(db: &mut [T], dz: &[T]) {
    let cols = db.len();
    reduce::forward(Reduce::Sum, db, None, dz, 1, dz.len() / cols.max(1), cols);
}

#[cfg(test)]
pub(super) mod testing {
    //! What the tests of the three recurrences share.

    use crate::cpu::rows::testing::numbers;

    /// Shapes (t, b, h), ragged and empty ones among them.
    pub(crate) const SHAPES: [(usize, usize, usize); 9] = [
        (3, 2, 3),
        (1, 1, 1),
        (4, 5, 17),
        (2, 33, 5),
        (2, 3, 40),
        (0, 2, 3),
        (3, 0, 4),
        (2, 2, 0),
        (2, 1, 16),
    ];

    pub(crate) fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// `W h + b` for W `[gates · h, h]`, b of that size, and one state.
    pub(crate) fn affine(w: &[f64], bias: &[f64], state: &[f64]) -> Vec<f64> {
        let row = |i: usize| &w[i * state.len()..(i + 1) * state.len()];
        let dot = |i: usize| row(i).iter().zip(state).map(|(w, h)| w * h).sum::<f64>();
        (0..bias.len()).map(|i| bias[i] + dot(i)).collect()
    }

    /// Runs `step(time, batch, states before) -> states after` over a sequence. Returns the first state
    /// at all times, `[t, b, h]`, and all states after the last step, each `[b, h]`.
    pub(crate) fn unroll<const N: usize>(
        (t, b, h): (usize, usize, usize),
        initial: [&[f64]; N],
        reverse: bool,
        step: impl Fn(usize, usize, [&[f64]; N]) -> [Vec<f64>; N],
    ) -> (Vec<f64>, [Vec<f64>; N]) {
        let mut y = vec![0.0; t * b * h];
        let mut last = initial.map(<[f64]>::to_vec);
        for i in 0..t {
            let time = if reverse { t - 1 - i } else { i };
            for row in 0..b {
                let part = row * h..(row + 1) * h;
                let after = step(time, row, last.each_ref().map(|s| &s[part.clone()]));
                y[time * b * h..][part.clone()].copy_from_slice(&after[0]);
                for (last, after) in last.iter_mut().zip(after) {
                    last[part.clone()].copy_from_slice(&after);
                }
            }
        }
        (y, last)
    }

    /// The gradient of `loss` with respect to input `i`, by central differences.
    pub(crate) fn slope(
        inputs: &[Vec<f64>],
        i: usize,
        loss: impl Fn(&[Vec<f64>]) -> f64,
    ) -> Vec<f64> {
        let mut inputs = inputs.to_vec();
        (0..inputs[i].len())
            .map(|j| {
                let x = inputs[i][j];
                let mut at = |x| {
                    inputs[i][j] = x;
                    loss(&inputs)
                };
                let slope = (at(x + 1e-5) - at(x - 1e-5)) / 2e-5;
                at(x);
                slope
            })
            .collect()
    }

    /// gx, w, bias and `states` initial states for a recurrence with so many gates.
    pub(crate) fn inputs(
        (t, b, h): (usize, usize, usize),
        gates: usize,
        states: usize,
    ) -> Vec<Vec<f64>> {
        let mut inputs = vec![
            numbers(t * b * gates * h, 1.5, 1),
            numbers(gates * h * h, 1.0 / (h as f64).sqrt().max(1.0), 2),
            numbers(gates * h, 0.5, 3),
        ];
        inputs.extend((0..states).map(|i| numbers(b * h, 0.9, 4 + i as u64)));
        inputs
    }

    pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }
}
