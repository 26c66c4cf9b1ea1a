//! Launches of `kernels/reduce.cu`.

use super::{pieces, scratch};
pub use crate::cpu::reduce::Reduce;
use crate::cuda::launch::{Grid, args, clear, launch};
use crate::cuda::{Slice, SliceMut};

/// Slices of the outer axis in one launch, the most blocks along a grid's z.
const OUTER: usize = 65_535;

/// As [`crate::cpu::reduce::forward`].
pub fn forward<T>(
    reduce: Reduce,
    y: SliceMut<T>,
    indices: Option<SliceMut<u32>>,
    x: Slice<T>,
    outer: usize,
    n: usize,
    inner: usize,
) {
    match reduce {
        Reduce::Sum => sum(y, x, outer, n, inner),
        Reduce::Max => {
            let grid = Grid::rows((outer * inner).div_ceil(8));
            launch("reduce_max", grid, args![&y, indices.as_ref(), x, outer, n, inner]);
        }
    }
}

fn sum<T>(mut y: SliceMut<T>, x: Slice<T>, outer: usize, n: usize, inner: usize) {
    if n == 0 {
        return clear(&mut y);
    }
    let blocks = if inner == 1 { outer } else { outer * inner.div_ceil(32) };
    let (splits, piece) = pieces(n, blocks);
    if splits == 1 {
        return stage(&mut y, x, outer, n, inner, 1, n);
    }
    let partial = outer * splits * inner;
    let Some(buffer) = scratch(y.gpu, partial * size_of::<T>()) else { return };
    stage(&mut buffer.slice_mut(0, partial), x, outer, n, inner, splits, piece);
    stage(&mut y, buffer.slice(0, partial), outer, splits, inner, 1, splits);
}

/// `[outer, splits, inner]` sums over pieces of the middle axis.
fn stage<T>(
    y: &mut SliceMut<T>,
    x: Slice<T>,
    outer: usize,
    n: usize,
    inner: usize,
    splits: usize,
    piece: usize,
) {
    if inner == 1 {
        let grid = Grid::blocks([outer, splits, 1], [256, 1, 1]);
        return launch("reduce_sum_rows", grid, args![&*y, x, n, piece]);
    }
    for first in (0..outer).step_by(OUTER) {
        let some = OUTER.min(outer - first);
        let grid = Grid::blocks([inner.div_ceil(32), splits, some], [32, 8, 1]);
        let (y, x) = (y.from(first * splits * inner), x.from(first * n * inner));
        launch("reduce_sum_columns", grid, args![&y, x, n, inner, piece]);
    }
}

/// As [`crate::cpu::reduce::backward`].
pub fn backward<T>(
    reduce: Reduce,
    dx: SliceMut<T>,
    dy: Slice<T>,
    indices: Option<Slice<u32>>,
    outer: usize,
    n: usize,
    inner: usize,
) {
    let numel = outer * n * inner;
    let grid = Grid::each(numel);
    match reduce {
        Reduce::Sum => launch("reduce_sum_backward", grid, args![&dx, dy, n, inner, numel]),
        Reduce::Max => {
            launch("reduce_max_backward", grid, args![&dx, dy, indices, n, inner, numel])
        }
    }
}

/// `y[c] = Σ` over the rows of `parts` `[rows, cols]`, for kernels that leave partial sums.
pub(super) fn add_rows<T>(mut y: SliceMut<T>, parts: Slice<T>, rows: usize, cols: usize) {
    stage(&mut y, parts, 1, rows, cols, 1, rows);
}
