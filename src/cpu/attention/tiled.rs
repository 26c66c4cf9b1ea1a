//! Attention with products of bf16 in [tiles](crate::cpu::gemm::Tiles), where `medium` precision allows them and the
//! machine has them: on AMX 32 × 32 × 64 take 128 cycles, so that nearly all of the time is the softmax's.
//!
//! The formulas are those of [`forward`](super::forward) and [`backward`](super::backward). Both go by rows of
//! queries, so that operands come out of the softmax as tiles want them: P or dS, key beside key, are rows of A; two
//! rows of them interleaved are a row of B. Scores never leave the nearest caches.
//!
//! ```text
//! forward        S = Q Kᵀ     O += P V
//! backward       S = Q Kᵀ     dP = dO Vᵀ     dQ += dS K     dVᵀ += dOᵀ P     dKᵀ += Qᵀ dS
//! ```
//!
//! Operands are rounded to bf16, P and dS among them; sums, maxima, `lse` and δ are f32.

use super::backward::Task;
use super::dropout::GROUP;
use super::forward::Head;
use super::{Input, Options, Shape, count_from, cut};
use crate::cpu::gemm::{
    Layout, Mat, Operand, Precision, SIDE, Sums, Tiles, Unit, Work, product_in_tiles,
};
use crate::cpu::scratch;
use crate::cpu::simd::{HeadRows, LANES, Real, Vector, inlined, math};

/// Queries of a block of backward.
pub(super) const QUERIES: usize = 4 * SIDE;

/// Keys of a block.
pub(super) const KEYS: usize = 8 * SIDE;

/// Elements of [`Sums`].
const BLOCK: usize = SIDE * SIDE;

/// The tiles for an attention of this shape, if it is to use some. The shape decides, not the cut into tasks.
pub(super) fn tiles<T: Real>(shape: &Shape, options: &Options<'_>) -> Option<Tiles> {
    #[cfg(test)]
    if let Some(tiles) = ON.get() {
        return Some(tiles);
    }
    let fills = shape.tq.min(shape.tk) >= SIDE && shape.d >= LANES;
    if options.precision == Precision::Medium && fills { Tiles::find::<T>() } else { None }
}

#[cfg(test)]
thread_local! {
    /// The tiles that a test wants, whatever the shape.
    pub(super) static ON: std::cell::Cell<Option<Tiles>> = const { std::cell::Cell::new(None) };
}

/// T is f32: [`Tiles`] are for nothing else.
#[inline(always)]
fn narrow<T: Real>(data: &[T]) -> &[f32] {
    bytemuck::cast_slice(data)
}

/// Rows of a head as a matrix; with `copy`, those for which `hide` is true as zeros.
#[inline(always)]
fn rows<'a, T: Real>(
    input: &Input<'a, T>,
    at: (usize, usize),
    (first, end): (usize, usize),
    d: usize,
    copy: &'a mut [f32],
    hide: impl Fn(usize) -> bool,
) -> Mat<'a, f32> {
    if copy.is_empty() {
        return matrix(input, at, first);
    }
    for (r, to) in (first..end).zip(copy.chunks_exact_mut(d)) {
        if hide(r) {
            to.fill(0.0);
        } else {
            to.copy_from_slice(narrow(input.row(at, r, d)));
        }
    }
    Mat { data: copy, row_stride: d, col_stride: 1 }
}

/// Rows of a head from `first` on.
#[inline(always)]
fn matrix<'a, T: Real>(input: &Input<'a, T>, at: (usize, usize), first: usize) -> Mat<'a, f32> {
    let Mat { data, row_stride, col_stride } = input.matrix(at, first);
    Mat { data: narrow(data), row_stride, col_stride }
}

