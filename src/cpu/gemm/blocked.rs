//! The blocked product: tiles of C for the threads, blocks of A and B for the caches.

use super::micro::{Block, block, tile_size};
use super::pack::{Source, pack, room, size};
use super::{Epilogue, KC, Mat, Product, bf16};
use crate::cpu::simd::{Real, Shared};
use crate::cpu::{scratch, threads};

/// Columns of B packed at a time: with KC = 256, 128 KiB.
const NB: usize = 128;

/// Rows of a thread's tile at most: with KC = 256, half a megabyte of packed A.
const TILE_ROWS: usize = 504;

/// Columns of a thread's tile at most.
const TILE_COLS: usize = 1024;

/// Multiply-adds that a thread should get at once, some 10 µs: less costs more to hand over than it
/// takes. A product of less than two such pieces stays on its thread.
const PIECE: usize = 1 << 20;

/// Elements between two steps of k from which on they count as far apart: half a page.
const FAR: usize = 512;

/// Elements of a matrix at most that is packed as a whole: 64 MiB.
const SHARED: usize = 1 << 24;

/// Lanes of a piece when a whole matrix is packed.
const PACK_LANES: usize = 256;

/// How C is cut into tiles: a function of the shape alone.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    cols: usize,
    down: usize,
    across: usize,
}

impl Grid {
    /// Halves the longer side of the tile until there are enough tiles to go round.
    fn new(m: usize, n: usize, k: usize, count: usize, tile: (usize, usize)) -> Grid {
        let work = m.saturating_mul(n).saturating_mul(k.max(1)).saturating_mul(count);
        let wanted = (work / PIECE).min(16).div_ceil(count);
        let (mut down, mut across) = (m.div_ceil(TILE_ROWS), n.div_ceil(TILE_COLS));
        loop {
            let rows = m.div_ceil(down).next_multiple_of(tile.0);
            let cols = n.div_ceil(across).next_multiple_of(tile.1);
            let (split_rows, split_cols) = (rows > 4 * tile.0, cols > 2 * tile.1);
            if down * across >= wanted || !(split_rows || split_cols) {
                return Grid { rows, cols, down: m.div_ceil(rows), across: n.div_ceil(cols) };
            }
            if split_rows && (rows >= cols || !split_cols) {
                down *= 2;
            } else {
                across *= 2;
            }
        }
    }
}

/// Which operands are packed, and whether once for all tiles.
#[derive(Clone, Copy)]
struct Plan {
    grid: Grid,
    /// Rows and columns of the micro-kernel's tile.
    tile: (usize, usize),
    pack_a: bool,
    pack_b: bool,
    share_a: bool,
    share_b: bool,
}

impl Plan {
    fn new<T: Real>(p: &Product<'_, T>, count: usize) -> Plan {
        let tile = tile_size::<T>();
        let grid = Grid::new(p.m, p.n, p.k, count, tile);
        let (rows, cols) = (grid.rows.min(p.m), grid.cols.min(p.n));
        // A enters element by element, so dense rows are as good as panels. Columns far apart are not: each
        // step of k would meet another page, once for every panel of B.
        let pack_a = p.pairs
            || match (p.a.row_stride, p.a.col_stride) {
                (_, 1) => false,
                (1, step) => step >= FAR && cols > 4 * tile.1,
                _ => true,
            };
        // B is packed unless few panels of A come by to use it.
        let pack_b = p.pairs || p.b.col_stride != 1 || rows > 4 * tile.0;
        let fits = |lanes: usize| lanes.saturating_mul(p.k) <= SHARED;
        Plan {
            grid,
            tile,
            pack_a,
            pack_b,
            share_a: pack_a && grid.across > 1 && count == 1 && fits(p.m),
            share_b: pack_b && grid.down > 1 && count == 1 && fits(p.n),
        }
    }
}

/// How deep the panels of `k` are.
fn deep(k: usize, pairs: bool) -> usize {
    if pairs { k.div_ceil(2) } else { k }
}

