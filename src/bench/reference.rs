//! What the right answer is: the formulae in `f64`.
//!
//! A fused kernel is compared with its formula written out in primitive operations (`exp`, `matmul`,
//! `sum`, …) on `f64` tensors; its gradients with those that the tape makes of them. The
//! primitives are not measured here and have tests of their own against finite differences. Sums of
//! products are plain loops over slices.

use crate::error::Result;
use crate::ops::{cat, where_};
use crate::tensor::{DType, Tensor};

/// The largest difference between `got` and `want` (any dtype), relative to the largest value of
/// `want`.
///
/// # Errors
/// When the shapes differ.
pub fn distance(got: &Tensor, want: &Tensor) -> Result<f64> {
    // The subtraction refuses other shapes.
    let difference = got.detach().to_dtype(DType::F64)?.sub(&want.detach())?.to_f64_vec()?;
    Ok(largest(&difference) / largest(&want.to_f64_vec()?).max(f64::MIN_POSITIVE))
}

/// The largest of several distances.
///
/// # Errors
/// As [`distance`].
pub fn distances(got: &[Tensor], want: &[Tensor]) -> Result<f64> {
    assert_eq!(got.len(), want.len(), "a reference for each output");
    got.iter().zip(want).try_fold(0.0, |most, (got, want)| Ok(larger(most, distance(got, want)?)))
}

/// The largest magnitude; NaN where there is one.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| larger(most, x.abs()))
}

/// The larger of two; NaN where one is, which `f64::max` would pass over.
fn larger(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

/// `f64` copies to compute a reference from, tracked: gradients can be asked of them.
///
/// # Errors
/// When memory cannot be had.
pub fn leaves(tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    let leaf = |x: &&Tensor| x.detach().to_dtype(DType::F64)?.requires_grad_();
    tensors.iter().map(leaf).collect()
}

/// The gradients of `y` with respect to `leaves`, for the gradient `dy` (any dtype).
///
/// # Errors
/// When a leaf has no part in y.
pub fn gradients(y: &Tensor, dy: &Tensor, leaves: &[Tensor]) -> Result<Vec<Tensor>> {
    y.backward_with(dy.to_dtype(y.dtype())?)?;
    let missing = || crate::Error::Failed("a reference lost a gradient".into());
    leaves.iter().map(|leaf| leaf.take_grad().ok_or_else(missing)).collect()
}

/// Rows and columns of a matrix product that are looked at: with them each tile of the result is
/// crossed in both directions. (The unit tests look at every element of smaller ones.)
const LINES: usize = 8;

/// How far `c` is from A B, with element (i, j) of A at `a(i, j)` and so on. Sums run in `f64`.
pub fn product_distance(
    c: &[f64],
    (m, n, k): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> f64 {
    let (mut difference, mut size): (f64, f64) = (0.0, 0.0);
    let mut line = |want: &[f64], got: &mut dyn FnMut(usize) -> f64| {
        for (at, &want) in want.iter().enumerate() {
            difference = larger(difference, (got(at) - want).abs());
            size = size.max(want.abs());
        }
    };
    let some = |count: usize| {
        let lines = LINES.min(count);
        (0..lines).map(move |l| if lines == 1 { 0 } else { l * (count - 1) / (lines - 1) })
    };
    for i in some(m) {
        let mut row = vec![0.0; n];
        for p in 0..k {
            let x = a(i, p);
            for (j, sum) in row.iter_mut().enumerate() {
                *sum += x * b(p, j);
            }
        }
        line(&row, &mut |j| c[i * n + j]);
    }
    for j in some(n) {
        let column: Vec<f64> =
            (0..m).map(|i| (0..k).map(|p| a(i, p) * b(p, j)).sum::<f64>()).collect();
        line(&column, &mut |i| c[i * n + j]);
    }
    difference / size.max(f64::MIN_POSITIVE)
}

/// `(x − mean) / √(variance + ε) · w + b` of rows.
///
/// # Errors
/// When shapes do not fit; so for all below.
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.sub(&x.mean(&[-1], true)?)?;
    let variance = centred.mul(&centred)?.mean(&[-1], true)?;
    centred.div(&variance.add_scalar(eps)?.sqrt()?)?.mul(w)?.add(b)
}

/// `eˣ / Σ eˣ` of rows, after taking off their maximum.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.sub(&x.detach().max(-1, true)?.0)?.exp()?;
    e.div(&e.sum(&[-1], true)?)
}

