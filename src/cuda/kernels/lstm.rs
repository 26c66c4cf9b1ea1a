//! Launches of `kernels/lstm.cu`.

use super::recurrent::Sequence;
use super::rnn::start;
use super::{reduce, scratch};
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::lstm::forward`].
pub fn forward<T>(
    mut y: SliceMut<T>,
    mut c: SliceMut<T>,
    mut gates: SliceMut<T>,
    gx: Slice<T>,
    w: Slice<T>,
    bias: Option<Slice<T>>,
    h0: Slice<T>,
    c0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let (n, wide) = (b * h, 4 * h);
    let Some(buffer) = scratch(y.gpu, b * wide * size_of::<T>()) else { return };
    for i in 0..t {
        let time = sequence.time(i);
        let h_before = sequence.before(y.shadow(), h0, i);
        let c_before = sequence.before(c.shadow(), c0, i);
        let mut z = buffer.slice_mut::<T>(0, b * wide);
        sequence.forward(z.from(0), h_before, w, 4);
        let gx = sequence.at(gx, time, wide);
        let (y, c) = (y.from(time * n), c.from(time * n));
        let gates = gates.from(time * b * wide);
        launch("lstm_cell", Grid::each(n), args![&y, &c, &gates, &z, gx, bias, c_before, h, n]);
    }
}

/// As [`crate::cpu::lstm::backward`].
pub fn backward<T>(
    dgx: SliceMut<T>,
    dw: SliceMut<T>,
    db: Option<SliceMut<T>>,
    mut dh0: SliceMut<T>,
    mut dc0: SliceMut<T>,
    dy: Option<Slice<T>>,
    dh_n: Option<Slice<T>>,
    dc_n: Option<Slice<T>>,
    y: Slice<T>,
    c: Slice<T>,
    gates: Slice<T>,
    w: Slice<T>,
    h0: Slice<T>,
    c0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let (n, wide) = (b * h, 4 * h);
    // dh0 and dc0 carry the gradients from step to step.
    start(dh0.from(0), dh_n, n);
    start(dc0.from(0), dc_n, n);
    for i in (0..t).rev() {
        let time = sequence.time(i);
        let dz = sequence.at(dgx.read(), time, wide);
        let dy = dy.map(|dy| sequence.at(dy, time, h));
        let (c_here, c_before) = (sequence.at(c, time, h), sequence.before(c, c0, i));
        let gates = sequence.at(gates, time, wide);
        let arguments = args![dz, &dc0, dy, &dh0, c_here, c_before, gates, h, n];
        launch("lstm_cell_backward", Grid::each(n), arguments);
        sequence.backward(dh0.from(0), dz, w, 4, false);
    }
    sequence.weight_gradient(dw, 4, dgx.read(), y, h0);
    if let Some(db) = db {
        reduce::forward(reduce::Reduce::Sum, db, None, dgx.read(), 1, t * b, wide);
    }
}
