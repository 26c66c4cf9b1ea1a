//! The affine map of a linear layer, bias fused into the product, and what comes after it where that can be done
//! while the outputs are near.
//!
//! `y = x Wᵀ + b` with x `[…, in]`, W `[out, in]` (PyTorch's layout), b `[out]`, y `[…, out]`.
//!
//! ```text
//! dx = dy W            [N, out] · [out, in]
//! dW = dyᵀ x           [out, N] · [N, in]
//! db = Σ rows of dy
//!
//! linear_add           y = x Wᵀ + b + r          dr = dy
//! linear_gelu          u = x Wᵀ + b, y = gelu(u)  du = dy · gelu′(u), and on with du
//! ```
//!
//! One of x and W may be bf16 beside the other in f32: half the memory, read as it is; y is f32. What is bf16 is summed in
//! f32 and rounded once, at the end; where x is bf16, products are those of [`Precision::Medium`], which lose nothing of it.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{
    expect_shape, grads, precision_for, readable, rows_and_cols, same_device, same_dtype,
    same_dtype_or_bf16,
};
use crate::autograd::{Context, record};
use crate::cpu::gemm::{self, Epilogue, Factor, Precision};
use crate::cpu::linear::{self as kernels, Operands};
use crate::cpu::reduce::{self, Reduce};
use crate::cpu::unary::{self, Unary};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Dims, Element, Tensor, for_float, kernel_on};

/// A row-major matrix with `$cols` columns, read as it is.
macro_rules! plain {
    ($x:expr, $cols:expr) => {
        Factor { data: $x.slice_ref(), row_stride: $cols, col_stride: 1 }
    };
}

/// A row-major matrix with `$cols` columns, read as its transpose.
macro_rules! flipped {
    ($x:expr, $cols:expr) => {
        Factor { data: $x.slice_ref(), row_stride: 1, col_stride: $cols }
    };
}

/// Checks the operands of `name` and gives the shape of its output.
#[track_caller]
fn check(name: &'static str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Dims> {
    match (x.dtype(), weight.dtype()) {
        (DType::BF16, DType::F32) => same_device(name, x, weight)?,
        _ => same_dtype_or_bf16(name, x, weight)?,
    }
    let &[out, inner] = weight.shape() else {
        return Err(Error::op(name, format!("weight {:?} is not a matrix", weight.shape())));
    };
    if x.rank() == 0 || x.shape()[x.rank() - 1] != inner {
        return Err(Error::op(
            name,
            format!(
                "x has shape {:?}; a weight of shape [{out}, {inner}] takes […, {inner}]",
                x.shape()
            ),
        ));
    }
    if let Some(bias) = bias {
        same_dtype(name, wider(x, weight), bias)?;
        expect_shape(name, "bias", bias, &[out])?;
    }
    let mut shape = Dims::from_slice(x.shape());
    shape[x.rank() - 1] = out;
    Ok(shape)
}

/// Whose type outputs have: of x and W the one that is not bf16, if there is one.
fn wider<'a>(x: &'a Tensor, weight: &'a Tensor) -> &'a Tensor {
    if x.dtype() == DType::BF16 { weight } else { x }
}

/// Operands as the kernels read them: x and W in the type of the sums or in bf16, the bias in that of the sums.
struct Call {
    x: Tensor,
    w: Tensor,
    bias: Option<Tensor>,
    /// The type of the outputs.
    dtype: DType,
    precision: Precision,
    rows: usize,
    inner: usize,
    out: usize,
}

impl Call {
    /// Of operands that fit together.
    fn new(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Call> {
        let (rows, _) = rows_and_cols(x.shape());
        let (out, inner) = (weight.shape()[0], weight.shape()[1]);
        let bias = bias.map(|b| b.cast(b.dtype().summed_in())).transpose()?;
        let (x, w, precision) =
            (readable(x)?.packed()?, readable(weight)?.packed()?, precision_for(x));
        let dtype = wider(&x, &w).dtype();
        Ok(Call { x, w, bias, dtype, precision, rows, inner, out })
    }

    /// Room for outputs of this shape, before they are rounded to their type.
    fn output(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::empty_on(shape, self.dtype.summed_in(), self.x.device())
    }

    fn operands<T: Element>(&self) -> Operands<'_, T> {
        let (x, w) = (self.x.slice_ref(), self.w.slice_ref());
        let (bias, precision) = (self.bias.as_ref().map(Tensor::slice_ref), self.precision);
        Operands { x, w, bias, precision, rows: self.rows, inner: self.inner, out: self.out }
    }

