//! The micro-kernel: one tile of C in registers.
//!
//! A tile has R rows of N vectors. For each k one row of B is loaded (N vectors), and for each of
//! the R rows one element of A is spread over a vector and multiplied into the row's accumulators:
//!
//! ```text
//!              b₀ ─────── b₁ ───────      N vectors of row k of B
//!     a₀  ·  [ c₀₀ ────── c₀₁ ────── ]
//!     a₁  ·  [ c₁₀ ────── c₁₁ ────── ]    R × N accumulators, all in registers
//!     ⋮              ⋮
//! ```
//!
//! A enters through single elements only. So A and Aᵀ cost the same here, and A may be read where it
//! lies; B has to be dense along a row.

use super::Epilogue;
use crate::cpu::simd::{Kernel, LANES, Real, Vector};

/// Where the tiles of a product lie. Everything but `c` is read only.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, T> {
    /// Row 0, column 0 of A.
    pub(super) a: *const T,
    /// From one row of A to the next, within a panel.
    pub(super) a_row: usize,
    /// From one column of A (one k) to the next.
    pub(super) a_col: usize,
    /// Rows of a panel of A.
    pub(super) a_width: usize,
    /// From one panel of A to the next.
    pub(super) a_panel: usize,
    /// Row 0, column 0 of B.
    pub(super) b: *const T,
    /// From one row of B (one k) to the next.
    pub(super) b_row: usize,
    /// Columns of a panel of B.
    pub(super) b_width: usize,
    /// From one panel of B to the next.
    pub(super) b_panel: usize,
    /// Whether the last panel of B is filled up to whole vectors, so that it may be read past column n.
    pub(super) b_padded: bool,
    /// Row 0, column 0 of C.
    pub(super) c: *mut T,
    /// From one row of C to the next.
    pub(super) ldc: usize,
    /// Rows of C.
    pub(super) m: usize,
    /// Columns of C.
    pub(super) n: usize,
    /// The length of the sums: one unbroken chain.
    pub(super) k: usize,
    /// C += A B rather than C = A B.
    pub(super) add: bool,
    /// What is done to C on the way out; its slices begin at column 0 of this block.
    pub(super) epilogue: Epilogue<'a, T>,
}

/// Rows and columns of a tile on the instruction set in force.
pub(super) fn tile_size<T: Real>() -> (usize, usize) {
    struct Size;
    impl<T: Real> Kernel<T> for Size {
        type Output = (usize, usize);
        #[inline(always)]
        fn run<V: Vector<Elem = T>>(self) -> (usize, usize) {
            (V::TILE.0, V::TILE.1 * LANES)
        }
    }
    T::dispatch(Size)
}

/// Computes a block tile by tile: panels of B outside, so that one stays in the first-level cache
/// while all of A passes.
///
/// # Safety
/// The pointers and strides stay within memory that is valid for reading (`a`, `b`) and writing (`c`)
/// for m rows, n columns and k; with `b_padded` B can be read up to a whole number of vectors. Nobody
/// else touches the elements of C meanwhile. Slices of the epilogue have at least n elements.
#[inline(never)] // the tiles are compiled once
pub(super) unsafe fn block<T: Real>(block: Block<'_, T>) {
    T::dispatch(Run(block));
}

struct Run<'a, T>(Block<'a, T>);

impl<T: Real> Kernel<T> for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let block = self.0;
        let mut j = 0;
        for p in 0..block.n.div_ceil(block.b_width) {
            let end = block.n.min((p + 1) * block.b_width);
            let mut b = block.b.wrapping_add(p * block.b_panel);
            // Whole tiles, and the ragged right edge in single vectors where B ends with it.
            while j < end {
                let whole = V::TILE.1 * LANES;
                let tile = if end - j >= whole || block.b_padded { whole } else { LANES };
                let cols = tile.min(end - j);
                column::<V>(&block, b, j, cols);
                b = b.wrapping_add(cols);
                j += cols;
            }
        }
    }
}

