//! Outputs of several heads, cut by batch, head and rows, one task a piece.

use std::marker::PhantomData;

use super::Shared;
use crate::cpu::threads;

/// Where the rows of each head lie: element e of row r of head h of batch b is at
/// `b · batch + h · head + r · row + e`. Distances in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From one batch to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one row to the next.
    pub row: usize,
}

impl Strides {
    /// Where row `r` of head `h` of batch `b` begins.
    #[inline(always)]
    pub(crate) fn at(&self, b: usize, h: usize, r: usize) -> usize {
        b * self.batch + h * self.head + r * self.row
    }
}

/// How many batches, heads, rows and elements of a row there are.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

impl Extent {
    /// The number of elements up to the last one, if no two rows overlap; panics otherwise. `more` is
    /// another axis: (count, stride).
    fn check(&self, strides: Strides, more: (usize, usize)) -> usize {
        let mut axes = [
            (self.batch, strides.batch),
            (self.heads, strides.head),
            (self.rows, strides.row),
            more,
        ];
        if self.width == 0 || axes.iter().any(|&(count, _)| count == 0) {
            return 0;
        }
        axes.sort_by_key(|&(_, stride)| stride);
        axes.into_iter().filter(|&(count, _)| count > 1).fold(self.width, |end, (count, stride)| {
            assert!(stride >= end, "rows of an output overlap: stride {stride}, length {end}");
            (count - 1) * stride + end
        })
    }
}

/// An output in heads.
pub(crate) struct Heads<'a, T> {
    all: Shared<T>,
    start: usize,
    strides: Strides,
    extent: Extent,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T: Copy> Heads<'a, T> {
    /// Heads of `extent` at `strides` in `data`. Panics when rows overlap or leave the slice.
    pub(crate) fn new(data: &'a mut [T], strides: Strides, extent: Extent) -> Heads<'a, T> {
        let [heads] = Heads::beside(data, strides, extent, 0);
        heads
    }

    /// N outputs in one slice, each `apart` elements after the one before.
    pub(crate) fn beside<const N: usize>(
        data: &'a mut [T],
        strides: Strides,
        extent: Extent,
        apart: usize,
    ) -> [Heads<'a, T>; N] {
        let end = extent.check(strides, (N, apart));
        assert!(end <= data.len(), "an output ends at {end}, its slice at {}", data.len());
        let all = Shared::new(data);
        std::array::from_fn(|i| Heads {
            all,
            start: i * apart,
            strides,
            extent,
            borrow: PhantomData,
        })
    }
}

/// A task's own rows of one head.
pub(crate) struct HeadRows<'a, T> {
    all: Shared<T>,
    start: usize,
    stride: usize,
    rows: (usize, usize),
    width: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> HeadRows<'_, T> {
    /// Row `at` of the head; panics unless it is one of this task's.
    #[inline]
    pub(crate) fn row(&mut self, at: usize) -> &mut [T] {
        assert!((self.rows.0..self.rows.1).contains(&at), "row {at} belongs to another task");
        // SAFETY: `for_heads` keeps the output borrowed and gives each row to one task; rows do not
        // overlap, as `Extent::check` has made sure, and one task borrows one row at a time.
        unsafe { self.all.slice(self.start + at * self.stride, self.width) }
    }
}

/// Calls `f((b, h), (first, end), rows)` for each batch and head and each piece of up to `piece` rows
/// of it, side by side where the `work` of all is worth it. All outputs have the same batches, heads and
/// rows.
pub(crate) fn for_heads<T: Copy + Send + Sync, const N: usize>(
    outputs: [Heads<'_, T>; N],
    piece: usize,
    work: usize,
    f: impl Fn((usize, usize), (usize, usize), [HeadRows<'_, T>; N]) + Sync + Send,
) {
    let Extent { batch, heads, rows, .. } = outputs[0].extent;
    for other in &outputs {
        let Extent { batch: b, heads: h, rows: r, .. } = other.extent;
        assert_eq!((b, h, r), (batch, heads, rows), "outputs of different shapes");
    }
    let piece = piece.max(1);
    let pieces = rows.div_ceil(piece);
    threads::for_each(batch * heads * pieces, work, |i| {
        let (b, h, p) = (i / pieces / heads, i / pieces % heads, i % pieces);
        let range = (p * piece, rows.min((p + 1) * piece));
        let own = outputs.each_ref().map(|output| HeadRows {
            all: output.all,
            start: output.start + output.strides.at(b, h, 0),
            stride: output.strides.row,
            rows: range,
            width: output.extent.width,
            borrow: PhantomData,
        });
        f((b, h), range, own);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { batch: 2, heads: 3, rows: 5, width: 4 };

    #[test]
    fn every_element_is_written_once() {
        // [batch, rows, 2 outputs, heads, width]
        let strides = Strides { batch: 5 * 24, head: 4, row: 24 };
        let mut data = vec![0; 2 * 5 * 24];
        let outputs: [_; 2] = Heads::beside(&mut data, strides, EXTENT, 12);
        for_heads(outputs, 2, 1 << 20, |(b, h), (first, end), mut both| {
            for r in first..end {
                for (o, rows) in both.iter_mut().enumerate() {
                    rows.row(r).iter_mut().for_each(|x| *x += 1 + h + 10 * o + 100 * r + 1000 * b);
                }
            }
        });
        for (i, x) in data.into_iter().enumerate() {
            let (b, r, o, h) = (i / 120, i / 24 % 5, i / 12 % 2, i / 4 % 3);
            assert_eq!(x, 1 + h + 10 * o + 100 * r + 1000 * b);
        }
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_rows_are_refused() {
        Heads::new(&mut [0; 1000], Strides { batch: 60, head: 3, row: 12 }, EXTENT);
    }

    #[test]
    #[should_panic(expected = "another task")]
    fn a_row_of_another_task_is_refused() {
        let mut data = [0; 120];
        let heads = Heads::new(&mut data, Strides { batch: 60, head: 4, row: 12 }, EXTENT);
        for_heads([heads], 2, 0, |_, (_, end), [mut rows]| {
            rows.row(end);
        });
    }
}
