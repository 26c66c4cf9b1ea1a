//! The blocked product: tiles of C for the threads, blocks of A and B for the caches.

use super::arithmetic::Arithmetic;
use super::micro::Block;
use super::pack::{Operand, Source};
use super::{Elements, Factor, NB, PIECE, Product};
use crate::cpu::simd::{LANES, Real, Shared};
use crate::cpu::{scratch, threads};

/// Elements between two steps of k from which on they count as far apart: half a page.
const FAR: usize = 512;

/// Elements of A from which on half of that is far: more than a core's tables of pages reach, with B beside it.
const MANY_PAGES: usize = 1 << 20;

/// Rows so many elements apart, or a multiple, want the same places in a first-level cache.
const SAME_PLACE: usize = 1024;

/// Lines that such a cache keeps in one place.
const WAYS: usize = 8;

/// Elements of a matrix at most that is packed as a whole: 64 MiB.
const SHARED: usize = 1 << 24;

/// Columns of a piece when the whole of B is packed.
const PACK_LANES: usize = 256;

/// Elements of B that stay in the first-level cache as they lie.
const SMALL: usize = 1 << 13;

/// How C is cut into tiles, which does not change its bits.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    cols: usize,
    down: usize,
    across: usize,
}

impl Grid {
    /// Halves a side of the tile until there are enough tiles to go round: two a thread, since fewer tiles pack
    /// less, and as many for each, unless they are many. The longer side, in a large product.
    fn new<T: Real>(p: &Product<'_, T>, count: usize) -> Grid {
        let Product { m, n, k, by, .. } = *p;
        let tile = by.tile::<T>();
        let work = by.work((m, n, k.max(1))).saturating_mul(count);
        let threads = rayon::current_num_threads();
        let wanted =
            if threads > 1 { (work / PIECE).min(by.tiles_a_thread() * threads) } else { 1 };
        let most = by.largest_tile(k);
        let (mut down, mut across) = (m.div_ceil(most.0), n.div_ceil(most.1));
        loop {
            let rows = m.div_ceil(down).next_multiple_of(tile.0);
            let cols = n.div_ceil(across).next_multiple_of(tile.1);
            let grid = Grid { rows, cols, down: m.div_ceil(rows), across: n.div_ceil(cols) };
            let tiles = grid.down * grid.across * count;
            let fair = tiles.is_multiple_of(threads) || tiles >= 8 * threads || wanted < threads;
            let (split_rows, split_cols) = (rows > 4 * tile.0, cols > 2 * tile.1);
            if tiles >= wanted && fair || !(split_rows || split_cols) {
                return grid;
            }
            // Tiles side by side would each pack the same A.
            if by.in_tiles() && tiles >= wanted && split_rows {
                down += 1;
                continue;
            }
            // Where each tile packs its B, columns first: each is then packed once. But no sliver as the last tile.
            let half = n.div_ceil(2 * across).next_multiple_of(tile.1);
            let even = half * (2 * across - 1) + half / 2 < n;
            let cols_first = if work < by.packs_together_from() { even } else { cols > rows };
            if split_cols && (cols_first || !split_rows) {
                across *= 2;
            } else {
                down *= 2;
            }
        }
    }
}

/// Which operands are packed, and B whether once for all tiles.
#[derive(Clone, Copy)]
struct Plan {
    grid: Grid,
    /// Rows and columns of the micro-kernel's tile.
    tile: (usize, usize),
    pack_a: bool,
    pack_b: bool,
    share_b: bool,
}

impl Plan {
    fn new<T: Real>(p: &Product<'_, T>, count: usize) -> Plan {
        let tile = p.by.tile::<T>();
        let work = p.by.work((p.m, p.n, p.k.max(1)));
        let grid = Grid::new(p, count);
        let (rows, cols) = (grid.rows.min(p.m), grid.cols.min(p.n));
        // A enters element by element, so dense rows are as good as panels. More than a cache has
        // ways are not when all of them want the same places in it. Columns far apart are worse: each
        // step of k would meet another page, once for every panel of B.
        let pack_a = p.by.packs()
            || p.a.is_bf16()
            || match (p.a.row_stride, p.a.col_stride) {
                (_, 1) if tile.0 <= WAYS => false,
                (step, 1) => step % SAME_PLACE == 0 && cols > 4 * tile.1,
                (1, step) => {
                    let far = if p.m.saturating_mul(p.k) < MANY_PAGES { FAR } else { FAR / 2 };
                    step >= far && cols > 4 * tile.1
                }
                _ => true,
            };
        // B is packed unless few panels of A come by to use it, or it is close at hand anyway.
        let near = p.b.row_stride.saturating_mul(p.k) <= SMALL;
        let as_it_lies = p.b.col_stride == 1 && !p.b.is_bf16();
        let pack_b = p.by.packs() || !as_it_lies || rows > 4 * tile.0 && !near;
        let together =
            count == 1 && work >= p.by.packs_together_from() && p.n.saturating_mul(p.k) <= SHARED;
        Plan { grid, tile, pack_a, pack_b, share_b: pack_b && grid.down > 1 && together }
    }
}

