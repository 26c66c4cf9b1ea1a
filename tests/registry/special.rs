//! NaN, infinities, signed zeros and denormal numbers in the functions of one and two numbers.
//!
//! The values must be those of IEEE arithmetic on the formula: a NaN stays a NaN, an infinity an infinity,
//! a zero keeps its sign. Each special value visits every lane of a vector and the tail after it.

use crate::Failures;
use crate::reference::{Array, reference};
use handloom::ops::registry::{Attr, Attrs, Entry};
use handloom::{DType, Tensor};

const SPECIAL: [f64; 17] = [
    0.0,
    -0.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1e-40, // denormal in f32
    -1e-40,
    1.17549435e-38, // the smallest normal f32
    1e-20,
    -1e-20,
    88.0,
    -88.0,
    104.0,
    -104.0,
    1e10,
    -1e10,
    3.0e38, // nearly the largest f32
];

const ONE: [&str; 13] = [
    "neg",
    "exp",
    "log",
    "sqrt",
    "tanh",
    "sigmoid",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "powf",
    "add_scalar",
    "mul_scalar",
];
const TWO: [&str; 5] = ["add", "sub", "mul", "div", "pow"];

fn entry(name: &str) -> Entry {
    crate::entries().into_iter().find(|e| e.name == name).unwrap()
}

fn attrs(name: &'static str, value: f64) -> Attrs {
    Attrs([(name, Attr::Float(value))].into_iter().collect())
}

/// What a function of special numbers must give where the formula in `f64` gives something else.
fn expected(name: &str, a: &Attrs, x: &[f64], formula: f64) -> f64 {
    match (name, x) {
        // The limit, where the formula multiplies infinity by 0.
        ("gelu" | "gelu_tanh" | "silu", [f64::NEG_INFINITY]) => -0.0,
        // Documented: a fractional power is a root, and of nothing negative.
        ("powf", [x]) if a.float("exponent") == 0.5 => x.sqrt(),
        ("pow", [f64::NEG_INFINITY, p]) if p.is_finite() && p.fract() != 0.0 => f64::NAN,
        _ => formula,
    }
}

/// `y` against the exact value `e`: rounded to f32, it may be off by the tolerance, and by the product of
/// the smallest normal number, below which all is 0, and the largest exponent.
fn agrees(name: &str, y: f64, e: f64) -> bool {
    let rounded = e as f32 as f64;
    if e.is_nan() || rounded.is_infinite() {
        return y.is_nan() == e.is_nan() && (e.is_nan() || y == rounded);
    }
    // The sign of a zero counts where IEEE fixes it. relu may give either zero for −0.
    if e == 0.0 && name != "relu" && y == 0.0 {
        return y.is_sign_negative() == e.is_sign_negative();
    }
    // Near the largest f32, one rounding decides between it and infinity.
    if y.is_infinite() {
        return rounded.abs() > 3.4e38;
    }
    (y - e).abs() <= 1e-6 * e.abs() + 89.0 * 1.2e-38
}

#[test]
fn special_numbers_follow_ieee_in_functions_of_one_number() {
    let mut failures = Failures::default();
    for name in ONE {
        let entry = entry(name);
        let cases = match name {
            "powf" => [2.0, 3.0, 0.5, -1.0, 0.0, 1.0, -2.0].map(|p| attrs("exponent", p)).to_vec(),
            "add_scalar" | "mul_scalar" => {
                [0.0, -1.0, f64::NAN, f64::INFINITY].map(|c| attrs("value", c)).to_vec()
            }
            _ => vec![Attrs::default()],
        };
        for a in cases {
            // 23 plain numbers with a special one wandering through all places.
            for place in 0..23 {
                for special in SPECIAL {
                    let mut data = vec![0.5f32; 23];
                    data[place] = special as f32;
                    let x = Tensor::from_slice(&data, 23).unwrap();
                    let y = (entry.run)(&[x], &a).unwrap()[0].to_f64_vec().unwrap();
                    let wide = data.iter().map(|&x| x as f64).collect();
                    let formula = &reference(name, &[Array::new(&[23], wide)], &a)[0].data;
                    for (i, (&y, &e)) in y.iter().zip(formula).enumerate() {
                        let e = expected(name, &a, &[data[i] as f64], e);
                        let right = agrees(name, y, e);
                        let why = format!("gives {y:e}, expected {e:e}");
                        failures.check(
                            || format!("{name} {:?} of {special:e} at {place}, [{i}]", a.0),
                            if right { Ok(()) } else { Err(why) },
                        );
                    }
                }
            }
        }
    }
    failures.report();
}

