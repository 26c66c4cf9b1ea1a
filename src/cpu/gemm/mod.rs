//! Matrix products: `C = A B (+ C)`, with A `[m, k]`, B `[k, n]`, C `[m, n]`.
//!
//! # How a product is cut up
//!
//! ```text
//!            n                          C is cut into tiles for the threads.
//!        ┌───┬───┬───┐                  One thread computes one tile, all of k:
//!        │   │   │   │  B
//!      k │   │   │   │
//!        │   │   │   │
//!        └───┴───┴───┘            256 of k at a time (KC)
//!     k                        ┌────────────────────────────┐
//!   ┌───┐┌───┬───┬───┐         │  A: rows of the tile × 256, in strips of 14 rows         (L2)
//!   ├───┤├───┼───┼───┤         │  128 columns of the tile at a time
//! m │ A ││   │ C │   │         │  ┌─ B packed: 256 × 128, panels of 32 columns         (L2)
//!   ├───┤├───┼───┼───┤         │  │  each panel of B                                    (L1)
//!   └───┘└───┴───┴───┘         │  │  ┌─ each strip of A: the micro-kernel keeps 14 × 32
//!                              │  │  │  elements of C in registers for 256 steps of k
//! ```
//!
//! The numbers are AVX-512's for f32; [`Vector::TILE`](super::simd::Vector::TILE) gives the panel sizes of the
//! others (6 × 16 on AVX2); [`tiles`] are cut otherwise. The idea is Goto and van de Geijn's (2008): every level
//! of the memory holds what the level below reads many times.
//!
//! A B that several tiles of a large product read is packed once, before the tiles; everything else by the
//! tile that reads it, as it goes. Where packing costs more than it brings, it is left out: A enters the
//! micro-kernel element by element and may be read where it lies, B where few rows use it or it is small;
//! and products with one row or one column have a path of their own ([`vector`]).
//!
//! # The bits
//!
//! In f32 each element of C is one chain of fused multiply-adds in the order of k inside a block of [`KC`], and
//! the blocks' sums are added in their order:
//!
//! ```text
//! C[i,j] = ((C₀ + S₀) + S₁) + …      S_b = fma(a_last, b_last, … fma(a₁, b₁, fma(a₀, b₀, 0)))
//! ```
//!
//! and then the epilogue. Tiles, packing, transposes, threads and instruction set change who computes
//! an element and when, never this sum. NaN and infinity go through as IEEE says.

mod arithmetic;
mod blocked;
mod factor;
mod micro;
mod pack;
mod panels;
mod serial;
#[cfg(test)]
mod tests;
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux", not(miri))),
    allow(dead_code, unused_imports)
)]
mod tiles;
mod vector;
mod yardstick;

use std::any::TypeId;

use arithmetic::Arithmetic;

use half::bf16;

use super::scratch;
use super::simd::{Kernel, Real, Shared, Vector, round_row};

pub use factor::{Elements, Factor, Output};
pub use yardstick::matrixmultiply;

pub(crate) use pack::Operand;
pub(crate) use panels::Panels;
pub(crate) use tiles::{
    Layout, SIDE, Sums, Tiles, Unit, Work, product as product_in_tiles, spin as spin_tiles,
};

pub(crate) use serial::{Left, Packed, Right, Side, multiply, packed_room};

/// The length of a block of k: the sums of a block are one chain of fused multiply-adds. The same for
/// every instruction set, since it decides the bits.
pub const KC: usize = 256;

/// Columns of B that pass by before the next rows of A: with KC = 256, 128 KiB of f32.
const NB: usize = 128;

/// Multiply-adds that a thread should get at once, some 10 µs: less costs more to hand over than it
/// takes. A product of less than two such pieces stays on its thread.
const PIECE: usize = 1 << 20;

/// A matrix to read: element (i, j) is `data[i · row_stride + j · col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    /// The elements, from (0, 0) on.
    pub data: &'a [T],
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub col_stride: usize,
}

