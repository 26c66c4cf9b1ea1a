//! Products inside a kernel: on the thread that asks, with operands that the caller has laid out.
//!
//! A kernel that multiplies the same small matrix many times (attention does) packs it once and then
//! calls [`multiply`] with what it has. The sums are those of [`gemm`](super::gemm), bit for bit.

use super::factor::Start;
use super::micro::{Block, block, tile_size};
use super::pack::{Source, pack, room};
use super::{KC, Mat};
use crate::cpu::simd::{LANES, Real};

/// How a packed matrix will be used: decides how wide its panels are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// On the left: panels of a tile's rows.
    Left,
    /// On the left, in parts that begin at multiples of so many rows.
    Strips(usize),
    /// On the right: panels of a tile's columns.
    Right,
}

impl Side {
    fn width<T: Real>(self) -> usize {
        let (rows, cols) = tile_size::<T>();
        match self {
            Side::Left => rows,
            Side::Strips(rows) => rows,
            Side::Right => cols,
        }
    }
}

/// The room that a matrix of `rows` × `cols` takes when it is packed.
pub(crate) fn packed_room<T: Real>(rows: usize, cols: usize, side: Side) -> usize {
    room(rows, cols, side.width::<T>())
}

/// The rows of a matrix X `[rows, cols]` in panels: X on the left of a product, Xᵀ on the right.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    width: usize,
}

impl<'a, T: Real> Packed<'a, T> {
    /// Packs `x` into `room`.
    pub(crate) fn pack(
        room: &'a mut [T],
        x: Mat<'_, T>,
        rows: usize,
        cols: usize,
        side: Side,
    ) -> Packed<'a, T> {
        x.check("X", (1, 0), rows, cols);
        let (width, data) = (side.width::<T>(), Start::Own(x.data.as_ptr()));
        let (lane, step) = (x.row_stride, x.col_stride);
        // SAFETY: the matrix is inside its slice.
        unsafe { pack(room, Source { data, lane, step, lanes: rows, k: cols }, width) };
        Packed { data: room, rows, cols, width }
    }

    /// Where the panel that begins with row `first` is.
    fn at(&self, first: usize) -> *const T {
        assert!(first.is_multiple_of(self.width), "row {first} begins no panel");
        self.data.as_ptr().wrapping_add(first * self.cols)
    }
}

/// The left operand, `[m, k]`.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a, T> {
    /// As it lies.
    Mat(Mat<'a, T>),
    /// Packed, from this row on.
    Packed(&'a Packed<'a, T>, usize),
}

/// The right operand, `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, T> {
    /// Rows of whole vectors, each so many elements after the one before.
    Rows(&'a [T], usize),
    /// The transpose of a packed matrix, from this row of it (this column of the operand) on.
    Packed(&'a Packed<'a, T>, usize),
}

/// `C = A B`, or `C += A B` with `add`, on this thread. n may reach into the fill of B: up to whole
/// vectors.
pub(crate) fn multiply<T: Real>(
    c: &mut [T],
    ldc: usize,
    left: Left<'_, T>,
    right: Right<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let tile = tile_size::<T>();
    assert!((m == 1 || ldc >= n) && (m - 1) * ldc + n <= c.len(), "C leaves its slice");
    let (a, a_row, a_col, a_width, a_panel) = match left {
        Left::Mat(a) => {
            a.check("A", (1, 0), m, k);
            let (row, col) = (a.row_stride, a.col_stride);
            (a.data.as_ptr(), row, col, tile.0, tile.0 * row)
        }
        Left::Packed(a, first) => {
            assert!(first + m <= a.rows && k <= a.cols, "A leaves its panels");
            (a.at(first), 1, a.width, a.width, a.width * a.cols)
        }
    };
    let (b, b_row, b_width, b_panel) = match right {
        Right::Rows(b, stride) => {
            let end = if k == 0 { 0 } else { (k - 1) * stride + n.next_multiple_of(LANES) };
            assert!(end <= b.len(), "B leaves its slice");
            (b.as_ptr(), stride, tile.1, tile.1)
        }
        Right::Packed(b, first) => {
            let filled = b.rows.next_multiple_of(b.width);
            assert!(b.width.is_multiple_of(LANES), "panels packed for the left side");
            assert!(first + n <= filled && k <= b.cols, "B leaves its panels");
            (b.at(first), b.width, b.width, b.width * b.cols)
        }
    };
    let mut from = 0;
    while from == 0 || from < k {
        let operands = Block {
            a: a.wrapping_add(from * a_col),
            a_row,
            a_col,
            a_width,
            a_panel,
            b: b.wrapping_add(from * b_row),
            b_row,
            b_width,
            b_panel,
            b_padded: true,
            b_far: false,
            c_far: false,
            c: c.as_mut_ptr(),
            rounded: None,
            ldc,
            m,
            n,
            k: KC.min(k - from),
            add: add || from > 0,
            bias: None,
        };
        // SAFETY: all three matrices have just been checked against their slices, and B is filled up to
        // whole vectors either way.
        unsafe { block(operands) };
        from += KC;
    }
}
