//! Sixteen lanes in one AVX-512 register.
//!
//! The functions are inlined into [`Real::dispatch`](super::Real::dispatch)'s AVX-512 branch, which has
//! made sure that the machine has avx512f, bw, dq and vl; that is what makes each intrinsic sound.

use std::arch::x86_64::*;

#[cfg(miri)]
use by_halves::{_mm512_cmp_ps_mask, _mm512_cvttps_epi32, _mm512_max_ps, _mm512_min_ps};

use half::bf16;

use super::{LANES, Vector};

/// Four instructions that Miri does not know, made of AVX2's, which it knows. All else runs there as it is.
#[cfg(miri)]
mod by_halves {
    use std::arch::x86_64::*;

    fn halves(a: __m512) -> [__m256; 2] {
        // SAFETY: both are sixteen numbers.
        unsafe { std::mem::transmute(a) }
    }

    fn whole<T, U>(low: T, high: T) -> U {
        assert!(size_of::<U>() == 64 && size_of::<T>() == 32);
        // SAFETY: of these sizes, and any bits are numbers.
        unsafe { std::mem::transmute_copy(&[low, high]) }
    }

    macro_rules! by_halves {
        ($name:ident, $half:ident, ($($arg:ident),*) -> $out:ty) => {
            pub(super) unsafe fn $name($($arg: __m512),*) -> $out {
                $(let $arg = halves($arg);)*
                // SAFETY: where there is AVX-512 there is AVX2.
                unsafe { whole($half($($arg[0]),*), $half($($arg[1]),*)) }
            }
        };
    }

    by_halves!(_mm512_max_ps, _mm256_max_ps, (a, b) -> __m512);
    by_halves!(_mm512_min_ps, _mm256_min_ps, (a, b) -> __m512);
    by_halves!(_mm512_cvttps_epi32, _mm256_cvttps_epi32, (a) -> __m512i);

    pub(super) unsafe fn _mm512_cmp_ps_mask<const HOW: i32>(a: __m512, b: __m512) -> __mmask16 {
        let (a, b) = (halves(a), halves(b));
        // SAFETY: as above.
        let bits = |i: usize| unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<HOW>(a[i], b[i])) };
        (bits(0) | bits(1) << 8) as __mmask16
    }
}

/// One 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct F32x1(pub(crate) __m512);

/// A function compiled for these instructions, with all that is inlined into it: `f` is `#[inline(always)]`.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")]
pub(super) fn compiled<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// A lane mask for the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

// Calls an intrinsic that only needs its instruction set.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: the dispatcher has found AVX-512 on this machine; no memory is touched.
        unsafe { $call }
    };
}

impl Vector for F32x1 {
    type Elem = f32;
    type Mask = __mmask16;
    const TILE: (usize, usize) = (14, 2);

