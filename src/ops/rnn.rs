//! The simple recurrent network (Elman 1990) over a whole sequence.
//!
//! `h_t = φ(gx_t + W_hh h_{t−1} + b_hh)`, φ = tanh or relu; gx `[T, B, H]` is `x W_ihᵀ + b_ih`, computed
//! for all steps at once by [`linear`](super::linear()). Backward runs the steps in the other order:
//!
//! ```text
//! dz_t     = (dy_t + dh_t) φ′            dh_{t−1} = dz_t W_hh
//! dW_hh    = Σ_t dz_tᵀ h_{t−1}           db_hh = Σ_t dz_t           dgx = dz
//! ```

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{expect_shape, same_dtype};
use crate::autograd::record;
use crate::cpu::rnn;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, kernel};

pub use crate::cpu::rnn::Nonlinearity;

/// Checks the shapes that all recurrent sequences share and returns `(T, B, H)`.
#[track_caller]
pub(super) fn check_sequence(
    op: &'static str,
    gates: usize,
    gx: &Tensor,
    w_hh: &Tensor,
    b_hh: Option<&Tensor>,
    states: &[(&str, &Tensor)],
) -> Result<(usize, usize, usize)> {
    let (&[_, h], &[t, b, width]) = (w_hh.shape(), gx.shape()) else {
        return Err(Error::op(
            op,
            format!(
                "gx has shape {:?} and w_hh {:?}; expected [T, B, {gates}·H] and [{gates}·H, H]",
                gx.shape(),
                w_hh.shape()
            ),
        ));
    };
    same_dtype(op, gx, w_hh)?;
    expect_shape(op, "w_hh", w_hh, &[gates * h, h])?;
    if width != gates * h {
        return Err(Error::op(op, format!("gx has width {width}, expected {gates} · {h}")));
    }
    if let Some(b_hh) = b_hh {
        same_dtype(op, gx, b_hh)?;
        expect_shape(op, "b_hh", b_hh, &[gates * h])?;
    }
    for (what, state) in states {
        same_dtype(op, gx, state)?;
        expect_shape(op, what, state, &[b, h])?;
    }
    Ok((t, b, h))
}

/// Index `t` of the first axis of `[T, …]`, without history; the initial state where T is 0.
pub(super) fn last_state(y: &Tensor, initial: &Tensor, reverse: bool) -> Result<Tensor> {
    let t = y.shape()[0];
    if t == 0 {
        return initial.copy();
    }
    let at = if reverse { 0 } else { t - 1 };
    y.with_layout(y.layout().slice(0, at, 1, 1).squeeze(0)).copy()
}

