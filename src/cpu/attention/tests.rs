//! Against the formula in `f64`, and bit for bit against itself.

use super::*;
use crate::cpu::gemm::Tiles;
use crate::cpu::philox::bits;
use crate::cpu::simd::{at_every_level, at_level};

struct Case {
    shape: Shape,
    causal: bool,
    padding: Option<Vec<u32>>,
    dropout: Option<(f64, Key)>,
}

fn case(batch: usize, heads: usize, tq: usize, tk: usize, d: usize) -> Case {
    Case { shape: Shape { batch, heads, tq, tk, d }, causal: false, padding: None, dropout: None }
}

impl Case {
    fn causal(self) -> Case {
        Case { causal: true, ..self }
    }
    /// Pads some keys; those of the last batch all.
    fn padded(self) -> Case {
        let Shape { batch, tk, .. } = self.shape;
        let mask = |i: usize| (i / tk == batch - 1 || i % tk % 3 == 1) as u32;
        let padding = (0..batch * tk).map(mask).collect();
        Case { padding: Some(padding), ..self }
    }
    fn dropped(self, p: f64) -> Case {
        Case { dropout: Some((p, Key { seed: 3, stream: 1, step: 4 })), ..self }
    }
    fn options(&self) -> Options<'_> {
        let key_padding = self.padding.as_deref();
        Options {
            causal: self.causal,
            key_padding,
            scale: 0.4,
            dropout: self.dropout,
            precision: Precision::Highest,
        }
    }
    fn cases() -> Vec<Case> {
        vec![
            case(1, 1, 1, 1, 1),
            case(2, 3, 5, 7, 4),
            case(1, 2, 40, 40, 17).causal(),
            case(1, 1, 300, 300, 16).causal(),
            case(1, 1, 33, 600, 8),
            case(2, 1, 20, 290, 33).causal(),
            case(2, 2, 50, 70, 8).padded(),
            case(2, 1, 270, 270, 20).padded().causal(),
            case(1, 2, 100, 280, 16).causal().dropped(0.3),
            case(2, 1, 40, 40, 5).padded().dropped(0.5),
            case(1, 1, 4, 4, 4).dropped(1.0),
            case(1, 1, 3, 0, 4),
            case(0, 1, 3, 3, 4),
            case(1, 1, 0, 5, 4),
            case(1, 1, 2, 3, 0),
            case(1, 1, 5, 5, 300).causal(),
        ]
    }
}

fn numbers<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let key = Key { seed, ..Key::default() };
    let number = |i: usize| bits(key, i as u64)[0] as f64 / 2f64.powi(31) - 1.0;
    (0..len).map(|i| T::from_f64(number(i))).collect()
}

/// `[batch, t, heads, d]`: what joining heads wants.
fn inside(shape: &Shape, t: usize) -> Strides {
    Strides { batch: t * shape.heads * shape.d, head: shape.d, row: shape.heads * shape.d }
}

/// o, lse, dq, dk, dv of inputs q, k, v, dO, all lying as `[batch, t, heads, d]`.
fn ours<T: Real>(case: &Case, inputs: &[Vec<T>; 4]) -> [Vec<T>; 5] {
    let shape = &case.shape;
    let &Shape { batch, heads, tq, tk, d } = shape;
    let (qs, ks) = (inside(shape, tq), inside(shape, tk));
    let fresh = |len| vec![T::from_f64(f64::NAN); len];
    let (mut o, mut lse) = (fresh(batch * tq * heads * d), fresh(batch * heads * tq));
    let [q, k, v, d_o] = inputs;
    forward(&mut o, qs, &mut lse, q, qs, k, ks, v, ks, shape, &case.options());
    let (mut dq, mut dk, mut dv) = (fresh(q.len()), fresh(k.len()), fresh(v.len()));
    let gradients = Gradients::Apart {
        dq: &mut dq,
        dq_strides: qs,
        dk: &mut dk,
        dk_strides: ks,
        dv: &mut dv,
        dv_strides: ks,
    };
    backward(gradients, d_o, qs, &o, qs, &lse, q, qs, k, ks, v, ks, shape, &case.options());
    [o, lse, dq, dk, dv]
}

fn inputs<T: Real>(case: &Case) -> [Vec<T>; 4] {
    let Shape { batch, heads, tq, tk, d } = case.shape;
    let (q, k) = (batch * heads * tq * d, batch * heads * tk * d);
    [numbers(q, 1), numbers(k, 2), numbers(k, 3), numbers(q, 4)]
}

