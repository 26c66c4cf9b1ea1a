//! Moving elements: strided copies in and out, and conversions between types.
//!
//! A copy gathers a strided view into row-major order; a scatter is its inverse. Rows that lie dense in both
//! are moved whole. A transpose, where the input is dense along another axis than the output, goes by
//! blocks of 16 × 16, so that each cache line that is fetched is used up.

use std::any::TypeId;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::simd::{Kernel, Number, Real, Vector, round_row};
use super::threads::{self, CHUNK};
use super::walk::Walk;

/// Side of the blocks in which transposes go.
const BLOCK: usize = 16;

/// Gathers `src`, read with one stride an axis of `shape`, into contiguous `out`.
pub fn copy<E: Number>(out: &mut [E], src: &[E], strides: &[usize], shape: &[usize]) {
    let walk = Walk::new(shape, [strides]);
    if out.is_empty() {
        return;
    }
    if walk.steps[0] > 1 && transposed(out, src, &walk) {
        return;
    }
    let work = out.len();
    let step = walk.steps[0];
    threads::for_chunks(out, CHUNK, work, |i, out| {
        let begin = i * CHUNK;
        for (piece, [start]) in walk.pieces(begin, begin + out.len()) {
            let (out, src) = (&mut out[piece], &src[start..]);
            match step {
                0 => out.fill(src[0]),
                1 => out.copy_from_slice(&src[..out.len()]),
                _ => out.iter_mut().zip(src.iter().step_by(step)).for_each(|(o, &x)| *o = x),
            }
        }
    });
}

/// The copy of a view that is dense along an axis above its rows. False where there is no such axis.
fn transposed<E: Number>(out: &mut [E], src: &[E], walk: &Walk<1>) -> bool {
    let axes: smallvec::SmallVec<[(usize, usize); 6]> =
        walk.axes().map(|(size, [step])| (size, step)).collect();
    let last = axes.len() - 1;
    let Some(dense) = axes[..last].iter().position(|&(_, step)| step == 1) else {
        return false;
    };
    // out: [above, dense, between, row]; a strip is BLOCK indices of the dense axis.
    let size = axes[dense].0;
    let inner: usize = axes[dense + 1..].iter().map(|&(size, _)| size).product();
    let offset = |mut index: usize, axes: &[(usize, usize)]| {
        let mut at = 0;
        for &(size, step) in axes.iter().rev() {
            at += index % size * step;
            index /= size;
        }
        at
    };
    let (row, step) = axes[last];
    let between = inner / row;
    let strip = |start: usize, out: &mut [E]| {
        let n = out.len() / inner; // indices of the dense axis
        for b in 0..between {
            let src = &src[start + offset(b, &axes[dense + 1..last])..];
            for first in (0..row).step_by(BLOCK) {
                let width = BLOCK.min(row - first);
                // By way of a small square: lines a power of two apart would push each other out
                // of the cache.
                let mut square = [[src[0]; BLOCK]; BLOCK];
                for (k, line) in square[..width].iter_mut().enumerate() {
                    line[..n].copy_from_slice(&src[(first + k) * step..][..n]);
                }
                for j in 0..n {
                    let out = &mut out[j * inner + b * row + first..][..width];
                    out.iter_mut().zip(&square).for_each(|(o, line)| *o = line[j]);
                }
            }
        }
    };
    let work = 2 * out.len();
    let slab = |index: usize, out: &mut [E]| {
        let start = offset(index, &axes[..dense]);
        out.chunks_mut(BLOCK * inner).enumerate().for_each(|(s, o)| strip(start + s * BLOCK, o));
    };
    if out.len() / (size * inner) >= 8 {
        threads::for_chunks(out, size * inner, work, slab);
    } else {
        for (index, out) in out.chunks_mut(size * inner).enumerate() {
            let start = offset(index, &axes[..dense]);
            threads::for_chunks(out, BLOCK * inner, work, |s, o| strip(start + s * BLOCK, o));
        }
    }
    true
}

