//! Scaled dot-product attention (Vaswani et al. 2017), fused, memory linear in T.
//!
//! For each batch and head `O = softmax(s Q Kᵀ + mask) V`, with s = 1/√D by default. The T×T matrix of
//! probabilities is never stored: the kernel goes through it block by block with a running softmax
//! (Milakov and Gimelshein 2018; Dao et al. 2022) and keeps one number a row, `lse = ln Σ eˢ`. With
//! P = eˢ⁻ˡˢᵉ and δ = Σ dO∘O a row, backward is
//!
//! ```text
//! dV = Pᵀ dO       dP = dO Vᵀ       dS = P ∘ (dP − δ)       dQ = s dS K       dK = s dSᵀ Q
//! ```

use super::dropout::{key_from_ints, key_to_ints};
use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{beside, expect_shape, expect_u32, grads, one, same_dtype};
use crate::autograd::{Context, Mode, record};
use crate::cpu::attention::{self, Shape, Strides};
use crate::cpu::gemm::Precision;
use crate::cpu::philox::Key;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, kernel};

/// The options of [`scaled_dot_product_attention`].
#[derive(Clone, Debug, Default)]
pub struct Attention {
    /// Query i sees keys up to its own position only. With Tq < Tk the queries are the last Tq
    /// positions, as with a cache of earlier keys.
    pub causal: bool,
    /// `[B, Tk]`, `u32`: keys marked 1 are not seen by anybody (PyTorch's `key_padding_mask`).
    pub key_padding_mask: Option<Tensor>,
    /// The factor on the scores; 1/√D where `None`.
    pub scale: Option<f64>,
    /// Dropout on the probabilities: p and the key of its random numbers.
    pub dropout: Option<(f64, Key)>,
}

/// A `[B, H, T, D]` view whose last axis is dense, with the strides of the other three.
fn dense(x: &Tensor) -> Result<(Tensor, Strides)> {
    let x = if x.shape()[3] > 1 && x.strides()[3] != 1 { x.copy()? } else { x.detach() };
    let strides = Strides { batch: x.strides()[0], head: x.strides()[1], row: x.strides()[2] };
    Ok((x, strides))
}

/// An empty tensor `[B, H, T, D]`, of `like`'s kind, that lies as `[B, T, H, D]`: joining the heads afterwards is a view.
fn heads_inside(
    like: &Tensor,
    b: usize,
    h: usize,
    t: usize,
    d: usize,
) -> Result<(Tensor, Strides)> {
    Ok((like.new_empty([b, t, h, d])?, Strides { batch: t * h * d, head: d, row: h * d }))
}

fn swap_heads(x: Tensor) -> Tensor {
    x.with_layout(x.layout().transpose(1, 2))
}

/// What the kernel wants to know, kept as plain numbers between forward and backward.
struct Plan {
    shape: Shape,
    causal: bool,
    scale: f64,
    dropout: Option<(f64, Key)>,
    /// The inputs are bf16 by themselves: products of bf16 lose nothing of them.
    narrow: bool,
}

impl Plan {
    fn flops(&self) -> u64 {
        let Shape { batch, heads, tq, tk, d } = self.shape;
        let all = (4 * batch * heads * tq * tk * d) as u64;
        if self.causal { all / 2 } else { all }
    }

    fn ints(&self) -> [usize; 13] {
        let Shape { batch, heads, tq, tk, d } = self.shape;
        let key = self.dropout.map_or([0; 6], |(_, key)| key_to_ints(key));
        let [k0, k1, k2, k3, k4, k5] = key;
        let flags = self.causal as usize
            | (self.dropout.is_some() as usize) << 1
            | (self.narrow as usize) << 2;
        [batch, heads, tq, tk, d, flags, k0, k1, k2, k3, k4, k5, 0]
    }

    fn floats(&self) -> [f64; 2] {
        [self.scale, self.dropout.map_or(0.0, |(p, _)| p)]
    }

    fn from_context(ctx: &Context) -> Plan {
        let i = &ctx.ints;
        Plan {
            shape: Shape { batch: i[0], heads: i[1], tq: i[2], tk: i[3], d: i[4] },
            causal: i[5] & 1 == 1,
            scale: ctx.floats[0],
            dropout: (i[5] & 2 == 2).then(|| (ctx.floats[1], key_from_ints(&i[6..12]))),
            narrow: i[5] & 4 == 4,
        }
    }
}

