//! Products with one row or one column: a matrix times a vector.
//!
//! One row: `C[0, j] = Σ x[k] B[k, j]`, the matrix is Bᵀ; one column: `C[i, 0] = Σ A[i, k] x[k]`, the matrix
//! is A. Either way there is a matrix M `[outputs, k]` that is read once, so memory sets the pace:
//! M is read in the order in which it lies and nothing is packed. Where the outputs lie side by side they
//! are the lanes; where k does, squares of 16 × 16 are transposed on the way, so that the lanes
//! are outputs again and each sum keeps its one chain in the order of k.

use super::factor::Start;
use super::pack::turned;
use super::{Elements, Factor, KC, Product};
use crate::cpu::simd::{Kernel, LANES, Real, Stored, Vector, inlined};
use crate::cpu::{scratch, threads};

/// Outputs of a task at most.
const CHUNK: usize = 512;

/// Places in the rows of the next vector of outputs from which lines are asked for in turns: several streams
/// make a processor run further ahead than one does.
const STREAMS: usize = 4;

/// Below this many multiply-adds nothing is handed to another thread: a megabyte of M.
const SERIAL: usize = 1 << 18;

/// Whether the matrix is dense one way or the other.
pub(super) fn fits<T>(a: &Factor<'_, T>, b: &Factor<'_, T>, m: usize, n: usize) -> bool {
    let matrix = if m == 1 { b } else { a };
    assert!(m == 1 || n == 1);
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
    let chunk = outputs.div_ceil(tasks).next_multiple_of(LANES);
    let chunks = outputs.div_ceil(chunk);
    threads::for_each(count * chunks, if work < SERIAL { 0 } else { usize::MAX }, |t| {
        let first = t % chunks * chunk;
        outputs_of(&item(t / chunks), (first, chunk.min(outputs - first)));
    });
}

/// The outputs `first..first + len` of one product.
fn outputs_of<T: Real>(p: &Product<'_, T>, (first, len): (usize, usize)) {
    let row = p.m == 1;
    let (matrix, (output, step)) = match row {
        true => (p.b.data.start(), (p.b.col_stride, p.b.row_stride)),
        false => (p.a.data.start(), (p.a.row_stride, p.a.col_stride)),
    };
    let (x, x_step) = if row { (p.a.data, p.a.col_stride) } else { (p.b.data, p.b.row_stride) };
    let read = |x: *const T, x_step: usize| match matrix {
        Start::Own(matrix) => {
            let operands = Operands { matrix, output, step, x, x_step };
            T::dispatch(Outputs { p, operands, first, len });
        }
        Start::Bf16(matrix) => {
            let operands = Operands { matrix, output, step, x, x_step };
            T::dispatch(Outputs { p, operands, first, len });
        }
    };
    match x {
        Elements::Own(x) => read(x.as_ptr(), x_step),
        // Each element of x meets all of these rows of M: it is widened once.
        Elements::Bf16(x) => scratch::with(p.k, |wide: &mut [T]| {
            wide.iter_mut().enumerate().for_each(|(k, wide)| *wide = T::from_bf16(x[k * x_step]));
            read(wide.as_ptr(), 1);
        }),
    }
}

/// Some of the outputs of one product.
struct Outputs<'a, 'b, T, S> {
    p: &'b Product<'a, T>,
    operands: Operands<T, S>,
    first: usize,
    len: usize,
}

/// M and x of a product.
struct Operands<T, S> {
    matrix: *const S,
    /// From one output to the next.
    output: usize,
    /// From one k to the next.
    step: usize,
    x: *const T,
    x_step: usize,
}

