//! Runs AMX on a machine that has none. Its instructions are illegal there; the signal that they raise is answered
//! by doing what they say, byte for byte as they were assembled, on registers of the [`model`]'s.
//!
//! So the very code that runs on AMX is tested everywhere, up to how fast it is and to what the manual does not say.

use std::cell::UnsafeCell;
use std::sync::Once;

use super::TILE;
use super::model::{Register, dot};
use crate::cpu::simd::LANES;

thread_local! {
    /// The eight registers, and whether they were given a shape.
    static REGISTERS: UnsafeCell<([Register; 8], bool)> =
        const { UnsafeCell::new(([[0; TILE]; 8], false)) };
}

/// Answers illegal instructions from now on.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an empty action, filled in below; the handler allocates nothing and takes no lock.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn handle(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: what the kernel hands to a handler with SA_SIGINFO; nobody else holds this thread's registers, because
    // the instruction that was interrupted is the only one that uses them.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let done = REGISTERS.with(|tiles| run(registers, &mut *tiles.get()));
        if done.is_none() {
            // Not ours: the same instruction again, with what would have happened otherwise.
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        }
    }
}

/// Where the general register of this number is among the saved ones.
fn place(number: u8) -> usize {
    const ORDER: [i32; 8] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
    ];
    match number {
        0..8 => ORDER[number as usize] as usize,
        _ => libc::REG_R8 as usize + number as usize - 8,
    }
}

/// Does what the instruction at the instruction pointer says and moves on; `None` if it is not one of AMX's.
///
/// # Safety
/// The pointer and the addresses of the instruction are those of a running program.
unsafe fn run(saved: &mut [i64; 23], tiles: &mut ([Register; 8], bool)) -> Option<()> {
    let at = saved[libc::REG_RIP as usize] as *const u8;
    // SAFETY: an instruction is at least so long here: all that we know have a prefix of three bytes.
    let byte = |i: usize| unsafe { *at.add(i) };
    // VEX of three bytes: C4, [R̄ X̄ B̄ map], [W v̄v̄v̄v̄ L pp], then the opcode and ModRM. The map is 0F38, L and W are 0.
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (x, b) = (8 * (byte(1) >> 6 & 1 ^ 1), 8 * (byte(1) >> 5 & 1 ^ 1));
    let (vvvv, prefix) = (!byte(2) >> 3 & 15, byte(2) & 3);
    let (opcode, mode, reg, rm) = (byte(3), byte(4) >> 6, byte(4) >> 3 & 7, byte(4) & 7);
    let (none, f3, f2) = (0, 2, 3);
    let mut length = 5;
    let (mut base, mut index) = (0, 0);
    if mode != 3 {
        let mut from = rm + b;
        if rm == 4 {
            let sib = byte(5);
            length += 1;
            from = (sib & 7) + b;
            let number = (sib >> 3 & 7) + x;
            if number != 4 {
                index = saved[place(number)] << (sib >> 6);
            }
        }
        assert!(mode != 0 || from & 7 != 5, "an address without a base");
        base = saved[place(from)];
        match mode {
            1 => base += byte(length) as i8 as i64,
            2 => {
                let four = [0, 1, 2, 3].map(|i| byte(length + i));
                base += i32::from_le_bytes(four) as i64;
            }
            _ => {}
        }
        length += [0, 1, 4][mode as usize];
    }
    let (registers, shaped) = tiles;
    let row = |i: usize| (base + i as i64 * index) as *mut [u32; LANES];
    match (opcode, prefix, mode) {
        (0x49, p, 0..3) if p == none => {
            // ldtilecfg: palette 1, eight registers of 16 rows of 64 bytes.
            // SAFETY: the program reads these 64 bytes.
            let shape = unsafe { *(base as *const [u8; 64]) };
            let want: [u8; 64] = std::array::from_fn(|i| match i {
                0 => 1,
                16..32 if i % 2 == 0 => 64,
                48..56 => 16,
                _ => 0,
            });
            assert_eq!(shape, want);
            *registers = [[0; TILE]; 8];
            *shaped = true;
        }
        (0x49, p, 3) if p == none && byte(4) == 0xc0 => *shaped = false, // tilerelease
        (0x49, p, 3) if p == f2 => registers[reg as usize] = [0; TILE],  // tilezero
        (0x4b, p, 0..3) if p != none => {
            assert!(*shaped && base % 64 == 0, "a row across two lines, or no shape");
            for (i, here) in registers[reg as usize].chunks_exact_mut(LANES).enumerate() {
                // SAFETY: the program reads or writes these 64 bytes.
                unsafe {
                    if p == f3 {
                        (*row(i)).copy_from_slice(here); // tilestored
                    } else {
                        here.copy_from_slice(&*row(i)); // tileloadd, tileloaddt1
                    }
                }
            }
        }
        (0x5c, p, 3) if p == f3 => {
            // tdpbf16ps
            assert!(*shaped);
            let (a, b) = (registers[rm as usize], registers[vvvv as usize]);
            dot(&mut registers[reg as usize], &a, &b);
        }
        _ => return None,
    }
    saved[libc::REG_RIP as usize] += length as i64;
    Some(())
}