/// The options as the kernel of either device takes them.
macro_rules! options {
    ($plan:expr, $mask:expr) => {
        attention::Options {
            causal: $plan.causal,
            key_padding: $mask.as_ref().map(|m| m.slice_ref()),
            scale: $plan.scale,
            dropout: $plan.dropout,
            precision: if $plan.narrow { Precision::Medium } else { Mode::current().precision },
        }
    };
}

/// Checks the options and makes the mask dense.
#[track_caller]
fn plan(
    q: &Tensor,
    shape: Shape,
    options: &Attention,
    narrow: bool,
) -> Result<(Plan, Option<Tensor>)> {
    const OP: &str = "scaled_dot_product_attention";
    let mask = options.key_padding_mask.as_ref();
    if let Some(mask) = mask {
        expect_u32(OP, "key_padding_mask", mask)?;
        expect_shape(OP, "key_padding_mask", mask, &[shape.batch, shape.tk])?;
    }
    if options.causal && shape.tq > shape.tk {
        return Err(Error::op(
            OP,
            format!(
                "causal with {} queries for {} keys: queries before the first key",
                shape.tq, shape.tk
            ),
        ));
    }
    let dropout = options.dropout.filter(|&(p, _)| p > 0.0);
    if let Some((p, _)) = options.dropout
        && !(0.0..=1.0).contains(&p)
    {
        return Err(Error::op(OP, format!("dropout p = {p} is not a probability")));
    }
    let scale = options.scale.unwrap_or(1.0 / (shape.d.max(1) as f64).sqrt());
    Ok((
        Plan { shape, causal: options.causal, scale, dropout, narrow },
        mask.map(|mask| beside(q, mask)?.packed()).transpose()?,
    ))
}

/// Attention of queries `[B, H, Tq, D]` to keys and values `[B, H, Tk, D]` under any strides:
/// `[B, H, Tq, D]`, lying in memory as `[B, Tq, H, D]`. A query that may see no key gets zeros.
///
/// # Errors
/// When shapes or dtypes do not fit, the mask is not `u32` `[B, Tk]`, or causal with Tq > Tk.
#[track_caller]
pub fn scaled_dot_product_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: &Attention,
) -> Result<Tensor> {
    const OP: &str = "scaled_dot_product_attention";
    same_dtype(OP, q, k)?;
    same_dtype(OP, q, v)?;
    if q.dtype().is_half() {
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        let narrow = q.dtype() == DType::BF16;
        return attend(&wide(q)?, &wide(k)?, &wide(v)?, options, narrow)?.to_dtype(q.dtype());
    }
    attend(q, k, v, options, false)
}

/// [`scaled_dot_product_attention`] of f32 or f64, which hold bf16 if `narrow`.
#[track_caller]
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention, narrow: bool) -> Result<Tensor> {
    const OP: &str = "scaled_dot_product_attention";
    let (&[batch, heads, tq, d], true) = (q.shape(), q.rank() == 4) else {
        return Err(Error::op(OP, format!("q has shape {:?}, expected [B, H, T, D]", q.shape())));
    };
    let tk = if k.rank() == 4 { k.shape()[2] } else { 0 };
    expect_shape(OP, "k", k, &[batch, heads, tk, d])?;
    expect_shape(OP, "v", v, &[batch, heads, tk, d])?;
    let (plan, mask) = plan(q, Shape { batch, heads, tq, tk, d }, options, narrow)?;
    let ((q_dense, qs), (k_dense, ks), (v_dense, vs)) = (dense(q)?, dense(k)?, dense(v)?);
    let (mut o, os) = heads_inside(q, batch, heads, tq, d)?;
    let mut lse = q.new_empty([batch, heads, tq])?;
    kernel!(OP, q, T => attention::forward::<T>(
        o.slice_mut(), os, lse.slice_mut(),
        q_dense.strided_ref(), qs, k_dense.strided_ref(), ks, v_dense.strided_ref(), vs,
        &plan.shape, &options!(plan, mask)
    ));
    record(OP, &[q, k, v])
        .save(&[&q_dense, &k_dense, &v_dense, &o, &lse])
        .save_option(mask.as_ref())
        .ints(&plan.ints())
        .floats(&plan.floats())
        .flops(plan.flops())
        .backward(|mut ctx, d_o| {
            let plan = Plan::from_context(&ctx);
            let Shape { batch, heads, tq, tk, d } = plan.shape;
            let [q, k, v] = [ctx.take(0)?, ctx.take(1)?, ctx.take(2)?];
            let (o, lse, mask) = (ctx.take(3)?, ctx.take(4)?, ctx.take_option(5));
            let ((q, qs), (k, ks), (v, vs), (d_o, dos)) =
                (dense(&q)?, dense(&k)?, dense(&v)?, dense(&d_o)?);
            let os = Strides { batch: tq * heads * d, head: d, row: heads * d };
            let (mut dq, dqs) = heads_inside(&q, batch, heads, tq, d)?;
            let (mut dk, dks) = heads_inside(&q, batch, heads, tk, d)?;
            let (mut dv, dvs) = heads_inside(&q, batch, heads, tk, d)?;
            kernel!(OP, q, T => attention::backward::<T>(
                attention::Gradients::Apart {
                    dq: dq.slice_mut(), dq_strides: dqs,
                    dk: dk.slice_mut(), dk_strides: dks,
                    dv: dv.slice_mut(), dv_strides: dvs,
                },
                d_o.strided_ref(), dos, o.slice_ref(), os, lse.slice_ref(),
                q.strided_ref(), qs, k.strided_ref(), ks, v.strided_ref(), vs,
                &plan.shape, &options!(plan, mask)
            ));
            grads([Some(swap_heads(dq)), Some(swap_heads(dk)), Some(swap_heads(dv))])
        })
        .output(swap_heads(o))
}

