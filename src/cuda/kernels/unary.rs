//! Launches of `kernels/unary.cu`.

pub use crate::cpu::unary::Unary;

use crate::cpu::unary::Saves;
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::unary::forward`].
pub fn forward<T>(op: Unary, y: SliceMut<T>, x: Slice<T>) {
    launch("unary_forward", Grid::each(y.len()), args![op as u32, &y, x, y.len()]);
}

/// As [`crate::cpu::unary::backward`].
pub fn backward<T>(op: Unary, dx: SliceMut<T>, dy: Slice<T>, x: Slice<T>, y: Slice<T>) {
    let kept = match op.saves() {
        Saves::Input => x,
        Saves::Output => y,
        Saves::Neither => dy,
    };
    launch("unary_backward", Grid::each(dx.len()), args![op as u32, &dx, dy, kept, dx.len()]);
}

/// As [`crate::cpu::unary::add_scalar`].
pub fn add_scalar<T>(y: SliceMut<T>, x: Slice<T>, c: f64) {
    launch("unary_add_scalar", Grid::each(y.len()), args![&y, x, c as f32, y.len()]);
}

/// As [`crate::cpu::unary::scale`].
pub fn scale<T>(y: SliceMut<T>, x: Slice<T>, c: f64) {
    launch("unary_scale", Grid::each(y.len()), args![&y, x, c as f32, y.len()]);
}

/// As [`crate::cpu::unary::powf`].
pub fn powf<T>(y: SliceMut<T>, x: Slice<T>, exponent: f64) {
    launch("unary_powf", Grid::each(y.len()), args![&y, x, exponent as f32, y.len()]);
}

/// As [`crate::cpu::unary::powf_backward`].
pub fn powf_backward<T>(dx: SliceMut<T>, dy: Slice<T>, x: Slice<T>, exponent: f64) {
    let n = dx.len();
    launch("unary_powf_backward", Grid::each(n), args![&dx, dy, x, exponent as f32, n]);
}
