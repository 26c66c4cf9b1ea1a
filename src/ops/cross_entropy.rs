//! Cross-entropy between logits and class ids: log-softmax and negative log-likelihood in one pass.
//!
//! With `lse = ln Σⱼ exp xⱼ` and target t, each row loses `ℓ = w_t (lse − x_t)`. Label smoothing s
//! moves s of the target's mass evenly to all C classes:
//! `ℓ = (1−s) w_t (lse − x_t) + s/C Σⱼ wⱼ (lse − xⱼ)`. The mean divides by Σ w_t over the rows that
//! count. Only lse is kept beside the logits; backward is `dxⱼ = g (pⱼ Σw′ − w′ⱼ)`, with p the softmax and
//! w′ the smoothed target weights; where nobody else holds the logits it is written over them.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{beside, expect_shape, expect_u32, expect_untracked, one, rows_and_cols, same_dtype};
use crate::autograd::record;
use crate::cpu::cross_entropy;
use crate::cpu::reduce::{self, Reduce};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor, kernel};

/// What becomes of the losses of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their (weighted) mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Nothing: one loss a row.
    None,
}

/// The options of [`cross_entropy()`], PyTorch's names.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Rows with this target do not count. As `u32` it is `-100` wrapped, [`CrossEntropy::IGNORE`].
    pub ignore_index: u32,
    /// The share of the target's mass that goes evenly to all classes, in [0, 1].
    pub label_smoothing: f64,
    /// One weight a class, `[C]`.
    pub weight: Option<Tensor>,
    /// Mean, sum or one loss a row.
    pub reduction: Reduction,
}

impl CrossEntropy {
    /// PyTorch's `ignore_index = -100` as an id.
    pub const IGNORE: u32 = -100i32 as u32;
}

impl Default for CrossEntropy {
    fn default() -> Self {
        CrossEntropy {
            ignore_index: CrossEntropy::IGNORE,
            label_smoothing: 0.0,
            weight: None,
            reduction: Reduction::Mean,
        }
    }
}

const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

/// The cross-entropy of `logits` `[…, C]` (the classes are the last axis) and `targets` `[…]` (`u32`),
/// in nats. A scalar, or `[…]` without reduction. Class weights get no gradient.
///
/// # Errors
/// When shapes do not fit, class weights are tracked, a target is neither below C nor ignored, or
/// smoothing leaves [0, 1].
#[track_caller]
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, options: &CrossEntropy) -> Result<Tensor> {
    expect_u32("cross_entropy", "targets", targets)?;
    if logits.dtype().is_half() {
        let mut options = options.clone();
        if let Some(weight) = options.weight.take() {
            same_dtype("cross_entropy", logits, &weight)?;
            options.weight = Some(weight.to_dtype(DType::F32)?);
        }
        return cross_entropy(&logits.to_dtype(DType::F32)?, targets, &options);
    }
    if logits.rank() == 0 {
        return Err(Error::op("cross_entropy", "logits have no class axis"));
    }
    let (rows, classes) = rows_and_cols(logits.shape());
    expect_shape("cross_entropy", "targets", targets, &logits.shape()[..logits.rank() - 1])?;
    if !(0.0..=1.0).contains(&options.label_smoothing) {
        let smoothing = options.label_smoothing;
        return Err(Error::op(
            "cross_entropy",
            format!("label smoothing {smoothing} is not in [0, 1]"),
        ));
    }
    if let Some(weight) = &options.weight {
        same_dtype("cross_entropy", logits, weight)?;
        expect_shape("cross_entropy", "the class weights", weight, &[classes])?;
        expect_untracked("cross_entropy", "the class weights", weight)?;
    }
    let (x, t) = (logits.packed()?, beside(logits, targets)?.packed()?);
    check_targets("cross_entropy", &t, classes, options.ignore_index)?;
    let mut losses = x.new_empty(targets.shape())?;
    let mut counted = x.new_empty(rows)?;
    let mut lse = x.new_empty(rows)?;
    let weight = options.weight.as_ref().map(Tensor::packed).transpose()?;
    kernel!("cross_entropy", x, T => cross_entropy::forward::<T>(
        losses.slice_mut(), counted.slice_mut(), lse.slice_mut(), x.slice_ref(), t.slice_ref(), rows, classes,
        &cross_entropy::Options {
            ignore_index: options.ignore_index,
            label_smoothing: options.label_smoothing,
            class_weights: weight.as_ref().map(|w| w.slice_ref()),
        }
    ));
    // On a GPU the divisor stays where it is: reading it would wait for all that came before.
    let (total_weight, there) = match total(&counted)? {
        sum if sum.device() == Device::Cpu => (sum.item()?, None),
        sum => (1.0, Some(sum)),
    };
    let y = match options.reduction {
        Reduction::Mean => match &there {
            Some(divisor) => total(&losses)?.div(divisor)?,
            None => total(&losses)?.mul_scalar(1.0 / total_weight)?,
        },
        Reduction::Sum => total(&losses)?,
        Reduction::None => losses,
    };
    let reduction = REDUCTIONS.iter().position(|&r| r == options.reduction).unwrap_or(0);
    record("cross_entropy", &[logits])
        .save(&[&x, &t, &lse])
        .save_option(weight.as_ref())
        .save_option(there.as_ref())
        .floats(&[options.label_smoothing, total_weight])
        .ints(&[options.ignore_index as usize, reduction])
        .flops(4 * x.numel() as u64)
        .backward(|mut ctx, dy| {
            let (mut x, t, lse) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?);
            let (weight, there) = (ctx.take_option(3), ctx.take_option(4));
            let (rows, classes) = rows_and_cols(x.shape());
            let scale = match REDUCTIONS[ctx.ints[1]] {
                Reduction::Mean => {
                    let each = match there {
                        Some(divisor) => dy.div(&divisor)?,
                        None => dy.mul_scalar(1.0 / ctx.floats[1])?,
                    };
                    each.expand(rows)?.packed()?
                }
                Reduction::Sum => dy.expand(rows)?.packed()?,
                Reduction::None => dy.packed()?,
            };
            let ignore_index = ctx.ints[0] as u32;
            kernel!("cross_entropy", x, T => {
                let options = cross_entropy::Options {
                    ignore_index,
                    label_smoothing: ctx.floats[0],
                    class_weights: weight.as_ref().map(|w| w.slice_ref()),
                };
                let (lse, t, scale) = (lse.slice_ref(), t.slice_ref(), scale.slice_ref());
                if x.is_owned() {
                    let both = x.slice_mut();
                    cross_entropy::backward_in_place::<T>(
                        both, lse, t, rows, classes, scale, &options
                    );
                } else {
                    let mut dx = x.new_empty(x.shape())?;
                    cross_entropy::backward::<T>(
                        dx.slice_mut(), lse, x.slice_ref(), t, rows, classes, scale, &options
                    );
                    x = dx;
                }
            });
            one(x)
        })
        .output(y)
}

