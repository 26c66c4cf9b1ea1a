//! Functions of one element, forward and backward: contiguous in, contiguous out.
//!
//! The table of formulae is in [`crate::ops`]'s file of the same name. Each function is one closure over a
//! vector; the walk over the elements is written once.

use super::simd::{Kernel, LANES, Real, Vector, math};
use super::threads::{self, CHUNK};

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// −x
    Neg,
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// √x
    Sqrt,
    /// tanh x
    Tanh,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// max(x, 0)
    Relu,
    /// x Φ(x)
    Gelu,
    /// GELU's tanh form
    GeluTanh,
    /// x σ(x)
    Silu,
}

/// What a function keeps for its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saves {
    /// x
    Input,
    /// y
    Output,
    /// nothing
    Neither,
}

impl Unary {
    /// What [`backward`] reads of x and y.
    pub fn saves(self) -> Saves {
        match self {
            Unary::Neg => Saves::Neither,
            Unary::Exp | Unary::Sqrt | Unary::Tanh | Unary::Sigmoid | Unary::Relu => Saves::Output,
            Unary::Log | Unary::Gelu | Unary::GeluTanh | Unary::Silu => Saves::Input,
        }
    }

    /// What an element costs beside an addition.
    fn cost(self) -> usize {
        match self {
            Unary::Neg | Unary::Relu => 1,
            Unary::Sqrt | Unary::Exp => 2,
            _ => 4,
        }
    }
}

// ---- the walk ---------------------------------------------------------------------------------

/// `y[i] = f(x[i])`.
#[inline(always)]
pub(super) fn map<V: Vector>(y: &mut [V::Elem], x: &[V::Elem], f: impl Fn(V) -> V) {
    let x = &x[..y.len()];
    let full = y.len() - y.len() % LANES;
    for (y, x) in y[..full].chunks_exact_mut(LANES).zip(x[..full].chunks_exact(LANES)) {
        f(V::load(x)).store(y);
    }
    if full < y.len() {
        f(V::load_part(&x[full..])).store_part(&mut y[full..]);
    }
}

/// `y[i] = f(a[i], b[i])`.
#[inline(always)]
pub(super) fn map2<V: Vector>(
    y: &mut [V::Elem],
    a: &[V::Elem],
    b: &[V::Elem],
    f: impl Fn(V, V) -> V,
) {
    let (a, b) = (&a[..y.len()], &b[..y.len()]);
    let full = y.len() - y.len() % LANES;
    let inputs = a[..full].chunks_exact(LANES).zip(b[..full].chunks_exact(LANES));
    for (y, (a, b)) in y[..full].chunks_exact_mut(LANES).zip(inputs) {
        f(V::load(a), V::load(b)).store(y);
    }
    if full < y.len() {
        f(V::load_part(&a[full..]), V::load_part(&b[full..])).store_part(&mut y[full..]);
    }
}

/// A map over a chunk, waiting for a vector type: `f` is chosen by `op` once, outside the loop.
struct Map<'a, T, Op> {
    op: Op,
    y: &'a mut [T],
    x: &'a [T],
}

/// As [`Map`] with two inputs.
struct Map2<'a, T, Op> {
    op: Op,
    y: &'a mut [T],
    a: &'a [T],
    b: &'a [T],
}

fn run_map<T: Real, Op: Copy + Sync>(op: Op, cost: usize, y: &mut [T], x: &[T])
where
    for<'a> Map<'a, T, Op>: Kernel<T, Output = ()>,
{
    assert_eq!(y.len(), x.len());
    let work = cost * y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        T::dispatch(Map { op, x: &x[i * CHUNK..][..y.len()], y })
    });
}

fn run_map2<T: Real, Op: Copy + Sync>(op: Op, cost: usize, y: &mut [T], a: &[T], b: &[T])
where
    for<'a> Map2<'a, T, Op>: Kernel<T, Output = ()>,
{
    assert!(y.len() == a.len() && y.len() == b.len());
    let work = cost * y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        let (a, b) = (&a[i * CHUNK..][..y.len()], &b[i * CHUNK..][..y.len()]);
        T::dispatch(Map2 { op, y, a, b })
    });
}

// ---- the functions ----------------------------------------------------------------------------

/// `y = op(x)`.
pub fn forward<T: Real>(op: Unary, y: &mut [T], x: &[T]) {
    run_map(op, op.cost(), y, x);
}

impl<T: Real> Kernel<T> for Map<'_, T, Unary> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Map { op, y, x } = self;
        match op {
            Unary::Neg => map(
                y,
                x,
                #[inline(always)]
                |v: V| v.neg(),
            ),
            Unary::Exp => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::exp(v),
            ),
            Unary::Log => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::log(v),
            ),
            Unary::Sqrt => map(
                y,
                x,
                #[inline(always)]
                |v: V| v.sqrt(),
            ),
            Unary::Tanh => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::tanh(v),
            ),
            Unary::Sigmoid => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::sigmoid(v),
            ),
            // max(0, x) and not max(x, 0): the second operand wins where x is NaN.
            Unary::Relu => map(
                y,
                x,
                #[inline(always)]
                |x| V::zero().max(x),
            ),
            Unary::Gelu => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::gelu(v),
            ),
            Unary::GeluTanh => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::gelu_tanh(v),
            ),
            Unary::Silu => map(
                y,
                x,
                #[inline(always)]
                |v: V| math::silu(v),
            ),
        }
    }
}

