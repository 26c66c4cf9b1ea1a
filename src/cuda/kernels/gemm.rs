//! Launches of `kernels/gemm.cu` and, for products of bf16, of `kernels/gemm_bf16.cu`.

use bytemuck::{Pod, Zeroable};

use half::bf16;

use super::{pieces, reduce, scratch};
use crate::cpu::gemm::Precision;
use crate::cuda::Buffer;
use crate::cuda::launch::{Arg, Grid, args, launch};
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

/// As [`crate::cpu::gemm::Factor`]: here all of it is of one type.
pub use Mat as Factor;

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

impl<'a, T> Epilogue<'a, T> {
    fn bias(self) -> Option<Slice<'a, T>> {
        match self {
            Epilogue::None => None,
            Epilogue::Bias(bias) => Some(bias),
        }
    }
}

/// Below this many multiply-adds products are not worth rounding.
const ROUNDED_FROM: usize = 1 << 15;

/// Shared memory of a block of `kernels/gemm_bf16.cu`: four pairs of tiles of 128 × 32 bf16.
const STAGES: usize = 4 * 2 * 128 * 32 * 2;

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

impl<T> Mat<'_, T> {
    /// Whether neighbours along a row are neighbours in memory.
    fn rows_are_dense(&self) -> bool {
        self.col_stride == 1 || self.row_stride != 1
    }
}

/// The `Packed` of `kernels/gemm_bf16.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Packed {
    data: u64,
    outer: u64,
    pitch: u64,
    batch: u64,
}

/// A matrix of `rows` × `cols` (a batch of `count`) as bf16 in memory of its own, dense along the axis
/// along which it is.
fn pack<T>(
    mat: &Mat<'_, T>,
    batch: usize,
    count: usize,
    rows: usize,
    cols: usize,
) -> Option<(Packed, Buffer)> {
    let count = if batch == 0 { 1 } else { count };
    let (outer, inner, outer_stride, inner_stride) = match mat.rows_are_dense() {
        true => (rows, cols, mat.row_stride, mat.col_stride),
        false => (cols, rows, mat.col_stride, mat.row_stride),
    };
    let pitch = inner.next_multiple_of(8);
    let one = outer * pitch;
    let buffer = scratch(mat.data.gpu, count * one * size_of::<bf16>())?;
    let out = buffer.slice_mut::<bf16>(0, count * one);
    let (x, grid) = (mat.data, Grid::each(count * one / 8));
    let strides = (outer_stride, inner_stride, batch);
    let sizes = (outer, inner, pitch);
    let arguments =
        args![&out, x, sizes.0, sizes.1, sizes.2, strides.0, strides.1, strides.2, count];
    launch("gemm_bf16_pack", grid, arguments);
    let batch = if batch == 0 { 0 } else { one as u64 };
    Some((
        Packed { data: buffer.address(), outer: outer as u64, pitch: pitch as u64, batch },
        buffer,
    ))
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
    gemm_at(Precision::Highest, c, ldc, a, b, m, n, k, accumulate, epilogue);
}

/// As [`crate::cpu::gemm::gemm_at`].
pub fn gemm_at<T>(
    precision: Precision,
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
    let whole = Whole { count: 1, m, n, k, ldc, c_stride: 0, accumulate };
    let work = m.saturating_mul(n).saturating_mul(k);
    if precision == Precision::Medium && m.min(n).min(k) > 1 && work >= ROUNDED_FROM {
        whole.on_tensor_cores(c, (a, 0), (b, 0), epilogue);
    } else {
        whole.in_f32(c, (a, 0), (b, 0), epilogue);
    }
}

/// As [`crate::cpu::gemm::gemm_to`].
pub fn gemm_to<T>(
    precision: Precision,
    c: SliceMut<'_, T>,
    a: Factor<'_, T>,
    b: Factor<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    epilogue: Epilogue<'_, T>,
) {
    gemm_at(precision, c, n, a, b, m, n, k, false, epilogue);
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
    let whole = Whole { count, m, n, k, ldc, c_stride, accumulate };
    whole.in_f32(c, (a, a_stride), (b, b_stride), Epilogue::None);
}

/// Blocks along z in one launch.
const MOST: usize = 65_535;

/// The sizes of a product or a batch of them.
#[derive(Clone, Copy)]
struct Whole {
    count: usize,
    m: usize,
    n: usize,
    k: usize,
    ldc: usize,
    c_stride: usize,
    accumulate: bool,
}

