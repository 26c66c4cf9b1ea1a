//! Tiles for kernels that lay out operands of their own, as attention does: one part, bf16.

use super::super::Mat;
use super::super::factor::Start;
use super::super::pack::{Operand, Source};
use super::{Parts, SIDE, STEP, Soon, Strip, Sums, TILE, Unit, Work, available, pack_for, panel};
use crate::cpu::simd::{LANES, Real};

/// Tiles that are there.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(Whose);

#[derive(Clone, Copy)]
enum Whose {
    Processor,
    #[cfg(test)]
    Model,
}

impl Tiles {
    /// The processor's, if T is `f32` and the instruction set in force has them.
    pub(crate) fn find<T: Real>() -> Option<Tiles> {
        available::<T>().then_some(Tiles(Whose::Processor))
    }

    /// Those of the [model](super::model).
    #[cfg(test)]
    pub(crate) fn model() -> Tiles {
        Tiles(Whose::Model)
    }

    /// The processor's, or where it has none those of the [trap](super::trap), which takes the same machine code;
    /// nothing where it cannot even round to bf16.
    #[cfg(all(test, feature = "cli", target_arch = "x86_64", target_os = "linux", not(miri)))]
    pub(crate) fn processors_or_trap() -> Option<Tiles> {
        use crate::cpu::simd::{Level, available_levels};
        let levels = available_levels();
        if !is_x86_feature_detected!("avx512bf16") || !levels.contains(&Level::Avx512) {
            eprintln!("skipped: this machine cannot round to bf16");
            return None;
        }
        if !levels.contains(&Level::Amx) {
            super::trap::install();
        }
        Some(Tiles(Whose::Processor))
    }

    /// Runs `work` on them.
    pub(crate) fn run<W: Work>(self, work: W) {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
            // SAFETY: whoever made this has seen that the machine has them (or has set the trap).
            Whose::Processor => unsafe { super::amx::run(work) },
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
            Whose::Processor => {
                let _ = work;
                unreachable!("no tiles here")
            }
            #[cfg(test)]
            Whose::Model => work.run::<super::model::Model>(),
        }
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
    // SAFETY: both are that long, and registers are there wherever there is a U: `Tiles::run` has begun.
    unsafe { U::sums(Parts::One, Strip::packed(Parts::One, a), b, steps, soon, false, to) };
}