/// `dx = dy · op′`. Reads `x` or `y`, whichever [`Unary::saves`] says; the other may be empty.
pub fn backward<T: Real>(op: Unary, dx: &mut [T], dy: &[T], x: &[T], y: &[T]) {
    match op.saves() {
        Saves::Input => run_map2(op, op.cost(), dx, dy, x),
        Saves::Output => run_map2(op, op.cost(), dx, dy, y),
        Saves::Neither => run_map2(op, op.cost(), dx, dy, dy),
    }
}

impl<T: Real> Kernel<T> for Map2<'_, T, Unary> {
    type Output = ();

    /// a is dy, b what was kept.
    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Map2 { op, y: dx, a: dy, b: kept } = self;
        let (zero, one) = (V::zero(), V::splat(T::ONE));
        match op {
            Unary::Neg => map(
                dx,
                dy,
                #[inline(always)]
                |v: V| v.neg(),
            ),
            Unary::Exp => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, y| dy.mul(y),
            ),
            Unary::Log => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, x| dy.div(x),
            ),
            Unary::Sqrt => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, y| dy.div(y.add(y)),
            ),
            Unary::Tanh => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, y| dy.mul(y.neg_mul_add(y, one)),
            ),
            Unary::Sigmoid => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, y| dy.mul(y.neg_mul_add(y, y)),
            ),
            Unary::Relu => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, y| V::select(zero.lt(y), dy, zero),
            ),
            Unary::Gelu => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, x| dy.mul(math::gelu_derivative(x)),
            ),
            Unary::GeluTanh => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, x| dy.mul(math::gelu_tanh_derivative(x)),
            ),
            Unary::Silu => map2(
                dx,
                dy,
                kept,
                #[inline(always)]
                |dy: V, x| dy.mul(math::silu_derivative(x)),
            ),
        }
    }
}

// ---- arithmetic with a number -----------------------------------------------------------------

/// A function of one element and one number.
#[derive(Clone, Copy)]
enum WithNumber {
    Add(f64),
    Scale(f64),
    Pow(f64),
}

/// `y = x + c`.
pub fn add_scalar<T: Real>(y: &mut [T], x: &[T], c: f64) {
    run_map(WithNumber::Add(c), 1, y, x);
}

/// `y = c · x`.
pub fn scale<T: Real>(y: &mut [T], x: &[T], c: f64) {
    run_map(WithNumber::Scale(c), 1, y, x);
}

/// `y = x^exponent`; NaN for negative x and fractional exponents.
pub fn powf<T: Real>(y: &mut [T], x: &[T], exponent: f64) {
    run_map(WithNumber::Pow(exponent), 4, y, x);
}

/// `dx = dy · exponent · x^(exponent − 1)`.
pub fn powf_backward<T: Real>(dx: &mut [T], dy: &[T], x: &[T], exponent: f64) {
    run_map2(WithNumber::Pow(exponent), 4, dx, dy, x);
}

/// xᵖ, the common powers without the detour by logarithms.
#[inline(always)]
fn power<V: Vector>(p: f64) -> impl Fn(V) -> V {
    let exponent = V::constant(p);
    #[inline(always)]
    move |x| match p {
        0.0 => V::splat(V::Elem::ONE),
        1.0 => x,
        2.0 => x.mul(x),
        3.0 => x.mul(x).mul(x),
        -1.0 => V::splat(V::Elem::ONE).div(x),
        0.5 => x.sqrt(),
        _ => math::pow(x, exponent),
    }
}

impl<T: Real> Kernel<T> for Map<'_, T, WithNumber> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Map { op, y, x } = self;
        match op {
            WithNumber::Add(c) => {
                let c = V::constant(c);
                map(
                    y,
                    x,
                    #[inline(always)]
                    |x: V| x.add(c),
                );
            }
            WithNumber::Scale(c) => {
                let c = V::constant(c);
                map(
                    y,
                    x,
                    #[inline(always)]
                    |x: V| x.mul(c),
                );
            }
            WithNumber::Pow(p) => map(y, x, power::<V>(p)),
        }
    }
}

