//! Linear-chain conditional random fields: the forward algorithm, the marginals and the best path.
//!
//! With emissions `e [t, k]` of one row, transitions `A [k, k]` (from the row's tag to the column's), `s` and `f` for
//! the first and the last tag:
//!
//! ```text
//! α₀(j) = s(j) + e₀(j)            α_t(j) = e_t(j) + lse_i(α_{t−1}(i) + A(i, j))
//! ln Z  = lse_j(α_{n−1}(j) + f(j))
//! ℓ     = ln Z − (s(y₀) + Σ e_t(y_t) + Σ A(y_{t−1}, y_t) + f(y_{n−1}))
//!
//! β_{n−1} = f                     β_t(i) = lse_j(A(i, j) + e_{t+1}(j) + β_{t+1}(j))
//! p_t(i)    = exp(α_t(i) + β_t(i) − ln Z)                                 de_t(i)  = p_t(i) − [i = y_t]
//! p_t(i, j) = exp(α_t(i) + A(i, j) + e_{t+1}(j) + β_{t+1}(j) − ln Z)      dA(i, j) = Σ_t p_t(i, j) − [..]
//! ```
//!
//! Everything stays in logarithms: a transition that is all but forbidden (−10⁴) loses nothing. A row is
//! one task; the gradients of A, s and f are summed over the rows in their order.

use super::rows::{column_sums, each, fold, keep, load, store, sums};
use super::scratch;
use super::simd::{Kernel, Real, Vector, for_pieces, inlined, math};

/// What a pair of tags costs, in simple element operations.
const COST: usize = 12;

/// The three tables of a chain over `k` tags.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a, T> {
    /// `[k, k]`, from the row's tag to the column's.
    pub transitions: &'a [T],
    /// `[k]`, for the first tag.
    pub start: &'a [T],
    /// `[k]`, for the last tag.
    pub end: &'a [T],
}

/// `losses` (ℓ) and `log_z` `[b]`, and `alpha` `[b, t, k]`, from the emissions `e` `[b, t, k]` and tags `y` `[b, t]`, each
/// below `k`; `lengths` `[b]` from 1 to t say how many steps count. Alpha past the end of a row is not
/// written.
pub fn forward<T: Real>(
    losses: &mut [T],
    log_z: &mut [T],
    alpha: &mut [T],
    e: &[T],
    chain: Chain<T>,
    y: &[u32],
    lengths: &[u32],
    t: usize,
    k: usize,
) {
    let outputs = [(losses, 1), (log_z, 1), (alpha, t * k)];
    let work = COST * lengths.len() * t * k * k;
    for_pieces(outputs, lengths.len(), work, |row, [losses, log_z, alpha]| {
        let n = lengths[row] as usize;
        let (e, y) = (&e[row * t * k..][..n * k], &y[row * t..][..n]);
        log_z[0] = T::dispatch(Forward { alpha, e, chain, k });
        losses[0] = T::from_f64(log_z[0].to_f64() - score(e, chain, y, k));
    });
}

/// The score of one path of tags, summed in f64.
fn score<T: Real>(e: &[T], chain: Chain<T>, y: &[u32], k: usize) -> f64 {
    let mut sum = 0.0;
    let mut before: Option<usize> = None;
    for (e, &tag) in e.chunks(k).zip(y) {
        let tag = tag as usize;
        sum += e[tag].to_f64()
            + match before {
                Some(from) => chain.transitions[from * k + tag].to_f64(),
                None => chain.start[tag].to_f64(),
            };
        before = Some(tag);
    }
    sum + before.map_or(0.0, |tag| chain.end[tag].to_f64())
}

