//! Layer normalisation of rows: `y = (x − μ) r · w + b`, `r = 1/√(σ² + ε)`.
//!
//! Forward walks each row three times while it lies in the first cache: the mean, the variance about
//! that mean (exact where Σx² − μ² would cancel), the result. Backward takes four rows at a time:
//!
//! ```text
//! x̂ = (x − μ) r     dx̂ = dy w     dx = r (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂))
//! dw = Σ rows of dy x̂             db = Σ rows of dy
//! ```
//!
//! dw and db are summed over pieces of 64 rows, side by side, and then over pieces in their order.
//!
//! y may be bf16, rounded as it is written, and dy too: where only products read y, which would round it themselves.

use super::gemm::{Elements, Output};
use super::rows::{
    column_sums, each, keep, load, load_from, rows_per_task, store, store_bf16, sums, times,
};
use super::scratch;
use super::simd::{Kernel, Real, Stored, Vector, for_pieces, for_pieces_and};

/// Rows whose share of dw and db one task sums.
pub(super) const ROWS: usize = 64;

/// Rows that backward takes at a time: dw and db are loaded and stored once for all of them.
const BLOCK: usize = 4;

/// `y` `[rows, cols]`, `mean` and `rstd` (r above) `[rows]` of `x` `[rows, cols]`; `w` and `b` are `[cols]`.
pub fn forward<T: Real>(
    y: Output<'_, T>,
    mean: &mut [T],
    rstd: &mut [T],
    x: &[T],
    w: Option<&[T]>,
    b: Option<&[T]>,
    rows: usize,
    cols: usize,
    eps: f64,
) {
    let some = rows_per_task(cols);
    let short = matches!(y, Output::Bf16(_));
    let (y, rounded) = match y {
        Output::Own(y) => (y, &mut [][..]),
        Output::Bf16(y) => (&mut [][..], y),
    };
    let outputs = [(y, some * cols), (mean, some), (rstd, some)];
    let (count, work) = (rows.div_ceil(some), 4 * rows * cols);
    let rounded = (rounded, some * cols);
    for_pieces_and(outputs, rounded, count, work, |i, [y, mean, rstd], rounded| {
        let y = if short { Output::Bf16(rounded) } else { Output::Own(y) };
        let x = &x[i * some * cols..];
        T::dispatch(Forward { y, mean, rstd, x, w, b, cols, eps });
    });
}

struct Forward<'a, T> {
    y: Output<'a, T>,
    mean: &'a mut [T],
    rstd: &'a mut [T],
    x: &'a [T],
    w: Option<&'a [T]>,
    b: Option<&'a [T]>,
    cols: usize,
    eps: f64,
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(mut self) {
        let cols = self.cols;
        let (share, eps) = (V::constant(1.0 / cols as f64), V::constant(self.eps));
        for (i, (mean, rstd)) in self.mean.iter_mut().zip(self.rstd).enumerate() {
            let x = &self.x[i * cols..(i + 1) * cols];
            let [sum] = sums::<V, 1>(
                cols,
                #[inline(always)]
                |acc, at, n| acc[0] = acc[0].add(load(x, at, n)),
            );
            let mu = V::splat(sum).mul(share);
            let [squares] = sums::<V, 1>(
                cols,
                #[inline(always)]
                |acc, at, n| {
                    let d = keep(load::<V>(x, at, n).sub(mu), n, V::zero());
                    acc[0] = d.mul_add(d, acc[0]);
                },
            );
            let r = V::splat(T::ONE).div(V::splat(squares).mul_add(share, eps).sqrt());
            each(
                cols,
                #[inline(always)]
                |at, n| {
                    let mut v = load::<V>(x, at, n).sub(mu).mul(r);
                    v = match (self.w, self.b) {
                        (Some(w), Some(b)) => v.mul_add(load(w, at, n), load(b, at, n)),
                        (Some(w), None) => v.mul(load(w, at, n)),
                        (None, Some(b)) => v.add(load(b, at, n)),
                        (None, None) => v,
                    };
                    match &mut self.y {
                        Output::Own(y) => store(v, y, i * cols + at, n),
                        Output::Bf16(y) => store_bf16(v, y, i * cols + at, n),
                    }
                },
            );
            (*mean, *rstd) = (mu.to_array()[0], r.to_array()[0]);
        }
    }
}

