//! Several outputs cut into the same number of pieces, one task a piece.

use std::marker::PhantomData;

use super::Shared;
use crate::cpu::threads;

/// A task's own piece of an output: of each row, the same columns.
pub(crate) struct Strip<'a, T> {
    all: Shared<T>,
    start: usize,
    len: usize,
    row: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Strip<'_, T> {
    /// The columns of this strip in row `at`.
    #[inline]
    pub(crate) fn row(&mut self, at: usize) -> &mut [T] {
        // SAFETY: `for_strips` keeps the output borrowed as long as a strip lives and gives each
        // strip its own columns; two rows of one strip cannot be borrowed at once.
        unsafe { self.all.slice(at * self.row + self.start, self.len) }
    }

    /// The columns of this strip in rows `a` (for reading) and `b` (for writing), which differ.
    #[inline]
    pub(crate) fn two_rows(&mut self, a: usize, b: usize) -> (&[T], &mut [T]) {
        assert_ne!(a, b, "one row cannot be read and written at once");
        // SAFETY: as in `row`; the strip lies within its row, so different rows do not overlap.
        unsafe {
            let read = self.all.slice(a * self.row + self.start, self.len);
            (read, self.all.slice(b * self.row + self.start, self.len))
        }
    }
}

/// An output of [`for_strips`]: rows of `row` elements, each cut into strips of `width`.
pub(crate) struct Strips<'a, T> {
    /// The elements, row after row.
    pub(crate) data: &'a mut [T],
    /// Elements of a row.
    pub(crate) row: usize,
    /// Columns of a strip; the last may have fewer.
    pub(crate) width: usize,
}

/// Calls `f(i, strips)` for each `i` in `0..count` with strip `i` of each output, side by side where the
/// `work` of all is worth it. Outputs may be empty.
pub(crate) fn for_strips<T: Copy + Send, const N: usize>(
    outputs: [Strips<'_, T>; N],
    count: usize,
    work: usize,
    f: impl Fn(usize, [Strip<'_, T>; N]) + Sync + Send,
) {
    let outputs = outputs.map(|o| (Shared::new(o.data), o.row, o.width));
    threads::for_each(count, work, |i| {
        f(
            i,
            outputs.map(|(all, row, width)| {
                let start = (i * width).min(row);
                let len = width.min(row - start);
                Strip { all, start, len, row, borrow: PhantomData }
            }),
        );
    });
}

/// As [`for_strips`] for outputs of one row: each is cut into pieces of its own `width`.
pub(crate) fn for_pieces<T: Copy + Send, const N: usize>(
    outputs: [(&mut [T], usize); N],
    count: usize,
    work: usize,
    f: impl Fn(usize, [&mut [T]; N]) + Sync + Send,
) {
    let outputs = outputs.map(|(data, width)| {
        let row = data.len();
        Strips { data, row, width }
    });
    for_strips(outputs, count, work, |i, mut strips| {
        f(i, strips.each_mut().map(|strip| strip.row(0)));
    });
}

/// As [`for_pieces`], with an output of another type beside the others.
pub(crate) fn for_pieces_and<T: Copy + Send, U: Copy + Send, const N: usize>(
    outputs: [(&mut [T], usize); N],
    (other, width): (&mut [U], usize),
    count: usize,
    work: usize,
    f: impl Fn(usize, [&mut [T]; N], &mut [U]) + Sync + Send,
) {
    let (len, other) = (other.len(), Shared::new(other));
    for_pieces(outputs, count, work, |i, outputs| {
        let from = (i * width).min(len);
        // SAFETY: inside, and pieces do not overlap: each comes once.
        f(i, outputs, unsafe { other.slice(from, width.min(len - from)) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_every_column_once() {
        let (mut a, mut b) = (vec![0usize; 3 * 10], vec![0usize; 3 * 5]);
        let outputs =
            [Strips { data: &mut a, row: 10, width: 4 }, Strips { data: &mut b, row: 5, width: 2 }];
        for_strips(outputs, 3, 1 << 20, |i, [mut a, mut b]| {
            for t in 0..3 {
                a.row(t).iter_mut().for_each(|x| *x += 10 * t + i + 1);
                b.row(t).iter_mut().for_each(|x| *x += 10 * t + i + 1);
            }
        });
        assert_eq!(a[10..20], [11, 11, 11, 11, 12, 12, 12, 12, 13, 13]);
        assert_eq!(b[5..10], [11, 11, 12, 12, 13]);
    }

    #[test]
    fn pieces_may_be_empty() {
        let mut a = [1, 2, 3];
        for_pieces([(&mut a, 2), (&mut [], 4)], 2, 0, |i, [a, b]| {
            assert!(b.is_empty());
            a.fill(i);
        });
        assert_eq!(a, [0, 0, 1]);
    }
}
