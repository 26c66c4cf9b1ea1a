//! Choosing between two tensors by a mask.
//!
//! `y = cond ? a : b`. Backward: `da = cond ? dy : 0`, `db = cond ? 0 : dy`, summed over broadcast axes.
//! `masked_fill(mask, v)` is `mask ? v : x`. Masks are `u32`, any value but 0 counts as true.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{beside, expect_u32, grads, same_dtype};
use crate::autograd::record;
use crate::cpu::binary;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, broadcast_shapes, kernel};

/// The values of `a` where `cond` is not 0 and of `b` where it is; all three broadcast together.
///
/// # Errors
/// When `cond` is not `u32`, `a` and `b` differ in dtype, or shapes do not broadcast.
#[track_caller]
pub fn where_(cond: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect_u32("where", "the condition", cond)?;
    let cond = &beside(a, cond)?;
    same_dtype("where", a, b)?;
    if a.dtype().is_half() {
        let (a32, b32) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        return where_(cond, &a32, &b32)?.to_dtype(a.dtype());
    }
    let values = broadcast_shapes(a.shape(), b.shape());
    let Some(shape) = values.and_then(|shape| broadcast_shapes(&shape, cond.shape())) else {
        return Err(Error::op(
            "where",
            format!(
                "condition {:?}, {:?} and {:?} do not broadcast",
                cond.shape(),
                a.shape(),
                b.shape()
            ),
        ));
    };
    let y = select(cond, a, b, &shape)?;
    record("where", &[cond, a, b])
        .save(&[cond])
        .ints(&[a.rank()])
        .ints(a.shape())
        .ints(b.shape())
        .backward(|mut ctx, dy| {
            let cond = ctx.take(0)?;
            let rank = ctx.ints[0];
            let (a_shape, b_shape) = (&ctx.ints[1..1 + rank], &ctx.ints[1 + rank..]);
            let zero = dy.new_full((), 0.0)?;
            let pick = |yes: &Tensor, no: &Tensor, to: &[usize]| {
                select(&cond, yes, no, dy.shape())?.sum_to(to).map(Some)
            };
            let da = if ctx.needs[1] { pick(&dy, &zero, a_shape)? } else { None };
            let db = if ctx.needs[2] { pick(&zero, &dy, b_shape)? } else { None };
            grads([None, da, db])
        })
        .output(y)
}

#[track_caller]
fn select(cond: &Tensor, a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let mut y = a.new_empty(shape)?;
    let [wide_cond, wide_a, wide_b] = [cond, a, b].map(|x| x.layout().expand(shape).strides);
    kernel!("where", a, T => binary::select::<T>(
        y.slice_mut(),
        cond.strided_ref(), &wide_cond, a.strided_ref(), &wide_a, b.strided_ref(), &wide_b, shape
    ));
    Ok(y)
}

impl Tensor {
    /// `value` where `mask` (`u32`, broadcast) is not 0, this tensor elsewhere.
    ///
    /// # Errors
    /// As [`where_`].
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Result<Tensor> {
        where_(mask, &self.new_full((), value)?, self)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("where", |x, _| Ok(vec![where_(&x[0], &x[1], &x[2])?]))
            .samples(|| {
                let shapes: [[&[usize]; 3]; 3] =
                    [[&[2, 3], &[2, 3], &[2, 3]], [&[3], &[2, 1], &[]], [&[0, 2], &[2], &[1]]];
                shapes
                    .map(|[c, a, b]| {
                        let inputs = [Input::float(a, -2.0, 2.0), Input::float(b, -2.0, 2.0)];
                        Sample::of([vec![Input::ids(c, 2)], inputs.to_vec()].concat())
                    })
                    .into()
            })
            .errors(|| {
                vec![
                    ErrorCase::new("a real-valued mask", "must be u32", || {
                        vec![
                            Tensor::zeros(2, DType::F32),
                            Tensor::zeros(2, DType::F32),
                            Tensor::zeros(2, DType::F32),
                        ]
                    }),
                    ErrorCase::new("shapes", "do not broadcast", || {
                        vec![
                            Tensor::zeros(2, DType::U32),
                            Tensor::zeros(3, DType::F32),
                            Tensor::zeros(3, DType::F32),
                        ]
                    }),
                ]
            }),
        Entry::new("masked_fill", |x, a| Ok(vec![x[0].masked_fill(&x[1], a.float("value"))?]))
            .samples(|| {
                let inputs = [Input::float([2, 3], -2.0, 2.0), Input::ids([3], 2)];
                vec![Sample::of(inputs).float("value", -7.0)]
            })
            .errors(|| {
                vec![ErrorCase::new("a real-valued mask", "must be u32", || {
                    vec![Tensor::zeros(2, DType::F32), Tensor::zeros(2, DType::F32)]
                })]
            }),
    ]
}
