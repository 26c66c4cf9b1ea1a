//! Linear-chain conditional random fields (Lafferty, McCallum and Pereira 2001).
//!
//! A path of tags y over a row of n words scores `s(y₀) + Σ e_t(y_t) + Σ A(y_{t−1}, y_t) + f(y_{n−1})`; its
//! probability is `exp(score)` over the sum of that over all kⁿ paths, Z, which the forward algorithm
//! finds in n·k² steps. The loss is `ln Z − score`. Its gradient is what the model expects less what is there:
//! `de_t(i) = P(y_t = i) − [y_t = i]`, `dA(i, j) = Σ_t P(y_t = i, y_{t+1} = j) − [..]`, by the forward and the
//! backward variables. [`viterbi`] gives the best path.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{beside, expect_shape, expect_u32, grads, same_dtype};
use crate::autograd::record;
use crate::cpu::crf::{self, Chain};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor, for_float};

/// The three tables of a chain over K tags, one dtype.
#[derive(Clone, Copy)]
pub struct CrfTables<'a> {
    /// A `[K, K]`, from the row's tag to the column's.
    pub transitions: &'a Tensor,
    /// s `[K]`, for the first tag.
    pub start: &'a Tensor,
    /// f `[K]`, for the last tag.
    pub end: &'a Tensor,
}

/// B, T and K, after everything has been looked at.
#[track_caller]
fn check(
    op: &'static str,
    emissions: &Tensor,
    tables: &CrfTables<'_>,
    lengths: &Tensor,
) -> Result<(usize, usize, usize)> {
    let &[b, t, k] = emissions.shape() else {
        return Err(Error::op(op, format!("emissions {:?} are not [B, T, K]", emissions.shape())));
    };
    if k == 0 {
        return Err(Error::op(op, "there is no tag"));
    }
    for (what, table, shape) in [
        ("transitions", tables.transitions, &[k, k][..]),
        ("start", tables.start, &[k]),
        ("end", tables.end, &[k]),
    ] {
        same_dtype(op, emissions, table)?;
        expect_shape(op, what, table, shape)?;
    }
    expect_u32(op, "lengths", lengths)?;
    expect_shape(op, "lengths", lengths, &[b])?;
    let lengths = lengths.moved(Device::Cpu)?.packed()?;
    let all: &[u32] = lengths.slice_ref();
    if let Some(n) = all.iter().find(|&&n| n == 0 || n as usize > t) {
        return Err(Error::op(op, format!("a length of {n}; expected 1 to {t}")));
    }
    Ok((b, t, k))
}

