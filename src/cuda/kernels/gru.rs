//! Launches of `kernels/gru.cu`.

use super::recurrent::Sequence;
use super::rnn::start;
use super::{reduce, scratch};
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::gru::forward`].
pub fn forward<T>(
    mut y: SliceMut<T>,
    mut gates: SliceMut<T>,
    gx: Slice<T>,
    w: Slice<T>,
    bias: Option<Slice<T>>,
    h0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let (n, wide) = (b * h, 3 * h);
    let Some(buffer) = scratch(y.gpu, b * wide * size_of::<T>()) else { return };
    for i in 0..t {
        let time = sequence.time(i);
        let before = sequence.before(y.shadow(), h0, i);
        let mut a = buffer.slice_mut::<T>(0, b * wide);
        sequence.forward(a.from(0), before, w, 3);
        let gx = sequence.at(gx, time, wide);
        let (y, gates) = (y.from(time * n), gates.from(time * 4 * n));
        launch("gru_cell", Grid::each(n), args![&y, &gates, &a, gx, bias, before, h, n]);
    }
}

/// As [`crate::cpu::gru::backward`].
pub fn backward<T>(
    dgx: SliceMut<T>,
    dw: SliceMut<T>,
    db: Option<SliceMut<T>>,
    mut dh0: SliceMut<T>,
    dy: Option<Slice<T>>,
    dh_n: Option<Slice<T>>,
    y: Slice<T>,
    gates: Slice<T>,
    w: Slice<T>,
    h0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let (n, wide) = (b * h, 3 * h);
    // da differs from dgx in its last third.
    let Some(buffer) = scratch(dgx.gpu, t * b * wide * size_of::<T>()) else { return };
    let all = buffer.slice::<T>(0, t * b * wide);
    start(dh0.from(0), dh_n, n);
    for i in (0..t).rev() {
        let time = sequence.time(i);
        let (here, da) = (sequence.at(dgx.read(), time, wide), sequence.at(all, time, wide));
        let dy = dy.map(|dy| sequence.at(dy, time, h));
        let (gates, before) = (sequence.at(gates, time, 4 * h), sequence.before(y, h0, i));
        let arguments = args![here, da, &dh0, dy, gates, before, h, n];
        launch("gru_cell_backward", Grid::each(n), arguments);
        sequence.backward(dh0.from(0), da, w, 3, true);
    }
    sequence.weight_gradient(dw, 3, all, y, h0);
    if let Some(db) = db {
        reduce::forward(reduce::Reduce::Sum, db, None, all, 1, t * b, wide);
    }
}
