//! Launches of `kernels/gemm.cu`.

use bytemuck::{Pod, Zeroable};

use super::{pieces, reduce, scratch, tensor_cores};
use crate::cpu::gemm::Precision;
use crate::cuda::gpu::{Arg, Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::gemm::Mat`].
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    /// The elements, from (0, 0) on.
    pub data: Slice<'a, T>,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub col_stride: usize,
}

impl<T> Clone for Epilogue<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Epilogue<'_, T> {}

/// As [`crate::cpu::gemm::Epilogue`].
pub enum Epilogue<'a, T> {
    /// Nothing.
    None,
    /// Adds `bias[j]` to column j.
    Bias(Slice<'a, T>),
}

/// The `Matrix` of `kernels/gemm.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Matrix {
    data: u64,
    row: u64,
    col: u64,
    batch: u64,
}

impl Matrix {
    fn new<T>(mat: &Mat<'_, T>, batch: usize, first: usize) -> Matrix {
        Matrix {
            data: mat.data.address + (first * batch * size_of::<T>()) as u64,
            row: mat.row_stride as u64,
            col: mat.col_stride as u64,
            batch: batch as u64,
        }
    }
}

/// As [`crate::cpu::gemm::gemm`].
pub fn gemm<T>(
    c: SliceMut<'_, T>,
    ldc: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    product(c, 0, ldc, a, 0, b, 0, 1, m, n, k, accumulate, epilogue);
}

/// As [`crate::cpu::gemm::gemm_at`]; the GPU has one way to multiply.
pub fn gemm_at<T>(
    _: Precision,
    c: SliceMut<'_, T>,
    ldc: usize,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    gemm(c, ldc, a, b, m, n, k, accumulate, epilogue);
}

/// As [`crate::cpu::gemm::gemm_batched`].
pub fn gemm_batched<T>(
    c: SliceMut<'_, T>,
    c_stride: usize,
    ldc: usize,
    a: Mat<'_, T>,
    a_stride: usize,
    b: Mat<'_, T>,
    b_stride: usize,
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    let none = Epilogue::None;
    product(c, c_stride, ldc, a, a_stride, b, b_stride, count, m, n, k, accumulate, none);
}

fn product<T>(
    mut c: SliceMut<'_, T>,
    c_stride: usize,
    ldc: usize,
    a: Mat<'_, T>,
    a_stride: usize,
    b: Mat<'_, T>,
    b_stride: usize,
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    if k > 0 && (a.data.gpu.is_none() || b.data.gpu.is_none()) {
        return launch("gemm", Grid::rows(1), &[Arg::Elsewhere]);
    }
    let bias = match epilogue {
        Epilogue::None => None,
        Epilogue::Bias(bias) => Some(bias),
    };
    let tiles = |tile: usize| count * m.div_ceil(tile) * n.div_ceil(tile);
    let (name, tile) = match tensor_cores() {
        true => ("gemm_mma", 128),
        // The large tile needs enough of C to keep the device busy.
        false if tiles(128) >= 96 => ("gemm_128", 128),
        false => ("gemm_64", 64),
    };
    let (splits, piece) = match tiles(tile) {
        n if n < 96
            && k >= 1024
            && count == 1
            && !accumulate
            && bias.is_none()
            && c.len() >= m * ldc =>
        {
            pieces(k, n)
        }
        _ => (1, 0),
    };
    let grid = |z: usize| Grid::blocks([n.div_ceil(tile), m.div_ceil(tile), z], [256, 1, 1]);
    if splits > 1 && ldc == n {
        let Some(buffer) = scratch(c.gpu, splits * m * n * size_of::<T>()) else { return };
        let parts = buffer.slice_mut::<T>(0, splits * m * n);
        let (a, b) = (Matrix::new(&a, 0, 0), Matrix::new(&b, 0, 0));
        let (a, b) = (Arg::Bytes(bytemuck::bytes_of(&a)), Arg::Bytes(bytemuck::bytes_of(&b)));
        let arguments = args![&parts, m * n, n, a, b, m, n, k, piece, 0u32, Arg::Null];
        launch(name, grid(splits), arguments);
        return reduce::add_rows(c, parts.read(), splits, m * n);
    }
    for first in (0..count).step_by(65_535) {
        let c = c.from(first * c_stride);
        let (a, b) = (Matrix::new(&a, a_stride, first), Matrix::new(&b, b_stride, first));
        let (a, b) = (Arg::Bytes(bytemuck::bytes_of(&a)), Arg::Bytes(bytemuck::bytes_of(&b)));
        let accumulate = u32::from(accumulate);
        let arguments = args![&c, c_stride, ldc, a, b, m, n, k, 0usize, accumulate, bias];
        launch(name, grid((count - first).min(65_535)), arguments);
    }
}