/// Refuses a target that is no class and not ignored. On a GPU the kernel looks at the targets itself.
#[track_caller]
pub(super) fn check_targets(
    op: &'static str,
    targets: &Tensor,
    classes: usize,
    ignore_index: u32,
) -> Result<()> {
    let ids: &[u32] = if targets.device() == Device::Cpu { targets.slice_ref() } else { &[] };
    let bad = |&&id: &&u32| id as usize >= classes && id != ignore_index;
    match ids.iter().find(bad) {
        Some(id) => Err(Error::op(op, format!("target {id} is not below {classes} classes"))),
        None => Ok(()),
    }
}

/// The sum of all elements, without history.
pub(super) fn total(x: &Tensor) -> Result<Tensor> {
    let mut sum = x.new_empty(())?;
    kernel!("sum", x, T => reduce::forward::<T>(
        Reduce::Sum, sum.slice_mut(), None, x.slice_ref(), 1, x.numel(), 1
    ));
    Ok(sum)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("cross_entropy", |x, a| {
            let ignore = a.has("ignore_index").then(|| a.int("ignore_index") as u32);
            let options = CrossEntropy {
                ignore_index: ignore.unwrap_or(CrossEntropy::IGNORE),
                label_smoothing: a.float("label_smoothing"),
                weight: x.get(2).cloned(),
                reduction: REDUCTIONS[a.int("reduction") as usize],
            };
            Ok(vec![cross_entropy(&x[0], &x[1], &options)?])
        })
        .samples(|| {
            let logits = |shape: &[usize]| Input::float(shape, -3.0, 3.0);
            let weights = Input::float([4], 0.2, 2.0);
            let mut samples = Vec::new();
            for reduction in 0..3 {
                let base = Sample::of([logits(&[5, 4]), Input::ids(5, 4)]);
                let base = base.ints("reduction", &[reduction]);
                samples.push(base.clone());
                samples.push(base.clone().float("label_smoothing", 0.1));
                let mut weighted = base.ints("ignore_index", &[2]).float("label_smoothing", 0.2);
                weighted.inputs.push(weights.clone());
                samples.push(weighted);
            }
            samples.push(Sample::of([logits(&[2, 3, 4]), Input::ids([2, 3], 4)]));
            samples.push(Sample::of([logits(&[1, 1]), Input::exactly(1, &[0])]));
            samples.push(Sample::of([logits(&[2, 35]), Input::ids(2, 35)]));
            samples
        })
        .errors(|| {
            vec![
                ErrorCase::new("a target too large", "target 3 is not below 3", || {
                    vec![Tensor::zeros([1, 3], DType::F32), Tensor::full(1, 3.0, DType::U32)]
                }),
                ErrorCase::new("targets of another shape", "expected [2]", || {
                    vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros(3, DType::U32)]
                }),
                ErrorCase::new("smoothing above 1", "not in [0, 1]", || {
                    vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros(2, DType::U32)]
                })
                .float("label_smoothing", 1.5),
                ErrorCase::new("weights of another size", "expected [3]", || {
                    vec![
                        Tensor::zeros([2, 3], DType::F32),
                        Tensor::zeros(2, DType::U32),
                        Tensor::zeros(2, DType::F32),
                    ]
                }),
                ErrorCase::new("tracked class weights", "no gradient; detach()", || {
                    vec![
                        Tensor::zeros([2, 3], DType::F32),
                        Tensor::zeros(2, DType::U32),
                        Tensor::ones(3, DType::F32).and_then(|w| w.requires_grad_()),
                    ]
                }),
            ]
        })
        .tolerance(2e-6),
    ]
}
