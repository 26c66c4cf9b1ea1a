//! A block of C from strips and panels: what stays near, what passes, and where the sums go.

use half::bf16;

use super::super::factor::Start;
use super::super::micro::{self, Block, tile_size, write_row};
use super::super::pack::{self, Source, room};
use super::{
    Chain, MARGIN, Parts, SIDE, STEP, STRIPS, Soon, Stays, Strip, Sums, TILE, Unit, packed_rows,
    panel,
};
use crate::cpu::scratch;
use crate::cpu::simd::{LANES, Vector, inlined, round_row};

/// Steps of a panel of B, or a strip of A, in bf16 that stay in the first cache while the others pass: 32 KiB.
const NEAR: usize = 16;

/// Elements of a block of B at most that strips of A pass by, one after the other.
const BY_STRIP: usize = 600 << 10;

/// [`super::Tiles::block`] on one kind of tiles. Panels of B are outside, so that one stays near while all of a packed A passes. An A
/// that is read where it lies, from farther away, goes by once: strips of it are outside while B passes, if that is small
/// enough to come from the second cache; C is then written row by row, too.
///
/// Of bf16 a part of what stays does, as much as the first cache holds beside other things; the sums wait meanwhile, some
/// of them, and go on where they were: the same chain, the same bits. In three parts a panel takes 48 KiB and comes
/// from the second cache, of which six products ask for 14 KiB in 384 cycles.
///
/// # Safety
/// As [`super::Tiles::block`]; registers are there.
#[inline(always)]
pub(super) unsafe fn block_for<U: Unit>(
    block: &Block<'_, f32>,
    parts: Parts,
    a: Source<Start<f32>>,
    b: Source<Start<f32>>,
    sums: &mut [Sums],
) {
    let margin = panel(parts, block.k) - MARGIN;
    let steps = block.k.div_ceil(STEP);
    let step = parts as usize * 2 * TILE;
    let near =
        if parts == Parts::One { steps.div_ceil(steps.div_ceil(NEAR).max(1)) } else { steps };
    // What is outside, and what passes.
    let by_strip =
        parts == Parts::One && block.n * block.k <= BY_STRIP && block.a_col != packed_rows(parts).1;
    // What passes asks for the next that stays, each for its share: a strip of A if that is one piece, or a panel of B.
    let asks = if by_strip { block.a_row == steps * LANES } else { block.b_far };
    let (strips, panels) = (block.m.div_ceil(SIDE), block.n.div_ceil(SIDE));
    let (outer, inner) = if by_strip { (strips, panels) } else { (panels, strips) };
    for (first, o) in
        (0..inner.div_ceil(STRIPS)).flat_map(|i| (0..outer).map(move |o| (i * STRIPS, o)))
    {
        let mut next = if by_strip {
            block.a.wrapping_add((o + 1) * block.a_panel)
        } else {
            block.b.wrapping_add(
                (o + 1) * block.b_panel + first * steps * parts.products().len() * 2 * LANES,
            )
        };
        let mut from = 0;
        // At least once, so that k = 0 writes zeros.
        while from == 0 || from < steps {
            let some = near.min(steps - from);
            let last = from + some == steps;
            for (slot, n) in (first..inner.min(first + STRIPS)).enumerate() {
                let (i, j) = if by_strip { (o * SIDE, n * SIDE) } else { (n * SIDE, o * SIDE) };
                let right = block.b.wrapping_add(j / SIDE * block.b_panel);
                let cols = SIDE.min(block.n - j);
                // Where none has to wait, all take the same.
                let sums = &mut sums[if near < steps { slot } else { 0 }];
                let left = block.a.wrapping_add(i / SIDE * block.a_panel);
                let rows = SIDE.min(block.m - i);
                let strip = Strip {
                    at: left.wrapping_add(from * block.a_col),
                    row: block.a_row * size_of::<f32>(),
                    step: block.a_col * size_of::<f32>(),
                    rows,
                    stays: if some <= NEAR / 2 {
                        Stays::Both
                    } else if by_strip {
                        Stays::A
                    } else {
                        Stays::B
                    },
                };
                let at = i * block.ldc + j;
                let (c, ldc) = match block.rounded {
                    None => (block.c.wrapping_add(at), block.ldc * size_of::<f32>()),
                    Some(c) => (c.wrapping_add(at).cast(), block.ldc * size_of::<bf16>()),
                };
                let c_soon = last && !block.c_far;
                let soon = Soon {
                    b: if asks { next } else { right },
                    c: if c_soon { c } else { sums.0.as_ptr() },
                    ldc: if c_soon { ldc } else { 0 },
                };
                next = next.wrapping_add(some * parts.products().len() * 2 * LANES);
                let chain = Chain {
                    parts,
                    a: strip,
                    b: right.wrapping_add(from * step),
                    steps: some,
                    soon,
                    more: from > 0,
                    to: &mut *sums,
                };
                // SAFETY: a strip and a panel, packed for this k, each with its margin.
                unsafe { U::sums(chain) };
                if !last {
                    continue;
                }
                if parts != Parts::One && block.k > 0 {
                    // SAFETY: the margins.
                    let strange =
                        unsafe { ((*left.add(margin)).to_bits(), (*right.add(margin)).to_bits()) };
                    if strange != (0, 0) {
                        // SAFETY: these lanes are those of the sources.
                        unsafe { mend(sums, strange, (&a, i, rows), (&b, j, cols)) };
                    }
                }
                // SAFETY: this part of C.
                unsafe { write::<U>(block, parts, at, j, (rows, cols), sums) };
            }
            from += near.max(1);
        }
    }
}