#[test]
fn special_numbers_follow_ieee_in_functions_of_two_numbers() {
    let mut failures = Failures::default();
    for name in TWO {
        let entry = entry(name);
        let n = SPECIAL.len();
        // All pairs in one call.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for i in 0..n * n {
            a.push(SPECIAL[i / n] as f32);
            b.push(SPECIAL[i % n] as f32);
        }
        let inputs = [&a, &b].map(|v| Tensor::from_slice(v, n * n).unwrap());
        let y = (entry.run)(&inputs, &Attrs::default()).unwrap()[0].to_f64_vec().unwrap();
        let wide = [&a, &b].map(|v| Array::new(&[n * n], v.iter().map(|&x| x as f64).collect()));
        let none = Attrs::default();
        let formula = &reference(name, &wide, &none)[0].data;
        for i in 0..n * n {
            let e = expected(name, &none, &[a[i] as f64, b[i] as f64], formula[i]);
            let right = agrees(name, y[i], e);
            let why = format!("gives {:e}, expected {e:e}", y[i]);
            failures.check(
                || format!("{name} of {:e} and {:e}", a[i], b[i]),
                if right { Ok(()) } else { Err(why) },
            );
        }
    }
    failures.report();
}

/// The slope of a function far out, where naive formulas give inf · 0.
#[test]
fn slopes_far_out_are_finite() {
    let cases: [(&str, f64, f64); 16] = [
        ("tanh", 1e10, 0.0),
        ("tanh", -1e10, 0.0),
        ("sigmoid", 1e10, 0.0),
        ("sigmoid", -1e10, 0.0),
        ("gelu", 1e10, 1.0),
        ("gelu", -1e10, 0.0),
        ("gelu_tanh", 1e10, 1.0),
        ("gelu_tanh", -1e10, 0.0),
        ("silu", 1e10, 1.0),
        ("silu", -1e10, 0.0),
        ("silu", -100.0, 0.0),
        ("relu", 0.0, 0.0),
        ("relu", -0.0, 0.0),
        ("exp", -1e10, 0.0),
        ("log", 1e10, 1e-10),
        ("sqrt", 1e10, 0.5e-5),
    ];
    for (name, x, slope) in cases {
        for dtype in [DType::F32, DType::F64] {
            let leaf = Tensor::full(19, x, dtype).unwrap().requires_grad_().unwrap();
            crate::gradient_of(&entry(name), &leaf);
            for got in leaf.grad().unwrap().to_f64_vec().unwrap() {
                let off = (got - slope).abs();
                assert!(
                    off <= 1e-6 * slope.abs() + 1e-30,
                    "{name}′({x:e}) is {got:e}, not {slope:e}"
                );
            }
        }
    }
}

#[test]
fn reductions_and_softmax_keep_nan_and_take_infinities() {
    let nan = f32::NAN;
    let x = Tensor::from_slice(&[1.0, nan, 3.0, f32::NEG_INFINITY, 2.0, -1.0], [2, 3]).unwrap();
    let (values, places) = x.max(1, false).unwrap();
    let values = values.to_vec::<f32>().unwrap();
    assert!(values[0].is_nan() && values[1] == 2.0, "max: NaN wins, −∞ loses: {values:?}");
    assert_eq!(places.to_vec::<u32>().unwrap(), [1, 1]);
    let sums = x.sum(&[1], false).unwrap().to_vec::<f32>().unwrap();
    assert!(sums[0].is_nan() && sums[1] == f32::NEG_INFINITY);
    let y = x.softmax(1).unwrap().to_vec::<f32>().unwrap();
    assert!(y[..3].iter().all(|y| y.is_nan()), "a NaN spoils its own row: {y:?}");
    assert!(y[3] == 0.0 && (y[4] + y[5] - 1.0).abs() < 1e-6, "and no other: {y:?}");
    let y = x.log_softmax(1).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(y[3], f32::NEG_INFINITY);
    // The first of equals, in every lane.
    for at in 0..40 {
        let mut data = [0.0f32; 45];
        data[at..].fill(7.0);
        let x = Tensor::from_slice(&data, 45).unwrap();
        assert_eq!(x.argmax(0).unwrap().item().unwrap(), at as f64);
        data[at] = nan;
        let x = Tensor::from_slice(&data, 45).unwrap();
        assert_eq!(x.argmax(0).unwrap().item().unwrap(), at as f64, "NaN at {at}");
    }
    // All −∞ along the axis: the first index, and NaN as softmax.
    let x = Tensor::full(20, f64::NEG_INFINITY, DType::F32).unwrap();
    assert_eq!(x.argmax(0).unwrap().item().unwrap(), 0.0);
    assert!(x.softmax(0).unwrap().to_vec::<f32>().unwrap().iter().all(|y| y.is_nan()));
    // Logits as large as they get do not overflow.
    let x = Tensor::from_slice(&[3e38f32, -3e38, 3e38], 3).unwrap();
    assert_eq!(x.softmax(0).unwrap().to_vec::<f32>().unwrap(), [0.5, 0.0, 0.5]);
}
