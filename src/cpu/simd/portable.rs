//! Sixteen lanes as an array: the reference for every other vector, and the fallback.
//!
//! Each operation is a function of its own, not inlined: kernels are compiled for this vector as a
//! series of calls. That is several times slower than an inlined array and compiles many times
//! faster, which is the better bargain for a path that checks the others (and for `f64`, which checks
//! gradients).

use super::{LANES, Real, Vector};

/// An array that plays a vector.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes<T>([T; LANES]);

/// `a · b + c` for each lane, rounded once: by the machine where it can, else in software.
#[inline(always)]
fn fused<T: Real>(a: [T; LANES], b: [T; LANES], c: [T; LANES]) -> [T; LANES] {
    #[cfg(target_arch = "x86_64")]
    if has_fma() {
        #[target_feature(enable = "avx2,fma")]
        fn by_machine<T: Real>(a: [T; LANES], b: [T; LANES], c: [T; LANES]) -> [T; LANES] {
            std::array::from_fn(|i| a[i].fma(b[i], c[i]))
        }
        // SAFETY: the machine has just been asked.
        return unsafe { by_machine(a, b, c) };
    }
    std::array::from_fn(|i| a[i].fma(b[i], c[i]))
}

macro_rules! lanes {
    ($T:ty, $Bits:ty, $Int:ty, $mantissa_bits:expr, $bias:expr) => {
        impl Lanes<$T> {
            #[inline(always)]
            fn with(self, b: Self, f: impl Fn($T, $T) -> $T) -> Self {
                Lanes(std::array::from_fn(|i| f(self.0[i], b.0[i])))
            }

            #[inline(always)]
            fn test(self, b: Self, f: impl Fn($T, $T) -> bool) -> [bool; LANES] {
                std::array::from_fn(|i| f(self.0[i], b.0[i]))
            }
        }

        impl Vector for Lanes<$T> {
            type Elem = $T;
            type Mask = [bool; LANES];
            const TILE: (usize, usize) = (4, 1);

            #[inline(never)]
            fn splat(value: $T) -> Self {
                Lanes([value; LANES])
            }
            #[inline(never)]
            fn load(src: &[$T]) -> Self {
                Lanes(std::array::from_fn(|i| src[..LANES][i]))
            }
            #[inline(never)]
            fn load_part(src: &[$T]) -> Self {
                Lanes(std::array::from_fn(|i| if i < src.len() { src[i] } else { 0.0 }))
            }
            #[inline(never)]
            fn store(self, dst: &mut [$T]) {
                dst[..LANES].copy_from_slice(&self.0);
            }
            #[inline(never)]
            fn store_part(self, dst: &mut [$T]) {
                let n = dst.len().min(LANES);
                dst[..n].copy_from_slice(&self.0[..n]);
            }
            #[inline(never)]
            unsafe fn load_ptr(src: *const $T) -> Self {
                // SAFETY: the caller promises sixteen readable elements; the read needs no alignment.
                Lanes(unsafe { src.cast::<[$T; LANES]>().read_unaligned() })
            }
            #[inline(never)]
            unsafe fn store_ptr(self, dst: *mut $T) {
                // SAFETY: the caller promises sixteen writable elements.
                unsafe { dst.cast::<[$T; LANES]>().write_unaligned(self.0) }
            }
            #[inline(never)]
            fn add(self, b: Self) -> Self {
                self.with(b, |a, b| a + b)
            }
            #[inline(never)]
            fn sub(self, b: Self) -> Self {
                self.with(b, |a, b| a - b)
            }
            #[inline(never)]
            fn mul(self, b: Self) -> Self {
                self.with(b, |a, b| a * b)
            }
            #[inline(never)]
            fn div(self, b: Self) -> Self {
                self.with(b, |a, b| a / b)
            }
            #[inline(never)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                Lanes(fused(self.0, a.0, b.0))
            }
            #[inline(never)]
            fn neg_mul_add(self, a: Self, b: Self) -> Self {
                Lanes(fused(self.0.map(|x| -x), a.0, b.0))
            }
            #[inline(never)]
            fn sqrt(self) -> Self {
                Lanes(self.0.map(|a| a.sqrt()))
            }
            #[inline(never)]
            fn neg(self) -> Self {
                Lanes(self.0.map(|a| -a))
            }
            #[inline(never)]
            fn abs(self) -> Self {
                Lanes(self.0.map(|a| a.abs()))
            }
            #[inline(never)]
            fn max(self, b: Self) -> Self {
                self.with(b, |a, b| if a > b { a } else { b })
            }
            #[inline(never)]
            fn min(self, b: Self) -> Self {
                self.with(b, |a, b| if a < b { a } else { b })
            }
            #[inline(never)]
            fn copysign(self, sign: Self) -> Self {
                self.with(sign, |a, b| a.copysign(b))
            }
            #[inline(never)]
            fn lt(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a < b)
            }
            #[inline(never)]
            fn le(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a <= b)
            }
            #[inline(never)]
            fn eq(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a == b)
            }
            #[inline(never)]
            fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
                Lanes(std::array::from_fn(|i| if mask[i] { a.0[i] } else { b.0[i] }))
            }
            #[inline(never)]
            fn any(mask: Self::Mask) -> bool {
                mask.contains(&true)
            }
            #[inline(never)]
            fn pow2(self) -> Self {
                Lanes(self.0.map(|n| {
                    // A NaN lane becomes 0 here; callers overwrite such lanes.
                    let biased = (n as $Int).wrapping_add($bias);
                    <$T>::from_bits((biased as $Bits) << $mantissa_bits)
                }))
            }
            #[inline(never)]
            fn scaled(self, rounded: Self) -> Self {
                Lanes(std::array::from_fn(|i| {
                    let n = (rounded.0[i] - super::math::ROUND as $T) as $Int;
                    let shifted = (n as $Bits) << $mantissa_bits;
                    <$T>::from_bits(self.0[i].to_bits().wrapping_add(shifted))
                }))
            }
            #[inline(never)]
            fn split_exponent(self) -> (Self, Self) {
                const FRACTION: $Bits = (1 << $mantissa_bits) - 1;
                const ONE: $Bits = ($bias as $Bits) << $mantissa_bits;
                let mantissa = self.0.map(|x| <$T>::from_bits((x.to_bits() & FRACTION) | ONE));
                let exponent =
                    self.0.map(|x| ((x.to_bits() >> $mantissa_bits) as $Int - $bias) as $T);
                (Lanes(mantissa), Lanes(exponent))
            }
            #[inline(never)]
            fn sum(self) -> $T {
                let a: [$T; 8] = std::array::from_fn(|i| self.0[i] + self.0[i + 8]);
                let b: [$T; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
                (b[0] + b[2]) + (b[1] + b[3])
            }
            #[inline(never)]
            fn to_array(self) -> [$T; LANES] {
                self.0
            }
            #[inline(never)]
            fn from_array(lanes: [$T; LANES]) -> Self {
                Lanes(lanes)
            }
        }
    };
}

lanes!(f32, u32, i32, 23, 127);
lanes!(f64, u64, i64, 52, 1023);

/// Whether the machine fuses multiply and add in hardware (without, it is done in software: the same
/// bits, slowly).
#[cfg(target_arch = "x86_64")]
#[inline]
fn has_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}