impl<T> Mat<'_, T> {
    /// Panics unless a matrix of `rows` × `cols` at each of `count` offsets is inside the slice.
    fn check(&self, name: &str, (count, offset): (usize, usize), rows: usize, cols: usize) {
        let strides = (self.row_stride, self.col_stride);
        check(name, self.data.len(), strides, (count, offset), (rows, cols));
    }
}

/// Panics unless a matrix of `rows` × `cols` at each of `count` offsets ends within `len`.
fn check(
    name: &str,
    len: usize,
    (row_stride, col_stride): (usize, usize),
    (count, offset): (usize, usize),
    (rows, cols): (usize, usize),
) {
    let end = extent(&[(count, offset), (rows, row_stride), (cols, col_stride)]);
    assert!(end <= len, "{name}: {count} × [{rows}, {cols}] ends at {end}, the slice at {len}");
}

/// One past the last element that these (count, stride) reach; 0 when there is none.
fn extent(axes: &[(usize, usize)]) -> usize {
    if axes.iter().any(|&(count, _)| count == 0) {
        return 0;
    }
    let last = axes.iter().try_fold(0usize, |last, &(count, stride)| {
        (count - 1).checked_mul(stride).and_then(|step| last.checked_add(step))
    });
    last.map_or(usize::MAX, |last| last.saturating_add(1))
}

/// A finished piece of C: some rows and columns of it, lent to who goes on with them.
pub struct Piece<'c, T> {
    c: Shared<T>,
    /// Where its first element is in `c`.
    at: usize,
    ldc: usize,
    /// Its first row and column in C.
    from: (usize, usize),
    /// Its rows and columns.
    size: (usize, usize),
    lent: std::marker::PhantomData<&'c mut [T]>,
}

impl<T> Piece<'_, T> {
    /// How many rows it has.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.size.0
    }

    /// How many columns it has.
    pub fn cols(&self) -> usize {
        self.size.1
    }

    /// Where its row r is in C: the row, the column it begins with, and the columns it has.
    #[inline(always)]
    pub fn place(&self, r: usize) -> (usize, usize, usize) {
        (self.from.0 + r, self.from.1, self.size.1)
    }

    /// Its row r.
    #[inline(always)]
    pub fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.size.0);
        // SAFETY: the product makes one piece for each element of C while C is borrowed, for as long as the piece
        // is lent, and this borrows the piece.
        unsafe { self.c.slice(self.at + r * self.ldc, self.size.1) }
    }
}

/// What is done with each finished piece of C, on the thread that has computed it; where C has one row or column, with
/// all of it.
pub type Then<'a, T> = &'a (dyn for<'c> Fn(Piece<'c, T>) + Sync);

/// What happens to C after its sums are complete.
#[derive(Clone, Copy)]
pub enum Epilogue<'a, T> {
    /// Nothing.
    None,
    /// Adds `bias[j]` to column j while it is still in a register.
    Bias(&'a [T]),
    /// The bias, if there is one; then this while a piece, up to some hundred rows of 128 columns, is still in the near
    /// caches.
    Then(Option<&'a [T]>, Then<'a, T>),
}

impl<'a, T> Epilogue<'a, T> {
    /// Its two steps.
    fn steps(self) -> (Option<&'a [T]>, Option<Then<'a, T>>) {
        match self {
            Epilogue::None => (None, None),
            Epilogue::Bias(bias) => (Some(bias), None),
            Epilogue::Then(bias, then) => (bias, Some(then)),
        }
    }
}

/// How exactly products of f32 are computed; PyTorch's words for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32, the same bits on every machine.
    #[default]
    Highest,
    /// About as exact as f32, in other bits: each f32 split into three bf16, six products of them, where a machine
    /// multiplies matrices of bf16 many times faster (AMX); elsewhere as `Highest`. Numbers and products below 10⁻³⁰
    /// lose low bits.
    High,
    /// Operands rounded to bf16 (8 bits), sums in f32, where the machine has instructions that do it faster
    /// than f32; elsewhere as `Highest`.
    Medium,
}

/// Products of bf16 that make one of [`Precision::High`].
pub const PRODUCTS_OF_HIGH: usize = 6;

