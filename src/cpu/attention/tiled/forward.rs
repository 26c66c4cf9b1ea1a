//! Forward: 32 queries at a time.

use super::super::cut;
use super::super::dropout::GROUP;
use super::super::task::Head;
use super::{BLOCK, KEYS, block_of, mark, masked, matrix, rows, transposed, write_row};
use crate::cpu::gemm::{Layout, Operand, SIDE, Sums, Tiles, Unit, Work, product_in_tiles};
use crate::cpu::scratch;
use crate::cpu::simd::{HeadRows, LANES, Real, Vector, math};

/// A [`Head`] with its outputs and its room.
struct Forward<'a, 'b, T> {
    head: Head<'a, T>,
    o: HeadRows<'b, T>,
    lse: HeadRows<'b, T>,
    rooms: [&'b mut [f32]; 9],
}

/// A task of forward.
pub(in super::super) fn forward<T: Real>(
    tiles: Tiles,
    head: Head<'_, T>,
    o: HeadRows<'_, T>,
    lse: HeadRows<'_, T>,
) {
    let Head { keys, shape, options, .. } = head;
    let d = shape.d;
    let (deep, long, wide) = (Layout::deep(d), Layout::deep(keys), Layout::deep(KEYS));
    let copied = if options.key_padding.is_some() { (keys * d).next_multiple_of(LANES) } else { 0 };
    let parts = d.div_ceil(SIDE);
    let padded = keys.next_multiple_of(SIDE);
    let rooms = [
        deep.room(keys),
        long.room(d),
        deep.room(SIDE),
        wide.room(SIDE),
        KEYS * SIDE,
        copied,
        copied,
        parts * BLOCK,
        padded,
    ];
    scratch::with(rooms.iter().sum(), |mut room: &mut [f32]| {
        let rooms = rooms.map(|len| cut(&mut room, len));
        tiles.run(Forward { head, o, lse, rooms });
    });
}

impl<T: Real> Work for Forward<'_, '_, T> {
    #[inline(always)]
    fn run<U: Unit>(self) {
        let Forward { head, mut o, mut lse, rooms } = self;
        let Head { at, keys, shape, options, .. } = head;
        let [q_in, k_in, v_in] = head.inputs;
        let d = shape.d;
        let (deep, long, wide) = (Layout::deep(d), Layout::deep(keys), Layout::deep(KEYS));
        let [k, v, q, p, scores, copy_k, copy_v, sums, seen] = rooms;
        let hidden = |j| options.padded(shape, at.0, j);
        let of_k = rows(&k_in, at, (0, keys), d, copy_k, hidden);
        let of_v = rows(&v_in, at, (0, keys), d, copy_v, hidden);
        deep.pack::<U>(k, of_k, keys, d, Operand::B);
        long.pack::<U>(v, transposed(of_v), d, keys, Operand::B);
        mark(seen, shape, options, at.0, 0);
        let seen = options.key_padding.map(|_| &*seen);
        let mut more = Sums::ZERO;
        for first in (head.queries.0..head.queries.1).step_by(SIDE) {
            let count = SIDE.min(head.queries.1 - first);
            deep.pack::<U>(q, matrix(&q_in, at, first), count, d, Operand::A);
            let mut strip =
                Strip { first, count, max: [f32::NEG_INFINITY; SIDE], sum: [0.0; SIDE] };
            let visible = shape.visible(options.causal, first + count);
            sums.fill(0.0);
            for from in (0..visible).step_by(KEYS) {
                let n = KEYS.min(visible - from);
                let steps = n.div_ceil(SIDE);
                for (s, scores) in scores.chunks_exact_mut(BLOCK).enumerate().take(steps) {
                    let right = &k[deep.panel(from + s * SIDE, 0)..];
                    product_in_tiles::<U>(q, right, d.div_ceil(SIDE), block_of(scores));
                }
                let shrink = strip.softmax::<U, T>(&head, scores, p, wide, seen, (from, n));
                for (part, sums) in sums.chunks_exact_mut(BLOCK).enumerate() {
                    let right = &v[long.panel(part * SIDE, from)..];
                    product_in_tiles::<U>(p, right, steps, &mut more);
                    for (r, (sums, more)) in pairs(sums, &more).enumerate() {
                        let shrink = U::V::splat(shrink[r]);
                        for (sum, more) in
                            sums.chunks_exact_mut(LANES).zip(more.chunks_exact(LANES))
                        {
                            U::V::load(sum).mul_add(shrink, U::V::load(more)).store(sum);
                        }
                    }
                }
            }
            let Strip { max, sum, .. } = strip;
            let ends = logarithms::<U::V>(&max, &sum);
            for r in 0..count {
                // No key in sight: 0 / 0 becomes 0, and e^(x − lse) will be 0 in backward.
                let inverse = if sum[r] == 0.0 { 0.0 } else { 1.0 / sum[r] };
                let out: &mut [f32] = bytemuck::cast_slice_mut(o.row(first + r));
                write_row::<U::V>(out, sums, r, U::V::splat(inverse));
                lse.row(first + r)[0] = T::from_f64(ends[r] as f64);
            }
        }
    }
}

/// The running softmax of 32 queries.
struct Strip {
    first: usize,
    count: usize,
    max: [f32; SIDE],
    sum: [f32; SIDE],
}

impl Strip {
    /// Turns the scores of keys `from..from + n` into P = e^(s x − m') in `p`, rows of A, and brings the running
    /// maximum m and sum up to date. Returns what earlier sums have to be multiplied by: e^(m − m').
    #[inline(always)]
    fn softmax<U: Unit, T: Real>(
        &mut self,
        head: &Head<'_, T>,
        scores: &mut [f32],
        p: &mut [f32],
        layout: Layout,
        seen: Option<&[f32]>,
        (from, n): (usize, usize),
    ) -> [f32; SIDE] {
        let Head { at, shape, options, .. } = *head;
        let scale = U::V::constant(options.scale);
        let nothing = U::V::splat(f32::NEG_INFINITY);
        let seen = seen.map(|seen| &seen[from..]);
        let ahead = shape.ahead();
        let (mut max, mut shrink) = (self.max, [0.0; SIDE]);
        for r in 0..self.count {
            let limit = if options.causal {
                (self.first + r + ahead + 1).saturating_sub(from).min(n)
            } else {
                n
            };
            let mut largest = nothing;
            for key in (0..n.next_multiple_of(SIDE)).step_by(LANES) {
                let x = &mut scores[key / SIDE * BLOCK + r * SIDE + key % SIDE..][..LANES];
                let score = masked(U::V::load(x).mul(scale), key, limit, seen, nothing);
                largest = score.max(largest);
                score.store(x);
            }
            max[r] = max[r].max(largest.max_lane());
        }
        // Where nothing has been seen so far, −∞ − (−∞) must not become NaN.
        let base = max.map(|m| if m == f32::NEG_INFINITY { 0.0 } else { m });
        for at in [0, LANES] {
            let change = U::V::load(&self.max[at..]).sub(U::V::load(&base[at..]));
            math::exp_nonpositive(change).store(&mut shrink[at..]);
        }
        for r in 0..self.count {
            let row = (at.0 * shape.heads + at.1) * shape.tq + self.first + r;
            let base = U::V::splat(base[r]);
            let (mut sum, mut words) = (U::V::zero(), [[0; LANES]; 4]);
            for key in (0..n.next_multiple_of(SIDE)).step_by(SIDE) {
                let x = &scores[key / SIDE * BLOCK + r * SIDE..][..SIDE];
                let mut low = math::exp_nonpositive(U::V::load(x).sub(base));
                let mut high = math::exp_nonpositive(U::V::load(&x[LANES..]).sub(base));
                sum = sum.add(low).add(high);
                if let Some(dropout) = &head.dropout {
                    let key = from + key;
                    if key.is_multiple_of(GROUP) {
                        words = dropout.words(row, key / GROUP);
                    }
                    let word = key % GROUP / LANES;
                    low = low.mul(dropout.factors::<U::V>(&words[word]));
                    high = high.mul(dropout.factors::<U::V>(&words[word + 1]));
                }
                U::beside(low, high).store(&mut p[layout.row(r, key)..]);
            }
            self.sum[r] = self.sum[r].mul_add(shrink[r], sum.sum());
        }
        self.max = max;
        shrink
    }
}

/// m + ln l of each query; +∞ where l is 0.
#[inline(always)]
fn logarithms<V: Vector<Elem = f32>>(max: &[f32; SIDE], sum: &[f32; SIDE]) -> [f32; SIDE] {
    let mut ends = [0.0; SIDE];
    for at in [0, LANES] {
        let (max, sum) = (V::load(&max[at..]), V::load(&sum[at..]));
        let end = V::select(sum.eq(V::zero()), V::splat(f32::INFINITY), max.add(math::log(sum)));
        end.store(&mut ends[at..]);
    }
    ends
}

/// Rows of two blocks side by side.
#[inline(always)]
fn pairs<'a>(
    sums: &'a mut [f32],
    more: &'a Sums,
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    sums.chunks_exact_mut(SIDE).zip(more.0.chunks_exact(SIDE))
}
