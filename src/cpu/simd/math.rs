//! Elementary functions over a [`Vector`]: exp, log, tanh, sigmoid, erf, pow, and the activations that are
//! made of them.
//!
//! # The idea
//!
//! Each `f32` function is a range reduction, a short polynomial and a way back, all in the operations
//! of [`Vector`]: sixteen lanes at once, no table, no branch, and the same bits on every instruction set
//! because each step is rounded the same way everywhere. The polynomials are minimax fits for these
//! ranges, with coefficients rounded to `f32` one after the other. `f64`, which only checks gradients,
//! goes to `libm` lane by lane.
//!
//! | function | worst error found | where it was looked for |
//! |---|---|---|
//! | [`exp`] | 0.91 ulp | all `f32` |
//! | [`log`] | 0.80 ulp | all `f32` |
//! | [`log1p`] | 1.44 ulp | all `f32` |
//! | [`tanh`] | 1.41 ulp | all `f32` |
//! | [`sigmoid`] | 1.97 ulp | all `f32` |
//! | [`erf`] | 1.42 ulp | all `f32` |
//! | [`gelu`] | 4.72 ulp | all `f32` from −12.9 |
//! | [`silu`] | 3.24 ulp | all `f32` from −87 |
//! | [`pow`] | 1.07 ulp | 10⁸ pairs over the range |
//!
//! # Numbers at the edge
//!
//! A result that would be denormal is 0: forming denormals costs a hundred cycles each, and nothing in
//! training tells 10⁻³⁸ from 0. `exp(−∞)` is exactly 0, which is what masks rely on. NaN in gives NaN
//! out. Arguments may be anything.

use super::{Number, Vector};

/// The largest argument whose [`exp`] is 0: just below ln 2⁻¹²⁶.
const EXP_LOW: f64 = -87.336_54;
/// The smallest normal `f32`.
const MIN_NORMAL: f64 = f32::MIN_POSITIVE as f64;
/// Adding and subtracting this rounds an `f32` below 2²² to a whole number.
pub(super) const ROUND: f64 = 12_582_912.0; // 1.5 · 2²³
/// ln 2 in two parts; a whole number up to 2⁸ times the first is exact in `f32`.
const LN2_HIGH: f64 = 0.693_359_375;
const LN2_LOW: f64 = -2.121_944_400_546_905_8e-4;
/// p of [`normal_tail`]; 2⁻²⁵ off, and exactly 2 at s = −1, so that Φ(0) is ½.
const TAIL: [f64; 10] = [
    0.755_285_14,
    -0.607_896_6,
    0.387_136_22,
    -0.186_522_28,
    0.060_412_668,
    -0.007_531_266,
    -0.003_552_149_7,
    0.001_567_292_6,
    0.000_238_964_14,
    -9.627_762e-5,
];
/// 1/√(2π).
const NORMAL_PEAK: f64 = 0.398_942_280_401_432_7;

/// Whether the lanes are `f64`: a constant once the vector type is known.
#[inline(always)]
fn wide<V: Vector>() -> bool {
    size_of::<V::Elem>() == 8
}

/// A function of `f64` for each lane.
#[inline(always)]
fn by_lane<V: Vector>(x: V, f: impl Fn(f64) -> f64) -> V {
    x.map(|lane| V::Elem::from_f64(f(lane.to_f64())))
}

/// c₀ + c₁ x + c₂ x² + … by Horner's rule.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, c: [f64; N]) -> V {
    let mut y = V::constant(c[N - 1]);
    for &c in c[..N - 1].iter().rev() {
        y = y.mul_add(x, V::constant(c));
    }
    y
}

/// `max(low, x)` that keeps NaN.
#[inline(always)]
fn at_least<V: Vector>(x: V, low: f64) -> V {
    V::constant(low).max(x)
}

/// `min(high, x)` that keeps NaN.
#[inline(always)]
fn at_most<V: Vector>(x: V, high: f64) -> V {
    V::constant(high).min(x)
}

// ---- exp --------------------------------------------------------------------------------------

