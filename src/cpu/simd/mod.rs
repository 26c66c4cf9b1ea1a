//! One vector of sixteen lanes, whatever the machine.
//!
//! A kernel is a struct that holds its arguments and a [`Kernel::run`] that is generic over the vector.
//! [`Real::dispatch`] picks the instruction set, once, and runs the kernel inside a function compiled
//! for it:
//!
//! ```ignore
//! struct Scale<'a> { x: &'a mut [f32], by: f32 }
//!
//! impl Kernel<f32> for Scale<'_> {
//!     type Output = ();
//!     #[inline(always)] // every function between dispatch and the vector must be inlined
//!     fn run<V: Vector<Elem = f32>>(self) {
//!         let by = V::splat(self.by);
//!         for chunk in self.x.chunks_mut(LANES) {
//!             V::load_part(chunk).mul(by).store_part(chunk);
//!         }
//!     }
//! }
//! f32::dispatch(Scale { x, by });
//! ```
//!
//! Closures between dispatch and the vector are marked `#[inline(always)]` too, and iterator adapters
//! and `std::array::from_fn` are kept out of inner loops: what is not inlined is compiled without the
//! vector instructions and calls a function for each of them, ten times slower.
//!
//! `f64`, which only checks gradients, runs through the same sources on an array of sixteen.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod dot_bf16;
mod heads;
mod isa;
pub mod math;
mod portable;
mod shared;
mod strips;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use heads::Strides;
pub(crate) use heads::{Extent, HeadRows, Heads, for_heads};
#[cfg(test)]
pub(crate) use isa::at_every_level;
pub(crate) use isa::{dispatch_at, level_here, with_level};
#[cfg(test)]
pub(crate) use portable::Lanes;
pub(crate) use shared::Shared;
pub(crate) use strips::{Strip, Strips, for_pieces, for_pieces_and, for_strips};

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use avx512::F32x1;
pub use isa::{Level, at_level, available_levels, level};

use bytemuck::Pod;
use half::{bf16, f16};

/// The lanes of a [`Vector`].
pub const LANES: usize = 16;

/// `f32` or `f64`: what kernels compute in.
pub trait Real: Number + Default + PartialOrd + std::fmt::Debug {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// `self · a + b`, rounded once.
    fn fma(self, a: Self, b: Self) -> Self;
    /// The same number.
    fn from_bf16(x: bf16) -> Self;
    /// The nearest bf16, ties to even; NaN stays NaN.
    fn to_bf16(self) -> bf16;
    /// Runs `kernel` on the instruction set in force.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output;
}

/// Any element type, for conversions.
pub trait Number: Pod + Send + Sync {
    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value of this type; `u32` cuts the fraction off and saturates.
    fn from_f64(value: f64) -> Self;
}

macro_rules! number {
    ($T:ty, $to:expr, $from:expr) => {
        impl Number for $T {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> $T {
                $from(value)
            }
        }
    };
}
number!(f32, |x| x as f64, |x| x as f32);
number!(f64, |x| x, |x| x);
number!(bf16, bf16::to_f64, bf16::from_f64);
number!(f16, f16::to_f64, f16::from_f64);
number!(u32, |x| x as f64, |x| x as u32);

/// What numbers may be stored as that kernels read as T: T itself, or bf16.
pub trait Stored<T>: Number {
    /// Whether it is bf16: half as wide as f32, of which it is the upper half.
    const IS_BF16: bool;
    /// The number.
    fn widen(self) -> T;
    /// Sixteen elements.
    ///
    /// # Safety
    /// `from` is valid for reading sixteen elements.
    unsafe fn load<V: Vector<Elem = T>>(from: *const Self) -> V;
    /// `count` elements, at most sixteen; the lanes beyond are 0.
    ///
    /// # Safety
    /// `from` is valid for reading `count` elements.
    unsafe fn load_part<V: Vector<Elem = T>>(from: *const Self, count: usize) -> V;
}

impl<T: Real> Stored<T> for T {
    const IS_BF16: bool = false;

    #[inline(always)]
    fn widen(self) -> T {
        self
    }
    #[inline(always)]
    unsafe fn load<V: Vector<Elem = T>>(from: *const T) -> V {
        // SAFETY: handed through.
        unsafe { V::load_ptr(from) }
    }
    #[inline(always)]
    unsafe fn load_part<V: Vector<Elem = T>>(from: *const T, count: usize) -> V {
        // SAFETY: handed through.
        V::load_part(unsafe { std::slice::from_raw_parts(from, count) })
    }
}

