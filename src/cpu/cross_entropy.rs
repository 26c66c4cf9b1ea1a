//! Cross-entropy of rows of logits and class ids: log-softmax and negative log-likelihood in one pass.
//!
//! With m the largest logit of a row, `L = ln Σⱼ exp(xⱼ − m)`, `lse = m + L`, target t, smoothing s and class
//! weights w (1 without):
//!
//! ```text
//! ℓ   = (1−s) w_t ((m − x_t) + L) + s/C Σⱼ wⱼ ((m − xⱼ) + L)
//! dxⱼ = g (pⱼ Σw′ − w′ⱼ),   p = exp(x − lse),   w′ⱼ = (1−s) w_t [j = t] + s/C wⱼ
//! ```
//!
//! Forward reads the logits and keeps one number a row; backward reads them once more and writes the
//! gradient, over the logits where it may. Nothing of the size of the logits is stored in between.

use super::rows::{each, keep, largest, load, rows_per_task, store, sums, times};
use super::simd::{Kernel, Real, Vector, for_pieces, math};

/// What an element costs, in simple element operations.
const COST: usize = 6;

/// How rows count.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a, T> {
    /// Rows with this target do not count.
    pub ignore_index: u32,
    /// s, the share of the target's mass that goes evenly to all classes.
    pub label_smoothing: f64,
    /// w, one weight a class.
    pub class_weights: Option<&'a [T]>,
}

impl<T: Real> Options<'_, T> {
    /// Σ w over all classes.
    fn total_weight(&self, classes: usize) -> T {
        struct Sum<'a, T>(&'a [T]);
        impl<T: Real> Kernel<T> for Sum<'_, T> {
            type Output = T;
            #[inline(always)]
            fn run<V: Vector<Elem = T>>(self) -> T {
                let [sum] = sums::<V, 1>(
                    self.0.len(),
                    #[inline(always)]
                    |acc, at, n| acc[0] = acc[0].add(load(self.0, at, n)),
                );
                sum
            }
        }
        match self.class_weights {
            Some(weights) if self.label_smoothing != 0.0 => T::dispatch(Sum(weights)),
            _ => T::from_f64(classes as f64),
        }
    }
}

/// `losses` (ℓ), `counted` (w_t, 0 for rows that do not count) and `lse`, all `[rows]`, of the logits `x`
/// `[rows, classes]` and targets `t` `[rows]`, each below `classes` or ignored.
pub fn forward<T: Real>(
    losses: &mut [T],
    counted: &mut [T],
    lse: &mut [T],
    x: &[T],
    t: &[u32],
    rows: usize,
    classes: usize,
    options: &Options<T>,
) {
    let some = rows_per_task(classes);
    let total_weight = options.total_weight(classes);
    let outputs = [(losses, some), (counted, some), (lse, some)];
    let work = COST * rows * classes;
    for_pieces(outputs, rows.div_ceil(some), work, |i, [losses, counted, lse]| {
        let (x, t) = (&x[i * some * classes..], &t[i * some..]);
        T::dispatch(Forward { losses, counted, lse, x, t, classes, options, total_weight });
    });
}

struct Forward<'a, T> {
    losses: &'a mut [T],
    counted: &'a mut [T],
    lse: &'a mut [T],
    x: &'a [T],
    t: &'a [u32],
    classes: usize,
    options: &'a Options<'a, T>,
    total_weight: T,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let classes = self.classes;
        let smoothing = self.options.label_smoothing;
        for i in 0..self.losses.len() {
            let t = self.t[i];
            if t == self.options.ignore_index {
                (self.losses[i], self.counted[i], self.lse[i]) = (T::ZERO, T::ZERO, T::ZERO);
                continue;
            }
            let x = &self.x[i * classes..(i + 1) * classes];
            let weight = self.options.class_weights.map_or(T::ONE, |w| w[t as usize]);
            let max = V::splat(largest::<V>(x));
            // Σ exp(x − m) and, for smoothing, Σ w (m − x)
            let [sum, below] = if smoothing == 0.0 {
                let [sum] = sums::<V, 1>(
                    classes,
                    #[inline(always)]
                    |acc, at, n| {
                        let e = math::exp_nonpositive(load::<V>(x, at, n).sub(max));
                        acc[0] = acc[0].add(keep(e, n, V::zero()));
                    },
                );
                [sum, T::ZERO]
            } else {
                sums::<V, 2>(
                    classes,
                    #[inline(always)]
                    |acc, at, n| {
                        let d = load::<V>(x, at, n).sub(max);
                        acc[0] = acc[0].add(keep(math::exp_nonpositive(d), n, V::zero()));
                        let d = keep(d, n, V::zero());
                        let d = times(d, self.options.class_weights, at, n);
                        acc[1] = acc[1].sub(d);
                    },
                )
            };
            let log_sum = math::log(V::splat(sum));
            let mut loss = max.sub(V::splat(x[t as usize])).add(log_sum).mul(V::splat(weight));
            if smoothing != 0.0 {
                let all = log_sum.mul_add(V::splat(self.total_weight), V::splat(below));
                loss = loss.mul(V::constant(1.0 - smoothing));
                loss = all.mul_add(V::constant(smoothing / classes as f64), loss);
            }
            self.losses[i] = loss.to_array()[0];
            self.counted[i] = weight;
            self.lse[i] = max.add(log_sum).to_array()[0];
        }
    }
}

