//! Forward: 32 queries at a time, which are the lanes.

use super::dropout::{Dropout, GROUP};
use super::task::Head;
use super::{Input, Options, PIECE, Shape, Strides, count_from, cut, padded_width, tiled, worth};
use crate::cpu::gemm::{Left, Mat, Packed, Right, Side, multiply, packed_room};
use crate::cpu::scratch;
use crate::cpu::simd::{
    Extent, HeadRows, Heads, Kernel, LANES, Real, Vector, for_heads, inlined, math,
};

/// Queries of a strip: two vectors.
const QUERIES: usize = 2 * LANES;

/// Keys of a block: whole tiles of the micro-kernel on every instruction set (14 · 18 = 6 · 42 = 4 · 63),
/// and one chain of multiply-adds.
const KEYS: usize = 252;

/// `o = softmax(s q kᵀ + mask) v` for each batch and head, and `lse = ln Σ e^(s q·k)` a query, `[batch,
/// heads, tq]` (+∞ for a query that sees no key; its output is 0).
///
/// # Panics
/// When a slice is too short for its shape and strides, or rows of `o` overlap.
pub fn forward<T: Real>(
    o: &mut [T],
    os: Strides,
    lse: &mut [T],
    q: &[T],
    qs: Strides,
    k: &[T],
    ks: Strides,
    v: &[T],
    vs: Strides,
    shape: &Shape,
    options: &Options<'_>,
) {
    let &Shape { batch, heads, tq, tk, d } = shape;
    options.check(shape);
    let extent = Extent { batch, heads, rows: tq, width: d };
    let lse_strides = Strides { batch: heads * tq, head: tq, row: 1 };
    let outputs =
        [Heads::new(o, os, extent), Heads::new(lse, lse_strides, Extent { width: 1, ..extent })];
    let inputs = [(q, qs), (k, ks), (v, vs)].map(|(data, strides)| Input { data, strides });
    let dropout = Dropout::new(options, shape);
    let piece = if shape.work() < 2 * PIECE { tq } else { shape.piece(tq, QUERIES) };
    let tiles = tiled::tiles::<T>(shape, options);
    for_heads(outputs, piece, worth(shape.work()), |at, queries, [o, lse]| {
        let keys = shape.visible(options.causal, queries.1);
        let width = padded_width(d);
        let head = Head { at, queries, keys, width, inputs, dropout, shape, options };
        if let Some(tiles) = tiles {
            return tiled::forward(tiles, head, o, lse);
        }
        let rooms = [
            packed_room::<T>(keys, d, Side::Left),
            keys * width,
            packed_room::<T>(QUERIES, d, Side::Right),
            KEYS.min(tk) * QUERIES,
            QUERIES * width,
        ];
        scratch::with(rooms.iter().sum(), |mut room: &mut [T]| {
            let [packed_k, v, packed_q, scores, sums] = rooms.map(|len| cut(&mut room, len));
            T::dispatch(Run { head, o, lse, packed_k, v, packed_q, scores, sums });
        });
    });
}

/// A task with its outputs and its room.
struct Run<'a, 'b, T> {
    head: Head<'a, T>,
    o: HeadRows<'b, T>,
    lse: HeadRows<'b, T>,
    packed_k: &'b mut [T],
    v: &'b mut [T],
    packed_q: &'b mut [T],
    scores: &'b mut [T],
    sums: &'b mut [T],
}

/// The running softmax of a strip: maximum and sum a query.
struct Running<V> {
    max: [V; 2],
    sum: [V; 2],
}

impl<T: Real> Kernel<T> for Run<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Run { head, mut o, mut lse, packed_k, v, packed_q, scores, sums } = self;
        let Head { at, keys, width, shape, options, .. } = head;
        let [q_in, k_in, v_in] = head.inputs;
        let d = shape.d;
        let k = Packed::pack(packed_k, k_in.matrix(at, 0), keys, d, Side::Left);
        v_in.copy_rows::<V>(v, at, (0, keys), (d, width), |j| options.padded(shape, at.0, j));
        for first in (head.queries.0..head.queries.1).step_by(QUERIES) {
            let rows = QUERIES.min(head.queries.1 - first);
            let lanes = rows.next_multiple_of(LANES);
            let q = Packed::pack(packed_q, q_in.matrix(at, first), rows, d, Side::Right);
            let mut running = Running { max: [V::splat(T::NEG_INFINITY); 2], sum: [V::zero(); 2] };
            let seen = shape.visible(options.causal, first + rows);
            if seen == 0 {
                sums.fill(T::ZERO);
            }
            for from in (0..seen).step_by(KEYS) {
                let n = KEYS.min(seen - from);
                // Sᵀ = K Qᵀ: a row for each key.
                let (left, right) = (Left::Packed(&k, from), Right::Packed(&q, 0));
                multiply(scores, QUERIES, left, right, n, lanes, d, false);
                let shrink = softmax(&head, scores, &mut running, first, lanes, from, n);
                if from > 0 && shrink.iter().any(|&alpha| V::any(alpha.lt(V::splat(T::ONE)))) {
                    scale_rows(sums, width, rows, shrink);
                }
                if let Some(dropout) = &head.dropout {
                    drop_some::<V>(&head, dropout, scores, first, lanes, from, n);
                }
                // O += P V, with P read as the transpose of what lies there.
                let left = Mat { data: scores, row_stride: 1, col_stride: QUERIES };
                let right = Right::Rows(&v[from * width..], width);
                multiply(sums, width, Left::Mat(left), right, rows, width, n, from > 0);
            }
            let (max, sum) = (running.max, running.sum);
            // No key in sight: 0 / 0 becomes 0, and e^(x − lse) will be 0 in backward.
            let zero = V::zero();
            let one = V::splat(T::ONE);
            let inverse = inlined(
                #[inline(always)]
                |l: V| V::select(l.eq(zero), zero, one.div(l)),
            );
            let [a, b] = [inverse(sum[0]), inverse(sum[1])];
            scale_rows(sums, width, rows, [a, b]);
            let nowhere = V::splat(T::NEG_INFINITY).neg();
            let ends = inlined(
                #[inline(always)]
                |i: usize| {
                    V::select(sum[i].eq(zero), nowhere, max[i].add(math::log(sum[i]))).to_array()
                },
            );
            let [x, y] = [ends(0), ends(1)];
            for (r, sums) in sums.chunks_exact(width).enumerate().take(rows) {
                let out = o.row(first + r);
                for (from, to) in sums.chunks(LANES).zip(out.chunks_mut(LANES)) {
                    V::load(from).store_part(to);
                }
                lse.row(first + r)[0] = if r < LANES { x[r] } else { y[r - LANES] };
            }
        }
    }
}

