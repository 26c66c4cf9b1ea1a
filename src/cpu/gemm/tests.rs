//! Bit for bit against the sum as the module documentation writes it.

use super::arithmetic::Arithmetic;
use super::*;
use crate::cpu::simd::{at_every_level, at_level, level};
use half::bf16;

/// Numbers of mixed size and sign.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * if state & 64 == 0 { 8.0 } else { 0.25 }
        })
        .collect()
}

/// The formula, element by element.
fn oracle(
    c: &mut [f32],
    ldc: usize,
    a: Mat<f32>,
    b: Mat<f32>,
    (m, n, k): (usize, usize, usize),
    accumulate: bool,
    epilogue: Epilogue<f32>,
) {
    for i in 0..m {
        for j in 0..n {
            let mut total = if accumulate { Some(c[i * ldc + j]) } else { None };
            let mut from = 0;
            while from == 0 || from < k {
                let sum = (from..k.min(from + KC)).fold(0.0f32, |sum, p| {
                    let x = a.data[i * a.row_stride + p * a.col_stride];
                    x.mul_add(b.data[p * b.row_stride + j * b.col_stride], sum)
                });
                total = Some(total.map_or(sum, |t| t + sum));
                from += KC;
            }
            let mut total = total.unwrap_or(0.0);
            if let Epilogue::Bias(bias) = epilogue {
                total += bias[j];
            }
            c[i * ldc + j] = total;
        }
    }
}

fn same(ours: &[f32], theirs: &[f32], what: &str) {
    for (i, (x, y)) in ours.iter().zip(theirs).enumerate() {
        let equal = x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
        assert!(equal, "{what}: element {i} is {x:e}, expected {y:e}");
    }
}

/// A matrix of `rows` × `cols` as one of: row-major, column-major, padded rows, both strides odd.
fn laid_out(data: &[f32], rows: usize, cols: usize, layout: usize) -> Mat<'_, f32> {
    let (row_stride, col_stride) = match layout {
        0 => (cols, 1),
        1 => (1, rows),
        2 => (cols + 3, 1),
        _ => (2 * cols + 1, 2),
    };
    Mat { data, row_stride, col_stride }
}

fn check(m: usize, n: usize, k: usize, layouts: (usize, usize), accumulate: bool, bias: bool) {
    let a_data = numbers((2 * k + 3) * m.max(1) + 3 * k + 8, 1 + m as u32);
    let b_data = numbers((2 * n + 3) * k.max(1) + 3 * n + 8, 2 + n as u32);
    let bias_data = numbers(n, 3);
    let (a, b) = (laid_out(&a_data, m, k, layouts.0), laid_out(&b_data, k, n, layouts.1));
    let epilogue = if bias { Epilogue::Bias(&bias_data) } else { Epilogue::None };
    let ldc = n + layouts.0 % 3;
    let before = numbers(m * ldc + 5, 4);
    let mut expected = before.clone();
    oracle(&mut expected, ldc, a, b, (m, n, k), accumulate, epilogue);
    let what = format!("{m}×{n}×{k} {layouts:?} add {accumulate} {:?}", level());
    let mut c = before.clone();
    gemm(&mut c, ldc, a, b, m, n, k, accumulate, epilogue);
    same(&c, &expected, &what);
    // The same numbers, stored in bf16 on one side or both.
    let (a_short, b_short) = (shortened(&a_data), shortened(&b_data));
    let (a_long, b_long) = (widened(&a_short), widened(&b_short));
    let (in_bf16, in_f32) = match (m + n + k) % 3 {
        0 => ((as_bf16(a, &a_short), b.into()), (Mat { data: &a_long, ..a }, b)),
        1 => ((a.into(), as_bf16(b, &b_short)), (a, Mat { data: &b_long, ..b })),
        _ => (
            (as_bf16(a, &a_short), as_bf16(b, &b_short)),
            (Mat { data: &a_long, ..a }, Mat { data: &b_long, ..b }),
        ),
    };
    let (mut c, mut expected) = (before.clone(), before);
    oracle(&mut expected, ldc, in_f32.0, in_f32.1, (m, n, k), accumulate, epilogue);
    let none = Precision::Highest;
    gemm_at(none, &mut c, ldc, in_bf16.0, in_bf16.1, m, n, k, accumulate, epilogue);
    same(&c, &expected, &format!("bf16 {what}"));
    if accumulate {
        return;
    }
    let mut rounded = vec![bf16::NAN; m * n];
    gemm_to(none, Output::Bf16(&mut rounded), in_bf16.0, in_bf16.1, m, n, k, epilogue);
    for (i, x) in rounded.iter().enumerate() {
        let want = bf16::from_f32(expected[i / n * ldc + i % n]);
        assert_eq!(x.to_bits(), want.to_bits(), "C in bf16 {what}, element {i}");
    }
}