/// The formula, one query after the other.
fn oracle(case: &Case, inputs: &[Vec<f64>; 4]) -> [Vec<f64>; 5] {
    let Case { shape, causal, .. } = case;
    let &Shape { batch, heads, tq, tk, d } = shape;
    let (qs, ks) = (inside(shape, tq), inside(shape, tk));
    let [q, k, v, d_o] = inputs;
    let scale = case.options().scale;
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![f64::INFINITY; batch * heads * tq]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
    for (b, h, i) in (0..batch)
        .flat_map(|b| (0..heads).map(move |h| (b, h)))
        .flat_map(|(b, h)| (0..tq).map(move |i| (b, h, i)))
    {
        let row = (b * heads + h) * tq + i;
        let qi = qs.at(b, h, i);
        let keys: Vec<usize> = (0..tk)
            .filter(|&j| !causal || j <= i + tk - tq)
            .filter(|&j| case.padding.as_ref().is_none_or(|mask| mask[b * tk + j] == 0))
            .collect();
        if keys.is_empty() {
            continue;
        }
        let dot = |x: &[f64], xi: usize, y: &[f64], yi: usize| {
            (0..d).map(|e| x[xi + e] * y[yi + e]).sum::<f64>()
        };
        let scores: Vec<f64> =
            keys.iter().map(|&j| scale * dot(q, qi, k, ks.at(b, h, j))).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lse[row] = max + scores.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        let p: Vec<f64> = scores.iter().map(|x| (x - lse[row]).exp()).collect();
        let factor = |j: usize| {
            case.dropout.map_or(1.0, |(p, key)| {
                let block = row * 16 * tk.div_ceil(64) + 16 * (j / 64) + j % 16;
                let word = bits(key, block as u64)[j % 64 / 16] as f64;
                if p < 1.0 && word >= (p * 4_294_967_296.0).floor() { 1.0 / (1.0 - p) } else { 0.0 }
            })
        };
        for (&j, p) in keys.iter().zip(&p) {
            for e in 0..d {
                o[qi + e] += factor(j) * p * v[ks.at(b, h, j) + e];
            }
        }
        let delta = dot(d_o, qi, &o, qi);
        for (&j, p) in keys.iter().zip(&p) {
            let kj = ks.at(b, h, j);
            let ds = scale * p * (factor(j) * dot(d_o, qi, v, kj) - delta);
            for e in 0..d {
                dv[kj + e] += factor(j) * p * d_o[qi + e];
                dq[qi + e] += ds * k[kj + e];
                dk[kj + e] += ds * q[qi + e];
            }
        }
    }
    [o, lse, dq, dk, dv]
}

fn close<T: Real>(case: &Case, tolerance: f64) {
    let wide = inputs::<f64>(case);
    let narrow = wide.each_ref().map(|x| x.iter().map(|&x| T::from_f64(x)).collect());
    let (ours, theirs) = (ours::<T>(case, &narrow), oracle(case, &wide));
    for (name, (a, b)) in ["o", "lse", "dq", "dk", "dv"].into_iter().zip(ours.iter().zip(&theirs)) {
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            let a = a.to_f64();
            let good = a == *b || (a - b).abs() <= tolerance * (1.0 + b.abs());
            assert!(good, "{name}[{i}] of {:?}: {a}, expected {b}", case.shape);
        }
    }
}

#[test]
fn values_and_gradients_are_those_of_the_formula() {
    for case in Case::cases() {
        close::<f64>(&case, 1e-12);
        close::<f32>(&case, 3e-6);
    }
}

fn bits_of(results: &[Vec<f32>; 5]) -> Vec<u32> {
    results.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn the_same_bits_at_every_level_and_thread_count() {
    let mut cases = Case::cases();
    // Work enough to be cut up, whole heads and parts of them.
    cases.push(case(1, 1, 500, 700, 64).causal());
    cases.push(case(2, 4, 230, 230, 40).causal().padded());
    for case in cases {
        let inputs = inputs::<f32>(&case);
        let mut first = None;
        at_every_level(|level| {
            for threads in [1, 2, 3, 8] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let bits = pool.install(|| at_level(level, || bits_of(&ours(&case, &inputs))));
                let same = *first.get_or_insert_with(|| bits.clone()) == bits;
                assert!(same, "{:?}, {}, {threads} threads", case.shape, level.name());
            }
        });
    }
}

#[test]
fn fused_gradients_are_the_same() {
    let case = case(2, 2, 90, 90, 12).causal();
    let shape = &case.shape;
    let (c, t) = (24, 90);
    let inputs = inputs::<f32>(&case);
    let [o, lse, dq, dk, dv] = ours(&case, &inputs);
    let mut qkv = vec![0.0; 2 * t * 3 * c];
    for (i, row) in qkv.chunks_mut(3 * c).enumerate() {
        for (part, x) in row.chunks_mut(c).zip(&inputs) {
            part.copy_from_slice(&x[i * c..][..c]);
        }
    }
    let strides = Strides { batch: t * 3 * c, head: 12, row: 3 * c };
    let os = inside(shape, t);
    let [q, k, v] = [0, 1, 2].map(|i| &qkv[i * c..]);
    let (mut o2, mut lse2) = (vec![0.0; o.len()], vec![0.0; lse.len()]);
    let options = case.options();
    forward(&mut o2, os, &mut lse2, q, strides, k, strides, v, strides, shape, &options);
    assert_eq!((&o2, &lse2), (&o, &lse));
    let mut dqkv = vec![f32::NAN; qkv.len()];
    let gradients = Gradients::Fused { dqkv: &mut dqkv, strides, width: c };
    let d_o = &inputs[3];
    backward(gradients, d_o, os, &o, os, &lse, q, strides, k, strides, v, strides, shape, &options);
    for (i, row) in dqkv.chunks(3 * c).enumerate() {
        for (part, x) in row.chunks(c).zip([&dq, &dk, &dv]) {
            assert_eq!(part, &x[i * c..][..c]);
        }
    }
}