struct Forward<'a, T> {
    alpha: &'a mut [T],
    e: &'a [T],
    chain: Chain<'a, T>,
    k: usize,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = T;

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) -> T {
        let (k, e) = (self.k, self.e);
        let Chain { transitions, start, end } = self.chain;
        each(
            k,
            #[inline(always)]
            |at, n| store(load::<V>(e, at, n).add(load(start, at, n)), self.alpha, at, n),
        );
        for step in 1..e.len() / k {
            let (before, now) = self.alpha.split_at_mut(step * k);
            let before = &before[(step - 1) * k..];
            each(
                k,
                #[inline(always)]
                |at, n| {
                    let from = inlined(
                        #[inline(always)]
                        |i: usize| load::<V>(transitions, i * k + at, n).add(V::splat(before[i])),
                    );
                    let mut top = from(0);
                    for i in 1..k {
                        top = from(i).max(top);
                    }
                    let mut sum = V::zero();
                    for i in 0..k {
                        sum = sum.add(math::exp_nonpositive(from(i).sub(top)));
                    }
                    let all = top.add(math::log(sum));
                    store(load::<V>(e, step * k + at, n).add(all), now, at, n);
                },
            );
        }
        let last = &self.alpha[e.len() - k..e.len()];
        let (top, sum) = log_sum_exp::<V>(
            k,
            None,
            #[inline(always)]
            |at, n| load::<V>(last, at, n).add(load(end, at, n)),
        );
        top.add(math::log(sum)).to_array()[0]
    }
}

/// The largest of `k` values and `Σ exp(value − largest)`, each in every lane. The exponentials go to
/// `out` where there is one.
#[inline(always)]
fn log_sum_exp<V: Vector>(
    k: usize,
    out: Option<&mut [V::Elem]>,
    value: impl Fn(usize, usize) -> V,
) -> (V, V) {
    let low = V::splat(V::Elem::NEG_INFINITY);
    let [top] = fold::<V, 1>(
        k,
        low,
        #[inline(always)]
        |acc, at, n| acc[0] = acc[0].max(keep(value(at, n), n, low)),
        #[inline(always)]
        |a, b| a.max(b),
    );
    let top = V::splat(top.max_lane());
    let mut out = out;
    let [sum] = sums::<V, 1>(
        k,
        #[inline(always)]
        |acc, at, n| {
            let e = math::exp_nonpositive(value(at, n).sub(top));
            if let Some(out) = out.as_deref_mut() {
                store(e, out, at, n);
            }
            acc[0] = acc[0].add(keep(e, n, V::zero()));
        },
    );
    (top, V::splat(sum))
}

/// The gradients of the loss: `de` `[b, t, k]` (0 past the end of a row), `d_transitions` `[k, k]`, `d_start` and
/// `d_end` `[k]`, from the gradient `scale` `[b]` of each loss and what [`forward`] gave.
pub fn backward<T: Real>(
    de: &mut [T],
    d_transitions: &mut [T],
    d_start: &mut [T],
    d_end: &mut [T],
    scale: &[T],
    alpha: &[T],
    log_z: &[T],
    e: &[T],
    chain: Chain<T>,
    y: &[u32],
    lengths: &[u32],
    t: usize,
    k: usize,
) {
    let (rows, wide) = (lengths.len(), k * k + 2 * k);
    scratch::with((rows + 1) * wide, |buffer: &mut [T]| {
        let (parts, total) = buffer.split_at_mut(rows * wide);
        let work = 2 * COST * rows * t * k * k;
        for_pieces([(de, t * k), (&mut *parts, wide)], rows, work, |row, [de, part]| {
            let n = lengths[row] as usize;
            let (alpha, e) = (&alpha[row * t * k..][..n * k], &e[row * t * k..][..n * k]);
            let y = &y[row * t..][..n];
            let (g, log_z) = (scale[row], log_z[row]);
            scratch::with(3 * k, |room| {
                T::dispatch(Backward { de, part, room, alpha, e, chain, y, g, log_z, k });
            });
        });
        column_sums(total, parts);
        d_transitions.copy_from_slice(&total[..k * k]);
        d_start.copy_from_slice(&total[k * k..k * k + k]);
        d_end.copy_from_slice(&total[k * k + k..]);
    });
}

