//! Dropout (Srivastava et al. 2014) with counter-based random numbers.
//!
//! Element i is kept with probability 1 − p and scaled by 1/(1 − p); whether it is kept is a pure
//! function of the key (seed, layer, step) and i, so nothing is stored: backward asks again.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::one;
use crate::autograd::record;
use crate::cpu::dropout;
use crate::cpu::philox::Key;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, kernel};

/// The key as numbers that a record can keep, whatever the width of `usize`.
pub(super) fn key_to_ints(key: Key) -> [usize; 6] {
    let halves = |n: u64| [(n >> 32) as usize, (n & 0xFFFF_FFFF) as usize];
    let ([a, b], [c, d], [e, f]) = (halves(key.seed), halves(key.stream), halves(key.step));
    [a, b, c, d, e, f]
}

pub(super) fn key_from_ints(ints: &[usize]) -> Key {
    let whole = |i: usize| (ints[i] as u64) << 32 | ints[i + 1] as u64;
    Key { seed: whole(0), stream: whole(2), step: whole(4) }
}

/// Sets each element to 0 with probability `p` and scales the others by 1/(1 − p).
///
/// # Errors
/// When p is not in [0, 1], and for `u32`.
#[track_caller]
pub fn dropout(x: &Tensor, p: f64, key: Key) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&p) {
        return Err(Error::op("dropout", format!("p = {p} is not a probability")));
    }
    if x.dtype().is_half() {
        return dropout(&x.to_dtype(DType::F32)?, p, key)?.to_dtype(x.dtype());
    }
    let x_packed = x.packed()?;
    let mut y = x.new_empty(x.shape())?;
    kernel!("dropout", x, T => {
        dropout::forward::<T>(y.slice_mut(), x_packed.slice_ref(), p, key)
    });
    record("dropout", &[x])
        .floats(&[p])
        .ints(&key_to_ints(key))
        .flops(x.numel() as u64)
        .backward(|ctx, dy| {
            let (p, key, dy) = (ctx.floats[0], key_from_ints(&ctx.ints), dy.packed()?);
            let mut dx = dy.new_empty(dy.shape())?;
            kernel!("dropout", dy, T => {
                dropout::backward::<T>(dx.slice_mut(), dy.slice_ref(), p, key)
            });
            one(dx)
        })
        .output(y)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("dropout", |x, a| {
            let key = Key { seed: a.int("seed") as u64, stream: 3, step: 5 };
            Ok(vec![dropout(&x[0], a.float("p"), key)?])
        })
        .samples(|| {
            [0.0, 0.3, 1.0]
                .map(|p| {
                    let input = Input::float([3, 13], -1.0, 1.0);
                    Sample::of([input]).float("p", p).ints("seed", &[11])
                })
                .into()
        })
        .errors(|| {
            vec![
                ErrorCase::new("p above 1", "not a probability", || {
                    vec![Tensor::zeros(2, DType::F32)]
                })
                .float("p", 1.5),
                ErrorCase::new("p is NaN", "not a probability", || {
                    vec![Tensor::zeros(2, DType::F32)]
                })
                .float("p", f64::NAN),
            ]
        }),
    ]
}
