//! Products with operands rounded to bf16: half the bytes and two multiply-adds a lane.
//!
//! AVX512-BF16's `vdpbf16ps` takes pairs of neighbours along k:
//!
//! ```text
//! sum += a(2p) · b(2p) + a(2p+1) · b(2p+1)        a, b in bf16, sum in f32
//! ```
//!
//! So packing rounds, to nearest even, and lays two k side by side into one element of 32 bits; the
//! blocks, the panels and the micro-kernel are those of the f32 product with half as many steps. Both
//! operands are always packed. Blocks of k are summed in f32 in their order, so the bits do not depend on
//! tiles or threads; they do depend on the machine having the instruction, which flushes denormal numbers.
//! Where it is missing the f32 product is computed, which is as fast there; so it is on Intel's processors, which
//! do one `vdpbf16ps` in the time of four fused multiply-adds (theirs are for AMX's tiles).

use super::factor::Start;
#[cfg(target_arch = "x86_64")]
use super::factor::stored;
use super::micro::Block;
use super::pack::Source;
use crate::cpu::simd::Real;

/// Whether T is f32 and the instruction set in force has products of bf16.
pub(super) fn available<T: Real>() -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use crate::cpu::simd::{Level, level};
        std::any::TypeId::of::<T>() == std::any::TypeId::of::<f32>()
            && matches!(level(), Level::Avx512 | Level::Amx)
            && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    false
}

/// Whether products of bf16 are also faster than those of f32.
pub(super) fn pays<T: Real>() -> bool {
    available::<T>() && crate::cpu::simd::dot_bf16::pays()
}