    /// Of the product alone.
    fn flops(&self) -> u64 {
        2 * (self.rows * self.out * self.inner) as u64
    }
}

/// `x Wᵀ + b`: x `[…, in]`, weight `[out, in]`, bias `[out]`.
///
/// # Errors
/// When the shapes do not fit, dtypes differ (but for one of x and weight in bf16 beside the other in f32), or for `u32`.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let shape = check("linear", x, weight, bias)?;
    let call = Call::new(x, weight, bias)?;
    let Call { rows, inner, out, precision, .. } = call;
    let mut y = Tensor::empty_on(&shape[..], call.dtype, x.device())?;
    kernel_on!("linear", y.device(), y.dtype().summed_in(), T => {
        let epilogue = call.bias.as_ref().map_or(Epilogue::None, |b| Epilogue::Bias(b.slice_ref()));
        let (x, w) = (plain!(call.x, inner), flipped!(call.w, inner));
        gemm::gemm_to::<T>(precision, y.slice_mut(), x, w, rows, out, inner, epilogue)
    });
    let mut inputs: smallvec::SmallVec<[&Tensor; 3]> = smallvec::smallvec![x, weight];
    inputs.extend(bias);
    record("linear", &inputs)
        .save(&[&call.x, &call.w])
        .flops(call.flops())
        .backward(|mut ctx, dy| {
            let bias = ctx.needs.get(2) == Some(&true);
            grads(backward(&mut ctx, &dy, dy.dtype(), bias)?)
        })
        .output(y.cast(wider(x, weight).dtype())?)
}

/// `x Wᵀ + b + residual`, the end of a branch that leads around a residual stream: residual and output `[…, out]`.
///
/// # Errors
/// As [`linear`]; when the residual has another shape or dtype than the output.
#[track_caller]
pub fn linear_add(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: &Tensor,
) -> Result<Tensor> {
    let shape = check("linear_add", x, weight, bias)?;
    same_dtype("linear_add", wider(x, weight), residual)?;
    expect_shape("linear_add", "residual", residual, &shape)?;
    if x.device() != Device::Cpu {
        return residual.add(&linear(x, weight, bias)?);
    }
    let (call, r) = (Call::new(x, weight, bias)?, residual.cast(residual.dtype().summed_in())?);
    let mut y = call.output(&shape)?;
    for_float!("linear_add", y.dtype(), T => {
        kernels::forward_add::<T>(y.slice_mut(), r.slice_ref(), call.operands())
    });
    let mut inputs: smallvec::SmallVec<[&Tensor; 4]> = smallvec::smallvec![x, weight, residual];
    inputs.extend(bias);
    record("linear_add", &inputs)
        .save(&[&call.x, &call.w])
        .flops(call.flops())
        .backward(|mut ctx, dy| {
            let bias = ctx.needs.get(3) == Some(&true);
            let dr = ctx.needs[2].then(|| dy.clone());
            let [dx, dw, db] = backward(&mut ctx, &dy, dy.dtype(), bias)?;
            grads([dx, dw, dr, db])
        })
        .output(y.cast(residual.dtype())?)
}

/// `gelu(x Wᵀ + b)`, by GELU's `tanh` form or by the error function: the first half of a feed-forward layer.
///
/// # Errors
/// As [`linear`].
#[track_caller]
pub fn linear_gelu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    tanh: bool,
) -> Result<Tensor> {
    linear_gelu_to(x, weight, bias, tanh, wider(x, weight).dtype())
}