/// The elements that `lanes` lanes, `k` deep, take in panels of `width`.
fn size(by: Arithmetic, lanes: usize, k: usize, width: usize) -> usize {
    lanes.div_ceil(width) * by.panel(width, k)
}

/// The room for them, so that what comes after is aligned to a vector.
fn room(by: Arithmetic, lanes: usize, k: usize, width: usize) -> usize {
    size(by, lanes, k, width).next_multiple_of(LANES)
}

/// Computes `count` products, side by side where they are worth it.
pub(super) fn run<'a, T: Real>(count: usize, item: &(impl Fn(usize) -> Product<'a, T> + Sync)) {
    let first = item(0);
    let Product { m, n, k, b, by, .. } = first;
    let plan = Plan::new(&first, count);
    let grid = plan.grid;
    let tiles = grid.down * grid.across;
    let work = by.work((m, n, k)).saturating_mul(count);
    let depth = by.depth(k);
    let shared =
        if plan.share_b { k.div_ceil(depth) * room(by, n, depth.min(k), plan.tile.1) } else { 0 };
    scratch::with(shared, |shared: &mut [T]| {
        if plan.share_b {
            pack_all(by, shared, b, (n, k), plan.tile.1);
        }
        let shared = &*shared;
        threads::for_each(count * tiles, if work < 2 * PIECE { 0 } else { usize::MAX }, |t| {
            let (i, j) = (t % tiles / grid.across * grid.rows, t % grid.across * grid.cols);
            let (rows, cols) = (grid.rows.min(m - i), grid.cols.min(n - j));
            part(&item(t / tiles), &plan, shared, (i, rows), (j, cols));
        });
    });
}

/// Packs the whole of B `[k, n]`, block of k after block of k, in pieces of some panels.
fn pack_all<T: Real>(
    by: Arithmetic,
    dst: &mut [T],
    b: Factor<'_, T>,
    (n, k): (usize, usize),
    width: usize,
) {
    let lanes = (PACK_LANES / width).max(1) * width;
    let pieces = n.div_ceil(lanes);
    let depth = by.depth(k);
    let block = room(by, n, depth.min(k), width);
    let out = Shared::new(dst);
    threads::for_each(pieces * k.div_ceil(depth), n.saturating_mul(k), |t| {
        let (from, first) = (t / pieces * depth, t % pieces * lanes);
        let data = b.data.start().plus(from * b.row_stride + first * b.col_stride);
        let (lane, step) = (b.col_stride, b.row_stride);
        let (lanes, k) = (lanes.min(n - first), depth.min(k - from));
        let at = t / pieces * block + first / width * by.panel(width, k);
        // SAFETY: pieces of a block lie behind each other, and these columns and k are inside the matrix, as
        // `product` has checked.
        unsafe {
            let dst = out.slice(at, size(by, lanes, k, width));
            by.pack(dst, Source { data, lane, step, lanes, k }, width, Operand::B);
        }
    });
}

