//! Layer normalisation (Ba, Kiros, Hinton 2016), fused forward and backward.
//!
//! Each row (the last axis, C elements) is brought to mean 0 and variance 1, then scaled and moved:
//! `x̂ = (x − μ) r`, `r = 1/√(σ² + ε)`, `y = x̂ w + b`. Kept for backward: x, μ, r.
//!
//! ```text
//! dx̂ = dy w
//! dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂))
//! dw = Σ rows of dy x̂          db = Σ rows of dy
//! ```
//!
//! Where a residual connection leads around the norm, its gradient has arrived at x before this one: dx is added to it
//! as it is made.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{expect_shape, rows_and_cols, same_dtype};
use crate::autograd::record;
use crate::cpu::layer_norm;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor, for_float, kernel};

/// Normalises the last axis of `x` `[…, C]`; `weight` and `bias` are `[C]`.
///
/// # Errors
/// For a scalar x, parameters of another shape or dtype, and `u32`.
#[track_caller]
pub fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    layer_norm_to(x, weight, bias, eps, x.dtype())
}

/// As [`layer_norm`], with the output in `dtype`, which is that of x or, on the CPU, bf16: rounded as it is written, and
/// its gradient read as it is.
///
/// # Errors
/// As [`layer_norm`].
#[track_caller]
pub(crate) fn layer_norm_to(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    if x.rank() == 0 {
        return Err(Error::op("layer_norm", "a scalar has no axis to normalise"));
    }
    let (rows, cols) = rows_and_cols(x.shape());
    for (what, parameter) in [("weight", weight), ("bias", bias)] {
        if let Some(parameter) = parameter {
            same_dtype("layer_norm", x, parameter)?;
            expect_shape("layer_norm", what, parameter, &[cols])?;
        }
    }
    if x.dtype().is_half() {
        let wide = |p: Option<&Tensor>| p.map(|p| p.to_dtype(DType::F32)).transpose();
        let (w, b) = (wide(weight)?, wide(bias)?);
        let y = layer_norm(&x.to_dtype(DType::F32)?, w.as_ref(), b.as_ref(), eps)?;
        return y.to_dtype(dtype);
    }
    if dtype != x.dtype() && (dtype, x.device()) != (DType::BF16, Device::Cpu) {
        return layer_norm(x, weight, bias, eps)?.to_dtype(dtype);
    }
    let x_packed = x.packed()?;
    let w = weight.map(Tensor::packed).transpose()?;
    let b = bias.map(Tensor::packed).transpose()?;
    let mut y = Tensor::empty_on(x.shape(), dtype, x.device())?;
    let mut mean = x.new_empty(rows)?;
    let mut rstd = x.new_empty(rows)?;
    kernel!("layer_norm", x, T => layer_norm::forward::<T>(
        y.slice_mut(), mean.slice_mut(), rstd.slice_mut(),
        x_packed.slice_ref(), w.as_ref().map(|w| w.slice_ref()), b.as_ref().map(|b| b.slice_ref()),
        rows, cols, eps
    ));
    let mut inputs: smallvec::SmallVec<[&Tensor; 3]> = smallvec::smallvec![x];
    inputs.extend(weight.into_iter().chain(bias));
    let recorder = record("layer_norm", &inputs);
    let recorder = if x.device() == Device::Cpu { recorder.adds() } else { recorder };
    recorder
        .save(&[&x_packed, &mean, &rstd])
        .save_option(w.as_ref())
        .ints(&[weight.is_some() as usize, bias.is_some() as usize])
        .flops(8 * x.numel() as u64)
        .backward(|mut ctx, dy| {
            let (x, mean, rstd, dy) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?, dy.packed()?);
            let w = ctx.take_option(3);
            let (rows, cols) = rows_and_cols(x.shape());
            let fresh = |there: usize| {
                (there == 1).then(|| x.new_empty(cols)).transpose()
            };
            let (mut dw, mut db) = (fresh(ctx.ints[0])?, fresh(ctx.ints[1])?);
            if let Some(so_far) = ctx.so_far.take() {
                let mut dx = so_far.packed()?;
                drop(so_far); // else dx shared its buffer and would be copied
                for_float!("layer_norm", x.dtype(), T => layer_norm::backward_onto::<T>(
                    true,
                    dx.make_mut()?, dw.as_mut().map(|t| t.slice_mut()), db.as_mut().map(|t| t.slice_mut()),
                    dy.slice_ref(), x.slice_ref(), w.as_ref().map(|w| w.slice_ref()),
                    mean.slice_ref(), rstd.slice_ref(), rows, cols
                ));
                return Ok([Some(dx)].into_iter().chain(dw.map(Some)).chain(db.map(Some)).collect());
            }
            let mut dx = x.new_empty(x.shape())?;
            kernel!("layer_norm", x, T => layer_norm::backward::<T>(
                dx.slice_mut(), dw.as_mut().map(|t| t.slice_mut()), db.as_mut().map(|t| t.slice_mut()),
                dy.slice_ref(), x.slice_ref(), w.as_ref().map(|w| w.slice_ref()),
                mean.slice_ref(), rstd.slice_ref(), rows, cols
            ));
            Ok([Some(dx)].into_iter().chain(dw.map(Some)).chain(db.map(Some)).collect())
        })
        .output(y)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("layer_norm", |x, a| {
            let (weight, bias) = (x.get(1), x.get(2));
            Ok(vec![layer_norm(&x[0], weight, bias, a.float("eps"))?])
        })
        .samples(|| {
            let float = |shape: &[usize]| Input::float(shape, -2.0, 2.0);
            vec![
                Sample::of([float(&[2, 5]), float(&[5]), float(&[5])]).float("eps", 1e-5),
                Sample::of([float(&[2, 3, 4])]).float("eps", 1e-5),
                Sample::of([float(&[3, 4]), float(&[4])]).float("eps", 1e-5),
                Sample::of([float(&[2, 1]), float(&[1]), float(&[1])]).float("eps", 1e-2),
                Sample::of([float(&[0, 4]), float(&[4]), float(&[4])]).float("eps", 1e-5),
                Sample::of([float(&[70, 3]), float(&[3]), float(&[3])]).float("eps", 1e-5),
            ]
        })
        .errors(|| {
            vec![
                ErrorCase::new("weight size", "weight has shape [4], expected [3]", || {
                    vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([4], DType::F32)]
                }),
                ErrorCase::new("a scalar", "no axis", || vec![Tensor::zeros((), DType::F32)]),
                ErrorCase::new("ids", "u32", || vec![Tensor::zeros([2, 3], DType::U32)]),
            ]
        })
        .tolerance(3e-6),
    ]
}
