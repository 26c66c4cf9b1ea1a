//! Functions of two elements with broadcasting, forward and backward; choosing by a mask; adding up.
//!
//! Inputs come with strides (0 repeats), outputs are contiguous. After `walk` has merged what it can,
//! nearly every case in a network is a row of dense vectors, or of dense vectors beside one repeated
//! number; these have loops of their own. Anything else is gathered lane by lane.

use super::simd::{Kernel, LANES, Number, Real, Vector, inlined, math};
use super::threads::{self, CHUNK};
use super::unary::map2;
use super::walk::Walk;

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// aᵇ
    Pow,
}

impl Binary {
    /// What an element costs beside an addition.
    fn cost(self) -> usize {
        match self {
            Binary::Add | Binary::Sub | Binary::Mul => 1,
            Binary::Div => 2,
            Binary::Pow => 8,
        }
    }
}

/// One row of an input: its elements lie `step` apart, from the first one of `data` on.
#[derive(Clone, Copy)]
struct Row<'a, T> {
    data: &'a [T],
    step: usize,
}

impl<T: Real> Row<'_, T> {
    /// Elements `at..at + n`, n ≤ 16, whatever the step.
    #[inline(always)]
    fn gather<V: Vector<Elem = T>>(&self, at: usize, n: usize) -> V {
        let mut lanes = [T::ZERO; LANES];
        for (i, lane) in lanes[..n].iter_mut().enumerate() {
            *lane = self.data[(at + i) * self.step];
        }
        V::from_array(lanes)
    }
}

/// `y[i] = f(c[i], a[i], b[i])` with `c` dense, `a` and `b` stepped.
#[inline(always)]
fn map_row<V: Vector>(
    y: &mut [V::Elem],
    c: &[V::Elem],
    a: Row<'_, V::Elem>,
    b: Row<'_, V::Elem>,
    f: impl Fn(V, V, V) -> V,
) {
    // The walk over a row, for any way of loading a and b.
    #[inline(always)]
    fn walk<V: Vector>(
        y: &mut [V::Elem],
        c: &[V::Elem],
        a: impl Fn(usize, usize) -> V,
        b: impl Fn(usize, usize) -> V,
        f: impl Fn(V, V, V) -> V,
    ) {
        let c = &c[..y.len()];
        let full = y.len() - y.len() % LANES;
        let dense = y[..full].chunks_exact_mut(LANES).zip(c[..full].chunks_exact(LANES));
        for (i, (y, c)) in dense.enumerate() {
            f(V::load(c), a(i * LANES, LANES), b(i * LANES, LANES)).store(y);
        }
        let rest = y.len() - full;
        if rest > 0 {
            let c = V::load_part(&c[full..]);
            f(c, a(full, rest), b(full, rest)).store_part(&mut y[full..]);
        }
    }
    #[inline(always)]
    fn dense<V: Vector>(x: &[V::Elem], n: usize) -> impl Fn(usize, usize) -> V + '_ {
        let x = &x[..n];
        #[inline(always)]
        move |at, n| {
            let x = &x[at..at + n];
            if n == LANES { V::load(x) } else { V::load_part(x) }
        }
    }
    #[inline(always)]
    fn same<V: Vector>(x: &[V::Elem]) -> impl Fn(usize, usize) -> V {
        let v = V::splat(x[0]);
        #[inline(always)]
        move |_, _| v
    }
    let n = y.len();
    match (a.step, b.step) {
        (1, 1) => walk(y, c, dense(a.data, n), dense(b.data, n), f),
        (1, 0) => walk(y, c, dense(a.data, n), same(b.data), f),
        (0, 1) => walk(y, c, same(a.data), dense(b.data, n), f),
        _ => walk(
            y,
            c,
            #[inline(always)]
            |at, n| a.gather(at, n),
            #[inline(always)]
            |at, n| b.gather(at, n),
            f,
        ),
    }
}

/// A chunk of the output, waiting for a vector type.
struct Chunk<'a, T> {
    what: What,
    walk: &'a Walk<2>,
    /// The chunk's first element in the whole output.
    begin: usize,
    y: &'a mut [T],
    /// dy in the chunk, for a backward.
    dy: Option<&'a [T]>,
    a: &'a [T],
    b: &'a [T],
}

/// Which of the functions of a [`Binary`].
#[derive(Clone, Copy)]
enum What {
    Forward(Binary),
    /// The gradient of a.
    First(Binary),
    /// The gradient of b.
    Second(Binary),
}