/// The negative logarithm of the probability of `tags` `[B, T]` (`u32`), one number a row: `[B]`. `emissions`
/// is `[B, T, K]`; `lengths` `[B]` (`u32`) say how many words of each row count, what stands after them does
/// not matter.
///
/// # Errors
/// When shapes or dtypes do not fit, a tag that counts is not below K or a length not in 1..=T.
#[track_caller]
pub fn crf(
    emissions: &Tensor,
    tables: &CrfTables<'_>,
    tags: &Tensor,
    lengths: &Tensor,
) -> Result<Tensor> {
    let (b, t, k) = check("crf", emissions, tables, lengths)?;
    expect_u32("crf", "tags", tags)?;
    expect_shape("crf", "tags", tags, &[b, t])?;
    let CrfTables { transitions, start, end } = *tables;
    if emissions.device() != Device::Cpu {
        // T steps over K tags, one after the other, are no work for a GPU: B·T·K numbers go to main memory.
        let [e, a, s, f] = [emissions, transitions, start, end].map(|x| x.to_device(Device::Cpu));
        let (a, s, f) = (a?, s?, f?);
        let tables = CrfTables { transitions: &a, start: &s, end: &f };
        return crf(&e?, &tables, tags, lengths)?.to_device(emissions.device());
    }
    if emissions.dtype().is_half() {
        let [e, a, s, f] = [emissions, transitions, start, end].map(|x| x.to_dtype(DType::F32));
        let (a, s, f) = (a?, s?, f?);
        let tables = CrfTables { transitions: &a, start: &s, end: &f };
        return crf(&e?, &tables, tags, lengths);
    }
    let (e, a) = (emissions.packed()?, transitions.packed()?);
    let (s, f) = (start.packed()?, end.packed()?);
    let (tags, lengths) = (beside(&e, tags)?.packed()?, beside(&e, lengths)?.packed()?);
    let (all, ends): (&[u32], &[u32]) = (tags.slice_ref(), lengths.slice_ref());
    let mut counted = all.chunks(t.max(1)).zip(ends).flat_map(|(row, &n)| &row[..n as usize]);
    if let Some(tag) = counted.find(|&&tag| tag as usize >= k) {
        return Err(Error::op("crf", format!("tag {tag} is not below {k}")));
    }
    let dtype = e.dtype();
    let (mut losses, mut log_z) = (Tensor::empty(b, dtype)?, Tensor::empty(b, dtype)?);
    let mut alpha = Tensor::empty([b, t, k], dtype)?;
    for_float!("crf", dtype, T => {
        let chain =
            Chain { transitions: a.slice_ref(), start: s.slice_ref(), end: f.slice_ref() };
        crf::forward::<T>(
            losses.slice_mut(), log_z.slice_mut(), alpha.slice_mut(), e.slice_ref(), chain,
            tags.slice_ref(), lengths.slice_ref(), t, k
        )
    });
    record("crf", &[emissions, transitions, start, end])
        .save(&[&e, &a, &s, &f, &tags, &lengths, &alpha, &log_z])
        .flops((4 * b * t * k * k) as u64)
        .backward(|mut ctx, dy| {
            let (e, a, s, f) = (ctx.take(0)?, ctx.take(1)?, ctx.take(2)?, ctx.take(3)?);
            let (tags, lengths) = (ctx.take(4)?, ctx.take(5)?);
            let (alpha, log_z) = (ctx.take(6)?, ctx.take(7)?);
            let (dy, dtype) = (dy.packed()?, e.dtype());
            let (t, k) = (e.shape()[1], e.shape()[2]);
            let mut de = Tensor::empty(e.shape(), dtype)?;
            let mut da = Tensor::empty([k, k], dtype)?;
            let (mut ds, mut df) = (Tensor::empty(k, dtype)?, Tensor::empty(k, dtype)?);
            for_float!("crf", dtype, T => {
                let chain =
                    Chain { transitions: a.slice_ref(), start: s.slice_ref(), end: f.slice_ref() };
                crf::backward::<T>(
                    de.slice_mut(), da.slice_mut(), ds.slice_mut(), df.slice_mut(), dy.slice_ref(),
                    alpha.slice_ref(), log_z.slice_ref(), e.slice_ref(), chain, tags.slice_ref(),
                    lengths.slice_ref(), t, k
                )
            });
            grads([Some(de), Some(da), Some(ds), Some(df)])
        })
        .output(losses)
}

/// The best path of tags of each row, `[B, T]` (`u32`), 0 past the end of a row. Of equal paths the one with
/// the lower tags wins. A table entry of −∞ forbids.
///
/// # Errors
/// When shapes or dtypes do not fit or a length is not in 1..=T.
#[track_caller]
pub fn viterbi(emissions: &Tensor, tables: &CrfTables<'_>, lengths: &Tensor) -> Result<Tensor> {
    let (b, t, k) = check("viterbi", emissions, tables, lengths)?;
    let CrfTables { transitions, start, end } = *tables;
    if emissions.device() != Device::Cpu {
        let [e, a, s, f] = [emissions, transitions, start, end].map(|x| x.moved(Device::Cpu));
        let (a, s, f) = (a?, s?, f?);
        let tables = CrfTables { transitions: &a, start: &s, end: &f };
        return viterbi(&e?, &tables, lengths)?.moved(emissions.device());
    }
    if emissions.dtype().is_half() {
        let [e, a, s, f] = [emissions, transitions, start, end].map(|x| x.to_dtype(DType::F32));
        let (a, s, f) = (a?, s?, f?);
        return viterbi(&e?, &CrfTables { transitions: &a, start: &s, end: &f }, lengths);
    }
    let (e, a) = (emissions.packed()?, transitions.packed()?);
    let (s, f) = (start.packed()?, end.packed()?);
    let lengths = beside(&e, lengths)?.packed()?;
    let mut paths = Tensor::empty([b, t], DType::U32)?;
    for_float!("viterbi", e.dtype(), T => {
        let chain =
            Chain { transitions: a.slice_ref(), start: s.slice_ref(), end: f.slice_ref() };
        crf::viterbi::<T>(paths.slice_mut(), e.slice_ref(), chain, lengths.slice_ref(), t, k)
    });
    Ok(paths)
}

