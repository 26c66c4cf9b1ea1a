//! Launches of `kernels/norm.cu`.

use super::scratch;
use crate::cuda::launch::{Grid, args, clear, launch};
use crate::cuda::{Slice, SliceMut};

/// Partial sums.
const PARTS: usize = 512;

/// `total = Σ x²`, where [`crate::cpu::norm::sum_of_squares`] returns it.
pub fn sum_of_squares(mut total: SliceMut<f64>, x: Slice<f32>) {
    let n = x.len();
    let blocks = n.div_ceil(256).min(PARTS);
    if blocks == 0 {
        return clear(&mut total);
    }
    let Some(buffer) = scratch(total.gpu, blocks * size_of::<f64>()) else { return };
    let parts = buffer.slice_mut::<f64>(0, blocks);
    launch("norm_squares", Grid::rows(blocks), args![&parts, x, n]);
    launch("norm_total", Grid::rows(1), args![&total, parts.read(), blocks]);
}
