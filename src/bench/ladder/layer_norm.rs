//! `y = (x − μ) / √(σ² + ε) · w + b` of rows.
//!
//! A few operations an element: as soon as the sums are no chain, memory sets the pace.

use std::sync::Arc;

use super::{Cost, Ladder, Rung, normal};
use crate::bench::reference;
use crate::cpu::gemm::Output;
use crate::cpu::layer_norm;
use crate::cpu::simd::{Kernel, LANES, Real, Vector};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

const EPS: f32 = 1e-5;

struct Inputs {
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
}

pub(super) fn ladder(rows: usize, cols: usize) -> Result<Ladder> {
    let inputs =
        Arc::new(Inputs { x: normal(rows * cols, 1)?, w: normal(cols, 2)?, b: normal(cols, 3)? });
    let wide = |x: &[f32]| Tensor::from_slice(x, [x.len() / cols, cols])?.to_dtype(DType::F64);
    let (x, w, b) = (wide(&inputs.x)?, wide(&inputs.w)?, wide(&inputs.b)?);
    let size = 4.0 * (rows * cols) as f64;
    let rung = |name, idea, f: fn(&mut [f32], &Inputs)| {
        let inputs = inputs.clone();
        Rung::new(name, idea, move |y| f(y, &inputs))
    };
    Ok(Ladder {
        problem: format!("layer norm of rows, {rows} x {cols}, f32"),
        cost: Cost::bytes(size, size, 2.0 * size),
        want: reference::layer_norm(&x, &w, &b, EPS as f64)?.to_f64_vec()?,
        tolerance: 1e-5,
        rungs: vec![
            rung("v1 naive", "mean, variance, result: three loops over all rows", naive),
            rung("v2 row by row", "all three loops while the row is in the cache", row_by_row),
            rung("v3 sixteen sums", "sums that need not wait for each other", lanes),
            rung("v4 vectorised by the compiler", "the same, compiled for this machine", compiled),
            rung("v5 ours, one thread", "multiply-adds, mean and 1/deviation kept", ours),
            rung("v6 ours, all threads", "rows to all threads", ours).threaded(),
        ],
    })
}

/// A loop for each line of the formula, the way it is written with array operations: x comes from memory three
/// times.
fn naive(y: &mut [f32], Inputs { x, w, b }: &Inputs) {
    let cols = w.len();
    let mean: Vec<f32> = x.chunks(cols).map(|x| x.iter().sum::<f32>() / cols as f32).collect();
    let variance = |(x, mean): (&[f32], &f32)| {
        x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / cols as f32
    };
    let variance: Vec<f32> = x.chunks(cols).zip(&mean).map(variance).collect();
    for (i, (y, x)) in y.chunks_mut(cols).zip(x.chunks(cols)).enumerate() {
        for j in 0..cols {
            y[j] = (x[j] - mean[i]) / (variance[i] + EPS).sqrt() * w[j] + b[j];
        }
    }
}

/// One row after the other, and one root and division a row.
fn row_by_row(y: &mut [f32], Inputs { x, w, b }: &Inputs) {
    let cols = w.len();
    for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
        let mean = x.iter().sum::<f32>() / cols as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / cols as f32;
        let scale = 1.0 / (variance + EPS).sqrt();
        for j in 0..cols {
            y[j] = (x[j] - mean) * scale * w[j] + b[j];
        }
    }
}

/// The sum of `f` over a row (a multiple of sixteen), in sixteen lanes: an addition takes four cycles, and in one
/// chain each waits for the one before. The compiler may not do this by itself: it changes the rounding.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for x in x.chunks_exact(LANES) {
        for lane in 0..LANES {
            sums[lane] += f(x[lane]);
        }
    }
    sums.iter().sum()
}

/// [`row_by_row`] with such sums.
#[inline(always)]
fn lanes(y: &mut [f32], Inputs { x, w, b }: &Inputs) {
    let cols = w.len();
    for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
        let mean = sum(
            x,
            #[inline(always)]
            |x| x,
        ) / cols as f32;
        let variance = sum(
            x,
            #[inline(always)]
            |x| (x - mean) * (x - mean),
        ) / cols as f32;
        let scale = 1.0 / (variance + EPS).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = (x - mean) * scale * w + b;
        }
    }
}

/// [`lanes`] with all instructions of this machine.
fn compiled(y: &mut [f32], inputs: &Inputs) {
    f32::dispatch(Compiled { y, inputs });
}

struct Compiled<'a> {
    y: &'a mut [f32],
    inputs: &'a Inputs,
}

impl Kernel<f32> for Compiled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        lanes(self.y, self.inputs);
    }
}

/// [`crate::cpu::layer_norm`], which also keeps what the way back needs.
fn ours(y: &mut [f32], Inputs { x, w, b }: &Inputs) {
    let (rows, cols) = (x.len() / w.len(), w.len());
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    layer_norm::forward(
        Output::Own(y),
        &mut mean,
        &mut rstd,
        x,
        Some(w),
        Some(b),
        rows,
        cols,
        EPS as f64,
    );
}
