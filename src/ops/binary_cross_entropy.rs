//! Binary cross-entropy on logits.
//!
//! `ℓ = (1−t) x + (1 + (q−1) t) (ln(1 + e^{−|x|}) + max(−x, 0))` with target t in [0, 1] and the weight q
//! of positives (1 by default); `dx = g (σ(x) (1 + (q−1) t) − q t)`. The mean over all elements.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{expect_shape, expect_untracked, one, same_dtype};
use crate::autograd::record;
use crate::cpu::bce_with_logits;
use crate::error::Result;
use crate::tensor::{DType, Tensor, kernel};

/// The mean binary cross-entropy of logits `x` `[…, C]` and targets `t` of the same shape; `pos_weight`
/// `[C]` weighs the positive class of each column. A scalar, in nats. `t` gets no gradient.
///
/// # Errors
/// When shapes or dtypes differ, targets or weights are tracked, and for `u32`.
#[track_caller]
pub fn binary_cross_entropy_with_logits(
    x: &Tensor,
    t: &Tensor,
    pos_weight: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "binary_cross_entropy_with_logits";
    same_dtype(OP, x, t)?;
    expect_shape(OP, "the targets", t, x.shape())?;
    expect_untracked(OP, "the targets", t)?;
    let (_, cols) = super::rows_and_cols(x.shape());
    if let Some(weight) = pos_weight {
        same_dtype(OP, x, weight)?;
        expect_shape(OP, "pos_weight", weight, &[cols])?;
        expect_untracked(OP, "the weights of the positives", weight)?;
    }
    if x.dtype().is_half() {
        let weight = pos_weight.map(|w| w.to_dtype(DType::F32)).transpose()?;
        let (x, t) = (x.to_dtype(DType::F32)?, t.to_dtype(DType::F32)?);
        return binary_cross_entropy_with_logits(&x, &t, weight.as_ref());
    }
    let (x_packed, t_packed) = (x.packed()?, t.packed()?);
    let weight = pos_weight.map(Tensor::packed).transpose()?;
    let mut losses = x.new_empty(x.shape())?;
    kernel!(OP, x, T => bce_with_logits::forward::<T>(
        losses.slice_mut(), x_packed.slice_ref(), t_packed.slice_ref(),
        weight.as_ref().map(|w| w.slice_ref()), x.numel(), cols
    ));
    let y = losses.mean_all()?;
    record(OP, &[x])
        .save(&[&x_packed, &t_packed])
        .save_option(weight.as_ref())
        .flops(8 * x.numel() as u64)
        .backward(|mut ctx, dy| {
            let (x, t, weight) = (ctx.take(0)?, ctx.take(1)?, ctx.take_option(2));
            let (_, cols) = super::rows_and_cols(x.shape());
            let share = dy.mul_scalar(1.0 / x.numel() as f64)?.expand(x.shape())?.packed()?;
            let mut dx = x.new_empty(x.shape())?;
            kernel!("bce", x, T => bce_with_logits::backward::<T>(
                dx.slice_mut(), share.slice_ref(), x.slice_ref(), t.slice_ref(),
                weight.as_ref().map(|w| w.slice_ref()), x.numel(), cols
            ));
            one(dx)
        })
        .output(y)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("binary_cross_entropy_with_logits", |x, _| {
            Ok(vec![binary_cross_entropy_with_logits(&x[0], &x[1], x.get(2))?])
        })
        .samples(|| {
            let logits = Input::float([4, 3], -3.0, 3.0);
            let targets = Input::float([4, 3], 0.0, 1.0);
            let single = [Input::float([5], -3.0, 3.0), Input::float([5], 0.0, 1.0)];
            vec![
                Sample::of([logits.clone(), targets.clone()]),
                Sample::of([logits, targets, Input::float([3], 0.5, 3.0)]),
                Sample::of(single),
            ]
        })
        .errors(|| {
            vec![
                ErrorCase::new("targets of another shape", "expected [2, 3]", || {
                    vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([3], DType::F32)]
                }),
                ErrorCase::new("tracked targets", "no gradient; detach()", || {
                    let targets = Tensor::ones([2], DType::F32).and_then(|t| t.requires_grad_());
                    vec![Tensor::zeros([2], DType::F32), targets]
                }),
                ErrorCase::new("ids as targets", "do not mix", || {
                    vec![Tensor::zeros([2], DType::F32), Tensor::zeros([2], DType::U32)]
                }),
            ]
        })
        .tolerance(2e-6),
    ]
}