/// `(n, r)` with `high + low = n ln 2 + r`, n whole, |r| ≤ ln 2 / 2 and a little.
#[inline(always)]
fn reduce<V: Vector>(high: V, low: Option<V>) -> (V, V) {
    let round = V::constant(ROUND);
    let n = high.mul_add(V::constant(std::f64::consts::LOG2_E), round).sub(round);
    let r = n.neg_mul_add(V::constant(LN2_HIGH), high);
    let r = n.neg_mul_add(V::constant(LN2_LOW), r);
    match low {
        Some(low) => (n, r.add(low)),
        None => (n, r),
    }
}

/// eʳ for |r| ≤ ln 2 / 2: 1 + r + r² q(r), q of degree 4; 2⁻²⁸ off before rounding.
#[inline(always)]
fn exp_near_zero<V: Vector>(r: V) -> V {
    let one = V::constant(1.0);
    let q = polynomial(r, [0.5, 0.166_665_2, 0.041_666_415, 0.008_368_823, 0.001_393_950_8]);
    q.mul_add(r, one).mul_add(r, one)
}

/// `e^(high + low)` for a sum within [`EXP_LOW`] .. 88: the common core, without the edges.
#[inline(always)]
fn exp_core<V: Vector>(high: V, low: Option<V>) -> V {
    let (n, r) = reduce(high, low);
    exp_near_zero(r).mul(n.pow2())
}

/// `e^(high + low)` for any `high` and a `low` that is small beside it.
#[inline(always)]
fn exp_parts<V: Vector>(high: V, low: Option<V>) -> V {
    let inside = at_most(at_least(high, EXP_LOW), 89.0);
    let (n, r) = reduce(inside, low);
    // 2¹²⁸ is no f32: its last factor 2 goes into the polynomial.
    let whole = n.min(V::constant(127.0));
    let p = exp_near_zero(r);
    let p = p.mul_add(n.sub(whole), p);
    V::select(high.lt(V::constant(EXP_LOW)), V::zero(), p.mul(whole.pow2()))
}

/// eˣ.
#[inline(always)]
pub fn exp<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::exp);
    }
    exp_parts(x, None)
}

/// eˣ for x ≤ 0 (or NaN), the case of softmax: cheaper by the overflow that cannot happen.
#[inline(always)]
pub fn exp_nonpositive<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::exp);
    }
    let y = exp_core(at_least(x, EXP_LOW), None);
    V::select(x.lt(V::constant(EXP_LOW)), V::zero(), y)
}

// ---- log --------------------------------------------------------------------------------------

/// `(f, e)` with `x = (1 + f) 2ᵉ` and 1 + f in [√½, √2), for positive x, denormals included.
#[inline(always)]
fn split<V: Vector>(x: V) -> (V, V) {
    let small = x.lt(V::constant(MIN_NORMAL));
    let normal = V::select(small, x.mul(V::constant(33_554_432.0)), x); // · 2²⁵
    let (m, e) = normal.split_exponent();
    let e = e.sub(V::select(small, V::constant(25.0), V::zero()));
    let above = V::constant(std::f64::consts::SQRT_2).lt(m);
    let m = V::select(above, m.mul(V::constant(0.5)), m);
    let e = e.add(V::select(above, V::constant(1.0), V::zero()));
    (m.sub(V::constant(1.0)), e)
}

/// ln x: −∞ at 0, NaN below.
#[inline(always)]
pub fn log<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::log);
    }
    let (f, e) = split(x);
    // ln(1 + f) = f − f²/2 + f³ q(f), q of degree 8; 2⁻³⁰ off before rounding.
    let q = polynomial(
        f,
        [
            0.333_333_13,
            -0.250_000_1,
            0.200_020_72,
            -0.166_679_89,
            0.142_203_58,
            -0.124_062_33,
            0.118_835_49,
            -0.116_701_15,
            0.067_492_99,
        ],
    );
    let ff = f.mul(f);
    let tail = q.mul(f).mul_add(ff, e.mul(V::constant(LN2_LOW)));
    let tail = ff.neg_mul_add(V::constant(0.5), tail);
    let y = e.mul_add(V::constant(LN2_HIGH), f.add(tail));
    log_edges(x, y)
}

/// ln x where `y` already is the answer for positive finite x.
#[inline(always)]
fn log_edges<V: Vector>(x: V, y: V) -> V {
    let infinity = V::constant(f64::INFINITY);
    let y = V::select(x.lt(infinity), y, x); // +∞ and NaN are their own logarithms
    let y = V::select(x.lt(V::zero()), V::constant(f64::NAN), y);
    V::select(x.eq(V::zero()), infinity.neg(), y)
}

