//! The proof of a backward rule: finite differences.
//!
//! For a function `y = f(x)` the Jacobian `∂yᵢ/∂xⱼ` is computed twice: row by row with the backward
//! rules, and column by column as `(f(x + ε eⱼ) − f(x − ε eⱼ)) / 2ε` in double precision. The *full*
//! Jacobian is compared; a random projection of it can hide a wrong entry.

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The step and the tolerances of [`gradcheck`], by default those of PyTorch's `gradcheck`, tightened.
#[derive(Clone, Copy, Debug)]
pub struct GradcheckOptions {
    /// The finite-difference step ε.
    pub eps: f64,
    /// The absolute difference that is always allowed.
    pub atol: f64,
    /// The difference allowed relative to the numerical value.
    pub rtol: f64,
}

impl Default for GradcheckOptions {
    fn default() -> Self {
        GradcheckOptions { eps: 1e-6, atol: 1e-6, rtol: 1e-5 }
    }
}

/// Compares the gradients of `f` with finite differences at `inputs`, over the full Jacobian of every
/// output with respect to every `f64` input (`u32` inputs are passed through). Inputs keep their
/// layout, so strided views are checked as such. The backward pass runs twice and must give the same
/// bits both times.
///
/// # Errors
/// When an input is neither `f64` nor `u32` or overlaps itself (an expanded view: a step would move
/// several elements at once; expand inside `f` instead), when `f` fails, or when a gradient is wrong:
/// the message names input, output, both values.
pub fn gradcheck(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    options: &GradcheckOptions,
) -> Result<()> {
    let fail = |message: String| Err(Error::Failed(format!("gradcheck: {message}")));
    for (i, x) in inputs.iter().enumerate() {
        if !matches!(x.dtype(), DType::F64 | DType::U32) {
            return fail(format!(
                "input {i} is {}; f64 is needed for finite differences",
                x.dtype()
            ));
        }
        if x.layout().overlaps() {
            return fail(format!("input {i} overlaps itself; expand it inside the function"));
        }
    }
    let values = |at: &[Tensor]| -> Result<Vec<Vec<f64>>> {
        let plain: Vec<Tensor> = at.iter().map(Tensor::detach).collect();
        f(&plain)?.iter().map(Tensor::to_f64_vec).collect()
    };

    for (i, x) in inputs.iter().enumerate().filter(|(_, x)| x.dtype() == DType::F64) {
        // numeric[j][k][o]: derivative of element o of output k by element j of this input.
        let mut numeric: Vec<Vec<Vec<f64>>> = Vec::with_capacity(x.numel());
        for j in 0..x.numel() {
            let at = |step: f64| -> Result<Vec<Vec<f64>>> {
                let moved = x.duplicate_with(|data| data[position(x, j)] += step)?;
                let mut all = inputs.to_vec();
                all[i] = moved;
                values(&all)
            };
            let (up, down) = (at(options.eps)?, at(-options.eps)?);
            let slope = |(u, d): (&f64, &f64)| (u - d) / (2.0 * options.eps);
            let column = up.iter().zip(&down).map(|(u, d)| u.iter().zip(d).map(slope).collect());
            numeric.push(column.collect());
        }

        let outputs = values(inputs)?;
        for (k, output) in outputs.iter().enumerate() {
            for o in 0..output.len() {
                let analytic = analytic_row(&f, inputs, i, k, o)?;
                if analytic != analytic_row(&f, inputs, i, k, o)? {
                    return fail(format!("two runs of the same backward pass differ (input {i})"));
                }
                for j in 0..x.numel() {
                    let (a, n) = (analytic[j], numeric[j][k][o]);
                    if (a - n).abs() > options.atol + options.rtol * n.abs() || a.is_nan() {
                        return fail(format!(
                            "d output {k} [{o}] / d input {i} [{j}]: backward says {a:e}, finite \
                             differences {n:e} (input shape {:?}, strides {:?})",
                            x.shape(),
                            x.strides()
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Where element `j` (row-major) of `x` sits in its buffer.
fn position(x: &Tensor, mut j: usize) -> usize {
    let layout = x.layout();
    let mut at = layout.offset;
    for (&size, &stride) in layout.shape.iter().zip(&layout.strides).rev() {
        at += j % size * stride;
        j /= size;
    }
    at
}

/// The derivatives of one output element by all elements of input `i`, from the backward rules.
fn analytic_row(
    f: &impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    i: usize,
    k: usize,
    o: usize,
) -> Result<Vec<f64>> {
    let mut leaves = inputs.to_vec();
    for leaf in &mut leaves {
        if leaf.dtype() == DType::F64 {
            *leaf = leaf.requires_grad_()?;
        }
    }
    let outputs = f(&leaves)?;
    let output = &outputs[k];
    if !output.requires_grad() {
        return Ok(vec![0.0; inputs[i].numel()]);
    }
    let mut unit = vec![0.0; output.numel()];
    unit[o] = 1.0;
    output.backward_with(Tensor::from_slice(&unit, output.shape())?)?;
    match leaves[i].grad() {
        Some(grad) => grad.to_vec::<f64>(),
        None => Ok(vec![0.0; inputs[i].numel()]),
    }
}
