//! Root-mean-square normalisation (Zhang and Sennrich 2019).
//!
//! `r = 1/√(mean(x²) + ε)`, `y = x r w`. Kept for backward: x, r.
//!
//! ```text
//! dx = r (dy w − x r² mean(dy w x))
//! dw = Σ rows of dy x r
//! ```

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{expect_shape, rows_and_cols, same_dtype};
use crate::autograd::record;
use crate::cpu::rms_norm;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, kernel};

/// Divides the last axis of `x` `[…, C]` by its root mean square; `weight` is `[C]`.
///
/// # Errors
/// For a scalar x, a weight of another shape or dtype, and `u32`.
#[track_caller]
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if x.rank() == 0 {
        return Err(Error::op("rms_norm", "a scalar has no axis to normalise"));
    }
    let (rows, cols) = rows_and_cols(x.shape());
    if let Some(weight) = weight {
        same_dtype("rms_norm", x, weight)?;
        expect_shape("rms_norm", "weight", weight, &[cols])?;
    }
    if x.dtype().is_half() {
        let w = weight.map(|w| w.to_dtype(DType::F32)).transpose()?;
        return rms_norm(&x.to_dtype(DType::F32)?, w.as_ref(), eps)?.to_dtype(x.dtype());
    }
    let x_packed = x.packed()?;
    let w = weight.map(Tensor::packed).transpose()?;
    let mut y = x.new_empty(x.shape())?;
    let mut rstd = x.new_empty(rows)?;
    kernel!("rms_norm", x, T => rms_norm::forward::<T>(
        y.slice_mut(), rstd.slice_mut(), x_packed.slice_ref(), w.as_ref().map(|w| w.slice_ref()),
        rows, cols, eps
    ));
    let mut inputs: smallvec::SmallVec<[&Tensor; 2]> = smallvec::smallvec![x];
    inputs.extend(weight);
    record("rms_norm", &inputs)
        .save(&[&x_packed, &rstd])
        .save_option(w.as_ref())
        .flops(5 * x.numel() as u64)
        .backward(|mut ctx, dy| {
            let (x, rstd, dy) = (ctx.take(0)?, ctx.take(1)?, dy.packed()?);
            let w = ctx.take_option(2);
            let (rows, cols) = rows_and_cols(x.shape());
            let mut dw = w.is_some().then(|| dy.new_empty(cols)).transpose()?;
            let mut dx = x.new_empty(x.shape())?;
            kernel!("rms_norm", dy, T => rms_norm::backward::<T>(
                dx.slice_mut(), dw.as_mut().map(|t| t.slice_mut()), dy.slice_ref(), x.slice_ref(),
                w.as_ref().map(|w| w.slice_ref()), rstd.slice_ref(), rows, cols
            ));
            Ok([Some(dx)].into_iter().chain(dw.map(Some)).collect())
        })
        .output(y)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("rms_norm", |x, a| Ok(vec![rms_norm(&x[0], x.get(1), a.float("eps"))?]))
            .samples(|| {
                let float = |shape: &[usize]| Input::float(shape, -2.0, 2.0);
                vec![
                    Sample::of([float(&[2, 5]), float(&[5])]).float("eps", 1e-6),
                    Sample::of([float(&[2, 3, 4])]).float("eps", 1e-6),
                    Sample::of([float(&[0, 4]), float(&[4])]).float("eps", 1e-6),
                    Sample::of([float(&[70, 3]), float(&[3])]).float("eps", 1e-6),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("weight size", "weight has shape [4], expected [3]", || {
                        vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([4], DType::F32)]
                    }),
                    ErrorCase::new("a scalar", "no axis", || vec![Tensor::zeros((), DType::F32)]),
                ]
            })
            .tolerance(3e-6),
    ]
}
