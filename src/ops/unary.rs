//! Functions of one element: neg, exp, log, sqrt, tanh, sigmoid, relu, gelu, silu, and arithmetic
//! with a number.
//!
//! | name | y | dx |
//! |---|---|---|
//! | `neg` | −x | −dy |
//! | `exp` | eˣ | dy · y |
//! | `log` | ln x | dy / x |
//! | `sqrt` | √x | dy / 2y |
//! | `tanh` | tanh x | dy · (1 − y²) |
//! | `sigmoid` | σ(x) = 1 / (1 + e⁻ˣ) | dy · y (1 − y) |
//! | `relu` | max(x, 0) | dy where x > 0, else 0 |
//! | `gelu` | x Φ(x), Φ(x) = ½ (1 + erf(x/√2)) | dy · (Φ(x) + x φ(x)), φ the normal density |
//! | `gelu_tanh` | ½ x (1 + tanh u), u = √(2/π) (x + 0.044715 x³) | dy · (½ (1 + t) + ½ x (1 − t²) u′), t = tanh u |
//! | `silu` | x σ(x) | dy · σ(x) (1 + x (1 − σ(x))) |
//! | `powf` | xᵖ | dy · p xᵖ⁻¹ |
//!
//! GELU: Hendrycks and Gimpel 2016; its tanh form is GPT-2's. SiLU: Elfwing et al. 2017.

use super::entry::{Attrs, Entry, ErrorCase, Input, Sample};
use super::{grads, one};
use crate::autograd::{Context, Grads, record};
use crate::cpu::unary::{self, Saves, Unary};
use crate::error::Result;
use crate::tensor::{DType, Tensor, kernel};

/// `y = f(x)` for each element.
#[track_caller]
fn apply(
    name: &'static str,
    op: Unary,
    x: &Tensor,
    backward: fn(Context, Tensor) -> Result<Grads>,
) -> Result<Tensor> {
    if x.dtype().is_half() {
        return apply(name, op, &x.to_dtype(DType::F32)?, backward)?.to_dtype(x.dtype());
    }
    let x_packed = x.packed()?;
    let mut y = x.new_empty(x.shape())?;
    kernel!(name, x, T => {
        unary::forward::<T>(op, y.slice_mut(), x_packed.slice_ref())
    });
    let inputs = [x];
    let recorder = record(name, &inputs).flops(x.numel() as u64);
    let recorder = match op.saves() {
        Saves::Input => recorder.save(&[&x_packed]),
        Saves::Output => recorder.save(&[&y]),
        Saves::Neither => recorder,
    };
    recorder.backward(backward).output(y)
}

/// `dx = dy · f′`, from x or y, whichever the function kept.
fn undo(op: Unary, mut ctx: Context, dy: Tensor) -> Result<Grads> {
    let dy = dy.packed()?;
    let kept = ctx.take_option(0);
    let mut dx = dy.new_empty(dy.shape())?;
    kernel!("backward", dy, T => {
        // A function reads what it kept: x, or y, or nothing (then neither is looked at).
        let kept = kept.as_ref().unwrap_or(&dy);
        unary::backward::<T>(op, dx.slice_mut(), dy.slice_ref(), kept.slice_ref(), kept.slice_ref())
    });
    one(dx)
}

