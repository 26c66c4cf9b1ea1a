//! Launches of `kernels/bce_with_logits.cu`.

use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::bce_with_logits::forward`].
pub fn forward<T>(
    losses: SliceMut<T>,
    x: Slice<T>,
    t: Slice<T>,
    weight: Option<Slice<T>>,
    numel: usize,
    cols: usize,
) {
    let arguments = args![&losses, x, t, weight, numel, cols];
    launch("bce_with_logits_forward", Grid::each(numel), arguments);
}

/// As [`crate::cpu::bce_with_logits::backward`].
pub fn backward<T>(
    dx: SliceMut<T>,
    g: Slice<T>,
    x: Slice<T>,
    t: Slice<T>,
    weight: Option<Slice<T>>,
    numel: usize,
    cols: usize,
) {
    let arguments = args![&dx, g, x, t, weight, numel, cols];
    launch("bce_with_logits_backward", Grid::each(numel), arguments);
}
