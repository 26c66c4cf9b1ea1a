//! Walking strided inputs beside a contiguous output.
//!
//! An output of shape `[…]` is contiguous; each of K inputs has its own strides under the same shape, 0
//! where it repeats. [`Walk::new`] merges what can be merged (axes of size 1, neighbours that every input
//! steps through evenly), so that a contiguous input becomes one long row and a bias `[C]` beside `[N, C]`
//! stays two axes. What is left is a list of rows, each with one step for each input; the kernel sees
//! only rows.

use std::ops::Range;

use smallvec::SmallVec;

type Dims<const K: usize> = SmallVec<[(usize, [usize; K]); 6]>;

/// The merged axes of K strided inputs beside a contiguous output.
#[derive(Debug)]
pub(super) struct Walk<const K: usize> {
    /// `(size, step of each input)` of the axes above the rows, outermost first.
    outer: Dims<K>,
    /// Elements of a row.
    pub(super) row: usize,
    /// What each input steps by from one element of a row to the next.
    pub(super) steps: [usize; K],
    /// How many rows there are.
    pub(super) rows: usize,
}

impl<const K: usize> Walk<K> {
    /// `strides[k]` has one entry an axis of `shape`.
    pub(super) fn new(shape: &[usize], strides: [&[usize]; K]) -> Walk<K> {
        let mut axes: Dims<K> = SmallVec::new();
        for (axis, &size) in shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let steps = strides.map(|s| s[axis]);
            match axes.last_mut() {
                Some((outer_size, outer_steps))
                    if (0..K).all(|k| outer_steps[k] == steps[k] * size) =>
                {
                    *outer_size *= size;
                    *outer_steps = steps;
                }
                _ => axes.push((size, steps)),
            }
        }
        let (row, steps) = axes.pop().unwrap_or((1, [1; K]));
        let rows = axes.iter().map(|&(size, _)| size).product();
        Walk { outer: axes, row, steps, rows }
    }

    /// Where row `index` starts in each input.
    fn start(&self, mut index: usize) -> [usize; K] {
        let mut at = [0; K];
        for &(size, steps) in self.outer.iter().rev() {
            let i = index % size;
            index /= size;
            (0..K).for_each(|k| at[k] += i * steps[k]);
        }
        at
    }

    /// The pieces of rows that the output's elements `begin..end` consist of.
    pub(super) fn pieces(&self, begin: usize, end: usize) -> Pieces<'_, K> {
        Pieces { walk: self, begin, end, at: begin }
    }

    /// The merged axes, outermost first: `(size, step of each input)`.
    pub(super) fn axes(&self) -> impl Iterator<Item = (usize, [usize; K])> + '_ {
        self.outer.iter().copied().chain(std::iter::once((self.row, self.steps)))
    }
}

/// Iterates over `(range, starts)`: the range of a piece relative to `begin`, and where its first element
/// lies in each input.
pub(super) struct Pieces<'a, const K: usize> {
    walk: &'a Walk<K>,
    begin: usize,
    end: usize,
    at: usize,
}

impl<const K: usize> Iterator for Pieces<'_, K> {
    type Item = (Range<usize>, [usize; K]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let walk = self.walk;
        let (row, column) = (self.at / walk.row, self.at % walk.row);
        let stop = self.end.min((row + 1) * walk.row);
        let mut starts = walk.start(row);
        for k in 0..K {
            starts[k] += column * walk.steps[k];
        }
        let piece = self.at - self.begin..stop - self.begin;
        self.at = stop;
        Some((piece, starts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_merge_where_every_input_allows_it() {
        let walk = Walk::new(&[2, 3, 4], [&[12, 4, 1], &[12, 4, 1]]);
        assert_eq!((walk.rows, walk.row, walk.steps), (1, 24, [1, 1]));
        let walk = Walk::new(&[2, 3, 4], [&[12, 4, 1], &[0, 0, 1]]);
        assert_eq!((walk.rows, walk.row, walk.steps), (6, 4, [1, 1]));
        let walk = Walk::new(&[2, 1, 4], [&[4, 99, 1], &[1, 99, 0]]);
        assert_eq!((walk.rows, walk.row, walk.steps), (2, 4, [1, 0]));
        let walk = Walk::new(&[5, 6], [&[0, 0]]);
        assert_eq!((walk.rows, walk.row, walk.steps), (1, 30, [0]));
        let walk = Walk::new(&[], [&[]]);
        assert_eq!((walk.rows, walk.row), (1, 1));
    }

    #[test]
    fn pieces_name_every_element_once() {
        let (shape, strides) = ([3, 2, 5], [1usize, 40, 3]);
        let walk = Walk::new(&shape, [&strides]);
        for (begin, end) in [(0, 30), (3, 17), (7, 7), (29, 30)] {
            let mut next = 0;
            for (piece, [start]) in walk.pieces(begin, end) {
                assert_eq!(piece.start, next);
                next = piece.end;
                for (k, i) in piece.enumerate() {
                    let flat = begin + i;
                    let index = [flat / 10, flat / 5 % 2, flat % 5];
                    let want: usize = (0..3).map(|axis| index[axis] * strides[axis]).sum();
                    assert_eq!(start + k * walk.steps[0], want);
                }
            }
            assert_eq!(next, end - begin);
        }
    }
}
