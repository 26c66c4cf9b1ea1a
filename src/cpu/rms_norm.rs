//! Root-mean-square normalisation of rows: `y = x r w`, `r = 1/√(mean(x²) + ε)`.
//!
//! ```text
//! dx = r (dy w − x r² mean(dy w x))          dw = Σ rows of dy x r
//! ```
//!
//! Built as [`super::layer_norm`]: dw is summed over pieces of 64 rows, then over pieces in order.

use super::layer_norm::ROWS;
use super::rows::{column_sums, each, load, rows_per_task, store, sums, times};
use super::scratch;
use super::simd::{Kernel, Real, Vector, for_pieces};

/// Rows that backward takes at a time: dw is loaded and stored once for all of them.
const BLOCK: usize = 4;

/// `y` `[rows, cols]` and `rstd` (r above) `[rows]` of `x` `[rows, cols]`; `w` is `[cols]`.
pub fn forward<T: Real>(
    y: &mut [T],
    rstd: &mut [T],
    x: &[T],
    w: Option<&[T]>,
    rows: usize,
    cols: usize,
    eps: f64,
) {
    let some = rows_per_task(cols);
    let outputs = [(y, some * cols), (rstd, some)];
    for_pieces(outputs, rows.div_ceil(some), 3 * rows * cols, |i, [y, rstd]| {
        T::dispatch(Forward { y, rstd, x: &x[i * some * cols..], w, cols, eps });
    });
}

struct Forward<'a, T> {
    y: &'a mut [T],
    rstd: &'a mut [T],
    x: &'a [T],
    w: Option<&'a [T]>,
    cols: usize,
    eps: f64,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let cols = self.cols;
        let (share, eps) = (V::constant(1.0 / cols as f64), V::constant(self.eps));
        for (i, rstd) in self.rstd.iter_mut().enumerate() {
            let x = &self.x[i * cols..(i + 1) * cols];
            let y = &mut self.y[i * cols..(i + 1) * cols];
            let [squares] = sums::<V, 1>(
                cols,
                #[inline(always)]
                |acc, at, n| {
                    let x: V = load(x, at, n);
                    acc[0] = x.mul_add(x, acc[0]);
                },
            );
            let r = V::splat(T::ONE).div(V::splat(squares).mul_add(share, eps).sqrt());
            each(
                cols,
                #[inline(always)]
                |at, n| {
                    let v = load::<V>(x, at, n).mul(r);
                    store(times(v, self.w, at, n), y, at, n);
                },
            );
            *rstd = r.to_array()[0];
        }
    }
}

/// The gradients: `dx` and `dy` `[rows, cols]`, `dw` `[cols]`; `x`, `w` and `rstd` as in [`forward`].
pub fn backward<T: Real>(
    dx: &mut [T],
    dw: Option<&mut [T]>,
    dy: &[T],
    x: &[T],
    w: Option<&[T]>,
    rstd: &[T],
    rows: usize,
    cols: usize,
) {
    let pieces = rows.div_ceil(ROWS);
    scratch::with::<T, _>(pieces * cols, |parts| {
        let outputs = [(dx, ROWS * cols), (&mut *parts, cols)];
        for_pieces(outputs, pieces, 6 * rows * cols, |i, [dx, dw]| {
            let (from, to) = (i * ROWS, rows.min((i + 1) * ROWS));
            let (dy, x) = (&dy[from * cols..to * cols], &x[from * cols..to * cols]);
            T::dispatch(Backward { dx, dw, dy, x, w, rstd: &rstd[from..to], cols });
        });
        if let Some(dw) = dw {
            column_sums(dw, parts);
        }
    });
}

struct Backward<'a, T> {
    dx: &'a mut [T],
    dw: &'a mut [T],
    dy: &'a [T],
    x: &'a [T],
    w: Option<&'a [T]>,
    rstd: &'a [T],
    cols: usize,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(mut self) {
        self.dw.fill(T::ZERO);
        let rows = self.rstd.len();
        let mut row = 0;
        while row + BLOCK <= rows {
            self.rows::<V, BLOCK>(row);
            row += BLOCK;
        }
        for row in row..rows {
            self.rows::<V, 1>(row);
        }
    }
}

