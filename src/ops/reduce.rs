//! Sums, means and maxima over axes.
//!
//! | name | y | dx |
//! |---|---|---|
//! | `sum` | Σ x | dy, repeated |
//! | `mean` | Σ x / n | dy / n, repeated |
//! | `max` | the largest x (the first of equals; NaN wins) | dy at that index, 0 elsewhere |
//!
//! An empty list of axes means all of them. Sums are added up in a fixed order: the same bits at
//! any thread count.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{around, one};
use crate::autograd::record;
use crate::cpu::reduce::{self, Reduce};
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, Tensor, kernel};

/// The axes named by `dims`, each once, in order; all where `dims` is empty.
#[track_caller]
fn axes(op: &'static str, x: &Tensor, dims: &[isize]) -> Result<Dims> {
    if dims.is_empty() {
        return Ok((0..x.rank()).collect());
    }
    let mut axes = Dims::new();
    for &dim in dims {
        axes.push(x.axis(op, dim)?); // not in a closure, which would hide the caller's line
    }
    axes.sort_unstable();
    if axes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::op(op, format!("axes {dims:?} name one axis twice")));
    }
    Ok(axes)
}

/// Σ over `axes`, which keep size 1.
#[track_caller]
fn sum_axes(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let mut shape = Dims::from_slice(x.shape());
    axes.iter().for_each(|&axis| shape[axis] = 1);
    let adjacent = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    // Bring the elements to [outer, n, inner] with the reduced axes in the middle.
    let (packed, outer, n, inner) = match (axes, adjacent) {
        ([], _) => return x.packed(),
        ([first, ..], true) => {
            let last = axes[axes.len() - 1];
            let outer = x.shape()[..*first].iter().product();
            let inner = x.shape()[last + 1..].iter().product();
            (x.packed()?, outer, x.shape()[*first..=last].iter().product(), inner)
        }
        (_, false) => {
            let kept = (0..x.rank()).filter(|axis| !axes.contains(axis));
            let order: Dims = kept.chain(axes.iter().copied()).collect();
            let n: usize = axes.iter().map(|&axis| x.shape()[axis]).product();
            (x.with_layout(x.layout().permute(&order)).packed()?, shape.iter().product(), n, 1)
        }
    };
    let mut y = x.new_empty(&shape)?;
    kernel!("sum", x, T => reduce::forward::<T>(
        Reduce::Sum, y.slice_mut(), None, packed.slice_ref(), outer, n, inner
    ));
    Ok(y)
}

/// Drops the axes of size 1 that a reduction left, unless they are to be kept.
fn drop_axes(y: Tensor, axes: &[usize], keepdim: bool) -> Tensor {
    if keepdim {
        return y;
    }
    let layout = axes.iter().rev().fold(y.layout().clone(), |layout, &axis| layout.squeeze(axis));
    y.with_layout(layout)
}

impl Tensor {
    /// The sum over the axes `dims` (all where empty); reduced axes disappear unless `keepdim`.
    ///
    /// # Errors
    /// For axes that do not exist or repeat, and for `u32`.
    #[track_caller]
    pub fn sum(&self, dims: &[isize], keepdim: bool) -> Result<Tensor> {
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.sum(dims, keepdim)?.to_dtype(self.dtype());
        }
        let axes = axes("sum", self, dims)?;
        let y = drop_axes(sum_axes(self, &axes)?, &axes, keepdim);
        record("sum", &[self])
            .ints(&[self.rank()])
            .ints(self.shape())
            .ints(&axes)
            .flops(self.numel() as u64)
            .backward(|ctx, dy| {
                let rank = ctx.ints[0];
                let (shape, axes) = (&ctx.ints[1..1 + rank], &ctx.ints[1 + rank..]);
                // Give dy its axes of size 1 back, then repeat along them.
                let mut layout = dy.layout().clone();
                if dy.rank() < rank {
                    layout = axes.iter().fold(layout, |layout, &axis| layout.unsqueeze(axis));
                }
                one(dy.with_layout(layout.expand(shape)))
            })
            .output(y)
    }

    /// The mean over the axes `dims` (all where empty). The mean of nothing is NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    #[track_caller]
    pub fn mean(&self, dims: &[isize], keepdim: bool) -> Result<Tensor> {
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.mean(dims, keepdim)?.to_dtype(self.dtype());
        }
        let axes = axes("mean", self, dims)?;
        let n: usize = axes.iter().map(|&axis| self.shape()[axis]).product();
        self.sum(dims, keepdim)?.mul_scalar(1.0 / n as f64)
    }

    /// The sum of all elements, a scalar.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&[], false)
    }

    /// The mean of all elements, a scalar.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&[], false)
    }

    /// The largest values along `dim` and the index of the first of them (`u32`).
    ///
    /// # Errors
    /// For an axis that does not exist or has no elements, and for `u32`.
    #[track_caller]
    pub fn max(&self, dim: isize, keepdim: bool) -> Result<(Tensor, Tensor)> {
        if self.dtype().is_half() {
            let (values, indices) = self.to_dtype(DType::F32)?.max(dim, keepdim)?;
            return Ok((values.to_dtype(self.dtype())?, indices));
        }
        let axis = self.axis("max", dim)?;
        let (outer, n, inner) = around(self.shape(), axis);
        if n == 0 {
            return Err(Error::op(
                "max",
                format!("axis {dim} of shape {:?} has no elements to compare", self.shape()),
            ));
        }
        let x = self.packed()?;
        let mut shape = Dims::from_slice(self.shape());
        shape[axis] = 1;
        let mut values = self.new_empty(&shape)?;
        let mut indices = Tensor::empty_on(&shape, DType::U32, self.device())?;
        kernel!("max", self, T => reduce::forward::<T>(
            Reduce::Max, values.slice_mut(), Some(indices.slice_mut()), x.slice_ref(), outer, n, inner
        ));
        let values = drop_axes(values, &[axis], keepdim);
        let indices = drop_axes(indices, &[axis], keepdim);
        let values = record("max", &[self])
            .save(&[&indices])
            .ints(&[outer, n, inner])
            .ints(self.shape())
            .flops(self.numel() as u64)
            .backward(|mut ctx, dy| {
                let (indices, dy) = (ctx.take(0)?, dy.packed()?);
                let [outer, n, inner] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
                let mut dx = dy.new_empty(&ctx.ints[3..])?;
                kernel!("max", dy, T => reduce::backward::<T>(
                    Reduce::Max, dx.slice_mut(), dy.slice_ref(), Some(indices.slice_ref()), outer, n, inner
                ));
                one(dx)
            })
            .output(values)?;
        Ok((values, indices))
    }

    /// The index of the largest value along `dim` (`u32`; the axis disappears).
    ///
    /// # Errors
    /// As [`Tensor::max`].
    #[track_caller]
    pub fn argmax(&self, dim: isize) -> Result<Tensor> {
        Ok(self.detach().max(dim, false)?.1)
    }

    /// Sums over the axes along which `shape` was broadcast to this tensor's shape.
    pub(crate) fn sum_to(&self, shape: &[usize]) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        if self.dtype().is_half() {
            return self.cast(DType::F32)?.sum_to(shape)?.cast(self.dtype());
        }
        let missing = self.rank() - shape.len();
        let repeated = |&axis: &usize| {
            axis < missing || (shape[axis - missing] == 1 && self.shape()[axis] != 1)
        };
        let axes: Dims = (0..self.rank()).filter(repeated).collect();
        let y = sum_axes(self, &axes)?;
        let layout = y.layout().reshape(shape);
        Ok(y.with_layout(layout.expect("a contiguous tensor takes any shape of its size")))
    }
}

