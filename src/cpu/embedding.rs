//! Table lookup and its gradient.
//!
//! Backward groups the tokens by id (a counting sort, stable, so each id's tokens stay in their order); a
//! task owns a range of table rows and adds up each row's tokens in that order. No two tasks write the
//! same row: no atomics, and the same bits at any thread count.

use super::rows;
use super::scratch;
use super::simd::{Kernel, Number, Real, Vector};
use super::threads::{self, CHUNK};

/// `y[t, :] = w[ids[t], :]`: w `[rows, width]`, y `[ids.len(), width]`; ids are below `rows`.
pub fn forward<E: Number>(y: &mut [E], w: &[E], ids: &[u32], width: usize) {
    assert_eq!(y.len(), ids.len() * width);
    if width == 0 {
        return;
    }
    let tokens = (CHUNK / width).max(1);
    let work = y.len();
    threads::for_chunks(y, tokens * width, work, |i, y| {
        for (y, &id) in y.chunks_mut(width).zip(&ids[i * tokens..]) {
            y.copy_from_slice(&w[id as usize * width..][..width]);
        }
    });
}

/// `dw[v, :] = Σ dy[t, :] over the tokens t with ids[t] = v`, in the order of t; dw `[vocab, width]` is
/// written whole.
pub fn backward<T: Real>(dw: &mut [T], dy: &[T], ids: &[u32], vocab: usize, width: usize) {
    write_or_add(dw, dy, ids, vocab, width, false);
}

/// As [`backward`], but `dw += …`: rows without a token are not touched.
pub fn add_rows<T: Real>(dw: &mut [T], dy: &[T], ids: &[u32], vocab: usize, width: usize) {
    write_or_add(dw, dy, ids, vocab, width, true);
}

fn write_or_add<T: Real>(
    dw: &mut [T],
    dy: &[T],
    ids: &[u32],
    vocab: usize,
    width: usize,
    add: bool,
) {
    assert!(dw.len() == vocab * width && dy.len() == ids.len() * width);
    if dw.is_empty() {
        return;
    }
    scratch::with(vocab + 1 + ids.len(), |space: &mut [u32]| {
        let (starts, tokens) = space.split_at_mut(vocab + 1);
        group(starts, tokens, ids);
        let group = (CHUNK / width).max(1);
        let work = if add { 3 * dy.len() } else { dw.len() + 2 * dy.len() };
        threads::for_chunks(dw, group * width, work, |i, dw| {
            let first = i * group;
            T::dispatch(AddRows { dw, dy, starts: &starts[first..], tokens, width, add });
        });
    });
}

/// Sorts the positions of `ids` by id: those of id v are `tokens[starts[v]..starts[v + 1]]`, ascending.
fn group(starts: &mut [u32], tokens: &mut [u32], ids: &[u32]) {
    starts.fill(0);
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for v in 1..starts.len() {
        starts[v] += starts[v - 1];
    }
    // Placing a token moves its id's start on; afterwards each start is where the next id began.
    for (t, &id) in ids.iter().enumerate() {
        let start = &mut starts[id as usize];
        tokens[*start as usize] = t as u32;
        *start += 1;
    }
    for v in (1..starts.len()).rev() {
        starts[v] = starts[v - 1];
    }
    starts[0] = 0;
}

/// Some rows of dw; `starts` begins at the first of them.
struct AddRows<'a, T> {
    dw: &'a mut [T],
    dy: &'a [T],
    starts: &'a [u32],
    tokens: &'a [u32],
    width: usize,
    add: bool,
}

impl<T: Real> Kernel<T> for AddRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let AddRows { dw, dy, starts, tokens, width, add } = self;
        for (row, dw) in dw.chunks_mut(width).enumerate() {
            let mut tokens = &tokens[starts[row] as usize..starts[row + 1] as usize];
            if !add {
                let Some((&first, others)) = tokens.split_first() else {
                    dw.fill(T::ZERO);
                    continue;
                };
                dw.copy_from_slice(&dy[first as usize * width..][..width]);
                tokens = others;
            }
            for &t in tokens {
                let dy = &dy[t as usize * width..][..width];
                add_row::<V>(dw, dy);
            }
        }
    }
}

/// `y += x`.
#[inline(always)]
pub(super) fn add_row<V: Vector>(y: &mut [V::Elem], x: &[V::Elem]) {
    let x = &x[..y.len()];
    rows::each(
        y.len(),
        #[inline(always)]
        |at, n| {
            let sum = rows::load::<V>(y, at, n).add(rows::load(x, at, n));
            rows::store(sum, y, at, n);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{narrow, numbers, same_bits};
    use super::*;

    #[test]
    fn agrees_with_plain_loops() {
        for (vocab, width, count) in
            [(1, 1, 0), (5, 3, 40), (7, 0, 4), (100, 17, 3), (300, 64, 1000), (50, 96, 2000)]
        {
            let ids: Vec<u32> = (0..count).map(|i| (i * i * 31 + i) % vocab).collect();
            let (vocab, count) = (vocab as usize, count as usize);
            let w = narrow(&numbers(vocab * width, 1.0, 1));
            let mut y = vec![9.0; count * width];
            forward(&mut y, &w, &ids, width);
            for t in 0..count {
                assert_eq!(y[t * width..][..width], w[ids[t] as usize * width..][..width]);
            }
            let dy = narrow(&numbers(count * width, 1.0, 2));
            let mut want = vec![0.0f32; vocab * width];
            for t in 0..count {
                for c in 0..width {
                    want[ids[t] as usize * width + c] += dy[t * width + c];
                }
            }
            let mut dw = vec![9.0; vocab * width];
            backward(&mut dw, &dy, &ids, vocab, width);
            assert_eq!(dw, want);
            dw.fill(0.0);
            add_rows(&mut dw, &dy, &ids, vocab, width);
            assert_eq!(dw, want);
        }
    }

    #[test]
    fn the_same_bits_everywhere() {
        let ids: Vec<u32> = (0..5000u32).map(|i| i.wrapping_mul(2_654_435_761) % 777).collect();
        let dy = narrow(&numbers(5000 * 33, 1.0, 3));
        same_bits(|| {
            let mut dw = vec![9.0; 777 * 33];
            backward(&mut dw, &dy, &ids, 777, 33);
            dw
        });
    }
}
