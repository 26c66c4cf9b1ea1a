//! Linear layers whose outputs go on while they are near: `x Wᵀ + b` is finished piece by piece, and each piece is
//! added to a residual stream, or sent through an activation, before it leaves the near caches.
//!
//! The bits are those of the product followed by the other operation.

use half::bf16;

use super::binary::add_row;
use super::gemm::{Elements, Epilogue, Factor, Output, Piece, Precision, gemm_at, gemm_to};
use super::scratch;
use super::simd::{Kernel, Real, Shared, Vector, round_row};
use super::unary::{self, Unary};

/// The operands of `x Wᵀ + b`: x `[rows, inner]`, W `[out, inner]`, b `[out]`.
#[derive(Clone, Copy)]
pub struct Operands<'a, T> {
    /// x
    pub x: Elements<'a, T>,
    /// W
    pub w: Elements<'a, T>,
    /// b
    pub bias: Option<&'a [T]>,
    /// How exactly they are multiplied.
    pub precision: Precision,
    /// Rows of x and of the outputs.
    pub rows: usize,
    /// What goes in.
    pub inner: usize,
    /// What comes out.
    pub out: usize,
}

impl<T: Real> Operands<'_, T> {
    fn factors(&self) -> (Factor<'_, T>, Factor<'_, T>) {
        let Operands { x, w, inner, .. } = *self;
        let x = Factor { data: x, row_stride: inner, col_stride: 1 };
        (x, Factor { data: w, row_stride: 1, col_stride: inner })
    }

    /// `c = x Wᵀ + b`, and `then` with each piece of it.
    fn product(&self, c: &mut [T], then: impl Fn(Piece<T>) + Sync) {
        let ((x, w), Operands { bias, precision, rows, inner, out, .. }) = (self.factors(), *self);
        let then = Epilogue::Then(bias, &then);
        gemm_at(precision, c, out, x, w, rows, out, inner, false, then);
    }
}

/// `y = x Wᵀ + b + residual`, both `[rows, out]`.
///
/// # Panics
/// When a slice is too short.
pub fn forward_add<T: Real>(y: &mut [T], residual: &[T], operands: Operands<'_, T>) {
    let out = operands.out;
    operands.product(y, |y| T::dispatch(Add { y, residual, out }));
}

/// Adds to a piece of the output what the residual has there.
struct Add<'a, T> {
    y: Piece<'a, T>,
    residual: &'a [T],
    out: usize,
}

impl<T: Real> Kernel<T> for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(mut self) {
        for r in 0..self.y.rows() {
            let (i, j, cols) = self.y.place(r);
            let residual = &self.residual[i * self.out + j..][..cols];
            add_row::<V>(self.y.row(r), residual);
        }
    }
}

/// `u = x Wᵀ + b`, which backward needs, and `y = f(u)`, both `[rows, out]`.
///
/// # Panics
/// When a slice is too short.
pub fn forward_then<T: Real>(f: Unary, y: &mut [T], u: &mut [T], operands: Operands<'_, T>) {
    let (out, y) = (operands.out, Shared::new(y));
    operands.product(u, |u| unary::forward_rows(f, Activated { y, u, out }));
}

/// As [`forward_then`], u and y in bf16; f is taken of u before it is rounded.
///
/// # Panics
/// When a slice is too short.
pub fn forward_then_rounded<T: Real>(
    f: Unary,
    y: &mut [bf16],
    u: &mut [bf16],
    operands: Operands<'_, T>,
) {
    let (y, (x, w)) = (Shared::new(y), operands.factors());
    let Operands { bias, precision, rows, inner, out, .. } = operands;
    let then = |u: Piece<T>| {
        scratch::with(u.cols(), |row| unary::forward_rows(f, Rounded { y, row, u, out }));
    };
    let then = Epilogue::Then(bias, &then);
    gemm_to(precision, Output::Bf16(u), x, w, rows, out, inner, then);
}

/// A piece of u, room for a row of y, and where the same piece of y is, in bf16.
struct Rounded<'a, T> {
    y: Shared<bf16>,
    row: &'a mut [T],
    u: Piece<'a, T>,
    out: usize,
}