/// ln(1 + x), accurate for small x.
#[inline(always)]
pub fn log1p<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::log1p);
    }
    let (one, infinity) = (V::constant(1.0), V::constant(f64::INFINITY));
    let u = one.add(x);
    // u is 1 + x rounded; what the rounding lost is put back to first order.
    let lost = V::select(one.lt(x.abs()), one.sub(u.sub(x)), x.sub(u.sub(one)));
    let y = log(u);
    let inside = V::select(V::zero().lt(u), u, infinity).lt(infinity);
    V::select(inside, y.add(lost.div(u)), y)
}

// ---- tanh, sigmoid -----------------------------------------------------------------------------

/// tanh x.
#[inline(always)]
pub fn tanh<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::tanh);
    }
    // Near 0: x + x³ q(x²), q of degree 5.
    let s = x.mul(x);
    let q = polynomial(
        s,
        [-0.333_333_3, 0.133_332_28, -0.053_949_71, 0.021_717_666, -0.008_221_448, 0.002_185_271_1],
    );
    let near = q.mul(s).mul_add(x, x);
    // Elsewhere: 1 − 2 / (e^2|x| + 1); from |x| = 9.02 on it is 1.
    let a = x.abs();
    let e = exp_core(at_most(a.add(a), 18.1), None);
    let share = V::constant(2.0).div(e.add(V::constant(1.0)));
    let far = V::constant(1.0).sub(share);
    V::select(a.lt(V::constant(0.6)), near, far).copysign(x) // also for −0
}

/// σ(x) = 1 / (1 + e⁻ˣ), accurate in both tails.
#[inline(always)]
pub fn sigmoid<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, |x| 1.0 / (1.0 + libm::exp(-x)));
    }
    // e^−|x| / (1 + e^−|x|) left of 0, 1 / (1 + e^−|x|) right of it.
    let one = V::constant(1.0);
    let e = exp_nonpositive(x.abs().neg());
    let d = one.add(e);
    let y = V::select(x.lt(V::zero()), e, one).div(d);
    // What rounding took from d, put back: y (1 − lost / d), with 1 / d ≈ 1 − e / 2.
    let lost = e.sub(d.sub(one));
    let share = lost.mul(e.neg_mul_add(V::constant(0.5), one));
    y.neg_mul_add(share, y)
}

/// `(σ(x), 1 − σ(x))`, both accurate.
#[inline(always)]
fn logistic<V: Vector>(x: V) -> (V, V) {
    if wide::<V>() {
        return (sigmoid(x), sigmoid(x.neg()));
    }
    let one = V::constant(1.0);
    let e = exp_nonpositive(x.abs().neg());
    let large = one.div(e.add(one)); // σ(|x|)
    let small = e.mul(large); // σ(−|x|)
    let negative = x.lt(V::zero());
    (V::select(negative, small, large), V::select(negative, large, small))
}

// ---- the normal distribution -------------------------------------------------------------------

/// `(Φ(−t), e^(−t²/2))` for t ≥ 0: the upper tail of the standard normal distribution and its
/// density without the factor 1/√(2π).
///
/// Φ(−t) = e^(−t²/2) p(s) / (t + 4) with s = (t − 4) / (t + 4), p of degree 9: accurate to a few ulp
/// as far as the numbers go (t = 13), where 1 − Φ(t) would be 0 from t = 5.5 on.
#[inline(always)]
fn normal_tail<V: Vector>(t: V) -> (V, V) {
    if wide::<V>() {
        let tail = by_lane(t, |t| 0.5 * libm::erfc(t * std::f64::consts::FRAC_1_SQRT_2));
        return (tail, by_lane(t, |t| libm::exp(-0.5 * t * t)));
    }
    let t = at_most(t, 16.0);
    let half = t.mul(V::constant(0.5));
    let high = half.mul(t);
    let low = half.neg_mul_add(t, high); // −(what rounding took from t²/2)
    let high = high.neg();
    let e = exp_core(at_least(high, EXP_LOW), Some(low));
    let e = V::select(high.lt(V::constant(EXP_LOW)), V::zero(), e);
    let w = V::constant(1.0).div(t.add(V::constant(4.0)));
    let s = t.add(t).mul_add(w, V::constant(-1.0));
    let p = polynomial(s, TAIL);
    (e.mul(p.mul(w)), e)
}