pub(super) fn entries() -> Vec<Entry> {
    fn over(shape: &[usize], dims: &[i64], keepdim: bool) -> Sample {
        Sample::of([Input::float(shape, -2.0, 2.0)]).ints("dims", dims).flag("keepdim", keepdim)
    }
    let samples = || {
        vec![
            over(&[2, 3], &[], false),
            over(&[2, 3], &[0], false),
            over(&[2, 3], &[-1], true),
            over(&[2, 3, 4], &[0, 2], false),
            over(&[2, 3, 4], &[1, 2], true),
            over(&[], &[], false),
            over(&[3, 0], &[0], false),
            over(&[1, 1, 5], &[0, 1], true),
            over(&[20, 5], &[0], false),
        ]
    };
    let errors = || {
        vec![
            ErrorCase::new("an axis too far", "axis 2 does not exist", || {
                vec![Tensor::zeros([2, 3], DType::F32)]
            })
            .ints("dims", &[2]),
            ErrorCase::new("an axis twice", "twice", || vec![Tensor::zeros([2, 3], DType::F32)])
                .ints("dims", &[0, -2]),
            ErrorCase::new("ids", "u32", || vec![Tensor::zeros(2, DType::U32)]),
        ]
    };
    vec![
        Entry::new("sum", |x, a| Ok(vec![x[0].sum(&a.dims("dims"), a.flag("keepdim"))?]))
            .samples(samples)
            .errors(errors),
        Entry::new("mean", |x, a| Ok(vec![x[0].mean(&a.dims("dims"), a.flag("keepdim"))?]))
            .samples(samples)
            .errors(errors),
        Entry::new("max", |x, a| {
            let (values, indices) = x[0].max(a.dim("dim"), a.flag("keepdim"))?;
            Ok(vec![values, indices])
        })
        .samples(|| {
            let shapes: [&[usize]; 4] = [&[2, 3], &[4, 3, 2], &[1], &[0, 2]];
            let sample = |(shape, dim)| {
                Sample::of([Input::float(shape, -2.0, 2.0)])
                    .ints("dim", &[dim])
                    .flag("keepdim", dim == 1)
            };
            shapes.into_iter().zip([-1, 1, 0, 1]).map(sample).collect()
        })
        .errors(|| {
            vec![
                ErrorCase::new("nothing to compare", "no elements", || {
                    vec![Tensor::zeros([2, 0], DType::F32)]
                })
                .ints("dim", &[1]),
                ErrorCase::new("an axis too far", "does not exist", || {
                    vec![Tensor::zeros([2, 3], DType::F32)]
                })
                .ints("dim", &[-3]),
            ]
        }),
        Entry::new("argmax", |x, a| Ok(vec![x[0].argmax(a.dim("dim"))?]))
            .samples(|| vec![Sample::of([Input::float([3, 4], -2.0, 2.0)]).ints("dim", &[1])])
            .errors(|| {
                vec![ErrorCase::new("a scalar", "does not exist", || {
                    vec![Tensor::zeros((), DType::F32)]
                })]
            })
            .not_differentiable(),
    ]
}
