//! Tiles without registers of their own: `vdpbf16ps` (AVX512-BF16) on operands that lie as tiles want them.
//!
//! In each lane the instruction adds two products, `sum + a₀ b₀ + a₁ b₁`: a pair of k from one row of A, the same in all
//! lanes, times that pair of sixteen columns of B. 32 × 32 sums are more than there are registers, so a strip goes by in
//! three passes of eleven, eleven and ten rows; a short strip needs fewer.

use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

use super::super::micro::{each_row, each_vector, written_out};
use super::x86::Machine;
use super::{Chain, Parts, SIDE, Soon, Strip, TILE};
use crate::cpu::simd::{F32x1, LANES, Vector, unknown};

/// Vectors of pairs.
pub(super) struct Dots;

/// Rows of the first two passes; the third has what is left of 32.
const ROWS: usize = 11;

/// A strip with at most so many rows goes by in one pass of so many.
const FEW: usize = 8;

impl Machine for Dots {
    #[inline(always)]
    unsafe fn sums(chain: Chain<'_>) {
        let Chain { parts, a, b, steps, soon, more, to } = chain;
        assert_eq!(parts, Parts::One, "sums of six products of pairs are less exact than f32's");
        let (first, rest) = to.0.split_at_mut(ROWS * SIDE);
        let (second, third) = rest.split_at_mut(ROWS * SIDE);
        let below = |first: usize| Strip { at: a.at.wrapping_byte_add(first * a.row), ..a };
        // SAFETY: handed through: 32 rows can be read, however few are wanted, and the instructions are there.
        unsafe {
            if a.rows <= FEW {
                return pass::<FEW>(a, b, steps, Some(soon), more, first);
            }
            pass::<ROWS>(a, b, steps, Some(soon), more, first);
            if a.rows > ROWS {
                pass::<ROWS>(below(ROWS), b, steps, None, more, second);
            }
            if a.rows > 2 * ROWS {
                let below = below(2 * ROWS);
                pass::<{ SIDE - 2 * ROWS }>(below, b, steps, None, more, third);
            }
        }
    }
}

/// A product of pairs in each lane, added to `sum`.
#[inline(always)]
fn dot(a: F32x1, b: F32x1, sum: F32x1) -> F32x1 {
    // SAFETY: inlined into `pass`, which has the instruction; a vector of f32 and one of bf16 are the same 512 bits.
    F32x1(unsafe {
        _mm512_dpbf16_ps(
            sum.0,
            std::mem::transmute::<__m512, __m512bh>(a.0),
            std::mem::transmute::<__m512, __m512bh>(b.0),
        )
    })
}

/// R rows of the sums.
///
/// # Safety
/// As [`Machine::sums`]; R rows can be read from the start of the strip.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
unsafe fn pass<const R: usize>(
    a: Strip,
    b: *const f32,
    steps: usize,
    soon: Option<Soon>,
    more: bool,
    to: &mut [f32],
) {
    const N: usize = SIDE / LANES;
    let (mut sums, row) = ([[F32x1::zero(); N]; R], a.row);
    if more {
        each_row!(r < R {
            each_vector!(v < N {
                sums[r][v] = F32x1::load(&to[r * SIDE + v * LANES..]);
            });
        });
    }
    for step in 0..steps {
        if let Some(soon) = soon {
            let (b, c) =
                (soon.b.wrapping_add(2 * step * LANES), soon.c.wrapping_byte_add(step * soon.ldc));
            F32x1::prefetch_far(b);
            F32x1::prefetch_far(b.wrapping_add(LANES));
            F32x1::prefetch(c);
            F32x1::prefetch(c.wrapping_add(LANES));
        }
        let (a, b) = (a.at.wrapping_byte_add(step * a.step), b.wrapping_add(step * 2 * TILE));
        // As in the micro-kernel of f32: every third row by a pointer of its own.
        let mut thirds = [a; R];
        each_row!(r < R {
            if r.is_multiple_of(3) {
                thirds[r / 3] = unknown(a.wrapping_byte_add(r * row));
            }
        });
        for k in 0..LANES {
            let mut right = [F32x1::zero(); N];
            each_vector!(v < N {
                // SAFETY: row k of a tile of this panel.
                right[v] = unsafe { F32x1::load_ptr(b.add(v * TILE + k * LANES)) };
            });
            each_row!(r < R {
                // SAFETY: a row of this strip has sixteen pairs in a step.
                let x = F32x1::splat(unsafe { *thirds[r / 3].wrapping_byte_add(r % 3 * row).add(k) });
                each_vector!(v < N {
                    sums[r][v] = dot(x, right[v], sums[r][v]);
                });
            });
        }
    }
    each_row!(r < R {
        each_vector!(v < N {
            sums[r][v].store(&mut to[r * SIDE + v * LANES..]);
        });
    });
}
