//! Causal attention of one head: `O = softmax(Q Kᵀ / √D + mask) V`, q, k, v and O `[T, D]`.
//!
//! Half of T² scores are used, and none of them is wanted in the end.

use std::sync::Arc;

use super::{Cost, Ladder, Rung, normal};
use crate::bench::reference;
use crate::cpu::attention::{self, Options, Shape, Strides};
use crate::cpu::gemm::Precision;
use crate::cpu::simd::{Kernel, LANES, Real, Vector};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    t: usize,
    d: usize,
}

pub(super) fn ladder(t: usize, d: usize) -> Result<Ladder> {
    let inputs =
        Arc::new(Inputs { q: normal(t * d, 1)?, k: normal(t * d, 2)?, v: normal(t * d, 3)?, t, d });
    let wide = |x: &[f32]| Tensor::from_slice(x, [t, d])?.to_dtype(DType::F64);
    let (q, k, v) = (wide(&inputs.q)?, wide(&inputs.k)?, wide(&inputs.v)?);
    let size = 4.0 * (t * d) as f64;
    let rung = |name, idea, f: fn(&mut [f32], &Inputs)| {
        let inputs = inputs.clone();
        Rung::new(name, idea, move |o| f(o, &inputs))
    };
    Ok(Ladder {
        problem: format!("causal attention of one head, forward, T = {t}, D = {d}, f32"),
        // Two products over half of the scores.
        cost: Cost::flops(2.0 * (t * t * d) as f64, 3.0 * size, size),
        want: reference::causal_attention(&q, &k, &v)?.to_f64_vec()?,
        tolerance: 1e-5,
        rungs: vec![
            rung("v1 naive", "all scores, masked, then softmax, then times V", naive),
            rung("v2 row by row", "one row of scores at a time, only those that count", row_by_row),
            rung(
                "v3 transposed keys",
                "all scores of a row at once, no sum to wait for",
                transposed,
            ),
            rung("v4 vectorised by the compiler", "the same, compiled for this machine", compiled),
            rung("v5 ours, one thread", "blocks of queries and keys, running softmax", ours),
            rung("v6 ours, all threads", "pieces of queries to all threads", ours).threaded(),
        ],
    })
}

/// The formula, with T² scores in memory, half of them computed to be thrown away.
fn naive(o: &mut [f32], &Inputs { ref q, ref k, ref v, t, d }: &Inputs) {
    let scale = 1.0 / (d as f32).sqrt();
    let mut scores = vec![0.0; t * t];
    for i in 0..t {
        for j in 0..t {
            let dot: f32 = (0..d).map(|c| q[i * d + c] * k[j * d + c]).sum();
            scores[i * t + j] = if j <= i { dot * scale } else { f32::NEG_INFINITY };
        }
    }
    for row in scores.chunks_mut(t) {
        softmax(row);
    }
    for i in 0..t {
        for c in 0..d {
            o[i * d + c] = (0..t).map(|j| scores[i * t + j] * v[j * d + c]).sum();
        }
    }
}

fn softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// Query i needs i + 1 scores, and only for itself: half the work, and T numbers instead of T². The product
/// with V goes along its rows.
fn row_by_row(o: &mut [f32], &Inputs { ref q, ref k, ref v, t, d }: &Inputs) {
    let scale = 1.0 / (d as f32).sqrt();
    let mut scores = vec![0.0; t];
    for (i, o) in o.chunks_mut(d).enumerate() {
        let (q, scores) = (&q[i * d..][..d], &mut scores[..=i]);
        for (score, k) in scores.iter_mut().zip(k.chunks(d)) {
            *score = scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        }
        softmax(scores);
        add_rows(o, scores, v, d);
    }
}

/// `o = Σ p[j] · (row j of v)`.
#[inline(always)]
fn add_rows(o: &mut [f32], p: &[f32], v: &[f32], stride: usize) {
    o.fill(0.0);
    for (j, &p) in p.iter().enumerate() {
        let v = &v[j * stride..][..o.len()];
        for (o, &v) in o.iter_mut().zip(v) {
            *o += p * v;
        }
    }
}

/// With Kᵀ at hand a row of scores is a sum of rows, `Σ q[c] · (row c of Kᵀ)`, as the product with V is: no
/// sum across a vector anywhere.
fn transposed(o: &mut [f32], inputs: &Inputs) {
    over_rows(o, inputs, &transpose(inputs));
}

/// Kᵀ, `[D, T]`.
fn transpose(&Inputs { ref k, t, d, .. }: &Inputs) -> Vec<f32> {
    (0..d * t).map(|at| k[at % t * d + at / t]).collect()
}

#[inline(always)]
fn over_rows(o: &mut [f32], &Inputs { ref q, ref v, t, d, .. }: &Inputs, keys: &[f32]) {
    let scale = 1.0 / (d as f32).sqrt();
    let (mut scores, mut scaled) = (vec![0.0; t + LANES], vec![0.0; d]);
    for (i, o) in o.chunks_mut(d).enumerate() {
        for (scaled, q) in scaled.iter_mut().zip(&q[i * d..]) {
            *scaled = q * scale;
        }
        let scores = &mut scores[..=i];
        add_rows(scores, &scaled, keys, t);
        softmax(scores);
        add_rows(o, scores, v, d);
    }
}

/// [`transposed`] with all instructions of this machine; what is left of the time is the library's `exp`.
fn compiled(o: &mut [f32], inputs: &Inputs) {
    let keys = transpose(inputs);
    f32::dispatch(Compiled { o, inputs, keys: &keys });
}

struct Compiled<'a> {
    o: &'a mut [f32],
    inputs: &'a Inputs,
    keys: &'a [f32],
}

impl Kernel<f32> for Compiled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        over_rows(self.o, self.inputs, self.keys);
    }
}

/// [`crate::cpu::attention`]: scores of 32 queries and a block of keys as a product of matrices that stays
/// in the cache, with the maximum and the sum carried along.
fn ours(o: &mut [f32], &Inputs { ref q, ref k, ref v, t, d }: &Inputs) {
    let strides = Strides { batch: t * d, head: t * d, row: d };
    let shape = Shape { batch: 1, heads: 1, tq: t, tk: t, d };
    let scale = 1.0 / (d as f64).sqrt();
    let (dropout, precision) = (None, Precision::Highest);
    let options = Options { causal: true, key_padding: None, scale, dropout, precision };
    let mut lse = vec![0.0; t];
    attention::forward(o, strides, &mut lse, q, strides, k, strides, v, strides, &shape, &options);
}