/// As [`linear_gelu`], with the output in `dtype`, which is its own or, on the CPU, bf16 for f32. Then what is kept for
/// backward is bf16 too, and so are the gradients of both; that of u is summed for the bias before it is rounded.
///
/// # Errors
/// As [`linear`].
#[track_caller]
pub(crate) fn linear_gelu_to(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    tanh: bool,
    dtype: DType,
) -> Result<Tensor> {
    let shape = check("linear_gelu", x, weight, bias)?;
    if x.device() != Device::Cpu {
        let u = linear(x, weight, bias)?;
        return if tanh { u.gelu_tanh() } else { u.gelu() }?.to_dtype(dtype);
    }
    let call = Call::new(x, weight, bias)?;
    let rounded = (call.dtype, dtype) == (DType::F32, DType::BF16);
    let kept = if rounded { dtype } else { call.dtype.summed_in() };
    let room = || Tensor::empty_on(&shape[..], kept, Device::Cpu);
    let (mut y, mut u) = (room()?, room()?);
    if rounded {
        let (y, u) = (y.slice_mut(), u.slice_mut());
        kernels::forward_then_rounded::<f32>(gelu(tanh), y, u, call.operands());
    } else {
        for_float!("linear_gelu", kept, T => {
            let (y, u) = (y.slice_mut(), u.slice_mut());
            kernels::forward_then::<T>(gelu(tanh), y, u, call.operands())
        });
    }
    let mut inputs: smallvec::SmallVec<[&Tensor; 3]> = smallvec::smallvec![x, weight];
    inputs.extend(bias);
    record("linear_gelu", &inputs)
        .save(&[&call.x, &call.w, &u])
        .ints(&[tanh as usize])
        .flops(call.flops())
        .backward(|mut ctx, dy| {
            let (u, to) = (ctx.take(2)?, dy.dtype());
            let (op, bias) = (gelu(ctx.ints[0] == 1), ctx.needs.get(2) == Some(&true));
            let wide = dy.cast(u.dtype())?.packed()?;
            drop(dy);
            let mut du = wide.new_empty(wide.shape())?;
            if u.dtype() == DType::BF16 {
                let (_, out) = rows_and_cols(u.shape());
                let mut db =
                    bias.then(|| Tensor::empty_on(out, DType::F32, Device::Cpu)).transpose()?;
                let sums = db.as_mut().map(|db| db.slice_mut());
                let (to, dy) = (du.slice_mut(), wide.slice_ref());
                unary::backward_rounded::<f32>(op, to, sums, dy, u.slice_ref(), out);
                drop((wide, u));
                let [dx, dw, _] = backward(&mut ctx, &du, DType::F32, false)?;
                return grads([dx, dw, db]);
            }
            for_float!("linear_gelu", du.dtype(), T => {
                unary::backward::<T>(op, du.slice_mut(), wide.slice_ref(), u.slice_ref(), &[])
            });
            drop((wide, u));
            grads(backward(&mut ctx, &du, to, bias)?)
        })
        .output(y.cast(dtype)?)
}

fn gelu(tanh: bool) -> Unary {
    if tanh { Unary::GeluTanh } else { Unary::Gelu }
}

/// `[dx, dW, db]` of `x Wᵀ + b` where they are needed, in the types of x, W and b: bf16, or that of the outputs, which is
/// `to`. x and W are the first that are saved and the first two inputs.
fn backward(ctx: &mut Context, dy: &Tensor, to: DType, bias: bool) -> Result<[Option<Tensor>; 3]> {
    let (x, w, dy) = (ctx.take(0)?, ctx.take(1)?, readable(dy)?.packed()?);
    let (out, inner) = (w.shape()[0], w.shape()[1]);
    let (rows, _) = rows_and_cols(x.shape());
    let sums = dy.dtype().summed_in();
    // Rounded on the way out where that is all that is left to do.
    let type_of = |input: &Tensor| if input.dtype() == DType::BF16 { DType::BF16 } else { sums };
    let fresh = |needed: bool, of: &Tensor| {
        needed.then(|| Tensor::empty_on(of.shape(), type_of(of), dy.device())).transpose()
    };
    let mut dx = fresh(ctx.needs[0], &x)?;
    let mut dw = fresh(ctx.needs[1], &w)?;
    let mut db = bias.then(|| Tensor::empty_on(out, sums, dy.device())).transpose()?;
    let precision = precision_for(&x);
    kernel_on!("linear", dy.device(), sums, T => {
        if let Some(dx) = &mut dx {
            let (dy, w) = (plain!(dy, out), plain!(w, inner));
            gemm::gemm_to::<T>(precision, dx.slice_mut(), dy, w, rows, inner, out, Epilogue::None);
        }
        if let Some(dw) = &mut dw {
            let (dy, x) = (flipped!(dy, out), plain!(x, inner));
            gemm::gemm_to::<T>(precision, dw.slice_mut(), dy, x, out, inner, rows, Epilogue::None);
        }
        if let Some(db) = &mut db {
            let dy = dy.cast(sums)?;
            reduce::forward::<T>(Reduce::Sum, db.slice_mut(), None, dy.slice_ref(), 1, rows, out);
        }
    });
    let as_input = |grad: Option<Tensor>, like: DType| {
        let to = if like == DType::BF16 { like } else { to };
        grad.map(|grad| grad.cast(to)).transpose()
    };
    Ok([as_input(dx, x.dtype())?, as_input(dw, w.dtype())?, as_input(db, sums)?])
}