/// One tile of C: rows `i..i + rows`, columns `j..j + cols`.
fn part<T: Real>(
    p: &Product<'_, T>,
    plan: &Plan,
    shared_b: &[T],
    (i, rows): (usize, usize),
    (j, cols): (usize, usize),
) {
    let Plan { tile, pack_a, pack_b, share_b, .. } = *plan;
    let by = p.by;
    let block_of_k = by.depth(p.k);
    let most = block_of_k.min(p.k);
    // Tiles read A where it lies whenever they can and it fills them.
    let here = if by.in_tiles() { rows.is_multiple_of(tile.0) } else { !pack_a };
    let as_it_lies = by.rows_of(&p.a, p.k).filter(|_| here);
    let a_room = if as_it_lies.is_none() { room(by, rows, most, tile.0) } else { 0 };
    let wide = by.packed_columns();
    let once = !p.accumulate && p.k <= block_of_k && p.then.is_none();
    // Sums for a C in bf16 stay here until they are complete: those of all columns, or with one block of k of the
    // few at work.
    let (sums_ld, sums_step) = if once { (NB, 0) } else { (cols.next_multiple_of(NB), 1) };
    // Tiles have complete sums at hand to round.
    let at_once = p.rounded.filter(|_| once && by.in_tiles());
    let c_far = once && p.m.saturating_mul(p.n) >= by.far_result();
    let sums_room = if p.rounded.is_some() && at_once.is_none() { rows * sums_ld } else { 0 };
    let b_room = if pack_b && !share_b { room(by, cols.min(wide), most, tile.1) } else { 0 };
    scratch::with(a_room + b_room + sums_room, |packed: &mut [T]| {
        let (packed_a, packed) = packed.split_at_mut(a_room);
        let (packed_b, sums) = packed.split_at_mut(b_room);
        let mut from = 0;
        // At least once, so that k = 0 writes zeros.
        while from == 0 || from < p.k {
            let depth = most.min(p.k - from);
            let panels = (by.panel(tile.0, depth), by.panel(tile.1, depth));
            let a = p.a.data.start().plus(i * p.a.row_stride + from * p.a.col_stride);
            let (a_lane, a_step) = (p.a.row_stride, p.a.col_stride);
            let of_a = Source { data: a, lane: a_lane, step: a_step, lanes: rows, k: depth };
            if a_room > 0 {
                // SAFETY: these rows and k are inside A, as `product` has checked.
                unsafe { by.pack(packed_a, of_a, tile.0, Operand::A) };
            }
            let in_panels = (packed_a.as_ptr(), by.packed_rows(tile.0));
            let (a, (a_row, a_col)) = as_it_lies.map_or(in_panels, |rows| (a.address(), rows));
            let piece = if p.then.is_none() && sums_room == 0 { wide } else { NB };
            for at in (0..cols).step_by(piece) {
                let width = piece.min(cols - at);
                let place = p.at + i * p.ldc + j + at;
                let rounded = at_once.map(|c| c.pointer(place));
                let (c, ldc) = match (p.rounded, rounded) {
                    (None, _) => (p.c.pointer(place), p.ldc),
                    (_, Some(_)) => (std::ptr::null_mut(), p.ldc),
                    _ => (sums[at * sums_step..].as_mut_ptr(), sums_ld),
                };
                let j = j + at;
                let b = p.b.data.start().plus(from * p.b.row_stride + j * p.b.col_stride);
                let (b_lane, b_step) = (p.b.col_stride, p.b.row_stride);
                let of_b = Source { data: b, lane: b_lane, step: b_step, lanes: width, k: depth };
                if b_room > 0 && at % wide == 0 {
                    let lanes = wide.min(cols - at);
                    // SAFETY: these columns and k are inside B, as `product` has checked.
                    unsafe { by.pack(packed_b, Source { lanes, ..of_b }, tile.1, Operand::B) };
                }
                let b = if share_b {
                    let block = room(by, p.n, most, tile.1);
                    shared_b[from / block_of_k * block + j / tile.1 * panels.1..].as_ptr()
                } else if pack_b {
                    packed_b[at % wide / tile.1 * panels.1..].as_ptr()
                } else {
                    b.own()
                };
                let last = from + depth == p.k;
                let operands = Block {
                    a,
                    a_row,
                    a_col,
                    a_width: tile.0,
                    a_panel: if a_room > 0 { panels.0 } else { tile.0 * a_row },
                    b,
                    b_row: if pack_b { tile.1 } else { b_step },
                    b_width: tile.1,
                    b_panel: if pack_b { panels.1 } else { tile.1 },
                    b_padded: pack_b,
                    b_far: share_b,
                    c_far,
                    c,
                    rounded,
                    ldc,
                    m: rows,
                    n: width,
                    k: depth,
                    add: p.accumulate || from > 0,
                    bias: p.bias.filter(|_| last).map(|bias| &bias[j..j + width]),
                };
                // SAFETY: A and B are the checked matrices or panels packed before; C's rows and columns
                // are inside its slice, and no other task has this tile.
                unsafe { by.block(operands, of_a, of_b) };
                if last && sums_room > 0 {
                    p.finish((i, rows), (j, width), &mut sums[at * sums_step..], sums_ld);
                } else if let Some(then) = p.then.filter(|_| last) {
                    then(p.piece((i, rows), (j, width)));
                }
            }
            from += block_of_k;
        }
    });
}

/// The product in `f64`, which only checks gradients: matrixmultiply's kernel, one thread.
pub(super) fn double<T: Real>(p: &Product<'_, T>) {
    let (m, n, k) = (p.m, p.n, p.k);
    let strides = |row: usize, col: usize| (row as isize, col as isize);
    let (a_row, a_col) = strides(p.a.row_stride, p.a.col_stride);
    let (b_row, b_col) = strides(p.b.row_stride, p.b.col_stride);
    let (Elements::Own(a), Elements::Own(b)) = (p.a.data, p.b.data) else {
        unreachable!("f64 is multiplied by f64")
    };
    let (a, b): (&[f64], &[f64]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
    let c = p.c.pointer(p.at);
    let beta = if p.accumulate { 1.0 } else { 0.0 };
    // SAFETY: `product` has checked all three matrices against their slices, and T is f64 (the casts
    // of A and B would have panicked otherwise).
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.cast::<f64>());
        let ldc = p.ldc as isize;
        matrixmultiply::dgemm(m, k, n, 1.0, a, a_row, a_col, b, b_row, b_col, beta, c, ldc, 1);
    }
    if let Some(bias) = p.bias {
        for i in 0..m {
            // SAFETY: row i of C, which nobody else touches.
            let row = unsafe { p.c.slice(p.at + i * p.ldc, n) };
            row.iter_mut().zip(bias).for_each(|(x, &b)| *x = T::from_f64(x.to_f64() + b.to_f64()));
        }
    }
}
