//! Launches of `kernels/index.cu`.

use super::embedding;
use crate::cuda::launch::{Arg, Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::index::index_select`]; ids out of range are reported later.
pub fn index_select<E>(
    y: SliceMut<E>,
    x: Slice<E>,
    ids: Slice<u32>,
    _outer: usize,
    n: usize,
    inner: usize,
) {
    let (name, numel, m) = (format!("index_select_{}", size_of::<E>()), y.len(), ids.len());
    launch(&name, Grid::each(numel), args![&y, x, ids, n, m, inner, numel, Arg::Fault]);
}

/// As [`crate::cpu::index::index_add`].
pub fn index_add<T>(
    dx: SliceMut<T>,
    dy: Slice<T>,
    ids: Slice<u32>,
    outer: usize,
    n: usize,
    inner: usize,
) {
    if outer == 1 {
        return embedding::add(dx, dy, ids, n, inner); // a block for each row
    }
    let columns = outer * inner;
    launch("index_add", Grid::each(columns), args![&dx, dy, ids, n, ids.len(), inner, columns]);
}

/// As [`crate::cpu::index::gather`]; ids out of range are reported later.
pub fn gather<E>(
    y: SliceMut<E>,
    x: Slice<E>,
    ids: Slice<u32>,
    _outer: usize,
    n: usize,
    m: usize,
    inner: usize,
) {
    let (name, numel) = (format!("index_gather_{}", size_of::<E>()), y.len());
    launch(&name, Grid::each(numel), args![&y, x, ids, n, m, inner, numel, Arg::Fault]);
}

/// As [`crate::cpu::index::scatter_add`]; ids out of range are reported later.
pub fn scatter_add<T>(
    y: SliceMut<T>,
    src: Slice<T>,
    ids: Slice<u32>,
    outer: usize,
    n: usize,
    m: usize,
    inner: usize,
) {
    let columns = outer * inner;
    let arguments = args![&y, src, ids, n, m, inner, columns, Arg::Fault];
    launch("index_scatter_add", Grid::each(columns), arguments);
}
