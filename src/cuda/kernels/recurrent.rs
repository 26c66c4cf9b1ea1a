//! What the three recurrences share: the order of the steps and the products around the cells.
//!
//! A step is a product of [`super::gemm`] and a cell kernel; dW_hh is one product over all steps at the
//! end, as on the CPU.

use super::gemm::{self, Epilogue, Mat};
use crate::cuda::{Slice, SliceMut};

/// The shape of a sequence and the order of its steps.
#[derive(Clone, Copy)]
pub(super) struct Sequence {
    pub(super) t: usize,
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) reverse: bool,
}

impl Sequence {
    /// The time of step `i`.
    pub(super) fn time(&self, i: usize) -> usize {
        if self.reverse { self.t - 1 - i } else { i }
    }

    /// Of x `[t, b, width]` everything from time `time` on.
    pub(super) fn at<'a, T>(&self, x: Slice<'a, T>, time: usize, width: usize) -> Slice<'a, T> {
        x.from(time * self.b * width)
    }

    /// The state before step `i`: y `[t, b, h]` at the time before, or the initial one.
    pub(super) fn before<'a, T>(
        &self,
        y: Slice<'a, T>,
        h0: Slice<'a, T>,
        i: usize,
    ) -> Slice<'a, T> {
        match i {
            0 => h0,
            _ => self.at(y, self.time(i - 1), self.h),
        }
    }

    /// `z = h Wᵀ`: z `[b, gates · h]`.
    pub(super) fn forward<T>(&self, z: SliceMut<T>, h: Slice<T>, w: Slice<T>, gates: usize) {
        let (wide, h_rows) = (gates * self.h, Mat { data: h, row_stride: self.h, col_stride: 1 });
        let w = Mat { data: w, row_stride: 1, col_stride: self.h };
        gemm::gemm(z, wide, h_rows, w, self.b, wide, self.h, false, Epilogue::None);
    }

    /// `dh = dz W`, or `dh += dz W`: dz `[b, gates · h]`.
    pub(super) fn backward<T>(
        &self,
        dh: SliceMut<T>,
        dz: Slice<T>,
        w: Slice<T>,
        gates: usize,
        accumulate: bool,
    ) {
        let wide = gates * self.h;
        let dz = Mat { data: dz, row_stride: wide, col_stride: 1 };
        let w = Mat { data: w, row_stride: self.h, col_stride: 1 };
        gemm::gemm(dh, self.h, dz, w, self.b, self.h, wide, accumulate, Epilogue::None);
    }

    /// `dw = Σ_t dz_tᵀ h_{t−1}`: dz `[t, b, gates · h]`, y `[t, b, h]`.
    pub(super) fn weight_gradient<T>(
        &self,
        mut dw: SliceMut<T>,
        gates: usize,
        dz: Slice<T>,
        y: Slice<T>,
        h0: Slice<T>,
    ) {
        let Sequence { t, b, h, reverse } = *self;
        let wide = gates * h;
        // In time, y lies one step before dz, or after it in reverse.
        let (dz_from, y_from) = if reverse { (0, 1) } else { (1, 0) };
        let across =
            |time: usize| Mat { data: self.at(dz, time, wide), row_stride: 1, col_stride: wide };
        let down = |data| Mat { data, row_stride: h, col_stride: 1 };
        let (states, later) = (down(self.at(y, y_from, h)), t.saturating_sub(1) * b);
        let none = Epilogue::None;
        gemm::gemm(dw.from(0), h, across(dz_from), states, wide, h, later, false, none);
        if t > 0 {
            let first = if reverse { t - 1 } else { 0 };
            gemm::gemm(dw, h, across(first), down(h0), wide, h, b, true, Epilogue::None);
        }
    }
}