/// The error function.
#[inline(always)]
pub fn erf<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return by_lane(x, libm::erf);
    }
    // Near 0: x + x q(x²), q of degree 6.
    let q = polynomial(
        x.mul(x),
        [
            0.128_379_17,
            -0.376_126_26,
            0.112_835_79,
            -0.026_853_347,
            0.005_187_162,
            -0.000_799_785_3,
            7.806_904e-5,
        ],
    );
    let near = q.mul_add(x, x);
    // Elsewhere: 1 − 2 Φ(−√2 |x|).
    let a = x.abs();
    let (tail, _) = normal_tail(a.mul(V::constant(std::f64::consts::SQRT_2)));
    let far = tail.neg_mul_add(V::constant(2.0), V::constant(1.0)).copysign(x);
    V::select(a.lt(V::constant(1.0)), near, far)
}

/// `(Φ(x), φ(x))`: the standard normal distribution and its density.
#[inline(always)]
fn normal<V: Vector>(x: V) -> (V, V) {
    let (tail, e) = normal_tail(x.abs());
    let whole = V::select(x.lt(V::zero()), tail, V::constant(1.0).sub(tail));
    (whole, e.mul(V::constant(NORMAL_PEAK)))
}

// ---- activations -------------------------------------------------------------------------------

/// x Φ(x). Relative accuracy holds in the left tail too.
#[inline(always)]
pub fn gelu<V: Vector>(x: V) -> V {
    // Left of −16 the answer is −0; the clamp keeps −∞ · 0 out.
    at_least(x, -16.0).mul(normal(x).0)
}

/// The derivative of [`gelu`]: Φ(x) + x φ(x).
#[inline(always)]
pub fn gelu_derivative<V: Vector>(x: V) -> V {
    let (whole, density) = normal(x);
    at_most(at_least(x, -16.0), 16.0).mul_add(density, whole)
}

/// Beyond this, left and right, σ(2u) of [`gelu_tanh`] is about 2⁻¹²⁵ or less from 0 or 1; its derivative is 0 left of it.
const GELU_END: f64 = 9.97;
/// 2 √(2/π), and times 0.044715.
const GELU_A: f64 = 1.595_769_121_605_731;
const GELU_B: f64 = GELU_A * 0.044_715;

/// 2u of [`gelu_tanh`] in `f64`.
#[inline(always)]
fn gelu_tanh_argument<V: Vector>(x: V) -> V {
    V::constant(GELU_B).mul_add(x.mul(x), V::constant(GELU_A)).mul(x)
}

/// e^(−2u) for [`gelu_tanh`], from `x` and x², as a power of 2 with its exponent held within −125 .. 128: infinite
/// where that is 128. NaN gives anything.
#[inline(always)]
fn gelu_tanh_exp<V: Vector>(x: V, s: V) -> V {
    use std::f64::consts::LOG2_E;
    let t = V::constant(-GELU_B * LOG2_E).mul_add(s, V::constant(-GELU_A * LOG2_E)).mul(x);
    let t = at_most(at_least(t, -125.0), 128.0);
    let rounded = t.add(V::constant(ROUND));
    let f = t.sub(rounded.sub(V::constant(ROUND)));
    // 2ᶠ for |f| ≤ ½, 2⁻²³ off before rounding: more would drown in what rounding does to 2u.
    let p = polynomial(
        f,
        [1.0, 0.693_147_004, 0.240_222_47, 0.055_507_123, 0.009_671_31, 0.001_326_898_9],
    );
    p.scaled(rounded)
}

/// ½ x (1 + tanh u) = x σ(2u) = x / (1 + e^(−2u)), u = √(2/π) (x + 0.044715 x³).
#[inline(always)]
pub fn gelu_tanh<V: Vector>(x: V) -> V {
    if wide::<V>() {
        return at_least(x, -1e30).mul(sigmoid(gelu_tanh_argument(x)));
    }
    let e = gelu_tanh_exp(x, x.mul(x));
    // Far left this is −10³⁰ over infinity, and not ∞ / ∞.
    at_least(x, -1e30).div(e.add(V::constant(1.0)))
}