/// Writes contiguous `src` of `shape` into `dst` with one stride an axis. Elements of `dst` that the
/// strides do not name keep their values.
pub fn scatter<E: Number>(dst: &mut [E], strides: &[usize], src: &[E], shape: &[usize]) {
    let walk = Walk::new(shape, [strides]);
    if src.is_empty() {
        return;
    }
    // Where each index of the outermost axis owns a stretch of dst, the stretches go side by side.
    let (outer, stride) = walk.axes().next().map_or((1, 0), |(size, [step])| (size, step));
    let inner = src.len() / outer;
    let reach: usize = walk.axes().skip(1).map(|(size, [step])| (size - 1) * step).sum();
    if walk.rows > 1 && stride > reach {
        let group = (CHUNK / inner).max(1);
        let owned = dst.len().min(outer * stride);
        threads::for_chunks(&mut dst[..owned], group * stride, src.len(), |i, dst| {
            let begin = i * group * inner;
            let end = src.len().min(begin + group * inner);
            write(dst, i * group * stride, src, &walk, begin, end);
        });
    } else if walk.rows == 1 && walk.steps[0] == 1 {
        threads::for_chunks(&mut dst[..src.len()], CHUNK, src.len(), |i, dst| {
            dst.copy_from_slice(&src[i * CHUNK..][..dst.len()]);
        });
    } else {
        write(dst, 0, src, &walk, 0, src.len());
    }
}

/// Writes the elements `begin..end` of `src`; `dst` starts at offset `base` of the whole.
fn write<E: Number>(
    dst: &mut [E],
    base: usize,
    src: &[E],
    walk: &Walk<1>,
    begin: usize,
    end: usize,
) {
    let src = &src[begin..end];
    let step = walk.steps[0];
    for (piece, [start]) in walk.pieces(begin, end) {
        let (src, dst) = (&src[piece], &mut dst[start - base..]);
        match step {
            0 => dst[0] = src[src.len() - 1],
            1 => dst[..src.len()].copy_from_slice(src),
            _ => dst.iter_mut().step_by(step).zip(src).for_each(|(d, &x)| *d = x),
        }
    }
}

/// Converts each element, rounded to nearest even once; to `u32` the fraction is cut off.
pub fn cast<A: Number, B: Number>(out: &mut [B], src: &[A]) {
    assert_eq!(out.len(), src.len());
    let work = out.len();
    threads::for_chunks(out, CHUNK, work, |i, out| {
        let src = &src[i * CHUNK..][..out.len()];
        cast_chunk(out, src);
    });
}

fn is<A: 'static, B: 'static>() -> bool {
    TypeId::of::<A>() == TypeId::of::<B>()
}

/// The pairs that training converts all the time go straight, everything else by way of `f64`.
fn cast_chunk<A: Number, B: Number>(out: &mut [B], src: &[A]) {
    if is::<A, B>() {
        out.copy_from_slice(bytemuck::cast_slice(src));
    } else if is::<A, f32>() && is::<B, bf16>() {
        let (out, src) = (bytemuck::cast_slice_mut(out), bytemuck::cast_slice(src));
        f32::dispatch(Round { out, src });
    } else if is::<A, bf16>() && is::<B, f32>() {
        let (out, src): (&mut [f32], &[bf16]) =
            (bytemuck::cast_slice_mut(out), bytemuck::cast_slice(src));
        out.iter_mut().zip(src).for_each(|(o, &x)| *o = f32::from_bf16(x));
    } else if is::<A, f32>() && is::<B, f16>() {
        let out: &mut [f16] = bytemuck::cast_slice_mut(out);
        out.convert_from_f32_slice(bytemuck::cast_slice(src));
    } else if is::<A, f16>() && is::<B, f32>() {
        let src: &[f16] = bytemuck::cast_slice(src);
        src.convert_to_f32_slice(bytemuck::cast_slice_mut(out));
    } else {
        out.iter_mut().zip(src).for_each(|(o, &x)| *o = B::from_f64(x.to_f64()));
    }
}

/// `f32` to the nearest `bf16`.
struct Round<'a> {
    out: &'a mut [bf16],
    src: &'a [f32],
}

