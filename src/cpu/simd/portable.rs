//! Sixteen lanes as an array: the reference for every other vector, and the fallback.

use super::{LANES, Real, Vector};

/// An array that plays a vector.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes<T>([T; LANES]);

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

            #[inline(always)]
            fn splat(value: $T) -> Self {
                Lanes([value; LANES])
            }
            #[inline(always)]
            fn load(src: &[$T]) -> Self {
                Lanes(std::array::from_fn(|i| src[..LANES][i]))
            }
            #[inline(always)]
            fn load_part(src: &[$T]) -> Self {
                Lanes(std::array::from_fn(|i| if i < src.len() { src[i] } else { 0.0 }))
            }
            #[inline(always)]
            fn store(self, dst: &mut [$T]) {
                dst[..LANES].copy_from_slice(&self.0);
            }
            #[inline(always)]
            fn store_part(self, dst: &mut [$T]) {
                let n = dst.len().min(LANES);
                dst[..n].copy_from_slice(&self.0[..n]);
            }
            #[inline(always)]
            unsafe fn load_ptr(src: *const $T) -> Self {
                // SAFETY: the caller promises sixteen readable elements; the read needs no alignment.
                Lanes(unsafe { src.cast::<[$T; LANES]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store_ptr(self, dst: *mut $T) {
                // SAFETY: the caller promises sixteen writable elements.
                unsafe { dst.cast::<[$T; LANES]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self.with(b, |a, b| a + b)
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                self.with(b, |a, b| a - b)
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                self.with(b, |a, b| a * b)
            }
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                self.with(b, |a, b| a / b)
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                Lanes(std::array::from_fn(|i| self.0[i].fma(a.0[i], b.0[i])))
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self, b: Self) -> Self {
                Lanes(std::array::from_fn(|i| (-self.0[i]).fma(a.0[i], b.0[i])))
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Lanes(self.0.map(|a| a.sqrt()))
            }
            #[inline(always)]
            fn neg(self) -> Self {
                Lanes(self.0.map(|a| -a))
            }
            #[inline(always)]
            fn abs(self) -> Self {
                Lanes(self.0.map(|a| a.abs()))
            }
            #[inline(always)]
            fn max(self, b: Self) -> Self {
                self.with(b, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn min(self, b: Self) -> Self {
                self.with(b, |a, b| if a < b { a } else { b })
            }
            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                self.with(sign, |a, b| a.copysign(b))
            }
            #[inline(always)]
            fn lt(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a < b)
            }
            #[inline(always)]
            fn le(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a <= b)
            }
            #[inline(always)]
            fn eq(self, b: Self) -> Self::Mask {
                self.test(b, |a, b| a == b)
            }
            #[inline(always)]
            fn select(mask: Self::Mask, a: Self, b: Self) -> Self {
                Lanes(std::array::from_fn(|i| if mask[i] { a.0[i] } else { b.0[i] }))
            }
            #[inline(always)]
            fn any(mask: Self::Mask) -> bool {
                mask.contains(&true)
            }
            #[inline(always)]
            fn pow2(self) -> Self {
                Lanes(self.0.map(|n| {
                    // A NaN lane becomes 0 here; callers overwrite such lanes.
                    let biased = (n as $Int).wrapping_add($bias);
                    <$T>::from_bits((biased as $Bits) << $mantissa_bits)
                }))
            }
            #[inline(always)]
            fn split_exponent(self) -> (Self, Self) {
                const FRACTION: $Bits = (1 << $mantissa_bits) - 1;
                const ONE: $Bits = ($bias as $Bits) << $mantissa_bits;
                let mantissa = self.0.map(|x| <$T>::from_bits((x.to_bits() & FRACTION) | ONE));
                let exponent =
                    self.0.map(|x| ((x.to_bits() >> $mantissa_bits) as $Int - $bias) as $T);
                (Lanes(mantissa), Lanes(exponent))
            }
            #[inline(always)]
            fn sum(self) -> $T {
                let a: [$T; 8] = std::array::from_fn(|i| self.0[i] + self.0[i + 8]);
                let b: [$T; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
                (b[0] + b[2]) + (b[1] + b[3])
            }
            #[inline(always)]
            fn to_array(self) -> [$T; LANES] {
                self.0
            }
            #[inline(always)]
            fn from_array(lanes: [$T; LANES]) -> Self {
                Lanes(lanes)
            }
        }
    };
}

lanes!(f32, u32, i32, 23, 127);
lanes!(f64, u64, i64, 52, 1023);
