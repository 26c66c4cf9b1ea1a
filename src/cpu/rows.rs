//! What kernels that work row by row share: loads with a tail, and sums with one fixed tree.
//!
//! A row is walked in vectors of sixteen. A sum runs in four vectors at once, so that it waits for
//! arithmetic and not for the latency of an addition: vector k of the row goes to partial sum k mod 4.
//! At the end the four are added as (0 + 2) + (1 + 3) and the lanes are halved ([`Vector::sum`]). The
//! tree depends on the length of the row alone.
//!
//! Closures handed to these functions are marked `#[inline(always)]`: a closure that is not inlined
//! would be compiled without the vector instructions, and each of its operations would be a call.

use half::bf16;

use super::simd::{Kernel, LANES, Number, Real, Stored, Strips, Vector, for_strips, load_stored};
use super::threads::CHUNK;

/// Rows that one task works on: some [`CHUNK`] elements, at least one row.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

/// Elements `at..at + n` of `src`, n ≤ 16; lanes beyond are 0.
#[inline(always)]
pub(crate) fn load<V: Vector>(src: &[V::Elem], at: usize, n: usize) -> V {
    let src = &src[at..at + n];
    if n == LANES { V::load(src) } else { V::load_part(src) }
}

/// As [`load`], of elements that may be bf16.
#[inline(always)]
pub(crate) fn load_from<S: Stored<V::Elem>, V: Vector>(src: &[S], at: usize, n: usize) -> V {
    load_stored(&src[at..at + n])
}

/// As [`load`] where there is something to load, else `default`.
#[inline(always)]
pub(crate) fn load_or<V: Vector>(src: Option<&[V::Elem]>, at: usize, n: usize, default: V) -> V {
    match src {
        Some(src) => load(src, at, n),
        None => default,
    }
}

/// `v + src[at..at + n]` where there is something to add.
#[inline(always)]
pub(crate) fn plus<V: Vector>(v: V, src: Option<&[V::Elem]>, at: usize, n: usize) -> V {
    match src {
        Some(src) => v.add(load(src, at, n)),
        None => v,
    }
}

/// `v · src[at..at + n]` where there is something to multiply with.
#[inline(always)]
pub(crate) fn times<V: Vector>(v: V, src: Option<&[V::Elem]>, at: usize, n: usize) -> V {
    match src {
        Some(src) => v.mul(load(src, at, n)),
        None => v,
    }
}

/// Writes the first `n` lanes to `dst` from `at` on.
#[inline(always)]
pub(crate) fn store<V: Vector>(v: V, dst: &mut [V::Elem], at: usize, n: usize) {
    let dst = &mut dst[at..at + n];
    if n == LANES { v.store(dst) } else { v.store_part(dst) }
}

/// As [`store`], rounded.
#[inline(always)]
pub(crate) fn store_bf16<V: Vector>(v: V, dst: &mut [bf16], at: usize, n: usize) {
    let dst = &mut dst[at..at + n];
    if n == LANES {
        v.store_bf16(dst);
    } else {
        dst.iter_mut().zip(v.to_array()).for_each(|(to, from)| *to = from.to_bf16());
    }
}

/// The first `n` lanes of `v`, the others from `fill`.
#[inline(always)]
pub(crate) fn keep<V: Vector>(v: V, n: usize, fill: V) -> V {
    if n == LANES {
        return v;
    }
    let mut lanes = [V::Elem::ZERO; LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = V::Elem::from_f64(i as f64);
    }
    let lane = V::from_array(lanes);
    V::select(lane.lt(V::constant(n as f64)), v, fill)
}

/// Calls `f(at, n)` for the vectors of a row: n = 16, and what is left at the end.
#[inline(always)]
pub(crate) fn each(cols: usize, mut f: impl FnMut(usize, usize)) {
    let full = cols - cols % LANES;
    let mut at = 0;
    while at < full {
        f(at, LANES);
        at += LANES;
    }
    if at < cols {
        f(at, cols - at);
    }
}

/// Folds `A` quantities over a row in four partial results each: `step(acc, at, n)` takes in the `n`
/// elements from `at` on; `join` puts two partial results together.
#[inline(always)]
pub(crate) fn fold<V: Vector, const A: usize>(
    cols: usize,
    start: V,
    mut step: impl FnMut(&mut [V; A], usize, usize),
    join: impl Fn(V, V) -> V,
) -> [V; A] {
    let mut acc = [[start; A]; 4];
    let mut at = 0;
    while at + 4 * LANES <= cols {
        for part in &mut acc {
            step(part, at, LANES);
            at += LANES;
        }
    }
    let mut next = 0;
    while at + LANES <= cols {
        step(&mut acc[next], at, LANES);
        at += LANES;
        next += 1;
    }
    if at < cols {
        step(&mut acc[next], at, cols - at);
    }
    let [mut total, b, c, d] = acc;
    for i in 0..A {
        total[i] = join(join(total[i], c[i]), join(b[i], d[i]));
    }
    total
}

