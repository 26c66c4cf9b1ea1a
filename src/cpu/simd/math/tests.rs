use rayon::prelude::*;

use super::super::{Kernel, LANES, Real, at_level, available_levels, portable::Lanes};
use super::*;

/// The functions under test, by name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum F {
    Exp,
    ExpNonpositive,
    Log,
    Log1p,
    Tanh,
    Sigmoid,
    Erf,
    Gelu,
    GeluDerivative,
    GeluTanh,
    GeluTanhDerivative,
    Silu,
    SiluDerivative,
}

#[inline(always)]
fn apply<V: Vector>(f: F, x: V) -> V {
    match f {
        F::Exp => exp(x),
        F::ExpNonpositive => exp_nonpositive(x),
        F::Log => log(x),
        F::Log1p => log1p(x),
        F::Tanh => tanh(x),
        F::Sigmoid => sigmoid(x),
        F::Erf => erf(x),
        F::Gelu => gelu(x),
        F::GeluDerivative => gelu_derivative(x),
        F::GeluTanh => gelu_tanh(x),
        F::GeluTanhDerivative => gelu_tanh_derivative(x),
        F::Silu => silu(x),
        F::SiluDerivative => silu_derivative(x),
    }
}

fn truth(f: F, x: f64) -> f64 {
    // What an f32 kernel calls 0 or 1 in a tail, f64 may still multiply by an infinite x.
    let limit = |y: f64| if x == f64::NEG_INFINITY { -0.0 } else { y };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let cdf = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    let u = |x: f64| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    let bounded = x.clamp(-1e3, 1e3);
    match f {
        F::Exp | F::ExpNonpositive => x.exp(),
        F::Log => x.ln(),
        F::Log1p => x.ln_1p(),
        F::Tanh => x.tanh(),
        F::Sigmoid => sigmoid(x),
        F::Erf => libm::erf(x),
        F::Gelu => limit(x * cdf(x)),
        F::GeluDerivative => cdf(x) + bounded * NORMAL_PEAK * (-0.5 * bounded * bounded).exp(),
        F::GeluTanh => limit(x * sigmoid(u(x))),
        F::GeluTanhDerivative => {
            let du = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let du = du * (1.0 + 3.0 * 0.044715 * bounded * bounded);
            let (s, rest) = (sigmoid(u(bounded)), sigmoid(-u(bounded)));
            s + bounded * s * rest * du
        }
        F::Silu => limit(x * sigmoid(x)),
        F::SiluDerivative => sigmoid(bounded) * (1.0 + bounded * sigmoid(-bounded)),
    }
}

/// The functions of many values, on the instruction set in force.
struct Many<'a>(F, &'a mut [f32]);

impl Kernel<f32> for Many<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        for chunk in self.1.chunks_mut(LANES) {
            apply(self.0, V::load_part(chunk)).store_part(chunk);
        }
    }
}