pub(super) fn shortened(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

pub(super) fn widened(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// The matrix with these elements.
fn as_bf16<'a>(mat: Mat<'_, f32>, data: &'a [bf16]) -> Factor<'a, f32> {
    let (row_stride, col_stride) = (mat.row_stride, mat.col_stride);
    Factor { data: Elements::Bf16(data), row_stride, col_stride }
}

/// Checks `by` against f32 on numbers whose products and sums are exact in both, in every layout.
pub(super) fn exact_in_every_layout(by: Arithmetic, shapes: &[[usize; 3]]) {
    let numbers = |len: usize, by: usize| -> Vec<f32> {
        (0..len).map(|i| ((i * by % 23) as f32 - 11.0) * 0.5).collect()
    };
    for &[m, n, k] in shapes {
        let (a, b) = (numbers(2 * m * k, 7), numbers(2 * k * n, 5));
        let bias = numbers(n, 3);
        let ways = ["tn", "ns", "nn", "nt", "tt", "ss"];
        let ways = &ways[..if cfg!(miri) { 1 } else { ways.len() }]; // which takes minutes for each
        for (a_lies, b_lies) in ways.iter().map(|way| way.split_at(1)) {
            let mat = |data, rows, cols, lies: &str| {
                let (row_stride, col_stride) = match lies {
                    "n" => (cols, 1),
                    "t" => (1, rows),
                    _ => (2 * cols, 2), // every other element
                };
                Mat { data, row_stride, col_stride }
            };
            let (a, b) = (mat(&a, m, k, a_lies), mat(&b, k, n, b_lies));
            let (mut want, plain) = (numbers(m * n, 9), (a, b));
            let bias = Epilogue::Bias(&bias);
            gemm(&mut want, n, a, b, m, n, k, true, bias);
            let (a_short, b_short) = (shortened(a.data), shortened(b.data));
            let in_bf16 = (as_bf16(a, &a_short), as_bf16(b, &b_short));
            let mixed = (in_bf16.0, b.into());
            for (a, b) in
                [(a.into(), b.into()), mixed].into_iter().take(1 + (a_lies == b_lies) as usize)
            {
                let mut got = numbers(m * n, 9);
                product(by, Output::Own(&mut got), 0, n, (a, 0), (b, 0), 1, m, n, k, true, bias);
                assert_eq!(got, want, "{by:?}: {m} × {n} × {k}, {a_lies}{b_lies}");
            }
            let (a, b, mut rounded) = (in_bf16.0, in_bf16.1, vec![bf16::NAN; m * n]);
            gemm(&mut want, n, plain.0, plain.1, m, n, k, false, bias);
            product(by, Output::Bf16(&mut rounded), 0, n, (a, 0), (b, 0), 1, m, n, k, false, bias);
            assert_eq!(
                rounded,
                shortened(&want),
                "{by:?}: {m} × {n} × {k}, {a_lies}{b_lies}, C in bf16"
            );
        }
    }
}

/// Runs `f` at every level and at 1 to 4 threads.
fn everywhere(f: impl Fn() + Sync) {
    at_every_level(|level| {
        for threads in 1..=4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| at_level(level, &f));
        }
    });
}

