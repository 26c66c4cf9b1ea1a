//! Cutting work into pieces for the threads.
//!
//! Two rules. The size of a piece is a function of the problem, never of the number of threads, wherever
//! it decides the bits. And small work stays on the thread it is on: handing it over costs a microsecond or
//! two even to a thread that waits for it, as much as 20 K simple element operations.
//!
//! How many threads there are, rayon's pool says, in which everything runs; the work itself goes to
//! [`crew`](super::crew), which is quicker to hand it over, or to the pool when the crew is busy.

use rayon::prelude::*;

use super::crew;
use super::simd::{Shared, level_here, with_level};

/// Below this much work (in units of one simple element operation) nothing is handed to another thread.
pub(crate) const SERIAL: usize = 32 * 1024;

/// Elements of a chunk in element-wise kernels: 16 K elements, half a megabyte of traffic at most.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Whether `work` element operations are worth a second thread.
pub(crate) fn worth_it(work: usize) -> bool {
    work > SERIAL && !crew::busy() && rayon::current_num_threads() > 1
}

/// Calls `f(i)` for each `i` in `0..n`, side by side where the `work` of all of them is worth it.
pub(crate) fn for_each(n: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if n < 2 || !worth_it(work) {
        (0..n).for_each(f);
    } else {
        side_by_side(n, &f);
    }
}

/// Not generic: what hands work over is compiled once and not for every kernel.
fn side_by_side(n: usize, f: &(dyn Fn(usize) + Sync)) {
    let level = level_here();
    let f = |i| with_level(level, || f(i));
    if !crew::share(rayon::current_num_threads(), n, &f) {
        (0..n).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// Cuts `out` into pieces of `chunk` elements and calls `f(i, piece)` for each, side by side where the
/// `work` of all of them is worth it. The last piece may be shorter.
pub(crate) fn for_chunks<T: Send>(
    out: &mut [T],
    chunk: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let (len, chunk) = (out.len(), chunk.max(1));
    let out = Shared::new(out);
    for_each(len.div_ceil(chunk), work, |i| {
        // SAFETY: piece i, which no other i has; `out` stays borrowed until all are done.
        f(i, unsafe { out.slice(i * chunk, chunk.min(len - i * chunk)) });
    });
}

/// As [`for_chunks`] over two outputs at once, each with its own size of piece; ends with the one that has
/// fewer pieces.
pub(crate) fn for_chunks2<T: Send, U: Send>(
    (a, a_chunk): (&mut [T], usize),
    (b, b_chunk): (&mut [U], usize),
    work: usize,
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    let (a_len, a_chunk, b_len, b_chunk) = (a.len(), a_chunk.max(1), b.len(), b_chunk.max(1));
    let (a, b) = (Shared::new(a), Shared::new(b));
    for_each(a_len.div_ceil(a_chunk).min(b_len.div_ceil(b_chunk)), work, |i| {
        let (at, to) = (i * a_chunk, i * b_chunk);
        // SAFETY: piece i of each, which no other i has; both stay borrowed until all are done.
        let (a, b) =
            unsafe { (a.slice(at, a_chunk.min(a_len - at)), b.slice(to, b_chunk.min(b_len - to))) };
        f(i, a, b);
    });
}
