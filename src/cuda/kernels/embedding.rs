//! Launches of `kernels/embedding.cu`.

use crate::cuda::launch::{Arg, Grid, args, clear, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::embedding::forward`]; ids out of range are reported later.
pub fn forward<E>(y: SliceMut<E>, w: Slice<E>, ids: Slice<u32>, width: usize) {
    let (name, n) = (format!("embedding_forward_{}", size_of::<E>()), y.len());
    let vocab = w.len() / width.max(1);
    launch(&name, Grid::each(n), args![&y, w, ids, width, vocab, n, Arg::Fault]);
}

/// As [`crate::cpu::embedding::backward`].
pub fn backward<T>(mut dw: SliceMut<T>, dy: Slice<T>, ids: Slice<u32>, vocab: usize, width: usize) {
    clear(&mut dw);
    add(dw, dy, ids, vocab, width);
}

/// Adds each row of `dy` to the row of `dw` that its id names, in order.
pub(super) fn add<T>(dw: SliceMut<T>, dy: Slice<T>, ids: Slice<u32>, vocab: usize, width: usize) {
    let tokens = ids.len();
    launch("embedding_backward", Grid::rows(tokens), args![&dw, dy, ids, tokens, vocab, width]);
}
