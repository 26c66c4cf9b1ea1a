//! Softmax and its logarithm along an axis.
//!
//! `y = eˣ / Σ eˣ` (the largest x is subtracted first, so nothing overflows).
//!
//! ```text
//! softmax:       dx = y · (dy − Σ dy·y)
//! log_softmax:   dx = dy − eʸ · Σ dy
//! ```

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::one;
use super::rows_and_cols;
use crate::autograd::record;
use crate::cpu::softmax;
use crate::error::Result;
use crate::tensor::{DType, Tensor, kernel};

impl Tensor {
    /// eˣ / Σ eˣ along `dim`. A slice that is −∞ throughout gives NaN.
    ///
    /// # Errors
    /// For an axis that does not exist and for `u32`.
    #[track_caller]
    pub fn softmax(&self, dim: isize) -> Result<Tensor> {
        let axis = self.axis("softmax", dim)?;
        if axis + 1 != self.rank() {
            // The kernel works on rows: bring the axis to the end and back.
            return self.transpose(dim, -1)?.softmax(-1)?.transpose(dim, -1);
        }
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.softmax(dim)?.to_dtype(self.dtype());
        }
        let (x, (rows, cols)) = (self.packed()?, rows_and_cols(self.shape()));
        let mut y = self.new_empty(self.shape())?;
        kernel!("softmax", self, T => {
            softmax::forward::<T>(y.slice_mut(), x.slice_ref(), rows, cols)
        });
        record("softmax", &[self])
            .save(&[&y])
            .flops(5 * self.numel() as u64)
            .backward(|mut ctx, dy| {
                let (y, dy) = (ctx.take(0)?, dy.packed()?);
                let (rows, cols) = rows_and_cols(y.shape());
                let mut dx = y.new_empty(y.shape())?;
                kernel!("softmax", dy, T => softmax::backward::<T>(
                    dx.slice_mut(), dy.slice_ref(), y.slice_ref(), rows, cols
                ));
                one(dx)
            })
            .output(y)
    }

    /// x − ln Σ eˣ along `dim`.
    ///
    /// # Errors
    /// As [`Tensor::softmax`].
    #[track_caller]
    pub fn log_softmax(&self, dim: isize) -> Result<Tensor> {
        let axis = self.axis("log_softmax", dim)?;
        if axis + 1 != self.rank() {
            return self.transpose(dim, -1)?.log_softmax(-1)?.transpose(dim, -1);
        }
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.log_softmax(dim)?.to_dtype(self.dtype());
        }
        let (x, (rows, cols)) = (self.packed()?, rows_and_cols(self.shape()));
        let mut y = self.new_empty(self.shape())?;
        kernel!("log_softmax", self, T => {
            softmax::log_forward::<T>(y.slice_mut(), x.slice_ref(), rows, cols)
        });
        record("log_softmax", &[self])
            .save(&[&y])
            .flops(5 * self.numel() as u64)
            .backward(|mut ctx, dy| {
                let (y, dy) = (ctx.take(0)?, dy.packed()?);
                let (rows, cols) = rows_and_cols(y.shape());
                let mut dx = y.new_empty(y.shape())?;
                kernel!("log_softmax", dy, T => softmax::log_backward::<T>(
                    dx.slice_mut(), dy.slice_ref(), y.slice_ref(), rows, cols
                ));
                one(dx)
            })
            .output(y)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let samples = || {
        let cases: [(&[usize], i64); 6] =
            [(&[2, 3], -1), (&[4, 3, 2], 1), (&[1], 0), (&[0, 3], 1), (&[2, 0], 1), (&[2, 19], -1)];
        cases
            .map(|(shape, dim)| Sample::of([Input::float(shape, -4.0, 4.0)]).ints("dim", &[dim]))
            .into()
    };
    let errors = || {
        vec![
            ErrorCase::new("a scalar", "does not exist", || vec![Tensor::zeros((), DType::F32)]),
            ErrorCase::new("ids", "u32", || vec![Tensor::zeros(3, DType::U32)]),
        ]
    };
    vec![
        Entry::new("softmax", |x, a| Ok(vec![x[0].softmax(a.dim("dim"))?]))
            .samples(samples)
            .errors(errors),
        Entry::new("log_softmax", |x, a| Ok(vec![x[0].log_softmax(a.dim("dim"))?]))
            .samples(samples)
            .errors(errors),
    ]
}
