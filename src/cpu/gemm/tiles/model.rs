//! Tiles in plain Rust, after the pseudocode of Intel's manual (volume 2, TDPBF16PS): what the processor's must
//! agree with, on machines that have none.

use half::bf16;

use super::{Chain, SIDE, TILE, Unit};
use crate::cpu::simd::{LANES, Lanes, Vector};

/// A register: 16 rows of 16 times 32 bits.
pub(super) type Register = [u32; TILE];

/// Numbers below the normal ones are 0.
pub(super) fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The bits of the bf16 nearest to x.
fn nearest(x: f32) -> u16 {
    bf16::from_f32(flushed(x)).to_bits()
}

/// `c += a b`: `tdpbf16ps c, a, b`.
pub(super) fn dot(c: &mut Register, a: &Register, b: &Register) {
    // A bf16 is the upper half of an f32.
    let (low, high) = (
        |x: u32| flushed(f32::from_bits(x << 16)),
        |x: u32| flushed(f32::from_bits(x & 0xffff_0000)),
    );
    for m in 0..LANES {
        let mut sums = [(0.0f32, 0.0f32); LANES];
        for k in 0..LANES {
            let x = a[m * LANES + k];
            for (n, (even, odd)) in sums.iter_mut().enumerate() {
                let y = b[k * LANES + n];
                *even = flushed(low(x).mul_add(low(y), *even));
                *odd = flushed(high(x).mul_add(high(y), *odd));
            }
        }
        for (n, (even, odd)) in sums.into_iter().enumerate() {
            let c = &mut c[m * LANES + n];
            *c = flushed(flushed(f32::from_bits(*c)) + flushed(even + odd)).to_bits();
        }
    }
}

/// The model.
pub(super) struct Model;

impl Unit for Model {
    type V = Lanes<f32>;

    fn round(x: Self::V) -> Self::V {
        Vector::from_array(x.to_array().map(|x| bf16::from_bits(nearest(x)).to_f32()))
    }

    fn beside(low: Self::V, high: Self::V) -> Self::V {
        let all = [low.to_array(), high.to_array()].concat();
        Vector::from_array(std::array::from_fn(|i| together(all[2 * i], all[2 * i + 1])))
    }

    fn between(low: Self::V, high: Self::V) -> Self::V {
        let (low, high) = (low.to_array(), high.to_array());
        Vector::from_array(std::array::from_fn(|i| together(low[i], high[i])))
    }

    unsafe fn pairs(low: *const bf16, high: *const bf16) -> Self::V {
        Vector::from_array(std::array::from_fn(|i| {
            // SAFETY: the caller's promise.
            let (low, high) = unsafe { (*low.add(i), *high.add(i)) };
            f32::from_bits((high.to_bits() as u32) << 16 | low.to_bits() as u32)
        }))
    }

    unsafe fn begin() {}

    unsafe fn end() {}

    unsafe fn sums(chain: Chain<'_>) {
        let Chain { parts, a, b, steps, more, to, .. } = chain;
        // A register of rows of 64 bytes that lie so many apart.
        let register = |at: *const f32, row: usize| -> Register {
            std::array::from_fn(|i| {
                // SAFETY: a strip and a panel are that long, as the caller vouches.
                unsafe { at.wrapping_byte_add(i / LANES * row).add(i % LANES).read().to_bits() }
            })
        };
        let parts_of_b = parts as usize * 2 * TILE;
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let place = |at: usize| (i * LANES + at / LANES) * SIDE + j * LANES + at % LANES;
            let mut c: Register =
                std::array::from_fn(|at| if more { to.0[place(at)].to_bits() } else { 0 });
            for step in 0..steps {
                for &(left, right) in parts.products() {
                    let left =
                        a.at.wrapping_add(left * 2 * TILE)
                            .wrapping_byte_add(step * a.step + i * LANES * a.row);
                    let right = b.wrapping_add(step * parts_of_b + (right * 2 + j) * TILE);
                    dot(
                        &mut c,
                        &register(left, a.row),
                        &register(right, size_of::<[f32; LANES]>()),
                    );
                }
            }
            for (at, &c) in c.iter().enumerate() {
                to.0[place(at)] = f32::from_bits(c);
            }
        }
    }
}

/// Two bf16 in the 32 bits of an f32.
fn together(low: f32, high: f32) -> f32 {
    f32::from_bits((nearest(high) as u32) << 16 | nearest(low) as u32)
}