/// The derivative of [`gelu_tanh`]: σ + x σ (1 − σ) (2u)′.
#[inline(always)]
pub fn gelu_tanh_derivative<V: Vector>(x: V) -> V {
    let one = V::constant(1.0);
    let inside = at_most(at_least(x, -GELU_END), GELU_END);
    let s = inside.mul(inside);
    let steep = V::constant(3.0 * GELU_B).mul_add(s, V::constant(GELU_A)).mul(inside); // x (2u)′
    if wide::<V>() {
        let (sigma, rest) = logistic(gelu_tanh_argument(x));
        return steep.mul(rest).mul_add(sigma, sigma);
    }
    let e = gelu_tanh_exp(inside, s);
    let sigma = one.div(e.add(one));
    let slope = steep.mul(e.mul(sigma)).mul_add(sigma, sigma);
    V::select(x.lt(V::constant(-GELU_END)), V::zero(), slope)
}

/// x σ(x).
#[inline(always)]
pub fn silu<V: Vector>(x: V) -> V {
    at_least(x, -1000.0).mul(sigmoid(x))
}

/// The derivative of [`silu`]: σ (1 + x (1 − σ)).
#[inline(always)]
pub fn silu_derivative<V: Vector>(x: V) -> V {
    let x = at_most(at_least(x, -1000.0), 1000.0);
    let (s, rest) = logistic(x);
    x.mul(rest).mul_add(s, s)
}

// ---- pow, sin, cos ------------------------------------------------------------------------------

/// aᵇ, with the special cases of C's `pow` (but NaN for a = −∞ and fractional b).
#[inline(always)]
pub fn pow<V: Vector>(a: V, b: V) -> V {
    if wide::<V>() {
        let (a, b) = (a.to_array(), b.to_array());
        return V::from_array(std::array::from_fn(|i| {
            V::Elem::from_f64(libm::pow(a[i].to_f64(), b[i].to_f64()))
        }));
    }
    let (zero, one, infinity) = (V::zero(), V::constant(1.0), V::constant(f64::INFINITY));
    let b = at_most(at_least(b, -f32::MAX as f64), f32::MAX as f64); // keeps 0 · ∞ out
    let (high, low) = log_parts(a.abs());
    // b · (high + low), again in two parts. Beyond ±128 only the sign matters.
    let y = b.mul(high);
    let rest = b.mul_add(high, y.neg()).add(b.mul(low));
    let y_low = V::select(y.abs().lt(V::constant(128.0)), rest, zero);
    let power = exp_parts(y, Some(y_low));

    let (whole, odd) = whole_and_odd(b);
    let power = V::select(odd, power.copysign(a), power);
    let negative = V::select(whole, zero, a).lt(zero);
    let power = V::select(negative, V::constant(f64::NAN), power);
    let power = V::select(a.abs().lt(infinity), power, V::select(a.eq(a), power, a));
    let power = V::select(b.eq(zero), one, power);
    V::select(a.eq(one), one, power)
}

/// Masks: whether b is whole, and whether it is odd.
#[inline(always)]
fn whole_and_odd<V: Vector>(b: V) -> (V::Mask, V::Mask) {
    let large = V::constant(8_388_608.0); // 2²³: from here on every f32 is whole
    let size = b.abs();
    let whole = cut(size, large).eq(size);
    let half = size.mul(V::constant(0.5));
    // Odd: whole, and its half is not.
    let odd = V::select(cut(half, large).eq(half), V::zero(), V::constant(1.0));
    let odd = V::select(whole, odd, V::zero());
    (whole, V::zero().lt(odd))
}

/// x ≥ 0 rounded to a whole number; `large` is 2²³.
#[inline(always)]
fn cut<V: Vector>(x: V, large: V) -> V {
    V::select(large.le(x), x, x.add(large).sub(large))
}

/// a + b as a rounded sum and what the rounding lost, where |a| ≥ |b| or a = 0.
#[inline(always)]
fn two_sum<V: Vector>(a: V, b: V) -> (V, V) {
    let sum = a.add(b);
    (sum, b.sub(sum.sub(a)))
}

