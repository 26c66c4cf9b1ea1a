//! Products with one row or one column: a matrix times a vector.
//!
//! One row: `C[0, j] = Σ x[k] B[k, j]`, the matrix is Bᵀ; one column: `C[i, 0] = Σ A[i, k] x[k]`, the matrix
//! is A. Either way there is a matrix M `[outputs, k]` that is read once, so memory sets the pace:
//! M is read in the order in which it lies and nothing is packed. Where the outputs lie side by side they
//! are the lanes; where k does, squares of 16 × 16 are transposed on the way, so that the lanes
//! are outputs again and each sum keeps its one chain in the order of k.

use super::pack::turned;
use super::{Epilogue, KC, Mat, Product};
use crate::cpu::simd::{Kernel, LANES, Real, Vector, inlined};
use crate::cpu::threads;

/// Outputs of a task at most.
const CHUNK: usize = 512;

/// Outputs that are computed at a time.
const PAIR: usize = 2 * LANES;

/// Below this many multiply-adds nothing is handed to another thread: a megabyte of M.
const SERIAL: usize = 1 << 18;

/// Whether the matrix is dense one way or the other.
pub(super) fn fits<T>(a: &Mat<'_, T>, b: &Mat<'_, T>, m: usize, n: usize) -> bool {
    let matrix = if m == 1 { b } else { a };
    debug_assert!(m == 1 || n == 1);
    matrix.row_stride == 1 || matrix.col_stride == 1
}

/// Computes `count` products.
pub(super) fn run<'a, T: Real>(count: usize, item: &(impl Fn(usize) -> Product<'a, T> + Sync)) {
    let Product { m, n, k, .. } = item(0);
    let outputs = m.max(n);
    let work = outputs.saturating_mul(k).saturating_mul(count);
    // As many tasks for each thread, since all wait for the last. Where a task ends changes no output.
    let threads = rayon::current_num_threads();
    let tasks = threads * outputs.div_ceil(threads * CHUNK);
    let chunk = outputs.div_ceil(tasks).next_multiple_of(PAIR);
    let chunks = outputs.div_ceil(chunk);
    threads::for_each(count * chunks, if work < SERIAL { 0 } else { usize::MAX }, |t| {
        let first = t % chunks * chunk;
        T::dispatch(Outputs { p: &item(t / chunks), first, len: chunk.min(outputs - first) });
    });
}

/// Some of the outputs of one product.
struct Outputs<'a, 'b, T> {
    p: &'b Product<'a, T>,
    first: usize,
    len: usize,
}

/// M and x of a product.
struct Operands<T> {
    matrix: *const T,
    /// From one output to the next.
    output: usize,
    /// From one k to the next.
    step: usize,
    x: *const T,
    x_step: usize,
}