/// All tiles of `cols` columns of C from column j on; `b` is their first column in B.
#[inline(always)]
fn column<V: Vector>(block: &Block<V::Elem>, b: *const V::Elem, j: usize, cols: usize) {
    let wide = V::TILE.1 > 1 && cols > LANES;
    let part = cols < LANES && !block.b_padded;
    let unit = block.a_row == 1;
    let mut i = 0;
    for p in 0..block.m.div_ceil(block.a_width) {
        let end = block.m.min((p + 1) * block.a_width);
        let mut a = block.a.wrapping_add(p * block.a_panel);
        while i < end {
            let rows = V::TILE.0.min(end - i);
            // SAFETY: the caller of `block` vouches for all addresses of the block; this tile is inside
            // it: rows i..i + rows, columns j..j + cols, and B is read past them only if padded.
            unsafe {
                match (wide, part, unit) {
                    (true, _, true) => rows_of::<V, 2, false, true>(block, a, b, i, j, rows, cols),
                    (true, _, false) => {
                        rows_of::<V, 2, false, false>(block, a, b, i, j, rows, cols)
                    }
                    (_, false, true) => rows_of::<V, 1, false, true>(block, a, b, i, j, rows, cols),
                    (_, false, false) => {
                        rows_of::<V, 1, false, false>(block, a, b, i, j, rows, cols)
                    }
                    (_, true, true) => rows_of::<V, 1, true, true>(block, a, b, i, j, rows, cols),
                    (_, true, false) => rows_of::<V, 1, true, false>(block, a, b, i, j, rows, cols),
                }
            }
            a = a.wrapping_add(rows * block.a_row);
            i += rows;
        }
    }
}

/// Picks the tile with the right number of rows.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows_of<V: Vector, const N: usize, const PART: bool, const UNIT: bool>(
    block: &Block<V::Elem>,
    a: *const V::Elem,
    b: *const V::Elem,
    i: usize,
    j: usize,
    rows: usize,
    cols: usize,
) {
    // The comparison with the constant removes the tiles that this vector never needs.
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                // SAFETY: handed through.
                $($r if $r <= V::TILE.0 && N <= V::TILE.1 => unsafe {
                    tile::<V, $r, N, PART, UNIT>(block, a, b, i, j, cols)
                },)*
                _ => {}
            }
        };
    }
    pick!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

/// One tile of R rows and N vectors. `PART`: the only vector of B is cut off after `cols` columns.
/// `UNIT`: rows of A are adjacent.
///
/// # Safety
/// A can be read at `a`, R rows, k columns; B at `b`, k rows of N vectors (of `cols` elements with
/// `PART`); C can be written at rows i..i + R, columns j..j + cols.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const N: usize, const PART: bool, const UNIT: bool>(
    block: &Block<V::Elem>,
    a: *const V::Elem,
    b: *const V::Elem,
    i: usize,
    j: usize,
    cols: usize,
) {
    let a_row = if UNIT { 1 } else { block.a_row };
    let mut sums = [[V::zero(); N]; R];
    let (mut a, mut b) = (a, b);
    for _ in 0..block.k {
        let mut row = [V::zero(); N];
        for (v, vector) in row.iter_mut().enumerate() {
            // SAFETY: row k of B has N vectors here, or `cols` elements.
            *vector = unsafe {
                if PART {
                    V::load_part(std::slice::from_raw_parts(b, cols))
                } else {
                    V::load_ptr(b.add(v * LANES))
                }
            };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: A has R rows.
            let x = V::splat(unsafe { *a.add(r * a_row) });
            for (sum, vector) in sums.iter_mut().zip(row) {
                *sum = x.mul_add(vector, *sum);
            }
        }
        a = a.wrapping_add(block.a_col);
        b = b.wrapping_add(block.b_row);
    }
    let c = block.c.wrapping_add(i * block.ldc + j);
    match block.epilogue {
        // SAFETY: the tile of C can be written, handed through.
        Epilogue::None => unsafe { finish(block, c, cols, &sums, |sum, _, _| sum) },
        // SAFETY: as above; the bias has n elements.
        Epilogue::Bias(bias) => unsafe {
            let bias = &bias[j..j + cols];
            finish(block, c, cols, &sums, |sum: V, at, width| {
                sum.add(V::load_part(&bias[at..at + width]))
            })
        },
    }
}

/// Writes a tile. `f(sum, column, width)` is the epilogue of one vector that begins at a column of
/// the tile and is `width` elements wide.
///
/// # Safety
/// The tile of C at `c` can be read and written.
#[inline(always)]
unsafe fn finish<V: Vector, const R: usize, const N: usize>(
    block: &Block<V::Elem>,
    c: *mut V::Elem,
    cols: usize,
    sums: &[[V; N]; R],
    f: impl Fn(V, usize, usize) -> V,
) {
    let whole = cols == N * LANES;
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            let at = c.wrapping_add(r * block.ldc + v * LANES);
            if whole {
                // SAFETY: a whole vector of C.
                unsafe {
                    let sum = if block.add { V::load_ptr(at).add(sum) } else { sum };
                    f(sum, v * LANES, LANES).store_ptr(at);
                }
            } else if v * LANES < cols {
                let width = LANES.min(cols - v * LANES);
                // SAFETY: the columns that are left in this row of the tile.
                let dst = unsafe { std::slice::from_raw_parts_mut(at, width) };
                let sum = if block.add { V::load_part(dst).add(sum) } else { sum };
                f(sum, v * LANES, width).store_part(dst);
            }
        }
    }
}