#[inline(always)]
fn transposed(x: Mat<'_, f32>) -> Mat<'_, f32> {
    Mat { data: x.data, row_stride: x.col_stride, col_stride: x.row_stride }
}

/// 1 for each key of `first..end` that is seen, 0 for padding.
#[inline(always)]
fn mark(seen: &mut [f32], shape: &Shape, options: &Options<'_>, b: usize, first: usize) {
    for (j, seen) in seen.iter_mut().enumerate() {
        let key = first + j;
        *seen = if key < shape.tk && !options.padded(shape, b, key) { 1.0 } else { 0.0 };
    }
}

/// `x` where keys `key..` of a row are before `limit` and, with padding, seen; else `other`.
#[inline(always)]
fn masked<V: Vector<Elem = f32>>(
    x: V,
    key: usize,
    limit: usize,
    seen: Option<&[f32]>,
    other: V,
) -> V {
    let mut x = x;
    if key + LANES > limit {
        x = V::select(count_from::<V>(key).lt(V::constant(limit as f64)), x, other);
    }
    match seen {
        Some(seen) => V::select(V::load(&seen[key..]).eq(V::splat(1.0)), x, other),
        None => x,
    }
}

/// A [`Head`] with its outputs and its room.
struct Forward<'a, 'b, T> {
    head: Head<'a, T>,
    o: HeadRows<'b, T>,
    lse: HeadRows<'b, T>,
    rooms: [&'b mut [f32]; 9],
}

/// A task of forward.
pub(super) fn forward<T: Real>(
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

/// [`Sums`] in working memory, which is aligned as they are.
#[inline(always)]
fn block_of(room: &mut [f32]) -> &mut Sums {
    bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(room))
}

/// Rows of two blocks side by side.
#[inline(always)]
fn pairs<'a>(
    sums: &'a mut [f32],
    more: &'a Sums,
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    sums.chunks_exact_mut(SIDE).zip(more.0.chunks_exact(SIDE))
}

/// Row r of blocks side by side, times `by`, into a row of an output.
#[inline(always)]
fn write_row<V: Vector<Elem = f32>>(out: &mut [f32], blocks: &[f32], r: usize, by: V) {
    for (i, to) in out.chunks_mut(LANES).enumerate() {
        let from = i * LANES / SIDE * BLOCK + r * SIDE + i * LANES % SIDE;
        V::load(&blocks[from..]).mul(by).store_part(to);
    }
}

/// `sums += A B`.
#[inline(always)]
fn add_product<U: Unit>(sums: &mut [f32], a: &[f32], b: &[f32], steps: usize, more: &mut Sums) {
    product_in_tiles::<U>(a, b, steps, more);
    for (sum, more) in sums.chunks_exact_mut(LANES).zip(more.0.chunks_exact(LANES)) {
        U::V::load(sum).add(U::V::load(more)).store(sum);
    }
}

/// A [`Task`], where its gradients go and its room.
struct Backward<'a, 'b, T> {
    task: Task<'a, T>,
    rooms: [&'b mut [f32]; 17],
    dq: Option<HeadRows<'b, T>>,
    dkv: Option<(HeadRows<'b, T>, HeadRows<'b, T>)>,
}

/// A task of backward.
pub(super) fn backward<T: Real>(
    tiles: Tiles,
    task: Task<'_, T>,
    dq: Option<HeadRows<'_, T>>,
    dkv: Option<(HeadRows<'_, T>, HeadRows<'_, T>)>,
) {
    let Task { shape, options, .. } = task;
    let (keys, d) = (task.keys.1 - task.keys.0, shape.d);
    let parts = d.div_ceil(SIDE);
    let (deep, long) = (Layout::deep(d), Layout::deep(keys));
    let most = QUERIES.min(task.queries.1 - task.queries.0);
    let (tall, wide) = (Layout::deep(most), Layout::deep(KEYS));
    let copied = if options.key_padding.is_some() { (keys * d).next_multiple_of(LANES) } else { 0 };
    let padded = keys.next_multiple_of(SIDE);
    let gradient = if dkv.is_some() { padded / SIDE * parts * BLOCK } else { 0 };
    let rooms = [
        deep.room(keys),
        deep.room(keys),
        long.room(d),
        copied,
        copied,
        deep.room(most),
        deep.room(most),
        tall.room(d),
        tall.room(d),
        tall.room(KEYS),
        tall.room(KEYS),
        wide.room(SIDE),
        4 * BLOCK,
        most.div_ceil(SIDE) * parts * BLOCK,
        gradient,
        gradient,
        padded,
    ];
    scratch::with(rooms.iter().sum(), |mut room: &mut [f32]| {
        let rooms = rooms.map(|len| cut(&mut room, len));
        tiles.run(Backward { task, dq, dkv, rooms });
    });
}

impl<T: Real> Work for Backward<'_, '_, T> {
    #[inline(always)]
    fn run<U: Unit>(self) {
        let Backward { task, mut dq, mut dkv, rooms } = self;
        let Task { at, shape, options, .. } = task;
        let [q_in, k_in, v_in, do_in, o_in] = task.inputs;
        let (first_key, end_key, d) = (task.keys.0, task.keys.1, shape.d);
        let (keys, ahead, parts) = (end_key - first_key, shape.ahead(), d.div_ceil(SIDE));
        let (deep, long, wide) = (Layout::deep(d), Layout::deep(keys), Layout::deep(KEYS));
        let [
            k,
            v,
            k_right,
            copy_k,
            copy_v,
            q,
            d_o,
            q_left,
            do_left,
            p,
            ds,
            ds_left,
            scores,
            dq_sums,
            dk,
            dv,
            seen,
        ] = rooms;
        let hidden = |j| options.padded(shape, at.0, j);
        let of_k = rows(&k_in, at, task.keys, d, copy_k, hidden);
        let of_v = rows(&v_in, at, task.keys, d, copy_v, hidden);
        deep.pack::<U>(k, of_k, keys, d, Operand::B);
        deep.pack::<U>(v, of_v, keys, d, Operand::B);
        if dq.is_some() {
            long.pack::<U>(k_right, transposed(of_k), d, keys, Operand::B);
        }
        mark(seen, shape, options, at.0, first_key);
        let seen = options.key_padding.map(|_| &*seen);
        dk.fill(0.0);
        dv.fill(0.0);
        let mut more = Sums::ZERO;
        for first in (task.queries.0..task.queries.1).step_by(QUERIES) {
            let count = QUERIES.min(task.queries.1 - first);
            let tall = Layout::deep(count);
            let of_q = matrix(&q_in, at, first);
            let of_do = matrix(&do_in, at, first);
            deep.pack::<U>(q, of_q, count, d, Operand::A);
            deep.pack::<U>(d_o, of_do, count, d, Operand::A);
            if dkv.is_some() {
                tall.pack::<U>(q_left, transposed(of_q), d, count, Operand::A);
                tall.pack::<U>(do_left, transposed(of_do), d, count, Operand::A);
            }
            let mut delta = [0.0; QUERIES];
            for (r, delta) in delta.iter_mut().enumerate().take(count) {
                let (a, b) = (do_in.row(at, first + r, d), o_in.row(at, first + r, d));
                let mut sum = U::V::zero();
                for (a, b) in narrow(a).chunks(LANES).zip(narrow(b).chunks(LANES)) {
                    sum = U::V::load_part(a).mul_add(U::V::load_part(b), sum);
                }
                *delta = sum.sum();
            }
            // Keys of a block from `from` on, n of them, that the query so many after the first sees.
            let count_seen = |from: usize, n: usize, r: usize| {
                if options.causal { (first + r + ahead + 1).saturating_sub(from).min(n) } else { n }
            };
            let end_seen = end_key.min(shape.visible(options.causal, first + count));
            dq_sums.fill(0.0);
            for from in (first_key..end_seen).step_by(KEYS) {
                let n = KEYS.min(end_seen - from);
                let local = from - first_key;
                for top in (0..count).step_by(SIDE) {
                    let end = count.min(top + SIDE);
                    let steps = count_seen(from, n, end - 1).div_ceil(SIDE);
                    let (left, left_do) = (&q[deep.panel(top, 0)..], &d_o[deep.panel(top, 0)..]);
                    for key in (0..steps * SIDE).step_by(GROUP) {
                        let beside = (steps - key / SIDE).min(GROUP / SIDE);
                        let (s, dp) = scores.split_at_mut(2 * BLOCK);
                        for i in 0..beside {
                            let panel = deep.panel(local + key + i * SIDE, 0);
                            let at = i * BLOCK..(i + 1) * BLOCK;
                            product_in_tiles::<U>(
                                left,
                                &k[panel..],
                                parts,
                                block_of(&mut s[at.clone()]),
                            );
                            product_in_tiles::<U>(
                                left_do,
                                &v[panel..],
                                parts,
                                block_of(&mut dp[at]),
                            );
                        }
                        // Two rows at a time, which B wants side by side.
                        for r in (top..top + SIDE).step_by(2) {
                            let pair = Pair {
                                task: &task,
                                query: first + r,
                                exists: [r < count, r + 1 < count],
                                limits: [count_seen(from, n, r), count_seen(from, n, r + 1)],
                                delta: [delta[r], delta[r + 1]],
                                from,
                            };
                            let at = (r - top) * SIDE;
                            pair.gradients::<U>(
                                (&s[at..], &dp[at..]),
                                (key, beside),
                                seen.map(|seen| &seen[local..]),
                                #[inline(always)]
                                |row, key, both| {
                                    both.store(&mut ds_left[wide.row(r - top + row, key)..])
                                },
                                #[inline(always)]
                                |key, both_p, both_ds| {
                                    let at = tall.pair(key, r);
                                    both_p.store(&mut p[at..]);
                                    both_ds.store(&mut ds[at..]);
                                },
                            );
                        }
                    }
                    if dq.is_some() && steps > 0 {
                        for part in 0..parts {
                            let sums = &mut dq_sums[(top / SIDE * parts + part) * BLOCK..][..BLOCK];
                            let right = &k_right[long.panel(part * SIDE, local)..];
                            add_product::<U>(sums, ds_left, right, steps, &mut more);
                        }
                    }
                }
                if dkv.is_none() {
                    continue;
                }
                for key in (0..n).step_by(SIDE) {
                    // The first strip with a row that sees one of these keys; those after it see them too.
                    let top =
                        if options.causal { (from + key).saturating_sub(first + ahead) } else { 0 };
                    let top = top / SIDE * SIDE;
                    if top >= count {
                        break;
                    }
                    let steps = (count - top).div_ceil(SIDE);
                    for part in 0..parts {
                        let at = ((local + key) / SIDE * parts + part) * BLOCK;
                        let (left, right) = (tall.panel(part * SIDE, top), tall.panel(key, top));
                        add_product::<U>(
                            &mut dv[at..][..BLOCK],
                            &do_left[left..],
                            &p[right..],
                            steps,
                            &mut more,
                        );
                        add_product::<U>(
                            &mut dk[at..][..BLOCK],
                            &q_left[left..],
                            &ds[right..],
                            steps,
                            &mut more,
                        );
                    }
                }
            }
            if let Some(dq) = &mut dq {
                for r in 0..count {
                    let out = bytemuck::cast_slice_mut(dq.row(first + r));
                    let blocks = &dq_sums[r / SIDE * parts * BLOCK..];
                    write_row::<U::V>(out, blocks, r % SIDE, U::V::splat(1.0));
                }
            }
        }
        if let Some((dk_out, dv_out)) = &mut dkv {
            for (out, sums) in [(dk_out, dk), (dv_out, dv)] {
                for block in sums.chunks_exact_mut(BLOCK) {
                    transpose::<U::V>(block);
                }
                for r in 0..keys {
                    let out = bytemuck::cast_slice_mut(out.row(first_key + r));
                    let blocks = &sums[r / SIDE * parts * BLOCK..];
                    write_row::<U::V>(out, blocks, r % SIDE, U::V::splat(1.0));
                }
            }
        }
    }
}

/// Swaps rows and columns of a block.
#[inline(always)]
fn transpose<V: Vector<Elem = f32>>(block: &mut [f32]) {
    let square = inlined(
        #[inline(always)]
        |block: &[f32], (row, col): (usize, usize)| {
            let mut square = [V::zero(); LANES];
            for (i, x) in square.iter_mut().enumerate() {
                *x = V::load(&block[(row + i) * SIDE + col..]);
            }
            V::transpose(&mut square);
            square
        },
    );
    let put = inlined(
        #[inline(always)]
        |block: &mut [f32], (row, col): (usize, usize), square: [V; LANES]| {
            for (i, x) in square.into_iter().enumerate() {
                x.store(&mut block[(row + i) * SIDE + col..]);
            }
        },
    );
    for at in [0, LANES] {
        let turned = square(block, (at, at));
        put(block, (at, at), turned);
    }
    let (below, beside) = (square(block, (LANES, 0)), square(block, (0, LANES)));
    put(block, (0, LANES), below);
    put(block, (LANES, 0), beside);
}

/// Two queries that follow each other, and a block of keys.
struct Pair<'a, T> {
    task: &'a Task<'a, T>,
    query: usize,
    /// A block may have fewer queries than its strips have rows.
    exists: [bool; 2],
    /// Keys of the block that each may see.
    limits: [usize; 2],
    delta: [f32; 2],
    /// The first key.
    from: usize,
}

impl<T: Real> Pair<'_, T> {
    /// Turns scores and dP of up to two blocks of 32 keys, the first at `key`, into P (times dropout factors) and dS:
    /// `row(i, key, dS of 32 keys)` and `pair(key, P of both rows, dS of both rows)`, sixteen keys.
    #[inline(always)]
    fn gradients<U: Unit>(
        &self,
        (s, dp): (&[f32], &[f32]),
        (first, blocks): (usize, usize),
        seen: Option<&[f32]>,
        mut row: impl FnMut(usize, usize, U::V),
        mut pair: impl FnMut(usize, U::V, U::V),
    ) {
        let Shape { heads, tq, .. } = *self.task.shape;
        let number = (self.task.at.0 * heads + self.task.at.1) * tq + self.query;
        let (scale, zero) = (U::V::constant(self.task.options.scale), U::V::zero());
        let mut words = [[[0; LANES]; 4]; 2];
        let (mut lse, mut limits) = ([zero; 2], [0; 2]);
        for i in 0..2 {
            if !self.exists[i] {
                continue;
            }
            limits[i] = self.limits[i];
            lse[i] = U::V::splat(-(self.task.lse[number + i].to_f64() as f32));
            if let Some(dropout) = &self.task.dropout {
                words[i] = dropout.words(number + i, (self.from + first) / GROUP);
            }
        }
        for block in 0..blocks {
            let mut of_rows = [[zero; 2]; 2];
            for half in 0..2 {
                let key = first + block * SIDE + half * LANES;
                let (mut kept, mut ds) = ([zero; 2], [zero; 2]);
                for i in 0..2 {
                    let at = block * BLOCK + i * SIDE + half * LANES;
                    let p = math::exp_nonpositive(U::V::load(&s[at..]).mul_add(scale, lse[i]));
                    let p = masked(p, key, limits[i], seen, zero);
                    let mut dp = U::V::load(&dp[at..]);
                    kept[i] = p;
                    if let Some(dropout) = &self.task.dropout {
                        let factors = dropout.factors::<U::V>(&words[i][block * 2 + half]);
                        (kept[i], dp) = (p.mul(factors), dp.mul(factors));
                    }
                    ds[i] = p.mul(scale).mul(dp.sub(U::V::splat(self.delta[i])));
                    of_rows[i][half] = ds[i];
                }
                pair(key, U::between(kept[0], kept[1]), U::between(ds[0], ds[1]));
            }
            for (i, of_row) in of_rows.iter().enumerate() {
                row(i, first + block * SIDE, U::beside(of_row[0], of_row[1]));
            }
        }
    }
}
