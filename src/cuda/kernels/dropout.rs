//! Launches of `kernels/dropout.cu`.

use crate::cpu::philox::{Key, Stream};
use crate::cuda::gpu::{Arg, Grid, args, clear, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::dropout::forward`]: the same elements are dropped.
pub fn forward<T>(mut y: SliceMut<T>, x: Slice<T>, p: f64, key: Key) {
    if p >= 1.0 {
        return clear(&mut y);
    }
    let (below, scale) = ((p * (1u64 << 32) as f64) as u32, (1.0 / (1.0 - p)) as f32);
    let words = Stream::new(key).words();
    let stream = Arg::Bytes(bytemuck::bytes_of(&words));
    let (n, blocks) = (y.len(), y.len().div_ceil(64) * 16);
    launch("dropout_forward", Grid::each(blocks), args![&y, x, below, scale, stream, n, blocks]);
}

/// As [`crate::cpu::dropout::backward`].
pub fn backward<T>(dx: SliceMut<T>, dy: Slice<T>, p: f64, key: Key) {
    forward(dx, dy, p, key);
}
