//! Backward: five products a block.
//!
//! With P = e^(s q·k − lse) and, a row, δ = Σ dO∘O:
//!
//! ```text
//! S  = Q Kᵀ                dP = dO Vᵀ             [queries, keys]
//! dS = s P ∘ (dP − δ)
//! dQ = dS K                                        [queries, d]
//! dV = Pᵀ dO               dK = dSᵀ Q              [keys, d]
//! ```
//!
//! (With dropout factors M: dV = (P∘M)ᵀ dO and dS = s P ∘ (dP∘M − δ); δ is the same.)
//!
//! A task goes over blocks of queries and, inside, blocks of keys, and adds to dQ, dK and dV as it goes.
//! Where heads are few, one round of tasks makes dQ, each for some of the queries, and another dK and
//! dV, each for some of the keys; S and dP are then computed twice. Either way the sum of each element
//! runs over the same blocks in the same order.

use super::dropout::{Dropout, GROUP};
use super::task::Task;
use super::{Input, Options, PIECE, Shape, Strides, count_from, cut, padded_width, tiled, worth};
use crate::cpu::gemm::{Left, Mat, Packed, Right, Side, multiply, packed_room};
use crate::cpu::scratch;
use crate::cpu::simd::{Extent, HeadRows, Heads, Kernel, LANES, Real, Vector, for_heads, math};

/// The grain of the causal mask: what lies beyond it is left out for so many rows at a time. Two of the
/// widest tiles.
const STRIP: usize = 28;

/// Queries of a block.
const QUERIES: usize = 3 * STRIP;

/// Keys of a block: whole strips and whole vectors.
const KEYS: usize = 8 * STRIP;

/// Where the gradients go.
pub enum Gradients<'a, T> {
    /// Each its own.
    Apart {
        /// Of the queries, `[batch, heads, tq, d]` at `dq_strides`.
        dq: &'a mut [T],
        /// Where its rows lie.
        dq_strides: Strides,
        /// Of the keys, `[batch, heads, tk, d]` at `dk_strides`.
        dk: &'a mut [T],
        /// Where its rows lie.
        dk_strides: Strides,
        /// Of the values, `[batch, heads, tk, d]` at `dv_strides`.
        dv: &'a mut [T],
        /// Where its rows lie.
        dv_strides: Strides,
    },
    /// In one: dq, dk and dv begin `width` elements after each other. Only with tq = tk.
    Fused {
        /// All three.
        dqkv: &'a mut [T],
        /// Where the rows of each lie.
        strides: Strides,
        /// From one to the next.
        width: usize,
    },
}

/// The gradients of [`forward`](super::forward), from `d_o`, its output `o` and its `lse`; overwritten,
/// not added to.
///
/// # Panics
/// When a slice is too short for its shape and strides, or rows of a gradient overlap.
pub fn backward<T: Real>(
    gradients: Gradients<'_, T>,
    d_o: &[T],
    dos: Strides,
    o: &[T],
    os: Strides,
    lse: &[T],
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
    let queries = Extent { batch, heads, rows: tq, width: d };
    let keys = Extent { rows: tk, ..queries };
    let [dq, dk, dv] = match gradients {
        Gradients::Apart { dq, dq_strides, dk, dk_strides, dv, dv_strides } => [
            Heads::new(dq, dq_strides, queries),
            Heads::new(dk, dk_strides, keys),
            Heads::new(dv, dv_strides, keys),
        ],
        Gradients::Fused { dqkv, strides, width } => {
            assert_eq!(tq, tk, "fused gradients are those of self-attention");
            Heads::beside(dqkv, strides, queries, width)
        }
    };
    let input = |data, strides| Input { data, strides };
    let task = Task {
        at: (0, 0),
        queries: (0, tq),
        keys: (0, tk),
        width: padded_width(d),
        inputs: [input(q, qs), input(k, ks), input(v, vs), input(d_o, dos), input(o, os)],
        lse,
        dropout: Dropout::new(options, shape),
        tiles: tiled::tiles::<T>(shape, options),
        shape,
        options,
    };
    let work = 5 * shape.work();
    let few = batch * heads < rayon::current_num_threads() && work >= 2 * PIECE;
    if tq == tk && !few {
        for_heads([dq, dk, dv], tq, worth(work), |at, _, [dq, dk, dv]| {
            Task { at, ..task }.run(Some(dq), Some((dk, dv)));
        });
        return;
    }
    let pieces = |rows, unit| if few { shape.piece(rows, unit) } else { rows };
    let (of_queries, of_keys) =
        if task.tiles.is_some() { (tiled::QUERIES, tiled::KEYS) } else { (QUERIES, KEYS) };
    for_heads([dq], pieces(tq, of_queries), worth(work), |at, queries, [dq]| {
        let keys = (0, shape.visible(options.causal, queries.1));
        Task { at, queries, keys, ..task }.run(Some(dq), None);
    });
    for_heads([dk, dv], pieces(tk, of_keys), worth(work), |at, keys, [dk, dv]| {
        Task { at, keys, ..task }.run(None, Some((dk, dv)));
    });
}

