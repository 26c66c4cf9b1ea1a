//! A matrix B packed once for many products with it: the weights of a recurrence, which meets them
//! again at every step.

use super::factor::Start;
use super::micro::{Block, block, tile_size};
use super::pack::{Source, pack, room};
use super::{KC, Mat, PIECE};
use crate::cpu::simd::{Real, Shared};
use crate::cpu::threads;

/// B `[k, n]` in panels, block of k after block of k. The sums are those of [`super::gemm`], bit for bit.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T> {
    data: &'a [T],
    k: usize,
    n: usize,
    /// Columns of a panel.
    width: usize,
}

/// No panel has more columns than this on any instruction set.
const WIDEST: usize = 64;

impl<'a, T: Real> Panels<'a, T> {
    /// Elements that [`Panels::pack`] needs for B `[k, n]`.
    pub(crate) fn room(k: usize, n: usize) -> usize {
        k.div_ceil(KC) * room(n.next_multiple_of(WIDEST), KC.min(k), 1)
    }

    /// Packs `b` into `dst`.
    ///
    /// # Panics
    /// When `b` or `dst` is too short.
    pub(crate) fn pack(dst: &'a mut [T], b: Mat<'_, T>, k: usize, n: usize) -> Panels<'a, T> {
        b.check("B", (1, 0), k, n);
        let width = tile_size::<T>().1;
        let size = room(n, KC.min(k), width);
        if n > 0 && k > 0 {
            for (dst, from) in dst.chunks_exact_mut(size).zip((0..k).step_by(KC)) {
                let data = Start::Own(b.data.as_ptr().wrapping_add(from * b.row_stride));
                let (lane, step) = (b.col_stride, b.row_stride);
                let source = Source { data, lane, step, lanes: n, k: KC.min(k - from) };
                // SAFETY: these rows and columns are inside `b`, which has just been checked.
                unsafe { pack(dst, source, width) };
            }
        }
        Panels { data: &dst[..k.div_ceil(KC) * size], k, n, width }
    }

    /// `C = A B`, or `C += A B` with `add`; on several threads, cut by columns, where none of them is at work already.
    /// A is `[m, k]`, C dense `[m, n]`.
    ///
    /// # Panics
    /// When a slice is too short for its shape and strides.
    pub(crate) fn product(&self, c: &mut [T], a: Mat<'_, T>, m: usize, add: bool) {
        let n = self.n;
        if m == 0 || n == 0 {
            return;
        }
        assert!(m * n <= c.len(), "C: [{m}, {n}] does not fit");
        a.check("A", (1, 0), m, self.k);
        if self.k == 0 && !add {
            c[..m * n].fill(T::ZERO);
        }
        let c = Shared::new(c);
        let work = m.saturating_mul(n).saturating_mul(self.k);
        // One piece a thread: so it finds what it read at the last step still near.
        let together = work >= PIECE && threads::worth_it(work);
        let pieces = if together { rayon::current_num_threads() } else { 1 };
        let cols = n.div_ceil(pieces).next_multiple_of(self.width);
        threads::for_each(n.div_ceil(cols), work, |i| {
            let from = i * cols;
            self.columns(c, a, m, add, (from, cols.min(n - from)));
        });
    }

    /// The columns `first..first + cols` of the product; `first` begins a panel.
    fn columns(
        &self,
        c: Shared<T>,
        a: Mat<'_, T>,
        m: usize,
        add: bool,
        (first, cols): (usize, usize),
    ) {
        // Tiles of equal height: sixteen rows are 8 + 8, not 14 + 2.
        let tiles = m.div_ceil(tile_size::<T>().0);
        let a_width = m.div_ceil(tiles);
        let size = room(self.n, KC.min(self.k), self.width);
        for (i, from) in (0..self.k).step_by(KC).enumerate() {
            let depth = KC.min(self.k - from);
            let panels = &self.data[i * size..(i + 1) * size];
            let operands = Block {
                a: a.data.as_ptr().wrapping_add(from * a.col_stride),
                a_row: a.row_stride,
                a_col: a.col_stride,
                a_width,
                a_panel: a_width * a.row_stride,
                b: panels[first * depth..].as_ptr(),
                b_row: self.width,
                b_width: self.width,
                b_panel: self.width * depth,
                b_padded: true,
                b_far: true,
                c_far: false,
                c: c.pointer(first),
                rounded: None,
                ldc: self.n,
                m,
                n: cols,
                k: depth,
                add: add || from > 0,
                bias: None,
            };
            // SAFETY: `product` has checked A and C, which it has borrowed for writing; the panels are whole and
            // padded, and no other task has these columns.
            unsafe { block(operands) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Epilogue, gemm};
    use super::*;
    use crate::cpu::rows::testing::{narrow, numbers};

    #[test]
    fn gives_the_bits_of_the_plain_product() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 2),
            (16, 96, 40),
            (17, 130, 300),
            (6, 64, 512),
            (33, 700, 90),
            (2, 3, 0),
        ] {
            let a = narrow(&numbers(m * k, 1.0, 1));
            let b = narrow(&numbers(k * n, 1.0, 2));
            let before = narrow(&numbers(m * n, 1.0, 3));
            let a = Mat { data: &a, row_stride: k, col_stride: 1 };
            for (row_stride, col_stride) in [(n, 1), (1, k)] {
                let b = Mat { data: &b, row_stride, col_stride };
                let mut dst = vec![f32::NAN; Panels::<f32>::room(k, n)];
                let panels = Panels::pack(&mut dst, b, k, n);
                for add in [false, true] {
                    let (mut want, mut got) = (before.clone(), before.clone());
                    gemm(&mut want, n, a, b, m, n, k, add, Epilogue::None);
                    panels.product(&mut got, a, m, add);
                    assert_eq!(got, want, "{m} × {n} × {k}");
                }
            }
        }
    }
}
