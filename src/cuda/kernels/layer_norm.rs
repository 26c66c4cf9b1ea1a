//! Launches of `kernels/layer_norm.cu`.

use super::{pieces, reduce, scratch};
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::layer_norm::forward`].
pub fn forward<T>(
    y: SliceMut<T>,
    mean: SliceMut<T>,
    rstd: SliceMut<T>,
    x: Slice<T>,
    w: Option<Slice<T>>,
    b: Option<Slice<T>>,
    rows: usize,
    cols: usize,
    eps: f64,
) {
    let arguments = args![&y, &mean, &rstd, x, w, b, cols, eps as f32];
    launch("layer_norm_forward", Grid::rows(rows), arguments);
}

/// As [`crate::cpu::layer_norm::backward`].
pub fn backward<T>(
    dx: SliceMut<T>,
    dw: Option<SliceMut<T>>,
    db: Option<SliceMut<T>>,
    dy: Slice<T>,
    x: Slice<T>,
    w: Option<Slice<T>>,
    mean: Slice<T>,
    rstd: Slice<T>,
    rows: usize,
    cols: usize,
) {
    let arguments = args![&dx, dy, x, w, mean, rstd, cols];
    launch("layer_norm_backward", Grid::rows(rows), arguments);
    if dw.is_none() && db.is_none() {
        return;
    }
    let (splits, piece) = pieces(rows, cols.div_ceil(32));
    let n = splits * cols;
    let Some(buffer) = scratch(dx.gpu, 2 * n * size_of::<T>()) else { return };
    let parts = |there: bool, at: usize| there.then(|| buffer.slice_mut::<T>(at, n));
    let (dw_parts, db_parts) = (parts(dw.is_some(), 0), parts(db.is_some(), n));
    let grid = Grid::blocks([cols.div_ceil(32), splits, 1], [32, 8, 1]);
    let arguments =
        args![dw_parts.as_ref(), db_parts.as_ref(), dy, x, mean, rstd, rows, cols, piece];
    launch("layer_norm_backward_parameters", grid, arguments);
    for (total, parts) in [(dw, dw_parts), (db, db_parts)] {
        if let (Some(total), Some(parts)) = (total, parts) {
            reduce::add_rows(total, parts.read(), splits, cols);
        }
    }
}
