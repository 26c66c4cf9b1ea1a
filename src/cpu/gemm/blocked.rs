//! The blocked product: tiles of C for the threads, blocks of A and B for the caches.

use super::micro::{Block, block, tile_size};
use super::pack::{Source, pack, room};
use super::{Epilogue, KC, Product};
use crate::cpu::simd::Real;
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

/// Computes `count` products, side by side where they are worth it.
pub(super) fn run<'a, T: Real>(count: usize, item: &(impl Fn(usize) -> Product<'a, T> + Sync)) {
    let Product { m, n, k, .. } = item(0);
    let tile = tile_size::<T>();
    let grid = Grid::new(m, n, k, count, tile);
    let tiles = grid.down * grid.across;
    let work = m.saturating_mul(n).saturating_mul(k).saturating_mul(count);
    threads::for_each(count * tiles, if work < 2 * PIECE { 0 } else { usize::MAX }, |t| {
        let (i, j) = (t % tiles / grid.across * grid.rows, t % grid.across * grid.cols);
        let (rows, cols) = (grid.rows.min(m - i), grid.cols.min(n - j));
        part(&item(t / tiles), tile, (i, rows), (j, cols));
    });
}

/// One tile of C: rows `i..i + rows`, columns `j..j + cols`.
fn part<T: Real>(
    p: &Product<'_, T>,
    tile: (usize, usize),
    (i, rows): (usize, usize),
    (j, cols): (usize, usize),
) {
    // A enters element by element, so dense rows are as good as panels. Columns far apart are not: each
    // step of k would meet another page, once for every panel of B.
    let pack_a = match (p.a.row_stride, p.a.col_stride) {
        (_, 1) => false,
        (1, step) => step >= FAR && cols > 4 * tile.1,
        _ => true,
    };
    // B is packed unless few panels of A come by to use it.
    let pack_b = p.b.col_stride != 1 || rows > 4 * tile.0;
    let depth = KC.min(p.k);
    let a_room = if pack_a { room(rows, depth, tile.0) } else { 0 };
    let b_room = if pack_b { room(cols.min(NB), depth, tile.1) } else { 0 };
    scratch::with(a_room + b_room, |packed: &mut [T]| {
        let (packed_a, packed_b) = packed.split_at_mut(a_room);
        let mut from = 0;
        // At least once, so that k = 0 writes zeros.
        while from == 0 || from < p.k {
            let depth = KC.min(p.k - from);
            let a = p.a.data.as_ptr().wrapping_add(i * p.a.row_stride + from * p.a.col_stride);
            let (a_lane, a_step) = (p.a.row_stride, p.a.col_stride);
            if pack_a {
                let source = Source { data: a, lane: a_lane, step: a_step, lanes: rows, k: depth };
                // SAFETY: these rows and k are inside A, as `product` has checked.
                unsafe { pack(packed_a, source, tile.0) };
            }
            for at in (0..cols).step_by(NB) {
                let width = NB.min(cols - at);
                let j = j + at;
                let b = p.b.data.as_ptr().wrapping_add(from * p.b.row_stride + j * p.b.col_stride);
                let (b_lane, b_step) = (p.b.col_stride, p.b.row_stride);
                if pack_b {
                    let source =
                        Source { data: b, lane: b_lane, step: b_step, lanes: width, k: depth };
                    // SAFETY: these columns and k are inside B, as `product` has checked.
                    unsafe { pack(packed_b, source, tile.1) };
                }
                let last = from + depth == p.k;
                let operands = Block {
                    a: if pack_a { packed_a.as_ptr() } else { a },
                    a_row: if pack_a { 1 } else { a_lane },
                    a_col: if pack_a { tile.0 } else { a_step },
                    a_width: tile.0,
                    a_panel: if pack_a { tile.0 * depth } else { tile.0 * a_lane },
                    b: if pack_b { packed_b.as_ptr() } else { b },
                    b_row: if pack_b { tile.1 } else { b_step },
                    b_width: tile.1,
                    b_panel: if pack_b { tile.1 * depth } else { tile.1 },
                    b_padded: pack_b,
                    c: p.c.pointer(p.at + i * p.ldc + j),
                    ldc: p.ldc,
                    m: rows,
                    n: width,
                    k: depth,
                    add: p.accumulate || from > 0,
                    epilogue: if last { p.epilogue.columns(j, width) } else { Epilogue::None },
                };
                // SAFETY: A and B are the checked matrices or panels packed just now; C's rows and
                // columns are inside its slice, and no other task has this tile.
                unsafe { block(operands) };
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
