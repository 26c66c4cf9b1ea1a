//! An LSTM layer, forward, from a state of zeros: x `[T, B, I]`, h `[T, B, H]`.
//!
//! Step t needs the h of step t − 1, so the T products with W_hh cannot be one; everything else can be moved out
//! of the loop.

use std::sync::Arc;

use super::{Cost, Ladder, Rung, normal};
use crate::autograd::no_grad;
use crate::bench::reference::Recurrence;
use crate::cpu::simd::{Kernel, Real, Vector};
use crate::error::Result;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// Weights as `torch.nn.LSTM` has them, gates i, f, g, o below each other.
struct Inputs {
    x: Vec<f32>,
    /// `[4H, I]`
    w_ih: Vec<f32>,
    /// `[4H, H]`
    w_hh: Vec<f32>,
    /// `[4H]`, both biases together.
    bias: Vec<f32>,
    sizes: [usize; 4],
}

pub(super) fn ladder(sizes: [usize; 4]) -> Result<Ladder> {
    let [b, t, i, h] = sizes;
    let small = |n, stream| -> Result<Vec<f32>> {
        let scale = 1.0 / (h as f32).sqrt();
        Ok(normal(n, stream)?.into_iter().map(|x| x * scale).collect())
    };
    let inputs = Arc::new(Inputs {
        x: normal(t * b * i, 1)?,
        w_ih: small(4 * h * i, 2)?,
        w_hh: small(4 * h * h, 3)?,
        bias: small(4 * h, 4)?,
        sizes,
    });
    let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape);
    let x = tensor(&inputs.x, &[t, b, i])?;
    let weights = [
        tensor(&inputs.w_ih, &[4 * h, i])?,
        tensor(&inputs.w_hh, &[4 * h, h])?,
        tensor(&inputs.bias, &[4 * h])?,
        Tensor::zeros(4 * h, DType::F32)?,
    ];
    let wide = weights.iter().map(|w| w.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let want = Recurrence { gates: 4, weights: &wide }
        .run(&x.to_dtype(DType::F64)?.transpose(0, 1)?.contiguous()?)?
        .transpose(0, 1)?
        .to_f64_vec()?;
    let rung = |name, idea, f: fn(&mut [f32], &Inputs)| {
        let inputs = inputs.clone();
        Rung::new(name, idea, move |y| f(y, &inputs))
    };
    let fused = |name, idea| {
        let (x, weights) = (x.clone(), weights.clone());
        Rung::falling(name, idea, move |y| ours(y, &x, &weights))
    };
    let bytes = |n: usize| 4.0 * n as f64;
    Ok(Ladder {
        problem: format!("LSTM layer, forward, B = {b}, T = {t}, I = {i}, H = {h}, f32"),
        cost: Cost::flops(
            2.0 * (t * b * 4 * h * (i + h)) as f64,
            bytes(t * b * i + 4 * h * (i + h)),
            bytes(t * b * h),
        ),
        want,
        tolerance: 1e-4,
        rungs: vec![
            rung("v1 naive", "each gate of each unit by its formula", naive),
            rung("v2 loop order", "weights transposed: along rows, not across", loop_order),
            rung("v3 hoisted", "the products with x before the loop", hoisted),
            rung("v4 vectorised by the compiler", "the same, compiled for this machine", compiled),
            fused("v5 ours, one thread", "matrix products, gates fused with exp of our own"),
            fused("v6 ours, all threads", "rows of the batch to all threads").threaded(),
        ],
    })
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// New c and h of a unit from its four sums.
#[inline(always)]
fn unit([i, f, g, o]: [f32; 4], c: &mut f32) -> f32 {
    *c = sigmoid(f) * *c + sigmoid(i) * g.tanh();
    sigmoid(o) * c.tanh()
}

/// Element (row r) of W x, twice four times a unit.
fn naive(y: &mut [f32], inputs: &Inputs) {
    let Inputs { x, w_ih, w_hh, bias, sizes: [b, t, i, h] } = inputs;
    let (b, t, i, h) = (*b, *t, *i, *h);
    let mut c = vec![0.0; b * h];
    let start = vec![0.0; h];
    let dot = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
    for step in 0..t {
        for row in 0..b {
            for u in 0..h {
                let x = &x[(step * b + row) * i..][..i];
                let before = match step {
                    0 => &start[..],
                    _ => &y[((step - 1) * b + row) * h..][..h],
                };
                let gates = [0, 1, 2, 3].map(|gate| {
                    let r = gate * h + u;
                    bias[r] + dot(&w_ih[r * i..][..i], x) + dot(&w_hh[r * h..][..h], before)
                });
                y[(step * b + row) * h + u] = unit(gates, &mut c[row * h + u]);
            }
        }
    }
}

/// `[rows, cols]` as `[cols, rows]`.
fn transpose(w: &[f32], cols: usize) -> Vec<f32> {
    let rows = w.len() / cols;
    (0..w.len()).map(|at| w[at % rows * cols + at / rows]).collect()
}

/// `z += Σ x[p] · (row p of w)`: no sum across, so several elements of z at a time.
#[inline(always)]
fn add_rows(z: &mut [f32], x: &[f32], w: &[f32]) {
    for (&x, w) in x.iter().zip(w.chunks_exact(z.len())) {
        for (z, &w) in z.iter_mut().zip(w) {
            *z += x * w;
        }
    }
}

/// All four gates of all units of a row of the batch as one vector of 4H sums.
fn loop_order(y: &mut [f32], inputs: &Inputs) {
    let Inputs { x, w_ih, w_hh, bias, sizes: [_, _, i, h] } = inputs;
    let (w_ih, w_hh) = (transpose(w_ih, *i), transpose(w_hh, *h));
    recur(y, inputs, &w_hh, |at, z| {
        z.copy_from_slice(bias);
        add_rows(z, &x[at * i..][..*i], &w_ih);
    });
}

/// The recurrence; `start(at, z)` writes the part of the sums that does not depend on h.
#[inline(always)]
fn recur(y: &mut [f32], inputs: &Inputs, w_hh: &[f32], mut start: impl FnMut(usize, &mut [f32])) {
    let [b, t, _, h] = inputs.sizes;
    let (mut c, mut z) = (vec![0.0; b * h], vec![0.0; 4 * h]);
    for at in 0..t * b {
        start(at, &mut z);
        let (before, now) = y.split_at_mut(at * h);
        if at >= b {
            add_rows(&mut z, &before[(at - b) * h..][..h], w_hh);
        }
        let c = &mut c[at % b * h..][..h];
        for u in 0..h {
            now[u] = unit([z[u], z[h + u], z[2 * h + u], z[3 * h + u]], &mut c[u]);
        }
    }
}

/// `x W_ihᵀ + b` for all steps at once: W_ih passes by once for eight rows instead of once a row, and the loop
/// is left with half the work.
#[inline(always)]
fn hoisted_with(y: &mut [f32], inputs: &Inputs, w_ih: &[f32], w_hh: &[f32]) {
    let [b, t, i, h] = inputs.sizes;
    let mut gx = vec![0.0; t * b * 4 * h];
    for (block, x) in gx.chunks_mut(8 * 4 * h).zip(inputs.x.chunks(8 * i)) {
        for z in block.chunks_exact_mut(4 * h) {
            z.copy_from_slice(&inputs.bias);
        }
        for (p, w) in w_ih.chunks_exact(4 * h).enumerate() {
            for (z, x) in block.chunks_exact_mut(4 * h).zip(x.chunks_exact(i)) {
                add_rows(z, &x[p..=p], w);
            }
        }
    }
    recur(
        y,
        inputs,
        w_hh,
        #[inline(always)]
        |at, z| z.copy_from_slice(&gx[at * 4 * h..][..4 * h]),
    );
}

fn hoisted(y: &mut [f32], inputs: &Inputs) {
    let [_, _, i, h] = inputs.sizes;
    hoisted_with(y, inputs, &transpose(&inputs.w_ih, i), &transpose(&inputs.w_hh, h));
}

/// [`hoisted`] with all instructions of this machine; the library's `exp` and `tanh` stay as they are.
fn compiled(y: &mut [f32], inputs: &Inputs) {
    let [_, _, i, h] = inputs.sizes;
    let (w_ih, w_hh) = (transpose(&inputs.w_ih, i), transpose(&inputs.w_hh, h));
    f32::dispatch(Compiled { y, inputs, w_ih: &w_ih, w_hh: &w_hh });
}

struct Compiled<'a> {
    y: &'a mut [f32],
    inputs: &'a Inputs,
    w_ih: &'a [f32],
    w_hh: &'a [f32],
}

impl Kernel<f32> for Compiled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        hoisted_with(self.y, self.inputs, self.w_ih, self.w_hh);
    }
}

/// [`ops::linear`] for all x, then [`ops::lstm_sequence`]: W_hh packed once for the sequence, the rows of the batch
/// multiplied together, gates in vectors.
fn ours(y: &mut [f32], x: &Tensor, [w_ih, w_hh, b_ih, b_hh]: &[Tensor; 4]) -> Result<()> {
    no_grad(|| {
        let gx = ops::linear(x, w_ih, Some(b_ih))?;
        let start = Tensor::zeros([x.shape()[1], w_hh.shape()[1]], DType::F32)?;
        let (out, _, _) = ops::lstm_sequence(&gx, w_hh, Some(b_hh), &start, &start, false)?;
        y.copy_from_slice(out.as_slice()?);
        Ok(())
    })
}