impl<T: Real> Task<'_, T> {
    /// Lays out the room and goes.
    fn run(self, dq: Option<HeadRows<'_, T>>, dkv: Option<(HeadRows<'_, T>, HeadRows<'_, T>)>) {
        if let Some(tiles) = self.tiles {
            return tiled::backward(tiles, self, dq, dkv);
        }
        let (d, width) = (self.shape.d, self.width);
        let keys = self.keys.1 - self.keys.0;
        let panels = packed_room::<T>(keys, d, Side::Right);
        let query_panels = packed_room::<T>(QUERIES, d, Side::Strips(STRIP));
        let block = QUERIES * KEYS.min(keys.next_multiple_of(LANES));
        let gradient = if dkv.is_some() { keys * width } else { 0 };
        let seen = keys.next_multiple_of(LANES);
        let rooms = [
            panels,
            panels,
            keys * width,
            keys * width,
            query_panels,
            query_panels,
            QUERIES * width,
            QUERIES * width,
            block,
            block,
            QUERIES * width,
            gradient,
            gradient,
            seen,
        ];
        scratch::with(rooms.iter().sum(), |mut room: &mut [T]| {
            let rooms = rooms.map(|len| cut(&mut room, len));
            T::dispatch(Run { task: self, dq, dkv, rooms });
        });
    }
}

struct Run<'a, 'b, T> {
    task: Task<'a, T>,
    dq: Option<HeadRows<'b, T>>,
    dkv: Option<(HeadRows<'b, T>, HeadRows<'b, T>)>,
    rooms: [&'b mut [T]; 14],
}

impl<T: Real> Kernel<T> for Run<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Run { task, mut dq, mut dkv, rooms } = self;
        let Task { at, width, shape, options, .. } = task;
        let [k_panels, v_panels, k, v, q_panels, do_panels, q, d_o, p, ds, dq_sums, dk, dv, seen] =
            rooms;
        let [q_in, k_in, v_in, do_in, o_in] = task.inputs;
        let (first_key, end_key, d) = (task.keys.0, task.keys.1, shape.d);
        let (keys, ahead) = (end_key - first_key, shape.ahead());

        // Keys and values that nobody sees become zeros, so that what they hold does not matter.
        let hidden = |j| options.padded(shape, at.0, j);
        k_in.copy_rows::<V>(k, at, task.keys, (d, width), hidden);
        v_in.copy_rows::<V>(v, at, task.keys, (d, width), hidden);
        let k_panels = Packed::pack(k_panels, dense(k, width), keys, d, Side::Right);
        let v_panels = Packed::pack(v_panels, dense(v, width), keys, d, Side::Right);
        for (j, seen) in seen.iter_mut().enumerate() {
            *seen = if j < keys && !hidden(first_key + j) { T::ONE } else { T::ZERO };
        }
        dk.fill(T::ZERO);
        dv.fill(T::ZERO);
        let ld = p.len() / QUERIES;

        for first in (task.queries.0..task.queries.1).step_by(QUERIES) {
            let rows = QUERIES.min(task.queries.1 - first);
            let end_seen = end_key.min(shape.visible(options.causal, first + rows));
            dq_sums.fill(T::ZERO);
            if end_seen > first_key {
                q_in.copy_rows::<V>(q, at, (first, first + rows), (d, width), |_| false);
                do_in.copy_rows::<V>(d_o, at, (first, first + rows), (d, width), |_| false);
            }
            let q_panels = Packed::pack(q_panels, dense(q, width), rows, d, Side::Strips(STRIP));
            let do_panels =
                Packed::pack(do_panels, dense(d_o, width), rows, d, Side::Strips(STRIP));
            let delta = |r: usize| {
                let (a, b) = (do_in.row(at, first + r, d), o_in.row(at, first + r, d));
                let mut sum = V::zero();
                for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                    sum = V::load_part(a).mul_add(V::load_part(b), sum);
                }
                sum.sum()
            };
            let mut deltas = [T::ZERO; QUERIES];
            for (r, value) in deltas.iter_mut().enumerate().take(rows) {
                *value = delta(r);
            }
            // How many keys of a block from `from` on the rows before `end` see.
            let count = |from: usize, n: usize, end: usize| {
                if options.causal { (first + end + ahead).saturating_sub(from).min(n) } else { n }
            };
            for from in (first_key..end_seen).step_by(KEYS) {
                let n = KEYS.min(end_seen - from);
                let local = from - first_key;
                for top in (0..rows).step_by(STRIP) {
                    let strip = STRIP.min(rows - top);
                    let wide = count(from, n, top + strip).next_multiple_of(LANES);
                    let (s, dp) = (&mut p[top * ld..], &mut ds[top * ld..]);
                    let right = Right::Packed(&k_panels, local);
                    multiply(s, ld, Left::Packed(&q_panels, top), right, strip, wide, d, false);
                    let right = Right::Packed(&v_panels, local);
                    multiply(dp, ld, Left::Packed(&do_panels, top), right, strip, wide, d, false);
                    for r in top..top + strip {
                        let row = Row {
                            keys: count(from, n, r + 1),
                            wide,
                            query: first + r,
                            from,
                            delta: deltas[r],
                        };
                        let (s, dp) = (&mut p[r * ld..][..ld], &mut ds[r * ld..][..ld]);
                        row.scores_to_gradients::<V>(&task, s, dp, &seen[local..]);
                    }
                    if dq.is_some() {
                        let left = Left::Mat(dense(&ds[top * ld..], ld));
                        let right = Right::Rows(&k[local * width..], width);
                        let sums = &mut dq_sums[top * width..];
                        multiply(sums, width, left, right, strip, width, wide.min(n), true);
                    }
                }
                if dkv.is_none() {
                    continue;
                }
                for j in (0..n).step_by(STRIP) {
                    let strip = STRIP.min(n - j);
                    // The first row that sees key `from + j`.
                    let top =
                        if options.causal { (from + j).saturating_sub(first + ahead) } else { 0 };
                    if top >= rows {
                        break;
                    }
                    let at = top * ld + j;
                    let sums = (local + j) * width;
                    let right = Right::Rows(&d_o[top * width..], width);
                    let left = turned(&p[at..], ld);
                    multiply(&mut dv[sums..], width, left, right, strip, width, rows - top, true);
                    let right = Right::Rows(&q[top * width..], width);
                    let left = turned(&ds[at..], ld);
                    multiply(&mut dk[sums..], width, left, right, strip, width, rows - top, true);
                }
            }
            if let Some(dq) = &mut dq {
                write_rows::<V>(dq, first, rows, dq_sums, width);
            }
        }
        if let Some((dk_out, dv_out)) = &mut dkv {
            write_rows::<V>(dk_out, first_key, keys, dk, width);
            write_rows::<V>(dv_out, first_key, keys, dv, width);
        }
    }
}

