//! Functions of two elements with broadcasting, forward and backward; choosing by a mask; adding up.
//!
//! Inputs come with strides (0 repeats), outputs are contiguous. After `walk` has merged what it can,
//! nearly every case in a network is a row of dense vectors, or of dense vectors beside one repeated
//! number; these have loops of their own. Anything else is gathered lane by lane.

use std::marker::PhantomData;

use super::simd::{Kernel, LANES, Number, Real, Vector, math};
use super::threads::{self, CHUNK};
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

// ---- the functions ----------------------------------------------------------------------------

/// A function of two elements.
trait Pair: Send + Sync + 'static {
    /// f(a, b).
    fn value<V: Vector>(a: V, b: V) -> V;
    /// dy · ∂f/∂a.
    fn da<V: Vector>(dy: V, a: V, b: V) -> V;
    /// dy · ∂f/∂b.
    fn db<V: Vector>(dy: V, a: V, b: V) -> V;
}

/// a + b
struct Add;
impl Pair for Add {
    #[inline(always)]
    fn value<V: Vector>(a: V, b: V) -> V {
        a.add(b)
    }
    #[inline(always)]
    fn da<V: Vector>(dy: V, _: V, _: V) -> V {
        dy
    }
    #[inline(always)]
    fn db<V: Vector>(dy: V, _: V, _: V) -> V {
        dy
    }
}

/// a − b
struct Sub;
impl Pair for Sub {
    #[inline(always)]
    fn value<V: Vector>(a: V, b: V) -> V {
        a.sub(b)
    }
    #[inline(always)]
    fn da<V: Vector>(dy: V, _: V, _: V) -> V {
        dy
    }
    #[inline(always)]
    fn db<V: Vector>(dy: V, _: V, _: V) -> V {
        dy.neg()
    }
}

/// a · b
struct Mul;
impl Pair for Mul {
    #[inline(always)]
    fn value<V: Vector>(a: V, b: V) -> V {
        a.mul(b)
    }
    #[inline(always)]
    fn da<V: Vector>(dy: V, _: V, b: V) -> V {
        dy.mul(b)
    }
    #[inline(always)]
    fn db<V: Vector>(dy: V, a: V, _: V) -> V {
        dy.mul(a)
    }
}

/// a / b
struct Div;
impl Pair for Div {
    #[inline(always)]
    fn value<V: Vector>(a: V, b: V) -> V {
        a.div(b)
    }
    #[inline(always)]
    fn da<V: Vector>(dy: V, _: V, b: V) -> V {
        dy.div(b)
    }
    #[inline(always)]
    fn db<V: Vector>(dy: V, a: V, b: V) -> V {
        dy.div(b).mul(a.div(b)).neg()
    }
}

/// aᵇ
struct Pow;
impl Pair for Pow {
    #[inline(always)]
    fn value<V: Vector>(a: V, b: V) -> V {
        math::pow(a, b)
    }
    #[inline(always)]
    fn da<V: Vector>(dy: V, a: V, b: V) -> V {
        let slope = b.mul(math::pow(a, b.sub(V::constant(1.0))));
        // a⁰ is flat, at a = 0 too.
        V::select(b.eq(V::zero()), V::zero(), dy.mul(slope))
    }
    #[inline(always)]
    fn db<V: Vector>(dy: V, a: V, b: V) -> V {
        let slope = math::pow(a, b).mul(math::log(a));
        // 0ᵇ is flat in b ≥ 0.
        let flat = V::select(a.eq(V::zero()), b, V::constant(-1.0));
        V::select(V::zero().le(flat), V::zero(), dy.mul(slope))
    }
}

/// What of a [`Pair`] to compute.
const VALUE: u8 = 0;
const DA: u8 = 1;
const DB: u8 = 2;

#[inline(always)]
fn apply<V: Vector, P: Pair, const WHAT: u8>(dy: V, a: V, b: V) -> V {
    match WHAT {
        VALUE => P::value(a, b),
        DA => P::da(dy, a, b),
        _ => P::db(dy, a, b),
    }
}

// ---- the walk ---------------------------------------------------------------------------------

/// One row of an input: its elements lie `step` apart, from the first one of `data` on.
#[derive(Clone, Copy)]
struct Row<'a, T> {
    data: &'a [T],
    step: usize,
}

/// How a row is read; a constant of each loop.
const SAME: u8 = 0; // step 0
const DENSE: u8 = 1; // step 1
const STEPS: u8 = 2; // any step

/// Elements `at..at + n` of a row, n ≤ 16.
#[inline(always)]
fn load<V: Vector, const HOW: u8>(row: Row<'_, V::Elem>, at: usize, n: usize) -> V {
    match HOW {
        SAME => V::splat(row.data[0]),
        DENSE if n == LANES => V::load(&row.data[at..at + LANES]),
        DENSE => V::load_part(&row.data[at..at + n]),
        _ => {
            let mut lanes = [V::Elem::ZERO; LANES];
            for (i, lane) in lanes[..n].iter_mut().enumerate() {
                *lane = row.data[(at + i) * row.step];
            }
            V::from_array(lanes)
        }
    }
}

/// A chunk of the output, waiting for a vector type.
struct Chunk<'a, T, P, const WHAT: u8> {
    walk: &'a Walk<2>,
    /// The chunk's first element in the whole output.
    begin: usize,
    y: &'a mut [T],
    /// dy in the chunk; empty for [`VALUE`].
    dy: &'a [T],
    a: &'a [T],
    b: &'a [T],
    pair: PhantomData<P>,
}