/// Self-attention straight from the fused projection: `qkv` `[B, T, 3·C]` holds q, k and v side by side,
/// each `[B, T, C]` with C = heads · D. Returns `[B, T, C]`. The same as cutting `qkv` into heads and
/// calling [`scaled_dot_product_attention`], without copying anything on the way there or back.
///
/// # Errors
/// When the width is not 3 · heads · D, and as [`scaled_dot_product_attention`].
#[track_caller]
pub fn self_attention_qkv(qkv: &Tensor, heads: usize, options: &Attention) -> Result<Tensor> {
    if qkv.dtype().is_half() {
        let (wide, narrow) = (qkv.to_dtype(DType::F32)?, qkv.dtype() == DType::BF16);
        return attend_qkv(&wide, heads, options, narrow)?.to_dtype(qkv.dtype());
    }
    attend_qkv(qkv, heads, options, false)
}

/// [`self_attention_qkv`] of f32 or f64, which hold bf16 if `narrow`.
#[track_caller]
fn attend_qkv(qkv: &Tensor, heads: usize, options: &Attention, narrow: bool) -> Result<Tensor> {
    const OP: &str = "self_attention_qkv";
    let (&[batch, t, width], true) = (qkv.shape(), heads > 0) else {
        return Err(Error::op(
            OP,
            format!("qkv has shape {:?}, expected [B, T, 3·C]", qkv.shape()),
        ));
    };
    if !heads.checked_mul(3).is_some_and(|all| width.is_multiple_of(all)) {
        return Err(Error::op(OP, format!("width {width} is not 3 × {heads} heads × D")));
    }
    let (c, d) = (width / 3, width / 3 / heads);
    let (plan, mask) = plan(qkv, Shape { batch, heads, tq: t, tk: t, d }, options, narrow)?;
    let x = qkv.packed()?;
    let mut o = qkv.new_empty([batch, t, c])?;
    let mut lse = qkv.new_empty([batch, heads, t])?;
    let (xs, os) = fused_strides(t, c, d);
    kernel!(OP, qkv, T => {
        let [q, k, v] = [0, c, 2 * c]; // side by side in each row
        attention::forward::<T>(
            o.slice_mut(), os, lse.slice_mut(),
            x.slice_from(q), xs, x.slice_from(k), xs, x.slice_from(v), xs,
            &plan.shape, &options!(plan, mask)
        )
    });
    record(OP, &[qkv])
        .save(&[&x, &o, &lse])
        .save_option(mask.as_ref())
        .ints(&plan.ints())
        .floats(&plan.floats())
        .flops(plan.flops())
        .backward(|mut ctx, d_o| {
            let plan = Plan::from_context(&ctx);
            let (x, o, lse) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?);
            let (mask, d_o) = (ctx.take_option(3), d_o.packed()?);
            let c = plan.shape.heads * plan.shape.d;
            let (xs, os) = fused_strides(plan.shape.tq, c, plan.shape.d);
            let mut dx = x.new_empty(x.shape())?;
            kernel!(OP, x, T => {
                let [q, k, v] = [0, c, 2 * c];
                attention::backward::<T>(
                    attention::Gradients::Fused { dqkv: dx.slice_mut(), strides: xs, width: c },
                    d_o.slice_ref(), os, o.slice_ref(), os, lse.slice_ref(),
                    x.slice_from(q), xs, x.slice_from(k), xs, x.slice_from(v), xs, &plan.shape, &options!(plan, mask)
                )
            });
            one(dx)
        })
        .output(o)
}

