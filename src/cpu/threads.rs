//! Cutting work into chunks for rayon.
//!
//! Two rules. The size of a chunk is a function of the problem, never of the number of threads: that
//! keeps the bits the same at any thread count. And small work stays on the thread it is on: waking
//! another costs some 5 µs, as much as 64 K simple element operations.

use rayon::prelude::*;

/// Below this much work (in units of one simple element operation) nothing is handed to another thread.
pub(crate) const SERIAL: usize = 32 * 1024;

/// Elements of a chunk in element-wise kernels: 16 K elements, half a megabyte of traffic at most.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Whether `work` element operations are worth a second thread.
pub(crate) fn worth_it(work: usize) -> bool {
    work > SERIAL && rayon::current_num_threads() > 1
}

/// Calls `f(i)` for each `i` in `0..n`, side by side where the `work` of all of them is worth it.
pub(crate) fn for_each(n: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if n > 1 && worth_it(work) {
        (0..n).into_par_iter().with_max_len(1).for_each(f);
    } else {
        (0..n).for_each(f);
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
    let chunk = chunk.max(1);
    if out.len() > chunk && worth_it(work) {
        out.par_chunks_mut(chunk).enumerate().with_max_len(1).for_each(|(i, piece)| f(i, piece));
    } else {
        out.chunks_mut(chunk).enumerate().for_each(|(i, piece)| f(i, piece));
    }
}

/// As [`for_chunks`] over two outputs at once, each with its own size of piece.
pub(crate) fn for_chunks2<T: Send, U: Send>(
    (a, a_chunk): (&mut [T], usize),
    (b, b_chunk): (&mut [U], usize),
    work: usize,
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    let (a_chunk, b_chunk) = (a_chunk.max(1), b_chunk.max(1));
    if a.len() > a_chunk && worth_it(work) {
        a.par_chunks_mut(a_chunk)
            .zip(b.par_chunks_mut(b_chunk))
            .enumerate()
            .with_max_len(1)
            .for_each(|(i, (a, b))| f(i, a, b));
    } else {
        let pieces = a.chunks_mut(a_chunk).zip(b.chunks_mut(b_chunk));
        pieces.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}