/// Rows side by side in memory.
fn dense<T>(data: &[T], row_stride: usize) -> Mat<'_, T> {
    Mat { data, row_stride, col_stride: 1 }
}

/// The transpose of rows of `width`, as a left operand.
fn turned<T>(data: &[T], width: usize) -> Left<'_, T> {
    Left::Mat(Mat { data, row_stride: 1, col_stride: width })
}

/// Copies `rows` rows of `width` to the output's rows from `first` on.
#[inline(always)]
fn write_rows<V: Vector>(
    out: &mut HeadRows<'_, V::Elem>,
    first: usize,
    rows: usize,
    sums: &[V::Elem],
    width: usize,
) {
    for (r, sums) in sums.chunks_exact(width).enumerate().take(rows) {
        for (from, to) in sums.chunks_exact(LANES).zip(out.row(first + r).chunks_mut(LANES)) {
            V::load(from).store_part(to);
        }
    }
}

/// One query and a block of keys.
struct Row<T> {
    /// Keys of the block that the query may see.
    keys: usize,
    /// Scores that have been computed.
    wide: usize,
    query: usize,
    /// The first key.
    from: usize,
    delta: T,
}

impl<T: Real> Row<T> {
    /// Turns scores into probabilities (times dropout factors) and dP into dS; 0 beyond the keys.
    #[inline(always)]
    fn scores_to_gradients<V: Vector<Elem = T>>(
        &self,
        task: &Task<'_, T>,
        s: &mut [T],
        dp: &mut [T],
        seen: &[T],
    ) {
        let Shape { heads, tq, .. } = *task.shape;
        let row = (task.at.0 * heads + task.at.1) * tq + self.query;
        let (scale, delta) = (V::constant(task.options.scale), V::splat(self.delta));
        let (lse, one, zero) = (V::splat(task.lse[row]).neg(), V::splat(T::ONE), V::zero());
        let padded = task.options.key_padding.is_some();
        let mut words = [[0; LANES]; 4];
        let vectors = s.chunks_exact_mut(LANES).zip(dp.chunks_exact_mut(LANES));
        for (i, (s, dp)) in vectors.enumerate() {
            let j = i * LANES;
            if j >= self.wide {
                zero.store(s);
                zero.store(dp);
                continue;
            }
            let mut p = math::exp_nonpositive(V::load(s).mul_add(scale, lse));
            if j + LANES > self.keys {
                p = V::select(count_from::<V>(j).lt(V::constant(self.keys as f64)), p, zero);
            }
            if padded {
                p = V::select(V::load_part(&seen[j..]).eq(one), p, zero);
            }
            let (mut kept, mut dp_kept) = (p, V::load(dp));
            if let Some(dropout) = &task.dropout {
                let key = self.from + j;
                if i == 0 || key.is_multiple_of(GROUP) {
                    words = dropout.words(row, key / GROUP);
                }
                let factors = dropout.factors::<V>(&words[key % GROUP / LANES]);
                (kept, dp_kept) = (p.mul(factors), dp_kept.mul(factors));
            }
            kept.store(s);
            p.mul(scale).mul(dp_kept.sub(delta)).store(dp);
        }
    }
}
