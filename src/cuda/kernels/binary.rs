//! Launches of `kernels/binary.cu`.

use super::strided::Walk;
pub use crate::cpu::binary::Binary;
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::binary::forward`].
pub fn forward<T>(
    op: Binary,
    y: SliceMut<T>,
    a: Slice<T>,
    a_strides: &[usize],
    b: Slice<T>,
    b_strides: &[usize],
    shape: &[usize],
) {
    if let Some(walk) = Walk::new(shape, &[a_strides, b_strides]) {
        let n = y.len();
        launch("binary_forward", Grid::each(n), args![op as u32, &y, a, b, walk.arg(), n]);
    }
}

/// As [`crate::cpu::binary::backward`].
pub fn backward<T>(
    op: Binary,
    da: Option<SliceMut<T>>,
    db: Option<SliceMut<T>>,
    dy: Slice<T>,
    a: Slice<T>,
    a_strides: &[usize],
    b: Slice<T>,
    b_strides: &[usize],
    shape: &[usize],
) {
    if let Some(walk) = Walk::new(shape, &[a_strides, b_strides]) {
        let (da, db, n) = (da.as_ref(), db.as_ref(), dy.len());
        let arguments = args![op as u32, da, db, dy, a, b, walk.arg(), n];
        launch("binary_backward", Grid::each(n), arguments);
    }
}

/// As [`crate::cpu::binary::add_assign`].
pub fn add_assign<T>(y: SliceMut<T>, x: Slice<T>) {
    launch("binary_add_assign", Grid::each(y.len()), args![&y, x, y.len()]);
}

/// As [`crate::cpu::binary::select`].
pub fn select<T>(
    y: SliceMut<T>,
    cond: Slice<u32>,
    cond_strides: &[usize],
    a: Slice<T>,
    a_strides: &[usize],
    b: Slice<T>,
    b_strides: &[usize],
    shape: &[usize],
) {
    if let Some(walk) = Walk::new(shape, &[cond_strides, a_strides, b_strides]) {
        launch("binary_select", Grid::each(y.len()), args![&y, cond, a, b, walk.arg(), y.len()]);
    }
}
