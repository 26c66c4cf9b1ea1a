//! Functions of one element, forward and backward: contiguous in, contiguous out.
//!
//! The table of formulae is in [`crate::ops`]'s file of the same name. Each function is a few lines, value
//! and gradient side by side; the walk over the elements is written once.

mod rounded;

use super::simd::{Kernel, LANES, Real, Vector, math};
use super::threads::{self, CHUNK};

pub use rounded::backward_rounded;

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

// ---- the functions ----------------------------------------------------------------------------

/// A function of one element. A value of the type holds the function's constants, if it has any.
trait Function: Copy + Send + Sync {
    /// f(x).
    fn value<V: Vector>(self, x: V) -> V;
    /// dy · f′, from what the function keeps: x, y or nothing ([`Unary::saves`]).
    fn gradient<V: Vector>(self, dy: V, kept: V) -> V;
}

/// −x
#[derive(Clone, Copy)]
struct Neg;
impl Function for Neg {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.neg()
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, _: V) -> V {
        dy.neg()
    }
}

/// eˣ; keeps y
#[derive(Clone, Copy)]
struct Exp;
impl Function for Exp {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::exp(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, y: V) -> V {
        dy.mul(y)
    }
}

/// ln x; keeps x
#[derive(Clone, Copy)]
struct Log;
impl Function for Log {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::log(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.div(x)
    }
}

/// √x; keeps y
#[derive(Clone, Copy)]
struct Sqrt;
impl Function for Sqrt {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.sqrt()
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, y: V) -> V {
        dy.div(y.add(y))
    }
}

/// tanh x; keeps y
#[derive(Clone, Copy)]
struct Tanh;
impl Function for Tanh {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::tanh(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, y: V) -> V {
        dy.mul(y.neg_mul_add(y, V::constant(1.0)))
    }
}

/// σ(x); keeps y
#[derive(Clone, Copy)]
struct Sigmoid;
impl Function for Sigmoid {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::sigmoid(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, y: V) -> V {
        dy.mul(y.neg_mul_add(y, y))
    }
}

/// max(x, 0); keeps y
#[derive(Clone, Copy)]
struct Relu;
impl Function for Relu {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        // In this order, for the second operand wins where x is NaN.
        V::zero().max(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, y: V) -> V {
        V::select(y.le(V::zero()), V::zero(), dy)
    }
}

/// x Φ(x); keeps x
#[derive(Clone, Copy)]
struct Gelu;
impl Function for Gelu {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::gelu(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.mul(math::gelu_derivative(x))
    }
}

/// GELU's tanh form; keeps x
#[derive(Clone, Copy)]
struct GeluTanh;
impl Function for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::gelu_tanh(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.mul(math::gelu_tanh_derivative(x))
    }
}

/// x σ(x); keeps x
#[derive(Clone, Copy)]
struct Silu;
impl Function for Silu {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::silu(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.mul(math::silu_derivative(x))
    }
}

/// x + c
#[derive(Clone, Copy)]
struct Plus(f64);
impl Function for Plus {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.add(V::constant(self.0))
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, _: V) -> V {
        dy
    }
}

/// c · x
#[derive(Clone, Copy)]
struct Times(f64);
impl Function for Times {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.mul(V::constant(self.0))
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, _: V) -> V {
        dy.mul(V::constant(self.0))
    }
}

/// x²; keeps x, as all powers
#[derive(Clone, Copy)]
struct Square;
impl Function for Square {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.mul(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.mul(x.add(x))
    }
}

/// x³
#[derive(Clone, Copy)]
struct Cube;
impl Function for Cube {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.mul(x).mul(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.mul(x.mul(x).mul(V::constant(3.0)))
    }
}

/// 1 / x
#[derive(Clone, Copy)]
struct Reciprocal;
impl Function for Reciprocal {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        V::constant(1.0).div(x)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.div(x.mul(x)).neg()
    }
}

/// x^½
#[derive(Clone, Copy)]
struct Root;
impl Function for Root {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        x.sqrt()
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        dy.div(x.sqrt().mul(V::constant(2.0)))
    }
}

/// xᵖ for any other p
#[derive(Clone, Copy)]
struct Power(f64);
impl Function for Power {
    #[inline(always)]
    fn value<V: Vector>(self, x: V) -> V {
        math::pow(x, V::constant(self.0))
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, dy: V, x: V) -> V {
        let slope = math::pow(x, V::constant(self.0 - 1.0));
        dy.mul(slope.mul(V::constant(self.0)))
    }
}

// ---- the walk ---------------------------------------------------------------------------------

/// `y = f(x)` over a chunk, waiting for a vector type.
struct Forward<'a, T, F> {
    f: F,
    y: &'a mut [T],
    x: &'a [T],
}

impl<T: Real, F: Function> Kernel<T> for Forward<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Forward { f, y, x } = self;
        let x = &x[..y.len()];
        let full = y.len() - y.len() % LANES;
        for (y, x) in y[..full].chunks_exact_mut(LANES).zip(x[..full].chunks_exact(LANES)) {
            f.value(V::load(x)).store(y);
        }
        if full < y.len() {
            f.value(V::load_part(&x[full..])).store_part(&mut y[full..]);
        }
    }
}

/// `dx = dy · f′(kept)` over a chunk.
struct Backward<'a, T, F> {
    f: F,
    dx: &'a mut [T],
    dy: &'a [T],
    kept: &'a [T],
}

