//! Launches of `kernels/dropout.cu`.

use crate::cpu::philox::Key;
use crate::cuda::launch::{Arg, Grid, args, clear, launch, random};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::dropout::forward`]: the same elements are dropped.
pub fn forward<T>(mut y: SliceMut<T>, x: Slice<T>, p: f64, key: Key) {
    if p >= 1.0 {
        return clear(&mut y);
    }
    let (below, scale) = ((p * (1u64 << 32) as f64) as u32, (1.0 / (1.0 - p)) as f32);
    let random = random(y.gpu, key);
    let random = Arg::Bytes(bytemuck::bytes_of(&random));
    let (n, blocks) = (y.len(), y.len().div_ceil(64) * 16);
    launch("dropout_forward", Grid::each(blocks), args![&y, x, below, scale, random, n, blocks]);
}

/// As [`crate::cpu::dropout::backward`].
pub fn backward<T>(dx: SliceMut<T>, dy: Slice<T>, p: f64, key: Key) {
    forward(dx, dy, p, key);
}
