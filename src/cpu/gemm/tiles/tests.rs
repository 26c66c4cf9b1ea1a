use half::bf16;

use super::super::arithmetic::Arithmetic;
use super::super::tests::{exact_in_every_layout, shortened, widened};
use super::super::{Elements, Epilogue, Factor, Mat, Output, Piece, product};
use super::{Parts, Tiles};

const ALL: [Parts; 3] = [Parts::One, Parts::Two, Parts::Three];

fn model(parts: Parts) -> Arithmetic {
    Arithmetic::Tiles(Tiles::model(), parts)
}

/// All that the model does, and what the vectors of pairs of a processor that has them do.
fn everything() -> impl Iterator<Item = Arithmetic> {
    let dots = Tiles::dots().map(|dots| Arithmetic::Tiles(dots, Parts::One));
    ALL.map(model).into_iter().chain(dots)
}

/// Evenly spread in ±0.5, the same for the same `i`.
fn number(i: usize) -> f64 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1u64 << 53) as f64 - 0.5
}

fn dense(data: &[f32], row_stride: usize) -> Mat<'_, f32> {
    Mat { data, row_stride, col_stride: 1 }
}

/// `C = A B`, both dense, by one arithmetic.
fn dense_product(by: Arithmetic, a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    let (none, a, b) = (Epilogue::None, dense(a, k).into(), dense(b, n).into());
    product(by, Output::Own(&mut c), 0, n, (a, 0), (b, 0), 1, m, n, k, false, none);
    c
}

#[test]
fn exact_operands_give_the_f32_product_in_every_layout() {
    let shapes: &[_] = if cfg!(miri) {
        &[[3, 17, 33]]
    } else {
        &[
            [1, 1, 1],
            [17, 33, 31],
            [64, 64, 64],
            [33, 70, 300],
            [40, 290, 530],
            [33, 40, 2100],
            [9, 33, 70],
            [11, 17, 33],
            [22, 20, 65],
            [23, 17, 33],
        ]
    };
    everything().for_each(|by| exact_in_every_layout(by, shapes));
    everything().for_each(sums_of_nothing_are_zero);
}

fn sums_of_nothing_are_zero(by: Arithmetic) {
    let mut c = [5.0f32; 6];
    let (none, a, b) = (Epilogue::None, dense(&[], 0).into(), dense(&[], 3).into());
    product(by, Output::Own(&mut c), 0, 3, (a, 0), (b, 0), 1, 2, 3, 0, false, none);
    assert_eq!(c, [0.0; 6], "{by:?}");
}

/// On one thread each tile packs its own B; on more a B that several tiles read is packed before them.
#[test]
#[cfg_attr(miri, ignore = "threads over large products")]
fn threads_and_packing_do_not_change_bits() {
    let shape @ [m, n, k] = [300, 170, 2090];
    let a: Vec<f32> = (0..m * k).map(|i| number(i) as f32).collect();
    let b: Vec<f32> = (0..k * n).map(|i| number(i + 77_777) as f32).collect();
    for by in everything() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| dense_product(by, &a, &b, shape))
        };
        let first = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == first, "{threads} threads, {by:?}");
        }
    }
}

/// Rows of bf16 in lines of their own, which tiles read where they lie.
struct Lines(Vec<[bf16; 32]>);

impl Lines {
    fn new(x: &[bf16]) -> Lines {
        // One line more, to begin with a whole one.
        let mut lines = vec![[bf16::ZERO; 32]; x.len().div_ceil(32) + 1];
        let first = Lines::first(&lines);
        lines.as_flattened_mut()[first..first + x.len()].copy_from_slice(x);
        Lines(lines)
    }

    /// The first element with a line to itself.
    fn first(lines: &[[bf16; 32]]) -> usize {
        lines.as_flattened().as_ptr().align_offset(64)
    }

    fn matrix(&self, cols: usize) -> Factor<'_, f32> {
        let data = &self.0.as_flattened()[Lines::first(&self.0)..];
        Factor { data: Elements::Bf16(data), row_stride: cols, col_stride: 1 }
    }
}