#[test]
fn what_padding_holds_does_not_matter() {
    let case = case(2, 1, 30, 30, 9).padded();
    let mut inputs = inputs::<f32>(&case);
    let clean = ours(&case, &inputs);
    let mask = case.padding.as_ref().unwrap();
    for (j, &padded) in mask.iter().enumerate() {
        if padded != 0 {
            inputs[1][j * 9..][..9].fill(f32::NAN);
            inputs[2][j * 9..][..9].fill(f32::INFINITY);
        }
    }
    assert!(bits_of(&clean) == bits_of(&ours(&case, &inputs)));
    assert!(clean.iter().enumerate().all(|(i, x)| i == 1 || x.iter().all(|x| x.is_finite())));
}

/// Runs `f` with products in these tiles.
fn in_tiles<R>(tiles: Tiles, f: impl FnOnce() -> R) -> R {
    tiled::ON.set(Some(tiles));
    let out = f();
    tiled::ON.set(None);
    out
}

/// Some that have several blocks of queries and of keys, ragged ones, and all options.
fn cases_for_tiles() -> Vec<Case> {
    let mut cases = Case::cases();
    cases.extend([
        case(1, 2, 150, 150, 64).causal(),
        case(2, 1, 70, 330, 48).causal().padded(),
        case(1, 1, 290, 270, 33),
        case(1, 2, 140, 300, 20).padded().causal().dropped(0.2),
    ]);
    cases
}

/// Half of a step of bf16, one in 512, goes into each operand: a few of them show in a sum.
#[test]
#[cfg_attr(miri, ignore = "large products")]
fn tiles_are_as_exact_as_bf16() {
    let everywhere = [Some(Tiles::model()), Tiles::dots()].into_iter().flatten();
    for (tiles, case) in
        everywhere.flat_map(|tiles| cases_for_tiles().into_iter().map(move |c| (tiles, c)))
    {
        let wide = inputs::<f64>(&case);
        let narrow = wide.each_ref().map(|x| x.iter().map(|&x| x as f32).collect());
        let ours = in_tiles(tiles, || ours::<f32>(&case, &narrow));
        let theirs = oracle(&case, &wide);
        for (name, (a, b)) in
            ["o", "lse", "dq", "dk", "dv"].into_iter().zip(ours.iter().zip(&theirs))
        {
            let largest = b.iter().filter(|x| x.is_finite()).fold(0.01, |m: f64, x| m.max(x.abs()));
            let mut squares = 0.0;
            for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
                let error = if a as f64 == b { 0.0 } else { (a as f64 - b).abs() / largest };
                assert!(error < 0.02, "{name}[{i}] of {:?}: {a}, expected {b}", case.shape);
                squares += error * error;
            }
            let spread = (squares / a.len().max(1) as f64).sqrt();
            assert!(spread < 0.004, "{name} of {:?}: {spread}", case.shape);
        }
    }
}

/// Vectors of pairs, too, give the same bits at any number of threads.
#[test]
fn threads_do_not_change_the_bits_of_pairs() {
    let Some(tiles) = Tiles::dots() else { return };
    for case in cases_for_tiles() {
        let inputs = inputs::<f32>(&case);
        let [first, second, third] = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| in_tiles(tiles, || bits_of(&ours(&case, &inputs))))
        });
        assert!(first == second && first == third, "{:?}", case.shape);
    }
}

#[test]
#[cfg(all(feature = "cli", target_arch = "x86_64", target_os = "linux", not(miri)))]
fn amx_and_threads_give_the_bits_of_the_model() {
    let Some(processors) = Tiles::amx_or_trap() else { return };
    let mut cases = cases_for_tiles();
    cases.push(case(1, 1, 300, 600, 64).causal());
    for case in cases {
        let inputs = inputs::<f32>(&case);
        let want = in_tiles(Tiles::model(), || bits_of(&ours(&case, &inputs)));
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let got = pool.install(|| in_tiles(processors, || bits_of(&ours(&case, &inputs))));
            assert!(got == want, "{:?}, {threads} threads", case.shape);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "large products")]
fn what_padding_holds_does_not_matter_in_tiles() {
    for tiles in [Some(Tiles::model()), Tiles::dots()].into_iter().flatten() {
        in_tiles(tiles, what_padding_holds_does_not_matter);
    }
}