/// `dx` `[rows, classes]` from the logits `x`, their `lse` and the gradient `scale` `[rows]` of each loss.
pub fn backward<T: Real>(
    dx: &mut [T],
    lse: &[T],
    x: &[T],
    t: &[u32],
    rows: usize,
    classes: usize,
    scale: &[T],
    options: &Options<T>,
) {
    assert_eq!(dx.len(), x.len(), "cross_entropy: dx and x differ in size");
    write_gradient(dx, lse, Some(x), t, rows, classes, scale, options);
}

/// As [`backward`], over the logits: `both` holds x before and dx after.
pub fn backward_in_place<T: Real>(
    both: &mut [T],
    lse: &[T],
    t: &[u32],
    rows: usize,
    classes: usize,
    scale: &[T],
    options: &Options<T>,
) {
    write_gradient(both, lse, None, t, rows, classes, scale, options);
}

fn write_gradient<T: Real>(
    dx: &mut [T],
    lse: &[T],
    x: Option<&[T]>,
    t: &[u32],
    rows: usize,
    classes: usize,
    scale: &[T],
    options: &Options<T>,
) {
    let some = rows_per_task(classes);
    let total_weight = options.total_weight(classes);
    let work = COST * rows * classes;
    for_pieces([(dx, some * classes)], rows.div_ceil(some), work, |i, [dx]| {
        let (from, to) = (i * some, rows.min((i + 1) * some));
        let x = x.map(|x| &x[from * classes..to * classes]);
        let (lse, t, scale) = (&lse[from..to], &t[from..to], &scale[from..to]);
        T::dispatch(Backward { dx, lse, x, t, scale, classes, options, total_weight });
    });
}