impl<T: Real> unary::Rows<T> for Rounded<'_, T> {
    fn count(&self) -> usize {
        self.u.rows()
    }

    #[inline(always)]
    fn row(&mut self, r: usize) -> (&mut [T], &[T]) {
        (&mut *self.row, self.u.row(r))
    }

    #[inline(always)]
    fn done<V: Vector<Elem = T>>(&mut self, r: usize) {
        let (i, j, cols) = self.u.place(r);
        // SAFETY: as disjoint as the pieces of u, each of which comes once.
        round_row::<V>(unsafe { self.y.slice(i * self.out + j, cols) }, self.row);
    }
}

/// A piece of u, and where the same piece of y is.
struct Activated<'a, T> {
    y: Shared<T>,
    u: Piece<'a, T>,
    out: usize,
}

impl<T: Real> unary::Rows<T> for Activated<'_, T> {
    fn count(&self) -> usize {
        self.u.rows()
    }

    #[inline(always)]
    fn row(&mut self, r: usize) -> (&mut [T], &[T]) {
        let (i, j, cols) = self.u.place(r);
        // SAFETY: as disjoint as the pieces of u, each of which comes once.
        (unsafe { self.y.slice(i * self.out + j, cols) }, self.u.row(r))
    }
}

#[cfg(test)]
mod tests {
    use super::super::binary::add_assign;
    use super::super::rows::testing::{narrow, numbers, same_bits};
    use super::*;

    /// The outputs of both, and of the operations one after the other.
    fn both(rows: usize, inner: usize, out: usize, biased: bool) -> [Vec<f32>; 6] {
        let [x, w, b, residual] = [rows * inner, out * inner, out, rows * out]
            .map(|n| narrow(&numbers(n, 1.0, n as u64)));
        let bias = biased.then_some(&b[..]);
        let precision = Precision::Highest;
        let (x, w) = (Elements::Own(&x[..]), Elements::Own(&w[..]));
        let operands = Operands { x, w, bias, precision, rows, inner, out };
        let new = || vec![f32::NAN; rows * out];
        let (mut sum, mut u, mut y, mut plain) = (new(), new(), new(), new());
        forward_add(&mut sum, &residual, operands);
        forward_then(Unary::Gelu, &mut y, &mut u, operands);
        operands.product(&mut plain, |_| {});
        let (mut plain_sum, mut plain_y) = (plain.clone(), new());
        add_assign(&mut plain_sum, &residual);
        unary::forward(Unary::Gelu, &mut plain_y, &plain);
        [sum, u, y, plain_sum, plain, plain_y]
    }

    #[test]
    fn are_the_two_operations_bit_for_bit() {
        let shapes = [(1, 7, 5), (9, 7, 1), (3, 0, 4), (0, 3, 4), (70, 300, 150), (600, 40, 300)];
        for (rows, inner, out) in shapes {
            for biased in [false, true] {
                let [sum, u, y, plain_sum, plain_u, plain_y] = both(rows, inner, out, biased);
                assert_eq!(sum, plain_sum, "{rows} × {inner} × {out}");
                assert_eq!(u, plain_u, "{rows} × {inner} × {out}");
                assert_eq!(y, plain_y, "{rows} × {inner} × {out}");
            }
        }
    }

    #[test]
    fn what_is_rounded_is_what_is_not_rounded_once() {
        for (rows, inner, out) in [(1, 7, 5), (9, 7, 1), (3, 0, 4), (0, 3, 4), (70, 300, 150)] {
            let [x, w, b] =
                [rows * inner, out * inner, out].map(|n| narrow(&numbers(n, 1.0, n as u64)));
            let (x, w) = (Elements::Own(&x[..]), Elements::Own(&w[..]));
            let (bias, precision) = (Some(&b[..]), Precision::Highest);
            let operands = Operands { x, w, bias, precision, rows, inner, out };
            let (mut u, mut y) = (vec![f32::NAN; rows * out], vec![f32::NAN; rows * out]);
            forward_then(Unary::GeluTanh, &mut y, &mut u, operands);
            let (mut u_short, mut y_short) =
                (vec![bf16::NAN; rows * out], vec![bf16::NAN; rows * out]);
            forward_then_rounded(Unary::GeluTanh, &mut y_short, &mut u_short, operands);
            let short = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
            assert_eq!((u_short, y_short), (short(&u), short(&y)), "{rows} × {inner} × {out}");
        }
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        same_bits(|| both(150, 70, 301, true).concat());
    }
}