impl<T: Real> Kernel<T> for Chunk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        match self.what {
            What::Forward(Binary::Add) => self.each(
                #[inline(always)]
                |_, a: V, b| a.add(b),
            ),
            What::Forward(Binary::Sub) => self.each(
                #[inline(always)]
                |_, a: V, b| a.sub(b),
            ),
            What::Forward(Binary::Mul) => self.each(
                #[inline(always)]
                |_, a: V, b| a.mul(b),
            ),
            What::Forward(Binary::Div) => self.each(
                #[inline(always)]
                |_, a: V, b| a.div(b),
            ),
            What::Forward(Binary::Pow) => self.each(
                #[inline(always)]
                |_, a: V, b| math::pow(a, b),
            ),
            What::First(Binary::Add | Binary::Sub) | What::Second(Binary::Add) => self.each(
                #[inline(always)]
                |dy: V, _, _| dy,
            ),
            What::Second(Binary::Sub) => self.each(
                #[inline(always)]
                |dy: V, _, _| dy.neg(),
            ),
            What::First(Binary::Mul) => self.each(
                #[inline(always)]
                |dy: V, _, b| dy.mul(b),
            ),
            What::Second(Binary::Mul) => self.each(
                #[inline(always)]
                |dy: V, a, _| dy.mul(a),
            ),
            What::First(Binary::Div) => self.each(
                #[inline(always)]
                |dy: V, _, b| dy.div(b),
            ),
            What::Second(Binary::Div) => self.each(
                #[inline(always)]
                |dy: V, a, b| dy.div(b).mul(a.div(b)).neg(),
            ),
            What::First(Binary::Pow) => self.each(
                #[inline(always)]
                |dy: V, a, b| {
                    let slope = b.mul(math::pow(a, b.sub(V::splat(T::ONE))));
                    // a⁰ is flat, at a = 0 too.
                    V::select(b.eq(V::zero()), V::zero(), dy.mul(slope))
                },
            ),
            What::Second(Binary::Pow) => self.each(
                #[inline(always)]
                |dy: V, a, b| {
                    let slope = math::pow(a, b).mul(math::log(a));
                    // 0ᵇ stays 0 for b near a positive one.
                    let flat = V::select(a.eq(V::zero()), b, V::splat(T::ONE).neg());
                    V::select(V::zero().le(flat), V::zero(), dy.mul(slope))
                },
            ),
        }
    }
}

impl<T: Real> Chunk<'_, T> {
    #[inline(always)]
    fn each<V: Vector<Elem = T>>(self, f: impl Fn(V, V, V) -> V + Copy) {
        let Chunk { walk, begin, y, dy, a, b, .. } = self;
        let end = begin + y.len();
        walk.pieces(
            begin,
            end,
            #[inline(always)]
            |from, to, [at_a, at_b]| {
                let a = Row { data: &a[at_a..], step: walk.steps[0] };
                let b = Row { data: &b[at_b..], step: walk.steps[1] };
                let y = &mut y[from..to];
                match dy {
                    Some(dy) => map_row(y, &dy[from..to], a, b, f),
                    None => forward_row(y, a, b, f),
                }
            },
        );
    }
}

/// [`map_row`] for functions without a third input.
#[inline(always)]
fn forward_row<V: Vector>(
    y: &mut [V::Elem],
    a: Row<'_, V::Elem>,
    b: Row<'_, V::Elem>,
    f: impl Fn(V, V, V) -> V,
) {
    let f = inlined(
        #[inline(always)]
        |a, b| f(V::zero(), a, b),
    );
    let n = y.len();
    match (a.step, b.step) {
        (1, 1) => map2(y, &a.data[..n], &b.data[..n], f),
        (1, 0) => {
            let b = V::splat(b.data[0]);
            super::unary::map(
                y,
                &a.data[..n],
                #[inline(always)]
                |a| f(a, b),
            );
        }
        (0, 1) => {
            let a = V::splat(a.data[0]);
            super::unary::map(
                y,
                &b.data[..n],
                #[inline(always)]
                |b| f(a, b),
            );
        }
        _ => {
            for at in (0..n).step_by(LANES) {
                let len = LANES.min(n - at);
                f(a.gather(at, len), b.gather(at, len)).store_part(&mut y[at..at + len]);
            }
        }
    }
}

/// `y = op(a, b)`: y contiguous of `shape`, a and b with one stride an axis.
pub fn forward<T: Real>(
    op: Binary,
    y: &mut [T],
    a: &[T],
    a_strides: &[usize],
    b: &[T],
    b_strides: &[usize],
    shape: &[usize],
) {
    let walk = Walk::new(shape, [a_strides, b_strides]);
    let work = op.cost() * y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        let what = What::Forward(op);
        T::dispatch(Chunk { what, walk: &walk, begin: i * CHUNK, y, dy: None, a, b })
    });
}