struct Backward<'a, T> {
    de: &'a mut [T],
    /// This row's gradients of transitions, start and end, one after the other.
    part: &'a mut [T],
    room: &'a mut [T],
    alpha: &'a [T],
    e: &'a [T],
    chain: Chain<'a, T>,
    y: &'a [u32],
    g: T,
    log_z: T,
    k: usize,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let (k, steps, y) = (self.k, self.y.len(), self.y);
        let Chain { transitions, end, .. } = self.chain;
        let (d_transitions, ends) = self.part.split_at_mut(k * k);
        let (d_start, d_end) = ends.split_at_mut(k);
        let (beta, room) = self.room.split_at_mut(k);
        let (ahead, weights) = room.split_at_mut(k);
        let (g, log_z) = (V::splat(self.g), V::splat(self.log_z));
        let less = |place: &mut T| *place = V::splat(*place).sub(g).to_array()[0];
        self.de.fill(T::ZERO);
        d_transitions.fill(T::ZERO);

        let last = (steps - 1) * k;
        beta.copy_from_slice(end);
        each(
            k,
            #[inline(always)]
            |at, n| {
                let p = load::<V>(self.alpha, last + at, n).add(load(end, at, n)).sub(log_z);
                store(math::exp(p).mul(g), &mut self.de[last..], at, n);
            },
        );
        less(&mut self.de[last + y[steps - 1] as usize]);
        d_end.copy_from_slice(&self.de[last..last + k]);

        for step in (0..steps - 1).rev() {
            let next = &self.e[(step + 1) * k..];
            each(
                k,
                #[inline(always)]
                |at, n| store(load::<V>(next, at, n).add(load(beta, at, n)), ahead, at, n),
            );
            for i in 0..k {
                let from = &transitions[i * k..(i + 1) * k];
                let (top, sum) = log_sum_exp::<V>(
                    k,
                    Some(&mut *weights),
                    #[inline(always)]
                    |at, n| load::<V>(from, at, n).add(load(ahead, at, n)),
                );
                beta[i] = top.add(math::log(sum)).to_array()[0];
                let alpha = V::splat(self.alpha[step * k + i]);
                let factor = math::exp(alpha.add(top).sub(log_z)).mul(g);
                let into = &mut d_transitions[i * k..(i + 1) * k];
                each(
                    k,
                    #[inline(always)]
                    |at, n| {
                        let sum = load::<V>(weights, at, n).mul_add(factor, load(into, at, n));
                        store(sum, into, at, n);
                    },
                );
                self.de[step * k + i] = factor.mul(sum).to_array()[0];
            }
            let (from, to) = (y[step] as usize, y[step + 1] as usize);
            less(&mut self.de[step * k + from]);
            less(&mut d_transitions[from * k + to]);
        }
        d_start.copy_from_slice(&self.de[..k]);
    }
}

/// The best path of each row (Viterbi): `paths` `[b, t]`, 0 past the end of a row. Scores are summed in f64;
/// of equal paths the one with the lower tags wins, looked at from the end.
pub fn viterbi<T: Real>(
    paths: &mut [u32],
    e: &[T],
    chain: Chain<T>,
    lengths: &[u32],
    t: usize,
    k: usize,
) {
    let work = lengths.len() * t * k * k;
    for_pieces([(paths, t)], lengths.len(), work, |row, [path]| {
        let n = lengths[row] as usize;
        path.fill(0);
        scratch::with(2 * k, |scores: &mut [f64]| {
            scratch::with(n * k, |back: &mut [u32]| {
                best_path(&mut path[..n], scores, back, &e[row * t * k..][..n * k], chain, k);
            });
        });
    });
}

