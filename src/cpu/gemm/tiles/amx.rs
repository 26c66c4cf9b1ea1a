//! The processor's tiles. Their intrinsics are not in stable Rust, hence instructions as text.

use std::arch::asm;

use super::x86::Machine;
use super::{Chain, Parts, SIDE, STEP, Stays, TILE};
use crate::cpu::simd::LANES;

/// AMX with bf16.
pub(super) struct Amx;

/// What `ldtilecfg` reads: palette 1, and for each register the bytes of a row and the rows.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPE: Shape = {
    let mut shape =
        Shape { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut i = 0;
    while i < 8 {
        (shape.row_bytes[i], shape.rows[i]) = (64, 16);
        i += 1;
    }
    shape
};

/// The bytes of the two tiles of one part of one step, and of one tile.
const PART: usize = 2 * ONE;
const ONE: usize = TILE * size_of::<f32>();

/// The bytes of a row of a tile; a row of sums has two.
const ROW: usize = 64;

/// The strip of A of one part into registers 4 and 5, by an instruction: `tileloadd`, or `tileloaddt1`, which goes past
/// the first cache.
macro_rules! a {
    ($load:literal, $part:literal) => {
        concat!(
            $load,
            " tmm4, [{a} + {a_row}*1 + ",
            $part,
            "*{part}]\n",
            $load,
            " tmm5, [{lower} + {a_row}*1 + ",
            $part,
            "*{part}]"
        )
    };
    ($part:literal) => {
        a!("tileloadd", $part)
    };
}

/// The panel of B of one part into registers 6 and 7, as [`a`].
macro_rules! b {
    ($load:literal, $part:literal) => {
        concat!(
            $load,
            " tmm6, [{b} + {row}*1 + ",
            $part,
            "*{part}]\n",
            $load,
            " tmm7, [{b} + {row}*1 + ",
            $part,
            "*{part} + {one}]"
        )
    };
    ($part:literal) => {
        b!("tileloadd", $part)
    };
}

/// Their product, added to registers 0 to 3.
macro_rules! dot {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\n\
         tdpbf16ps tmm1, tmm4, tmm7\n\
         tdpbf16ps tmm2, tmm5, tmm6\n\
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// [`dot`], and two lines of what is needed soon.
macro_rules! dot_ahead {
    () => {
        concat!(
            dot!(),
            "\nprefetcht1 [{ahead}]\n\
             prefetcht1 [{ahead} + 64]\n\
             add {ahead}, 128"
        )
    };
}

/// A loop over the steps with these instructions in it.
macro_rules! steps {
    ($a:ident, $b:ident, $steps:ident, $soon:ident, $more:ident, $to:ident, $parts:literal; $($line:expr),*) => {
        asm!(
            "test {more}, {more}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{to} + {row}*2]",
            "tileloadd tmm1, [{to} + {row}*2 + {row_bytes}]",
            "tileloadd tmm2, [{to} + {row}*2 + {below}]",
            "tileloadd tmm3, [{to} + {row}*2 + {below} + {row_bytes}]",
            "2:",
            $($line,)*
            "prefetchw [{c}]",
            "prefetchw [{c} + 64]",
            "add {c}, {ldc}",
            "add {a}, {a_step}",
            "add {lower}, {a_step}",
            "add {b}, {parts}*{part}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{to} + {row}*2], tmm0",
            "tilestored [{to} + {row}*2 + {row_bytes}], tmm1",
            "tilestored [{to} + {row}*2 + {below}], tmm2",
            "tilestored [{to} + {row}*2 + {below} + {row_bytes}], tmm3",
            a = inout(reg) $a.at => _,
            lower = inout(reg) $a.at.wrapping_byte_add(LANES * $a.row) => _,
            a_row = in(reg) $a.row,
            a_step = in(reg) $a.step,
            b = inout(reg) $b => _,
            steps = inout(reg) $steps => _,
            ahead = inout(reg) $soon.b => _,
            c = inout(reg) $soon.c => _,
            ldc = in(reg) $soon.ldc,
            to = in(reg) $to,
            row = in(reg) ROW,
            more = in(reg) $more as usize,
            parts = const $parts,
            part = const PART,
            one = const ONE,
            row_bytes = const ROW,
            below = const 16 * SIDE * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Machine for Amx {
    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: the machine has tiles, says the caller, and `SHAPE` is a shape that they can have.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &SHAPE, options(nostack, readonly, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: as in `begin`; the compiler uses none.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn sums(chain: Chain<'_>) {
        const { assert!(SIDE * size_of::<f32>() == 2 * ROW) };
        let Chain { parts, a, b, steps, soon, more, to } = chain;
        let to = to.0.as_mut_ptr();
        // SAFETY: loads stay in the panels, which the caller vouches for, stores in `to`; the registers were given
        // their shape by `begin`.
        unsafe {
            match parts {
                Parts::One => match a.stays {
                    Stays::A => steps!(a, b, steps, soon, more, to, 1;
                        a!(0), b!("tileloaddt1", 0), dot_ahead!()),
                    Stays::B => steps!(a, b, steps, soon, more, to, 1;
                        a!("tileloaddt1", 0), b!(0), dot_ahead!()),
                    Stays::Both => {
                        steps!(a, b, steps, soon, more, to, 1; a!(0), b!(0), dot_ahead!())
                    }
                },
                Parts::Two => steps!(a, b, steps, soon, more, to, 2;
                    a!(1), b!(0), dot_ahead!(), a!(0), dot_ahead!(), b!(1), dot_ahead!()),
                Parts::Three => steps!(a, b, steps, soon, more, to, 3;
                    a!(0), b!(2), dot_ahead!(), b!(1), dot_ahead!(), a!(1), dot_ahead!(), b!(0), dot_ahead!(), a!(0), dot_ahead!(),
                    a!(2), dot_ahead!()),
            }
        }
    }
}

/// Products of registers, four sums side by side.
///
/// # Safety
/// The machine has tiles.
pub(super) unsafe fn spin(rounds: usize) -> f64 {
    const DOTS: usize = 4;
    // SAFETY: the caller's promise.
    unsafe { Amx::begin() };
    for _ in 0..rounds {
        // SAFETY: the machine has tiles, with the shape that `begin` gives; what the registers hold does not matter.
        unsafe {
            asm!(
                dot!(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem, preserves_flags),
            );
        }
    }
    // SAFETY: they have begun.
    unsafe { Amx::end() };
    (rounds * DOTS * 2 * TILE * STEP) as f64
}