/// An A in bf16 that lies right is not packed: whole tiles and ragged ones, sums that wait, several blocks of k, and more
/// of B than strips of A pass by.
fn a_where_it_lies_gives_the_bits_of_a_packed_one(by: Arithmetic, shapes: &[[usize; 3]]) {
    for &shape @ [m, n, k] in shapes {
        let a = shortened(&(0..m * k).map(|i| number(i) as f32).collect::<Vec<_>>());
        let b = shortened(&(0..k * n).map(|i| number(i + 77_777) as f32).collect::<Vec<_>>());
        let want = dense_product(by, &widened(&a), &widened(&b), shape);
        let (lines, b_lines) = (Lines::new(&a), Lines::new(&b));
        assert!(super::rows_of(&lines.matrix(k), k).is_some());
        let factors = || ((lines.matrix(k), 0), (b_lines.matrix(n), 0));
        let (a, b) = factors();
        let mut got = vec![f32::NAN; m * n];
        product(by, Output::Own(&mut got), 0, n, a, b, 1, m, n, k, false, Epilogue::None);
        assert!(got == want, "{m} × {n} × {k}");
        let (a, b) = factors();
        let mut rounded = vec![bf16::NAN; m * n];
        product(by, Output::Bf16(&mut rounded), 0, n, a, b, 1, m, n, k, false, Epilogue::None);
        assert!(rounded == shortened(&want), "{m} × {n} × {k}, C in bf16");
        // What comes after gets the sums before they are rounded.
        let (a, b) = factors();
        let seen = std::sync::Mutex::new(vec![f32::NAN; m * n]);
        let then = |mut piece: Piece<f32>| {
            for r in 0..piece.rows() {
                let (i, j, cols) = piece.place(r);
                seen.lock().unwrap()[i * n + j..][..cols].copy_from_slice(piece.row(r));
            }
        };
        let (mut again, then) = (vec![bf16::NAN; m * n], Epilogue::Then(None, &then));
        product(by, Output::Bf16(&mut again), 0, n, a, b, 1, m, n, k, false, then);
        assert!(again == rounded && seen.into_inner().unwrap() == want, "{m} × {n} × {k}, then");
    }
}

#[test]
fn a_is_read_where_it_lies() {
    let shapes: &[_] = if cfg!(miri) {
        &[[32, 33, 32]]
    } else {
        &[[32, 40, 64], [64, 70, 1088], [50, 64, 96], [32, 650, 1088], [32, 33, 2112]]
    };
    for tiles in [Some(Tiles::model()), Tiles::dots()].into_iter().flatten() {
        let by = Arithmetic::Tiles(tiles, Parts::One);
        a_where_it_lies_gives_the_bits_of_a_packed_one(by, shapes);
    }
}