impl<T: Real> Kernel<T> for Outputs<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Outputs { p, first, len } = self;
        let row = p.m == 1;
        let operands = if row {
            let (matrix, x) = (p.b.data.as_ptr(), p.a.data.as_ptr());
            let (output, step) = (p.b.col_stride, p.b.row_stride);
            Operands { matrix, output, step, x, x_step: p.a.col_stride }
        } else {
            let (matrix, x) = (p.a.data.as_ptr(), p.b.data.as_ptr());
            let (output, step) = (p.a.row_stride, p.a.col_stride);
            Operands { matrix, output, step, x, x_step: p.b.row_stride }
        };
        let c_step = if row { 1 } else { p.ldc };
        let write = inlined(
            #[inline(always)]
            |at: usize, width: usize, sum: V, (add, last): (bool, bool)| {
                let mut sum = sum;
                if c_step == 1 {
                    // SAFETY: outputs of this task alone.
                    let dst = unsafe { p.c.slice(p.at + at, width) };
                    if add {
                        sum = V::load_part(dst).add(sum);
                    }
                    finish(p, last, row, at, width, sum).store_part(dst);
                } else {
                    let mut lanes = [T::ZERO; LANES];
                    for (i, lane) in lanes.iter_mut().enumerate().take(width) {
                        // SAFETY: an output of this task alone.
                        *lane = unsafe { p.c.slice(p.at + (at + i) * c_step, 1)[0] };
                    }
                    if add {
                        sum = V::from_array(lanes).add(sum);
                    }
                    let lanes = finish(p, last, row, at, width, sum).to_array();
                    for (i, lane) in lanes.into_iter().enumerate().take(width) {
                        // SAFETY: as above.
                        unsafe { p.c.slice(p.at + (at + i) * c_step, 1)[0] = lane };
                    }
                }
            },
        );
        // SAFETY: `product` has checked that M and x are inside their slices; outputs and k here are
        // within their shape.
        unsafe {
            if operands.output != 1 {
                // All of k at once, except where C comes first in the sum: (C + S₀) + S₁.
                let step = if p.accumulate { KC } else { p.k.max(1) };
                let mut from = 0;
                while from == 0 || from < p.k {
                    let to = p.k.min(from + step);
                    let place = (p.accumulate, to == p.k);
                    across::<V>(
                        &operands,
                        (first, len),
                        (from, to),
                        p.k,
                        &mut inlined(
                            #[inline(always)]
                            |at, width, sum| write(at, width, sum, place),
                        ),
                    );
                    from += step;
                }
                return;
            }
            let mut from = 0;
            while from == 0 || from < p.k {
                let depth = KC.min(p.k - from);
                let place = (p.accumulate || from > 0, from + depth == p.k);
                beside::<V>(
                    &operands,
                    (first, len),
                    (from, depth),
                    &mut inlined(
                        #[inline(always)]
                        |at, width, sum| write(at, width, sum, place),
                    ),
                );
                from += KC;
            }
        }
    }
}

/// The epilogue of `width` outputs from `at` on.
#[inline(always)]
fn finish<V: Vector>(
    p: &Product<'_, V::Elem>,
    last: bool,
    row: bool,
    at: usize,
    width: usize,
    sum: V,
) -> V {
    match p.epilogue {
        Epilogue::Bias(bias) if last => {
            // With one column every output has the same bias.
            sum.add(if row { V::load_part(&bias[at..at + width]) } else { V::splat(bias[0]) })
        }
        _ => sum,
    }
}

/// Outputs side by side: four vectors of them at a time.
///
/// # Safety
/// The outputs and k are inside M and x.
#[inline(always)]
unsafe fn beside<V: Vector>(
    o: &Operands<V::Elem>,
    (first, len): (usize, usize),
    (from, depth): (usize, usize),
    write: &mut impl FnMut(usize, usize, V),
) {
    const WIDE: usize = 4;
    let mut at = 0;
    while at + WIDE * LANES <= len {
        let mut sums = [V::zero(); WIDE];
        for k in from..from + depth {
            // SAFETY: inside M and x.
            let (row, x) = unsafe {
                (o.matrix.add(k * o.step + first + at), V::splat(*o.x.add(k * o.x_step)))
            };
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: four vectors of outputs lie here.
                *sum = x.mul_add(unsafe { V::load_ptr(row.add(v * LANES)) }, *sum);
            }
        }
        for (v, sum) in sums.into_iter().enumerate() {
            write(first + at + v * LANES, LANES, sum);
        }
        at += WIDE * LANES;
    }
    while at < len {
        let width = LANES.min(len - at);
        let mut sum = V::zero();
        for k in from..from + depth {
            // SAFETY: inside M and x.
            let (row, x) = unsafe {
                let row = o.matrix.add(k * o.step + first + at);
                (std::slice::from_raw_parts(row, width), V::splat(*o.x.add(k * o.x_step)))
            };
            sum = x.mul_add(V::load_part(row), sum);
        }
        write(first + at, width, sum);
        at += LANES;
    }
}