impl<T: Real, P: Pair, const WHAT: u8> Kernel<T> for Chunk<'_, T, P, WHAT> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Chunk { walk, begin, y, dy, a, b, .. } = self;
        let end = begin + y.len();
        for (piece, [at_a, at_b]) in walk.pieces(begin, end) {
            let a = Row { data: &a[at_a..], step: walk.steps[0] };
            let b = Row { data: &b[at_b..], step: walk.steps[1] };
            let dy = if WHAT == VALUE { dy } else { &dy[piece.clone()] };
            let y = &mut y[piece];
            match (a.step, b.step) {
                (1, 1) => map_row::<V, P, WHAT, DENSE, DENSE>(y, dy, a, b),
                (1, 0) => map_row::<V, P, WHAT, DENSE, SAME>(y, dy, a, b),
                (0, 1) => map_row::<V, P, WHAT, SAME, DENSE>(y, dy, a, b),
                _ => map_row::<V, P, WHAT, STEPS, STEPS>(y, dy, a, b),
            }
        }
    }
}

#[inline(always)]
fn map_row<V: Vector, P: Pair, const WHAT: u8, const A: u8, const B: u8>(
    y: &mut [V::Elem],
    dy: &[V::Elem],
    a: Row<'_, V::Elem>,
    b: Row<'_, V::Elem>,
) {
    // Told the lengths here, the compiler checks no bounds in the loop.
    let n = y.len();
    let a = if A == DENSE { Row { data: &a.data[..n], ..a } } else { a };
    let b = if B == DENSE { Row { data: &b.data[..n], ..b } } else { b };
    let dy = Row { data: if WHAT == VALUE { &[] } else { &dy[..n] }, step: 1 };
    let full = n - n % LANES;
    for at in (0..full).step_by(LANES) {
        one_vector::<V, P, WHAT, A, B>(&mut y[at..at + LANES], dy, a, b, at);
    }
    if full < n {
        one_vector::<V, P, WHAT, A, B>(&mut y[full..], dy, a, b, full);
    }
}

#[inline(always)]
fn one_vector<V: Vector, P: Pair, const WHAT: u8, const A: u8, const B: u8>(
    y: &mut [V::Elem],
    dy: Row<'_, V::Elem>,
    a: Row<'_, V::Elem>,
    b: Row<'_, V::Elem>,
    at: usize,
) {
    let n = y.len();
    let dy = if WHAT == VALUE { V::zero() } else { load::<V, DENSE>(dy, at, n) };
    let v = apply::<V, P, WHAT>(dy, load::<V, A>(a, at, n), load::<V, B>(b, at, n));
    if n == LANES { v.store(y) } else { v.store_part(y) }
}

/// Two strided inputs under one shape.
struct Inputs<'a, T> {
    walk: Walk<2>,
    a: &'a [T],
    b: &'a [T],
    cost: usize,
}

impl<T: Real> Inputs<'_, T> {
    fn compute<P: Pair, const WHAT: u8>(&self, out: &mut [T], dy: &[T]) {
        let Inputs { walk, a, b, cost } = self;
        let work = cost * out.len();
        threads::for_chunks(out, CHUNK, work, |i, y| {
            let begin = i * CHUNK;
            let dy = if WHAT == VALUE { dy } else { &dy[begin..][..y.len()] };
            T::dispatch(Chunk::<T, P, WHAT> { walk, begin, y, dy, a, b, pair: PhantomData });
        });
    }

    fn gradients<P: Pair>(&self, da: Option<&mut [T]>, db: Option<&mut [T]>, dy: &[T]) {
        if let Some(da) = da {
            self.compute::<P, DA>(da, dy);
        }
        if let Some(db) = db {
            self.compute::<P, DB>(db, dy);
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
    let inputs = Inputs { walk: Walk::new(shape, [a_strides, b_strides]), a, b, cost: op.cost() };
    match op {
        Binary::Add => inputs.compute::<Add, VALUE>(y, &[]),
        Binary::Sub => inputs.compute::<Sub, VALUE>(y, &[]),
        Binary::Mul => inputs.compute::<Mul, VALUE>(y, &[]),
        Binary::Div => inputs.compute::<Div, VALUE>(y, &[]),
        Binary::Pow => inputs.compute::<Pow, VALUE>(y, &[]),
    }
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
    let inputs = Inputs { walk: Walk::new(shape, [a_strides, b_strides]), a, b, cost: op.cost() };
    match op {
        Binary::Add => inputs.gradients::<Add>(da, db, dy),
        Binary::Sub => inputs.gradients::<Sub>(da, db, dy),
        Binary::Mul => inputs.gradients::<Mul>(da, db, dy),
        Binary::Div => inputs.gradients::<Div>(da, db, dy),
        Binary::Pow => inputs.gradients::<Pow>(da, db, dy),
    }
}

/// `y += x`, both contiguous.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    struct Add<'a, T>(&'a mut [T], &'a [T]);
    impl<T: Real> Kernel<T> for Add<'_, T> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector<Elem = T>>(self) {
            add_row::<V>(self.0, self.1);
        }
    }
    assert_eq!(y.len(), x.len());
    let work = y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        T::dispatch(Add(y, &x[i * CHUNK..][..y.len()]));
    });
}

/// `y += x`, of one length.
#[inline(always)]
pub(super) fn add_row<V: Vector>(y: &mut [V::Elem], x: &[V::Elem]) {
    for (y, x) in y.chunks_mut(LANES).zip(x.chunks(LANES)) {
        if y.len() == LANES {
            V::load(y).add(V::load(x)).store(y);
        } else {
            V::load_part(y).add(V::load_part(x)).store_part(y);
        }
    }
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
        for (piece, [at_cond, at_a, at_b]) in walk.pieces(begin, end) {
            let y = &mut y[piece];
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
        }
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