impl<T: Real> Kernel<T> for Map2<'_, T, WithNumber> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Map2 { op, y: dx, a: dy, b: x } = self;
        match op {
            WithNumber::Add(_) => dx.copy_from_slice(dy),
            WithNumber::Scale(c) => {
                let c = V::constant(c);
                map(
                    dx,
                    dy,
                    #[inline(always)]
                    |dy: V| dy.mul(c),
                );
            }
            // x⁰ is flat, at 0 too, where x⁻¹ would be infinite.
            WithNumber::Pow(0.0) => dx.fill(T::ZERO),
            WithNumber::Pow(p) => {
                let (scale, power) = (V::constant(p), power::<V>(p - 1.0));
                map2(
                    dx,
                    dy,
                    x,
                    #[inline(always)]
                    |dy: V, x| dy.mul(scale.mul(power(x))),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    const ALL: [Unary; 10] = [
        Unary::Neg,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Relu,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Silu,
    ];
    const SIZES: [usize; 9] = [0, 1, 15, 16, 17, 32, 100, 16 * 1024, 40_003];

    fn plain(op: Unary, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            Unary::Neg => -x,
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::Relu => x.max(0.0),
            Unary::Gelu => x * 0.5 * libm::erfc(-x / 2f64.sqrt()),
            Unary::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            }
            Unary::Silu => x * sigmoid(x),
        }
    }

    /// Where the function is defined and smooth.
    fn domain(op: Unary, x: f64) -> f64 {
        match op {
            Unary::Log | Unary::Sqrt => x.abs() + 0.1,
            Unary::Relu if x.abs() < 0.01 => 0.5,
            _ => x,
        }
    }

    #[test]
    fn forward_and_backward_agree_with_plain_loops() {
        for op in ALL {
            for n in SIZES {
                let x: Vec<f64> = numbers(n, 4.0, 1).into_iter().map(|x| domain(op, x)).collect();
                let x: Vec<f64> = narrow(&x).into_iter().map(|x| x as f64).collect();
                let dy = numbers(n, 1.0, 2);
                let want: Vec<f64> = x.iter().map(|&x| plain(op, x)).collect();
                let slope = |x: f64| (plain(op, x + 1e-5) - plain(op, x - 1e-5)) / 2e-5;
                let want_dx: Vec<f64> = x.iter().zip(&dy).map(|(&x, dy)| dy * slope(x)).collect();

                let (mut y, mut dx) = (vec![9.0; n], vec![9.0; n]);
                forward(op, &mut y, &x);
                close(&y, &want, 1e-13);
                let (kept_x, kept_y): (&[f64], &[f64]) = match op.saves() {
                    Saves::Input => (&x, &[]),
                    Saves::Output => (&[], &y),
                    Saves::Neither => (&[], &[]),
                };
                backward(op, &mut dx, &dy, kept_x, kept_y);
                close(&dx, &want_dx, 1e-8);

                let (x32, dy32) = (narrow(&x), narrow(&dy));
                let (mut y32, mut dx32) = (vec![9.0f32; n], vec![9.0f32; n]);
                forward(op, &mut y32, &x32);
                close(&y32, &want, 1e-6);
                backward(op, &mut dx32, &dy32, &x32, &y32);
                close(&dx32, &want_dx, 2e-6);
            }
        }
    }

    #[test]
    fn powers() {
        let x: Vec<f64> = numbers(1000, 1.0, 3).into_iter().map(|x| x.abs() + 0.2).collect();
        let x: Vec<f64> = narrow(&x).into_iter().map(|x| x as f64).collect();
        let dy = numbers(1000, 1.0, 4);
        for p in [-2.0, -1.0, 0.0, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0] {
            let want: Vec<f64> = x.iter().map(|x| x.powf(p)).collect();
            let want_dx: Vec<f64> =
                x.iter().zip(&dy).map(|(x, dy)| dy * p * x.powf(p - 1.0)).collect();
            let (mut y, mut dx) = (vec![9.0; 1000], vec![9.0; 1000]);
            powf(&mut y, &x, p);
            powf_backward(&mut dx, &dy, &x, p);
            close(&y, &want, 1e-14);
            close(&dx, &want_dx, 1e-14);
            let (mut y, mut dx) = (vec![9.0f32; 1000], vec![9.0f32; 1000]);
            powf(&mut y, &narrow(&x), p);
            powf_backward(&mut dx, &narrow(&dy), &narrow(&x), p);
            close(&y, &want, 5e-7);
            close(&dx, &want_dx, 1e-6);
        }
        let mut dx = [9.0f32];
        powf_backward(&mut dx, &[1.0], &[0.0], 0.0);
        assert_eq!(dx, [0.0]);
    }

    #[test]
    fn scalars() {
        let mut y = [0.0f32; 3];
        add_scalar(&mut y, &[1.0, 2.0, 3.0], 0.5);
        assert_eq!(y, [1.5, 2.5, 3.5]);
        scale(&mut y, &[1.0, 2.0, 3.0], -2.0);
        assert_eq!(y, [-2.0, -4.0, -6.0]);
    }

    #[test]
    fn not_a_number_stays_one() {
        for op in ALL {
            let mut y = [0.0f32; 17];
            forward(op, &mut y, &[f32::NAN; 17]);
            assert!(y.iter().all(|y| y.is_nan()), "{op:?}");
        }
    }

    #[test]
    fn the_same_bits_everywhere() {
        let x = narrow(&numbers(50_001, 6.0, 5));
        for op in ALL {
            same_bits(|| {
                let mut y = vec![0.0; x.len()];
                forward(op, &mut y, &x);
                let mut dx = vec![0.0; x.len()];
                backward(op, &mut dx, &x, &x, &y);
                [y, dx].concat()
            });
        }
    }
}
