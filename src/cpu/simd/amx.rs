//! Whether this machine has AMX's tiles with bf16, and asking the system for them.

/// Whether products may use tiles: the processor has them, and the system, which has eight kilobytes more to save for
/// every thread, has been asked and agrees. The first call asks, for all threads of the process,
/// whichever level is used in the end.
pub(super) fn available() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        static AGREED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *AGREED.get_or_init(|| in_processor() && is_x86_feature_detected!("avx512bf16") && asked())
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    false
}

/// Whether the processor has tiles and products of bf16, and the system saves the tiles' state.
#[cfg(all(target_os = "linux", not(miri)))]
fn in_processor() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Shape and data of tiles, in XCR0.
    const STATE: u32 = 3 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if features & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
        return false;
    }
    let saved: u32;
    // SAFETY: OSXSAVE says that the instruction is there; it only reads a register.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    saved & STATE == STATE
}

/// Asks Linux (since 5.16) to let this process use tiles; an older one says no.
#[cfg(all(target_os = "linux", not(miri)))]
fn asked() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let answer: i64;
    // SAFETY: this system call reads nothing of the process and changes only what the kernel saves of its threads.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA, out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    /// Linux refuses what the processor does not have, and the process goes on.
    #[test]
    fn the_system_agrees_only_to_what_the_processor_has() {
        assert!(super::in_processor() || !super::asked());
    }
}
