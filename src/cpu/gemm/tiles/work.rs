//! Which tiles there are; and tiles for kernels that lay out operands of their own, as attention does: one part, bf16.

use std::any::TypeId;

use super::super::Mat;
use super::super::factor::Start;
use super::super::micro::Block;
use super::super::pack::{Operand, Source};
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
use super::amx::Amx;
use super::{
    Chain, Parts, SIDE, STEP, STRIPS, Soon, Strip, Sums, TILE, Unit, Work, block_for, pack_for,
    panel,
};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::{dots::Dots, x86};
use crate::cpu::scratch;
use crate::cpu::simd::{LANES, Level, Real, dot_bf16, level};

/// Tiles that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles(Whose);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The processor's registers.
    Amx,
    /// The processor's vectors of pairs.
    Dots,
    /// The [model](super::model)'s.
    #[cfg(test)]
    Model,
}

impl Tiles {
    /// The fastest that the instruction set in force has, if T is `f32`; vectors of pairs only where they do more than its
    /// multiply-adds.
    pub(crate) fn find<T: Real>() -> Option<Tiles> {
        if TypeId::of::<T>() != TypeId::of::<f32>() {
            return None;
        }
        match level() {
            Level::Amx => Some(Tiles(Whose::Amx)),
            _ => dot_bf16::pays().then_some(Tiles(Whose::Dots)),
        }
    }

    /// Those of the model.
    #[cfg(test)]
    pub(crate) fn model() -> Tiles {
        Tiles(Whose::Model)
    }

    /// The processor's vectors of pairs, also where f32 is faster; nothing where it has none.
    #[cfg(test)]
    pub(crate) fn dots() -> Option<Tiles> {
        let in_force = matches!(level(), Level::Avx512 | Level::Amx) && dot_bf16::available();
        if !in_force {
            eprintln!("skipped: this machine has no pairs of bf16, or they are not in force");
        }
        in_force.then_some(Tiles(Whose::Dots))
    }

    /// AMX's, or where the processor has none those of the [trap](super::trap), which takes the same machine code;
    /// nothing where it cannot even round to bf16.
    #[cfg(all(test, feature = "cli", target_arch = "x86_64", target_os = "linux", not(miri)))]
    pub(crate) fn amx_or_trap() -> Option<Tiles> {
        let levels = crate::cpu::simd::available_levels();
        if !dot_bf16::available() || !levels.contains(&Level::Avx512) {
            eprintln!("skipped: this machine cannot round to bf16");
            return None;
        }
        if !levels.contains(&Level::Amx) {
            super::trap::install();
        }
        Some(Tiles(Whose::Amx))
    }

    /// Whether they are taken for this shape: packing, of which there is (m + n) k, has to be worth its m n k products, and
    /// a side shorter than a tile is filled up with zeros. Vectors of pairs skip most of the rows that are filled up; up to
    /// eight are left to f32, which reads a B in f32 where it lies; below 2¹⁵ multiply-adds rounding costs more than
    /// they bring. Six products win little, on AMX alone, and from 2¹⁵ elements of C on.
    pub(in super::super) fn pay(self, parts: Parts, (m, n, k): (usize, usize, usize)) -> bool {
        match (self.0, parts) {
            (Whose::Dots, Parts::One) => {
                m > 8 && n.min(k) >= LANES && m.saturating_mul(n).saturating_mul(k) >= 1 << 15
            }
            (Whose::Dots, _) => false,
            (_, Parts::One) => m.min(n) >= LANES && k >= STEP,
            _ => m.min(n) >= 48 && m.saturating_mul(n) >= 1 << 15 && k >= STEP,
        }
    }

    /// At least so many times as fast as multiply-adds of f32 is a large product, packing included.
    pub(in super::super) fn times_as_fast(self, parts: Parts) -> usize {
        match parts {
            Parts::One if self.0 == Whose::Dots => 1,
            Parts::One => 5,
            Parts::Two => 2,
            Parts::Three => 1,
        }
    }