impl<T: Real, S: Stored<T>> Kernel<T> for Outputs<'_, '_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Outputs { p, operands, first, len } = self;
        let row = p.m == 1;
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
                    across::<V, S>(
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
                beside::<V, S>(
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
    match p.bias {
        Some(bias) if last => {
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
unsafe fn beside<V: Vector, S: Stored<V::Elem>>(
    o: &Operands<V::Elem, S>,
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
                *sum = x.mul_add(unsafe { S::load(row.add(v * LANES)) }, *sum);
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
            let (row, x): (V, V) = unsafe {
                let row = o.matrix.add(k * o.step + first + at);
                (S::load_part(row, width), V::splat(*o.x.add(k * o.x_step)))
            };
            sum = x.mul_add(row, sum);
        }
        write(first + at, width, sum);
        at += LANES;
    }
}

/// Each output dense along k: sixteen of them a vector, turned in registers, the k from `begin` to `end` before the
/// next sixteen, so that M is read from its beginning to its end where that is `all` of k.
///
/// # Safety
/// The outputs and k are inside M and x.
#[inline(always)]
unsafe fn across<V: Vector, S: Stored<V::Elem>>(
    o: &Operands<V::Elem, S>,
    (first, len): (usize, usize),
    (begin, end): (usize, usize),
    all: usize,
    write: &mut impl FnMut(usize, usize, V),
) {
    // Rows behind each other: while sixteen are worked on, the next ones come into the second-level cache, line after
    // line in the order of memory, which is what a processor does not guess from rows side by side. Sixteen lines
    // at once would fill the buffers that the rows at work need.
    let dense = o.output == all;
    let in_a_line = if S::IS_BF16 { 2 * LANES } else { LANES };
    if dense {
        let rows = o.matrix.wrapping_add(first * o.output);
        for line in (0..LANES.min(len) * all).step_by(in_a_line) {
            V::prefetch_far(rows.wrapping_add(line).cast());
        }
    }
    for at in (0..len).step_by(LANES) {
        let width = LANES.min(len - at);
        let rows = o.matrix.wrapping_add((first + at) * o.output);
        let ahead = dense && at + LANES < len;
        let next = rows.wrapping_add(LANES * o.output);
        let mut total = V::zero();
        let mut from = begin;
        while from == begin || from < end {
            let depth = KC.min(end - from);
            let whole = if width == LANES { depth / LANES * LANES } else { 0 };
            let start = rows.wrapping_add(from);
            let mut sum = V::zero();
            // SAFETY: these outputs and k are inside M and x.
            unsafe {
                for k in (0..whole).step_by(LANES) {
                    let x = o.x.add((from + k) * o.x_step);
                    let square = turned::<V, S>(start.add(k), o.output, LANES, LANES);
                    let next = next.wrapping_add((from + k) / STREAMS * LANES);
                    for q in 0..LANES {
                        let further = q / STREAMS * LANES;
                        if ahead && further.is_multiple_of(in_a_line) {
                            let stream = q % STREAMS * (LANES / STREAMS) * all;
                            V::prefetch_far(next.wrapping_add(stream + further).cast());
                        }
                        sum = V::splat(*x.add(q * o.x_step)).mul_add(square[q], sum);
                    }
                }
                for k in (whole..depth).step_by(LANES) {
                    let deep = LANES.min(depth - k);
                    sum = chain(o, start, from, (k, deep), width, sum);
                }
            }
            total = if from == begin { sum } else { total.add(sum) };
            from += KC;
        }
        write(first + at, width, total);
    }
}

/// Goes on with the sums of `width` outputs for `deep` of k, sixteen at most.
///
/// # Safety
/// As [`across`].
#[inline(always)]
unsafe fn chain<V: Vector, S: Stored<V::Elem>>(
    o: &Operands<V::Elem, S>,
    start: *const S,
    from: usize,
    (k, deep): (usize, usize),
    width: usize,
    mut sum: V,
) -> V {
    // SAFETY: handed through.
    let square = unsafe { turned::<V, S>(start.add(k), o.output, width, deep) };
    for (q, row) in square.iter().enumerate().take(deep) {
        // SAFETY: inside x.
        let x = V::splat(unsafe { *o.x.add((from + k + q) * o.x_step) });
        sum = x.mul_add(*row, sum);
    }
    sum
}
