//! Table lookup.
//!
//! `y[…, :] = weight[ids[…], :]`. Backward adds each row of dy to the row of dW that it came from, in
//! the order of the tokens: the same bits at any thread count. The gradient is dense; where one has arrived
//! at the table already (from a tied output layer, or an earlier micro-batch) the rows are added to that one.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{beside, expect_u32, one};
use crate::autograd::record;
use crate::cpu::{embedding, reduce};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Dims, Tensor, for_float, kernel, kernel_any};

/// Refuses ids that a table of `rows` rows does not have. On a GPU the kernels look at the ids
/// themselves, and the error comes with the next number that is read from there.
#[track_caller]
pub(super) fn check_ids(op: &'static str, ids: &Tensor, rows: usize) -> Result<()> {
    if ids.device() != Device::Cpu {
        return Ok(());
    }
    match reduce::max_u32(ids.slice_ref()) {
        Some(most) if most as usize >= rows => {
            Err(Error::op(op, format!("id {most} is not below {rows}, the number of rows")))
        }
        _ => Ok(()),
    }
}

/// The rows of `weight` `[V, C]` named by `ids` `[…]` (`u32`): `[…, C]`.
///
/// # Errors
/// When the weight is not a matrix, ids are not `u32` or one of them is not below V.
#[track_caller]
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    expect_u32("embedding", "ids", ids)?;
    let &[vocab, width] = weight.shape() else {
        return Err(Error::op("embedding", format!("weight {:?} is not a matrix", weight.shape())));
    };
    let ids = beside(weight, ids)?.packed()?;
    check_ids("embedding", &ids, vocab)?;
    let w = weight.packed()?;
    let mut shape = Dims::from_slice(ids.shape());
    shape.push(width);
    let mut y = weight.new_empty(&shape)?;
    kernel_any!(weight, E => {
        embedding::forward::<E>(y.slice_mut(), w.slice_ref(), ids.slice_ref(), width)
    });
    let inputs = [weight];
    let recorder = record("embedding", &inputs).save(&[&ids]).ints(&[vocab, width]);
    let in_place = weight.device() == Device::Cpu && !weight.dtype().is_half();
    let recorder = if in_place { recorder.adds() } else { recorder };
    recorder
        .backward(|mut ctx, dy| {
            let ids = ctx.take(0)?;
            let (vocab, width) = (ctx.ints[0], ctx.ints[1]);
            if dy.dtype().is_half() {
                let wide = backward(&dy.cast(DType::F32)?, &ids, vocab, width)?;
                return one(wide.cast(dy.dtype())?);
            }
            let dy = dy.packed()?;
            let Some(mut dw) = ctx.so_far.take() else {
                return one(backward(&dy, &ids, vocab, width)?);
            };
            for_float!("embedding", dy.dtype(), T => embedding::add_rows::<T>(
                dw.make_mut()?, dy.slice_ref(), ids.slice_ref(), vocab, width
            ));
            one(dw)
        })
        .output(y)
}

fn backward(dy: &Tensor, ids: &Tensor, vocab: usize, width: usize) -> Result<Tensor> {
    let mut dw = dy.new_empty([vocab, width])?;
    kernel!("embedding", dy, T => embedding::backward::<T>(
        dw.slice_mut(), dy.slice_ref(), ids.slice_ref(), vocab, width
    ));
    Ok(dw)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("embedding", |x, _| Ok(vec![embedding(&x[0], &x[1])?]))
            .samples(|| {
                vec![
                    Sample::of([Input::float([4, 3], -1.0, 1.0), Input::ids([2, 5], 4)]),
                    Sample::of([Input::float([1, 2], -1.0, 1.0), Input::ids([3], 1)]),
                    Sample::of([Input::float([4, 3], -1.0, 1.0), Input::exactly([0], &[])]),
                    Sample::of([Input::float([3, 17], -1.0, 1.0), Input::exactly((), &[2])]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("an id too large", "id 4 is not below 4", || {
                        vec![Tensor::zeros([4, 3], DType::F32), Tensor::from_slice(&[1u32, 4], 2)]
                    }),
                    ErrorCase::new("real-valued ids", "must be u32", || {
                        vec![Tensor::zeros([4, 3], DType::F32), Tensor::zeros(2, DType::F32)]
                    }),
                    ErrorCase::new("a weight that is no matrix", "not a matrix", || {
                        vec![Tensor::zeros([4], DType::F32), Tensor::zeros(2, DType::U32)]
                    }),
                ]
            }),
    ]
}
