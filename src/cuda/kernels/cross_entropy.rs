//! Launches of `kernels/cross_entropy.cu`.

use crate::cuda::launch::{Arg, Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::cross_entropy::Options`].
pub struct Options<'a, T> {
    /// Rows with this target do not count.
    pub ignore_index: u32,
    /// The share of the target's mass that goes evenly to all classes.
    pub label_smoothing: f64,
    /// One weight a class.
    pub class_weights: Option<Slice<'a, T>>,
}

/// As [`crate::cpu::cross_entropy::forward`]; targets out of range are reported later.
pub fn forward<T>(
    losses: SliceMut<T>,
    counted: SliceMut<T>,
    lse: SliceMut<T>,
    x: Slice<T>,
    t: Slice<u32>,
    rows: usize,
    classes: usize,
    options: &Options<T>,
) {
    let (ignore, smoothing) = (options.ignore_index, options.label_smoothing as f32);
    let weights = options.class_weights;
    let (out, grid) = ((&losses, &counted, &lse), Grid::rows(rows));
    let arguments =
        args![out.0, out.1, out.2, x, t, classes, ignore, smoothing, weights, Arg::Fault];
    launch("cross_entropy_forward", grid, arguments);
}

/// As [`crate::cpu::cross_entropy::backward`].
pub fn backward<T>(
    dx: SliceMut<T>,
    lse: Slice<T>,
    x: Slice<T>,
    t: Slice<u32>,
    rows: usize,
    classes: usize,
    scale: Slice<T>,
    options: &Options<T>,
) {
    let (ignore, smoothing) = (options.ignore_index, options.label_smoothing as f32);
    let weights = options.class_weights;
    let arguments = args![&dx, lse, x, t, classes, scale, ignore, smoothing, weights];
    launch("cross_entropy_backward", Grid::rows(rows), arguments);
}

/// As [`crate::cpu::cross_entropy::backward_in_place`].
pub fn backward_in_place<T>(
    both: SliceMut<T>,
    lse: Slice<T>,
    t: Slice<u32>,
    rows: usize,
    classes: usize,
    scale: Slice<T>,
    options: &Options<T>,
) {
    let (ignore, smoothing) = (options.ignore_index, options.label_smoothing as f32);
    let weights = options.class_weights;
    let arguments = args![&both, lse, &both, t, classes, scale, ignore, smoothing, weights];
    launch("cross_entropy_backward", Grid::rows(rows), arguments);
}
