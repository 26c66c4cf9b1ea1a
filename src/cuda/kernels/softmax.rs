//! Launches of `kernels/softmax.cu`.

use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::softmax::forward`].
pub fn forward<T>(y: SliceMut<T>, x: Slice<T>, rows: usize, cols: usize) {
    launch("softmax_forward", Grid::rows(rows), args![&y, x, cols]);
}

/// As [`crate::cpu::softmax::log_forward`].
pub fn log_forward<T>(y: SliceMut<T>, x: Slice<T>, rows: usize, cols: usize) {
    launch("softmax_log_forward", Grid::rows(rows), args![&y, x, cols]);
}

/// As [`crate::cpu::softmax::backward`].
pub fn backward<T>(dx: SliceMut<T>, dy: Slice<T>, y: Slice<T>, rows: usize, cols: usize) {
    launch("softmax_backward", Grid::rows(rows), args![&dx, dy, y, cols]);
}

/// As [`crate::cpu::softmax::log_backward`].
pub fn log_backward<T>(dx: SliceMut<T>, dy: Slice<T>, y: Slice<T>, rows: usize, cols: usize) {
    launch("softmax_log_backward", Grid::rows(rows), args![&dx, dy, y, cols]);
}
