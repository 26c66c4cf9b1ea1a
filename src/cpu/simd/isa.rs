//! Which instruction set runs: found once at run time, or forced for tests.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use half::bf16;

use super::{Kernel, Real};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust on arrays.
    Portable = 1,
    /// 256-bit vectors with FMA (x86-64 since 2013).
    Avx2 = 2,
    /// 512-bit vectors (x86-64 servers, AMD since Zen 4).
    Avx512 = 3,
    /// 128-bit vectors (every 64-bit ARM).
    Neon = 4,
    /// As [`Level::Avx512`], and products of bf16 in tiles (Intel's servers since Sapphire Rapids).
    Amx = 5,
}

impl Level {
    /// The name that `HANDLOOM_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
            Level::Amx => "amx",
        }
    }

    fn from_code(code: u8) -> Level {
        match code {
            2 => Level::Avx2,
            3 => Level::Avx512,
            4 => Level::Neon,
            5 => Level::Amx,
            _ => Level::Portable,
        }
    }
}

/// 0 until the first question is asked.
static LEVEL: AtomicU8 = AtomicU8::new(0);

thread_local! {
    /// What [`at_level`] has asked for on this thread.
    static HERE: Cell<Option<Level>> = const { Cell::new(None) };
}

/// The levels this machine can run, the slowest first.
pub fn available_levels() -> Vec<Level> {
    #[allow(unused_mut)]
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if ["avx2", "fma", "f16c"].into_iter().all(has) {
            levels.push(Level::Avx2);
            if ["avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2"].into_iter().all(has) {
                levels.push(Level::Avx512);
                if super::amx::available() {
                    levels.push(Level::Amx);
                }
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    levels.push(Level::Neon);
    levels
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    match feature {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "bmi2" => is_x86_feature_detected!("bmi2"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        _ => is_x86_feature_detected!("avx512vl"),
    }
}

/// The level in force on this thread: the best there is, or what `HANDLOOM_ISA` names (ignored where the machine does
/// not have it; `handloom info` says which is in force).
#[inline]
pub fn level() -> Level {
    if let Some(level) = HERE.get() {
        return level;
    }
    match LEVEL.load(Relaxed) {
        0 => find_level(),
        code => Level::from_code(code),
    }
}

#[cold]
fn find_level() -> Level {
    let levels = available_levels();
    let wanted = std::env::var("HANDLOOM_ISA").unwrap_or_default();
    let named = levels.iter().copied().find(|level| level.name() == wanted);
    let level = named.or(levels.last().copied()).unwrap_or(Level::Portable);
    LEVEL.store(level as u8, Relaxed);
    level
}

/// Calls `f` with kernels at `level`, on this thread and on those that help its kernels; for tests and
/// benches. Other threads are not concerned: half a product at one level and half at another would not fit.
///
/// # Panics
/// Where the machine does not have that level.
pub fn at_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    assert!(available_levels().contains(&level), "this machine has no {}", level.name());
    with_level(Some(level), f)
}

/// What [`at_level`] has asked for on this thread, to be taken to another by [`with_level`].
pub(crate) fn level_here() -> Option<Level> {
    HERE.get()
}

/// Calls `f` with what [`level_here`] gave on another thread.
pub(crate) fn with_level<R>(level: Option<Level>, f: impl FnOnce() -> R) -> R {
    struct Back(Option<Level>);
    impl Drop for Back {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _back = Back(HERE.replace(level));
    f()
}

/// Calls `f` once for each level this machine has, with that level in force.
#[cfg(test)]
pub(crate) fn at_every_level(mut f: impl FnMut(Level)) {
    available_levels().into_iter().for_each(|level| at_level(level, || f(level)));
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn fma(self, a: f32, b: f32) -> f32 {
        self.mul_add(a, b)
    }

    #[inline(always)]
    fn from_bf16(x: bf16) -> f32 {
        f32::from_bits((x.to_bits() as u32) << 16)
    }

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        let x = self.to_bits();
        let nearest = x.wrapping_add(0x7FFF + ((x >> 16) & 1)) >> 16;
        let nan = (x >> 16) | 0x40;
        bf16::from_bits(if self.is_nan() { nan } else { nearest } as u16)
    }

    #[inline]
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Output {
        // SAFETY: `level` only ever gives one that `available_levels` has found on this machine.
        unsafe { run_on(level(), kernel) }
    }
}

/// Runs `kernel` on the instructions of `level`.
///
/// # Safety
/// The machine has them.
#[inline(always)]
unsafe fn run_on<K: Kernel<f32>>(level: Level, kernel: K) -> K::Output {
    match level {
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => unsafe {
            super::avx512::compiled(
                #[inline(always)]
                || kernel.run::<super::avx512::F32x1>(),
            )
        },
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            super::avx2::compiled(
                #[inline(always)]
                || kernel.run::<super::avx2::F32x2>(),
            )
        },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run::<super::neon::F32x4>(),
        _ => kernel.run::<super::portable::Lanes<f32>>(),
    }
}

/// Runs `kernel` at `level`, whatever is in force; `None` where the machine does not have it.
pub(crate) fn dispatch_at<K: Kernel<f32>>(level: Level, kernel: K) -> Option<K::Output> {
    // SAFETY: the level has just been found on this machine.
    available_levels().contains(&level).then(|| unsafe { run_on(level, kernel) })
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;

    #[inline(always)]
    fn fma(self, a: f64, b: f64) -> f64 {
        self.mul_add(a, b)
    }

    #[inline(always)]
    fn from_bf16(x: bf16) -> f64 {
        f32::from_bf16(x).into()
    }

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        bf16::from_f64(self)
    }

    #[inline]
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Output {
        kernel.run::<super::portable::Lanes<f64>>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LANES, Vector};
    use super::*;

    /// One of everything, as bits.
    struct Everything;

    impl Kernel<f32> for Everything {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<V: Vector<Elem = f32>>(self) -> Vec<u32> {
            let a: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.5) * 1.37);
            let mut b: [f32; LANES] = std::array::from_fn(|i| 0.3 + i as f32 * 0.77);
            b[3] = f32::NAN;
            b[5] = f32::INFINITY;
            let (va, vb) = (V::load(&a), V::load(&b));
            let part = V::load_part(&a[..5]);
            let (mantissa, exponent) = V::load(&b).abs().min(V::splat(9e30)).split_exponent();
            let mut bits = Vec::new();
            for v in [
                va.add(vb),
                va.sub(vb),
                va.mul(vb),
                va.div(vb),
                va.mul_add(vb, va),
                va.neg_mul_add(vb, va),
                vb.sqrt(),
                va.neg(),
                va.abs(),
                va.max(vb),
                va.min(vb),
                vb.copysign(va),
                V::select(va.lt(vb), va, vb),
                V::select(va.le(va), va, vb),
                V::select(va.eq(va), va, vb),
                V::from_array(std::array::from_fn(|i| i as f32 * 8.0 - 64.0)).pow2(),
                va.scaled(V::from_array(std::array::from_fn(|i| {
                    super::super::math::ROUND as f32 + i as f32 * 8.0 - 64.0
                }))),
                mantissa,
                exponent,
                part,
            ] {
                bits.extend(v.to_array().map(|x| if x.is_nan() { 1 } else { x.to_bits() }));
            }
            let mut square = std::array::from_fn(|i| va.mul(V::splat(i as f32)));
            V::transpose(&mut square);
            bits.extend(square.iter().flat_map(|row| row.to_array().map(f32::to_bits)));
            bits.push(va.sum().to_bits());
            bits.push(va.max_lane().to_bits());
            bits.push(V::any(va.lt(V::zero())) as u32);
            bits.push(V::any(va.lt(V::splat(-100.0))) as u32);
            let mut out = [9.0f32; LANES];
            va.store_part(&mut out[..7]);
            bits.extend(out.map(f32::to_bits));
            bits
        }
    }

    #[test]
    fn every_level_gives_the_bits_of_plain_arrays() {
        let plain = Everything.run::<super::super::portable::Lanes<f32>>();
        at_every_level(|level| {
            assert_eq!(f32::dispatch(Everything), plain, "{}", level.name());
        });
    }
}