/// Strides of a head in the fused `[B, T, 3·C]` projection and in `[B, T, C]`.
fn fused_strides(t: usize, c: usize, d: usize) -> (Strides, Strides) {
    let fused = Strides { batch: t * 3 * c, head: d, row: 3 * c };
    (fused, Strides { batch: t * c, head: d, row: c })
}

pub(super) fn entries() -> Vec<Entry> {
    fn options(a: &super::entry::Attrs, mask: Option<&Tensor>) -> Attention {
        let key = Key { seed: 7, stream: 1, step: 2 };
        Attention {
            causal: a.flag("causal"),
            key_padding_mask: mask.cloned(),
            scale: a.has("scale").then(|| a.float("scale")),
            dropout: a.has("p").then(|| (a.float("p"), key)),
        }
    }
    fn qkv(b: usize, h: usize, tq: usize, tk: usize, d: usize) -> Vec<Input> {
        let float = |t| Input::float([b, h, t, d], -1.0, 1.0);
        vec![float(tq), float(tk), float(tk)]
    }
    vec![
        Entry::new("scaled_dot_product_attention", |x, a| {
            let options = options(a, x.get(3));
            Ok(vec![scaled_dot_product_attention(&x[0], &x[1], &x[2], &options)?])
        })
        .samples(|| {
            let mut padded = qkv(2, 1, 3, 4, 3);
            padded.push(Input::exactly([2, 4], &[0, 0, 1, 1, 1, 0, 0, 0]));
            let mut all_masked = qkv(1, 1, 2, 2, 2);
            all_masked.push(Input::exactly([1, 2], &[1, 1]));
            vec![
                Sample::of(qkv(1, 2, 3, 3, 2)),
                Sample::of(qkv(1, 2, 4, 4, 3)).flag("causal", true),
                Sample::of(qkv(2, 1, 2, 5, 2)).flag("causal", true).float("scale", 0.7),
                Sample::of(padded.clone()),
                Sample::of(padded).flag("causal", true),
                Sample::of(all_masked),
                Sample::of(qkv(1, 1, 1, 4, 1)),
                Sample::of(qkv(1, 1, 2, 3, 17)),
                Sample::of(qkv(0, 1, 2, 2, 2)),
                Sample::of(qkv(1, 2, 3, 3, 2)).float("p", 0.4),
            ]
        })
        .errors(|| {
            fn zeros(shapes: [&[usize]; 3]) -> Vec<Result<Tensor>> {
                shapes.map(|s| Tensor::zeros(s, DType::F32)).into()
            }
            vec![
                ErrorCase::new("three axes", "expected [B, H, T, D]", || {
                    zeros([&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]])
                }),
                ErrorCase::new("another head size", "expected [1, 2, 3, 4]", || {
                    zeros([&[1, 2, 3, 4], &[1, 2, 3, 5], &[1, 2, 3, 4]])
                }),
                ErrorCase::new("more queries than keys", "queries before the first key", || {
                    zeros([&[1, 1, 3, 2], &[1, 1, 2, 2], &[1, 1, 2, 2]])
                })
                .flag("causal", true),
                ErrorCase::new("a mask of another shape", "expected [1, 2]", || {
                    let mut inputs = zeros([&[1, 1, 2, 2], &[1, 1, 2, 2], &[1, 1, 2, 2]]);
                    inputs.push(Tensor::zeros([1, 3], DType::U32));
                    inputs
                }),
            ]
        })
        .tolerance(3e-6),
        Entry::new("self_attention_qkv", |x, a| {
            let options = options(a, x.get(1));
            Ok(vec![self_attention_qkv(&x[0], a.int("heads") as usize, &options)?])
        })
        .samples(|| {
            let sample = |shape: [usize; 3], heads, causal| {
                let sample = Sample::of([Input::float(shape, -1.0, 1.0)]);
                sample.ints("heads", &[heads]).flag("causal", causal)
            };
            let mut padded = sample([2, 3, 12], 2, false);
            padded.inputs.push(Input::exactly([2, 3], &[0, 0, 1, 0, 0, 0]));
            vec![sample([1, 4, 12], 2, true), sample([2, 3, 6], 1, false), padded]
        })
        .errors(|| {
            vec![
                ErrorCase::new("a width that 3 heads do not share", "is not 3", || {
                    vec![Tensor::zeros([1, 2, 10], DType::F32)]
                })
                .ints("heads", &[2]),
            ]
        })
        .tolerance(3e-6),
    ]
}
