//! Attention with products of bf16 in [tiles](crate::cpu::gemm::Tiles), where `medium` precision allows them and the
//! machine has them: on AMX 32 × 32 × 64 take 128 cycles, so that most of the time is the softmax's.
//!
//! The formulas are those of [`forward`](super::forward) and [`backward`](super::backward). Both go by rows of
//! queries, so that operands come out of the softmax as tiles want them: P or dS, key beside key, are rows of A; two
//! rows of them interleaved are a row of B. Scores never leave the nearest caches.
//!
//! ```text
//! forward        S = Q Kᵀ     O += P V
//! backward       S = Q Kᵀ     dP = dO Vᵀ     dQ += dS K     dVᵀ += dOᵀ P     dKᵀ += Qᵀ dS
//! ```
//!
//! Operands are rounded to bf16, P and dS among them; sums, maxima, `lse` and δ are f32.

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;

use super::{Input, Options, Shape, count_from};
use crate::cpu::gemm::{Mat, Precision, SIDE, Sums, Tiles, Unit, product_in_tiles};
use crate::cpu::simd::{LANES, Real, Vector, inlined};

/// Queries of a block of backward.
pub(super) const QUERIES: usize = 4 * SIDE;

/// Keys of a block.
pub(super) const KEYS: usize = 8 * SIDE;

/// Elements of [`Sums`].
const BLOCK: usize = SIDE * SIDE;

/// The tiles for an attention of this shape, if it is to use some. The shape decides, not the cut into tasks.
pub(super) fn tiles<T: Real>(shape: &Shape, options: &Options<'_>) -> Option<Tiles> {
    #[cfg(test)]
    if let Some(tiles) = ON.get() {
        return Some(tiles);
    }
    let fills = shape.tq.min(shape.tk) >= SIDE && shape.d >= LANES;
    if options.precision == Precision::Medium && fills { Tiles::find::<T>() } else { None }
}

#[cfg(test)]
thread_local! {
    /// The tiles that a test wants, whatever the shape.
    pub(super) static ON: std::cell::Cell<Option<Tiles>> = const { std::cell::Cell::new(None) };
}

/// T is f32: [`Tiles`] are for nothing else.
#[inline(always)]
fn narrow<T: Real>(data: &[T]) -> &[f32] {
    bytemuck::cast_slice(data)
}

/// Rows of a head as a matrix; with `copy`, those for which `hide` is true as zeros.
#[inline(always)]
fn rows<'a, T: Real>(
    input: &Input<'a, T>,
    at: (usize, usize),
    (first, end): (usize, usize),
    d: usize,
    copy: &'a mut [f32],
    hide: impl Fn(usize) -> bool,
) -> Mat<'a, f32> {
    if copy.is_empty() {
        return matrix(input, at, first);
    }
    for (r, to) in (first..end).zip(copy.chunks_exact_mut(d)) {
        if hide(r) {
            to.fill(0.0);
        } else {
            to.copy_from_slice(narrow(input.row(at, r, d)));
        }
    }
    Mat { data: copy, row_stride: d, col_stride: 1 }
}

/// Rows of a head from `first` on.
#[inline(always)]
fn matrix<'a, T: Real>(input: &Input<'a, T>, at: (usize, usize), first: usize) -> Mat<'a, f32> {
    let Mat { data, row_stride, col_stride } = input.matrix(at, first);
    Mat { data: narrow(data), row_stride, col_stride }
}

#[inline(always)]
fn transposed(x: Mat<'_, f32>) -> Mat<'_, f32> {
    Mat { data: x.data, row_stride: x.col_stride, col_stride: x.row_stride }
}

/// 1 for each key of `first..end` that is seen, 0 for padding.
#[inline(always)]
fn mark(seen: &mut [f32], shape: &Shape, options: &Options<'_>, b: usize, first: usize) {
    for (j, seen) in seen.iter_mut().enumerate() {
        let key = first + j;
        *seen = if key < shape.tk && !options.padded(shape, b, key) { 1.0 } else { 0.0 };
    }
}

/// `x` where keys `key..` of a row are before `limit` and, with padding, seen; else `other`.
#[inline(always)]
fn masked<V: Vector<Elem = f32>>(
    x: V,
    key: usize,
    limit: usize,
    seen: Option<&[f32]>,
    other: V,
) -> V {
    let mut x = x;
    if key + LANES > limit {
        x = V::select(count_from::<V>(key).lt(V::constant(limit as f64)), x, other);
    }
    match seen {
        Some(seen) => V::select(V::load(&seen[key..]).eq(V::splat(1.0)), x, other),
        None => x,
    }
}

/// [`Sums`] in working memory, which is aligned as they are.
#[inline(always)]
fn block_of(room: &mut [f32]) -> &mut Sums {
    bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(room))
}

/// Row r of blocks side by side, times `by`, into a row of an output.
#[inline(always)]
fn write_row<V: Vector<Elem = f32>>(out: &mut [f32], blocks: &[f32], r: usize, by: V) {
    for (i, to) in out.chunks_mut(LANES).enumerate() {
        let from = i * LANES / SIDE * BLOCK + r * SIDE + i * LANES % SIDE;
        V::load(&blocks[from..]).mul(by).store_part(to);
    }
}

/// `sums += A B`.
#[inline(always)]
fn add_product<U: Unit>(sums: &mut [f32], a: &[f32], b: &[f32], steps: usize, more: &mut Sums) {
    product_in_tiles::<U>(a, b, steps, more);
    for (sum, more) in sums.chunks_exact_mut(LANES).zip(more.0.chunks_exact(LANES)) {
        U::V::load(sum).add(U::V::load(more)).store(sum);
    }
}

/// Swaps rows and columns of a block.
#[inline(always)]
fn transpose<V: Vector<Elem = f32>>(block: &mut [f32]) {
    let square = inlined(
        #[inline(always)]
        |block: &[f32], (row, col): (usize, usize)| {
            let mut square = [V::zero(); LANES];
            for (i, x) in square.iter_mut().enumerate() {
                *x = V::load(&block[(row + i) * SIDE + col..]);
            }
            V::transpose(&mut square);
            square
        },
    );
    let put = inlined(
        #[inline(always)]
        |block: &mut [f32], (row, col): (usize, usize), square: [V; LANES]| {
            for (i, x) in square.into_iter().enumerate() {
                x.store(&mut block[(row + i) * SIDE + col..]);
            }
        },
    );
    for at in [0, LANES] {
        let turned = square(block, (at, at));
        put(block, (at, at), turned);
    }
    let (below, beside) = (square(block, (LANES, 0)), square(block, (0, LANES)));
    put(block, (0, LANES), below);
    put(block, (LANES, 0), beside);
}
