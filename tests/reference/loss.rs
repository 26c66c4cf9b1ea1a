//! The two losses.

use super::Array;
use super::elementwise::sigmoid;
use handloom::ops::registry::Attrs;

/// PyTorch's definition: smoothing spreads its share over all classes, class weights weigh each
/// class's part, the mean divides by the weights of the targets that count.
pub fn cross_entropy(logits: &Array, targets: &Array, weight: Option<&Array>, a: &Attrs) -> Array {
    let classes = *logits.shape.last().expect("logits have classes");
    let smoothing = a.float("label_smoothing");
    let ignored = if a.has("ignore_index") { a.int("ignore_index") as f64 } else { -1.0 };
    let weight_of = |class: usize| weight.map_or(1.0, |w| w.data[class]);
    let (mut losses, mut total) = (Vec::new(), 0.0);
    for (row, &target) in targets.data.iter().enumerate() {
        if target == ignored {
            losses.push(0.0);
            continue;
        }
        let target = target as usize;
        let row = &logits.data[row * classes..][..classes];
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        let hard = weight_of(target) * (lse - row[target]);
        let even: f64 = (0..classes).map(|c| weight_of(c) * (lse - row[c])).sum();
        losses.push((1.0 - smoothing) * hard + smoothing / classes as f64 * even);
        total += weight_of(target);
    }
    match a.int("reduction") {
        0 => Array::new(&[], vec![losses.iter().sum::<f64>() / total]),
        1 => Array::new(&[], vec![losses.iter().sum()]),
        _ => Array::new(&targets.shape, losses),
    }
}

pub fn binary_cross_entropy(x: &Array, t: &Array, pos_weight: Option<&Array>) -> Array {
    let cols = *x.shape.last().unwrap_or(&1);
    let loss = |i: usize| {
        let (x, t) = (x.data[i], t.data[i]);
        let q = pos_weight.map_or(1.0, |w| w.data[i % cols]);
        -(q * t * sigmoid(x).ln() + (1.0 - t) * sigmoid(-x).ln())
    };
    let n = x.data.len();
    Array::new(&[], vec![(0..n).map(loss).sum::<f64>() / n as f64])
}