/// Sums `A` quantities over a row: `step` adds the `n` elements from `at` on to the partial sums and
/// leaves lanes beyond n as they are (adds 0).
#[inline(always)]
pub(crate) fn sums<V: Vector, const A: usize>(
    cols: usize,
    step: impl FnMut(&mut [V; A], usize, usize),
) -> [V::Elem; A] {
    let lanes = fold(
        cols,
        V::zero(),
        step,
        #[inline(always)]
        |a, b| a.add(b),
    );
    let mut totals = [V::Elem::ZERO; A];
    for i in 0..A {
        totals[i] = lanes[i].sum();
    }
    totals
}

/// The largest element of a row, −∞ for an empty one.
#[inline(always)]
pub(crate) fn largest<V: Vector>(row: &[V::Elem]) -> V::Elem {
    let low = V::splat(V::Elem::NEG_INFINITY);
    let [max] = fold::<V, 1>(
        row.len(),
        low,
        #[inline(always)]
        |acc, at, n| acc[0] = acc[0].max(keep(load(row, at, n), n, low)),
        #[inline(always)]
        |a, b| a.max(b),
    );
    max.max_lane()
}

/// `total[j] = Σ` of `parts[p, j]` over p, in order; `parts` has rows of `total.len()` elements.
pub(crate) fn column_sums<T: Real>(total: &mut [T], parts: &[T]) {
    let cols = total.len();
    let width = 1024;
    let strips = [Strips { data: total, row: cols, width }];
    for_strips(strips, cols.div_ceil(width), parts.len(), |i, [mut total]| {
        T::dispatch(ColumnSums { total: total.row(0), parts, first: i * width, cols });
    });
}

struct ColumnSums<'a, T> {
    total: &'a mut [T],
    parts: &'a [T],
    /// The first column.
    first: usize,
    /// Columns of `parts`.
    cols: usize,
}

impl<T: Real> Kernel<T> for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        each(
            self.total.len(),
            #[inline(always)]
            |at, n| {
                let mut sum = V::zero();
                for row in self.parts.chunks_exact(self.cols) {
                    sum = sum.add(load(row, self.first + at, n));
                }
                store(sum, self.total, at, n);
            },
        );
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of kernels share.

    use crate::cpu::simd::{at_every_level, at_level};

    /// `n` numbers between −`scale` and `scale`, the same ones for the same seed.
    pub(crate) fn numbers(n: usize, scale: f64, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        // Rounded to f32, so that both types start from the same numbers.
        (0..n).map(|_| ((next() * 2.0 - 1.0) * scale) as f32 as f64).collect()
    }

    /// As `f32`.
    pub(crate) fn narrow(x: &[f64]) -> Vec<f32> {
        x.iter().map(|&x| x as f32).collect()
    }

    /// Panics unless `got` and `want` agree to `tolerance` (absolute, or relative above 1).
    #[track_caller]
    pub(crate) fn close<T: crate::cpu::simd::Number>(got: &[T], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let got = got.to_f64();
            let error = (got - want).abs() / want.abs().max(1.0);
            let same = got == want || (got.is_nan() && want.is_nan());
            assert!(same || error <= tolerance, "element {i}: {got} is not {want}");
        }
    }

    /// Panics unless `run` gives the same bits on every level and with 1 to 4 threads.
    #[track_caller]
    pub(crate) fn same_bits(run: impl Fn() -> Vec<f32> + Sync) {
        let bits = |x: Vec<f32>| {
            x.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }).collect::<Vec<_>>()
        };
        let want = bits(run());
        at_every_level(|level| {
            for threads in 1..=4 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = bits(pool.install(|| at_level(level, &run)));
                assert!(got == want, "other bits on {} with {threads} threads", level.name());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [f32]);

    impl Kernel<f32> for Sum<'_> {
        type Output = (f32, f32);
        #[inline(always)]
        fn run<V: Vector<Elem = f32>>(self) -> (f32, f32) {
            let step = |acc: &mut [V; 1], at, n| acc[0] = acc[0].add(load(self.0, at, n));
            (sums::<V, 1>(self.0.len(), step)[0], largest::<V>(self.0))
        }
    }

    #[test]
    fn every_element_of_a_row_counts_once() {
        for n in 0..200 {
            let row: Vec<f32> = (1..=n).map(|i| -(i as f32)).collect();
            let largest = if n == 0 { f32::NEG_INFINITY } else { -1.0 };
            assert_eq!(f32::dispatch(Sum(&row)), (-((n * (n + 1) / 2) as f32), largest));
        }
    }
}