/// Each output dense along k: sixteen of them a vector, turned in registers, two vectors at a time and
/// the k from `begin` to `end` before the next two, so that M is read from its beginning to its end where
/// that is `all` of k.
///
/// # Safety
/// The outputs and k are inside M and x.
#[inline(always)]
unsafe fn across<V: Vector>(
    o: &Operands<V::Elem>,
    (first, len): (usize, usize),
    (begin, end): (usize, usize),
    all: usize,
    write: &mut impl FnMut(usize, usize, V),
) {
    // Rows behind each other: while two vectors' rows are worked on, the next ones come into the cache,
    // in the order of memory. That is what a processor does not guess from sixteen rows side by side.
    let dense = o.output == all;
    if dense {
        let rows = o.matrix.wrapping_add(first * o.output);
        for line in (0..PAIR.min(len) * all).step_by(LANES) {
            V::prefetch(rows.wrapping_add(line));
        }
    }
    let mut at = 0;
    while at < len {
        // Two chains hide each other's latency.
        let pair = at + PAIR <= len;
        let another = dense && at + PAIR < len;
        let width = LANES.min(len - at);
        let rows = o.matrix.wrapping_add((first + at) * o.output);
        let next = rows.wrapping_add(PAIR * o.output);
        let mut totals = [V::zero(); 2];
        let mut from = begin;
        while from == begin || from < end {
            let depth = KC.min(end - from);
            let whole = depth / LANES * LANES;
            let mut sums = [V::zero(); 2];
            let start = rows.wrapping_add(from);
            let other = start.wrapping_add(LANES * o.output);
            // SAFETY: sixteen outputs each (or `width`) and these k are inside M and x.
            unsafe {
                if pair {
                    for k in (0..whole).step_by(LANES) {
                        if another {
                            let next = next.wrapping_add((from + k) * PAIR);
                            for line in 0..PAIR {
                                V::prefetch(next.wrapping_add(line * LANES));
                            }
                        }
                        let x = o.x.add((from + k) * o.x_step);
                        let squares = [
                            turned::<V>(start.add(k), o.output, LANES, LANES),
                            turned::<V>(other.add(k), o.output, LANES, LANES),
                        ];
                        for q in 0..LANES {
                            let x = V::splat(*x.add(q * o.x_step));
                            sums[0] = x.mul_add(squares[0][q], sums[0]);
                            sums[1] = x.mul_add(squares[1][q], sums[1]);
                        }
                    }
                    if whole < depth {
                        let rest = (whole, depth - whole);
                        sums[0] = chain(o, start, from, rest, LANES, sums[0]);
                        sums[1] = chain(o, other, from, rest, LANES, sums[1]);
                    }
                } else {
                    for k in (0..depth).step_by(LANES) {
                        let deep = LANES.min(depth - k);
                        sums[0] = chain(o, start, from, (k, deep), width, sums[0]);
                    }
                }
            }
            for v in 0..2 {
                totals[v] = if from == begin { sums[v] } else { totals[v].add(sums[v]) };
            }
            from += KC;
        }
        write(first + at, width, totals[0]);
        if pair {
            write(first + at + LANES, LANES, totals[1]);
        }
        at += if pair { PAIR } else { LANES };
    }
}

/// Goes on with the sums of `width` outputs for `deep` of k, sixteen at most.
///
/// # Safety
/// As [`across`].
#[inline(always)]
unsafe fn chain<V: Vector>(
    o: &Operands<V::Elem>,
    start: *const V::Elem,
    from: usize,
    (k, deep): (usize, usize),
    width: usize,
    mut sum: V,
) -> V {
    // SAFETY: handed through.
    let square = unsafe { turned::<V>(start.add(k), o.output, width, deep) };
    for (q, row) in square.iter().enumerate().take(deep) {
        // SAFETY: inside x.
        let x = V::splat(unsafe { *o.x.add((from + k + q) * o.x_step) });
        sum = x.mul_add(*row, sum);
    }
    sum
}
