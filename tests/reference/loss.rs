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

/// All paths of tags of a row of emissions `[T, K]` over its first `n` words, each with its score: one path
/// after the other, no dynamic programming.
fn scored_paths(x: &[Array], row: usize, n: usize) -> Vec<(Vec<usize>, f64)> {
    let k = x[0].shape[2];
    let mut all = vec![(Vec::new(), 0.0)];
    for step in 0..n {
        let longer = |(path, score): &(Vec<usize>, f64), tag: usize| {
            let before = match path.last() {
                Some(&from) => x[1].at(&[from, tag]),
                None => x[2].at(&[tag]),
            };
            let path: Vec<usize> = path.iter().copied().chain([tag]).collect();
            (path, score + before + x[0].at(&[row, step, tag]))
        };
        all = all.iter().flat_map(|path| (0..k).map(move |tag| longer(path, tag))).collect();
    }
    for (path, score) in &mut all {
        *score += x[3].at(&[*path.last().expect("a row has a word")]);
    }
    all
}

/// Emissions, transitions, start, end, tags, lengths: the sum over all paths, one by one.
pub fn crf(x: &[Array]) -> Array {
    let loss = |row: usize| {
        let n = x[5].at(&[row]) as usize;
        let gold: Vec<usize> = (0..n).map(|t| x[4].at(&[row, t]) as usize).collect();
        let all = scored_paths(x, row, n);
        let own =
            all.iter().find(|(path, _)| *path == gold).expect("the gold path is one of all").1;
        all.iter().map(|(_, score)| (score - own).exp()).sum::<f64>().ln()
    };
    Array::build(&[x[5].shape[0]], |i| loss(i[0]))
}

/// Emissions, transitions, start, end, lengths: the best of all paths.
pub fn viterbi(x: &[Array]) -> Array {
    let (b, t) = (x[0].shape[0], x[0].shape[1]);
    let mut out = Array::zeros(&[b, t]);
    for row in 0..b {
        let all = scored_paths(x, row, x[4].at(&[row]) as usize);
        let (path, _) = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there is a path");
        for (step, &tag) in path.iter().enumerate() {
            *out.at_mut(&[row, step]) = tag as f64;
        }
    }
    out
}