fn tables(x: &[Tensor]) -> CrfTables<'_> {
    CrfTables { transitions: &x[1], start: &x[2], end: &x[3] }
}

/// Emissions, tables and lengths of a call.
fn chain(b: usize, t: usize, k: usize, lengths: &[u32]) -> ([Input; 4], Input) {
    let float = |shape: &[usize]| Input::float(shape, -2.0, 2.0);
    let floats = [float(&[b, t, k]), float(&[k, k]), float(&[k]), float(&[k])];
    (floats, Input::exactly(b, lengths))
}

const SHAPES: [(usize, usize, usize, &[u32]); 6] = [
    (1, 1, 1, &[1]),
    (2, 3, 2, &[3, 1]),
    (3, 4, 3, &[2, 4, 3]),
    (1, 2, 18, &[2]),
    (2, 5, 2, &[5, 5]),
    (0, 3, 2, &[]),
];

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("crf", |x, _| Ok(vec![crf(&x[0], &tables(x), &x[4], &x[5])?]))
            .samples(|| {
                let sample = |&(b, t, k, lengths): &(usize, usize, usize, &[u32])| {
                    let (floats, lengths) = chain(b, t, k, lengths);
                    let tags = Input::ids([b, t], k as u32);
                    Sample::of(floats.into_iter().chain([tags, lengths]))
                };
                SHAPES.iter().map(sample).collect()
            })
            .errors(|| {
                vec![
                    ErrorCase::new("a tag too large", "tag 2 is not below 2", || {
                        case([1, 3, 2], Some((2.0, [1, 3])), 3.0, 1)
                    }),
                    ErrorCase::new("a length of 0", "a length of 0; expected 1 to 3", || {
                        case([1, 3, 2], Some((0.0, [1, 3])), 0.0, 1)
                    }),
                    ErrorCase::new("a length beyond T", "a length of 4", || {
                        case([1, 3, 2], Some((0.0, [1, 3])), 4.0, 1)
                    }),
                    ErrorCase::new("tags of another shape", "expected [1, 3]", || {
                        case([1, 3, 2], Some((0.0, [1, 2])), 3.0, 1)
                    }),
                    ErrorCase::new("lengths of another shape", "expected [1]", || {
                        case([1, 3, 2], Some((0.0, [1, 3])), 3.0, 2)
                    }),
                ]
            })
            .tolerance(3e-6),
        Entry::new("viterbi", |x, _| Ok(vec![viterbi(&x[0], &tables(x), &x[4])?]))
            .samples(|| {
                let sample = |&(b, t, k, lengths): &(usize, usize, usize, &[u32])| {
                    let (floats, lengths) = chain(b, t, k, lengths);
                    Sample::of(floats.into_iter().chain([lengths]))
                };
                SHAPES.iter().map(sample).collect()
            })
            .errors(|| {
                vec![ErrorCase::new("a length of 0", "a length of 0", || {
                    case([1, 3, 2], None, 0.0, 1)
                })]
            })
            .not_differentiable(),
    ]
}

/// Inputs of zeros with the given tags (value and shape) and lengths (value and number).
fn case(
    [b, t, k]: [usize; 3],
    tags: Option<(f64, [usize; 2])>,
    length: f64,
    lengths: usize,
) -> Vec<Result<Tensor>> {
    let mut inputs = vec![
        Tensor::zeros([b, t, k], DType::F32),
        Tensor::zeros([k, k], DType::F32),
        Tensor::zeros(k, DType::F32),
        Tensor::zeros(k, DType::F32),
    ];
    inputs.extend(tags.map(|(value, shape)| Tensor::full(shape, value, DType::U32)));
    inputs.push(Tensor::full(lengths, length, DType::U32));
    inputs
}