struct Backward<'a, T> {
    dx: &'a mut [T],
    lse: &'a [T],
    /// None where `dx` holds the logits.
    x: Option<&'a [T]>,
    t: &'a [u32],
    scale: &'a [T],
    classes: usize,
    options: &'a Options<'a, T>,
    total_weight: T,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let classes = self.classes;
        let smoothing = self.options.label_smoothing;
        for i in 0..self.t.len() {
            let row = i * classes..(i + 1) * classes;
            let dx = &mut self.dx[row.clone()];
            let t = self.t[i];
            if t == self.options.ignore_index {
                dx.fill(T::ZERO);
                continue;
            }
            let weights = self.options.class_weights;
            let weight = weights.map_or(T::ONE, |w| w[t as usize]);
            let (g, lse) = (V::splat(self.scale[i]), V::splat(self.lse[i]));
            // What the target has of its own, what each class has, and all together, times g.
            let own = g.mul(V::splat(weight)).mul(V::constant(1.0 - smoothing));
            let each_class = g.mul(V::constant(smoothing / classes as f64));
            let all = each_class.mul_add(V::splat(self.total_weight), own);
            let x = self.x.map(|x| &x[row]);
            each(
                classes,
                #[inline(always)]
                |at, n| {
                    let logits: V = match x {
                        Some(x) => load(x, at, n),
                        None => load(dx, at, n),
                    };
                    // lse rounds, so that x − lse may be a trifle above 0.
                    let p = math::exp(logits.sub(lse));
                    let d = if smoothing == 0.0 {
                        p.mul(all)
                    } else {
                        p.mul_add(all, times(each_class, weights, at, n).neg())
                    };
                    store(d, dx, at, n);
                },
            );
            let target = &mut dx[t as usize..t as usize + 1];
            V::load_part(target).sub(own).store_part(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    /// losses, counted, lse and dx, each class by the definition.
    fn plain(
        x: &[f64],
        t: &[u32],
        scale: &[f64],
        classes: usize,
        o: &Options<f64>,
    ) -> [Vec<f64>; 4] {
        let mut out: [Vec<f64>; 4] = Default::default();
        for ((x, &t), g) in x.chunks(classes).zip(t).zip(scale) {
            if t == o.ignore_index {
                (0..3).for_each(|i| out[i].push(0.0));
                out[3].extend(vec![0.0; classes]);
                continue;
            }
            let w = |j: usize| o.class_weights.map_or(1.0, |w| w[j]);
            let s = o.label_smoothing;
            let share = |j: usize| {
                (1.0 - s) * w(t as usize) * (j == t as usize) as u8 as f64
                    + s / classes as f64 * w(j)
            };
            let max = x.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let lse = max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            out[0].push((0..classes).map(|j| share(j) * (lse - x[j])).sum());
            out[1].push(w(t as usize));
            out[2].push(lse);
            let all: f64 = (0..classes).map(share).sum();
            out[3].extend((0..classes).map(|j| g * ((x[j] - lse).exp() * all - share(j))));
        }
        out
    }

    fn ours<T: Real>(
        x: &[T],
        t: &[u32],
        scale: &[T],
        classes: usize,
        options: &Options<T>,
    ) -> [Vec<T>; 4] {
        let rows = t.len();
        let new = |n| vec![T::from_f64(f64::NAN); n];
        let (mut losses, mut counted, mut lse) = (new(rows), new(rows), new(rows));
        forward(&mut losses, &mut counted, &mut lse, x, t, rows, classes, options);
        let mut dx = new(rows * classes);
        backward(&mut dx, &lse, x, t, rows, classes, scale, options);
        let mut both = x.to_vec();
        backward_in_place(&mut both, &lse, t, rows, classes, scale, options);
        assert!(dx == both, "in place is another gradient");
        [losses, counted, lse, dx]
    }

    #[test]
    fn follows_the_formulas_with_every_option() {
        let shapes = (1..40).map(|classes| (5, classes));
        for (rows, classes) in shapes.chain([(0, 7), (300, 65), (40, 1000), (2, 50_000)]) {
            let x = numbers(rows * classes, 8.0, 1);
            let (scale, w) = (numbers(rows, 1.0, 2), numbers(classes, 1.0, 3));
            let w: Vec<f64> = w.iter().map(|w| w.abs()).collect();
            let mut t: Vec<u32> = (0..rows).map(|i| (i * 7 % classes) as u32).collect();
            if rows > 2 {
                t[1] = 77_777;
            }
            for (label_smoothing, weighted) in
                [(0.0, false), (0.1, false), (0.0, true), (0.3, true)]
            {
                let base = Options { ignore_index: 77_777, label_smoothing, class_weights: None };
                let (w32, x32, scale32) = (narrow(&w), narrow(&x), narrow(&scale));
                let o = Options { class_weights: weighted.then_some(&w[..]), ..base };
                let o32 = Options {
                    ignore_index: 77_777,
                    label_smoothing,
                    class_weights: weighted.then_some(&w32[..]),
                };
                let want = plain(&x, &t, &scale, classes, &o);
                let wide = ours(&x, &t, &scale, classes, &o);
                let single = ours(&x32, &t, &scale32, classes, &o32);
                for i in 0..4 {
                    close(&wide[i], &want[i], 1e-11);
                    close(&single[i], &want[i], 3e-6);
                }
            }
        }
    }

    #[test]
    fn a_confident_row_loses_little_but_not_nothing() {
        let o = Options { ignore_index: 9, label_smoothing: 0.0, class_weights: None };
        let [losses, ..] = ours(&[10_000.0f32, 9_990.0], &[0], &[1.0], 2, &o);
        assert!((losses[0] - 4.54e-5).abs() < 1e-7, "{}", losses[0]);
        let [losses, _, _, dx] = ours(&[f32::NEG_INFINITY, 0.0], &[1], &[1.0], 2, &o);
        assert_eq!((losses[0], &dx[..]), (0.0, &[0.0, 0.0][..]));
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let (rows, classes) = (300, 203);
        let x = narrow(&numbers(rows * classes, 4.0, 1));
        let (scale, w) = (narrow(&numbers(rows, 1.0, 2)), vec![0.7; classes]);
        let t: Vec<u32> = (0..rows).map(|i| (i * 7 % classes) as u32).collect();
        same_bits(|| {
            let o = Options { ignore_index: 3, label_smoothing: 0.1, class_weights: Some(&w[..]) };
            ours(&x, &t, &scale, classes, &o).concat()
        });
    }
}
