//! The gated recurrent unit (Cho et al. 2014, in the form of cuDNN and PyTorch) over a whole sequence.
//!
//! With `a_t = W_hh h_{t−1} + b_hh` and gx, both cut into the gates r, z, n (PyTorch's order):
//!
//! ```text
//! r = σ(gx_r + a_r)    z = σ(gx_z + a_z)    n = tanh(gx_n + r a_n)    h_t = (1 − z) n + z h_{t−1}
//!
//! dn′ = dh (1 − z)(1 − n²)     dz′ = dh (h_{t−1} − n) z(1 − z)     dr′ = dn′ a_n r(1 − r)
//! dgx = (dr′, dz′, dn′)        da = (dr′, dz′, dn′ r)
//! dh_{t−1} = dh z + da W_hh    dW_hh = Σ_t da_tᵀ h_{t−1}           db_hh = Σ_t da_t
//! ```

use super::entry::Entry;
use super::rnn::{check_sequence, last_state, sequence_errors, sequence_samples};
use crate::autograd::record;
use crate::cpu::gru;
use crate::error::Result;
use crate::tensor::{Tensor, kernel};

/// Runs the recurrence over `gx` `[T, B, 3·H]` (`x W_ihᵀ + b_ih`) from `h0` `[B, H]`, backwards in time
/// where `reverse`: `(y [T, B, H], h_n [B, H])`. `w_hh` is `[3·H, H]`, `b_hh` `[3·H]`.
///
/// # Errors
/// When shapes or dtypes do not fit.
#[track_caller]
pub fn gru_sequence(
    gx: &Tensor,
    w_hh: &Tensor,
    b_hh: Option<&Tensor>,
    h0: &Tensor,
    reverse: bool,
) -> Result<(Tensor, Tensor)> {
    let (t, b, h) = check_sequence("gru_sequence", 3, gx, w_hh, b_hh, &[("h0", h0)])?;
    let (x, w, start) = (gx.packed()?, w_hh.packed()?, h0.packed()?);
    let bias = b_hh.map(Tensor::packed).transpose()?;
    let mut y = gx.new_empty([t, b, h])?;
    // r, z, n and, for the way back, a_n.
    let mut gates = gx.new_empty([t, b, 4 * h])?;
    kernel!("gru_sequence", gx, T => gru::forward::<T>(
        y.slice_mut(), gates.slice_mut(), x.slice_ref(), w.slice_ref(),
        bias.as_ref().map(|b| b.slice_ref()), start.slice_ref(), t, b, h, reverse
    ));
    let h_n = last_state(&y, &start, reverse)?;
    let mut inputs: smallvec::SmallVec<[&Tensor; 4]> = smallvec::smallvec![gx, w_hh, h0];
    inputs.extend(b_hh);
    let [y, h_n] = record("gru_sequence", &inputs)
        .save(&[&y, &gates, &w, &start])
        .ints(&[t, b, h, reverse as usize])
        .flops((6 * t * b * h * h) as u64)
        .backward_many(|mut ctx, mut douts| {
            let (y, gates, w, start) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?, ctx.take(3)?);
            let [t, b, h] = [ctx.ints[0], ctx.ints[1], ctx.ints[2]];
            let mut arrived = |i: usize| douts[i].take().map(|d| d.packed()).transpose();
            let (dy, dh_n) = (arrived(0)?, arrived(1)?);
            let mut dgx = y.new_empty([t, b, 3 * h])?;
            let mut dw = y.new_empty([3 * h, h])?;
            let mut dh0 = y.new_empty([b, h])?;
            let biased = ctx.needs.len() == 4;
            let mut db = biased.then(|| y.new_empty(3 * h)).transpose()?;
            kernel!("gru_sequence", y, T => gru::backward::<T>(
                dgx.slice_mut(), dw.slice_mut(), db.as_mut().map(|t| t.slice_mut()), dh0.slice_mut(),
                dy.as_ref().map(|t| t.slice_ref()), dh_n.as_ref().map(|t| t.slice_ref()),
                y.slice_ref(), gates.slice_ref(), w.slice_ref(), start.slice_ref(), t, b, h, ctx.ints[3] == 1
            ));
            Ok([Some(dgx), Some(dw), Some(dh0)].into_iter().chain(db.map(Some)).collect())
        })
        .outputs([y, h_n]);
    Ok((y, h_n))
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("gru_sequence", |x, a| {
            let (y, h_n) = gru_sequence(&x[0], &x[1], x.get(3), &x[2], a.flag("reverse"))?;
            Ok(vec![y, h_n])
        })
        .samples(|| sequence_samples(3, 1))
        .errors(sequence_errors)
        .tolerance(3e-6),
    ]
}
