//! Long short-term memory (Hochreiter and Schmidhuber 1997, with forget gates) over a whole sequence.
//!
//! With `z_t = gx_t + W_hh h_{t−1} + b_hh`, cut into the gates i, f, g, o (PyTorch's order):
//!
//! ```text
//! i, f, o = σ(z)     g = tanh(z)     c_t = f c_{t−1} + i g     h_t = o tanh(c_t)
//!
//! do = dh tanh(c)                    dc += dh o (1 − tanh²(c))
//! di = dc g    df = dc c_{t−1}    dg = dc i    dc_{t−1} = dc f
//! dz = (di i(1−i), df f(1−f), dg (1−g²), do o(1−o))            dh_{t−1} = dz W_hh
//! dW_hh = Σ_t dz_tᵀ h_{t−1}          db_hh = Σ_t dz_t           dgx = dz
//! ```

use super::entry::Entry;
use super::rnn::{check_sequence, last_state, sequence_errors, sequence_samples};
use crate::autograd::record;
use crate::cpu::lstm;
use crate::error::Result;
use crate::tensor::{Tensor, kernel};

/// Runs the recurrence over `gx` `[T, B, 4·H]` (`x W_ihᵀ + b_ih`) from `h0` and `c0` `[B, H]`, backwards in
/// time where `reverse`: `(y [T, B, H], h_n [B, H], c_n [B, H])`. `w_hh` is `[4·H, H]`, `b_hh` `[4·H]`.
///
/// # Errors
/// When shapes or dtypes do not fit.
#[track_caller]
pub fn lstm_sequence(
    gx: &Tensor,
    w_hh: &Tensor,
    b_hh: Option<&Tensor>,
    h0: &Tensor,
    c0: &Tensor,
    reverse: bool,
) -> Result<(Tensor, Tensor, Tensor)> {
    let states = [("h0", h0), ("c0", c0)];
    let (t, b, h) = check_sequence("lstm_sequence", 4, gx, w_hh, b_hh, &states)?;
    let (x, w) = (gx.packed()?, w_hh.packed()?);
    let (h_start, c_start) = (h0.packed()?, c0.packed()?);
    let bias = b_hh.map(Tensor::packed).transpose()?;
    let mut y = gx.new_empty([t, b, h])?;
    let mut c = gx.new_empty([t, b, h])?;
    let mut gates = gx.new_empty([t, b, 4 * h])?;
    kernel!("lstm_sequence", gx, T => lstm::forward::<T>(
        y.slice_mut(), c.slice_mut(), gates.slice_mut(), x.slice_ref(), w.slice_ref(),
        bias.as_ref().map(|b| b.slice_ref()), h_start.slice_ref(), c_start.slice_ref(), t, b, h, reverse
    ));
    let (h_n, c_n) = (last_state(&y, &h_start, reverse)?, last_state(&c, &c_start, reverse)?);
    let mut inputs: smallvec::SmallVec<[&Tensor; 5]> = smallvec::smallvec![gx, w_hh, h0, c0];
    inputs.extend(b_hh);
    let [y, h_n, c_n] = record("lstm_sequence", &inputs)
        .save(&[&y, &c, &gates, &w, &h_start, &c_start])
        .ints(&[t, b, h, reverse as usize])
        .flops((8 * t * b * h * h) as u64)
        .backward_many(|mut ctx, mut douts| {
            let (y, c, gates, w) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?, ctx.take(3)?);
            let (h_start, c_start) = (ctx.take(4)?, ctx.take(5)?);
            let [t, b, h] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
            let mut arrived = |i: usize| douts[i].take().map(|d| d.packed()).transpose();
            let (dy, dh_n, dc_n) = (arrived(0)?, arrived(1)?, arrived(2)?);
            let mut dgx = y.new_empty([t, b, 4 * h])?;
            let mut dw = y.new_empty([4 * h, h])?;
            let (mut dh0, mut dc0) = (y.new_empty([b, h])?, y.new_empty([b, h])?);
            let biased = ctx.needs.len() == 5;
            let mut db = biased.then(|| y.new_empty(4 * h)).transpose()?;
            kernel!("lstm_sequence", y, T => lstm::backward::<T>(
                dgx.slice_mut(), dw.slice_mut(), db.as_mut().map(|t| t.slice_mut()),
                dh0.slice_mut(), dc0.slice_mut(),
                dy.as_ref().map(|t| t.slice_ref()), dh_n.as_ref().map(|t| t.slice_ref()),
                dc_n.as_ref().map(|t| t.slice_ref()),
                y.slice_ref(), c.slice_ref(), gates.slice_ref(), w.slice_ref(),
                h_start.slice_ref(), c_start.slice_ref(), t, b, h, ctx.ints[3] == 1
            ));
            let known = [Some(dgx), Some(dw), Some(dh0), Some(dc0)];
            Ok(known.into_iter().chain(db.map(Some)).collect())
        })
        .outputs([y, h_n, c_n]);
    Ok((y, h_n, c_n))
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("lstm_sequence", |x, a| {
            let (y, h_n, c_n) =
                lstm_sequence(&x[0], &x[1], x.get(4), &x[2], &x[3], a.flag("reverse"))?;
            Ok(vec![y, h_n, c_n])
        })
        .samples(|| sequence_samples(4, 2))
        .errors(sequence_errors)
        .tolerance(3e-6),
    ]
}