/// The distance of `y` from `exact`, in units of the last place of `exact`.
fn ulps(y: f32, exact: f64) -> f64 {
    if exact.is_nan() || y.is_nan() {
        return if exact.is_nan() && y.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if (exact as f32).is_infinite() || y.is_infinite() {
        return if y == exact as f32 || y.abs() == f32::MAX { 0.0 } else { f64::INFINITY };
    }
    if exact.abs() < MIN_NORMAL * 1.0001 {
        return if (y as f64 - exact).abs() <= MIN_NORMAL * 1.0001 { 0.0 } else { 1e9 };
    }
    // 2²³ over the power of 2 at or below |exact|, straight from its exponent.
    let per_unit = f64::from_bits((2069 - (exact.to_bits() >> 52 & 0x7FF)) << 52);
    (y as f64 - exact).abs() * per_unit
}

/// `(worst, at)` over every `stride`-th bit pattern for which `inside` holds, where `error` measures; in all
/// threads. An error that is no number is infinite.
fn worst(
    f: F,
    stride: usize,
    inside: impl Fn(f32) -> bool + Sync,
    error: impl Fn(f32, f64) -> f64 + Sync,
) -> (f64, f32) {
    let count = (1usize << 32).div_ceil(stride);
    let piece = 1 << 16;
    let one = |from: usize| {
        let patterns = (from * piece..count.min((from + 1) * piece)).map(|i| (i * stride) as u32);
        let xs: Vec<f32> = patterns.map(f32::from_bits).filter(|&x| inside(x)).collect();
        let mut ys = xs.clone();
        f32::dispatch(Many(f, &mut ys));
        let mut found = (0.0, 0.0);
        for (&x, &y) in xs.iter().zip(&ys) {
            let e = error(y, truth(f, x as f64));
            if e > found.0 || e.is_nan() {
                found = (if e.is_nan() { f64::INFINITY } else { e }, x);
            }
        }
        found
    };
    let larger = |a: (f64, f32), b: (f64, f32)| if b.0 > a.0 { b } else { a };
    (0..count.div_ceil(piece)).into_par_iter().map(one).reduce(|| (0.0, 0.0), larger)
}

/// The bounds that the table in the module's documentation states.
const BOUNDS: [(F, f64); 7] = [
    (F::Exp, 1.0),
    (F::ExpNonpositive, 1.0),
    (F::Log, 1.0),
    (F::Log1p, 2.0),
    (F::Tanh, 2.0),
    (F::Sigmoid, 2.0),
    (F::Erf, 2.0),
];

fn within_bounds(stride: usize) {
    for (f, bound) in BOUNDS {
        let (found, at) =
            worst(f, stride, |x| f != F::ExpNonpositive || x.is_nan() || x <= 0.0, ulps);
        println!("{f:?}: {found:.3} ulp at {at:e}");
        assert!(found <= bound, "{f:?}: {found} ulp at {at:e}");
    }
}

#[test]
fn functions_stay_within_their_bounds() {
    within_bounds(997);
}

#[test]
#[ignore = "every f32: some minutes"]
fn functions_stay_within_their_bounds_everywhere() {
    within_bounds(1);
}

fn activations_within_bounds(stride: usize) {
    let absolute = |y: f32, exact: f64| {
        if y.is_nan() != exact.is_nan() {
            f64::INFINITY
        } else if y.is_nan() || y as f64 == exact {
            0.0
        } else {
            (y as f64 - exact).abs()
        }
    };
    let check = |f: F, found: (f64, f32), bound: f64, unit: &str| {
        println!("{f:?}: {:.3e} {unit} at {:e}", found.0, found.1);
        assert!(found.0 <= bound, "{f:?}: {:e} {unit} at {:e}", found.0, found.1);
    };
    // In ulp as far as Φ or the logistic function is a normal number, in the tail below it absolute.
    for (f, bound, left) in [(F::Gelu, 5.0, -12.9), (F::Silu, 3.5, -87.0)] {
        check(f, worst(f, stride, |x| x.is_nan() || x >= left, ulps), bound, "ulp");
        let tail = worst(f, stride, |x| x < left, absolute);
        check(f, tail, -left as f64 * 1.2e-38, "in the tail");
    }
    for f in [F::GeluDerivative, F::GeluTanhDerivative, F::SiluDerivative] {
        check(f, worst(f, stride, |_| true, absolute), 4e-7, "absolute");
    }
    let error = |y, exact: f64| match absolute(y, exact) {
        0.0 => 0.0,
        e => e / exact.abs().max(1.0),
    };
    check(F::GeluTanh, worst(F::GeluTanh, stride, |_| true, error), 3e-7, "of max(1, |y|)");
}

#[test]
#[ignore = "every f32: some minutes"]
fn activations_stay_within_their_bounds_everywhere() {
    activations_within_bounds(1);
}

#[test]
fn activations_are_accurate_for_large_arguments_too() {
    activations_within_bounds(1013);
    for f in [F::Gelu, F::GeluTanh, F::Silu] {
        let mut ends = [f32::NEG_INFINITY, -3e38, -200.0, 0.0, -0.0, 200.0, 3e38, f32::INFINITY];
        f32::dispatch(Many(f, &mut ends));
        assert_eq!(ends, [0.0, 0.0, 0.0, 0.0, 0.0, 200.0, 3e38, f32::INFINITY], "{f:?}");
    }
    for f in [F::GeluDerivative, F::GeluTanhDerivative, F::SiluDerivative] {
        let mut ends = [f32::NEG_INFINITY, -3e38, 0.0, 3e38, f32::INFINITY];
        f32::dispatch(Many(f, &mut ends));
        assert_eq!(ends, [0.0, 0.0, 0.5, 1.0, 1.0], "{f:?}");
    }
}

#[test]
fn exp_keeps_its_promises_at_the_edges() {
    let mut x = [f32::NEG_INFINITY, -104.0, -87.5, 0.0, 88.0, 88.8, f32::INFINITY, f32::NAN];
    f32::dispatch(Many(F::Exp, &mut x));
    assert_eq!(x[..4], [0.0, 0.0, 0.0, 1.0]);
    assert!(x[4].is_finite() && x[5] == f32::INFINITY && x[6] == f32::INFINITY && x[7].is_nan());
    let mut x = [f32::NEG_INFINITY, -87.5, 0.0, f32::NAN];
    f32::dispatch(Many(F::ExpNonpositive, &mut x));
    assert_eq!(x[..3], [0.0, 0.0, 1.0]);
    assert!(x[3].is_nan());
}

struct Pow<'a>(&'a mut [f32], &'a [f32]);

impl Kernel<f32> for Pow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        for (a, b) in self.0.chunks_mut(LANES).zip(self.1.chunks(LANES)) {
            pow(V::load_part(a), V::load_part(b)).store_part(a);
        }
    }
}