/// Multiplies row r of `sums` by lane r of `by`.
#[inline(always)]
fn scale_rows<V: Vector>(sums: &mut [V::Elem], width: usize, rows: usize, by: [V; 2]) {
    let by = [by[0].to_array(), by[1].to_array()];
    for (r, row) in sums.chunks_exact_mut(width).enumerate().take(rows) {
        let factor = V::splat(by[r / LANES][r % LANES]);
        for x in row.chunks_exact_mut(LANES) {
            V::load(x).mul(factor).store(x);
        }
    }
}

/// Turns the scores of keys `from..from + n` into e^(s x − m') and brings the running maximum m and sum up
/// to date. Returns what earlier sums have to be multiplied by: e^(m − m').
#[inline(always)]
fn softmax<V: Vector>(
    head: &Head<V::Elem>,
    scores: &mut [V::Elem],
    running: &mut Running<V>,
    first: usize,
    lanes: usize,
    from: usize,
    n: usize,
) -> [V; 2] {
    let Head { at, shape, options, .. } = *head;
    let scale = V::constant(options.scale);
    let nothing = V::splat(V::Elem::NEG_INFINITY);
    // Every query sees the keys before `clear`; beyond, query lane i sees those up to `limit[i]`.
    let clear =
        if options.causal { (first + shape.ahead() + 1).saturating_sub(from).min(n) } else { n };
    let ahead = first + shape.ahead();
    let limit = [count_from::<V>(ahead), count_from::<V>(ahead + LANES)];
    let mut max = [nothing; 2];
    for (j, row) in scores.chunks_exact_mut(QUERIES).enumerate().take(n) {
        if options.padded(shape, at.0, from + j) {
            continue;
        }
        let key = V::constant((from + j) as f64);
        for (i, x) in row[..lanes].chunks_exact_mut(LANES).enumerate() {
            let mut score = V::load(x).mul(scale);
            if j >= clear {
                score = V::select(key.le(limit[i]), score, nothing);
            }
            max[i] = score.max(max[i]);
        }
    }
    let max = [max[0].max(running.max[0]), max[1].max(running.max[1])];
    // Where nothing has been seen so far, −∞ − (−∞) must not become NaN.
    let finite = inlined(
        #[inline(always)]
        |m: V| V::select(m.eq(nothing), V::zero(), m),
    );
    let base = [finite(max[0]), finite(max[1])];
    let shrink = inlined(
        #[inline(always)]
        |i: usize| math::exp_nonpositive(running.max[i].sub(base[i])),
    );
    let shrink = [shrink(0), shrink(1)];
    let mut sum = [V::zero(); 2];
    for (j, row) in scores.chunks_exact_mut(QUERIES).enumerate().take(n) {
        if options.padded(shape, at.0, from + j) {
            row.fill(V::Elem::ZERO);
            continue;
        }
        let key = V::constant((from + j) as f64);
        for (i, x) in row[..lanes].chunks_exact_mut(LANES).enumerate() {
            let mut p = math::exp_nonpositive(V::load(x).mul_add(scale, base[i].neg()));
            if j >= clear {
                p = V::select(key.le(limit[i]), p, V::zero());
            }
            sum[i] = sum[i].add(p);
            p.store(x);
        }
    }
    for i in 0..2 {
        running.sum[i] = running.sum[i].mul_add(shrink[i], sum[i]);
    }
    running.max = max;
    shrink
}

/// Multiplies the probabilities of keys `from..from + n` by their dropout factors. These come key beside
/// key for one query, so squares of them are transposed.
#[inline(always)]
fn drop_some<V: Vector>(
    head: &Head<V::Elem>,
    dropout: &Dropout,
    scores: &mut [V::Elem],
    first: usize,
    lanes: usize,
    from: usize,
    n: usize,
) {
    let Shape { heads, tq, .. } = *head.shape;
    for lane in (0..lanes).step_by(LANES) {
        let row = (head.at.0 * heads + head.at.1) * tq + first + lane;
        for group in from / GROUP..(from + n).div_ceil(GROUP) {
            let mut words = [[[0; LANES]; 4]; LANES];
            for (i, words) in words.iter_mut().enumerate() {
                *words = dropout.words(row + i, group);
            }
            for w in 0..4 {
                let mut square = [V::zero(); LANES];
                for (i, factors) in square.iter_mut().enumerate() {
                    *factors = dropout.factors(&words[i][w]);
                }
                V::transpose(&mut square);
                for (j, &factors) in square.iter().enumerate() {
                    let key = group * GROUP + w * LANES + j;
                    if (from..from + n).contains(&key) {
                        let x = &mut scores[(key - from) * QUERIES + lane..][..LANES];
                        V::load(x).mul(factors).store(x);
                    }
                }
            }
        }
    }
}