/// The errors of a product, as shares of Σ|a||b|, in units of 2⁻²⁴: the largest and the root of the mean square.
fn errors(c: &[f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> (f64, f64) {
    let (mut most, mut squares) = (0.0f64, 0.0);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let terms = || (0..k).map(|p| a[i * k + p] as f64 * b[p * n + j] as f64);
        let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
        let error =
            (c[i * n + j] as f64 - sum).abs() / size.max(f64::MIN_POSITIVE) * (1 << 24) as f64;
        most = most.max(error);
        squares += error * error;
    }
    (most, (squares / (m * n) as f64).sqrt())
}

/// The gate: only what passes is called as exact as f32. Each error is measured against the sum of the magnitudes
/// of its own terms, so a large row hides no error in a small one, and compared with that of f32's multiply-adds.
#[test]
#[cfg_attr(miri, ignore = "large products")]
fn three_parts_are_as_exact_as_f32_whatever_the_scales() {
    type Entry = fn(usize, usize) -> f64;
    let shape @ [m, n, k] = [64, 64, 768];
    // Row (or column) and k of an element to its value.
    let plain: Entry = |i, p| number(i * 4096 + p);
    let kinds: [(&str, Entry, Entry); 5] = [
        ("even", plain, |j, p| number(j * 4096 + p + 999_331)),
        (
            "rows and columns of all scales",
            |i, p| number(i * 4096 + p) * 2f64.powi((i * 7 % 81) as i32 - 40),
            |j, p| number(j * 4096 + p + 999_331) * 2f64.powi((j * 11 % 81) as i32 - 40),
        ),
        (
            "elements of all scales",
            |i, p| number(i * 4096 + p) * 2f64.powi(((i + p) * 13 % 81) as i32 - 40),
            |j, p| number(j * 4096 + p + 999_331) * 2f64.powi(((j * 5 + p) * 29 % 81) as i32 - 40),
        ),
        (
            "scales along k that cancel",
            |i, p| number(i * 4096 + p) * 2f64.powi((p * 7 % 101) as i32 - 50),
            |j, p| number(j * 4096 + p + 999_331) * 2f64.powi(50 - (p * 7 % 101) as i32),
        ),
        (
            // Neighbours along k are each other's negative, but for the last bits: what is left of the sum is small.
            "terms that cancel",
            |i, p| number(i * 4096 + p / 2) * if p % 2 == 0 { 1.0 } else { -1.0 },
            |j, p| number(j * 4096 + p / 2 + 999_331) * (1.0 + (p % 2) as f64 * 1e-6),
        ),
    ];
    for (name, left, right) in kinds {
        let a: Vec<f32> = (0..m * k).map(|at| left(at / k, at % k) as f32).collect();
        let b: Vec<f32> = (0..k * n).map(|at| right(at % n, at / n) as f32).collect();
        let of = |by| errors(&dense_product(by, &a, &b, shape), &a, &b, shape);
        let f32s = of(Arithmetic::Fma);
        let [one, two, three] = ALL.map(|parts| of(model(parts)));
        println!("{name}: f32 {f32s:.3?}, one {one:.0?}, two {two:.2?}, three {three:.3?}");
        // The products that are left out are up to half a unit of one term: where a single term is most of the sum,
        // that shows beside f32's rounding.
        let as_exact = three.0 <= 1.25 * f32s.0 && three.1 <= 1.25 * f32s.1;
        assert!(as_exact, "{name}: {three:?}, f32 {f32s:?}");
        assert!(two.1 > 1.5 * f32s.1, "{name}: two parts would do, {two:?}, f32 {f32s:?}");
        assert!(one.1 > 10.0 * two.1, "{name}: one part {one:?}, two {two:?}");
    }
}

/// Infinity, NaN and numbers that bf16 cannot hold go through as in f32; the rows and columns without them are untouched.
#[test]
#[cfg_attr(miri, ignore = "large products")]
fn what_cannot_be_split_is_summed_in_f32() {
    let shape @ [m, n, k] = [40, 70, 300];
    let mut a: Vec<f32> = (0..m * k).map(|i| number(i) as f32).collect();
    let mut b: Vec<f32> = (0..k * n).map(|i| number(i + 77_777) as f32).collect();
    let by = model(Parts::Three);
    let before = dense_product(by, &a, &b, shape);
    // Whole numbers beside the infinity: the products with their rests would be ∞ · 0.
    (0..k).for_each(|p| b[p * n + 1] = (p % 3) as f32 + 1.0);
    a[3 * k + 299] = f32::INFINITY;
    a[17 * k] = f32::NAN;
    a[20 * k + 5] = f32::MAX;
    b[7 * n + 33] = f32::NEG_INFINITY;
    b[8 * n + 69] = -3.4e38;
    let got = dense_product(by, &a, &b, shape);
    let want = dense_product(Arithmetic::Fma, &a, &b, shape);
    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let (got, want, before) = (got[i * n + j], want[i * n + j], before[i * n + j]);
        let finite = want.is_finite() && got.is_finite();
        let same = got == want || got.is_nan() && want.is_nan();
        assert!(
            same || finite && (got - want).abs() <= 1e-5 * want.abs().max(1.0),
            "{i}, {j}: {got}, in f32 {want}"
        );
        if ![3, 17, 20].contains(&i) && ![1, 33, 69].contains(&j) {
            assert_eq!(got.to_bits(), before.to_bits(), "{i}, {j}");
        }
    }
    assert!(want[3 * n + 1] == f32::INFINITY && want[20 * n] != f32::INFINITY);
}

