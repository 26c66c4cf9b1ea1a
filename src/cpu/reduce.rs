//! Sums and maxima over the middle of `[outer, n, inner]`: the element `(o, j, i)` is `x[(o·n + j)·inner + i]`.
//!
//! # The order of a sum
//!
//! It depends on the shape alone. With `inner = 1` a row goes in blocks of 4096: each block is summed as
//! [`rows`](super::rows) says, and the sums of the blocks are a row again. With `inner > 1` the columns go
//! side by side: n is cut into blocks of 256 rows, rows of a block are added eight at a time as
//! `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`, and the sums of the blocks are a matrix again. The levels
//! keep the rounding error of a long sum near that of a tree.

use super::rows;
use super::scratch;
use super::simd::{Kernel, LANES, Real, Vector};
use super::threads::{self, CHUNK};

/// Which reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ x, 0 for nothing
    Sum,
    /// the largest x: NaN if there is one, −∞ for nothing
    Max,
}

/// Elements of a row that are summed in one go.
const BLOCK: usize = 4096;
/// Rows that are summed column by column in one go.
const ROWS: usize = 256;

/// Reduces `x` `[outer, n, inner]` to `y` `[outer, inner]`. [`Reduce::Max`] also gives the index j of the
/// first of the largest (or of the first NaN), if asked to.
pub fn forward<T: Real>(
    reduce: Reduce,
    y: &mut [T],
    indices: Option<&mut [u32]>,
    x: &[T],
    outer: usize,
    n: usize,
    inner: usize,
) {
    assert!(y.len() == outer * inner && x.len() == outer * n * inner);
    match (reduce, n) {
        _ if y.is_empty() => {}
        (Reduce::Sum, 0) => y.fill(T::ZERO),
        (Reduce::Max, 0) => y.fill(T::NEG_INFINITY),
        (Reduce::Sum, _) if inner == 1 => sum_rows(y, x, n),
        (Reduce::Sum, _) => sum_columns(y, x, n, inner),
        (Reduce::Max, _) => match indices {
            Some(indices) => max(y, indices, x, n, inner),
            None => scratch::with(y.len(), |indices| max(y, indices, x, n, inner)),
        },
    }
}

/// The gradient of [`forward`]: dy repeated for a sum, dy at `indices` and 0 elsewhere for a maximum.
/// `dx` is `[outer, n, inner]`, `dy` and `indices` are `[outer, inner]`.
pub fn backward<T: Real>(
    reduce: Reduce,
    dx: &mut [T],
    dy: &[T],
    indices: Option<&[u32]>,
    outer: usize,
    n: usize,
    inner: usize,
) {
    assert!(dy.len() == outer * inner && dx.len() == outer * n * inner);
    if dx.is_empty() {
        return;
    }
    let slabs = (CHUNK / (n * inner)).max(1);
    let work = dx.len();
    threads::for_chunks(dx, slabs * n * inner, work, |i, dx| {
        for (s, dx) in dx.chunks_mut(n * inner).enumerate() {
            let at = (i * slabs + s) * inner;
            let dy = &dy[at..at + inner];
            match (reduce, indices) {
                (Reduce::Max, Some(indices)) => {
                    dx.fill(T::ZERO);
                    for (i, (&j, &dy)) in indices[at..at + inner].iter().zip(dy).enumerate() {
                        dx[j as usize * inner + i] = dy;
                    }
                }
                _ => dx.chunks_mut(inner).for_each(|dx| dx.copy_from_slice(dy)),
            }
        }
    });
}

/// The largest of some ids, none for none.
pub fn max_u32(ids: &[u32]) -> Option<u32> {
    // A fold, not Iterator::max: the compiler makes vectors of it.
    (!ids.is_empty()).then(|| ids.iter().fold(0, |most, &id| most.max(id)))
}

// ---- sums of rows -----------------------------------------------------------------------------

fn sum_rows<T: Real>(y: &mut [T], x: &[T], n: usize) {
    if n <= BLOCK {
        let group = rows::rows_per_task(n);
        threads::for_chunks(y, group, x.len(), |i, y| {
            T::dispatch(RowSums { x: &x[i * group * n..][..y.len() * n], y, n });
        });
        return;
    }
    // Each row gives one number a block; those are rows again.
    let blocks = n.div_ceil(BLOCK);
    scratch::with(y.len() * blocks, |partial: &mut [T]| {
        threads::for_chunks(partial, 4, x.len(), |i, partial| {
            for (k, partial) in partial.iter_mut().enumerate() {
                let (row, block) = ((i * 4 + k) / blocks, (i * 4 + k) % blocks);
                let start = row * n + block * BLOCK;
                let len = BLOCK.min(n - block * BLOCK);
                let (x, y) = (&x[start..start + len], std::slice::from_mut(partial));
                T::dispatch(RowSums { x, y, n: len });
            }
        });
        sum_rows(y, partial, blocks);
    });
}

