//! Products of bf16 in tiles of 32 × 32, for two kinds of processors: with AMX, which multiplies matrices as one instruction
//! (`amx`), and with AVX512-BF16 alone, which multiplies pairs in each lane of a vector (`dots`). Operands lie in the same
//! way for both.
//!
//! With AMX a core has eight registers of 16 rows × 64 bytes. `tdpbf16ps` multiplies two of them into a third:
//!
//! ```text
//!                          B: 16 pairs of k × 16 columns of pairs
//!   A: 16 rows × 32 k  ·   [ b(0,j) b(1,j) ]        +=   C: 16 × 16 of f32
//!                          [ b(2,j) b(3,j) ] …
//! ```
//!
//! which is 16 384 operations in 16 cycles, sixteen times what two AVX-512 multiply-adds do. Four registers
//! hold 32 × 32 of C here, two a strip of A, two a panel of B. A panel is 32 lanes wide; for every 32 of k it
//! has, part by part (see below), two tiles of 1 KiB as the registers take them. At its end lies a margin.
//!
//! # f32 in three parts
//!
//! An f32 has 24 bits, a bf16 has 8, so three of them hold it: x = x₀ + x₁ + x₂, each the rest of the one before
//! rounded to nearest. Of the nine products six matter; the others are below the last bit:
//!
//! ```text
//!   a · b  =  a₀b₀ + (a₀b₁ + a₁b₀) + (a₀b₂ + a₁b₁ + a₂b₀) + …
//!             1       2⁻⁸             2⁻¹⁶                    2⁻²⁴
//! ```
//!
//! All six are added to the same C while it stays in its registers; [`Precision::High`](super::Precision) stands for that, on
//! AMX alone: sums of pairs would have twice f32's errors. A rest of infinity or NaN is no number and the largest f32 would
//! round up to infinity, so a row or column with one of these in a block of k is summed in f32 instead. Tiles take numbers below the normal
//! ones for 0, so the last rest of what is below 2⁻¹⁰² is lost, and low bits of products as small.
//!
//! The idea is Henry, Tang and Heinecke's (2019, "Leveraging the bfloat16 Artificial Intelligence Datatype for
//! Higher-Precision Computations"). Splitting in two parts and adding three products leaves errors 13 to 100 times
//! those of f32; it is here for the test that measures them.
//!
//! # The bits
//!
//! One `tdpbf16ps` sums the even and the odd k of its 32 in a chain of multiply-adds each, from 0, adds the two, and
//! adds that to C. `vdpbf16ps` adds one pair after the other to C. Blocks of k are summed as everywhere. So the bits depend
//! neither on tiles nor on threads, but they are others than those of f32, and differ between the two.

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod amx;
mod block;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod dots;
#[cfg(test)]
mod model;
mod packing;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "cli", target_arch = "x86_64", target_os = "linux", not(miri)))]
mod trap;
mod work;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

use half::bf16;

use super::KC;
use super::factor::{Factor, Start};
use crate::cpu::simd::{LANES, Vector};

use block::block_for;
use packing::pack_for;

pub(crate) use work::{Layout, Tiles, product};

/// Rows and columns of C that are computed at once, and lanes of a panel: two tiles.
pub(crate) const SIDE: usize = 2 * LANES;

/// The k of a tile.
const STEP: usize = 32;

/// The elements of a tile in memory.
const TILE: usize = LANES * LANES;

/// Elements after the tiles of a panel. The first holds a bit for each lane with a number that cannot be split.
const MARGIN: usize = LANES;

/// How many bf16 an operand is split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    One = 1,
    #[cfg_attr(not(test), expect(dead_code, reason = "computed beside the others in tests"))]
    Two = 2,
    Three = 3,
}

impl Parts {
    /// The products that are computed, as (part of A, part of B), in their order: from one to the next only one of
    /// the two changes, so that it alone is loaded.
    const fn products(self) -> &'static [(usize, usize)] {
        match self {
            Parts::One => &[(0, 0)],
            Parts::Two => &[(1, 0), (0, 0), (0, 1)],
            Parts::Three => &[(0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0)],
        }
    }
}

/// The length of the blocks of k. Of bf16, equal ones, long: each block more is one more time that C, from farther away,
/// is read and written. Of three parts [`KC`], which is as exact as f32; longer chains are not.
pub(super) fn depth(parts: Parts, k: usize) -> usize {
    if parts != Parts::One {
        return KC;
    }
    let most = if k <= ONE_BLOCK { ONE_BLOCK } else { ONE_BLOCK / 2 };
    k.div_ceil(k.div_ceil(most).max(1)).max(1).next_multiple_of(STEP)
}

/// The longest k of bf16 in one block.
const ONE_BLOCK: usize = 2048;

/// Rows and columns at most of a thread's tile of C: up to a megabyte of packed A, half of the second cache; where that
/// is one long block, B is long too and less of A stays beside it. Packing, beside which the products are quick, decides
/// how wide.
pub(super) fn largest_tile(parts: Parts, k: usize) -> (usize, usize) {
    let long = parts == Parts::One && 768 < k && k <= ONE_BLOCK;
    (if long { 256 } else { 512 }, 4096)
}

/// Elements of C from which on it is written past the caches, where what is written would be read first. A product of bf16
/// waits for that from the size of a second cache on, six products from several times that.
pub(super) fn far_result(parts: Parts) -> usize {
    if parts == Parts::One { 1 << 19 } else { 1 << 21 }
}

