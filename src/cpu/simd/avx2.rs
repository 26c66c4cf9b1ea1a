//! Sixteen lanes in two AVX2 registers.
//!
//! The functions are inlined into [`Real::dispatch`](super::Real::dispatch)'s AVX2 branch, which has made
//! sure that the machine has avx2 and fma; that is what makes each intrinsic sound.

use std::arch::x86_64::*;

use half::bf16;

use super::{LANES, Vector, inlined};

/// Two 256-bit registers.
#[derive(Clone, Copy)]
pub(crate) struct F32x2(__m256, __m256);

/// A function compiled for these instructions, with all that is inlined into it: `f` is `#[inline(always)]`.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn compiled<R>(f: impl FnOnce() -> R) -> R {
    f()
}

// Calls an intrinsic that only needs its instruction set.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: the dispatcher has found AVX2 and FMA on this machine; no memory is touched.
        unsafe { $call }
    };
}

/// The sum of eight lanes by halving: i and i + 4, then i + 2, then i + 1.
#[inline(always)]
pub(super) fn sum8(v: __m256) -> f32 {
    isa!({
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    })
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident($($v:expr),*)) => {
        F32x2(isa!($f($($v.0),*)), isa!($f($($v.1),*)))
    };
}

/// All ones in the lanes below `n` of eight lanes that begin at lane `at`.
#[inline(always)]
fn first(n: usize, at: i32) -> __m256i {
    isa!({
        let lanes = _mm256_setr_epi32(at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(LANES) as i32), lanes)
    })
}

/// Swaps rows and columns of 8 × 8: in pairs, in fours, then the 128-bit halves.
#[inline(always)]
fn square8(r: [__m256; 8]) -> [__m256; 8] {
    #[inline(always)]
    fn fours(r: [__m256; 4]) -> [__m256; 4] {
        isa!({
            let (ab, ab_high) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
            let (cd, cd_high) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
            [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xEE>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xEE>(ab_high, cd_high),
            ]
        })
    }
    let (top, bottom) = (fours([r[0], r[1], r[2], r[3]]), fours([r[4], r[5], r[6], r[7]]));
    let mut out = r;
    for i in 0..4 {
        isa!({
            out[i] = _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
            out[4 + i] = _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
        });
    }
    out
}

impl Vector for F32x2 {
    type Elem = f32;
    type Mask = (__m256, __m256);
    const TILE: (usize, usize) = (6, 1);