impl Kernel<f32> for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        round_row::<V>(self.out, self.src);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{narrow, numbers};
    use super::super::simd::at_every_level;
    use super::*;

    fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
        (0..shape.iter().product())
            .map(|mut flat: usize| {
                let mut at = 0;
                for axis in (0..shape.len()).rev() {
                    at += flat % shape[axis] * strides[axis];
                    flat /= shape[axis];
                }
                at
            })
            .collect()
    }

    const LAYOUTS: [(&[usize], &[usize]); 16] = [
        (&[], &[]),
        (&[0, 5], &[5, 1]),
        (&[5, 0], &[1, 1]),
        (&[50_000], &[1]),
        (&[30_000], &[3]),
        (&[100, 30], &[0, 1]),
        (&[100, 30], &[1, 0]),
        (&[100, 30], &[64, 1]),
        (&[37, 45], &[1, 37]),
        (&[400, 300], &[1, 400]),
        (&[3, 130, 70], &[9100, 1, 130]),
        (&[20, 33, 65], &[2145, 1, 33]),
        (&[6, 5, 40, 8], &[320, 1920, 8, 1]), // [B, T, H, D] to [B, H, T, D] and the like
        (&[17, 5, 33], &[1, 17 * 33, 17]),
        (&[17, 6, 5, 33], &[1, 17 * 33, 3366, 17]),
        (&[9, 1, 7], &[2, 1000, 63]),
    ];

    fn check<E: Number + PartialEq + std::fmt::Debug + Default>(from: fn(usize) -> E) {
        let data: Vec<E> = (0..130_000).map(from).collect();
        for (shape, strides) in LAYOUTS {
            let offsets = offsets(shape, strides);
            let mut out = vec![E::default(); offsets.len()];
            copy(&mut out, &data, strides, shape);
            let want: Vec<E> = offsets.iter().map(|&at| data[at]).collect();
            assert!(out == want, "copy {shape:?} {strides:?}");

            let length = offsets.iter().max().map_or(0, |&at| at + 1);
            let mut dst = vec![E::default(); length];
            let mut want = dst.clone();
            let src = &data[..offsets.len()];
            scatter(&mut dst, strides, src, shape);
            offsets.iter().zip(src).for_each(|(&at, &x)| want[at] = x);
            assert!(dst == want, "scatter {shape:?} {strides:?}");
        }
    }

    #[test]
    fn copies_and_scatters_agree_with_plain_loops() {
        check::<f32>(|i| i as f32);
        check::<f64>(|i| i as f64);
        check::<u32>(|i| i as u32);
        check::<bf16>(|i| bf16::from_bits(i as u16 & 0x7F7F));
        check::<f16>(|i| f16::from_bits(i as u16 & 0x77FF));
    }

    #[test]
    fn every_bf16_and_f16_survives_the_way_through_f32() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let halves: &[bf16] = bytemuck::cast_slice(&bits);
        let mut wide = vec![0f32; halves.len()];
        let mut back = vec![bf16::ZERO; halves.len()];
        cast(&mut wide, halves);
        cast(&mut back, &wide);
        for ((h, w), b) in halves.iter().zip(&wide).zip(&back) {
            assert!(h.to_f32() == *w || h.is_nan() && w.is_nan());
            assert!(h.to_bits() == b.to_bits() || h.is_nan() && b.is_nan());
        }
        let halves: &[f16] = bytemuck::cast_slice(&bits);
        let mut back = vec![f16::ZERO; halves.len()];
        cast(&mut wide, halves);
        cast(&mut back, &wide);
        for ((h, w), b) in halves.iter().zip(&wide).zip(&back) {
            assert!(h.to_f32() == *w || h.is_nan() && w.is_nan());
            assert!(h.to_bits() == b.to_bits() || h.is_nan() && b.is_nan());
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        at_every_level(|_| narrowing());
    }

    fn narrowing() {
        let patterns = (0..=u32::MAX).step_by(65_521).map(f32::from_bits);
        let x: Vec<f32> = patterns.chain(narrow(&numbers(1000, 1.0, 1))).collect();
        let mut out = vec![bf16::ZERO; x.len()];
        cast(&mut out, &x);
        for (x, out) in x.iter().zip(&out) {
            let want = bf16::from_f32(*x);
            assert!(want == *out || want.is_nan() && out.is_nan(), "{x:e}");
        }
        let ties = [0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x7F7F_FFFF].map(f32::from_bits);
        let mut out = [bf16::ZERO; 4];
        cast(&mut out, &ties);
        assert_eq!(out.map(bf16::to_bits), [0x3F80, 0x3F82, 0x3F81, 0x7F80]);
    }

    #[test]
    fn other_casts() {
        let mut ids = [0u32; 5];
        cast(&mut ids, &[0.0f32, 1.9, 7.0, -3.0, 1e20]);
        assert_eq!(ids, [0, 1, 7, 0, u32::MAX]);
        let mut wide = [0f64; 2];
        cast(&mut wide, &[1u32, u32::MAX]);
        assert_eq!(wide, [1.0, 4294967295.0]);
        let mut same = [0f32; 2];
        cast(&mut same, &[1.5f32, 2.5]);
        assert_eq!(same, [1.5, 2.5]);
        cast::<f32, bf16>(&mut [], &[]);
    }
}