/// Strips or panels that pass at most, so many sums wait.
const STRIPS: usize = 16;

/// Columns of B packed at a time: from rows far apart, long pieces of them.
pub(super) const PACKED_COLUMNS: usize = 512;

/// The elements of a panel `k` deep.
pub(super) fn panel(parts: Parts, k: usize) -> usize {
    k.div_ceil(STEP) * parts as usize * 2 * TILE + MARGIN
}

/// Sums of 32 × 32 elements of C.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [f32; SIDE * SIDE]);

impl Sums {
    /// Zeros.
    pub(crate) const ZERO: Sums = Sums([0.0; SIDE * SIDE]);
}

/// What is asked for meanwhile, from farther caches; nothing of it is read or written.
#[derive(Clone, Copy)]
pub(crate) struct Soon {
    /// A part of what is used next, a panel of B or a strip of A: two lines a product.
    b: *const f32,
    /// The rows of C that the sums go to, so many bytes apart: one a step.
    c: *const f32,
    ldc: usize,
}

/// Rows of A for one product, packed or, in bf16, as they lie: 32 of them, from `at` on.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    at: *const f32,
    /// Bytes from one row to the next.
    row: usize,
    /// Bytes from 32 k to the next.
    step: usize,
    /// Rows whose sums are wanted; all 32 can be read.
    rows: usize,
    stays: Stays,
}

/// The sums of one strip of A and one panel of B.
pub(crate) struct Chain<'a> {
    parts: Parts,
    a: Strip,
    b: *const f32,
    /// So many times 32 k.
    steps: usize,
    soon: Soon,
    /// They go on from those that `to` holds.
    more: bool,
    to: &'a mut Sums,
}

/// Which operand stays in the first cache. The other, which comes from the second, is not to drive it out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stays {
    A,
    B,
    Both,
}

impl Strip {
    /// A packed one.
    fn packed(parts: Parts, at: *const f32) -> Strip {
        let (row, step) = packed_rows(parts);
        let [row, step] = [row, step].map(|elements| elements * size_of::<f32>());
        Strip { at, row, step, rows: SIDE, stays: Stays::Both }
    }
}

/// From one row of a packed A to the next, in elements, and from 32 k to the next.
pub(super) fn packed_rows(parts: Parts) -> (usize, usize) {
    (LANES, parts as usize * 2 * TILE)
}

/// How A lies, in elements of f32 as [`packed_rows`], if tiles can take it from there: in bf16, whole steps of k, each
/// in a line of its own.
pub(super) fn rows_of<T: Copy>(a: &Factor<'_, T>, k: usize) -> Option<(usize, usize)> {
    let Start::Bf16(at) = a.data.start() else { return None };
    let lines = a.col_stride == 1 && a.row_stride.is_multiple_of(STEP) && k.is_multiple_of(STEP);
    (lines && (at as usize).is_multiple_of(64)).then_some((a.row_stride / 2, LANES))
}

/// Something that multiplies in tiles: the processor, or the model of AMX in tests.
pub(crate) trait Unit {
    /// Its vectors.
    type V: Vector<Elem = f32>;
    /// The nearest bf16, as f32. Numbers below the normal ones are 0.
    fn round(x: Self::V) -> Self::V;
    /// 32 bf16: those nearest to the lanes of `low`, then of `high`.
    fn beside(low: Self::V, high: Self::V) -> Self::V;
    /// In each lane two bf16: the nearest to `low`'s in the low half, to `high`'s in the high one.
    fn between(low: Self::V, high: Self::V) -> Self::V;
    /// Sixteen bf16 from `low` on in the low halves of the lanes, from `high` on in the high ones.
    ///
    /// # Safety
    /// Both can be read.
    unsafe fn pairs(low: *const bf16, high: *const bf16) -> Self::V;
    /// Writes a vector past the caches; [`Unit::end`] waits for it.
    ///
    /// # Safety
    /// `to` can be written and is aligned to 64 bytes.
    unsafe fn stream(x: Self::V, to: *mut f32) {
        // SAFETY: handed through.
        unsafe { x.store_ptr(to) };
    }
    /// What has to be done before [`Unit::sums`]: AMX gives its eight registers 16 rows of 64 bytes.
    ///
    /// # Safety
    /// The machine has what this multiplies with.
    unsafe fn begin();
    /// Undoes [`Unit::begin`] and waits for what was streamed.
    ///
    /// # Safety
    /// As [`Unit::begin`], which has been called.
    unsafe fn end();
    /// Sums a chain. Of rows that the strip does not want `to` holds anything afterwards.
    ///
    /// # Safety
    /// 32 rows of A and the panel of B hold that many steps of `parts` parts, aligned to 64 bytes; [`Unit::begin`] has been
    /// called.
    unsafe fn sums(chain: Chain<'_>);
}

/// A kernel with its arguments, waiting for tiles.
pub(crate) trait Work {
    /// Does the work. Implementations are `#[inline(always)]`; no other product runs inside, since that would give
    /// the registers back.
    fn run<U: Unit>(self);
}

/// Runs `rounds` rounds of products of tiles and returns the floating-point operations; `None` where the machine has
/// no tiles.
pub(crate) fn spin(rounds: usize) -> Option<f64> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
    {
        use crate::cpu::simd::{Level, available_levels};
        // SAFETY: the machine has tiles.
        available_levels().contains(&Level::Amx).then(|| unsafe { amx::spin(rounds) })
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
    {
        let _ = rounds;
        None
    }
}