/// Runs the recurrence over `gx` `[T, B, H]` from `h0` `[B, H]`, from the last step to the first where
/// `reverse`: `(y [T, B, H], h_n [B, H])`. `w_hh` is `[H, H]`, `b_hh` `[H]`.
///
/// # Errors
/// When shapes or dtypes do not fit.
#[track_caller]
pub fn rnn_sequence(
    gx: &Tensor,
    w_hh: &Tensor,
    b_hh: Option<&Tensor>,
    h0: &Tensor,
    nonlinearity: Nonlinearity,
    reverse: bool,
) -> Result<(Tensor, Tensor)> {
    let (t, b, h) = check_sequence("rnn_sequence", 1, gx, w_hh, b_hh, &[("h0", h0)])?;
    let (x, w, start) = (gx.packed()?, w_hh.packed()?, h0.packed()?);
    let bias = b_hh.map(Tensor::packed).transpose()?;
    let mut y = gx.new_empty([t, b, h])?;
    kernel!("rnn_sequence", gx, T => rnn::forward::<T>(
        y.slice_mut(), x.slice_ref(), w.slice_ref(), bias.as_ref().map(|b| b.slice_ref()),
        start.slice_ref(), t, b, h, nonlinearity, reverse
    ));
    let h_n = last_state(&y, &start, reverse)?;
    let mut inputs: smallvec::SmallVec<[&Tensor; 4]> = smallvec::smallvec![gx, w_hh, h0];
    inputs.extend(b_hh);
    let [y, h_n] = record("rnn_sequence", &inputs)
        .save(&[&y, &w, &start])
        .ints(&[t, b, h, (nonlinearity == Nonlinearity::Relu) as usize, reverse as usize])
        .flops((2 * t * b * h * h) as u64)
        .backward_many(|mut ctx, mut douts| {
            let (y, w, start) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?);
            let [t, b, h] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
            let kind = if ctx.ints[3] == 1 { Nonlinearity::Relu } else { Nonlinearity::Tanh };
            let dy = douts[0].take().map(|d| d.packed()).transpose()?;
            let dh_n = douts[1].take().map(|d| d.packed()).transpose()?;
            let mut dgx = y.new_empty([t, b, h])?;
            let mut dw = y.new_empty([h, h])?;
            let mut dh0 = y.new_empty([b, h])?;
            let biased = ctx.needs.len() == 4;
            let mut db = biased.then(|| y.new_empty(h)).transpose()?;
            kernel!("rnn_sequence", y, T => rnn::backward::<T>(
                dgx.slice_mut(), dw.slice_mut(), db.as_mut().map(|t| t.slice_mut()), dh0.slice_mut(),
                dy.as_ref().map(|t| t.slice_ref()), dh_n.as_ref().map(|t| t.slice_ref()),
                y.slice_ref(), w.slice_ref(), start.slice_ref(), t, b, h, kind, ctx.ints[4] == 1
            ));
            Ok([Some(dgx), Some(dw), Some(dh0)].into_iter().chain(db.map(Some)).collect())
        })
        .outputs([y, h_n]);
    Ok((y, h_n))
}

/// Inputs for the tests of the three recurrent operations: gx, w_hh, the states and, last, the bias.
pub(super) fn sequence_samples(gates: usize, states: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (t, b, h, bias, reverse) in [
        (3, 2, 3, true, false),
        (2, 1, 2, false, false),
        (3, 2, 2, true, true),
        (0, 2, 3, true, false),
        (1, 3, 17, true, false),
    ] {
        let float = |shape: &[usize]| Input::float(shape, -0.8, 0.8);
        let mut inputs = vec![float(&[t, b, gates * h]), float(&[gates * h, h])];
        inputs.extend((0..states).map(|_| float(&[b, h])));
        if bias {
            inputs.push(float(&[gates * h]));
        }
        samples.push(Sample::of(inputs).flag("reverse", reverse));
    }
    samples
}

/// Inputs that all three refuse.
pub(super) fn sequence_errors() -> Vec<ErrorCase> {
    vec![
        ErrorCase::new("a matrix as gx", "expected [T, B,", || {
            vec![
                Tensor::zeros([3, 6], DType::F32),
                Tensor::zeros([6, 6], DType::F32),
                Tensor::zeros([3, 6], DType::F32),
                Tensor::zeros([3, 6], DType::F32),
            ]
        }),
        ErrorCase::new("a width that does not fit", "expected", || {
            vec![
                Tensor::zeros([2, 3, 5], DType::F32),
                Tensor::zeros([6, 2], DType::F32),
                Tensor::zeros([3, 2], DType::F32),
                Tensor::zeros([3, 2], DType::F32),
            ]
        }),
    ]
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("rnn_sequence", |x, a| {
            let kind = if a.flag("relu") { Nonlinearity::Relu } else { Nonlinearity::Tanh };
            let (y, h_n) = rnn_sequence(&x[0], &x[1], x.get(3), &x[2], kind, a.flag("reverse"))?;
            Ok(vec![y, h_n])
        })
        .samples(|| {
            let mut samples = sequence_samples(1, 1);
            samples.push(samples[0].clone().flag("relu", true));
            samples
        })
        .errors(sequence_errors)
        .tolerance(3e-6),
    ]
}