#[test]
fn ragged_shapes_layouts_and_zero_sizes() {
    let sizes = [0, 1, 2, 5, 13, 14, 15, 16, 17, 31, 32, 33, 47, 64, 65];
    everywhere(|| {
        let mut turn = 0;
        for &m in &sizes {
            for &n in &sizes {
                for &k in &[0, 1, 2, 15, 16, 17, 40] {
                    turn += 1;
                    check(m, n, k, (turn % 4, turn / 4 % 4), turn % 3 == 0, turn % 2 == 0);
                }
            }
        }
    });
}

/// Each path through the kernels once, small enough for Miri: dense and packed operands, rows and columns
/// beyond a tile, more than one block of k, and the products with one row or column.
#[test]
fn every_path_on_small_products() {
    let all = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 3), (3, 0), (0, 3)];
    at_every_level(|_| {
        for layouts in all {
            check(15, 33, 18, layouts, false, true);
            check(1, 21, 18, layouts, false, true);
            check(21, 1, 18, layouts, true, false);
        }
        check(62, 17, 5, (0, 0), true, false); // many rows on a B that stays where it lies
        check(2, 17, 259, (0, 0), false, true);
        check(2, 17, 259, (1, 1), true, false);
        check(1, 17, 259, (0, 0), false, true);
        check(3, 17, 0, (0, 0), false, true);
    });
}

/// `|c − exact| ≤ γ (|c₀| + Σ |a||b| + |bias|)` with γ = n u / (1 − n u), u = 2⁻²⁴ and n the roundings that an
/// element goes through (Higham, "Accuracy and Stability of Numerical Algorithms", 3.5); and the oracle's bits.
#[test]
fn the_error_is_within_gamma_over_twenty_thousand_cases() {
    let mut state = 1u32;
    let mut below = |n: u32| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % n) as usize
    };
    let (mut worst, mut elements) = (0.0f64, 0usize);
    for case in 0..20_480 {
        let (m, n) = (1 + below(14), 1 + below(36));
        let k = if case % 16 == 0 { 200 + below(700) } else { 1 + below(48) };
        let (layouts, accumulate, biased) = ((case % 4, case / 4 % 4), case % 3 == 0, case % 5 < 2);
        let a_data = numbers((2 * k + 3) * m + 3 * k + 8, case as u32);
        let b_data = numbers((2 * n + 3) * k + 3 * n + 8, case as u32 + 7);
        let (bias, before) = (numbers(n, 3), numbers(m * n, 4));
        let (a, b) = (laid_out(&a_data, m, k, layouts.0), laid_out(&b_data, k, n, layouts.1));
        let epilogue = if biased { Epilogue::Bias(&bias) } else { Epilogue::None };
        let (mut c, mut expected) = (before.clone(), before.clone());
        gemm(&mut c, n, a, b, m, n, k, accumulate, epilogue);
        oracle(&mut expected, n, a, b, (m, n, k), accumulate, epilogue);
        same(&c, &expected, &format!("case {case}: {m}×{n}×{k} {layouts:?}"));
        let roundings = (k + k.div_ceil(KC) + 2) as f64 * 2f64.powi(-24);
        let gamma = roundings / (1.0 - roundings);
        for (at, &got) in c.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let start = if accumulate { before[at] as f64 } else { 0.0 };
            let end = if biased { bias[j] as f64 } else { 0.0 };
            let (mut exact, mut size) = (start + end, start.abs() + end.abs());
            for p in 0..k {
                let x = a.data[i * a.row_stride + p * a.col_stride] as f64
                    * b.data[p * b.row_stride + j * b.col_stride] as f64;
                (exact, size) = (exact + x, size + x.abs());
            }
            let error = (got as f64 - exact).abs();
            assert!(error <= gamma * size, "case {case}, element {at}: {error:e} of {size:e}");
            worst = worst.max(error / (gamma * size));
            elements += 1;
        }
    }
    println!("20480 products, {elements} elements: the worst error is {worst:.3} of its bound");
}