/// Whether [`Precision::Medium`] multiplies an A with so many rows in tiles, if it has enough columns and is multiplied by
/// enough.
pub(crate) fn multiplies_in_tiles(rows: usize) -> bool {
    rows >= tiles::SIDE && Tiles::find::<f32>().is_some()
}

/// `C = A B`, or `C += A B` with `accumulate`, then the epilogue. A is `[m, k]`, B `[k, n]`; row i of C
/// begins at `c[i · ldc]`. With k = 0 the product is 0.
///
/// # Panics
/// When a slice is too short for its shape and strides.
pub fn gemm<T: Real>(
    c: &mut [T],
    ldc: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    gemm_at(Precision::Highest, c, ldc, a, b, m, n, k, accumulate, epilogue);
}

/// As [`gemm`], as exactly as `precision` says, of [`Mat`]s or [`Factor`]s.
///
/// # Panics
/// When a slice is too short for its shape and strides; for factors in bf16 in a product of f64.
pub fn gemm_at<'a, T: Real>(
    precision: Precision,
    c: &mut [T],
    ldc: usize,
    a: impl Into<Factor<'a, T>>,
    b: impl Into<Factor<'a, T>>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    let by = Arithmetic::new::<T>(precision, (m, n, k));
    let (c, a, b) = (Output::Own(c), (a.into(), 0), (b.into(), 0));
    product(by, c, 0, ldc, a, b, 1, m, n, k, accumulate, epilogue);
}

/// As [`gemm_at`] without adding to what is there, into a dense C `[m, n]` that may be bf16: what comes after it then
/// gets pieces of its sums, before they are rounded.
///
/// # Panics
/// As [`gemm_at`].
pub fn gemm_to<'a, T: Real>(
    precision: Precision,
    c: Output<'_, T>,
    a: impl Into<Factor<'a, T>>,
    b: impl Into<Factor<'a, T>>,
    m: usize,
    n: usize,
    k: usize,
    epilogue: Epilogue<'_, T>,
) {
    let by = Arithmetic::new::<T>(precision, (m, n, k));
    product(by, c, 0, n, (a.into(), 0), (b.into(), 0), 1, m, n, k, false, epilogue);
}

/// `count` products of one shape: the i-th reads A at `i · a_stride` and B at `i · b_stride` (a stride of
/// 0 shares one matrix) and writes C at `i · c_stride`.
///
/// # Panics
/// When a slice is too short, or the matrices of C overlap.
pub fn gemm_batched<'a, T: Real>(
    c: &mut [T],
    c_stride: usize,
    ldc: usize,
    a: impl Into<Factor<'a, T>>,
    a_stride: usize,
    b: impl Into<Factor<'a, T>>,
    b_stride: usize,
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    let none = Epilogue::None;
    let (c, a, b) = (Output::Own(c), (a.into(), a_stride), (b.into(), b_stride));
    product(Arithmetic::Fma, c, c_stride, ldc, a, b, count, m, n, k, accumulate, none);
}

/// One product of a batch, with every matrix in place.
#[derive(Clone, Copy)]
struct Product<'a, T> {
    c: Shared<T>,
    /// C where it is bf16; `c` is empty then.
    rounded: Option<Shared<bf16>>,
    /// Where C begins in either.
    at: usize,
    ldc: usize,
    a: Factor<'a, T>,
    b: Factor<'a, T>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    bias: Option<&'a [T]>,
    then: Option<Then<'a, T>>,
    by: Arithmetic,
}