/// The gradients: `dx` and `dy` `[rows, cols]`, `dw` and `db` `[cols]`; `x`, `w`, `mean` and `rstd` as in
/// [`forward`].
pub fn backward<T: Real>(
    dx: &mut [T],
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
    dy: Elements<'_, T>,
    x: &[T],
    w: Option<&[T]>,
    mean: &[T],
    rstd: &[T],
    rows: usize,
    cols: usize,
) {
    backward_onto(false, dx, dw, db, dy, x, w, mean, rstd, rows, cols);
}

/// As [`backward`]; with `adds` the gradient is added to what `dx` holds: that of a residual connection around the
/// norm and what comes after it.
pub fn backward_onto<T: Real>(
    adds: bool,
    dx: &mut [T],
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
    dy: Elements<'_, T>,
    x: &[T],
    w: Option<&[T]>,
    mean: &[T],
    rstd: &[T],
    rows: usize,
    cols: usize,
) {
    let pieces = rows.div_ceil(ROWS);
    scratch::with::<T, _>(2 * pieces * cols, |partial| {
        let (dw_parts, db_parts) = partial.split_at_mut(pieces * cols);
        let outputs = [(dx, ROWS * cols), (&mut *dw_parts, cols), (&mut *db_parts, cols)];
        for_pieces(outputs, pieces, 8 * rows * cols, |i, [dx, dw, db]| {
            let (from, to) = (i * ROWS, rows.min((i + 1) * ROWS));
            let (mean, rstd) = (&mean[from..to], &rstd[from..to]);
            let (from, to) = (from * cols, to * cols);
            let x = &x[from..to];
            match dy {
                Elements::Own(dy) => {
                    let dy = &dy[from..to];
                    T::dispatch(Backward { adds, dx, dw, db, dy, x, w, mean, rstd, cols })
                }
                Elements::Bf16(dy) => {
                    let dy = &dy[from..to];
                    T::dispatch(Backward { adds, dx, dw, db, dy, x, w, mean, rstd, cols })
                }
            }
        });
        for (total, parts) in [(dw, dw_parts), (db, db_parts)] {
            if let Some(total) = total {
                column_sums(total, parts);
            }
        }
    });
}

struct Backward<'a, T, S> {
    adds: bool,
    dx: &'a mut [T],
    dw: &'a mut [T],
    db: &'a mut [T],
    dy: &'a [S],
    x: &'a [T],
    w: Option<&'a [T]>,
    mean: &'a [T],
    rstd: &'a [T],
    cols: usize,
}