impl Whole {
    fn tiles(&self, tile: usize) -> usize {
        self.count * self.m.div_ceil(tile) * self.n.div_ceil(tile)
    }

    fn grid(&self, tile: usize, z: usize) -> Grid {
        Grid::blocks([self.n.div_ceil(tile), self.m.div_ceil(tile), z], [256, 1, 1])
    }

    /// Pieces of k and their length (a multiple of 32): more than one where there are few tiles and k is long.
    fn cut(&self, tile: usize, bias: bool) -> (usize, usize) {
        let Whole { count, n, k, ldc, accumulate, .. } = *self;
        let tiles = self.tiles(tile);
        if tiles >= 96 || k < 1024 || count != 1 || accumulate || bias || ldc != n {
            return (1, 0);
        }
        let (_, piece) = pieces(k, tiles);
        let piece = piece.next_multiple_of(32);
        (k.div_ceil(piece), piece)
    }

    /// Launches `name`, with `shared` bytes of shared memory, as often as it takes, and adds the parts where k was
    /// cut; `operands(first)` are A and B from one of the batch on.
    fn run<T, M: Pod>(
        &self,
        (name, tile, shared): (&'static str, usize, usize),
        mut c: SliceMut<'_, T>,
        bias: Option<Slice<'_, T>>,
        operands: impl Fn(usize) -> (M, M),
    ) {
        let Whole { count, m, n, k, ldc, c_stride, accumulate } = *self;
        let start = |c: Slice<T>, c_stride: usize, z: usize, first: usize, piece: usize| {
            let (a, b) = operands(first);
            let (a, b) = (Arg::Bytes(bytemuck::bytes_of(&a)), Arg::Bytes(bytemuck::bytes_of(&b)));
            let accumulate = u32::from(accumulate);
            let arguments = args![c, c_stride, ldc, a, b, m, n, k, piece, accumulate, bias];
            launch(name, self.grid(tile, z).shared(shared), arguments);
        };
        let (splits, piece) = self.cut(tile, bias.is_some());
        if splits > 1 {
            let Some(buffer) = scratch(c.gpu, splits * m * n * size_of::<T>()) else { return };
            let parts = buffer.slice::<T>(0, splits * m * n);
            start(parts, m * n, splits, 0, piece);
            return reduce::add_rows(c, parts, splits, m * n);
        }
        for first in (0..count).step_by(MOST) {
            let some = MOST.min(count - first);
            start(c.from(first * c_stride).read(), c_stride, some, first, 0);
        }
    }

    fn in_f32<T>(
        &self,
        c: SliceMut<'_, T>,
        (a, a_stride): (Mat<'_, T>, usize),
        (b, b_stride): (Mat<'_, T>, usize),
        epilogue: Epilogue<'_, T>,
    ) {
        if self.k > 0 && (a.data.gpu.is_none() || b.data.gpu.is_none()) {
            return launch("gemm", Grid::rows(1), &[Arg::Elsewhere]);
        }
        // The large tile needs enough of C to keep the device busy.
        let (name, tile) = if self.tiles(128) >= 96 { ("gemm_128", 128) } else { ("gemm_64", 64) };
        self.run((name, tile, 0), c, epilogue.bias(), |first| {
            (Matrix::new(&a, a_stride, first), Matrix::new(&b, b_stride, first))
        });
    }

    fn on_tensor_cores<T>(
        &self,
        c: SliceMut<'_, T>,
        (a, a_stride): (Mat<'_, T>, usize),
        (b, b_stride): (Mat<'_, T>, usize),
        epilogue: Epilogue<'_, T>,
    ) {
        let Whole { count, m, n, k, .. } = *self;
        let name = match (a.rows_are_dense(), b.rows_are_dense()) {
            (true, true) => "gemm_bf16_nn",
            (true, false) => "gemm_bf16_nt",
            (false, true) => "gemm_bf16_tn",
            (false, false) => "gemm_bf16_tt",
        };
        let Some((a, _a)) = pack(&a, a_stride, count, m, k) else { return };
        let Some((b, _b)) = pack(&b, b_stride, count, k, n) else { return };
        self.run((name, 128, STAGES), c, epilogue.bias(), |first| {
            let at = |x: Packed| Packed { data: x.data + 2 * first as u64 * x.batch, ..x };
            (at(a), at(b))
        });
    }
}