impl<T: Real> Product<'_, T> {
    /// Rounds the finished `sums`, rows `ld` apart, to these (first, length) rows and columns of a C in bf16.
    fn round(&self, (i, rows): (usize, usize), (j, cols): (usize, usize), sums: &[T], ld: usize) {
        if let Some(c) = self.rounded {
            let (at, ldc) = (self.at + i * self.ldc + j, self.ldc);
            T::dispatch(Round { c, at, ldc, rows, cols, sums, ld });
        }
    }

    /// The piece of C of these (first, length) rows and columns.
    fn piece(&self, (i, rows): (usize, usize), (j, cols): (usize, usize)) -> Piece<'_, T> {
        let (c, at) = (self.c, self.at + i * self.ldc + j);
        let (from, size) = ((i, j), (rows, cols));
        Piece { c, at, ldc: self.ldc, from, size, lent: std::marker::PhantomData }
    }

    /// What comes after finished `sums` of a C in bf16, rows `ld` apart, of these (first, length) rows and columns: they
    /// are rounded, and then gone on with as they are.
    fn finish(
        &self,
        (i, rows): (usize, usize),
        (j, cols): (usize, usize),
        sums: &mut [T],
        ld: usize,
    ) {
        self.round((i, rows), (j, cols), sums, ld);
        if let Some(then) = self.then {
            let (c, from, size) = (Shared::new(sums), (i, j), (rows, cols));
            then(Piece { c, at: 0, ldc: ld, from, size, lent: std::marker::PhantomData });
        }
    }
}

/// A piece of C on its way to bf16.
struct Round<'a, T> {
    c: Shared<bf16>,
    at: usize,
    ldc: usize,
    rows: usize,
    cols: usize,
    sums: &'a [T],
    /// From one row of the sums to the next.
    ld: usize,
}

impl<T: Real> Kernel<T> for Round<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        for r in 0..self.rows {
            // SAFETY: each piece of C is rounded once, by who computes it, while C is borrowed.
            let dst = unsafe { self.c.slice(self.at + r * self.ldc, self.cols) };
            round_row::<V>(dst, &self.sums[r * self.ld..]);
        }
    }
}

/// Checks everything once, so that the kernels may use pointers, and picks a path.
fn product<T: Real>(
    by: Arithmetic,
    c: Output<'_, T>,
    c_stride: usize,
    ldc: usize,
    (a, a_stride): (Factor<'_, T>, usize),
    (b, b_stride): (Factor<'_, T>, usize),
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    if count == 0 || m == 0 || n == 0 {
        return;
    }
    let end = extent(&[(count, c_stride), (m, ldc), (n, 1)]);
    assert!(end <= c.len(), "C: {count} × [{m}, {n}] ends at {end}, the slice at {}", c.len());
    assert!(m == 1 || ldc >= n, "rows of C overlap");
    assert!(count == 1 || c_stride >= extent(&[(m, ldc), (n, 1)]), "matrices of C overlap");
    a.check("A", (count, a_stride), m, k);
    b.check("B", (count, b_stride), k, n);
    let (bias, then) = epilogue.steps();
    if let Some(bias) = bias {
        assert!(bias.len() >= n, "a bias of {} for {n} columns", bias.len());
    }
    let (c, rounded) = match c {
        Output::Own(c) => (Shared::new(c), None),
        Output::Bf16(c) => (Shared::new(&mut []), Some(Shared::new(c))),
    };
    assert!(rounded.is_none() || !accumulate, "C in bf16 is only written");
    let item = |i: usize| Product {
        c,
        rounded,
        at: i * c_stride,
        ldc,
        // With k = 0 a matrix may be an empty slice that no offset fits.
        a: Factor { data: a.data.from(i * a_stride), ..a },
        b: Factor { data: b.data.from(i * b_stride), ..b },
        m,
        n,
        k,
        accumulate,
        bias,
        then,
        by,
    };
    if TypeId::of::<T>() == TypeId::of::<f64>() && k > 0 {
        (0..count).for_each(|i| blocked::double(&item(i)));
    } else if (m == 1 || n == 1) && vector::fits(&a, &b, m, n) {
        match rounded {
            None => vector::run(count, &item),
            // Few enough to be kept whole.
            Some(_) => (0..count).for_each(|i| {
                let p = item(i);
                scratch::with(m * n, |sums: &mut [T]| {
                    let c = Shared::new(sums);
                    vector::run(1, &|_| Product { c, rounded: None, at: 0, ldc: n, ..p });
                    p.finish((0, m), (0, n), sums, n);
                });
            }),
        }
    } else {
        return blocked::run(count, &item);
    }
    if let Some(then) = then.filter(|_| rounded.is_none()) {
        (0..count).for_each(|i| then(item(i).piece((0, m), (0, n))));
    }
}