/// Packs `source` into panels of `width` pairs, ⌈k/2⌉ deep; what is missing becomes 0.
///
/// # Safety
/// All lanes and k of `source` can be read, and the instructions are [`available`].
pub(super) unsafe fn pack<T: Real>(dst: &mut [T], source: Source<Start<T>>, width: usize) {
    let size = super::pack::size(source.lanes, source.k.div_ceil(2), width);
    assert!(dst.len() >= size, "panels need more room");
    #[cfg(target_arch = "x86_64")]
    {
        let source = source.cast::<f32>();
        // SAFETY: T is f32 and the instructions are there, handed through with the rest.
        stored!(source, source => unsafe { x86::pack(bytemuck::cast_slice_mut(dst), source, width) });
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no products of bf16 here")
}

/// [`super::micro::block`] on pairs; `block.k` counts pairs.
///
/// # Safety
/// As [`super::micro::block`] with both operands packed, and the instructions are [`available`].
pub(super) unsafe fn block<T: Real>(block: Block<'_, T>) {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: T is f32 and the instructions are there, handed through with the rest.
        unsafe { x86::block(block.cast::<f32>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = block;
        unreachable!("no products of bf16 here")
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::interleaved;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::micro::{Block, Step, tiles};
    use super::super::pack::{Rows, Source, each_group, each_row, fill, look_ahead};
    use crate::cpu::simd::{F32x1, LANES, Stored, Vector, inlined};

    /// A step of two k: the lanes are pairs.
    struct Pairs;

    impl Step<F32x1> for Pairs {
        const PACKED: bool = true;

        #[inline(always)]
        fn step(a: F32x1, b: F32x1, sum: F32x1) -> F32x1 {
            // SAFETY: inlined into `block`, which has the instruction; a vector of f32 and one of bf16
            // are the same 512 bits.
            F32x1(unsafe {
                _mm512_dpbf16_ps(
                    sum.0,
                    std::mem::transmute::<__m512, __m512bh>(a.0),
                    std::mem::transmute::<__m512, __m512bh>(b.0),
                )
            })
        }

        #[inline(always)]
        fn apart(f: impl FnOnce()) {
            // SAFETY: only `block` gets here, whose caller has found the instructions.
            unsafe { with_pairs(f) }
        }
    }

    /// A function for these instructions, with all that is inlined into it: `f` is `#[inline(always)]`.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
    fn with_pairs(f: impl FnOnce()) {
        f()
    }

    /// # Safety
    /// As [`super::block`].
    pub(super) unsafe fn block(block: Block<'_, f32>) {
        // SAFETY: handed through.
        unsafe {
            with_pairs(
                #[inline(always)]
                || tiles::<F32x1, Pairs>(&block),
            )
        };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
    pub(super) fn pack<S: Stored<f32>>(dst: &mut [f32], source: Source<*const S>, width: usize) {
        let deep = source.k.div_ceil(2);
        if source.lane == 1 {
            let row = inlined(
                #[inline(always)]
                |k: usize, first: usize, lanes: usize| {
                    if k >= source.k {
                        return F32x1::zero();
                    }
                    // SAFETY: row k has these lanes side by side.
                    unsafe { look_ahead::<F32x1, S>(&source, k, first, lanes) }
                },
            );
            let read = inlined(
                #[inline(always)]
                |q: usize, first: usize, lanes: usize| {
                    interleaved(row(2 * q, first, lanes), row(2 * q + 1, first, lanes))
                },
            );
            return each_row((dst, deep), source.lanes, width, read);
        }
        each_group(
            (dst, deep),
            source,
            width,
            #[inline(always)]
            |rows, group| {
                if group.lanes == 0 {
                    fill::<F32x1>(rows, deep);
                } else if group.step == 1 {
                    transpose(rows, group);
                } else {
                    gather(rows, group);
                }
            },
        );
    }

    /// bf16 of `low` in the low halves of the lanes, of `high` in the high ones.
    #[inline(always)]
    pub(in super::super) fn interleaved(low: F32x1, high: F32x1) -> F32x1 {
        // SAFETY: inlined into a function that has the instructions; no memory is touched.
        F32x1(unsafe {
            let order = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
            );
            let both = _mm512_cvtne2ps_pbh(high.0, low.0);
            let both = std::mem::transmute::<__m512bh, __m512i>(both);
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
        })
    }

    /// Steps everywhere.
    #[inline(always)]
    fn gather<S: Stored<f32>>(mut rows: Rows<'_, f32>, group: Source<*const S>) {
        let row = inlined(
            #[inline(always)]
            |k: usize| {
                let mut lanes = [0.0; LANES];
                for (lane, x) in lanes.iter_mut().enumerate().take(group.lanes) {
                    if k < group.k {
                        // SAFETY: a lane and a k of the group.
                        *x = unsafe { *group.data.add(k * group.step + lane * group.lane) }.widen();
                    }
                }
                F32x1::from_array(lanes)
            },
        );
        for q in 0..group.k.div_ceil(2) {
            rows.put(q, interleaved(row(2 * q), row(2 * q + 1)));
        }
    }

    /// Each lane dense along k: 32 k of sixteen lanes are a square of pairs.
    #[inline(always)]
    fn transpose<S: Stored<f32>>(mut rows: Rows<'_, f32>, group: Source<*const S>) {
        for from in (0..group.k).step_by(2 * LANES) {
            let depth = (2 * LANES).min(group.k - from);
            let mut square = [F32x1::zero(); LANES];
            // A constant bound: the square stays in registers.
            for lane in 0..LANES {
                if lane >= group.lanes {
                    break;
                }
                let data = group.data.wrapping_add(lane * group.lane + from);
                let next = data.wrapping_add(group.lanes * group.lane);
                F32x1::prefetch(next.cast());
                F32x1::prefetch(next.wrapping_add(LANES).cast());
                // SAFETY: `depth` elements of this lane follow each other; the instructions are those of
                // `pack`, into which this is inlined.
                square[lane] = F32x1(unsafe {
                    let (low, high): (F32x1, F32x1) = if depth == 2 * LANES {
                        (S::load(data), S::load(data.add(LANES)))
                    } else {
                        let first = depth.min(LANES);
                        (S::load_part(data, first), S::load_part(data.add(first), depth - first))
                    };
                    let both = _mm512_cvtne2ps_pbh(high.0, low.0);
                    std::mem::transmute::<__m512bh, __m512>(both)
                });
            }
            F32x1::transpose(&mut square);
            for q in 0..LANES {
                if q < depth.div_ceil(2) {
                    rows.put(from / 2 + q, square[q]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arithmetic::Arithmetic;
    use super::super::tests::exact_in_every_layout;
    use super::super::{Epilogue, Mat, Output, product};
    use crate::cpu::simd::{at_every_level, at_level};
    use half::bf16;

    /// Pairs wherever the instruction is, also where f32 is faster.
    fn in_pairs() -> Arithmetic {
        if super::available::<f32>() { Arithmetic::Pairs } else { Arithmetic::Fma }
    }

    /// Small whole numbers and halves are exact in bf16, and their sums in f32, whatever the order.
    #[test]
    fn exact_operands_give_the_f32_product_in_every_layout() {
        let shapes = [[17, 33, 31], [64, 64, 64], [100, 70, 300], [300, 520, 513]];
        exact_in_every_layout(in_pairs(), &shapes);
    }

    #[test]
    fn threads_do_not_change_bits_and_the_error_is_that_of_bf16() {
        let (m, n, k) = (150, 170, 700);
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 1.7e7 - 0.5;
        let a: Vec<f32> = (0..m * k).map(number).collect();
        let b: Vec<f32> = (0..k * n).map(|i| number(i + 77_777)).collect();
        let product = || {
            let mut c = vec![0.0f32; m * n];
            let mat = |data, row_stride| Mat { data, row_stride, col_stride: 1 };
            let (a, b, none) = (mat(&a, k).into(), mat(&b, n).into(), Epilogue::None);
            product(in_pairs(), Output::Own(&mut c), 0, n, (a, 0), (b, 0), 1, m, n, k, false, none);
            c
        };
        let mut first = Vec::new();
        at_every_level(|level| {
            first = product();
            for threads in 1..=4 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let again = pool.install(|| at_level(level, product));
                assert!(again == first, "{threads} threads at {level:?}");
            }
        });
        let round = |x: f32| bf16::from_f32(x).to_f64();
        for (i, got) in first.iter().enumerate() {
            let (row, col) = (i / n, i % n);
            let exact: f64 = (0..k).map(|p| round(a[row * k + p]) * round(b[p * n + col])).sum();
            let plain = (0..k).map(|p| a[row * k + p] as f64 * b[p * n + col] as f64).sum::<f64>();
            let near = (*got as f64 - exact).abs().min((*got as f64 - plain).abs());
            assert!(near < 2e-4, "{i}: {got}, rounded operands give {exact}");
        }
    }
}