/// The gradients of a and b, both of the broadcast `shape`, those that are wanted. dy is contiguous.
pub fn backward<T: Real>(
    op: Binary,
    da: Option<&mut [T]>,
    db: Option<&mut [T]>,
    dy: &[T],
    a: &[T],
    a_strides: &[usize],
    b: &[T],
    b_strides: &[usize],
    shape: &[usize],
) {
    let walk = Walk::new(shape, [a_strides, b_strides]);
    let work = op.cost() * dy.len();
    for (what, out) in [(What::First(op), da), (What::Second(op), db)] {
        let Some(out) = out else { continue };
        threads::for_chunks(out, CHUNK, work, |i, y| {
            let begin = i * CHUNK;
            let dy = Some(&dy[begin..][..y.len()]);
            T::dispatch(Chunk { what, walk: &walk, begin, y, dy, a, b })
        });
    }
}

/// `y += x`, both contiguous.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    struct Add<'a, T>(&'a mut [T], &'a [T]);
    impl<T: Real> Kernel<T> for Add<'_, T> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Elem = T>>(self) {
            let Add(y, x) = self;
            for (y, x) in y.chunks_mut(LANES).zip(x.chunks(LANES)) {
                if y.len() == LANES {
                    V::load(y).add(V::load(x)).store(y);
                } else {
                    V::load_part(y).add(V::load_part(x)).store_part(y);
                }
            }
        }
    }
    assert_eq!(y.len(), x.len());
    let work = y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        T::dispatch(Add(y, &x[i * CHUNK..][..y.len()]));
    });
}

