//! The three recurrences, one unit at a time. Inputs: gx `[T, B, G·H]`, w `[G·H, H]`, the states `[B, H]`
//! and, where there is one, the bias `[G·H]`. Outputs: y and the last states.

use super::Array;
use super::elementwise::sigmoid;
use handloom::ops::registry::Attrs;

/// Calls `step(t, b)` for every step, in the order of time or against it.
fn steps(t: usize, b: usize, a: &Attrs, mut step: impl FnMut(usize, usize)) {
    for n in 0..t {
        let now = if a.flag("reverse") { t - 1 - n } else { n };
        (0..b).for_each(|b| step(now, b));
    }
}

/// `(w h + bias)` of row `row` for sequence `b`.
fn recurrent(w: &Array, bias: Option<&Array>, h: &Array, b: usize, row: usize) -> f64 {
    let size = h.shape[1];
    let dot: f64 = (0..size).map(|j| w.at(&[row, j]) * h.at(&[b, j])).sum();
    dot + bias.map_or(0.0, |x| x.data[row])
}

pub fn rnn(x: &[Array], a: &Attrs) -> Vec<Array> {
    let (gx, w, bias, mut h) = (&x[0], &x[1], x.get(3), x[2].clone());
    let size = w.shape[1];
    let mut y = Array::zeros(&[gx.shape[0], gx.shape[1], size]);
    steps(gx.shape[0], gx.shape[1], a, |t, b| {
        let z: Vec<f64> =
            (0..size).map(|u| gx.at(&[t, b, u]) + recurrent(w, bias, &h, b, u)).collect();
        for (u, z) in z.into_iter().enumerate() {
            let new = if a.flag("relu") { z.max(0.0) } else { z.tanh() };
            *h.at_mut(&[b, u]) = new;
            *y.at_mut(&[t, b, u]) = new;
        }
    });
    vec![y, h]
}

pub fn lstm(x: &[Array], a: &Attrs) -> Vec<Array> {
    let (gx, w, bias) = (&x[0], &x[1], x.get(4));
    let (mut h, mut c) = (x[2].clone(), x[3].clone());
    let size = w.shape[1];
    let mut y = Array::zeros(&[gx.shape[0], gx.shape[1], size]);
    steps(gx.shape[0], gx.shape[1], a, |t, b| {
        let z: Vec<f64> =
            (0..4 * size).map(|u| gx.at(&[t, b, u]) + recurrent(w, bias, &h, b, u)).collect();
        for u in 0..size {
            let (i, f) = (sigmoid(z[u]), sigmoid(z[size + u]));
            let (g, o) = (z[2 * size + u].tanh(), sigmoid(z[3 * size + u]));
            let cell = f * c.at(&[b, u]) + i * g;
            *c.at_mut(&[b, u]) = cell;
            *h.at_mut(&[b, u]) = o * cell.tanh();
            *y.at_mut(&[t, b, u]) = o * cell.tanh();
        }
    });
    vec![y, h, c]
}

pub fn gru(x: &[Array], a: &Attrs) -> Vec<Array> {
    let (gx, w, bias, mut h) = (&x[0], &x[1], x.get(3), x[2].clone());
    let size = w.shape[1];
    let mut y = Array::zeros(&[gx.shape[0], gx.shape[1], size]);
    steps(gx.shape[0], gx.shape[1], a, |t, b| {
        let s: Vec<f64> = (0..3 * size).map(|u| recurrent(w, bias, &h, b, u)).collect();
        for u in 0..size {
            let r = sigmoid(gx.at(&[t, b, u]) + s[u]);
            let z = sigmoid(gx.at(&[t, b, size + u]) + s[size + u]);
            let n = (gx.at(&[t, b, 2 * size + u]) + r * s[2 * size + u]).tanh();
            let new = (1.0 - z) * n + z * h.at(&[b, u]);
            *h.at_mut(&[b, u]) = new;
            *y.at_mut(&[t, b, u]) = new;
        }
    });
    vec![y, h]
}
