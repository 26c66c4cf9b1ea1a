//! Picking and adding along an axis: `x` is `[outer, n, inner]`, n the axis; ids are below n.
//!
//! Sums go in the order of j. A task owns a stretch of the output, so the bits do not depend on the
//! threads.

use super::embedding::add_row;
use super::simd::{Kernel, Number, Real, Vector};
use super::threads::{self, CHUNK};

/// `y[o, j, :] = x[o, ids[j], :]`: y `[outer, ids.len(), inner]`.
pub fn index_select<E: Number>(
    y: &mut [E],
    x: &[E],
    ids: &[u32],
    outer: usize,
    n: usize,
    inner: usize,
) {
    assert!(y.len() == outer * ids.len() * inner && x.len() == outer * n * inner);
    if y.is_empty() {
        return;
    }
    let group = (CHUNK / inner).max(1);
    let work = y.len();
    threads::for_chunks(y, group * inner, work, |i, y| {
        for (k, y) in y.chunks_mut(inner).enumerate() {
            let (o, j) = ((i * group + k) / ids.len(), (i * group + k) % ids.len());
            y.copy_from_slice(&x[(o * n + ids[j] as usize) * inner..][..inner]);
        }
    });
}

/// `dx[o, ids[j], :] += dy[o, j, :]`: dy `[outer, ids.len(), inner]`.
pub fn index_add<T: Real>(
    dx: &mut [T],
    dy: &[T],
    ids: &[u32],
    outer: usize,
    n: usize,
    inner: usize,
) {
    assert!(dy.len() == outer * ids.len() * inner && dx.len() == outer * n * inner);
    if dx.is_empty() || dy.is_empty() {
        return;
    }
    threads::for_chunks(dx, n * inner, dy.len(), |o, dx| {
        let dy = &dy[o * ids.len() * inner..][..ids.len() * inner];
        T::dispatch(AddRows { dx, dy, ids, inner });
    });
}

struct AddRows<'a, T> {
    dx: &'a mut [T],
    dy: &'a [T],
    ids: &'a [u32],
    inner: usize,
}

impl<T: Real> Kernel<T> for AddRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let AddRows { dx, dy, ids, inner } = self;
        for (dy, &id) in dy.chunks(inner).zip(ids) {
            add_row::<V>(&mut dx[id as usize * inner..][..inner], dy);
        }
    }
}

/// `y[o, j, i] = x[o, ids[o, j, i], i]`: y and ids `[outer, m, inner]`.
pub fn gather<E: Number>(
    y: &mut [E],
    x: &[E],
    ids: &[u32],
    outer: usize,
    n: usize,
    m: usize,
    inner: usize,
) {
    assert!(y.len() == outer * m * inner && x.len() == outer * n * inner && ids.len() == y.len());
    if y.is_empty() {
        return;
    }
    let slabs = (CHUNK / (m * inner)).max(1);
    let work = 2 * y.len();
    threads::for_chunks(y, slabs * m * inner, work, |i, y| {
        for (k, y) in y.chunks_mut(m * inner).enumerate() {
            let o = i * slabs + k;
            let x = &x[o * n * inner..][..n * inner];
            let ids = ids[o * m * inner..][..m * inner].chunks(inner);
            for (y, ids) in y.chunks_mut(inner).zip(ids) {
                for (i, (y, &id)) in y.iter_mut().zip(ids).enumerate() {
                    *y = x[id as usize * inner + i];
                }
            }
        }
    });
}

/// `y[o, ids[o, j, i], i] += src[o, j, i]`: src and ids `[outer, m, inner]`, y `[outer, n, inner]`.
pub fn scatter_add<T: Real>(
    y: &mut [T],
    src: &[T],
    ids: &[u32],
    outer: usize,
    n: usize,
    m: usize,
    inner: usize,
) {
    assert!(
        src.len() == outer * m * inner && y.len() == outer * n * inner && ids.len() == src.len()
    );
    if y.is_empty() || src.is_empty() {
        return;
    }
    let slabs = (CHUNK / ((n + m) * inner)).max(1);
    let work = 2 * src.len();
    threads::for_chunks(y, slabs * n * inner, work, |i, y| {
        for (k, y) in y.chunks_mut(n * inner).enumerate() {
            let at = (i * slabs + k) * m * inner;
            let added = src[at..at + m * inner].chunks(inner);
            for (src, ids) in added.zip(ids[at..at + m * inner].chunks(inner)) {
                for (i, (&src, &id)) in src.iter().zip(ids).enumerate() {
                    let y = &mut y[id as usize * inner + i];
                    *y = src.fma(T::ONE, *y);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{narrow, numbers};
    use super::*;

    /// (outer, n, m, inner)
    const SHAPES: [(usize, usize, usize, usize); 8] = [
        (1, 1, 1, 1),
        (0, 3, 2, 2),
        (2, 3, 0, 2),
        (2, 3, 4, 0),
        (1, 50, 200, 40),
        (30, 7, 5, 33),
        (100, 20, 30, 1),
        (3, 90, 70, 90),
    ];

    fn ids(count: usize, n: usize) -> Vec<u32> {
        (0..count).map(|i| (i * i * 13 + 5 * i) as u32 % n as u32).collect()
    }

    #[test]
    fn whole_rows_agree_with_plain_loops() {
        for (outer, n, m, inner) in SHAPES {
            let ids = ids(m, n);
            let x = narrow(&numbers(outer * n * inner, 1.0, 1));
            let mut y = vec![9.0; outer * m * inner];
            index_select(&mut y, &x, &ids, outer, n, inner);
            let dy = narrow(&numbers(outer * m * inner, 1.0, 2));
            let mut dx = x.clone();
            index_add(&mut dx, &dy, &ids, outer, n, inner);
            let mut want_dx = x.clone();
            for o in 0..outer {
                for j in 0..m {
                    for i in 0..inner {
                        let from = (o * n + ids[j] as usize) * inner + i;
                        let to = (o * m + j) * inner + i;
                        assert_eq!(y[to], x[from]);
                        want_dx[from] += dy[to];
                    }
                }
            }
            assert_eq!(dx, want_dx);
        }
    }

    #[test]
    fn single_elements_agree_with_plain_loops() {
        for (outer, n, m, inner) in SHAPES {
            let ids = ids(outer * m * inner, n);
            let x = narrow(&numbers(outer * n * inner, 1.0, 1));
            let mut y = vec![9.0; ids.len()];
            gather(&mut y, &x, &ids, outer, n, m, inner);
            let src = narrow(&numbers(ids.len(), 1.0, 2));
            let mut sum = x.clone();
            scatter_add(&mut sum, &src, &ids, outer, n, m, inner);
            let mut want = x.clone();
            for at in 0..ids.len() {
                let (o, i) = (at / (m * inner), at % inner);
                let from = (o * n + ids[at] as usize) * inner + i;
                assert_eq!(y[at], x[from]);
                want[from] += src[at];
            }
            assert_eq!(sum, want);
        }
    }
}
