//! Attention with the whole matrix of probabilities, one query at a time.

use super::{Array, random};
use handloom::ops::registry::Attrs;

pub fn attention(q: &Array, k: &Array, v: &Array, padding: Option<&Array>, a: &Attrs) -> Array {
    let (batch, heads, tq, d) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3]);
    let tk = k.shape[2];
    let scale = if a.has("scale") { a.float("scale") } else { 1.0 / (d as f64).sqrt() };
    let p = a.float("p");
    // The entry of the registry draws with seed 7, stream 1, step 2.
    let key = random::Key { seed: 7, stream: 1, step: 2 };
    let mut out = Array::zeros(&q.shape);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..tq {
                let seen = |j: usize| {
                    let padded = padding.is_some_and(|m| m.at(&[b, j]) != 0.0);
                    // The queries are the last tq of the tk positions.
                    let future = a.flag("causal") && j > i + (tk - tq);
                    !padded && !future
                };
                let keys: Vec<usize> = (0..tk).filter(|&j| seen(j)).collect();
                if keys.is_empty() {
                    continue; // nothing to look at: zeros
                }
                let score = |&j: &usize| {
                    scale * (0..d).map(|c| q.at(&[b, h, i, c]) * k.at(&[b, h, j, c])).sum::<f64>()
                };
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (&j, s) in keys.iter().zip(&scores) {
                    let probability = (s - largest).exp() / total;
                    // Each query begins a new group of 64 random words.
                    let row = (b * heads + h) * tq + i;
                    let element = (row * tk.next_multiple_of(64) + j) as u64;
                    let factor = if p > 0.0 { random::keep(element, p, key) } else { 1.0 };
                    for c in 0..d {
                        *out.at_mut(&[b, h, i, c]) += factor * probability * v.at(&[b, h, j, c]);
                    }
                }
            }
        }
    }
    out
}

/// The same from q, k and v side by side: `[B, T, 3·H·D]` to `[B, T, H·D]`.
pub fn fused(qkv: &Array, padding: Option<&Array>, a: &Attrs) -> Array {
    let (batch, t, width) = (qkv.shape[0], qkv.shape[1], qkv.shape[2]);
    let heads = a.int("heads") as usize;
    let c = width / 3;
    let d = c / heads;
    let part = |which: usize| {
        Array::build(&[batch, heads, t, d], |i| qkv.at(&[i[0], i[2], which * c + i[1] * d + i[3]]))
    };
    let out = attention(&part(0), &part(1), &part(2), padding, a);
    Array::build(&[batch, t, c], |i| out.at(&[i[0], i[2] / d, i[1], i[2] % d]))
}