/// The sums of rows of `n` elements each.
struct RowSums<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
    n: usize,
}

impl<T: Real> Kernel<T> for RowSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x.chunks_exact(self.n)) {
            let [sum] = rows::sums::<V, 1>(
                x.len(),
                #[inline(always)]
                |acc, at, n| acc[0] = acc[0].add(rows::load(x, at, n)),
            );
            *y = sum;
        }
    }
}

// ---- sums of columns --------------------------------------------------------------------------

fn sum_columns<T: Real>(y: &mut [T], x: &[T], n: usize, inner: usize) {
    let blocks = n.div_ceil(ROWS);
    if blocks == 1 {
        block_sums(y, x, n, inner, 1);
        return;
    }
    scratch::with(y.len() * blocks, |partial: &mut [T]| {
        block_sums(partial, x, n, inner, blocks);
        sum_columns(y, partial, blocks, inner);
    });
}

/// Sums of [`ROWS`] rows each: `[outer, n, inner]` to `[outer, blocks, inner]`.
fn block_sums<T: Real>(partial: &mut [T], x: &[T], n: usize, inner: usize, blocks: usize) {
    let rows_of = |index: usize| {
        let (o, block) = (index / blocks, index % blocks);
        let first = block * ROWS;
        let count = ROWS.min(n - first);
        &x[(o * n + first) * inner..][..count * inner]
    };
    let count = partial.len() / inner;
    if count >= 8 || inner <= 2 * LANES {
        let tall = n.min(ROWS) * inner;
        let group = (CHUNK / tall).max(1);
        threads::for_chunks(partial, group * inner, x.len(), |i, partial| {
            for (k, y) in partial.chunks_mut(inner).enumerate() {
                let x = rows_of(i * group + k);
                T::dispatch(ColumnSums { y, x, inner, first: 0 });
            }
        });
    } else {
        // Few blocks of wide rows: the columns are cut too. That changes no sum.
        let width = (CHUNK / n.min(ROWS)).max(4 * LANES).next_multiple_of(LANES);
        for (index, partial) in partial.chunks_mut(inner).enumerate() {
            let x = rows_of(index);
            threads::for_chunks(partial, width, x.len(), |i, y| {
                T::dispatch(ColumnSums { y, x, inner, first: i * width });
            });
        }
    }
}

/// The sums of the columns `first..first + y.len()` of rows of `inner` elements.
struct ColumnSums<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
    inner: usize,
    first: usize,
}

impl<T: Real> Kernel<T> for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let ColumnSums { y, x, inner, first } = self;
        let cols = y.len();
        for (k, group) in x.chunks(8 * inner).enumerate() {
            let row = |j: usize| &group[j * inner + first..][..cols];
            let fresh = k == 0;
            if group.len() == 8 * inner {
                let r: [&[T]; 8] = std::array::from_fn(row);
                rows::each(
                    cols,
                    #[inline(always)]
                    |at, n| {
                        let a = pair::<V>(r[0], r[1], at, n).add(pair(r[2], r[3], at, n));
                        let b = pair::<V>(r[4], r[5], at, n).add(pair(r[6], r[7], at, n));
                        put(a.add(b), y, at, n, fresh);
                    },
                );
            } else {
                for j in 0..group.len() / inner {
                    let row = row(j);
                    rows::each(
                        cols,
                        #[inline(always)]
                        |at, n| put(rows::load::<V>(row, at, n), y, at, n, fresh && j == 0),
                    );
                }
            }
        }
    }
}

/// The sum of two rows.
#[inline(always)]
fn pair<V: Vector>(a: &[V::Elem], b: &[V::Elem], at: usize, n: usize) -> V {
    rows::load::<V>(a, at, n).add(rows::load(b, at, n))
}

/// `y = new` for the first rows, `y += new` for the others.
#[inline(always)]
fn put<V: Vector>(new: V, y: &mut [V::Elem], at: usize, n: usize, fresh: bool) {
    let sum = if fresh { new } else { rows::load::<V>(y, at, n).add(new) };
    rows::store(sum, y, at, n);
}

// ---- maxima -----------------------------------------------------------------------------------

