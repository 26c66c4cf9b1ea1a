//! What all tiles on x86-64 share: AVX-512 with its rounding to bf16, under something that multiplies.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::bf16;

use super::super::factor::Start;
use super::super::pack::{Operand, Source};
use super::{Chain, Parts, Sums, Unit, Work, pack_for};
use crate::cpu::simd::F32x1;

/// What multiplies; see [`Unit`].
pub(super) trait Machine {
    /// [`Unit::begin`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn begin() {}
    /// [`Unit::end`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn end() {}
    /// [`Unit::sums`] of at least one step.
    ///
    /// # Safety
    /// As there, and there are steps.
    unsafe fn sums(chain: Chain<'_>);
}

/// Vectors of AVX-512 and the products of M.
pub(super) struct With<M>(PhantomData<M>);

impl<M: Machine> Unit for With<M> {
    type V = F32x1;

    #[inline(always)]
    fn round(x: F32x1) -> F32x1 {
        // SAFETY: inlined into functions that have the instructions; no memory is touched.
        F32x1(unsafe {
            let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x.0));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }

    #[inline(always)]
    fn beside(low: F32x1, high: F32x1) -> F32x1 {
        // SAFETY: as in `round`.
        F32x1(unsafe {
            std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high.0, low.0))
        })
    }

    #[inline(always)]
    fn between(low: F32x1, high: F32x1) -> F32x1 {
        // SAFETY: as in `round`.
        F32x1(unsafe {
            let order = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
            );
            let both = _mm512_castps_si512(Self::beside(low, high).0);
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
        })
    }

    #[inline(always)]
    unsafe fn pairs(low: *const bf16, high: *const bf16) -> F32x1 {
        // SAFETY: the caller's promise; inlined into functions that have the instructions.
        F32x1(unsafe {
            let [low, high] = [low, high].map(
                #[inline(always)]
                |at| _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())),
            );
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        })
    }

    #[inline(always)]
    unsafe fn stream(x: F32x1, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_stream_ps(to, x.0) };
    }

    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: handed through.
        unsafe { M::begin() };
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: handed through; a fence waits for what was written past the caches.
        unsafe {
            M::end();
            _mm_sfence();
        }
    }

    #[inline(always)]
    unsafe fn sums(chain: Chain<'_>) {
        if chain.steps == 0 {
            return *chain.to = Sums::ZERO;
        }
        // SAFETY: handed through; there are steps.
        unsafe { M::sums(chain) };
    }
}

/// [`pack_for`], which is the same whatever M is.
///
/// # Safety
/// All of the source can be read, and the machine rounds to bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
pub(super) unsafe fn pack<M: Machine>(
    dst: &mut [f32],
    source: Source<Start<f32>>,
    operand: Operand,
    parts: Parts,
) {
    // SAFETY: handed through.
    unsafe { pack_for::<With<M>>(dst, source, operand, parts) };
}

/// Runs `work`.
///
/// # Safety
/// The machine has the instructions named here and what M needs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
pub(super) unsafe fn run<M: Machine, W: Work>(work: W) {
    // SAFETY: handed through.
    unsafe { <With<M> as Unit>::begin() };
    work.run::<With<M>>();
    // SAFETY: they have begun.
    unsafe { <With<M> as Unit>::end() };
}
