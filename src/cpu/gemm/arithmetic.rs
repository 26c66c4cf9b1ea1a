//! What multiplies and adds inside a block: it decides how operands are packed, and the bits.

use super::factor::{Factor, Start};
use super::micro::{Block, block, tile_size};
use super::pack::{Operand, Source, pack};
use super::tiles::{self, Parts, Tiles};
use super::{KC, NB, PIECE, Precision};
use crate::cpu::simd::Real;

/// One way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// Fused multiply-adds, the same bits everywhere.
    Fma,
    /// Operands split into so many bf16, multiplied in [tiles].
    Tiles(Tiles, Parts),
}

impl Arithmetic {
    /// The fastest that `precision` allows for a product of this shape on the instruction set in force.
    pub(super) fn new<T: Real>(precision: Precision, shape: (usize, usize, usize)) -> Arithmetic {
        let parts = match precision {
            Precision::Highest => return Arithmetic::Fma,
            Precision::High => Parts::Three,
            Precision::Medium => Parts::One,
        };
        match Tiles::find::<T>() {
            Some(tiles) if tiles.pay(parts, shape) => Arithmetic::Tiles(tiles, parts),
            _ => Arithmetic::Fma,
        }
    }

    /// The parts of operands that are split for tiles.
    fn parts(self) -> Option<Parts> {
        match self {
            Arithmetic::Fma => None,
            Arithmetic::Tiles(_, parts) => Some(parts),
        }
    }

    /// Rows and columns of the micro-kernel's tile of C.
    pub(super) fn tile<T: Real>(self) -> (usize, usize) {
        self.parts().map_or_else(tile_size::<T>, |_| (tiles::SIDE, tiles::SIDE))
    }

    /// The length of the blocks that `k` is summed in. It decides the bits.
    pub(super) fn depth(self, k: usize) -> usize {
        self.parts().map_or(KC, |parts| tiles::depth(parts, k))
    }

    /// Rows and columns at most of the tile of C that a thread computes. Its rows of A stay packed in the second cache,
    /// with KC = 256 half a megabyte of f32; for each tile beside it they are packed again.
    pub(super) fn largest_tile(self, k: usize) -> (usize, usize) {
        self.parts().map_or((504, 1024), |parts| tiles::largest_tile(parts, k))
    }

    /// Whether it multiplies in tiles: those can read an A in bf16 where it lies and round sums to a C in bf16.
    pub(super) fn in_tiles(self) -> bool {
        self.parts().is_some()
    }

    /// Elements of C from which on it is written past the caches, by those that can.
    pub(super) fn far_result(self) -> usize {
        self.parts().map_or(usize::MAX, tiles::far_result)
    }

    /// Columns of B that a tile packs at a time, a multiple of [`NB`].
    pub(super) fn packed_columns(self) -> usize {
        self.parts().map_or(NB, |_| tiles::PACKED_COLUMNS)
    }

    /// Tiles of C that each thread should get at least: several even out what slows a thread down, one packs least.
    pub(super) fn tiles_a_thread(self) -> usize {
        self.parts().map_or(2, |_| 1)
    }

    /// The work of a product in multiply-adds of [`Arithmetic::Fma`] that take about as long.
    pub(super) fn work(self, (m, n, k): (usize, usize, usize)) -> usize {
        let times = match self {
            Arithmetic::Fma => 1,
            Arithmetic::Tiles(tiles, parts) => tiles.times_as_fast(parts),
        };
        m.saturating_mul(n).saturating_mul(k) / times
    }

    /// From this much work on a B that several tiles read is packed once, before them, which takes one more turn of all
    /// threads; below it each tile packs for itself. A is not shared: it is needed sooner after it is packed than one
    /// core reads what another has just written.
    pub(super) fn packs_together_from(self) -> usize {
        match self {
            #[cfg(test)]
            Arithmetic::Tiles(tiles, _) if tiles == Tiles::model() => PIECE, // which is slow, and should go the same ways
            _ => 32 * PIECE,
        }
    }

    /// Whether both operands have to be packed.
    pub(super) fn packs(self) -> bool {
        self != Arithmetic::Fma
    }

    /// The elements of a panel of `width` lanes, `k` deep.
    pub(super) fn panel(self, width: usize, k: usize) -> usize {
        match self.parts() {
            Some(parts) => tiles::panel(parts, k),
            None => width * k,
        }
    }

    /// From one row of a packed A to the next, within a panel, and from one step along k to the next.
    pub(super) fn packed_rows(self, width: usize) -> (usize, usize) {
        self.parts().map_or((1, width), tiles::packed_rows)
    }

    /// The same of an A that is not packed; `None` if it has to be.
    pub(super) fn rows_of<T: Copy>(self, a: &Factor<'_, T>, k: usize) -> Option<(usize, usize)> {
        match self.parts() {
            Some(Parts::One) => tiles::rows_of(a, k),
            _ if self == Arithmetic::Fma && !a.is_bf16() => Some((a.row_stride, a.col_stride)),
            _ => None,
        }
    }

    /// Packs `source` into panels of `width` lanes.
    ///
    /// # Safety
    /// All of the source can be read, and the machine has this arithmetic.
    pub(super) unsafe fn pack<T: Real>(
        self,
        dst: &mut [T],
        source: Source<Start<T>>,
        width: usize,
        operand: Operand,
    ) {
        // SAFETY: handed through.
        unsafe {
            match self {
                Arithmetic::Fma => pack(dst, source, width),
                Arithmetic::Tiles(tiles, parts) => tiles.pack(dst, source, operand, parts),
            }
        }
    }

    /// Computes a block of C; `a` and `b` are its operands before they were packed.
    ///
    /// # Safety
    /// As [`micro::block`](super::micro::block), with operands that this arithmetic has packed, from sources that
    /// can still be read.
    pub(super) unsafe fn block<T: Real>(
        self,
        operands: Block<'_, T>,
        a: Source<Start<T>>,
        b: Source<Start<T>>,
    ) {
        // SAFETY: handed through.
        unsafe {
            match self {
                Arithmetic::Fma => block(operands),
                Arithmetic::Tiles(tiles, parts) => tiles.block(operands, parts, a, b),
            }
        }
    }
}
