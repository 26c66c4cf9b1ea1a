//! Probes of the machine itself: how many multiply-adds, how many bytes a second.
//!
//! What a kernel could reach is not looked up but measured, with the same vector that kernels are
//! written over. [`multiply_adds`] never leaves the registers; [`read`], [`copy`] and [`fill`] do nothing
//! but move bytes, so the size of their slices decides which level of the memory answers.
//! All of them run on the calling thread; [`crate::bench::roof`] times them.

use super::gemm::{PRODUCTS_OF_HIGH, Precision};
use super::simd::{Kernel, LANES, Level, Real, Vector, dispatch_at, dot_bf16, level};

/// Does `rounds` rounds of independent `f32` multiply-adds in registers, on the instruction set in force.
/// Returns how many floating-point operations that were (a multiply-add is two).
pub fn multiply_adds(rounds: usize) -> f64 {
    multiply_adds_at(level(), rounds)
}

/// As [`multiply_adds`] on the instructions of `level`; 0 where the machine does not have them.
pub fn multiply_adds_at(level: Level, rounds: usize) -> f64 {
    dispatch_at(level, Chains { rounds }).unwrap_or(0.0)
}

/// As [`multiply_adds_at`] for products of `bf16` summed in `f32`, by the instruction that [`Level::Avx512`] has for
/// pairs or [`Level::Amx`] for tiles. `None` where the machine has none.
pub fn multiply_adds_bf16_at(level: Level, rounds: usize) -> Option<f64> {
    match level {
        Level::Amx => super::gemm::spin_tiles(rounds),
        Level::Avx512 => dot_bf16::spin(rounds),
        _ => None,
    }
}

/// As [`multiply_adds`] in products of f32 computed as `precision` says, by the instructions that large ones use.
pub fn multiply_adds_of(precision: Precision, rounds: usize) -> f64 {
    let flops = match (precision, level()) {
        (Precision::Highest, _) => None,
        (_, Level::Amx) => multiply_adds_bf16_at(Level::Amx, rounds),
        (Precision::Medium, _) if dot_bf16::pays() => multiply_adds_bf16_at(level(), rounds),
        _ => None,
    };
    let products = if precision == Precision::High { PRODUCTS_OF_HIGH } else { 1 };
    flops.map_or_else(|| multiply_adds(rounds), |flops| flops / products as f64)
}

struct Chains {
    rounds: usize,
}

impl Kernel<f32> for Chains {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) -> f64 {
        let (rows, vectors) = V::TILE;
        // As many chains as the widest tile keeps in registers: enough to hide the latency of a
        // multiply-add on two ports, never so many that they spill.
        if rows * vectors >= 12 {
            chains::<V, 12>(self.rounds)
        } else {
            chains::<V, 6>(self.rounds)
        }
    }
}

#[inline(always)]
fn chains<V: Vector<Elem = f32>, const N: usize>(rounds: usize) -> f64 {
    // What the compiler knows it computes beforehand: a first version of this reached petaflops.
    let (a, b) = (V::splat(std::hint::black_box(0.999)), V::splat(std::hint::black_box(1e-3)));
    let mut sums = [V::splat(1.0); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(a, b);
        }
    }
    for sum in sums {
        std::hint::black_box(sum.sum());
    }
    (rounds * N * LANES * 2) as f64
}

/// Vectors that one turn of the loops below moves.
const TURN: usize = 8;

/// Reads all of `x` (whole turns of 128 elements) and returns a number that depends on it.
pub fn read(x: &[f32]) -> f32 {
    f32::dispatch(Read { x })
}

struct Read<'a> {
    x: &'a [f32],
}

impl Kernel<f32> for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) -> f32 {
        let mut most = [V::zero(); TURN];
        for turn in self.x.chunks_exact(TURN * LANES) {
            for (i, most) in most.iter_mut().enumerate() {
                *most = most.max(V::load(&turn[i * LANES..]));
            }
        }
        let mut all = V::zero();
        for v in most {
            all = all.max(v);
        }
        all.max_lane()
    }
}

/// Copies `src` to `dst`, of one length, vector by vector (whole turns of 128 elements).
pub fn copy(dst: &mut [f32], src: &[f32]) {
    f32::dispatch(Copy { dst, src });
}

struct Copy<'a> {
    dst: &'a mut [f32],
    src: &'a [f32],
}

impl Kernel<f32> for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        let turns = self.src.chunks_exact(TURN * LANES);
        for (src, dst) in turns.zip(self.dst.chunks_exact_mut(TURN * LANES)) {
            for i in 0..TURN {
                V::load(&src[i * LANES..]).store(&mut dst[i * LANES..]);
            }
        }
    }
}

/// Writes `value` everywhere in `dst`, vector by vector (whole turns of 128 elements).
pub fn fill(dst: &mut [f32], value: f32) {
    f32::dispatch(Fill { dst, value });
}

struct Fill<'a> {
    dst: &'a mut [f32],
    value: f32,
}

impl Kernel<f32> for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        let value = V::splat(self.value);
        for dst in self.dst.chunks_exact_mut(TURN * LANES) {
            for i in 0..TURN {
                value.store(&mut dst[i * LANES..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{at_every_level, available_levels};
    use super::*;

    #[test]
    fn probes_do_what_they_are_timed_for() {
        at_every_level(|level| {
            let src: Vec<f32> = (0..512).map(|i| i as f32).collect();
            let mut dst = vec![0.0; 512];
            copy(&mut dst, &src);
            assert_eq!(dst, src, "{}", level.name());
            assert_eq!(read(&src), 511.0);
            fill(&mut dst, 3.0);
            assert_eq!(dst, vec![3.0; 512]);
            let flops = multiply_adds(10);
            assert!(flops == (10 * 12 * LANES * 2) as f64 || flops == (10 * 6 * LANES * 2) as f64);
        });
        for level in available_levels() {
            assert!(multiply_adds_bf16_at(level, 10).is_none_or(|flops| flops > 0.0));
        }
        for precision in [Precision::Highest, Precision::High, Precision::Medium] {
            assert!(multiply_adds_of(precision, 10) > 0.0);
        }
    }
}