    /// Runs `work` on them.
    pub(crate) fn run<W: Work>(self, work: W) {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
            // SAFETY: whoever made this has seen that the machine has them (or has set the trap).
            Whose::Amx => unsafe { x86::run::<Amx, _>(work) },
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: as above.
            Whose::Dots => unsafe { x86::run::<Dots, _>(work) },
            #[cfg(test)]
            Whose::Model => work.run::<super::model::Model>(),
            #[allow(unreachable_patterns)]
            _ => nowhere(work),
        }
    }

    /// Packs `source` into panels; what is missing becomes 0.
    ///
    /// # Safety
    /// All of the source can be read, and T is f32.
    pub(in super::super) unsafe fn pack<T: Real>(
        self,
        dst: &mut [T],
        source: Source<Start<T>>,
        operand: Operand,
        parts: Parts,
    ) {
        let (dst, source) = (bytemuck::cast_slice_mut::<_, f32>(dst), source.cast::<f32>());
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: handed through; whoever made this has seen that the machine rounds to bf16.
            Whose::Amx | Whose::Dots => unsafe { x86::pack::<Dots>(dst, source, operand, parts) },
            #[cfg(test)]
            // SAFETY: handed through.
            Whose::Model => unsafe { pack_for::<super::model::Model>(dst, source, operand, parts) },
            #[allow(unreachable_patterns)]
            _ => nowhere((dst, source, operand, parts)),
        }
    }

    /// Computes a block of C from packed operands; `a` and `b` are what they were packed from.
    ///
    /// # Safety
    /// As [`micro::block`](super::super::micro::block); the sources can be read, and T is f32.
    pub(in super::super) unsafe fn block<T: Real>(
        self,
        block: Block<'_, T>,
        parts: Parts,
        a: Source<Start<T>>,
        b: Source<Start<T>>,
    ) {
        let (block, a, b) = (block.cast(), a.cast(), b.cast());
        // Sums that wait.
        scratch::with(STRIPS, |sums| self.run(OfC { block, parts, a, b, sums }));
    }
}

/// What machines of this kind never have.
fn nowhere<W>(_: W) -> ! {
    unreachable!("no tiles here")
}

/// A block of C. Whoever makes one vouches for what [`block_for`] asks.
struct OfC<'a> {
    block: Block<'a, f32>,
    parts: Parts,
    a: Source<Start<f32>>,
    b: Source<Start<f32>>,
    sums: &'a mut [Sums],
}

impl Work for OfC<'_> {
    #[inline(always)]
    fn run<U: Unit>(self) {
        // SAFETY: `Tiles::block` hands its caller's promise on; the registers are there while work runs.
        unsafe { block_for::<U>(&self.block, self.parts, self.a, self.b, self.sums) };
    }
}

/// Where panels of 32 lanes have what: see [the module](super).
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// The elements of a panel.
    size: usize,
}

impl Layout {
    /// Of panels `k` deep.
    pub(crate) fn deep(k: usize) -> Layout {
        Layout { size: panel(Parts::One, k) }
    }

    /// The elements of so many lanes: whole vectors.
    pub(crate) fn room(self, lanes: usize) -> usize {
        lanes.div_ceil(SIDE) * self.size
    }

    /// Where the panel with this lane is, from the step with `k` on.
    #[inline(always)]
    pub(crate) fn panel(self, lane: usize, k: usize) -> usize {
        lane / SIDE * self.size + k / STEP * 2 * TILE
    }

    /// Where a row of A has the 32 k of the step with `k`.
    #[inline(always)]
    pub(crate) fn row(self, lane: usize, k: usize) -> usize {
        self.panel(lane, k) + lane % SIDE / LANES * TILE + lane % LANES * LANES
    }

    /// Where B has `k` and k + 1 of sixteen columns from `lane` on; both are even, `lane` a multiple of sixteen.
    #[inline(always)]
    pub(crate) fn pair(self, lane: usize, k: usize) -> usize {
        self.panel(lane, k) + lane % SIDE / LANES * TILE + k % STEP / 2 * LANES
    }

    /// Packs X `[lanes, k]`, k as deep as the panels.
    #[inline(always)]
    pub(crate) fn pack<U: Unit>(
        self,
        dst: &mut [f32],
        x: Mat<'_, f32>,
        lanes: usize,
        k: usize,
        operand: Operand,
    ) {
        x.check("X", (1, 0), lanes, k);
        assert_eq!(panel(Parts::One, k), self.size, "panels of another depth");
        let data = Start::Own(x.data.as_ptr());
        let source = Source { data, lane: x.row_stride, step: x.col_stride, lanes, k };
        // SAFETY: the matrix is inside its slice.
        unsafe { pack_for::<U>(dst, source, operand, Parts::One) };
    }
}

/// `A B` of one panel each over so many steps of 32 k.
#[inline(always)]
pub(crate) fn product<U: Unit>(a: &[f32], b: &[f32], steps: usize, to: &mut Sums) {
    let len = steps * 2 * TILE;
    let (a, b) = (a[..len].as_ptr(), b[..len].as_ptr());
    // Nothing is far away: what is asked for is at hand.
    let soon = Soon { b, c: to.0.as_ptr(), ldc: 0 };
    let (parts, more) = (Parts::One, false);
    let chain = Chain { parts, a: Strip::packed(parts, a), b, steps, soon, more, to };
    // SAFETY: both are that long, and registers are there wherever there is a U: `Tiles::run` has begun.
    unsafe { U::sums(chain) };
}