fn pow_error(pairs: usize) -> (f64, (f32, f32)) {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut found = (0.0, (0.0, 0.0));
    for _ in 0..pairs / 4096 {
        let a: Vec<f32> = (0..4096)
            .map(|i| if i % 2 == 0 { libm::exp(60.0 * next() - 30.0) } else { 0.5 + next() } as f32)
            .collect();
        let b: Vec<f32> = (0..4096)
            .map(|i| {
                let log = libm::log(a[i] as f64).abs().max(1e-7);
                ((2.0 * next() - 1.0) * (87.0 / log).min(1e6)) as f32
            })
            .collect();
        let mut y = a.clone();
        f32::dispatch(Pow(&mut y, &b));
        for i in 0..a.len() {
            let e = ulps(y[i], libm::pow(a[i] as f64, b[i] as f64));
            if e > found.0 {
                found = (e, (a[i], b[i]));
            }
        }
    }
    found
}

#[test]
fn pow_is_accurate() {
    let (found, at) = pow_error(1 << 20);
    println!("pow: {found:.3} ulp at {at:?}");
    assert!(found <= 2.0, "{found} ulp at {at:?}");
}

#[test]
#[ignore = "10⁸ pairs: half a minute"]
fn pow_is_accurate_over_many_pairs() {
    let (found, at) = pow_error(100_000_000);
    println!("pow: {found:.3} ulp at {at:?}");
    assert!(found <= 2.0, "{found} ulp at {at:?}");
}

#[test]
fn pow_has_the_special_cases_of_c() {
    let inf = f32::INFINITY;
    let values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1e-42, inf, f32::NAN];
    for &a in &values {
        for &b in values.iter().chain(&[-inf, 16_777_217.0, 8_388_609.0]) {
            let mut y = [a];
            f32::dispatch(Pow(&mut y, &[b]));
            let exact = libm::pow(a as f64, b as f64) as f32;
            let same = (y[0].is_nan() && exact.is_nan())
                || (y[0] == exact && y[0].is_sign_negative() == exact.is_sign_negative())
                || (y[0] - exact).abs() <= exact.abs().min(f32::MAX) * 2e-7
                || (y[0] == 0.0 && exact.abs() < f32::MIN_POSITIVE);
            assert!(same, "pow({a}, {b}) = {}, not {exact}", y[0]);
        }
    }
    let mut y = [-inf, -inf, -inf];
    f32::dispatch(Pow(&mut y, &[3.0, 2.0, -3.0]));
    assert_eq!(y, [-inf, inf, -0.0]);
}