    #[inline(always)]
    fn apart<R>(f: impl FnOnce() -> R) -> R {
        // SAFETY: the dispatcher has found the instructions on this machine.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        let v = isa!(_mm256_set1_ps(value));
        F32x2(v, v)
    }
    #[inline(always)]
    fn load(src: &[f32]) -> Self {
        let src = &src[..LANES];
        // SAFETY: the slice has sixteen elements.
        unsafe { Self::load_ptr(src.as_ptr()) }
    }
    #[inline(always)]
    fn load_part(src: &[f32]) -> Self {
        if src.len() >= LANES {
            return Self::load(src);
        }
        let at = src.as_ptr();
        // SAFETY: masked lanes are not read, and the others are within the slice.
        unsafe {
            F32x2(
                _mm256_maskload_ps(at, first(src.len(), 0)),
                _mm256_maskload_ps(at.wrapping_add(8), first(src.len(), 8)),
            )
        }
    }
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        let dst = &mut dst[..LANES];
        // SAFETY: the slice has sixteen elements.
        unsafe { self.store_ptr(dst.as_mut_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, dst: &mut [f32]) {
        if dst.len() >= LANES {
            return self.store(dst);
        }
        let (n, at) = (dst.len(), dst.as_mut_ptr());
        // SAFETY: masked lanes are not written, and the others are within the slice.
        unsafe {
            _mm256_maskstore_ps(at, first(n, 0), self.0);
            _mm256_maskstore_ps(at.wrapping_add(8), first(n, 8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_ptr(src: *const f32) -> Self {
        // SAFETY: the caller promises sixteen readable elements.
        unsafe { F32x2(_mm256_loadu_ps(src), _mm256_loadu_ps(src.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller promises sixteen writable elements.
        unsafe {
            _mm256_storeu_ps(dst, self.0);
            _mm256_storeu_ps(dst.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        let eight = inlined(
            #[inline(always)]
            |from: *const bf16| {
                // SAFETY: the caller promises sixteen readable elements, of which these are eight.
                unsafe {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                }
            },
        );
        F32x2(eight(src), eight(src.wrapping_add(8)))
    }
    #[inline(always)]
    fn store_bf16(self, dst: &mut [bf16]) {
        let dst = &mut dst[..LANES];
        let eight = inlined(
            #[inline(always)]
            |v: __m256| {
                isa!({
                    let x = _mm256_castps_si256(v);
                    let high = _mm256_srli_epi32::<16>(x);
                    let half = _mm256_add_epi32(
                        _mm256_set1_epi32(0x7FFF),
                        _mm256_and_si256(high, _mm256_set1_epi32(1)),
                    );
                    let nearest = _mm256_srli_epi32::<16>(_mm256_add_epi32(x, half));
                    let nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
                    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                    _mm256_blendv_epi8(nearest, nan, is_nan)
                })
            },
        );
        // SAFETY: the dispatcher has found AVX2; the slice has sixteen elements.
        unsafe {
            // Packing goes by halves of a register: 0–3, 8–11, 4–7, 12–15.
            let mixed = _mm256_packus_epi32(eight(self.0), eight(self.1));
            let all = _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed);
            _mm256_storeu_si256(dst.as_mut_ptr().cast(), all);
        }
    }
    #[inline(always)]
    fn prefetch(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        both!(_mm256_add_ps(self, b))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        both!(_mm256_sub_ps(self, b))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        both!(_mm256_mul_ps(self, b))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        both!(_mm256_div_ps(self, b))
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        both!(_mm256_fmadd_ps(self, a, b))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: Self, b: Self) -> Self {
        both!(_mm256_fnmadd_ps(self, a, b))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        both!(_mm256_sqrt_ps(self))
    }
    #[inline(always)]
    fn neg(self) -> Self {
        let bit = Self::splat(-0.0);
        both!(_mm256_xor_ps(self, bit))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        let bit = Self::splat(-0.0);
        both!(_mm256_andnot_ps(bit, self))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        both!(_mm256_max_ps(self, b))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        both!(_mm256_min_ps(self, b))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let bit = Self::splat(-0.0);
        let (size, sign) = (both!(_mm256_andnot_ps(bit, self)), both!(_mm256_and_ps(bit, sign)));
        both!(_mm256_or_ps(size, sign))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> Self::Mask {
        isa!((_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0), _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, b.1)))
    }
    #[inline(always)]
    fn le(self, b: Self) -> Self::Mask {
        isa!((_mm256_cmp_ps::<_CMP_LE_OQ>(self.0, b.0), _mm256_cmp_ps::<_CMP_LE_OQ>(self.1, b.1)))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> Self::Mask {
        isa!((_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, b.0), _mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, b.1)))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        both!(_mm256_blendv_ps(b, a, mask))
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        isa!(_mm256_movemask_ps(_mm256_or_ps(mask.0, mask.1))) != 0
    }
    #[inline(always)]
    fn pow2(self) -> Self {
        #[inline(always)]
        fn half(v: __m256) -> __m256 {
            isa!({
                let biased = _mm256_add_epi32(_mm256_cvttps_epi32(v), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        F32x2(half(self.0), half(self.1))
    }
    #[inline(always)]
    fn scaled(self, rounded: Self) -> Self {
        // The low bits of `rounded` are n; what is above them is shifted out.
        #[inline(always)]
        fn half(v: __m256, rounded: __m256) -> __m256 {
            isa!({
                let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n))
            })
        }
        F32x2(half(self.0, rounded.0), half(self.1, rounded.1))
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        #[inline(always)]
        fn half(v: __m256) -> (__m256, __m256) {
            isa!({
                let bits = _mm256_castps_si256(v);
                let fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007F_FFFF));
                let mantissa = _mm256_or_si256(fraction, _mm256_set1_epi32(0x3F80_0000));
                let exponent =
                    _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
                (_mm256_castsi256_ps(mantissa), _mm256_cvtepi32_ps(exponent))
            })
        }
        let ((m0, e0), (m1, e1)) = (half(self.0), half(self.1));
        (F32x2(m0, m1), F32x2(e0, e1))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        sum8(isa!(_mm256_add_ps(self.0, self.1)))
    }
    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        lanes
    }
    #[inline(always)]
    fn from_array(lanes: [f32; LANES]) -> Self {
        Self::load(&lanes)
    }
    // Four squares of 8 × 8; the two off the diagonal change places.
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        for (top, left) in [(0, true), (8, false)] {
            // The upper left and the lower right square stay where they are.
            let own: [__m256; 8] = [0, 1, 2, 3, 4, 5, 6, 7]
                .map(|i| if left { rows[top + i].0 } else { rows[top + i].1 });
            let own = square8(own);
            for (i, v) in own.into_iter().enumerate() {
                *(if left { &mut rows[top + i].0 } else { &mut rows[top + i].1 }) = v;
            }
        }
        let index = [0, 1, 2, 3, 4, 5, 6, 7];
        let (upper, lower) = (index.map(|i| rows[i].1), index.map(|i| rows[8 + i].0));
        let (upper, lower) = (square8(upper), square8(lower));
        for i in index {
            rows[8 + i].0 = upper[i];
            rows[i].1 = lower[i];
        }
    }
}
