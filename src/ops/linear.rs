//! The affine map of a linear layer, bias fused into the product.
//!
//! `y = x Wᵀ + b` with x `[…, in]`, W `[out, in]` (PyTorch's layout), b `[out]`, y `[…, out]`.
//!
//! ```text
//! dx = dy W            [N, out] · [out, in]
//! dW = dyᵀ x           [out, N] · [N, in]
//! db = Σ rows of dy
//! ```

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{expect_shape, grads, rows_and_cols, same_dtype};
use crate::autograd::{Mode, record};
use crate::cpu::gemm::{self, Epilogue, Mat};
use crate::cpu::reduce::{self, Reduce};
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, Tensor, kernel};

/// A row-major matrix with `$cols` columns, read as it is.
macro_rules! plain {
    ($x:expr, $cols:expr) => {
        Mat { data: $x.slice_ref(), row_stride: $cols, col_stride: 1 }
    };
}

/// A row-major matrix with `$cols` columns, read as its transpose.
macro_rules! flipped {
    ($x:expr, $cols:expr) => {
        Mat { data: $x.slice_ref(), row_stride: 1, col_stride: $cols }
    };
}

/// `x Wᵀ + b`: x `[…, in]`, weight `[out, in]`, bias `[out]`.
///
/// # Errors
/// When the shapes do not fit, dtypes differ, or for `u32`.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    same_dtype("linear", x, weight)?;
    if x.dtype().is_half() {
        let bias = bias.map(|b| b.to_dtype(DType::F32)).transpose()?;
        let (x32, w32) = (x.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
        return linear(&x32, &w32, bias.as_ref())?.to_dtype(x.dtype());
    }
    let &[out, inner] = weight.shape() else {
        return Err(Error::op("linear", format!("weight {:?} is not a matrix", weight.shape())));
    };
    if x.rank() == 0 || x.shape()[x.rank() - 1] != inner {
        return Err(Error::op(
            "linear",
            format!(
                "x has shape {:?}; a weight of shape [{out}, {inner}] takes […, {inner}]",
                x.shape()
            ),
        ));
    }
    if let Some(bias) = bias {
        same_dtype("linear", x, bias)?;
        expect_shape("linear", "bias", bias, &[out])?;
    }
    let (x_packed, w) = (x.packed()?, weight.packed()?);
    let bias_packed = bias.map(Tensor::packed).transpose()?;
    let (rows, _) = rows_and_cols(x.shape());
    let mut shape = Dims::from_slice(x.shape());
    shape[x.rank() - 1] = out;
    let mut y = x.new_empty(&shape)?;
    let precision = Mode::current().precision;
    kernel!("linear", x, T => {
        let epilogue = bias_packed.as_ref().map_or(Epilogue::None, |b| Epilogue::Bias(b.slice_ref()));
        let (x, w) = (plain!(x_packed, inner), flipped!(w, inner));
        gemm::gemm_at::<T>(precision, y.slice_mut(), out, x, w, rows, out, inner, false, epilogue)
    });
    let mut inputs: smallvec::SmallVec<[&Tensor; 3]> = smallvec::smallvec![x, weight];
    inputs.extend(bias);
    record("linear", &inputs)
        .save(&[&x_packed, &w])
        .flops(2 * (rows * out * inner) as u64)
        .backward(|mut ctx, dy| {
            let (x, w, dy) = (ctx.take(0)?, ctx.take(1)?, dy.packed()?);
            let (out, inner) = (w.shape()[0], w.shape()[1]);
            let (rows, _) = rows_and_cols(x.shape());
            let fresh = |needed: bool, shape: &[usize]| {
                needed.then(|| dy.new_empty(shape)).transpose()
            };
            let mut dx = fresh(ctx.needs[0], x.shape())?;
            let mut dw = fresh(ctx.needs[1], w.shape())?;
            let mut db = fresh(ctx.needs.get(2) == Some(&true), &[out])?;
            let precision = Mode::current().precision;
            kernel!("linear", dy, T => {
                if let Some(dx) = &mut dx {
                    let (dy, w) = (plain!(dy, out), plain!(w, inner));
                    gemm::gemm_at::<T>(precision, dx.slice_mut(), inner, dy, w, rows, inner, out, false, Epilogue::None);
                }
                if let Some(dw) = &mut dw {
                    let (dy, x) = (flipped!(dy, out), plain!(x, inner));
                    gemm::gemm_at::<T>(precision, dw.slice_mut(), inner, dy, x, out, inner, rows, false, Epilogue::None);
                }
                if let Some(db) = &mut db {
                    reduce::forward::<T>(Reduce::Sum, db.slice_mut(), None, dy.slice_ref(), 1, rows, out);
                }
            });
            grads([dx, dw, db])
        })
        .output(y)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("linear", |x, _| Ok(vec![linear(&x[0], &x[1], x.get(2))?]))
            .samples(|| {
                let float = |shape: &[usize]| Input::float(shape, -1.0, 1.0);
                vec![
                    Sample::of([float(&[2, 3]), float(&[4, 3]), float(&[4])]),
                    Sample::of([float(&[2, 2, 3]), float(&[4, 3])]),
                    Sample::of([float(&[3]), float(&[1, 3]), float(&[1])]),
                    Sample::of([float(&[0, 3]), float(&[2, 3]), float(&[2])]),
                    Sample::of([float(&[2, 0]), float(&[3, 0]), float(&[3])]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("inner size", "takes […, 4]", || {
                        vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([5, 4], DType::F32)]
                    }),
                    ErrorCase::new("bias size", "bias has shape [4], expected [5]", || {
                        vec![
                            Tensor::zeros([2, 3], DType::F32),
                            Tensor::zeros([5, 3], DType::F32),
                            Tensor::zeros([4], DType::F32),
                        ]
                    }),
                    ErrorCase::new("a weight that is no matrix", "not a matrix", || {
                        vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([3], DType::F32)]
                    }),
                ]
            }),
    ]
}