impl<T: Real> Stored<T> for bf16 {
    const IS_BF16: bool = true;

    #[inline(always)]
    fn widen(self) -> T {
        T::from_bf16(self)
    }
    #[inline(always)]
    unsafe fn load<V: Vector<Elem = T>>(from: *const bf16) -> V {
        // SAFETY: handed through.
        unsafe { V::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn load_part<V: Vector<Elem = T>>(from: *const bf16, count: usize) -> V {
        let mut lanes = [bf16::ZERO; LANES];
        // SAFETY: `count` elements can be read; the array has sixteen.
        unsafe {
            lanes[..count].copy_from_slice(std::slice::from_raw_parts(from, count));
            V::load_bf16(lanes.as_ptr())
        }
    }
}

/// The elements of `src`, at most sixteen, that may be bf16; the lanes beyond are 0.
#[inline(always)]
pub(crate) fn load_stored<S: Stored<V::Elem>, V: Vector>(src: &[S]) -> V {
    assert!(src.len() <= LANES);
    // SAFETY: the slice has that many elements.
    unsafe {
        if src.len() == LANES {
            S::load(src.as_ptr())
        } else {
            S::load_part(src.as_ptr(), src.len())
        }
    }
}

/// Writes `src`, rounded as [`Real::to_bf16`] does; both are of one length.
#[inline(always)]
pub(crate) fn round_row<V: Vector>(dst: &mut [bf16], src: &[V::Elem]) {
    let src = &src[..dst.len()];
    let (to, rest) = dst.as_chunks_mut::<LANES>();
    let (from, last) = src.as_chunks::<LANES>();
    for (to, from) in to.iter_mut().zip(from) {
        V::load(from).store_bf16(to);
    }
    rest.iter_mut().zip(last).for_each(|(to, from)| *to = from.to_bf16());
}

/// A kernel with its arguments, waiting for a vector type.
pub trait Kernel<T> {
    /// What it returns.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`.
    fn run<V: Vector<Elem = T>>(self) -> Self::Output;
}

/// Sixteen lanes of `f32` or `f64`. All operations are lane by lane; comparisons with NaN are
/// false. Only [`Real::dispatch`] brings a vector type into play, after it has made sure that the
/// machine has the instructions.
pub trait Vector: Copy + Send + Sync + 'static {
    /// The type of a lane.
    type Elem: Real;
    /// One truth value a lane.
    type Mask: Copy;
    /// Accumulator vectors that a matrix micro-kernel may keep in registers: (rows, vectors a row).
    const TILE: (usize, usize);

    /// The same value in every lane.
    fn splat(value: Self::Elem) -> Self;
    /// The first sixteen elements; panics when there are fewer.
    fn load(src: &[Self::Elem]) -> Self;
    /// Up to sixteen elements; lanes beyond the slice are 0.
    fn load_part(src: &[Self::Elem]) -> Self;
    /// Writes the first sixteen elements; panics when there are fewer.
    fn store(self, dst: &mut [Self::Elem]);
    /// Writes as many lanes as the slice has elements, sixteen at most.
    fn store_part(self, dst: &mut [Self::Elem]);
    /// Reads sixteen elements.
    ///
    /// # Safety
    /// `src` is valid for reading sixteen elements.
    unsafe fn load_ptr(src: *const Self::Elem) -> Self;
    /// Writes sixteen elements.
    ///
    /// # Safety
    /// `dst` is valid for writing sixteen elements.
    unsafe fn store_ptr(self, dst: *mut Self::Elem);
    /// Sixteen numbers stored as bf16.
    ///
    /// # Safety
    /// `src` is valid for reading sixteen elements.
    #[inline(always)]
    unsafe fn load_bf16(src: *const bf16) -> Self {
        // SAFETY: handed through; an array of bf16 is aligned like one.
        Self::from_array(unsafe { *src.cast::<[bf16; LANES]>() }.map(Stored::widen))
    }
    /// Writes the lanes, rounded as [`Real::to_bf16`] does, to the first sixteen elements; panics when there are fewer.
    #[inline(always)]
    fn store_bf16(self, dst: &mut [bf16]) {
        dst[..LANES].copy_from_slice(&self.to_array().map(Real::to_bf16));
    }

    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self − b`.
    fn sub(self, b: Self) -> Self;
    /// `self · b`.
    fn mul(self, b: Self) -> Self;
    /// `self / b`.
    fn div(self, b: Self) -> Self;
    /// `self · a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// `b − self · a`, rounded once.
    fn neg_mul_add(self, a: Self, b: Self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// −self.
    fn neg(self) -> Self;
    /// |self|.
    fn abs(self) -> Self;
    /// `self > b ? self : b` (so `b` where either is NaN).
    fn max(self, b: Self) -> Self;
    /// `self < b ? self : b` (so `b` where either is NaN).
    fn min(self, b: Self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;

    /// `self < b`.
    fn lt(self, b: Self) -> Self::Mask;
    /// `self <= b`.
    fn le(self, b: Self) -> Self::Mask;
    /// `self == b`.
    fn eq(self, b: Self) -> Self::Mask;
    /// `mask ? a : b`.
    fn select(mask: Self::Mask, a: Self, b: Self) -> Self;
    /// Whether any lane of the mask is true.
    fn any(mask: Self::Mask) -> bool;

    /// 2ⁿ for lanes that hold whole numbers within the range of normal exponents.
    fn pow2(self) -> Self;
    /// `self · 2ⁿ` for a normal result, where `rounded` is n + 1.5 · 2²³: n as the addition of that number leaves it.
    /// Anything where `rounded` is NaN.
    fn scaled(self, rounded: Self) -> Self;
    /// `(m, e)` with `self = m · 2ᵉ`, m in [1, 2), for positive normal lanes.
    fn split_exponent(self) -> (Self, Self);

    /// The sum of the lanes by halving: lane i and i + 8, then i + 4, i + 2, i + 1.
    fn sum(self) -> Self::Elem;
    /// The lanes as an array.
    fn to_array(self) -> [Self::Elem; LANES];
    /// A vector of these lanes.
    fn from_array(lanes: [Self::Elem; LANES]) -> Self;

    /// Swaps rows and columns of a square of 16 × 16.
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let square = rows.map(Self::to_array);
        for (j, row) in rows.iter_mut().enumerate() {
            *row = Self::from_array(std::array::from_fn(|i| square[i][j]));
        }
    }

    /// Asks for the cache line at `at` to be brought close, where the machine can be asked. Any address
    /// will do.
    #[inline(always)]
    fn prefetch(at: *const Self::Elem) {
        let _ = at;
    }
    /// As [`Vector::prefetch`], only as far as the second-level cache: for lines that are needed later than what the
    /// first holds.
    #[inline(always)]
    fn prefetch_far(at: *const Self::Elem) {
        Self::prefetch(at);
    }
    /// Calls `f`, which is `#[inline(always)]`, in a function of its own for this vector's instructions. A kernel that
    /// has many variants of its inner part compiles several times as fast when it is not one function with all of them.
    #[inline(never)]
    fn apart<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    /// 0 in every lane.
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(Self::Elem::ZERO)
    }
    /// The same number in every lane, rounded from `f64`.
    #[inline(always)]
    fn constant(value: f64) -> Self {
        Self::splat(Self::Elem::from_f64(value))
    }
    /// The largest lane (NaN lanes are passed over unless lane 0 of a comparison holds them).
    #[inline(always)]
    fn max_lane(self) -> Self::Elem {
        let mut lanes = self.to_array();
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                let (a, b) = (lanes[i], lanes[i + width]);
                lanes[i] = if a > b { a } else { b };
            }
            width /= 2;
        }
        lanes[0]
    }
    /// `f` of each lane, one after the other: for functions without a vector form.
    #[inline(always)]
    fn map(self, f: impl Fn(Self::Elem) -> Self::Elem) -> Self {
        Self::from_array(self.to_array().map(f))
    }
}

/// The pointer given, of which the compiler then knows nothing but its value.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // nothing is read or written through it
pub(crate) fn unknown<T>(at: *const T) -> *const T {
    #[allow(unused_mut)]
    let mut at = at;
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
    // SAFETY: no instruction is in it, so the register comes out as it went in.
    unsafe {
        std::arch::asm!("/* {} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags));
    }
    at
}

/// The closure given. An attribute may stand on an argument but not behind `let x =`, and a closure
/// that works on vectors must be inlined like everything between dispatch and the vector:
/// `let f = inlined(#[inline(always)] |v: V| v.add(v));`
#[inline(always)]
pub(crate) fn inlined<F>(f: F) -> F {
    f
}