/// `y = cond ? a : b`, where a condition is true unless it is 0: y contiguous of `shape`, the others with
/// one stride an axis.
pub fn select<T: Number>(
    y: &mut [T],
    cond: &[u32],
    cond_strides: &[usize],
    a: &[T],
    a_strides: &[usize],
    b: &[T],
    b_strides: &[usize],
    shape: &[usize],
) {
    let walk = Walk::new(shape, [cond_strides, a_strides, b_strides]);
    let work = y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        let (begin, end) = (i * CHUNK, i * CHUNK + y.len());
        walk.pieces(begin, end, |from, to, [at_cond, at_a, at_b]| {
            let y = &mut y[from..to];
            let (cond, a, b) = (&cond[at_cond..], &a[at_a..], &b[at_b..]);
            let n = y.len();
            // The cases of masked_fill and its backward, which the compiler turns into vectors.
            match walk.steps {
                [1, 1, 0] => {
                    let b = b[0];
                    for ((y, &c), &a) in y.iter_mut().zip(&cond[..n]).zip(&a[..n]) {
                        *y = if c != 0 { a } else { b };
                    }
                }
                [1, 0, 1] => {
                    let a = a[0];
                    for ((y, &c), &b) in y.iter_mut().zip(&cond[..n]).zip(&b[..n]) {
                        *y = if c != 0 { a } else { b };
                    }
                }
                [1, 1, 1] => {
                    let values = a[..n].iter().zip(&b[..n]);
                    for ((y, &c), (&a, &b)) in y.iter_mut().zip(&cond[..n]).zip(values) {
                        *y = if c != 0 { a } else { b };
                    }
                }
                [c_step, a_step, b_step] => {
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = if cond[i * c_step] != 0 { a[i * a_step] } else { b[i * b_step] };
                    }
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    const ALL: [Binary; 5] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Pow];

    /// (shape, strides of a, strides of b)
    const LAYOUTS: [(&[usize], &[usize], &[usize]); 12] = [
        (&[], &[], &[]),
        (&[0, 3], &[3, 1], &[0, 1]),
        (&[3, 0], &[1, 1], &[0, 0]),
        (&[40], &[1], &[1]),
        (&[7, 19], &[19, 1], &[0, 1]),
        (&[7, 19], &[19, 1], &[1, 0]),
        (&[7, 19], &[0, 1], &[19, 1]),
        (&[7, 19], &[0, 0], &[19, 1]),
        (&[7, 19], &[1, 7], &[19, 1]),
        (&[4, 5, 3], &[3, 0, 1], &[0, 1, 0]),
        (&[300, 70], &[70, 1], &[0, 1]),
        (&[3, 1, 20_000], &[20_000, 5, 1], &[1, 5, 0]),
    ];

    fn indices<'a>(shape: &'a [usize], strides: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let n: usize = shape.iter().product();
        (0..n).map(move |mut flat| {
            let mut at = 0;
            for axis in (0..shape.len()).rev() {
                at += flat % shape[axis] * strides[axis];
                flat /= shape[axis];
            }
            at
        })
    }

    fn plain(op: Binary, a: f64, b: f64) -> f64 {
        match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Pow => a.powf(b),
        }
    }

    fn slopes(op: Binary, a: f64, b: f64) -> (f64, f64) {
        match op {
            Binary::Add => (1.0, 1.0),
            Binary::Sub => (1.0, -1.0),
            Binary::Mul => (b, a),
            Binary::Div => (1.0 / b, -a / (b * b)),
            Binary::Pow => (b * a.powf(b - 1.0), a.powf(b) * a.ln()),
        }
    }

    #[test]
    fn forward_and_backward_agree_with_plain_loops() {
        let positive = |seed| -> Vec<f64> {
            numbers(60_000, 1.0, seed).into_iter().map(|x| (x.abs() + 0.25) as f32 as f64).collect()
        };
        let (a, b) = (positive(1), positive(2));
        let (a32, b32) = (narrow(&a), narrow(&b));
        for op in ALL {
            for (shape, sa, sb) in LAYOUTS {
                let n: usize = shape.iter().product();
                let dy = numbers(n, 1.0, 3);
                let pairs: Vec<(f64, f64)> =
                    indices(shape, sa).zip(indices(shape, sb)).map(|(i, j)| (a[i], b[j])).collect();
                let want: Vec<f64> = pairs.iter().map(|&(a, b)| plain(op, a, b)).collect();
                let want_da: Vec<f64> =
                    pairs.iter().zip(&dy).map(|(&(a, b), dy)| dy * slopes(op, a, b).0).collect();
                let want_db: Vec<f64> =
                    pairs.iter().zip(&dy).map(|(&(a, b), dy)| dy * slopes(op, a, b).1).collect();
                let mut y = vec![9.0; n];
                forward(op, &mut y, &a, sa, &b, sb, shape);
                close(&y, &want, 1e-14);
                let (mut da, mut db) = (vec![9.0; n], vec![9.0; n]);
                backward(op, Some(&mut da), Some(&mut db), &dy, &a, sa, &b, sb, shape);
                close(&da, &want_da, 1e-14);
                close(&db, &want_db, 1e-14);
                let mut y = vec![9.0f32; n];
                forward(op, &mut y, &a32, sa, &b32, sb, shape);
                close(&y, &want, 5e-7);
                let (mut da, mut db) = (vec![9.0f32; n], vec![9.0f32; n]);
                let dy = narrow(&dy);
                backward(op, Some(&mut da), None, &dy, &a32, sa, &b32, sb, shape);
                backward(op, None, Some(&mut db), &dy, &a32, sa, &b32, sb, shape);
                close(&da, &want_da, 2e-6);
                close(&db, &want_db, 2e-6);
            }
        }
    }

    #[test]
    fn powers_at_zero_have_finite_gradients() {
        let (mut da, mut db) = ([9.0f32; 2], [9.0f32; 2]);
        let (a, b) = ([0.0, 0.0], [0.0, 2.0]);
        let (da, db) = (&mut da, &mut db);
        backward(
            Binary::Pow,
            Some(&mut da[..]),
            Some(&mut db[..]),
            &[1.0, 1.0],
            &a,
            &[1],
            &b,
            &[1],
            &[2],
        );
        assert_eq!((*da, *db), ([0.0, 0.0], [0.0, 0.0]));
    }

    #[test]
    fn select_agrees_with_a_plain_loop() {
        let cond: Vec<u32> = (0..60_000).map(|i| (i * 7 % 3) as u32).collect();
        let (a, b) = (narrow(&numbers(60_000, 1.0, 4)), narrow(&numbers(60_000, 1.0, 5)));
        for (shape, sa, sb) in LAYOUTS {
            let n: usize = shape.iter().product();
            for (sc, sa, sb) in [(sa, sa, sb), (sa, sb, sa), (sb, sa, sa), (sa, sa, sa)] {
                let mut y = vec![9.0; n];
                select(&mut y, &cond, sc, &a, sa, &b, sb, shape);
                let inputs = indices(shape, sa).zip(indices(shape, sb));
                let want: Vec<f32> = indices(shape, sc)
                    .zip(inputs)
                    .map(|(c, (i, j))| if cond[c] != 0 { a[i] } else { b[j] })
                    .collect();
                assert_eq!(y, want);
            }
        }
    }

    #[test]
    fn sums_accumulate() {
        for n in [0, 1, 16, 33, 40_000] {
            let (mut y, x) = (narrow(&numbers(n, 1.0, 6)), narrow(&numbers(n, 1.0, 7)));
            let want: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y + x).collect();
            add_assign(&mut y, &x);
            assert_eq!(y, want);
        }
    }

    #[test]
    fn the_same_bits_everywhere() {
        let x = narrow(&numbers(50_001, 3.0, 8));
        for op in ALL {
            same_bits(|| {
                let mut y = vec![0.0; x.len()];
                forward(op, &mut y, &x, &[1], &x[7..8], &[0], &[x.len()]);
                y
            });
        }
    }
}
