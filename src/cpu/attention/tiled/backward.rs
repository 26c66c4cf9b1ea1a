//! Backward: blocks of 128 queries and 256 keys.

use super::super::dropout::GROUP;
use super::super::task::Task;
use super::super::{Shape, cut};
use super::{
    BLOCK, KEYS, QUERIES, add_product, block_of, mark, masked, matrix, narrow, rows, transpose,
    transposed, write_row,
};
use crate::cpu::gemm::{Layout, Operand, SIDE, Sums, Tiles, Unit, Work, product_in_tiles};
use crate::cpu::scratch;
use crate::cpu::simd::{HeadRows, LANES, Real, Vector, math};

/// A [`Task`], where its gradients go and its room.
struct Backward<'a, 'b, T> {
    task: Task<'a, T>,
    rooms: [&'b mut [f32]; 17],
    dq: Option<HeadRows<'b, T>>,
    dkv: Option<(HeadRows<'b, T>, HeadRows<'b, T>)>,
}

/// A task of backward.
pub(in super::super) fn backward<T: Real>(
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
                        for (sums, a, b) in [(&mut *dv, &*do_left, &*p), (&mut *dk, q_left, ds)] {
                            let sums = &mut sums[at..][..BLOCK];
                            add_product::<U>(sums, &a[left..], &b[right..], steps, &mut more);
                        }
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
