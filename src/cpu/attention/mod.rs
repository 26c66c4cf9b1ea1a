//! Attention: `O = softmax(s Q Kᵀ + mask) V` for each batch and head, memory linear in T.
//!
//! # The idea
//!
//! The T×T scores are computed block by block and never kept. Forward goes over the keys once with a running
//! softmax (Milakov and Gimelshein 2018; Dao et al. 2022): for a block of keys with scores x = s q·k
//!
//! ```text
//! m' = max(m, max x)      α = e^(m − m')      l' = α l + Σ e^(x − m')      O' = α O + Σ e^(x − m') v
//! ```
//!
//! and at the end O / l is the output and `lse = m + ln l` the one number a row that backward needs:
//! with it `P = e^(x − lse)` comes back without a maximum or a sum. Blocks that a causal mask hides are
//! not computed at all; only the block on the diagonal is masked.
//!
//! # What a task does
//!
//! Forward ([`forward`]) takes 32 queries at a time. They are the lanes: the scores are computed
//! transposed, `Sᵀ = K Qᵀ`, so that maximum and sum run down the keys without a horizontal step. Backward
//! ([`backward`]) needs no maximum and goes by rows; see there.
//!
//! A task is one head, or where heads are few a part of its queries or keys. What a block adds to
//! what, and in which order, is fixed by positions in the sequence alone, so the cut into tasks
//! does not show in the bits.

mod backward;
mod dropout;
mod forward;
mod task;
#[cfg(test)]
mod tests;
mod tiled;

pub use backward::{Gradients, backward};
pub use forward::forward;

use super::gemm::{Mat, Precision};
use super::philox::Key;
pub use super::simd::Strides;
use super::simd::{LANES, Number, Real, Vector};

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Heads of each.
    pub heads: usize,
    /// Queries.
    pub tq: usize,
    /// Keys and values.
    pub tk: usize,
    /// The size of a head.
    pub d: usize,
}

impl Shape {
    /// Keys beyond the queries: causal, query i sees keys `0 ..= i + ahead`.
    fn ahead(&self) -> usize {
        self.tk.saturating_sub(self.tq)
    }

    /// Keys that some query of `first..end` sees.
    fn visible(&self, causal: bool, end: usize) -> usize {
        if causal { self.tk.min(end + self.ahead()) } else { self.tk }
    }

    /// Multiply-adds of a product of scores with a head.
    fn work(&self) -> usize {
        [self.heads, self.tq, self.tk, self.d].into_iter().fold(self.batch, usize::saturating_mul)
    }

    /// Rows of a task's piece, so that pieces of all heads go round among the threads: all `rows` where
    /// there are heads enough, else a multiple of `unit`.
    fn piece(&self, rows: usize, unit: usize) -> usize {
        let (heads, threads) = (self.batch * self.heads, rayon::current_num_threads());
        if heads >= 2 * threads {
            return rows.max(1);
        }
        let pieces = (4 * threads).div_ceil(heads.max(1));
        rows.div_ceil(pieces).next_multiple_of(unit)
    }
}

/// Multiply-adds worth a second thread, some 10 µs.
const PIECE: usize = 1 << 20;

/// What [`threads::for_each`](super::threads::for_each) calls work.
fn worth(multiply_adds: usize) -> usize {
    if multiply_adds < 2 * PIECE { 0 } else { usize::MAX }
}

/// The options of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Query i sees keys `0 ..= i + tk − tq` only.
    pub causal: bool,
    /// `[batch, tk]`: keys that are not 0 here are seen by nobody; whatever they and their values hold,
    /// NaN included, does not matter.
    pub key_padding: Option<&'a [u32]>,
    /// The factor s on the scores.
    pub scale: f64,
    /// Dropout of probabilities: p and the key of the random numbers. Query i of head h of batch b
    /// takes its numbers from blocks `g · ((b · heads + h) · tq + i) ..` of that key's stream, with `g =
    /// 16 ⌈tk / 64⌉`; key j is dropped if word `j % 64 / 16` of block `16 (j / 64) + j % 16` of those is
    /// below p · 2³².
    pub dropout: Option<(f64, Key)>,
    /// How exact the products may be. `Medium` rounds to bf16 where a machine multiplies matrices of it ([`tiled`]) and
    /// on a GPU; everything else is f32.
    pub precision: Precision,
}

impl Options<'_> {
    /// Whether key `j` of batch `b` is padding.
    #[inline(always)]
    fn padded(&self, shape: &Shape, b: usize, j: usize) -> bool {
        self.key_padding.is_some_and(|mask| mask[b * shape.tk + j] != 0)
    }

    fn check(&self, shape: &Shape) {
        assert!(!self.causal || shape.tq <= shape.tk, "queries before the first key");
        if let Some(mask) = self.key_padding {
            assert_eq!(mask.len(), shape.batch * shape.tk, "a mask of another shape");
        }
    }
}

/// An input in heads.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    data: &'a [T],
    strides: Strides,
}

impl<'a, T: Real> Input<'a, T> {
    /// Rows from `first` on of one head, as a matrix.
    fn matrix(&self, (b, h): (usize, usize), first: usize) -> Mat<'a, T> {
        let data = self.data.get(self.strides.at(b, h, first)..).unwrap_or(&[]);
        Mat { data, row_stride: self.strides.row, col_stride: 1 }
    }

    /// Row `r` of one head.
    #[inline(always)]
    fn row(&self, (b, h): (usize, usize), r: usize, d: usize) -> &'a [T] {
        &self.data[self.strides.at(b, h, r)..][..d]
    }

    /// Copies rows `first..end` of a head into rows of `width`, filled up with zeros; rows for which
    /// `hide` is true become zeros altogether.
    #[inline(always)]
    fn copy_rows<V: Vector<Elem = T>>(
        &self,
        dst: &mut [T],
        at: (usize, usize),
        (first, end): (usize, usize),
        (d, width): (usize, usize),
        hide: impl Fn(usize) -> bool,
    ) {
        for (r, dst) in (first..end).zip(dst.chunks_exact_mut(width)) {
            if hide(r) {
                dst.fill(T::ZERO);
                continue;
            }
            let row = self.row(at, r, d);
            for (from, to) in row.chunks(LANES).zip(dst.chunks_exact_mut(LANES)) {
                V::load_part(from).store(to);
            }
        }
    }
}

/// The size of a head filled up to whole vectors, at least one.
fn padded_width(d: usize) -> usize {
    d.max(1).next_multiple_of(LANES)
}

/// 0, 1, 2, … from `first` on.
#[inline(always)]
fn count_from<V: Vector>(first: usize) -> V {
    V::from_array(std::array::from_fn(|i| V::Elem::from_f64((first + i) as f64)))
}

/// Cuts the first `len` elements off `room`.
fn cut<'a, T>(room: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (head, tail) = std::mem::take(room).split_at_mut(len);
    *room = tail;
    head
}
