//! Views: the same buffer under another layout.
//!
//! No element moves. Backward undoes the change of layout on the gradient; a view that leaves
//! elements out (`slice`) puts its gradient into zeros.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::one;
use crate::autograd::record;
use crate::cpu::strided;
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, IntoShape, Layout, Tensor, checked_numel, kernel_any};

impl Tensor {
    /// The same elements, row-major, under another shape; a view where the strides allow it, a copy
    /// elsewhere.
    ///
    /// # Errors
    /// When the shapes have different numbers of elements.
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape();
        if checked_numel(&shape) != Some(self.numel()) {
            return Err(Error::op(
                "reshape",
                format!(
                    "shape {:?} has {} elements, {:?} does not hold as many",
                    self.shape(),
                    self.numel(),
                    shape.as_slice()
                ),
            ));
        }
        let y = match self.layout().reshape(&shape) {
            Some(layout) => self.with_layout(layout),
            None => self.copy()?.with_layout(Layout::contiguous(shape)),
        };
        record("reshape", &[self])
            .ints(self.shape())
            .backward(|ctx, dy| one(dy.reshape(ctx.ints.as_slice())?))
            .output(y)
    }

    /// Merges the axes `start..=end` into one.
    ///
    /// # Errors
    /// For axes that do not exist or are out of order.
    #[track_caller]
    pub fn flatten(&self, start: isize, end: isize) -> Result<Tensor> {
        let (a, b) = (self.axis("flatten", start)?, self.axis("flatten", end)?);
        if a > b {
            return Err(Error::op("flatten", format!("axis {start} comes after axis {end}")));
        }
        let mut shape = Dims::from_slice(&self.shape()[..a]);
        shape.push(self.shape()[a..=b].iter().product());
        shape.extend_from_slice(&self.shape()[b + 1..]);
        self.reshape(shape)
    }

    /// Swaps two axes.
    ///
    /// # Errors
    /// For axes that do not exist.
    #[track_caller]
    pub fn transpose(&self, dim0: isize, dim1: isize) -> Result<Tensor> {
        let (a, b) = (self.axis("transpose", dim0)?, self.axis("transpose", dim1)?);
        record("transpose", &[self])
            .ints(&[a, b])
            .backward(
                |ctx, dy| one(dy.with_layout(dy.layout().transpose(ctx.ints[0], ctx.ints[1]))),
            )
            .output(self.with_layout(self.layout().transpose(a, b)))
    }

    /// Swaps the two axes of a matrix.
    ///
    /// # Errors
    /// When the tensor is not a matrix.
    #[track_caller]
    pub fn t(&self) -> Result<Tensor> {
        if self.rank() != 2 {
            return Err(Error::op("t", format!("shape {:?} is not a matrix", self.shape())));
        }
        self.transpose(0, 1)
    }

    /// Puts the axes into the order `dims`: axis `i` of the result is axis `dims[i]` of this tensor.
    ///
    /// # Errors
    /// When `dims` does not name each axis once.
    #[track_caller]
    pub fn permute(&self, dims: &[isize]) -> Result<Tensor> {
        let mut axes = Dims::new();
        for &dim in dims {
            axes.push(self.axis("permute", dim)?);
        }
        let once = (0..self.rank()).all(|axis| axes.iter().filter(|&&a| a == axis).count() == 1);
        if axes.len() != self.rank() || !once {
            return Err(Error::op(
                "permute",
                format!("{dims:?} does not name each axis of shape {:?} once", self.shape()),
            ));
        }
        record("permute", &[self])
            .ints(&axes)
            .backward(|ctx, dy| {
                let mut inverse = Dims::from_elem(0, ctx.ints.len());
                ctx.ints.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
                one(dy.with_layout(dy.layout().permute(&inverse)))
            })
            .output(self.with_layout(self.layout().permute(&axes)))
    }

    /// The indices `start..start + len` of axis `dim`.
    ///
    /// # Errors
    /// When the range leaves the axis.
    #[track_caller]
    pub fn narrow(&self, dim: isize, start: usize, len: usize) -> Result<Tensor> {
        let axis = self.axis("narrow", dim)?;
        let size = self.shape()[axis];
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::op(
                "narrow",
                format!("{len} elements from {start} leave axis {dim} of size {size}"),
            ));
        }
        self.strided_slice("narrow", axis, start, len, 1)
    }

    /// Every `step`-th index of axis `dim` from `start` (included) to `end` (excluded).
    ///
    /// # Errors
    /// For a step of 0 or a range that leaves the axis.
    #[track_caller]
    pub fn slice(&self, dim: isize, start: usize, end: usize, step: usize) -> Result<Tensor> {
        let axis = self.axis("slice", dim)?;
        let size = self.shape()[axis];
        if step == 0 || start > end || end > size {
            return Err(Error::op(
                "slice",
                format!("{start}..{end} by {step} is not a range within axis {dim} of size {size}"),
            ));
        }
        self.strided_slice("slice", axis, start, (end - start).div_ceil(step), step)
    }

    #[track_caller]
    fn strided_slice(
        &self,
        name: &'static str,
        axis: usize,
        start: usize,
        len: usize,
        step: usize,
    ) -> Result<Tensor> {
        let y = self.with_layout(self.layout().slice(axis, start, len, step));
        record(name, &[self])
            .ints(&[axis, start, step])
            .ints(self.shape())
            .backward(|ctx, dy| {
                let [axis, start, step] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
                let mut dx = dy.new_full(&ctx.ints[3..], 0.0)?;
                let hole = dx.layout().slice(axis, start, dy.shape()[axis], step);
                let dy = dy.packed()?;
                if dy.numel() > 0 {
                    kernel_any!(dy, E => strided::scatter::<E>(
                        dx.slice_mut_from(hole.offset), &hole.strides, dy.slice_ref(), &hole.shape
                    ));
                }
                one(dx)
            })
            .output(y)
    }

    /// Index `index` of axis `dim`; the axis disappears.
    ///
    /// # Errors
    /// When there is no such index.
    #[track_caller]
    pub fn select(&self, dim: isize, index: usize) -> Result<Tensor> {
        self.narrow(dim, index, 1)?.squeeze(dim)
    }

    /// Repeats axes of size 1, and new leading axes, to `shape`, without copying.
    ///
    /// # Errors
    /// When a size other than 1 would have to change.
    #[track_caller]
    pub fn expand(&self, shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape();
        let fits = shape.len() >= self.rank()
            && checked_numel(&shape).is_some()
            && self.shape().iter().rev().zip(shape.iter().rev()).all(|(a, b)| a == b || *a == 1);
        if !fits {
            return Err(Error::op(
                "expand",
                format!("shape {:?} does not expand to {:?}", self.shape(), shape.as_slice()),
            ));
        }
        record("expand", &[self])
            .ints(self.shape())
            .backward(|ctx, dy| one(dy.sum_to(&ctx.ints)?))
            .output(self.with_layout(self.layout().expand(&shape)))
    }

    /// Removes axis `dim`, which must have size 1.
    ///
    /// # Errors
    /// When it has another size.
    #[track_caller]
    pub fn squeeze(&self, dim: isize) -> Result<Tensor> {
        let axis = self.axis("squeeze", dim)?;
        if self.shape()[axis] != 1 {
            return Err(Error::op(
                "squeeze",
                format!(
                    "axis {dim} of shape {:?} has size {}, not 1",
                    self.shape(),
                    self.shape()[axis]
                ),
            ));
        }
        record("squeeze", &[self])
            .ints(&[axis])
            .backward(|ctx, dy| one(dy.with_layout(dy.layout().unsqueeze(ctx.ints[0]))))
            .output(self.with_layout(self.layout().squeeze(axis)))
    }

    /// Inserts an axis of size 1 so that it becomes axis `dim` of the result.
    ///
    /// # Errors
    /// When the result has no such axis.
    #[track_caller]
    pub fn unsqueeze(&self, dim: isize) -> Result<Tensor> {
        let rank = self.rank() as isize + 1;
        let axis = if dim < 0 { dim + rank } else { dim };
        if !(0..rank).contains(&axis) {
            return Err(Error::op(
                "unsqueeze",
                format!("shape {:?} with one axis more has no axis {dim}", self.shape()),
            ));
        }
        record("unsqueeze", &[self])
            .ints(&[axis as usize])
            .backward(|ctx, dy| one(dy.with_layout(dy.layout().squeeze(ctx.ints[0]))))
            .output(self.with_layout(self.layout().unsqueeze(axis as usize)))
    }

    /// Pieces of `size` along `dim`; the last may be smaller.
    ///
    /// # Errors
    /// For a size of 0 or an axis that does not exist.
    #[track_caller]
    pub fn split(&self, size: usize, dim: isize) -> Result<Vec<Tensor>> {
        let n = self.shape()[self.axis("split", dim)?];
        if size == 0 {
            return Err(Error::op("split", "pieces of size 0 never end"));
        }
        (0..n.max(1))
            .step_by(size)
            .map(|start| self.narrow(dim, start, size.min(n - start)))
            .collect()
    }

    /// At most `n` pieces of equal size along `dim`; the last may be smaller.
    ///
    /// # Errors
    /// For `n` of 0 or an axis that does not exist.
    #[track_caller]
    pub fn chunk(&self, n: usize, dim: isize) -> Result<Vec<Tensor>> {
        if n == 0 {
            return Err(Error::op("chunk", "0 pieces cannot hold anything"));
        }
        let size = self.shape()[self.axis("chunk", dim)?];
        self.split(size.div_ceil(n).max(1), dim)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    fn float(shape: &[usize]) -> Sample {
        Sample::of([Input::float(shape, -2.0, 2.0)])
    }
    fn f32s(shape: &'static [usize]) -> Vec<Result<Tensor>> {
        vec![Tensor::zeros(shape, DType::F32)]
    }
    vec![
        Entry::new("reshape", |x, a| Ok(vec![x[0].reshape(a.shape("shape"))?]))
            .samples(|| {
                vec![
                    float(&[2, 6]).ints("shape", &[3, 4]),
                    float(&[1]).ints("shape", &[]),
                    float(&[0, 3]).ints("shape", &[3, 0, 2]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("too few", "does not hold as many", || f32s(&[2, 3]))
                        .ints("shape", &[5]),
                    ErrorCase::new("overflow", "does not hold as many", || f32s(&[2, 3]))
                        .ints("shape", &[i64::MAX, i64::MAX]),
                ]
            }),
        Entry::new("flatten", |x, a| Ok(vec![x[0].flatten(a.dims("dims")[0], a.dims("dims")[1])?]))
            .samples(|| vec![float(&[2, 3, 4]).ints("dims", &[-2, -1])])
            .errors(|| {
                vec![
                    ErrorCase::new("out of order", "comes after", || f32s(&[2, 3]))
                        .ints("dims", &[1, 0]),
                ]
            }),
        Entry::new("transpose", |x, a| {
            Ok(vec![x[0].transpose(a.dims("dims")[0], a.dims("dims")[1])?])
        })
        .samples(|| vec![float(&[2, 3, 4]).ints("dims", &[0, -1])])
        .errors(|| {
            vec![
                ErrorCase::new("an axis too far", "does not exist", || f32s(&[2, 3]))
                    .ints("dims", &[0, 2]),
            ]
        }),
        Entry::new("t", |x, _| Ok(vec![x[0].t()?]))
            .samples(|| vec![float(&[2, 3])])
            .errors(|| vec![ErrorCase::new("a vector", "not a matrix", || f32s(&[2]))]),
        Entry::new("permute", |x, a| Ok(vec![x[0].permute(&a.dims("dims"))?]))
            .samples(|| vec![float(&[2, 3, 4]).ints("dims", &[2, 0, 1])])
            .errors(|| {
                vec![
                    ErrorCase::new("an axis twice", "once", || f32s(&[2, 3])).ints("dims", &[0, 0]),
                    ErrorCase::new("an axis missing", "once", || f32s(&[2, 3])).ints("dims", &[0]),
                ]
            }),
        Entry::new("narrow", |x, a| {
            let r = a.shape("range");
            Ok(vec![x[0].narrow(a.dim("dim"), r[0], r[1])?])
        })
        .samples(|| {
            vec![
                float(&[2, 5]).ints("dim", &[1]).ints("range", &[1, 3]),
                float(&[2, 5]).ints("dim", &[0]).ints("range", &[2, 0]),
            ]
        })
        .errors(|| {
            vec![
                ErrorCase::new("past the end", "leave axis", || f32s(&[4]))
                    .ints("dim", &[0])
                    .ints("range", &[2, 3]),
            ]
        }),
        Entry::new("slice", |x, a| {
            let r = a.shape("range");
            Ok(vec![x[0].slice(a.dim("dim"), r[0], r[1], r[2])?])
        })
        .samples(|| vec![float(&[2, 7]).ints("dim", &[1]).ints("range", &[1, 7, 3])])
        .errors(|| {
            vec![
                ErrorCase::new("a step of 0", "not a range", || f32s(&[4]))
                    .ints("dim", &[0])
                    .ints("range", &[0, 4, 0]),
            ]
        }),
        Entry::new("select", |x, a| Ok(vec![x[0].select(a.dim("dim"), a.int("index") as usize)?]))
            .samples(|| vec![float(&[3, 4]).ints("dim", &[0]).ints("index", &[2])])
            .errors(|| {
                vec![
                    ErrorCase::new("past the end", "leave axis", || f32s(&[4]))
                        .ints("dim", &[0])
                        .ints("index", &[4]),
                ]
            }),
        Entry::new("expand", |x, a| Ok(vec![x[0].expand(a.shape("shape"))?]))
            .samples(|| {
                vec![
                    float(&[2, 1, 3]).ints("shape", &[4, 2, 5, 3]),
                    float(&[]).ints("shape", &[2, 2]),
                    float(&[1, 2]).ints("shape", &[0, 2]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("a size that is not 1", "does not expand", || f32s(&[2]))
                        .ints("shape", &[3]),
                ]
            }),
        Entry::new("squeeze", |x, a| Ok(vec![x[0].squeeze(a.dim("dim"))?]))
            .samples(|| vec![float(&[2, 1, 3]).ints("dim", &[1])])
            .errors(|| {
                vec![ErrorCase::new("a size of 2", "not 1", || f32s(&[2])).ints("dim", &[0])]
            }),
        Entry::new("unsqueeze", |x, a| Ok(vec![x[0].unsqueeze(a.dim("dim"))?]))
            .samples(|| vec![float(&[2, 3]).ints("dim", &[-1]), float(&[2, 3]).ints("dim", &[1])])
            .errors(|| {
                vec![ErrorCase::new("too far", "has no axis", || f32s(&[2])).ints("dim", &[3])]
            }),
        Entry::new("split", |x, a| x[0].split(a.int("size") as usize, a.dim("dim")))
            .samples(|| vec![float(&[2, 5]).ints("size", &[2]).ints("dim", &[1])])
            .errors(|| {
                vec![ErrorCase::new("size 0", "never end", || f32s(&[2])).ints("size", &[0])]
            }),
        Entry::new("chunk", |x, a| x[0].chunk(a.int("n") as usize, a.dim("dim")))
            .samples(|| vec![float(&[6, 2]).ints("n", &[3]).ints("dim", &[0])])
            .errors(|| vec![ErrorCase::new("0 pieces", "0 pieces", || f32s(&[2])).ints("n", &[0])]),
    ]
}