impl<T: Real, S: Stored<T>> Kernel<T> for Backward<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(mut self) {
        self.dw.fill(T::ZERO);
        self.db.fill(T::ZERO);
        let rows = self.mean.len();
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

impl<T: Real, S: Stored<T>> Backward<'_, T, S> {
    /// Rows `row..row + N`.
    #[inline(always)]
    fn rows<V: Vector<Elem = T>, const N: usize>(&mut self, row: usize) {
        let cols = self.cols;
        let share = V::constant(1.0 / cols as f64);
        let (mut x, mut dy): ([&[T]; N], [&[S]; N]) = ([&[]; N], [&[]; N]);
        let (mut mu, mut r) = ([V::zero(); N], [V::zero(); N]);
        for i in 0..N {
            let row = row + i;
            (x[i], dy[i]) =
                (&self.x[row * cols..(row + 1) * cols], &self.dy[row * cols..(row + 1) * cols]);
            (mu[i], r[i]) = (V::splat(self.mean[row]), V::splat(self.rstd[row]));
        }
        // mean(dx̂) and mean(dx̂ x̂)
        let mut means = [[V::zero(); 2]; N];
        for i in 0..N {
            let both = sums::<V, 2>(
                cols,
                #[inline(always)]
                |acc, at, n| {
                    let hat = load::<V>(x[i], at, n).sub(mu[i]).mul(r[i]);
                    let dhat = times(load_from(dy[i], at, n), self.w, at, n);
                    acc[0] = acc[0].add(dhat);
                    acc[1] = dhat.mul_add(hat, acc[1]);
                },
            );
            means[i] = [V::splat(both[0]).mul(share), V::splat(both[1]).mul(share)];
        }
        let dx = &mut self.dx[row * cols..(row + N) * cols];
        each(
            cols,
            #[inline(always)]
            |at, n| {
                let (mut dw, mut db): (V, V) = (load(self.dw, at, n), load(self.db, at, n));
                for i in 0..N {
                    let dy: V = load_from(dy[i], at, n);
                    let hat = load::<V>(x[i], at, n).sub(mu[i]).mul(r[i]);
                    dw = dy.mul_add(hat, dw);
                    db = db.add(dy);
                    let dhat = times(dy, self.w, at, n).sub(means[i][0]);
                    let mut grad = hat.neg_mul_add(means[i][1], dhat).mul(r[i]);
                    if self.adds {
                        grad = load::<V>(dx, i * cols + at, n).add(grad);
                    }
                    store(grad, dx, i * cols + at, n);
                }
                store(dw, self.dw, at, n);
                store(db, self.db, at, n);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use half::bf16;

    use super::*;

    /// y, mean, rstd, dx, dw, db by the formulas.
    fn plain(x: &[f64], w: &[f64], b: &[f64], dy: &[f64], cols: usize, eps: f64) -> [Vec<f64>; 6] {
        let mut out: [Vec<f64>; 6] = Default::default();
        (out[4], out[5]) = (vec![0.0; cols], vec![0.0; cols]);
        for (x, dy) in x.chunks(cols.max(1)).zip(dy.chunks(cols.max(1))) {
            let c = cols as f64;
            let mean = x.iter().sum::<f64>() / c;
            let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / c;
            let r = 1.0 / (var + eps).sqrt();
            let hat: Vec<f64> = x.iter().map(|x| (x - mean) * r).collect();
            let dhat: Vec<f64> = dy.iter().zip(w).map(|(dy, w)| dy * w).collect();
            let m1 = dhat.iter().sum::<f64>() / c;
            let m2 = dhat.iter().zip(&hat).map(|(d, h)| d * h).sum::<f64>() / c;
            for j in 0..cols {
                out[0].push(hat[j] * w[j] + b[j]);
                out[3].push(r * (dhat[j] - m1 - hat[j] * m2));
                out[4][j] += dy[j] * hat[j];
                out[5][j] += dy[j];
            }
            out[1].push(mean);
            out[2].push(r);
        }
        out
    }

    fn ours<T: Real>(
        x: &[T],
        w: Option<&[T]>,
        b: Option<&[T]>,
        dy: &[T],
        rows: usize,
        cols: usize,
    ) -> [Vec<T>; 6] {
        let nan = T::from_f64(f64::NAN);
        let new = |n| vec![nan; n];
        let (mut y, mut mean, mut rstd) = (new(rows * cols), new(rows), new(rows));
        forward(Output::Own(&mut y), &mut mean, &mut rstd, x, w, b, rows, cols, 1e-5);
        let (mut dx, mut dw, mut db) = (new(rows * cols), new(cols), new(cols));
        let outputs = (Some(&mut dw[..]), Some(&mut db[..]));
        backward(&mut dx, outputs.0, outputs.1, Elements::Own(dy), x, w, &mean, &rstd, rows, cols);
        [y, mean, rstd, dx, dw, db]
    }

    #[test]
    fn follows_the_formulas_at_every_width() {
        let shapes = (1..40).map(|cols| (5, cols));
        for (rows, cols) in shapes.chain([(0, 7), (1, 1), (130, 100), (70, 300), (3, 5000)]) {
            let (x, dy) = (numbers(rows * cols, 2.0, 1), numbers(rows * cols, 1.0, 2));
            let (w, b) = (numbers(cols, 1.0, 3), numbers(cols, 1.0, 4));
            let want = plain(&x, &w, &b, &dy, cols, 1e-5);
            let wide = ours(&x, Some(&w), Some(&b), &dy, rows, cols);
            let single =
                ours(&narrow(&x), Some(&narrow(&w)), Some(&narrow(&b)), &narrow(&dy), rows, cols);
            for i in 0..6 {
                close(&wide[i], &want[i], 1e-11);
                // Rows of one element have variance 0 and r = 316.
                close(&single[i], &want[i], if cols < 3 { 3e-4 } else { 2e-5 });
            }
        }
    }

    #[test]
    fn weight_and_bias_are_optional() {
        let (rows, cols) = (6, 21);
        let (x, dy) = (numbers(rows * cols, 2.0, 1), numbers(rows * cols, 1.0, 2));
        let (one, zero, w) = (vec![1.0; cols], vec![0.0; cols], numbers(cols, 1.0, 3));
        let cases = [
            (None, None, plain(&x, &one, &zero, &dy, cols, 1e-5)),
            (Some(&w[..]), None, plain(&x, &w, &zero, &dy, cols, 1e-5)),
            (None, Some(&w[..]), plain(&x, &one, &w, &dy, cols, 1e-5)),
        ];
        for (w, b, want) in cases {
            let got = ours(&x, w, b, &dy, rows, cols);
            (0..6).for_each(|i| close(&got[i], &want[i], 1e-12));
        }
    }

    #[test]
    fn a_large_mean_does_not_drown_the_variance() {
        let x: Vec<f32> = (0..64).map(|i| 4096.0 + (i % 2) as f32).collect();
        let [y, ..] = ours(&x, None, None, &x, 1, 64);
        assert!(y.iter().all(|y| (y.abs() - 1.0).abs() < 1e-4));
    }

    #[test]
    fn what_is_added_to_is_added_after_the_gradient() {
        let (rows, cols) = (11, 37);
        let [x, dy, before] = [1, 2, 3].map(|seed| narrow(&numbers(rows * cols, 1.0, seed)));
        let [_, mean, rstd, dx, dw, _] = ours(&x, None, None, &dy, rows, cols);
        let (mut sum, mut dw_again) = (before.clone(), vec![0.0; cols]);
        let outputs = (Some(&mut dw_again[..]), None);
        backward_onto(
            true,
            &mut sum,
            outputs.0,
            outputs.1,
            Elements::Own(&dy),
            &x,
            None,
            &mean,
            &rstd,
            rows,
            cols,
        );
        let want: Vec<f32> = before.iter().zip(&dx).map(|(a, b)| a + b).collect();
        assert_eq!((sum, dw_again), (want, dw));
    }

    /// y in bf16 is y rounded, and a dy in bf16 counts as what it is in f32.
    #[test]
    fn bf16_is_rounded_once_and_widened() {
        let (rows, cols) = (70, 37);
        let [x, dy] = [1, 2].map(|seed| narrow(&numbers(rows * cols, 1.0, seed)));
        let w = narrow(&numbers(cols, 1.0, 3));
        let short: Vec<bf16> = dy.iter().map(|&x| bf16::from_f32(x)).collect();
        let wide: Vec<f32> = short.iter().map(|x| x.to_f32()).collect();
        let [y, mean, rstd, dx, dw, db] = ours(&x, Some(&w), Some(&w), &wide, rows, cols);
        let new = |n| vec![f32::NAN; n];
        let (mut mean_again, mut rstd_again) = (new(rows), new(rows));
        let mut rounded = vec![bf16::NAN; rows * cols];
        let to = Output::Bf16(&mut rounded);
        forward(to, &mut mean_again, &mut rstd_again, &x, Some(&w), Some(&w), rows, cols, 1e-5);
        assert!(rounded.iter().zip(&y).all(|(&a, &b)| a == bf16::from_f32(b)));
        let (mut dx_again, mut dw_again, mut db_again) = (new(rows * cols), new(cols), new(cols));
        let outputs = (Some(&mut dw_again[..]), Some(&mut db_again[..]));
        let dy = Elements::Bf16(&short);
        backward(&mut dx_again, outputs.0, outputs.1, dy, &x, Some(&w), &mean, &rstd, rows, cols);
        assert_eq!((mean_again, rstd_again), (mean, rstd));
        assert_eq!((dx_again, dw_again, db_again), (dx, dw, db));
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let (rows, cols) = (200, 203);
        let [x, dy] = [1, 2].map(|seed| narrow(&numbers(rows * cols, 1.0, seed)));
        let w = narrow(&numbers(cols, 1.0, 3));
        same_bits(|| ours(&x, Some(&w), Some(&w), &dy, rows, cols).concat());
    }
}
