//! Packing: f32, rounded or split to bf16, in squares of 16 lanes × 32 k.

use super::super::factor::{Start, stored};
use super::super::pack::{Operand, Source};
use super::{MARGIN, Parts, SIDE, STEP, TILE, Unit, panel};
use crate::cpu::simd::{LANES, Stored, Vector, inlined};

/// Bytes from which on rows share hardly a page of memory.
const FAR_ROWS: usize = 2048;

/// Above this a number, rounded to bf16, might be infinite. (The largest bf16 is 3.3895e38.)
const SPLITTABLE: f32 = 3.38e38;

/// [`pack`](super::Tiles::pack) on one kind of tiles.
///
/// # Safety
/// All of the source can be read.
#[inline(always)]
pub(super) unsafe fn pack_for<U: Unit>(
    dst: &mut [f32],
    source: Source<Start<f32>>,
    operand: Operand,
    parts: Parts,
) {
    // SAFETY: handed through.
    stored!(source, source => unsafe { pack_from::<U, _>(dst, source, operand, parts) });
}

/// [`pack_for`] by the type of the elements.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn pack_from<U: Unit, S: Stored<f32>>(
    dst: &mut [f32],
    source: Source<*const S>,
    operand: Operand,
    parts: Parts,
) {
    let (size, steps) = (panel(parts, source.k), source.k.div_ceil(STEP));
    let panels = source.lanes.div_ceil(SIDE);
    assert!(dst.len() >= panels * size, "panels need more room");
    // Rows on pages of their own come sooner in long pieces of few than in short ones of many; for A, which then is turned.
    let by_row =
        operand == Operand::A && source.lane == 1 && source.step * size_of::<S>() >= FAR_ROWS;
    for t in 0..panels * steps {
        // Along the rows of the source: lane after lane where they lie side by side.
        let (p, step) =
            if source.lane == 1 { (t % panels, t / panels) } else { (t / steps, t % steps) };
        if by_row {
            // Of the k of the next step some rows, whole.
            let next = (step + 1) * STEP..source.k.min((step + 2) * STEP);
            for k in next.skip(p * STEP / panels).take((p + 1) * STEP / panels - p * STEP / panels)
            {
                let row = source.data.wrapping_add(k * source.step);
                for lane in (0..source.lanes).step_by(64 / size_of::<S>()) {
                    U::V::prefetch_far(row.wrapping_add(lane).cast());
                }
            }
        }
        let panel = &mut dst[p * size..(p + 1) * size];
        let mut strange = if step == 0 { 0 } else { panel[size - MARGIN].to_bits() };
        for half in 0..2 {
            let (first, from) = (p * SIDE + half * LANES, step * STEP);
            let square = Source {
                data: source.data.wrapping_add(first * source.lane + from * source.step),
                lanes: source.lanes.saturating_sub(first).min(LANES),
                k: STEP.min(source.k - from),
                ..source
            };
            let at = (step * parts as usize * 2 + half) * TILE;
            // SAFETY: these lanes and k belong to the source.
            let found = unsafe { tile::<U, S>(&mut panel[at..], square, operand, parts, by_row) };
            strange |= found << (half * LANES);
        }
        panel[size - MARGIN] = f32::from_bits(strange);
    }
}

/// Splits 16 lanes × 32 k into a tile a part, 2 [`TILE`]s apart. Returns a bit for each lane with a number that
/// cannot be split.
///
/// # Safety
/// These lanes and k can be read.
#[inline(always)]
unsafe fn tile<U: Unit, S: Stored<f32>>(
    dst: &mut [f32],
    square: Source<*const S>,
    operand: Operand,
    parts: Parts,
    by_row: bool,
) -> u32 {
    let along_k = square.step == 1 && square.lane != 1;
    // Row i of a square is a lane with its pairs of k, or a pair of k with its lanes. A wants the former, B the latter.
    let turn = along_k == (operand == Operand::B);
    let whole = square.lanes == LANES && square.k == STEP;
    if parts == Parts::One {
        let read = inlined(
            #[inline(always)]
            // SAFETY: handed through.
            |i: usize, whole: bool| unsafe {
                if S::IS_BF16 && whole && along_k {
                    // As it lies.
                    let lane = square.data.wrapping_add(i * square.lane);
                    U::V::prefetch(lane.wrapping_add(STEP).cast());
                    return U::V::load_ptr(lane.cast());
                }
                if S::IS_BF16 && whole && square.lane == 1 {
                    let low = square.data.wrapping_add(2 * i * square.step);
                    if !by_row {
                        U::V::prefetch_far(low.wrapping_add(STEP * square.step).cast());
                        U::V::prefetch_far(low.wrapping_add((STEP + 1) * square.step).cast());
                    }
                    return U::pairs(low.cast(), low.wrapping_add(square.step).cast());
                }
                let (low, high) = two_rows::<U, S>(&square, i, along_k, whole, by_row);
                if along_k { U::beside(low, high) } else { U::between(low, high) }
            },
        );
        // The same twice: most squares are whole, and need not be asked row by row.
        let mut rows = [U::V::zero(); LANES];
        if whole {
            for i in 0..LANES {
                rows[i] = read(i, true);
            }
        } else {
            for i in 0..LANES {
                rows[i] = read(i, false);
            }
        }
        if turn {
            U::V::transpose(&mut rows);
        }
        for i in 0..LANES {
            rows[i].store(&mut dst[i * LANES..]);
        }
        return 0;
    }
    let (zero, one) = (U::V::zero(), U::V::splat(1.0));
    let mut strange = zero;
    for i in 0..LANES {
        // SAFETY: handed through.
        let (mut low, mut high) = unsafe { two_rows::<U, S>(&square, i, along_k, whole, by_row) };
        for x in [low, high] {
            let fine = x.abs().le(U::V::splat(SPLITTABLE));
            strange = strange.max(U::V::select(fine, zero, one));
        }
        for part in 0..parts as usize {
            if part > 0 {
                (low, high) = (low.sub(U::round(low)), high.sub(U::round(high)));
            }
            let both = if along_k { U::beside(low, high) } else { U::between(low, high) };
            both.store(&mut dst[part * 2 * TILE + i * LANES..]);
        }
    }
    if turn {
        for part in 0..parts as usize {
            let tile = &mut dst[part * 2 * TILE..][..TILE];
            let mut rows = [zero; LANES];
            for i in 0..LANES {
                rows[i] = U::V::load(&tile[i * LANES..]);
            }
            U::V::transpose(&mut rows);
            for i in 0..LANES {
                rows[i].store(&mut tile[i * LANES..]);
            }
        }
    }
    if U::V::any(zero.lt(strange)) {
        // SAFETY: handed through.
        return unsafe { strangers(&square) };
    }
    0
}