#[test]
fn sin_and_cos_of_turns() {
    struct Turns<'a>(&'a [f32], &'a mut [f32], &'a mut [f32]);
    impl Kernel<f32> for Turns<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Elem = f32>>(self) {
            for i in (0..self.0.len()).step_by(LANES) {
                let (sin, cos) = sin_cos_turns(V::load(&self.0[i..]));
                sin.store(&mut self.1[i..]);
                cos.store(&mut self.2[i..]);
            }
        }
    }
    let u: Vec<f32> = (0..1 << 16).map(|i| i as f32 / 65535.0).collect();
    let (mut sin, mut cos) = (u.clone(), u.clone());
    f32::dispatch(Turns(&u, &mut sin, &mut cos));
    for i in 0..u.len() {
        let angle = u[i] as f64 * std::f64::consts::TAU;
        assert!((sin[i] as f64 - libm::sin(angle)).abs() < 1.2e-7, "sin at {}", u[i]);
        assert!((cos[i] as f64 - libm::cos(angle)).abs() < 1.2e-7, "cos at {}", u[i]);
    }
}

/// Bits with every NaN as one.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }).collect()
}

#[test]
fn every_level_gives_the_same_bits() {
    let patterns = (0..=u32::MAX).step_by(100_003).map(f32::from_bits);
    let xs: Vec<f32> = patterns.chain((-10_000..10_000).map(|i| i as f32 * 0.01)).collect();
    let nonpositive: Vec<f32> = xs.iter().map(|x| -x.abs()).collect();
    let all = [
        (F::Exp, &xs),
        (F::ExpNonpositive, &nonpositive),
        (F::Log, &xs),
        (F::Log1p, &xs),
        (F::Tanh, &xs),
        (F::Sigmoid, &xs),
        (F::Erf, &xs),
        (F::Gelu, &xs),
        (F::GeluDerivative, &xs),
        (F::GeluTanh, &xs),
        (F::GeluTanhDerivative, &xs),
        (F::Silu, &xs),
        (F::SiluDerivative, &xs),
    ];
    for (f, x) in all {
        let mut plain = x.clone();
        Many(f, &mut plain).run::<Lanes<f32>>();
        for level in available_levels() {
            let mut fast = x.clone();
            at_level(level, || f32::dispatch(Many(f, &mut fast)));
            let differs = |i: &usize| bits(&plain[*i..][..1]) != bits(&fast[*i..][..1]);
            let first = (0..x.len()).find(differs).map(|i| (x[i], plain[i], fast[i]));
            assert_eq!(first, None, "{f:?} on {}", level.name());
        }
    }
}

#[test]
fn doubles_go_through_libm() {
    struct Doubles<'a>(F, &'a mut [f64]);
    impl Kernel<f64> for Doubles<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Elem = f64>>(self) {
            for chunk in self.1.chunks_mut(LANES) {
                apply(self.0, V::load_part(chunk)).store_part(chunk);
            }
        }
    }
    let x: Vec<f64> = (0..99).map(|i| 0.1 * i as f64 - 4.9).collect();
    for (f, _) in BOUNDS {
        let mut y = x.clone();
        f64::dispatch(Doubles(f, &mut y));
        for (x, y) in x.iter().zip(&y) {
            let exact = truth(f, *x);
            assert!(
                y.is_nan() && exact.is_nan()
                    || (y - exact).abs() <= 1e-14 * (1.0 + exact.abs())
                    || y == &exact
            );
        }
    }
}