fn float(shape: &[usize]) -> Input {
    Input::float(shape, -1.0, 1.0)
}

fn zeros(shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("linear", |x, _| Ok(vec![linear(&x[0], &x[1], x.get(2))?]))
            .samples(|| {
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
                        vec![zeros(&[2, 3]), zeros(&[5, 4])]
                    }),
                    ErrorCase::new("bias size", "bias has shape [4], expected [5]", || {
                        vec![zeros(&[2, 3]), zeros(&[5, 3]), zeros(&[4])]
                    }),
                    ErrorCase::new("a weight that is no matrix", "not a matrix", || {
                        vec![zeros(&[2, 3]), zeros(&[3])]
                    }),
                ]
            }),
        Entry::new("linear_add", |x, _| Ok(vec![linear_add(&x[0], &x[1], x.get(3), &x[2])?]))
            .samples(|| {
                vec![
                    Sample::of([float(&[2, 3]), float(&[4, 3]), float(&[2, 4]), float(&[4])]),
                    Sample::of([float(&[2, 2, 3]), float(&[4, 3]), float(&[2, 2, 4])]),
                    Sample::of([float(&[3]), float(&[1, 3]), float(&[1]), float(&[1])]),
                    Sample::of([float(&[0, 3]), float(&[2, 3]), float(&[0, 2]), float(&[2])]),
                    Sample::of([float(&[2, 0]), float(&[3, 0]), float(&[2, 3]), float(&[3])]),
                ]
            })
            .errors(|| {
                vec![
                    ErrorCase::new("inner size", "takes […, 4]", || {
                        vec![zeros(&[2, 3]), zeros(&[5, 4]), zeros(&[2, 5])]
                    }),
                    ErrorCase::new(
                        "residual size",
                        "residual has shape [5], expected [2, 5]",
                        || vec![zeros(&[2, 3]), zeros(&[5, 3]), zeros(&[5])],
                    ),
                ]
            }),
        Entry::new("linear_gelu", |x, a| {
            Ok(vec![linear_gelu(&x[0], &x[1], x.get(2), a.flag("tanh"))?])
        })
        .samples(|| {
            vec![
                Sample::of([float(&[2, 3]), float(&[4, 3]), float(&[4])]).flag("tanh", true),
                Sample::of([float(&[2, 2, 3]), float(&[4, 3])]).flag("tanh", false),
                Sample::of([float(&[3]), float(&[1, 3]), float(&[1])]).flag("tanh", true),
                Sample::of([float(&[0, 3]), float(&[2, 3]), float(&[2])]).flag("tanh", false),
                Sample::of([float(&[2, 0]), float(&[3, 0]), float(&[3])]).flag("tanh", true),
            ]
        })
        .errors(|| {
            vec![
                ErrorCase::new("inner size", "takes […, 4]", || {
                    vec![zeros(&[2, 3]), zeros(&[5, 4])]
                }),
                ErrorCase::new("a weight that is no matrix", "not a matrix", || {
                    vec![zeros(&[2, 3]), zeros(&[3])]
                }),
            ]
        }),
    ]
}