    #[inline(always)]
    fn apart<R>(f: impl FnOnce() -> R) -> R {
        // SAFETY: the dispatcher has found the instructions on this machine.
        unsafe { compiled(f) }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        F32x1(isa!(_mm512_set1_ps(value)))
    }
    #[inline(always)]
    fn load(src: &[f32]) -> Self {
        let src = &src[..LANES];
        // SAFETY: the slice has sixteen elements.
        F32x1(unsafe { _mm512_loadu_ps(src.as_ptr()) })
    }
    #[inline(always)]
    fn load_part(src: &[f32]) -> Self {
        // SAFETY: the mask keeps the load within the slice.
        F32x1(unsafe { _mm512_maskz_loadu_ps(first(src.len()), src.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        let dst = &mut dst[..LANES];
        // SAFETY: the slice has sixteen elements.
        unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn store_part(self, dst: &mut [f32]) {
        // SAFETY: the mask keeps the store within the slice.
        unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), first(dst.len()), self.0) }
    }
    #[inline(always)]
    unsafe fn load_ptr(src: *const f32) -> Self {
        // SAFETY: the caller promises sixteen readable elements.
        F32x1(unsafe { _mm512_loadu_ps(src) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        // SAFETY: the caller promises sixteen writable elements.
        unsafe { _mm512_storeu_ps(dst, self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        // SAFETY: the caller promises sixteen readable elements.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(src.cast()));
            F32x1(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn store_bf16(self, dst: &mut [bf16]) {
        let dst = &mut dst[..LANES];
        // SAFETY: the dispatcher has found AVX-512; the slice has sixteen elements.
        unsafe {
            let x = _mm512_castps_si512(self.0);
            let high = _mm512_srli_epi32::<16>(x);
            let half = _mm512_add_epi32(
                _mm512_set1_epi32(0x7FFF),
                _mm512_and_si512(high, _mm512_set1_epi32(1)),
            );
            let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(x, half));
            let nan = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let chosen = _mm512_mask_blend_epi32(is_nan, nearest, nan);
            _mm256_storeu_si256(dst.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(chosen));
        }
    }
    #[inline(always)]
    fn prefetch_far(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch(at: *const f32) {
        // SAFETY: a hint, which no address makes fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        F32x1(isa!(_mm512_add_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        F32x1(isa!(_mm512_sub_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        F32x1(isa!(_mm512_mul_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        F32x1(isa!(_mm512_div_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        F32x1(isa!(_mm512_fmadd_ps(self.0, a.0, b.0)))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: Self, b: Self) -> Self {
        F32x1(isa!(_mm512_fnmadd_ps(self.0, a.0, b.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        F32x1(isa!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn neg(self) -> Self {
        F32x1(isa!(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        F32x1(isa!(_mm512_abs_ps(self.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        F32x1(isa!(_mm512_max_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        F32x1(isa!(_mm512_min_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let bit = isa!(_mm512_set1_ps(-0.0));
        F32x1(isa!(_mm512_or_ps(_mm512_andnot_ps(bit, self.0), _mm512_and_ps(bit, sign.0))))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __mmask16 {
        isa!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn le(self, b: Self) -> __mmask16 {
        isa!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> __mmask16 {
        isa!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn select(mask: __mmask16, a: Self, b: Self) -> Self {
        F32x1(isa!(_mm512_mask_blend_ps(mask, b.0, a.0)))
    }
    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }
    #[inline(always)]
    fn pow2(self) -> Self {
        F32x1(isa!({
            let n = _mm512_cvttps_epi32(self.0);
            let biased = _mm512_add_epi32(n, _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }))
    }
    #[inline(always)]
    fn scaled(self, rounded: Self) -> Self {
        // The low bits of `rounded` are n; what is above them is shifted out.
        F32x1(isa!({
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(rounded.0));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), n))
        }))
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        isa!({
            let bits = _mm512_castps_si512(self.0);
            let fraction = _mm512_and_si512(bits, _mm512_set1_epi32(0x007F_FFFF));
            let mantissa = _mm512_or_si512(fraction, _mm512_set1_epi32(0x3F80_0000));
            let exponent = _mm512_sub_epi32(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(127));
            (F32x1(_mm512_castsi512_ps(mantissa)), F32x1(_mm512_cvtepi32_ps(exponent)))
        })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        isa!({
            let halves =
                _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            super::avx2::sum8(halves)
        })
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
    // Rows are interleaved in pairs, then in fours; after that every 128-bit quarter holds a column
    // of four rows, and two rounds of moving quarters finish.
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let mut t = [Self::zero(); LANES];
        for i in (0..LANES).step_by(4) {
            let [a, b, c, d] = [rows[i].0, rows[i + 1].0, rows[i + 2].0, rows[i + 3].0];
            isa!({
                let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                for (at, low, high) in [(i, ab, cd), (i + 2, ab_high, cd_high)] {
                    let (low, high) = (_mm512_castps_pd(low), _mm512_castps_pd(high));
                    t[at] = F32x1(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)));
                    t[at + 1] = F32x1(_mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
                }
            })
        }
        for c in 0..4 {
            let [a, b, d, e] = [t[c].0, t[4 + c].0, t[8 + c].0, t[12 + c].0];
            isa!({
                let even = _mm512_shuffle_f32x4::<0x88>(a, b);
                let odd = _mm512_shuffle_f32x4::<0xDD>(a, b);
                let even_low = _mm512_shuffle_f32x4::<0x88>(d, e);
                let odd_low = _mm512_shuffle_f32x4::<0xDD>(d, e);
                rows[c] = F32x1(_mm512_shuffle_f32x4::<0x88>(even, even_low));
                rows[4 + c] = F32x1(_mm512_shuffle_f32x4::<0x88>(odd, odd_low));
                rows[8 + c] = F32x1(_mm512_shuffle_f32x4::<0xDD>(even, even_low));
                rows[12 + c] = F32x1(_mm512_shuffle_f32x4::<0xDD>(odd, odd_low));
            })
        }
    }
}