/// Computes `count` products, side by side where they are worth it.
pub(super) fn run<'a, T: Real>(count: usize, item: &(impl Fn(usize) -> Product<'a, T> + Sync)) {
    let first = item(0);
    let Product { m, n, k, a, b, pairs, .. } = first;
    let plan = Plan::new(&first, count);
    let grid = plan.grid;
    let tiles = grid.down * grid.across;
    let work = m.saturating_mul(n).saturating_mul(k).saturating_mul(count);
    let room = |share: bool, lanes: usize, width: usize| {
        if share { k.div_ceil(KC) * room(lanes, deep(KC.min(k), pairs), width) } else { 0 }
    };
    let (a_room, b_room) = (room(plan.share_a, m, plan.tile.0), room(plan.share_b, n, plan.tile.1));
    scratch::with(a_room + b_room, |shared: &mut [T]| {
        let (shared_a, shared_b) = shared.split_at_mut(a_room);
        if plan.share_a {
            pack_all(shared_a, a, (m, k), plan.tile.0, pairs);
        }
        if plan.share_b {
            let turned = Mat { row_stride: b.col_stride, col_stride: b.row_stride, ..b };
            pack_all(shared_b, turned, (n, k), plan.tile.1, pairs);
        }
        let shared = (&*shared_a, &*shared_b);
        threads::for_each(count * tiles, if work < 2 * PIECE { 0 } else { usize::MAX }, |t| {
            let (i, j) = (t % tiles / grid.across * grid.rows, t % grid.across * grid.cols);
            let (rows, cols) = (grid.rows.min(m - i), grid.cols.min(n - j));
            part(&item(t / tiles), &plan, shared, (i, rows), (j, cols));
        });
    });
}

/// Packs the rows of a whole matrix, block of k after block of k, in pieces of some panels.
fn pack_all<T: Real>(
    dst: &mut [T],
    x: Mat<'_, T>,
    (rows, k): (usize, usize),
    width: usize,
    pairs: bool,
) {
    let lanes = (PACK_LANES / width).max(1) * width;
    let pieces = rows.div_ceil(lanes);
    let block = room(rows, deep(KC.min(k), pairs), width);
    let out = Shared::new(dst);
    threads::for_each(pieces * k.div_ceil(KC), rows.saturating_mul(k), |t| {
        let (from, first) = (t / pieces * KC, t % pieces * lanes);
        let data = x.data.as_ptr().wrapping_add(first * x.row_stride + from * x.col_stride);
        let (lane, step) = (x.row_stride, x.col_stride);
        let (lanes, k) = (lanes.min(rows - first), KC.min(k - from));
        let (source, depth) = (Source { data, lane, step, lanes, k }, deep(k, pairs));
        // SAFETY: pieces of a block lie behind each other, and these rows and k are inside the matrix, as
        // `product` has checked.
        unsafe {
            let dst = out.slice(t / pieces * block + first * depth, size(lanes, depth, width));
            pack_part(dst, source, width, pairs);
        }
    });
}

/// Packs lanes of a block of k.
///
/// # Safety
/// They can be read; with `pairs` the machine has products of bf16.
unsafe fn pack_part<T: Real>(dst: &mut [T], source: Source<T>, width: usize, pairs: bool) {
    // SAFETY: handed through.
    unsafe {
        if pairs {
            bf16::pack(dst, source, width);
        } else {
            pack(dst, source, width);
        }
    }
}

