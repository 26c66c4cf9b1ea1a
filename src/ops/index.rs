//! Picking elements by index along an axis.
//!
//! | name | y | backward |
//! |---|---|---|
//! | `index_select` | `y[…, j, …] = x[…, ids[j], …]` | `dx[…, ids[j], …] += dy[…, j, …]` |
//! | `gather` | `y[…, j, …] = x[…, ids[…, j, …], …]` | `dx[…, ids[…, j, …], …] += dy[…, j, …]` |
//! | `scatter_add` | `y = x`, then `y[…, ids[…, j, …], …] += src[…, j, …]` | `dx = dy`, `dsrc = gather(dy, ids)` |
//!
//! Sums run in the order of j: the same bits at any thread count.

use super::embedding::check_ids;
use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{around, beside, expect_u32, grads, one_summed, same_dtype};
use crate::autograd::record;
use crate::cpu::index;
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, Tensor, kernel, kernel_any};

/// Refuses ids whose shape differs from `x` elsewhere than on `axis`.
#[track_caller]
fn same_but_axis(op: &'static str, x: &Tensor, ids: &Tensor, axis: usize) -> Result<()> {
    let agree = x.rank() == ids.rank()
        && (0..x.rank()).all(|i| i == axis || x.shape()[i] == ids.shape()[i]);
    if agree {
        return Ok(());
    }
    Err(Error::op(
        op,
        format!(
            "shapes {:?} and {:?} differ elsewhere than on axis {axis}",
            x.shape(),
            ids.shape()
        ),
    ))
}

/// `x` gathered along `axis`, without history; the ids have been checked.
fn pick(x: &Tensor, ids: &Tensor, axis: usize) -> Result<Tensor> {
    let (outer, n, inner) = around(x.shape(), axis);
    let x = x.packed()?;
    let mut y = x.new_empty(ids.shape())?;
    let m = ids.shape()[axis];
    kernel_any!(x, E => {
        index::gather::<E>(y.slice_mut(), x.slice_ref(), ids.slice_ref(), outer, n, m, inner)
    });
    Ok(y)
}

impl Tensor {
    /// The indices `ids` (`u32`, a vector) of axis `dim`, in that order.
    ///
    /// # Errors
    /// For ids that are not a `u32` vector or not below the size of the axis.
    #[track_caller]
    pub fn index_select(&self, dim: isize, ids: &Tensor) -> Result<Tensor> {
        expect_u32("index_select", "ids", ids)?;
        let axis = self.axis("index_select", dim)?;
        if ids.rank() != 1 {
            return Err(Error::op(
                "index_select",
                format!("ids {:?} are not a vector", ids.shape()),
            ));
        }
        let (ids, x) = (beside(self, ids)?.packed()?, self.packed()?);
        let (outer, n, inner) = around(self.shape(), axis);
        check_ids("index_select", &ids, n)?;
        let mut shape = Dims::from_slice(self.shape());
        shape[axis] = ids.numel();
        let mut y = self.new_empty(&shape)?;
        kernel_any!(self, E => {
            index::index_select::<E>(y.slice_mut(), x.slice_ref(), ids.slice_ref(), outer, n, inner)
        });
        record("index_select", &[self])
            .save(&[&ids])
            .ints(&[outer, n, inner])
            .ints(self.shape())
            .backward(|mut ctx, dy| {
                let ids = ctx.take(0)?;
                let [outer, n, inner] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
                one_summed(dy, |dy| {
                    let mut dx = dy.new_full(&ctx.ints[3..], 0.0)?;
                    kernel!("index_select", dy, T => index::index_add::<T>(
                        dx.slice_mut(), dy.slice_ref(), ids.slice_ref(), outer, n, inner
                    ));
                    Ok(dx)
                })
            })
            .output(y)
    }

    /// For each place of `ids` (`u32`, the shape of this tensor but for axis `dim`) the element at
    /// that index of the axis.
    ///
    /// # Errors
    /// For ids of another shape or not below the size of the axis.
    #[track_caller]
    pub fn gather(&self, dim: isize, ids: &Tensor) -> Result<Tensor> {
        expect_u32("gather", "ids", ids)?;
        let axis = self.axis("gather", dim)?;
        same_but_axis("gather", self, ids, axis)?;
        let ids = beside(self, ids)?.packed()?;
        check_ids("gather", &ids, self.shape()[axis])?;
        record("gather", &[self])
            .save(&[&ids])
            .ints(&[axis])
            .ints(self.shape())
            .backward(|mut ctx, dy| {
                let ids = ctx.take(0)?;
                let (axis, shape) = (ctx.ints[0], &ctx.ints[1..]);
                let (outer, n, inner) = around(shape, axis);
                let m = ids.shape()[axis];
                one_summed(dy, |dy| {
                    let mut dx = dy.new_full(shape, 0.0)?;
                    kernel!("gather", dy, T => index::scatter_add::<T>(
                        dx.slice_mut(), dy.slice_ref(), ids.slice_ref(), outer, n, m, inner
                    ));
                    Ok(dx)
                })
            })
            .output(pick(self, &ids, axis)?)
    }