/// What the documentation says about small numbers: from 2⁻¹⁰² up all 24 bits count, below fewer and fewer.
#[test]
#[cfg_attr(miri, ignore = "large products")]
fn small_numbers_lose_low_bits() {
    let shape @ [m, n, k] = [32, 32, 32];
    let error = |power: i32| {
        let scale = 2f64.powi(power);
        let a: Vec<f32> = (0..m * k)
            .map(|i| (number(i).signum() * (0.5 + number(i).abs()) * scale) as f32)
            .collect();
        let b: Vec<f32> = (0..k * n).map(|i| (number(i + 77_777) / scale) as f32).collect();
        errors(&dense_product(model(Parts::Three), &a, &b, shape), &a, &b, shape).1
    };
    let [fine, less, few] = [-101, -110, -118].map(error);
    assert!(fine < 0.5 && (4.0..400.0).contains(&less) && (1e3..1e5).contains(&few));
}

/// The code for AMX gives the model's bits: on the processor's tiles, or on those of [`trap`](super::trap).
#[test]
#[cfg(all(feature = "cli", target_arch = "x86_64", target_os = "linux", not(miri)))]
fn amx_gives_the_bits_of_the_model() {
    use crate::cpu::simd::{at_level, available_levels};
    let Some(tiles) = Tiles::amx_or_trap() else { return };
    let amx = |parts| Arithmetic::Tiles(tiles, parts);
    let level = *available_levels().last().unwrap();
    // SAFETY: the tiles are there, or the trap is.
    assert_eq!(unsafe { super::amx::spin(3) }, (3 * 4 * 2 * 16 * 16 * 32) as f64);
    at_level(level, || {
        for parts in ALL {
            exact_in_every_layout(amx(parts), &[[17, 33, 31], [40, 70, 530]]);
        }
        sums_of_nothing_are_zero(amx(Parts::One));
        let shapes = [[64, 70, 1088], [50, 64, 96], [32, 650, 1088]];
        a_where_it_lies_gives_the_bits_of_a_packed_one(amx(Parts::One), &shapes);
        let shape @ [m, n, k] = [70, 90, 2100];
        let mut a: Vec<f32> = (0..m * k).map(|i| number(i) as f32).collect();
        let mut b: Vec<f32> = (0..k * n).map(|i| number(i + 77_777) as f32).collect();
        (a[5 * k + 7], a[6 * k + 8], b[9 * n + 10]) = (f32::NAN, 1e-39, f32::INFINITY);
        (a[7 * k + 8], b[9 * n + 11]) = (1e-36, -1e-34);
        for parts in ALL {
            let want = dense_product(model(parts), &a, &b, shape);
            let got = dense_product(amx(parts), &a, &b, shape);
            for (i, (x, y)) in got.iter().zip(&want).enumerate() {
                let same = x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
                assert!(same, "{parts:?}: element {i} is {x:e}, the model says {y:e}");
            }
        }
        // Stored in bf16 the numbers go into tiles as they lie, the smallest of them too.
        let (a, b) = (shortened(&a), shortened(&b));
        assert!(a[6 * k + 8].to_f32().is_subnormal());
        let of_f32 = dense_product(model(Parts::One), &widened(&a), &widened(&b), shape);
        let factor =
            |data, row_stride| Factor { data: Elements::Bf16(data), row_stride, col_stride: 1 };
        let mut of_bf16 = vec![0.0; m * n];
        let (by, none) = (amx(Parts::One), Epilogue::None);
        let (c, a, b) = (Output::Own(&mut of_bf16), (factor(&a, k), 0), (factor(&b, n), 0));
        product(by, c, 0, n, a, b, 1, m, n, k, false, none);
        let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
        assert!(of_bf16.iter().zip(&of_f32).all(same));
    });
}