/// One tile of C: rows `i..i + rows`, columns `j..j + cols`.
fn part<T: Real>(
    p: &Product<'_, T>,
    plan: &Plan,
    (shared_a, shared_b): (&[T], &[T]),
    (i, rows): (usize, usize),
    (j, cols): (usize, usize),
) {
    let Plan { tile, pack_a, pack_b, share_a, share_b, .. } = *plan;
    let most = deep(KC.min(p.k), p.pairs);
    let a_room = if pack_a && !share_a { room(rows, most, tile.0) } else { 0 };
    let b_room = if pack_b && !share_b { room(cols.min(NB), most, tile.1) } else { 0 };
    scratch::with(a_room + b_room, |packed: &mut [T]| {
        let (packed_a, packed_b) = packed.split_at_mut(a_room);
        let mut from = 0;
        // At least once, so that k = 0 writes zeros.
        while from == 0 || from < p.k {
            let depth = KC.min(p.k - from);
            let steps = deep(depth, p.pairs);
            let a = p.a.data.as_ptr().wrapping_add(i * p.a.row_stride + from * p.a.col_stride);
            let (a_lane, a_step) = (p.a.row_stride, p.a.col_stride);
            if a_room > 0 {
                let source = Source { data: a, lane: a_lane, step: a_step, lanes: rows, k: depth };
                // SAFETY: these rows and k are inside A, as `product` has checked.
                unsafe { pack_part(packed_a, source, tile.0, p.pairs) };
            }
            let a = if share_a {
                let block = room(p.m, most, tile.0);
                shared_a[from / KC * block + i * steps..].as_ptr()
            } else if pack_a {
                packed_a.as_ptr()
            } else {
                a
            };
            for at in (0..cols).step_by(NB) {
                let width = NB.min(cols - at);
                let j = j + at;
                let b = p.b.data.as_ptr().wrapping_add(from * p.b.row_stride + j * p.b.col_stride);
                let (b_lane, b_step) = (p.b.col_stride, p.b.row_stride);
                if b_room > 0 {
                    let source =
                        Source { data: b, lane: b_lane, step: b_step, lanes: width, k: depth };
                    // SAFETY: these columns and k are inside B, as `product` has checked.
                    unsafe { pack_part(packed_b, source, tile.1, p.pairs) };
                }
                let b = if share_b {
                    let block = room(p.n, most, tile.1);
                    shared_b[from / KC * block + j * steps..].as_ptr()
                } else if pack_b {
                    packed_b.as_ptr()
                } else {
                    b
                };
                let last = from + depth == p.k;
                let operands = Block {
                    a,
                    a_row: if pack_a { 1 } else { a_lane },
                    a_col: if pack_a { tile.0 } else { a_step },
                    a_width: tile.0,
                    a_panel: if pack_a { tile.0 * steps } else { tile.0 * a_lane },
                    b,
                    b_row: if pack_b { tile.1 } else { b_step },
                    b_width: tile.1,
                    b_panel: if pack_b { tile.1 * steps } else { tile.1 },
                    b_padded: pack_b,
                    c: p.c.pointer(p.at + i * p.ldc + j),
                    ldc: p.ldc,
                    m: rows,
                    n: width,
                    k: steps,
                    add: p.accumulate || from > 0,
                    epilogue: if last { p.epilogue.columns(j, width) } else { Epilogue::None },
                };
                // SAFETY: A and B are the checked matrices or panels packed before; C's rows and columns
                // are inside its slice, and no other task has this tile.
                unsafe {
                    if p.pairs {
                        bf16::block(operands);
                    } else {
                        block(operands);
                    }
                }
            }
            from += KC;
        }
    });
}

/// The product in `f64`, which only checks gradients: matrixmultiply's kernel, one thread.
pub(super) fn double<T: Real>(p: &Product<'_, T>) {
    let (m, n, k) = (p.m, p.n, p.k);
    let strides = |row: usize, col: usize| (row as isize, col as isize);
    let (a_row, a_col) = strides(p.a.row_stride, p.a.col_stride);
    let (b_row, b_col) = strides(p.b.row_stride, p.b.col_stride);
    let a: &[f64] = bytemuck::cast_slice(p.a.data);
    let b: &[f64] = bytemuck::cast_slice(p.b.data);
    let c = p.c.pointer(p.at);
    let beta = if p.accumulate { 1.0 } else { 0.0 };
    // SAFETY: `product` has checked all three matrices against their slices, and T is f64 (the casts
    // of A and B would have panicked otherwise).
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.cast::<f64>());
        let ldc = p.ldc as isize;
        matrixmultiply::dgemm(m, k, n, 1.0, a, a_row, a_col, b, b_row, b_col, beta, c, ldc, 1);
    }
    if let Epilogue::Bias(bias) = p.epilogue {
        for i in 0..m {
            // SAFETY: row i of C, which nobody else touches.
            let row = unsafe { p.c.slice(p.at + i * p.ldc, n) };
            row.iter_mut().zip(bias).for_each(|(x, &b)| *x = T::from_f64(x.to_f64() + b.to_f64()));
        }
    }
}