impl<T: Real, F: Function> Kernel<T> for Backward<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Backward { f, dx, dy, kept } = self;
        let (dy, kept) = (&dy[..dx.len()], &kept[..dx.len()]);
        let full = dx.len() - dx.len() % LANES;
        let inputs = dy[..full].chunks_exact(LANES).zip(kept[..full].chunks_exact(LANES));
        for (dx, (dy, kept)) in dx[..full].chunks_exact_mut(LANES).zip(inputs) {
            f.gradient(V::load(dy), V::load(kept)).store(dx);
        }
        if full < dx.len() {
            let (dy, kept) = (V::load_part(&dy[full..]), V::load_part(&kept[full..]));
            f.gradient(dy, kept).store_part(&mut dx[full..]);
        }
    }
}

fn run_forward<T: Real>(f: impl Function, cost: usize, y: &mut [T], x: &[T]) {
    assert_eq!(y.len(), x.len());
    let work = cost * y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        T::dispatch(Forward { f, x: &x[i * CHUNK..][..y.len()], y })
    });
}

fn run_backward<T: Real>(f: impl Function, cost: usize, dx: &mut [T], dy: &[T], kept: &[T]) {
    assert!(dx.len() == dy.len() && dx.len() == kept.len());
    let work = cost * dx.len();
    threads::for_chunks(dx, CHUNK, work, |i, dx| {
        let (dy, kept) = (&dy[i * CHUNK..][..dx.len()], &kept[i * CHUNK..][..dx.len()]);
        T::dispatch(Backward { f, dx, dy, kept })
    });
}

/// `$body` with `$f` standing for the function that `$op` names.
macro_rules! with_function {
    ($op:expr, $f:ident => $body:expr) => {
        with_function!($op, $f => $body, Neg Exp Log Sqrt Tanh Sigmoid Relu Gelu GeluTanh Silu)
    };
    ($op:expr, $f:ident => $body:expr, $($name:ident)*) => {
        match $op {
            $(Unary::$name => {
                let $f = $name;
                $body
            })*
        }
    };
}

use with_function;

/// `y = op(x)`.
pub fn forward<T: Real>(op: Unary, y: &mut [T], x: &[T]) {
    with_function!(op, f => run_forward(f, op.cost(), y, x));
}

/// Rows of inputs and outputs that lie apart.
pub(super) trait Rows<T> {
    /// How many there are.
    fn count(&self) -> usize;
    /// y and x of row r, of one length.
    fn row(&mut self, r: usize) -> (&mut [T], &[T]);
    /// What happens when y of row r is there.
    #[inline(always)]
    fn done<V: Vector<Elem = T>>(&mut self, _r: usize) {}
}

/// `y = op(x)` row by row, on this thread.
pub(super) fn forward_rows<T: Real>(op: Unary, rows: impl Rows<T>) {
    with_function!(op, f => T::dispatch(ForwardRows { f, rows }));
}

struct ForwardRows<F, R> {
    f: F,
    rows: R,
}

impl<T: Real, F: Function, R: Rows<T>> Kernel<T> for ForwardRows<F, R> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(mut self) {
        for r in 0..self.rows.count() {
            let (y, x) = self.rows.row(r);
            Forward { f: self.f, y, x }.run::<V>();
            self.rows.done::<V>(r);
        }
    }
}

/// `dx = dy · op′`. Reads `x` or `y`, whichever [`Unary::saves`] says; the other may be empty.
pub fn backward<T: Real>(op: Unary, dx: &mut [T], dy: &[T], x: &[T], y: &[T]) {
    let kept = match op.saves() {
        Saves::Input => x,
        Saves::Output => y,
        Saves::Neither => dy,
    };
    with_function!(op, f => run_backward(f, op.cost(), dx, dy, kept));
}

/// `y = x + c`.
pub fn add_scalar<T: Real>(y: &mut [T], x: &[T], c: f64) {
    run_forward(Plus(c), 1, y, x);
}

/// `y = c · x`.
pub fn scale<T: Real>(y: &mut [T], x: &[T], c: f64) {
    run_forward(Times(c), 1, y, x);
}

/// `y = x^exponent`; NaN for negative x and fractional exponents.
pub fn powf<T: Real>(y: &mut [T], x: &[T], exponent: f64) {
    match exponent {
        0.0 => y.fill(T::ONE),
        1.0 => y.copy_from_slice(x),
        2.0 => run_forward(Square, 1, y, x),
        3.0 => run_forward(Cube, 1, y, x),
        -1.0 => run_forward(Reciprocal, 2, y, x),
        0.5 => run_forward(Root, 2, y, x),
        p => run_forward(Power(p), 8, y, x),
    }
}

/// `dx = dy · exponent · x^(exponent − 1)`.
pub fn powf_backward<T: Real>(dx: &mut [T], dy: &[T], x: &[T], exponent: f64) {
    match exponent {
        // Flat, at x = 0 too, where x⁻¹ would be infinite.
        0.0 => dx.fill(T::ZERO),
        1.0 => dx.copy_from_slice(dy),
        2.0 => run_backward(Square, 1, dx, dy, x),
        3.0 => run_backward(Cube, 1, dx, dy, x),
        -1.0 => run_backward(Reciprocal, 2, dx, dy, x),
        0.5 => run_backward(Root, 2, dx, dy, x),
        p => run_backward(Power(p), 8, dx, dy, x),
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