impl<T: Real> Backward<'_, T> {
    /// Rows `row..row + N`.
    #[inline(always)]
    fn rows<V: Vector<Elem = T>, const N: usize>(&mut self, row: usize) {
        let cols = self.cols;
        let share = V::constant(1.0 / cols as f64);
        let (mut x, mut dy): ([&[T]; N], [&[T]; N]) = ([&[]; N], [&[]; N]);
        let mut r = [V::zero(); N];
        for i in 0..N {
            let row = row + i;
            (x[i], dy[i]) =
                (&self.x[row * cols..(row + 1) * cols], &self.dy[row * cols..(row + 1) * cols]);
            r[i] = V::splat(self.rstd[row]);
        }
        // mean(dx̂ x̂) with x̂ = x r and dx̂ = dy w
        let mut means = [V::zero(); N];
        for i in 0..N {
            let [sum] = sums::<V, 1>(
                cols,
                #[inline(always)]
                |acc, at, n| {
                    let hat = load::<V>(x[i], at, n).mul(r[i]);
                    acc[0] = times::<V>(load(dy[i], at, n), self.w, at, n).mul_add(hat, acc[0]);
                },
            );
            means[i] = V::splat(sum).mul(share);
        }
        let dx = &mut self.dx[row * cols..(row + N) * cols];
        each(
            cols,
            #[inline(always)]
            |at, n| {
                let mut dw: V = load(self.dw, at, n);
                for i in 0..N {
                    let dy: V = load(dy[i], at, n);
                    let hat = load::<V>(x[i], at, n).mul(r[i]);
                    dw = dy.mul_add(hat, dw);
                    let dhat = times(dy, self.w, at, n);
                    store(hat.neg_mul_add(means[i], dhat).mul(r[i]), dx, i * cols + at, n);
                }
                store(dw, self.dw, at, n);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    /// y, rstd, dx, dw by the formulas.
    fn plain(x: &[f64], w: &[f64], dy: &[f64], cols: usize, eps: f64) -> [Vec<f64>; 4] {
        let mut out: [Vec<f64>; 4] = Default::default();
        out[3] = vec![0.0; cols];
        for (x, dy) in x.chunks(cols).zip(dy.chunks(cols)) {
            let c = cols as f64;
            let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / c + eps).sqrt();
            let inner = (0..cols).map(|j| dy[j] * w[j] * x[j]).sum::<f64>() / c;
            for j in 0..cols {
                out[0].push(x[j] * r * w[j]);
                out[2].push(r * (dy[j] * w[j] - x[j] * r * r * inner));
                out[3][j] += dy[j] * x[j] * r;
            }
            out[1].push(r);
        }
        out
    }

    fn ours<T: Real>(x: &[T], w: Option<&[T]>, dy: &[T], rows: usize, cols: usize) -> [Vec<T>; 4] {
        let new = |n| vec![T::from_f64(f64::NAN); n];
        let (mut y, mut rstd) = (new(rows * cols), new(rows));
        forward(&mut y, &mut rstd, x, w, rows, cols, 1e-5);
        let (mut dx, mut dw) = (new(rows * cols), new(cols));
        backward(&mut dx, Some(&mut dw), dy, x, w, &rstd, rows, cols);
        [y, rstd, dx, dw]
    }

    #[test]
    fn follows_the_formulas_at_every_width() {
        let shapes = (1..40).map(|cols| (5, cols));
        for (rows, cols) in shapes.chain([(0, 7), (130, 100), (70, 300), (3, 5000)]) {
            let (x, dy) = (numbers(rows * cols, 2.0, 1), numbers(rows * cols, 1.0, 2));
            let w = numbers(cols, 1.0, 3);
            let want = plain(&x, &w, &dy, cols, 1e-5);
            let wide = ours(&x, Some(&w), &dy, rows, cols);
            let single = ours(&narrow(&x), Some(&narrow(&w)), &narrow(&dy), rows, cols);
            for i in 0..4 {
                close(&wide[i], &want[i], 1e-11);
                close(&single[i], &want[i], 2e-5);
            }
            let bare = ours(&x, None, &dy, rows, cols);
            let want = plain(&x, &vec![1.0; cols], &dy, cols, 1e-5);
            (0..4).for_each(|i| close(&bare[i], &want[i], 1e-11));
        }
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let (rows, cols) = (200, 203);
        let [x, dy] = [1, 2].map(|seed| narrow(&numbers(rows * cols, 1.0, seed)));
        let w = narrow(&numbers(cols, 1.0, 3));
        same_bits(|| ours(&x, Some(&w), &dy, rows, cols).concat());
    }
}