fn max<T: Real>(y: &mut [T], indices: &mut [u32], x: &[T], n: usize, inner: usize) {
    if inner == 1 {
        let group = rows::rows_per_task(n);
        threads::for_chunks2((y, group), (indices, group), x.len(), |i, y, indices| {
            T::dispatch(RowMaxima { x: &x[i * group * n..][..y.len() * n], y, indices, n });
        });
        return;
    }
    // Whole rows of y: [inner] of one o, or several.
    let group = (CHUNK / (n * inner)).max(1);
    let outputs = ((y, group * inner), (indices, group * inner));
    threads::for_chunks2(outputs.0, outputs.1, x.len(), |i, y, indices| {
        let outputs = y.chunks_mut(inner).zip(indices.chunks_mut(inner));
        for (k, (y, indices)) in outputs.enumerate() {
            let x = &x[(i * group + k) * n * inner..][..n * inner];
            T::dispatch(ColumnMaxima { y, indices, x });
        }
    });
}

/// The maxima of rows of `n` elements each, and where they are.
struct RowMaxima<'a, T> {
    y: &'a mut [T],
    indices: &'a mut [u32],
    x: &'a [T],
    n: usize,
}

impl<T: Real> Kernel<T> for RowMaxima<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let outputs = self.y.iter_mut().zip(self.indices.iter_mut());
        for ((y, index), x) in outputs.zip(self.x.chunks_exact(self.n)) {
            // One pass for the value, one (through the cache) for its place. A vector maximum passes
            // over NaN, so the first pass also counts the lanes that equal themselves.
            let (low, one) = (V::splat(T::NEG_INFINITY), V::splat(T::ONE));
            let start = V::zero();
            let [best, odd] = rows::fold(
                x.len(),
                low,
                #[inline(always)]
                |acc: &mut [V; 2], at, n| {
                    let v = rows::keep(rows::load::<V>(x, at, n), n, low);
                    acc[0] = v.max(acc[0]);
                    acc[1] = V::select(v.eq(v), acc[1], one);
                },
                #[inline(always)]
                |a, b| a.max(b),
            );
            let is_nan = V::any(start.lt(odd));
            let best = best.max_lane();
            let here = |&v: &T| if is_nan { v.partial_cmp(&v).is_none() } else { v == best };
            let at = first_block::<V>(x, best, is_nan);
            let at = at + x[at..].iter().position(here).unwrap_or(0);
            (*y, *index) = (x[at], at as u32);
        }
    }
}

/// The start of the first vector of `x` that holds `wanted` (or a NaN).
#[inline(always)]
fn first_block<V: Vector>(x: &[V::Elem], wanted: V::Elem, nan: bool) -> usize {
    let wanted = V::splat(wanted);
    let full = x.len() - x.len() % LANES;
    for at in (0..full).step_by(LANES) {
        let v = V::load(&x[at..]);
        let found = if nan {
            V::any(V::select(v.eq(v), V::zero(), V::splat(V::Elem::ONE)).eq(V::splat(V::Elem::ONE)))
        } else {
            V::any(v.eq(wanted))
        };
        if found {
            return at;
        }
    }
    full.min(x.len() - 1)
}

/// The maxima of columns, row after row.
struct ColumnMaxima<'a, T> {
    y: &'a mut [T],
    indices: &'a mut [u32],
    x: &'a [T],
}