/// a · b as a rounded product and what the rounding lost.
#[inline(always)]
fn two_product<V: Vector>(a: V, b: V) -> (V, V) {
    let product = a.mul(b);
    (product, a.mul_add(b, product.neg()))
}

/// ln a in two parts, to some 2⁻³⁴ of itself, for a ≥ 0.
#[inline(always)]
fn log_parts<V: Vector>(a: V) -> (V, V) {
    let (two, infinity) = (V::constant(2.0), V::constant(f64::INFINITY));
    let (f, e) = split(a);
    // ln(1 + f) = 2 atanh s = 2s + ⅔ s³ + s⁵ r(s²), s = f / (2 + f), all but r in two parts.
    let (d, d_low) = two_sum(two, f);
    let s = f.div(d);
    let s_low = s.neg_mul_add(d, f).sub(s.mul(d_low)).div(d);
    let (ss, ss_low) = two_product(s, s);
    let r = polynomial(ss, [0.400_000_9, 0.285_529_94, 0.232_885_54]);
    const TWO_THIRDS: f64 = 0.666_666_686_534_881_6; // as f32
    const TWO_THIRDS_LOW: f64 = 2.0 / 3.0 - TWO_THIRDS;
    let (p, p_low) = two_sum(V::constant(TWO_THIRDS), r.mul(ss));
    let p_low = p_low.add(V::constant(TWO_THIRDS_LOW));
    let (pss, pss_low) = two_product(p, ss);
    let pss_low = p.mul_add(ss_low, p_low.mul_add(ss, pss_low));
    let (cubic, cubic_low) = two_product(pss, s);
    let cubic_low = pss_low.mul_add(s, cubic_low);
    // e ln 2 + 2s + cubic, the largest first. The derivative of 2 atanh is 2 / (1 − s²).
    let slope = ss.mul_add(two, two);
    let low = slope.mul_add(s_low, cubic_low);
    let low = e.mul_add(V::constant(LN2_LOW), low);
    let (sum, lost) = two_sum(e.mul(V::constant(LN2_HIGH)), s.add(s));
    let low = low.add(lost);
    let (sum, lost) = two_sum(sum, cubic);
    let (high, low) = two_sum(sum, low.add(lost));
    // 0, ∞ and NaN.
    let inside = V::select(V::zero().lt(a), a, infinity).lt(infinity);
    let edge = V::select(a.eq(V::zero()), infinity.neg(), a);
    (V::select(inside, high, edge), V::select(inside, low, V::zero()))
}

/// `(sin 2πu, cos 2πu)` for u in [0, 1]; 2⁻²⁴ absolute.
#[inline(always)]
pub fn sin_cos_turns<V: Vector>(u: V) -> (V, V) {
    if wide::<V>() {
        let angle = |u: f64| u * std::f64::consts::TAU;
        return (by_lane(u, |u| libm::sin(angle(u))), by_lane(u, |u| libm::cos(angle(u))));
    }
    // Quarter turns: u = (q + f) / 4 with |f| ≤ ½, exactly.
    let quarters = u.mul(V::constant(4.0));
    let round = V::constant(ROUND);
    let q = quarters.add(round).sub(round);
    let f = quarters.sub(q);
    let s = f.mul(f);
    let sin = polynomial(
        s,
        [1.570_796_4, -0.645_969_57, 0.079_800_576, -0.005_366_148_4, 0.001_519_036_1],
    );
    let sin = sin.mul(f);
    let cos = polynomial(s, [-1.233_700_5, 0.253_668_52, -0.020_855_254, 0.000_893_572_5]);
    let cos = cos.mul_add(s, V::constant(1.0));
    // q = 1: (cos, −sin), 2: (−sin, −cos), 3: (−cos, sin), 0 and 4: (sin, cos).
    let (one, two) = (q.eq(V::constant(1.0)), q.eq(V::constant(2.0)));
    let three = q.eq(V::constant(3.0));
    let y = V::select(two, sin.neg(), V::select(three, cos.neg(), sin));
    let x = V::select(two, cos.neg(), V::select(three, sin, cos));
    let (y, x) = (V::select(one, cos, y), V::select(one, sin.neg(), x));
    (y, x)
}

#[cfg(test)]
mod tests;
