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

use half::bf16;

use crate::cpu::simd::{Kernel, LANES, Real, Vector, unknown};

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
    /// Whether panels of B come from far away, and the next one is worth asking for while one is used.
    pub(super) b_far: bool,
    /// Whether C is written once and too large to be found in the caches afterwards: tiles write it past them.
    pub(super) c_far: bool,
    /// Row 0, column 0 of C.
    pub(super) c: *mut T,
    /// Row 0, column 0 of a C in bf16, which is written instead; for tiles alone.
    pub(super) rounded: Option<*mut bf16>,
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
    /// What is added to each row of C on the way out, from column 0 of this block on.
    pub(super) bias: Option<&'a [T]>,
}

impl<'a, T: Real> Block<'a, T> {
    /// The same block where U is T by another name.
    pub(super) fn cast<U: Real>(self) -> Block<'a, U> {
        Block {
            a: self.a.cast(),
            a_row: self.a_row,
            a_col: self.a_col,
            a_width: self.a_width,
            a_panel: self.a_panel,
            b: self.b.cast(),
            b_row: self.b_row,
            b_width: self.b_width,
            b_panel: self.b_panel,
            b_padded: self.b_padded,
            b_far: self.b_far,
            c_far: self.c_far,
            c: self.c.cast(),
            rounded: self.rounded,
            ldc: self.ldc,
            m: self.m,
            n: self.n,
            k: self.k,
            add: self.add,
            bias: self.bias.map(bytemuck::cast_slice),
        }
    }
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
/// else touches the elements of C meanwhile. A bias has at least n elements.
#[inline(never)] // the tiles are compiled once
pub(super) unsafe fn block<T: Real>(block: Block<'_, T>) {
    T::dispatch(Run(block));
}

struct Run<'a, T>(Block<'a, T>);

impl<T: Real> Kernel<T> for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        tiles::<V>(&self.0);
    }
}

/// All tiles of a block.
#[inline(always)]
fn tiles<V: Vector>(block: &Block<V::Elem>) {
    let mut j = 0;
    for p in 0..block.n.div_ceil(block.b_width) {
        let end = block.n.min((p + 1) * block.b_width);
        let mut b = block.b.wrapping_add(p * block.b_panel);
        // Whole tiles, and the ragged right edge in single vectors where B ends with it.
        while j < end {
            let whole = V::TILE.1 * LANES;
            let tile = if end - j >= whole || block.b_padded { whole } else { LANES };
            let cols = tile.min(end - j);
            column::<V>(block, b, j, cols);
            b = b.wrapping_add(cols);
            j += cols;
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

/// Picks the tile with the right number of rows. Each is a function of its own.
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
    // Tiles that never occur with this vector are not compiled.
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                $($r if const { $r <= V::TILE.0 && N <= V::TILE.1 } => {
                    V::apart(
                        #[inline(always)]
                        move || {
                            // SAFETY: handed through.
                            unsafe { tile::<V, $r, N, PART, UNIT>(block, a, b, i, j, cols) }
                        },
                    )
                })*
                _ => {}
            }
        };
    }
    pick!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