impl<T: Real> Kernel<T> for ColumnMaxima<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let ColumnMaxima { y, indices, x } = self;
        let inner = y.len();
        y.copy_from_slice(&x[..inner]);
        indices.fill(0);
        for (j, row) in x.chunks_exact(inner).enumerate().skip(1) {
            for ((best, index), &v) in y.iter_mut().zip(indices.iter_mut()).zip(row) {
                // Larger, or the first NaN: `!(v <= best)` is both, unless best is NaN already.
                #[allow(clippy::neg_cmp_op_on_partial_ord, clippy::eq_op)]
                let wins = !(v <= *best) && *best == *best;
                *best = if wins { v } else { *best };
                *index = if wins { j as u32 } else { *index };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    const SHAPES: [(usize, usize, usize); 20] = [
        (1, 1, 1),
        (3, 0, 2),
        (0, 3, 2),
        (3, 2, 0),
        (1, 17, 1),
        (5, 100, 1),
        (2, 64, 1),
        (300, 7, 1),
        (2, 5000, 1),
        (1, 100_000, 1),
        (1, 9, 5),
        (2, 8, 16),
        (3, 33, 40),
        (1, 700, 70),
        (1, 3000, 48),
        (2, 300, 33),
        (1, 4, 30_000),
        (1, 256, 1000),
        (40, 5, 7),
        (1, 70_000, 2),
    ];

    #[test]
    fn sums_agree_with_plain_loops() {
        for (outer, n, inner) in SHAPES {
            let x = numbers(outer * n * inner, 1.0, 1);
            let want: Vec<f64> = (0..outer * inner)
                .map(|k| (0..n).map(|j| x[(k / inner * n + j) * inner + k % inner]).sum())
                .collect();
            let mut y = vec![9.0; outer * inner];
            forward(Reduce::Sum, &mut y, None, &x, outer, n, inner);
            close(&y, &want, 1e-10);
            let mut y = vec![9.0f32; outer * inner];
            forward(Reduce::Sum, &mut y, None, &narrow(&x), outer, n, inner);
            close(&y, &want, 1e-5);
            let dy = numbers(outer * inner, 1.0, 2);
            let mut dx = vec![9.0; x.len()];
            backward(Reduce::Sum, &mut dx, &dy, None, outer, n, inner);
            for (at, dx) in dx.iter().enumerate() {
                assert_eq!(*dx, dy[at / (n * inner) * inner + at % inner]);
            }
        }
    }

    #[test]
    fn maxima_agree_with_plain_loops() {
        for (outer, n, inner) in SHAPES.into_iter().filter(|&(_, n, _)| n > 0) {
            for nan_every in [0, 41] {
                // Few distinct values, so that there are ties.
                let mut x: Vec<f32> = narrow(&numbers(outer * n * inner, 1.0, 3));
                x.iter_mut().for_each(|x| *x = (*x * 20.0).round());
                if nan_every > 0 {
                    x.iter_mut().step_by(nan_every).for_each(|x| *x = f32::NAN);
                }
                let mut want = Vec::new();
                for k in 0..outer * inner {
                    let value = |j: usize| x[(k / inner * n + j) * inner + k % inner];
                    let mut best = 0;
                    for j in 1..n {
                        let (v, b) = (value(j), value(best));
                        if !b.is_nan() && (v > b || v.is_nan()) {
                            best = j;
                        }
                    }
                    want.push((value(best), best as u32));
                }
                let (mut y, mut indices) = (vec![9.0; want.len()], vec![9; want.len()]);
                forward(Reduce::Max, &mut y, Some(&mut indices), &x, outer, n, inner);
                for (k, (value, index)) in want.iter().enumerate() {
                    assert!(y[k] == *value || y[k].is_nan() && value.is_nan());
                    assert_eq!(indices[k], *index, "{outer} {n} {inner}: {k}");
                }
                let mut alone = vec![9.0; want.len()];
                forward(Reduce::Max, &mut alone, None, &x, outer, n, inner);
                assert!(alone.iter().zip(&y).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));

                let dy: Vec<f32> = (0..want.len()).map(|k| k as f32 + 1.0).collect();
                let mut dx = vec![9.0; x.len()];
                backward(Reduce::Max, &mut dx, &dy, Some(&indices), outer, n, inner);
                let mut want_dx = vec![0.0; x.len()];
                for (k, (_, index)) in want.iter().enumerate() {
                    want_dx[(k / inner * n + *index as usize) * inner + k % inner] = dy[k];
                }
                assert_eq!(dx, want_dx);
            }
        }
    }

    #[test]
    fn rows_of_minus_infinity_have_a_first_element() {
        let x = [f32::NEG_INFINITY; 40];
        let (mut y, mut index) = ([0.0], [9]);
        forward(Reduce::Max, &mut y, Some(&mut index), &x, 1, 40, 1);
        assert_eq!((y[0], index[0]), (f32::NEG_INFINITY, 0));
    }

    #[test]
    fn a_long_sum_of_small_numbers_stays_accurate() {
        for inner in [1, 3] {
            let x = vec![0.1f32; 3_000_000];
            let mut y = vec![0.0; inner];
            forward(Reduce::Sum, &mut y, None, &x, 1, 3_000_000 / inner, inner);
            let want = 0.1f32 as f64 * (3_000_000 / inner) as f64;
            assert!((y[0] as f64 - want).abs() < 1e-6 * want, "{} is not {want}", y[0]);
        }
    }

    #[test]
    fn ids() {
        assert_eq!(max_u32(&[]), None);
        assert_eq!(max_u32(&[0]), Some(0));
        assert_eq!(max_u32(&(0..2000).map(|i| i * 7 % 1009).collect::<Vec<_>>()), Some(1008));
    }

    #[test]
    fn the_same_bits_everywhere() {
        for (outer, n, inner) in SHAPES {
            let x = narrow(&numbers(outer * n * inner, 1.0, 4));
            same_bits(|| {
                let mut y = vec![0.0; outer * inner];
                forward(Reduce::Sum, &mut y, None, &x, outer, n, inner);
                y
            });
        }
    }
}