impl Tensor {
    /// −x.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn neg(&self) -> Result<Tensor> {
        apply("neg", Unary::Neg, self, |ctx, dy| undo(Unary::Neg, ctx, dy))
    }

    /// eˣ.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn exp(&self) -> Result<Tensor> {
        apply("exp", Unary::Exp, self, |ctx, dy| undo(Unary::Exp, ctx, dy))
    }

    /// The natural logarithm; NaN below 0, −∞ at 0.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn log(&self) -> Result<Tensor> {
        apply("log", Unary::Log, self, |ctx, dy| undo(Unary::Log, ctx, dy))
    }

    /// √x; NaN below 0.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn sqrt(&self) -> Result<Tensor> {
        apply("sqrt", Unary::Sqrt, self, |ctx, dy| undo(Unary::Sqrt, ctx, dy))
    }

    /// The hyperbolic tangent.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn tanh(&self) -> Result<Tensor> {
        apply("tanh", Unary::Tanh, self, |ctx, dy| undo(Unary::Tanh, ctx, dy))
    }

    /// σ(x) = 1 / (1 + e⁻ˣ).
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn sigmoid(&self) -> Result<Tensor> {
        apply("sigmoid", Unary::Sigmoid, self, |ctx, dy| undo(Unary::Sigmoid, ctx, dy))
    }

    /// max(x, 0); the derivative at 0 is 0.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn relu(&self) -> Result<Tensor> {
        apply("relu", Unary::Relu, self, |ctx, dy| undo(Unary::Relu, ctx, dy))
    }

    /// GELU by the error function: x Φ(x). BERT's.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn gelu(&self) -> Result<Tensor> {
        apply("gelu", Unary::Gelu, self, |ctx, dy| undo(Unary::Gelu, ctx, dy))
    }

    /// GELU by its tanh approximation. GPT-2's.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        apply("gelu_tanh", Unary::GeluTanh, self, |ctx, dy| undo(Unary::GeluTanh, ctx, dy))
    }

    /// x σ(x), also called swish.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn silu(&self) -> Result<Tensor> {
        apply("silu", Unary::Silu, self, |ctx, dy| undo(Unary::Silu, ctx, dy))
    }

    /// xᵖ for a constant exponent; NaN for negative x and fractional p.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.powf(exponent)?.to_dtype(self.dtype());
        }
        let x = self.packed()?;
        let mut y = self.new_empty(self.shape())?;
        kernel!("powf", self, T => {
            unary::powf::<T>(y.slice_mut(), x.slice_ref(), exponent)
        });
        record("powf", &[self])
            .save(&[&x])
            .floats(&[exponent])
            .flops(2 * self.numel() as u64)
            .backward(|mut ctx, dy| {
                let (x, dy, exponent) = (ctx.take(0)?, dy.packed()?, ctx.floats[0]);
                let mut dx = dy.new_empty(dy.shape())?;
                kernel!("powf", dy, T => unary::powf_backward::<T>(
                    dx.slice_mut(), dy.slice_ref(), x.slice_ref(), exponent
                ));
                one(dx)
            })
            .output(y)
    }

    /// x + c. dx = dy.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn add_scalar(&self, c: f64) -> Result<Tensor> {
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.add_scalar(c)?.to_dtype(self.dtype());
        }
        let x = self.packed()?;
        let mut y = self.new_empty(self.shape())?;
        kernel!("add_scalar", self, T => {
            unary::add_scalar::<T>(y.slice_mut(), x.slice_ref(), c)
        });
        let flops = self.numel() as u64;
        record("add_scalar", &[self]).flops(flops).backward(|_, dy| one(dy)).output(y)
    }

    /// c · x. dx = c · dy.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn mul_scalar(&self, c: f64) -> Result<Tensor> {
        if self.dtype().is_half() {
            return self.to_dtype(DType::F32)?.mul_scalar(c)?.to_dtype(self.dtype());
        }
        let x = self.packed()?;
        let mut y = self.new_empty(self.shape())?;
        kernel!("mul_scalar", self, T => {
            unary::scale::<T>(y.slice_mut(), x.slice_ref(), c)
        });
        record("mul_scalar", &[self])
            .floats(&[c])
            .flops(self.numel() as u64)
            .backward(|ctx, dy| grads([Some(dy.mul_scalar(ctx.floats[0])?)]))
            .output(y)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    type Run = fn(&[Tensor], &Attrs) -> Result<Vec<Tensor>>;
    // name, the range its inputs are drawn from (away from kinks and poles), how to run it
    let table: [(&'static str, (f64, f64), Run); 10] = [
        ("neg", (-3.0, 3.0), |x, _| Ok(vec![x[0].neg()?])),
        ("exp", (-3.0, 3.0), |x, _| Ok(vec![x[0].exp()?])),
        ("log", (0.2, 4.0), |x, _| Ok(vec![x[0].log()?])),
        ("sqrt", (0.2, 4.0), |x, _| Ok(vec![x[0].sqrt()?])),
        ("tanh", (-3.0, 3.0), |x, _| Ok(vec![x[0].tanh()?])),
        ("sigmoid", (-4.0, 4.0), |x, _| Ok(vec![x[0].sigmoid()?])),
        ("relu", (-3.0, 3.0), |x, _| Ok(vec![x[0].relu()?])),
        ("gelu", (-4.0, 4.0), |x, _| Ok(vec![x[0].gelu()?])),
        ("gelu_tanh", (-4.0, 4.0), |x, _| Ok(vec![x[0].gelu_tanh()?])),
        ("silu", (-4.0, 4.0), |x, _| Ok(vec![x[0].silu()?])),
    ];
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(name, (low, high), run)| {
            Entry::new(name, run).samples(move || {
                Sample::shapes(&[&[2, 3], &[1], &[], &[0, 4], &[3, 1, 17]], |shape| {
                    vec![Input::float(shape, low, high)]
                })
            })
        })
        .map(|entry| entry.errors(errors_for_ids))
        .collect();
    entries.push(
        Entry::new("powf", |x, a| Ok(vec![x[0].powf(a.float("exponent"))?]))
            .samples(|| {
                [2.0, 3.0, 0.5, -1.0, 1.7, 0.0]
                    .map(|p| Sample::of([Input::float([2, 3], 0.3, 2.0)]).float("exponent", p))
                    .into()
            })
            .errors(errors_for_ids),
    );
    entries.push(
        Entry::new("add_scalar", |x, a| Ok(vec![x[0].add_scalar(a.float("value"))?]))
            .samples(|| vec![Sample::of([Input::float([2, 3], -2.0, 2.0)]).float("value", 1.5)])
            .errors(errors_for_ids),
    );
    entries.push(
        Entry::new("mul_scalar", |x, a| Ok(vec![x[0].mul_scalar(a.float("value"))?]))
            .samples(|| vec![Sample::of([Input::float([2, 3], -2.0, 2.0)]).float("value", -2.5)])
            .errors(errors_for_ids),
    );
    entries
}

/// Every function here refuses ids.
fn errors_for_ids() -> Vec<ErrorCase> {
    vec![ErrorCase::new("u32 input", "cannot compute on u32", || {
        vec![Tensor::arange(3, DType::U32)]
    })]
}
