//! The size of a gradient, and whether all of it is finite.
//!
//! Both read memory once. Σ x² is summed in `T` over pieces of 4,096 elements (64 partial sums of 64
//! squares each) and in `f64` across pieces, in their order, so the result has the accuracy of a few
//! roundings of `T` and does not depend on the number of threads.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::rows::{load, sums};
use super::scratch;
use super::simd::{Kernel, Real, Vector, for_pieces};
use super::threads::{self, CHUNK};

/// Elements whose squares are summed in `T` before `f64` takes over.
const PIECE: usize = 4096;

/// Pieces that one task sums.
const PIECES: usize = 16;

/// Σ x², as `f64`. It is not finite only if an element is not finite.
pub fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    let count = x.len().div_ceil(PIECE);
    scratch::with::<f64, _>(count, |partial| {
        let tasks = count.div_ceil(PIECES);
        for_pieces([(&mut *partial, PIECES)], tasks, x.len(), |task, [partial]| {
            let from = task * PIECES * PIECE;
            let pieces = x[from..].chunks(PIECE);
            for (sum, piece) in partial.iter_mut().zip(pieces) {
                *sum = T::dispatch(Squares { x: piece }).to_f64();
                if !sum.is_finite() {
                    // The squares may have overflowed where the elements have not.
                    *sum = piece.iter().map(|x| x.to_f64() * x.to_f64()).sum();
                }
            }
        });
        partial.iter().sum()
    })
}

struct Squares<'a, T> {
    x: &'a [T],
}

impl<T: Real> Kernel<T> for Squares<'_, T> {
    type Output = T;

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) -> T {
        let [sum] = sums::<V, 1>(
            self.x.len(),
            #[inline(always)]
            |acc, at, n| {
                let x: V = load(self.x, at, n);
                acc[0] = x.mul_add(x, acc[0]);
            },
        );
        sum
    }
}

/// Whether no element is infinite or NaN.
pub fn all_finite<T: Real>(x: &[T]) -> bool {
    let fine = AtomicBool::new(true);
    threads::for_each(x.len().div_ceil(CHUNK), x.len(), |i| {
        let piece = &x[i * CHUNK..x.len().min((i + 1) * CHUNK)];
        if fine.load(Relaxed) && !T::dispatch(Finite { x: piece }) {
            fine.store(false, Relaxed);
        }
    });
    fine.into_inner()
}

struct Finite<'a, T> {
    x: &'a [T],
}

impl<T: Real> Kernel<T> for Finite<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) -> bool {
        // 0 · x is 0 for every finite x and NaN for all others.
        let [sum] = sums::<V, 1>(
            self.x.len(),
            #[inline(always)]
            |acc, at, n| {
                acc[0] = load::<V>(self.x, at, n).mul_add(V::zero(), acc[0]);
            },
        );
        sum == T::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{narrow, numbers, same_bits};
    use super::*;

    #[test]
    fn squares_add_up_at_every_length() {
        for n in (0..40).chain([4095, 4096, 4097, 70_000, 200_000]) {
            let x = numbers(n, 3.0, n as u64);
            let want: f64 = x.iter().map(|x| x * x).sum();
            let close = |got: f64, tolerance: f64| (got - want).abs() <= tolerance * want;
            assert!(close(sum_of_squares(&x), 1e-13), "{n}");
            assert!(close(sum_of_squares(&narrow(&x)), 1e-6), "{n}");
        }
    }

    #[test]
    fn squares_beyond_f32_are_summed_all_the_same() {
        let mut x = vec![0.0f32; 5000];
        x[4500] = 1e30;
        assert!((sum_of_squares(&x) / 1e60 - 1.0).abs() < 1e-6);
        x[7] = f32::INFINITY;
        assert_eq!(sum_of_squares(&x), f64::INFINITY);
        x[8] = f32::NAN;
        assert!(sum_of_squares(&x).is_nan());
    }

    #[test]
    fn one_bad_element_anywhere_is_found() {
        for n in [1, 15, 16, 17, 100, 40_000] {
            let mut x = vec![f32::MAX; n];
            assert!(all_finite(&x));
            for at in [0, n / 2, n - 1] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    x[at] = bad;
                    assert!(!all_finite(&x), "{bad} at {at} of {n}");
                    x[at] = -1.0;
                }
            }
        }
        assert!(all_finite::<f32>(&[]));
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let x = narrow(&numbers(300_001, 1.0, 5));
        same_bits(|| {
            let bits = sum_of_squares(&x).to_bits();
            vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
        });
    }
}