/// Row i of a square before it is rounded: 32 k of lane i, or sixteen lanes at 2i and at 2i + 1.
///
/// # Safety
/// The square can be read; `whole`: it has all sixteen lanes and 32 k.
#[inline(always)]
unsafe fn two_rows<U: Unit, S: Stored<f32>>(
    square: &Source<*const S>,
    i: usize,
    along_k: bool,
    whole: bool,
    by_row: bool,
) -> (U::V, U::V) {
    // SAFETY: handed through.
    unsafe {
        if whole && along_k {
            let data = square.data.wrapping_add(i * square.lane);
            // The next k of this lane: sixteen lanes are more streams than the processor follows.
            U::V::prefetch(data.wrapping_add(STEP).cast());
            U::V::prefetch(data.wrapping_add(STEP + LANES).cast());
            (S::load(data), S::load(data.wrapping_add(LANES)))
        } else if whole && square.lane == 1 {
            let (data, step) = (square.data.wrapping_add(2 * i * square.step), square.step);
            if !by_row {
                U::V::prefetch_far(data.wrapping_add(STEP * step).cast());
                U::V::prefetch_far(data.wrapping_add((STEP + 1) * step).cast());
            }
            (S::load(data), S::load(data.wrapping_add(step)))
        } else if along_k {
            (row::<U, S>(square, i, 0), row::<U, S>(square, i, LANES))
        } else {
            (step_of::<U, S>(square, 2 * i), step_of::<U, S>(square, 2 * i + 1))
        }
    }
}

/// Sixteen k of lane `lane`, from k = `from` on; they lie side by side.
///
/// # Safety
/// The square can be read.
#[inline(always)]
unsafe fn row<U: Unit, S: Stored<f32>>(
    square: &Source<*const S>,
    lane: usize,
    from: usize,
) -> U::V {
    if lane >= square.lanes || from >= square.k {
        return U::V::zero();
    }
    let data = square.data.wrapping_add(lane * square.lane + from);
    // SAFETY: these k follow each other.
    unsafe {
        if square.k - from >= LANES { S::load(data) } else { S::load_part(data, square.k - from) }
    }
}

/// The lanes at k.
///
/// # Safety
/// The square can be read.
#[inline(always)]
unsafe fn step_of<U: Unit, S: Stored<f32>>(square: &Source<*const S>, k: usize) -> U::V {
    if square.lanes == 0 || k >= square.k {
        return U::V::zero();
    }
    let data = square.data.wrapping_add(k * square.step);
    if square.lane == 1 {
        // SAFETY: the lanes lie side by side.
        return unsafe {
            if square.lanes == LANES { S::load(data) } else { S::load_part(data, square.lanes) }
        };
    }
    let mut lanes = [0.0; LANES];
    for (lane, x) in lanes.iter_mut().enumerate().take(square.lanes) {
        // SAFETY: a lane of the square.
        *x = unsafe { *data.add(lane * square.lane) }.widen();
    }
    U::V::from_array(lanes)
}

/// A bit for each lane of the square with a number that cannot be split.
///
/// # Safety
/// The square can be read.
#[cold]
unsafe fn strangers<S: Stored<f32>>(square: &Source<*const S>) -> u32 {
    let mut all = 0;
    for (lane, k) in (0..square.lanes).flat_map(|lane| (0..square.k).map(move |k| (lane, k))) {
        // SAFETY: a lane and a k of the square.
        let x = unsafe { *square.data.add(lane * square.lane + k * square.step) }.widen();
        if x.is_nan() || x.abs() > SPLITTABLE {
            all |= 1 << lane;
        }
    }
    all
}
