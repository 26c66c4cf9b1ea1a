//! Launches of `kernels/rms_norm.cu`.

use super::{pieces, reduce, scratch};
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::rms_norm::forward`].
pub fn forward<T>(
    y: SliceMut<T>,
    rstd: SliceMut<T>,
    x: Slice<T>,
    w: Option<Slice<T>>,
    rows: usize,
    cols: usize,
    eps: f64,
) {
    let arguments = args![&y, &rstd, x, w, cols, eps as f32];
    launch("rms_norm_forward", Grid::rows(rows), arguments);
}

/// As [`crate::cpu::rms_norm::backward`].
pub fn backward<T>(
    dx: SliceMut<T>,
    dw: Option<SliceMut<T>>,
    dy: Slice<T>,
    x: Slice<T>,
    w: Option<Slice<T>>,
    rstd: Slice<T>,
    rows: usize,
    cols: usize,
) {
    launch("rms_norm_backward", Grid::rows(rows), args![&dx, dy, x, w, rstd, cols]);
    let Some(dw) = dw else { return };
    let (splits, piece) = pieces(rows, cols.div_ceil(32));
    let n = splits * cols;
    let Some(buffer) = scratch(dx.gpu, n * size_of::<T>()) else { return };
    let parts = buffer.slice_mut::<T>(0, n);
    let grid = Grid::blocks([cols.div_ceil(32), splits, 1], [32, 8, 1]);
    let arguments = args![&parts, dy, x, rstd, rows, cols, piece];
    launch("rms_norm_backward_parameters", grid, arguments);
    reduce::add_rows(dw, parts.read(), splits, cols);
}