/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let cubic = x.mul(x)?.mul(x)?.mul_scalar(0.044715)?;
    let inner = x.add(&cubic)?.mul_scalar((2.0 / std::f64::consts::PI).sqrt())?;
    x.mul_scalar(0.5)?.mul(&inner.tanh()?.add_scalar(1.0)?)
}

/// The mean over rows of `ln Σ eˣ − x_target`; targets are `[rows]`.
pub fn cross_entropy(x: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let shifted = x.sub(&x.detach().max(-1, true)?.0)?;
    let lse = shifted.exp()?.sum(&[-1], true)?.log()?;
    lse.sub(&shifted.gather(-1, &targets.unsqueeze(-1)?)?)?.mean_all()
}

/// Causal attention of one head: q, k, v `[T, D]`.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (t, d) = (q.shape()[0], q.shape()[1]);
    let scores = q.matmul(&k.t()?)?.mul_scalar(1.0 / (d as f64).sqrt())?;
    let future: Vec<u32> = (0..t * t).map(|at| u32::from(at % t > at / t)).collect();
    let future = Tensor::from_slice(&future, [t, t])?;
    // A finite number: −∞ − (−∞) would be NaN, and e^(−10⁴) is 0 as well.
    let hidden = Tensor::full([t, t], -1e4, scores.dtype())?;
    softmax(&where_(&future, &hidden, &scores)?)?.matmul(v)
}

/// Which recurrence, and its weights as `torch.nn` has them: `[gates · H, …]`.
pub struct Recurrence<'a> {
    /// How many gates: 1 (RNN, tanh), 3 (GRU: r, z, n), 4 (LSTM: i, f, g, o).
    pub gates: usize,
    /// `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
    pub weights: &'a [Tensor],
}

impl Recurrence<'_> {
    /// The outputs `[B, T, H]` for x `[B, T, I]` from a state of zeros.
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        let [w_ih, w_hh, b_ih, b_hh] = self.weights else {
            return Err(crate::Error::Failed("a recurrence has four weights".into()));
        };
        let (b, t, h) = (x.shape()[0], x.shape()[1], w_hh.shape()[1]);
        let gx = x.matmul(&w_ih.t()?)?.add(b_ih)?;
        let mut state = Tensor::zeros([b, h], x.dtype())?;
        let mut cell = state.clone();
        let mut outputs = Vec::new();
        for step in 0..t {
            let from_x = gx.select(1, step)?;
            let from_h = state.matmul(&w_hh.t()?)?.add(b_hh)?;
            let both = from_x.add(&from_h)?;
            let gate = |z: &Tensor, i: usize| z.narrow(-1, i * h, h);
            state = match self.gates {
                1 => both.tanh()?,
                3 => {
                    let (r, z) = (gate(&both, 0)?.sigmoid()?, gate(&both, 1)?.sigmoid()?);
                    let n = gate(&from_x, 2)?.add(&r.mul(&gate(&from_h, 2)?)?)?.tanh()?;
                    n.add(&z.mul(&state.sub(&n)?)?)?
                }
                _ => {
                    let [i, f, o] = [0, 1, 3].map(|at| gate(&both, at).and_then(|z| z.sigmoid()));
                    cell = f?.mul(&cell)?.add(&i?.mul(&gate(&both, 2)?.tanh()?)?)?;
                    o?.mul(&cell.tanh()?)?
                }
            };
            outputs.push(state.unsqueeze(1)?);
        }
        cat(&outputs.iter().collect::<Vec<_>>(), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_seen_and_nan_is_not_lost() {
        let a = [[1.0, 2.0], [3.0, 4.0]];
        let b = [[5.0, 6.0], [7.0, 8.0]];
        let at = |m: [[f64; 2]; 2]| move |i: usize, j: usize| m[i][j];
        let right = [19.0, 22.0, 43.0, 50.0];
        assert_eq!(product_distance(&right, (2, 2, 2), at(a), at(b)), 0.0);
        let wrong = [19.0, 22.0, 43.0, 55.0];
        assert_eq!(product_distance(&wrong, (2, 2, 2), at(a), at(b)), 0.1);
        let nan = [19.0, f64::NAN, 43.0, 50.0];
        assert!(product_distance(&nan, (2, 2, 2), at(a), at(b)).is_nan());
        assert!(largest(&[1.0, f64::NAN, 2.0]).is_nan());
    }
}
