//! The speed of the instruction that multiplies pairs of `bf16` and sums in `f32` (AVX512-BF16): sixteen
//! lanes of `c + a₀ b₀ + a₁ b₁`, four floating-point operations a lane.

/// Whether the machine has the instruction.
pub fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    false
}

/// Whether kernels should use it: AVX-512 is in force, and the instruction does more arithmetic in a second than the
/// fused multiply-add of f32. It does twice as much on a Zen 5, half as much on an Emerald Rapids; the rule goes by
/// the maker.
pub fn pays() -> bool {
    static FAST: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    matches!(super::level(), super::Level::Avx512 | super::Level::Amx)
        && *FAST.get_or_init(|| available() && !intel())
}

/// Whether Intel made the processor.
fn intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    return {
        let id = std::arch::x86_64::__cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    };
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs `rounds` rounds of it in registers and returns the floating-point operations; `None` where the
/// machine does not have it.
pub(crate) fn spin(rounds: usize) -> Option<f64> {
    if !available() {
        return None;
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: `available` has found both features on this machine.
    return Some(unsafe { chains(rounds) });
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = rounds;
        None
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx512f,avx512bf16")]
fn chains(rounds: usize) -> f64 {
    use std::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps};
    use std::arch::x86_64::{_mm512_set1_ps, _mm512_setzero_ps};
    const CHAINS: usize = 12;
    let (a, b) =
        (_mm512_set1_ps(std::hint::black_box(0.5)), _mm512_set1_ps(std::hint::black_box(1e-3)));
    let (a, b) = (_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm512_reduce_add_ps(sum));
    }
    (rounds * CHAINS * 16 * 4) as f64
}
