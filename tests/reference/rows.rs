//! Reductions, softmax and the two norms.

use super::{Array, axis_of, indices};

/// The sum or the mean over `dims`, over all axes where there are none.
pub fn sum(x: &Array, dims: &[i64], keepdim: bool, mean: bool) -> Array {
    let reduced: Vec<bool> = (0..x.rank())
        .map(|axis| dims.is_empty() || dims.iter().any(|&d| axis_of(x.rank(), d) == axis))
        .collect();
    let kept: Vec<usize> =
        x.shape.iter().zip(&reduced).map(|(&n, &gone)| if gone { 1 } else { n }).collect();
    let mut out = Array::zeros(&kept);
    for index in indices(&x.shape) {
        let to: Vec<usize> =
            index.iter().zip(&reduced).map(|(&i, &gone)| if gone { 0 } else { i }).collect();
        *out.at_mut(&to) += x.at(&index);
    }
    if mean {
        let count: usize =
            x.shape.iter().zip(&reduced).filter(|(_, r)| **r).map(|(n, _)| n).product();
        out.data.iter_mut().for_each(|y| *y /= count as f64);
    }
    if !keepdim {
        out.shape = x.shape.iter().zip(&reduced).filter(|(_, r)| !**r).map(|(&n, _)| n).collect();
    }
    out
}

/// The largest value along `dim` and the index of the first of them; NaN counts as largest.
pub fn max(x: &Array, dim: i64, keepdim: bool) -> (Array, Array) {
    let axis = axis_of(x.rank(), dim);
    let mut shape = x.shape.clone();
    shape[axis] = 1;
    let (mut values, mut places) = (Array::zeros(&shape), Array::zeros(&shape));
    for index in indices(&shape) {
        let mut best = index.clone();
        for i in 1..x.shape[axis] {
            let mut here = index.clone();
            here[axis] = i;
            let (new, old) = (x.at(&here), x.at(&best));
            if !old.is_nan() && (new > old || new.is_nan()) {
                best = here;
            }
        }
        *values.at_mut(&index) = x.at(&best);
        *places.at_mut(&index) = best[axis] as f64;
    }
    if !keepdim {
        values.shape.remove(axis);
        places.shape.remove(axis);
    }
    (values, places)
}

pub fn softmax(x: &Array, dim: i64, log: bool) -> Array {
    let axis = axis_of(x.rank(), dim);
    Array::build(&x.shape, |index| {
        let along = |i: usize| {
            let mut here = index.to_vec();
            here[axis] = i;
            x.at(&here)
        };
        let n = x.shape[axis];
        let largest = (0..n).map(along).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = (0..n).map(|i| (along(i) - largest).exp()).sum();
        if log { x.at(index) - largest - total.ln() } else { (x.at(index) - largest).exp() / total }
    })
}

/// The rows (last axis) of an array, changed by `f` in place.
fn by_row(x: &Array, f: impl Fn(&mut [f64])) -> Array {
    let mut y = x.clone();
    let cols = *x.shape.last().expect("a norm needs an axis");
    if cols > 0 {
        y.data.chunks_mut(cols).for_each(f);
    }
    y
}

pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f64) -> Array {
    by_row(x, |row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        for (j, x) in row.iter_mut().enumerate() {
            let (w, b) = (weight.map_or(1.0, |w| w.data[j]), bias.map_or(0.0, |b| b.data[j]));
            *x = (*x - mean) / (variance + eps).sqrt() * w + b;
        }
    })
}

pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f64) -> Array {
    by_row(x, |row| {
        let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        for (j, x) in row.iter_mut().enumerate() {
            *x = *x / (square + eps).sqrt() * weight.map_or(1.0, |w| w.data[j]);
        }
    })
}