#[test]
fn long_sums_and_many_tiles() {
    everywhere(|| {
        for (layouts, add) in [((0, 0), false), ((0, 1), true), ((1, 0), false), ((1, 1), true)] {
            check(70, 150, 600, layouts, add, true);
            check(190, 130, 257, layouts, add, false);
            check(1, 300, 700, layouts, add, true);
            check(300, 1, 700, layouts, add, true);
            check(3, 140, 513, (layouts.0 + 2, layouts.1 + 2), add, true);
        }
        check(520, 1100, 20, (0, 1), false, false);
    });
}

#[test]
fn batches_share_or_step() {
    everywhere(|| {
        let (m, n, k, count) = (9, 21, 18, 5);
        let (a, b) = (numbers(count * m * k, 1), numbers(k * n, 2));
        let mut c = vec![0.0; count * m * n];
        let a_mat = Mat { data: &a, row_stride: k, col_stride: 1 };
        let b_mat = Mat { data: &b, row_stride: 1, col_stride: k };
        gemm_batched(&mut c, m * n, n, a_mat, m * k, b_mat, 0, count, m, n, k, false);
        let mut expected = vec![0.0; count * m * n];
        for i in 0..count {
            let a = Mat { data: &a[i * m * k..], ..a_mat };
            oracle(&mut expected[i * m * n..], n, a, b_mat, (m, n, k), false, Epilogue::None);
        }
        same(&c, &expected, "batch");
    });
}

#[test]
fn what_is_not_finite_goes_through() {
    everywhere(|| {
        for (m, n, k) in [(3, 5, 4), (40, 70, 300), (1, 40, 20), (40, 1, 20)] {
            let (mut a, mut b) = (numbers(m * k, 1), numbers(k * n, 2));
            a[k / 2] = f32::NAN;
            b[n / 2] = f32::INFINITY;
            b[(k - 1) * n] = f32::NEG_INFINITY;
            a[(m - 1) * k] = 0.0; // 0 · ∞ = NaN
            let a = Mat { data: &a, row_stride: k, col_stride: 1 };
            let b = Mat { data: &b, row_stride: n, col_stride: 1 };
            let (mut c, mut expected) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
            gemm(&mut c, n, a, b, m, n, k, false, Epilogue::None);
            oracle(&mut expected, n, a, b, (m, n, k), false, Epilogue::None);
            same(&c, &expected, "not finite");
        }
    });
}

#[test]
fn double_precision_and_matrixmultiply_agree() {
    let (m, n, k) = (37, 45, 300);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let wide = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<_>>();
    let (a64, b64, mut c64) = (wide(&a), wide(&b), vec![f64::NAN; m * n]);
    let mat = |data, row_stride| Mat { data, row_stride, col_stride: 1 };
    let bias = vec![0.5; n];
    gemm(&mut c64, n, mat(&a64, k), mat(&b64, n), m, n, k, false, Epilogue::Bias(&bias));
    let mut c = vec![0.0f32; m * n];
    let f32_mat = |data, row_stride| Mat { data, row_stride, col_stride: 1 };
    gemm(&mut c, n, f32_mat(&a, k), f32_mat(&b, n), m, n, k, false, Epilogue::Bias(&vec![0.5; n]));
    let mut theirs = vec![0.0f32; m * n];
    // SAFETY: three dense matrices of these sizes.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), theirs.as_mut_ptr());
        let (rs_a, rs_b, rs_c) = (k as isize, n as isize, n as isize);
        matrixmultiply::sgemm(m, k, n, 1.0, a, rs_a, 1, b, rs_b, 1, 0.0, c, rs_c, 1);
    }
    for i in 0..m * n {
        assert!((c64[i] - c[i] as f64).abs() < 1e-3, "{} {}", c64[i], c[i]);
        assert!((theirs[i] + 0.5 - c[i]).abs() < 1e-3);
    }
}

#[test]
#[should_panic(expected = "B: 1 × [4, 5]")]
fn a_slice_that_is_too_short_is_refused() {
    let (a, b) = ([0.0f32; 12], [0.0f32; 19]);
    let a = Mat { data: &a, row_stride: 4, col_stride: 1 };
    let b = Mat { data: &b, row_stride: 5, col_stride: 1 };
    gemm(&mut [0.0; 15], 5, a, b, 3, 5, 4, false, Epilogue::None);
}