fn best_path<T: Real>(
    path: &mut [u32],
    scores: &mut [f64],
    back: &mut [u32],
    e: &[T],
    chain: Chain<T>,
    k: usize,
) {
    let (before, now) = scores.split_at_mut(k);
    for j in 0..k {
        before[j] = chain.start[j].to_f64() + e[j].to_f64();
    }
    for step in 1..path.len() {
        for j in 0..k {
            let (mut best, mut from) = (f64::NEG_INFINITY, 0);
            for i in 0..k {
                let score = before[i] + chain.transitions[i * k + j].to_f64();
                if score > best {
                    (best, from) = (score, i);
                }
            }
            now[j] = best + e[step * k + j].to_f64();
            back[step * k + j] = from as u32;
        }
        before.copy_from_slice(now);
    }
    let (mut best, mut tag) = (f64::NEG_INFINITY, 0);
    for j in 0..k {
        let score = before[j] + chain.end[j].to_f64();
        if score > best {
            (best, tag) = (score, j);
        }
    }
    for step in (0..path.len()).rev() {
        path[step] = tag as u32;
        tag = back[step * k + tag] as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    struct Case {
        e: Vec<f64>,
        tables: [Vec<f64>; 3],
        y: Vec<u32>,
        lengths: Vec<u32>,
        t: usize,
        k: usize,
    }

    fn case(b: usize, t: usize, k: usize) -> Case {
        Case {
            e: numbers(b * t * k, 2.0, 1),
            tables: [numbers(k * k, 2.0, 2), numbers(k, 1.0, 3), numbers(k, 1.0, 4)],
            y: (0..b * t).map(|i| (i * 7 % k) as u32).collect(),
            lengths: (0..b).map(|i| (1 + (i * 5 + t - 1) % t) as u32).collect(),
            t,
            k,
        }
    }

    fn run<T: Real>(case: &Case, convert: impl Fn(&[f64]) -> Vec<T>) -> [Vec<T>; 5] {
        let Case { y, lengths, t, k, .. } = case;
        let (b, t, k) = (lengths.len(), *t, *k);
        let e = convert(&case.e);
        let [a, s, f] = case.tables.each_ref().map(|table| convert(table));
        let chain = Chain { transitions: &a, start: &s, end: &f };
        let new = |n| vec![T::ZERO; n];
        let (mut losses, mut log_z, mut alpha) = (new(b), new(b), new(b * t * k));
        forward(&mut losses, &mut log_z, &mut alpha, &e, chain, y, lengths, t, k);
        let (mut de, mut da, mut ds, mut df) = (new(b * t * k), new(k * k), new(k), new(k));
        let scale = vec![T::ONE; b];
        backward(
            &mut de, &mut da, &mut ds, &mut df, &scale, &alpha, &log_z, &e, chain, y, lengths, t, k,
        );
        [losses, de, da, ds, df]
    }

    #[test]
    fn single_precision_follows_double_and_marginals_sum_up() {
        for (b, t, k) in [(1, 1, 1), (3, 4, 2), (5, 7, 9), (4, 11, 16), (3, 9, 33), (2, 30, 119)] {
            let case = case(b, t, k);
            let wide = run(&case, <[f64]>::to_vec);
            let single = run(&case, narrow);
            for (single, wide) in single.iter().zip(&wide) {
                close(single, wide, 2e-4);
            }
            assert!(wide[0].iter().all(|&loss| loss >= -1e-12));
            // Probabilities sum to 1 and so does what is taken off them.
            for row in wide[1].chunks(k) {
                assert!(row.iter().sum::<f64>().abs() < 1e-10);
            }
            assert!(wide[2].iter().sum::<f64>().abs() < 1e-9);
        }
    }

    #[test]
    fn forbidden_transitions_are_never_taken() {
        let mut case = case(4, 8, 3);
        case.tables[0][2] = -1e4;
        let [losses, de, ..] = run(&case, narrow);
        assert!(losses.iter().chain(&de).all(|x| x.is_finite()));
        let [a, s, f] = case.tables.each_ref().map(|table| table.as_slice());
        let chain = Chain { transitions: a, start: s, end: f };
        let mut paths = vec![9; 32];
        viterbi(&mut paths, &case.e, chain, &case.lengths, 8, 3);
        for (path, &n) in paths.chunks(8).zip(&case.lengths) {
            assert!(path[..n as usize].windows(2).all(|pair| pair != [0, 2]));
            assert!(path[n as usize..].iter().all(|&tag| tag == 0));
        }
    }

    #[test]
    fn of_equal_paths_the_one_with_the_lower_tags_wins() {
        let (zeros, mut paths) = ([0.0f64; 12], [9; 4]);
        let chain = Chain { transitions: &zeros[..9], start: &zeros[..3], end: &zeros[..3] };
        viterbi(&mut paths, &zeros, chain, &[4], 4, 3);
        assert_eq!(paths, [0; 4]);
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let case = case(37, 20, 19);
        same_bits(|| run(&case, narrow).concat());
    }
}