/// Repeats a block for each row r of R, written out: the accumulators only stay in registers if every
/// index into them is a constant, also where little is optimised.
macro_rules! each_row {
    ($r:ident < $R:ident $body:block) => {{
        const { assert!($R <= 14) };
        written_out!($r < $R $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }};
}

/// As [`each_row`], for each vector v of N.
macro_rules! each_vector {
    ($v:ident < $N:ident $body:block) => {{
        const { assert!($N <= 2) };
        written_out!($v < $N $body 0 1);
    }};
}

macro_rules! written_out {
    ($i:ident < $count:ident $body:block $($index:literal)*) => {
        $({
            const INDEX: usize = $index;
            if INDEX < $count {
                let $i = INDEX;
                $body
            }
        })*
    };
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) use {each_row, each_vector, written_out};

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
    let c = block.c.wrapping_add(i * block.ldc + j);
    let mut ahead = b.wrapping_add(block.b_panel);
    // Lines of the next panel for each row of a tile: all tiles of this column ask for their share.
    let mut share = 0;
    if block.b_far {
        share = (block.k * N).div_ceil(block.m.div_ceil(block.a_width) * R);
        ahead = ahead.wrapping_add(i / block.a_width * R * share * LANES);
    }
    let mut b = b;
    // Every third row of A by a pointer of its own, from which the next two are one and two steps away. Left to itself
    // the compiler adds a step from row to row, a chain as long as the multiplications take.
    let mut thirds = [a; R];
    each_row!(r < R {
        if !UNIT && r.is_multiple_of(3) {
            thirds[r / 3] = a.wrapping_add(r * a_row);
        }
    });
    // The way along k has a leg for each row of C: before it, that row is asked for, which is needed at the
    // end and far away by then, and lines of the next panel. All at once they would fill the line buffers that
    // A and B need. The last two legs are for the last rows to arrive. A short way is not worth it.
    let (legs, leg) = if block.k >= 8 * R { (R, (block.k / (R + 2)) & !1) } else { (0, 0) };
    for r in 0..=legs {
        let mut steps = block.k - legs * leg;
        if r < legs {
            steps = leg;
            let row = c.wrapping_add(r * block.ldc);
            for v in 0..N {
                V::prefetch(row.wrapping_add(v * LANES));
            }
            V::prefetch(row.wrapping_add(N * LANES - 1));
            for _ in 0..share {
                V::prefetch(ahead);
                ahead = ahead.wrapping_add(LANES);
            }
        }
        macro_rules! step { () => {
            let mut row = [V::zero(); N];
            each_vector!(v < N {
                // SAFETY: row k of B has N vectors here, or `cols` elements.
                row[v] = unsafe {
                    if PART {
                        V::load_part(std::slice::from_raw_parts(b, cols))
                    } else {
                        V::load_ptr(b.add(v * LANES))
                    }
                };
            });
            each_row!(r < R {
                let at = if UNIT { thirds[0].wrapping_add(r) } else { thirds[r / 3].wrapping_add(r % 3 * a_row) };
                // SAFETY: A has R rows.
                let x = V::splat(unsafe { *at });
                each_vector!(v < N {
                    sums[r][v] = x.mul_add(row[v], sums[r][v]);
                });
            });
            each_row!(r < R {
                if !UNIT && r.is_multiple_of(3) || r == 0 {
                    let next = thirds[r / 3].wrapping_add(block.a_col);
                    thirds[r / 3] = if UNIT { next } else { unknown(next) };
                }
            });
            b = b.wrapping_add(block.b_row);
        } }
        // Two steps a turn in the tile that does nearly all of the work, whose legs are even therefore.
        if R == V::TILE.0 && N == V::TILE.1 {
            for _ in 0..steps / 2 {
                step!();
                step!();
            }
            steps %= 2;
        }
        for _ in 0..steps {
            step!();
        }
    }
    if cols < N * LANES {
        let mut tile = [[V::zero(); N]; R];
        each_row!(r < R { tile[r] = sums[r]; });
        // SAFETY: the tile of C can be written, handed through.
        return unsafe { ragged(block, c, j, cols, &tile) };
    }
    match block.bias {
        None => {
            each_row!(r < R {
                each_vector!(v < N {
                    // SAFETY: a whole vector of C.
                    unsafe { put(block, c.wrapping_add(r * block.ldc + v * LANES), sums[r][v], V::zero(), false) };
                });
            });
        }
        Some(bias) => {
            let mut biases = [V::zero(); N];
            each_vector!(v < N {
                biases[v] = V::load(&bias[j + v * LANES..]);
            });
            each_row!(r < R {
                each_vector!(v < N {
                    // SAFETY: a whole vector of C.
                    unsafe { put(block, c.wrapping_add(r * block.ldc + v * LANES), sums[r][v], biases[v], true) };
                });
            });
        }
    }
}

/// Writes one whole vector of C.
///
/// # Safety
/// C can be read and written at `at`.
#[inline(always)]
unsafe fn put<V: Vector>(
    block: &Block<V::Elem>,
    at: *mut V::Elem,
    sum: V,
    bias: V,
    with_bias: bool,
) {
    // SAFETY: handed through.
    unsafe {
        let sum = if block.add { V::load_ptr(at).add(sum) } else { sum };
        let sum = if with_bias { sum.add(bias) } else { sum };
        sum.store_ptr(at);
    }
}

/// Writes a tile that is cut off after `cols` columns.
///
/// # Safety
/// The rows of C at `c` can be read and written, `cols` columns wide.
#[inline(always)]
unsafe fn ragged<V: Vector, const R: usize, const N: usize>(
    block: &Block<V::Elem>,
    c: *mut V::Elem,
    j: usize,
    cols: usize,
    tile: &[[V; N]; R],
) {
    for (r, row) in tile.iter().enumerate() {
        // SAFETY: a row of the tile, handed through.
        unsafe { write_row(block, c.wrapping_add(r * block.ldc), j, cols, row) };
    }
}

/// Writes a row of C, `cols` columns wide; `j` is its first column within the block.
///
/// # Safety
/// The row at `c` can be read and written.
#[inline(always)]
pub(super) unsafe fn write_row<V: Vector>(
    block: &Block<V::Elem>,
    c: *mut V::Elem,
    j: usize,
    cols: usize,
    row: &[V],
) {
    for (v, &sum) in row.iter().enumerate().take(cols.div_ceil(LANES)) {
        let (at, width) = (v * LANES, LANES.min(cols - v * LANES));
        // SAFETY: the columns that are left in this row.
        let dst = unsafe { std::slice::from_raw_parts_mut(c.wrapping_add(at), width) };
        let sum = if block.add { V::load_part(dst).add(sum) } else { sum };
        let sum = match block.bias {
            None => sum,
            Some(bias) => sum.add(V::load_part(&bias[j + at..j + at + width])),
        };
        sum.store_part(dst);
    }
}
