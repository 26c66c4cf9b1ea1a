//! Functions of two elements with NumPy broadcasting: add, sub, mul, div, pow.
//!
//! | name | y | da | db |
//! |---|---|---|---|
//! | `add` | a + b | dy | dy |
//! | `sub` | a − b | dy | −dy |
//! | `mul` | a b | dy · b | dy · a |
//! | `div` | a / b | dy / b | −dy · a / b² |
//! | `pow` | aᵇ | dy · b aᵇ⁻¹ | dy · aᵇ ln a |
//!
//! Where an input was broadcast, its gradient is the sum over the axes along which it was repeated.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{grads, same_dtype};
use crate::autograd::{Context, Grads, record};
use crate::cpu::binary::{self, Binary};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, broadcast_shapes, kernel};

#[track_caller]
fn apply(
    name: &'static str,
    op: Binary,
    a: &Tensor,
    b: &Tensor,
    backward: fn(Context, Tensor) -> Result<Grads>,
) -> Result<Tensor> {
    same_dtype(name, a, b)?;
    if a.dtype().is_half() {
        let (a32, b32) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        return apply(name, op, &a32, &b32, backward)?.to_dtype(a.dtype());
    }
    let Some(shape) = broadcast_shapes(a.shape(), b.shape()) else {
        return Err(Error::op(
            name,
            format!(
                "shapes {:?} and {:?} do not broadcast: aligned at the right, sizes must be equal or 1",
                a.shape(),
                b.shape()
            ),
        ));
    };
    let mut y = a.new_empty(&shape)?;
    let (wide_a, wide_b) = (a.layout().expand(&shape), b.layout().expand(&shape));
    kernel!(name, a, T => binary::forward::<T>(
        op, y.slice_mut(), a.strided_ref(), &wide_a.strides, b.strided_ref(), &wide_b.strides, &shape
    ));
    let inputs = [a, b];
    let recorder = record(name, &inputs).flops(y.numel() as u64);
    // Sums need nothing but the shapes to go back; the others read a and b again.
    let recorder = match op {
        Binary::Add | Binary::Sub => recorder.ints(&[a.rank()]).ints(a.shape()).ints(b.shape()),
        _ => recorder.save(&inputs),
    };
    recorder.backward(backward).output(y)
}

/// The rule of add and sub: the gradient itself, summed to each input's shape.
fn undo_sum(ctx: Context, dy: Tensor, sign: f64) -> Result<Grads> {
    let rank = ctx.ints[0];
    let (a_shape, b_shape) = (&ctx.ints[1..1 + rank], &ctx.ints[1 + rank..]);
    let da = if ctx.needs[0] { Some(dy.sum_to(a_shape)?) } else { None };
    let db = match ctx.needs[1] {
        true if sign < 0.0 => Some(dy.sum_to(b_shape)?.neg()?),
        true => Some(dy.sum_to(b_shape)?),
        false => None,
    };
    grads([da, db])
}

/// The rule of mul, div and pow: the kernel gives gradients of the broadcast shape.
fn undo(op: Binary, mut ctx: Context, dy: Tensor) -> Result<Grads> {
    let (a, b, dy) = (ctx.take(0)?, ctx.take(1)?, dy.packed()?);
    let shape = dy.shape();
    let (wide_a, wide_b) = (a.layout().expand(shape), b.layout().expand(shape));
    let fresh = |needed: bool| needed.then(|| dy.new_empty(shape)).transpose();
    let (mut da, mut db) = (fresh(ctx.needs[0])?, fresh(ctx.needs[1])?);
    kernel!("backward", dy, T => binary::backward::<T>(
        op,
        da.as_mut().map(|t| t.slice_mut()),
        db.as_mut().map(|t| t.slice_mut()),
        dy.slice_ref(),
        a.strided_ref(), &wide_a.strides, b.strided_ref(), &wide_b.strides, shape
    ));
    let narrow = |wide: Option<Tensor>, x: &Tensor| wide.map(|t| t.sum_to(x.shape())).transpose();
    grads([narrow(da, &a)?, narrow(db, &b)?])
}

impl Tensor {
    /// a + b, broadcast.
    ///
    /// # Errors
    /// For different dtypes, shapes that do not broadcast, and `u32`.
    #[track_caller]
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        apply("add", Binary::Add, self, other, |ctx, dy| undo_sum(ctx, dy, 1.0))
    }

    /// a − b, broadcast.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    #[track_caller]
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        apply("sub", Binary::Sub, self, other, |ctx, dy| undo_sum(ctx, dy, -1.0))
    }

    /// a · b element by element, broadcast.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    #[track_caller]
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        apply("mul", Binary::Mul, self, other, |ctx, dy| undo(Binary::Mul, ctx, dy))
    }

    /// a / b, broadcast.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    #[track_caller]
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        apply("div", Binary::Div, self, other, |ctx, dy| undo(Binary::Div, ctx, dy))
    }

    /// aᵇ, broadcast; NaN for negative a and fractional b.
    ///
    /// # Errors
    /// As [`Tensor::add`].
    #[track_caller]
    pub fn pow(&self, other: &Tensor) -> Result<Tensor> {
        apply("pow", Binary::Pow, self, other, |ctx, dy| undo(Binary::Pow, ctx, dy))
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let pairs: [(&[usize], &[usize]); 8] = [
        (&[2, 3], &[2, 3]),
        (&[2, 3], &[3]),
        (&[4, 1, 3], &[5, 1]),
        (&[], &[2, 2]),
        (&[1], &[1]),
        (&[0, 3], &[1, 3]),
        (&[2, 1], &[2, 17]),
        (&[], &[]),
    ];
    let samples = move |low: f64| {
        move || {
            pairs
                .map(|(a, b)| Sample::of([Input::float(a, low, 2.0), Input::float(b, low, 2.0)]))
                .into()
        }
    };
    vec![
        Entry::new("add", |x, _| Ok(vec![x[0].add(&x[1])?])).samples(samples(-2.0)),
        Entry::new("sub", |x, _| Ok(vec![x[0].sub(&x[1])?])).samples(samples(-2.0)),
        Entry::new("mul", |x, _| Ok(vec![x[0].mul(&x[1])?])).samples(samples(-2.0)),
        Entry::new("div", |x, _| Ok(vec![x[0].div(&x[1])?])).samples(samples(0.4)),
        Entry::new("pow", |x, _| Ok(vec![x[0].pow(&x[1])?])).samples(samples(0.4)),
    ]
    .into_iter()
    .map(|entry| entry.errors(errors))
    .collect()
}

fn errors() -> Vec<ErrorCase> {
    vec![
        ErrorCase::new("shapes that do not broadcast", "do not broadcast", || {
            vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([2], DType::F32)]
        }),
        ErrorCase::new("two dtypes", "do not mix", || {
            vec![Tensor::zeros(3, DType::F32), Tensor::zeros(3, DType::F64)]
        }),
        ErrorCase::new("ids", "cannot compute on u32", || {
            vec![Tensor::zeros(3, DType::U32), Tensor::zeros(3, DType::U32)]
        }),
    ]
}
