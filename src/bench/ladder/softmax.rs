//! `y = eˣ / Σ eˣ` of rows.
//!
//! Eight bytes of traffic an element; whether memory or the exponential is the slower part is the question.

use std::sync::Arc;

use super::{Cost, Ladder, Rung, normal};
use crate::bench::reference;
use crate::cpu::simd::{Kernel, LANES, Real, Vector};
use crate::cpu::softmax;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

pub(super) fn ladder(rows: usize, cols: usize) -> Result<Ladder> {
    let x = Arc::new(normal(rows * cols, 1)?);
    let wide = Tensor::from_slice(&x, [rows, cols])?.to_dtype(DType::F64)?;
    let size = 4.0 * (rows * cols) as f64;
    let rung = |name, idea, f: fn(&mut [f32], &[f32], usize)| {
        let x = x.clone();
        Rung::new(name, idea, move |y| f(y, &x, cols))
    };
    Ok(Ladder {
        problem: format!("softmax of rows, {rows} x {cols}, f32"),
        cost: Cost::bytes(size, size, 2.0 * size),
        want: reference::softmax(&wide)?.to_f64_vec()?,
        tolerance: 1e-5,
        rungs: vec![
            rung("v1 naive", "maximum, exponentials, sum, division", naive),
            rung("v2 online", "maximum and sum in one pass", online),
            rung("v3 no library", "the exponential as a polynomial, inlined", polynomial),
            rung("v4 vectorised by the compiler", "the same, compiled for this machine", compiled),
            rung("v5 ours, one thread", "sixteen lanes, four sums at once", ours),
            rung("v6 ours, all threads", "rows to all threads", ours).threaded(),
        ],
    })
}

/// Four passes, each an obvious loop. `exp` is a call for every element.
fn naive(y: &mut [f32], x: &[f32], cols: usize) {
    for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - most).exp();
        }
        let sum: f32 = y.iter().sum();
        for y in y {
            *y /= sum;
        }
    }
}

/// When a new maximum turns up, the sum so far is scaled to it (Milakov and Gimelshein 2018). A pass less,
/// but a chain in which each step waits for the one before: slower here, and what makes attention
/// without a T × T matrix possible.
fn online(y: &mut [f32], x: &[f32], cols: usize) {
    for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
        let (mut most, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        for &x in x {
            if x > most {
                sum *= (most - x).exp();
                most = x;
            }
            sum += (x - most).exp();
        }
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - most).exp() / sum;
        }
    }
}

/// eˣ = 2ⁿ eʳ with n = round(x / ln 2) and |r| ≤ ln 2 / 2, and a polynomial for eʳ. No call, no branch:
/// something that can be done to several elements at once.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    // Adding and taking off 1.5 · 2²³ rounds to a whole number.
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * std::f32::consts::LN_2;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0)))));
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// [`naive`] with that exponential, and sums in sixteen lanes: a single sum would have to be added up in
/// order, since float addition is not associative.
#[inline(always)]
fn polynomial(y: &mut [f32], x: &[f32], cols: usize) {
    for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
        let mut most = [f32::NEG_INFINITY; LANES];
        for x in x.chunks_exact(LANES) {
            for lane in 0..LANES {
                most[lane] = if x[lane] > most[lane] { x[lane] } else { most[lane] };
            }
        }
        let most = most.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0; LANES];
        for (y, x) in y.chunks_exact_mut(LANES).zip(x.chunks_exact(LANES)) {
            for lane in 0..LANES {
                y[lane] = exp(x[lane] - most);
                sums[lane] += y[lane];
            }
        }
        let share = 1.0 / sums.iter().sum::<f32>();
        for y in y {
            *y *= share;
        }
    }
}

/// [`polynomial`] with all instructions of this machine.
fn compiled(y: &mut [f32], x: &[f32], cols: usize) {
    f32::dispatch(Compiled { y, x, cols });
}

struct Compiled<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    cols: usize,
}

impl Kernel<f32> for Compiled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        polynomial(self.y, self.x, self.cols);
    }
}

/// [`crate::cpu::softmax`]: rows of any length, an exponential that is right to the last bit or two.
fn ours(y: &mut [f32], x: &[f32], cols: usize) {
    softmax::forward(y, x, x.len() / cols, cols);
}