/// Writes `rows` and `cols` of sums to C, `at` elements from its start; `j` is their first column within the block.
///
/// # Safety
/// These elements of C can be written.
#[inline(always)]
unsafe fn write<U: Unit>(
    block: &Block<'_, f32>,
    parts: Parts,
    at: usize,
    j: usize,
    (rows, cols): (usize, usize),
    sums: &mut Sums,
) {
    let ldc = block.ldc;
    let whole = (rows, cols) == (SIDE, SIDE) && !block.add;
    let bias = block.bias.filter(|_| whole).map(inlined(
        #[inline(always)]
        |bias: &[f32]| [U::V::load(&bias[j..]), U::V::load(&bias[j + LANES..])],
    ));
    if let (Some(bias), Some(_), false) = (block.bias, block.rounded, whole) {
        for row in sums.0.chunks_exact_mut(SIDE).take(rows) {
            row[..cols].iter_mut().zip(&bias[j..]).for_each(|(x, &bias)| *x += bias);
        }
    }
    // A row of sums, with the bias of a part that is whole.
    let vectors = inlined(
        #[inline(always)]
        |r: usize| {
            let row = &sums.0[r * SIDE..][..SIDE];
            let [low, high] = [U::V::load(row), U::V::load(&row[LANES..])];
            match bias {
                None => [low, high],
                Some(bias) => [low.add(bias[0]), high.add(bias[1])],
            }
        },
    );
    if let Some(to) = block.rounded {
        let to = to.wrapping_add(at);
        let past = block.c_far && (to as usize).is_multiple_of(64) && ldc.is_multiple_of(SIDE);
        if whole {
            for r in 0..SIDE {
                let ([low, high], to) = (vectors(r), to.wrapping_add(r * ldc));
                // SAFETY: a row of this part of C, 32 bf16 long.
                unsafe {
                    if parts == Parts::One && bias.is_none() {
                        // What tiles have summed is never below the normal numbers, which `beside` takes for 0.
                        let row = U::beside(low, high);
                        if past {
                            U::stream(row, to.cast());
                        } else {
                            row.store_ptr(to.cast());
                        }
                    } else {
                        let to = std::slice::from_raw_parts_mut(to, SIDE);
                        low.store_bf16(&mut to[..LANES]);
                        high.store_bf16(&mut to[LANES..]);
                    }
                }
            }
        } else {
            for (r, row) in sums.0.chunks_exact(SIDE).take(rows).enumerate() {
                // SAFETY: a row of this part of C.
                let to = unsafe { std::slice::from_raw_parts_mut(to.wrapping_add(r * ldc), cols) };
                round_row::<U::V>(to, &row[..cols]);
            }
        }
        return;
    }
    let c = block.c.wrapping_add(at);
    if !whole {
        for r in 0..rows {
            // SAFETY: a row of this part of C.
            unsafe { write_row(block, c.wrapping_add(r * ldc), j, cols, &vectors(r)) };
        }
    } else if block.c_far && (c as usize).is_multiple_of(64) && ldc.is_multiple_of(LANES) {
        for r in 0..SIDE {
            let ([low, high], to) = (vectors(r), c.wrapping_add(r * ldc));
            // SAFETY: a row of this part of C; all of them are aligned.
            unsafe {
                U::stream(low, to);
                U::stream(high, to.wrapping_add(LANES));
            }
        }
    } else {
        for r in 0..SIDE {
            let ([low, high], to) = (vectors(r), c.wrapping_add(r * ldc));
            // SAFETY: a row of this part of C.
            unsafe {
                low.store_ptr(to);
                high.store_ptr(to.wrapping_add(LANES));
            }
        }
    }
}

/// Sums anew, in f32, the elements whose row of A or column of B has a number that cannot be split.
///
/// # Safety
/// `rows` lanes of A from i on and `cols` of B from j on can be read.
#[cold]
unsafe fn mend(
    sums: &mut Sums,
    (in_a, in_b): (u32, u32),
    (a, i, rows): (&Source<Start<f32>>, usize, usize),
    (b, j, cols): (&Source<Start<f32>>, usize, usize),
) {
    let part = |of: &Source<Start<f32>>, first: usize, lanes: usize| Source {
        data: of.data.plus(first * of.lane),
        lanes,
        ..*of
    };
    let (k, (tall, wide)) = (a.k, tile_size::<f32>());
    let (for_a, for_b) = (room(rows, k, tall), room(cols, k, wide));
    scratch::with(for_a + for_b + SIDE * SIDE, |memory: &mut [f32]| {
        let (left, rest) = memory.split_at_mut(for_a);
        let (right, c) = rest.split_at_mut(for_b);
        // SAFETY: these lanes can be read, as the caller vouches; C has `rows` rows of SIDE elements.
        unsafe {
            pack::pack(left, part(a, i, rows), tall);
            pack::pack(right, part(b, j, cols), wide);
            micro::block(Block {
                a: left.as_ptr(),
                a_row: 1,
                a_col: tall,
                a_width: tall,
                a_panel: tall * k,
                b: right.as_ptr(),
                b_row: wide,
                b_width: wide,
                b_panel: wide * k,
                b_padded: true,
                b_far: false,
                c_far: false,
                c: c.as_mut_ptr(),
                rounded: None,
                ldc: SIDE,
                m: rows,
                n: cols,
                k,
                add: false,
                bias: None,
            });
        }
        for (r, c) in c.chunks_exact(SIDE).enumerate().take(rows) {
            for (col, &c) in c.iter().enumerate().take(cols) {
                if in_a >> r & 1 == 1 || in_b >> col & 1 == 1 {
                    sums.0[r * SIDE + col] = c;
                }
            }
        }
    });
}
