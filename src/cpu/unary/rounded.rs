//! The gradient of a function of one element where it and what it is made of are bf16.

use half::bf16;

use super::super::rows::{column_sums, each, load, load_from, store, store_bf16};
use super::super::scratch;
use super::super::simd::for_pieces_and;
use super::*;

/// Rows whose sums one task makes.
const ROWS: usize = 64;

/// Rows taken at a time: sums are loaded and stored once for all of them.
const BLOCK: usize = 4;

/// `dx = dy · op′(x)`, all `[rows, cols]`, computed as T and rounded once, and `sums`, if they are wanted, of the rows
/// of dx before it is rounded: over pieces of 64 rows, and then over pieces in their order.
///
/// # Panics
/// When slices differ in length.
pub fn backward_rounded<T: Real>(
    op: Unary,
    dx: &mut [bf16],
    sums: Option<&mut [T]>,
    dy: &[bf16],
    x: &[bf16],
    cols: usize,
) {
    assert!(dx.len() == dy.len() && dx.len() == x.len());
    let pieces = dx.len().div_ceil(ROWS * cols.max(1));
    let work = op.cost() * dy.len();
    scratch::with::<T, _>(pieces * cols, |parts| {
        let dx = (dx, ROWS * cols);
        for_pieces_and([(&mut *parts, cols)], dx, pieces, work, |i, [sums], dx| {
            let from = i * ROWS * cols;
            let (dy, x) = (&dy[from..from + dx.len()], &x[from..from + dx.len()]);
            with_function!(op, f => T::dispatch(Piece { f, dx, sums, dy, x, cols }));
        });
        if let Some(sums) = sums {
            column_sums(sums, parts);
        }
    });
}

struct Piece<'a, T, F> {
    f: F,
    dx: &'a mut [bf16],
    sums: &'a mut [T],
    dy: &'a [bf16],
    x: &'a [bf16],
    cols: usize,
}

impl<T: Real, F: Function> Kernel<T> for Piece<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Piece { f, dx, sums, dy, x, cols } = self;
        sums.fill(T::ZERO);
        for first in (0..dx.len()).step_by(BLOCK * cols) {
            let rows = BLOCK.min((dx.len() - first) / cols);
            each(
                cols,
                #[inline(always)]
                |at, n| {
                    let mut sum: V = load(sums, at, n);
                    for r in 0..rows {
                        let at = first + r * cols + at;
                        let d = f.gradient(load_from(dy, at, n), load_from::<_, V>(x, at, n));
                        sum = sum.add(d);
                        store_bf16(d, dx, at, n);
                    }
                    store(sum, sums, at, n);
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::rows::testing::{narrow, numbers, same_bits};
    use super::*;

    fn both(rows: usize, cols: usize) -> (Vec<f32>, Vec<f32>) {
        let short = |seed| -> Vec<bf16> {
            narrow(&numbers(rows * cols, 2.0, seed)).into_iter().map(bf16::from_f32).collect()
        };
        let (dy, x) = (short(1), short(2));
        let (mut dx, mut sums) = (vec![bf16::NAN; rows * cols], vec![f32::NAN; cols]);
        backward_rounded(Unary::GeluTanh, &mut dx, Some(&mut sums), &dy, &x, cols);
        (dx.iter().map(|x| x.to_f32()).collect(), sums)
    }

    #[test]
    fn is_the_gradient_rounded_and_its_sums_are_those_before() {
        for (rows, cols) in [(1, 1), (3, 17), (64, 32), (130, 45), (0, 5)] {
            let wide = |seed| -> Vec<f32> {
                let numbers = narrow(&numbers(rows * cols, 2.0, seed));
                numbers.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
            };
            let (dy, x, mut dx) = (wide(1), wide(2), vec![f32::NAN; rows * cols]);
            super::super::backward(Unary::GeluTanh, &mut dx, &dy, &x, &[]);
            let (got, sums) = both(rows, cols);
            assert!(got.iter().zip(&dx).all(|(&got, &want)| got == bf16::from_f32(want).to_f32()));
            for (j, &sum) in sums.iter().enumerate() {
                let want: f64 = (0..rows).map(|i| dx[i * cols + j] as f64).sum();
                assert!((sum as f64 - want).abs() <= 1e-5 * rows as f64, "{rows} × {cols}, {j}");
            }
        }
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        same_bits(|| {
            let (dx, sums) = both(300, 77);
            [dx, sums].concat()
        });
    }
}
