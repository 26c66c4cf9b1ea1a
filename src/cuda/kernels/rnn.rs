//! Launches of `kernels/rnn.cu`.

use super::recurrent::Sequence;
use super::{reduce, strided};
pub use crate::cpu::rnn::Nonlinearity;
use crate::cuda::launch::{Grid, args, clear, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::rnn::forward`].
pub fn forward<T>(
    mut y: SliceMut<T>,
    gx: Slice<T>,
    w: Slice<T>,
    bias: Option<Slice<T>>,
    h0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    nonlinearity: Nonlinearity,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let relu = u32::from(nonlinearity == Nonlinearity::Relu);
    for i in 0..t {
        let time = sequence.time(i);
        let here = time * b * h;
        // The step before is another part of y than the one that is written.
        let before = sequence.before(y.shadow(), h0, i);
        sequence.forward(y.from(here), before, w, 1);
        let gx = sequence.at(gx, time, h);
        launch("rnn_cell", Grid::each(b * h), args![&y.from(here), gx, bias, h, relu, b * h]);
    }
}

/// The gradient of the last state, 0 where none has come.
pub(super) fn start<T>(mut carry: SliceMut<T>, arrived: Option<Slice<T>>, n: usize) {
    match arrived {
        Some(arrived) => strided::copy(carry, arrived, &[1], &[n]),
        None => clear(&mut carry),
    }
}

/// As [`crate::cpu::rnn::backward`].
pub fn backward<T>(
    dgx: SliceMut<T>,
    dw: SliceMut<T>,
    db: Option<SliceMut<T>>,
    mut dh0: SliceMut<T>,
    dy: Option<Slice<T>>,
    dh_n: Option<Slice<T>>,
    y: Slice<T>,
    w: Slice<T>,
    h0: Slice<T>,
    t: usize,
    b: usize,
    h: usize,
    nonlinearity: Nonlinearity,
    reverse: bool,
) {
    let sequence = Sequence { t, b, h, reverse };
    let relu = u32::from(nonlinearity == Nonlinearity::Relu);
    let n = b * h;
    // dh0 carries the gradient from step to step.
    start(dh0.from(0), dh_n, n);
    for i in (0..t).rev() {
        let time = sequence.time(i);
        let dz = sequence.at(dgx.read(), time, h);
        let dy = dy.map(|dy| sequence.at(dy, time, h));
        let y = sequence.at(y, time, h);
        launch("rnn_cell_backward", Grid::each(n), args![dz, dy, &dh0, y, relu, n]);
        sequence.backward(dh0.from(0), dz, w, 1, false);
    }
    sequence.weight_gradient(dw, 1, dgx.read(), y, h0);
    if let Some(db) = db {
        reduce::forward(reduce::Reduce::Sum, db, None, dgx.read(), 1, t * b, h);
    }
}