    /// This tensor with `src` added at the indices `ids` of axis `dim`; `ids` (`u32`) and `src` have one
    /// shape, that of this tensor but for the axis.
    ///
    /// # Errors
    /// For shapes or dtypes that differ, and ids not below the size of the axis.
    #[track_caller]
    pub fn scatter_add(&self, dim: isize, ids: &Tensor, src: &Tensor) -> Result<Tensor> {
        expect_u32("scatter_add", "ids", ids)?;
        same_dtype("scatter_add", self, src)?;
        let axis = self.axis("scatter_add", dim)?;
        same_but_axis("scatter_add", self, ids, axis)?;
        super::expect_shape("scatter_add", "src", src, ids.shape())?;
        if self.dtype().is_half() {
            let (x, src) = (self.to_dtype(DType::F32)?, src.to_dtype(DType::F32)?);
            return x.scatter_add(dim, ids, &src)?.to_dtype(self.dtype());
        }
        let (ids, added) = (beside(self, ids)?.packed()?, src.packed()?);
        let (outer, n, inner) = around(self.shape(), axis);
        check_ids("scatter_add", &ids, n)?;
        let mut y = self.copy()?;
        let m = ids.shape()[axis];
        kernel!("scatter_add", self, T => index::scatter_add::<T>(
            y.slice_mut(), added.slice_ref(), ids.slice_ref(), outer, n, m, inner
        ));
        record("scatter_add", &[self, src])
            .save(&[&ids])
            .ints(&[axis])
            .flops(src.numel() as u64)
            .backward(|mut ctx, dy| {
                let (ids, axis) = (ctx.take(0)?, ctx.ints[0]);
                let dsrc = if ctx.needs[1] { Some(pick(&dy, &ids, axis)?) } else { None };
                grads([Some(dy), dsrc])
            })
            .output(y)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    fn float(shape: &[usize]) -> Input {
        Input::float(shape, -1.0, 1.0)
    }
    vec![
        Entry::new("index_select", |x, a| Ok(vec![x[0].index_select(a.dim("dim"), &x[1])?]))
            .samples(|| {
                vec![
                    Sample::of([float(&[4, 3]), Input::ids(5, 4)]).ints("dim", &[0]),
                    Sample::of([float(&[2, 3, 2]), Input::ids(4, 3)]).ints("dim", &[1]),
                    Sample::of([float(&[2, 3]), Input::exactly(0, &[])]).ints("dim", &[-1]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("an id too large", "id 3 is not below 3", || {
                        vec![Tensor::zeros([3], DType::F32), Tensor::full(1, 3.0, DType::U32)]
                    }),
                    ErrorCase::new("ids that are a matrix", "not a vector", || {
                        vec![Tensor::zeros([3], DType::F32), Tensor::zeros([1, 1], DType::U32)]
                    }),
                ]
            }),
        Entry::new("gather", |x, a| Ok(vec![x[0].gather(a.dim("dim"), &x[1])?]))
            .samples(|| {
                vec![
                    Sample::of([float(&[4, 3]), Input::ids([4, 2], 3)]).ints("dim", &[1]),
                    Sample::of([float(&[3, 2]), Input::ids([5, 2], 3)]).ints("dim", &[0]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("shapes", "differ elsewhere", || {
                        vec![Tensor::zeros([3, 2], DType::F32), Tensor::zeros([3, 3], DType::U32)]
                    }),
                    ErrorCase::new("an id too large", "not below 3", || {
                        vec![Tensor::zeros([3], DType::F32), Tensor::full(1, 9.0, DType::U32)]
                    }),
                ]
            }),
        Entry::new("scatter_add", |x, a| Ok(vec![x[0].scatter_add(a.dim("dim"), &x[1], &x[2])?]))
            .samples(|| {
                vec![
                    Sample::of([float(&[4, 3]), Input::ids([4, 2], 3), float(&[4, 2])])
                        .ints("dim", &[1]),
                    Sample::of([float(&[3, 2]), Input::ids([5, 2], 3), float(&[5, 2])])
                        .ints("dim", &[0]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new(
                        "src of another shape",
                        "src has shape [2], expected [1]",
                        || {
                            vec![
                                Tensor::zeros([3], DType::F32),
                                Tensor::zeros([1], DType::U32),
                                Tensor::zeros([2], DType::F32),
                            ]
                        },
                    ),
                    ErrorCase::new("an id too large", "not below 3", || {
                        vec![
                            Tensor::zeros([3], DType::F32),
                            Tensor::full(1, 3.0, DType::U32),
                            Tensor::zeros([1], DType::F32),
                        ]
                    }),
                ]
            }),
    ]
}
