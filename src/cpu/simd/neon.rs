//! Sixteen lanes in four NEON registers. Every 64-bit ARM machine has NEON, fused multiply-add included.

#![allow(unused_unsafe)] // NEON is always on here, so some compilers call its intrinsics safe

use std::arch::aarch64::*;

use half::bf16;

use super::{LANES, Vector};

/// Four 128-bit registers.
#[derive(Clone, Copy)]
pub(crate) struct F32x4([float32x4_t; 4]);

// Calls an intrinsic that only needs its instruction set.
macro_rules! isa {
    ($call:expr) => {
        // SAFETY: NEON is part of every aarch64 target; no memory is touched.
        unsafe { $call }
    };
}

impl F32x4 {
    #[inline(always)]
    fn each(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        F32x4(self.0.map(f))
    }
    #[inline(always)]
    fn with(self, b: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        F32x4(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
    #[inline(always)]
    fn test(self, b: Self, f: impl Fn(float32x4_t, float32x4_t) -> uint32x4_t) -> [uint32x4_t; 4] {
        std::array::from_fn(|i| f(self.0[i], b.0[i]))
    }
}

impl Vector for F32x4 {
    type Elem = f32;
    type Mask = [uint32x4_t; 4];
    const TILE: (usize, usize) = (6, 1);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        F32x4([isa!(vdupq_n_f32(value)); 4])
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
        let mut lanes = [0.0; LANES];
        lanes[..src.len()].copy_from_slice(src);
        Self::load(&lanes)
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
        let lanes = self.to_array();
        let n = dst.len();
        dst.copy_from_slice(&lanes[..n]);
    }
    #[inline(always)]
    unsafe fn load_ptr(src: *const f32) -> Self {
        // SAFETY: the caller promises sixteen readable elements.
        F32x4(std::array::from_fn(|i| unsafe { vld1q_f32(src.add(4 * i)) }))
    }
    #[inline(always)]
    unsafe fn store_ptr(self, dst: *mut f32) {
        for (i, v) in self.0.into_iter().enumerate() {
            // SAFETY: the caller promises sixteen writable elements.
            unsafe { vst1q_f32(dst.add(4 * i), v) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        F32x4(std::array::from_fn(|i| {
            // SAFETY: the caller promises sixteen readable elements, of which these are four.
            unsafe {
                let four = vld1_u16(src.add(4 * i).cast());
                vreinterpretq_f32_u32(vshll_n_u16::<16>(four))
            }
        }))
    }
    #[inline(always)]
    fn store_bf16(self, dst: &mut [bf16]) {
        for (dst, v) in dst[..LANES].chunks_exact_mut(4).zip(self.0) {
            // SAFETY: NEON is part of every aarch64 target; the chunk has four elements.
            unsafe {
                let x = vreinterpretq_u32_f32(v);
                let high = vshrq_n_u32::<16>(x);
                let half = vaddq_u32(vdupq_n_u32(0x7FFF), vandq_u32(high, vdupq_n_u32(1)));
                let nearest = vshrq_n_u32::<16>(vaddq_u32(x, half));
                let nan = vorrq_u32(high, vdupq_n_u32(0x40));
                let chosen = vbslq_u32(vceqq_f32(v, v), nearest, nan);
                vst1_u16(dst.as_mut_ptr().cast(), vmovn_u32(chosen));
            }
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vaddq_f32(a, b)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vsubq_f32(a, b)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vmulq_f32(a, b)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vdivq_f32(a, b)))
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        F32x4(std::array::from_fn(|i| isa!(vfmaq_f32(b.0[i], self.0[i], a.0[i]))))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: Self, b: Self) -> Self {
        F32x4(std::array::from_fn(|i| isa!(vfmsq_f32(b.0[i], self.0[i], a.0[i]))))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.each(|a| isa!(vsqrtq_f32(a)))
    }
    #[inline(always)]
    fn neg(self) -> Self {
        self.each(|a| isa!(vnegq_f32(a)))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.each(|a| isa!(vabsq_f32(a)))
    }
    // vmaxq would return NaN where either is NaN; x86 returns the second, and so do we.
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vbslq_f32(vcgtq_f32(a, b), a, b)))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.with(b, |a, b| isa!(vbslq_f32(vcltq_f32(a, b), a, b)))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.with(sign, |a, b| isa!(vbslq_f32(vdupq_n_u32(0x8000_0000), b, a)))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> Self::Mask {
        self.test(b, |a, b| isa!(vcltq_f32(a, b)))
    }
    #[inline(always)]
    fn le(self, b: Self) -> Self::Mask {
        self.test(b, |a, b| isa!(vcleq_f32(a, b)))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> Self::Mask {
        self.test(b, |a, b| isa!(vceqq_f32(a, b)))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
        F32x4(std::array::from_fn(|i| isa!(vbslq_f32(mask[i], a.0[i], b.0[i]))))
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        mask.into_iter().any(|m| isa!(vmaxvq_u32(m)) != 0)
    }
    #[inline(always)]
    fn pow2(self) -> Self {
        self.each(|v| {
            isa!({
                let biased = vaddq_s32(vcvtq_s32_f32(v), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
            })
        })
    }
    #[inline(always)]
    fn scaled(self, rounded: Self) -> Self {
        // The low bits of `rounded` are n; what is above them is shifted out.
        self.with(rounded, |v, rounded| {
            isa!({
                let n = vshlq_n_u32::<23>(vreinterpretq_u32_f32(rounded));
                vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(v), n))
            })
        })
    }
    #[inline(always)]
    fn split_exponent(self) -> (Self, Self) {
        let mantissa = self.each(|v| {
            isa!({
                let fraction = vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0x007F_FFFF));
                vreinterpretq_f32_u32(vorrq_u32(fraction, vdupq_n_u32(0x3F80_0000)))
            })
        });
        let exponent = self.each(|v| {
            isa!({
                let field = vshrq_n_u32::<23>(vreinterpretq_u32_f32(v));
                vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(field), vdupq_n_s32(127)))
            })
        });
        (mantissa, exponent)
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        isa!({
            // Lanes i and i + 8, then i + 4, in the order of the other vectors.
            let (low, high) = (vaddq_f32(self.0[0], self.0[2]), vaddq_f32(self.0[1], self.0[3]));
            let four = vaddq_f32(low, high);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
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
}
