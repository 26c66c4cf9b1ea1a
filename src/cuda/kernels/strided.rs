//! Launches of `kernels/strided.cu`.

use std::any::TypeId;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use crate::cuda::gpu::trouble;
use crate::cuda::launch::{Grid, args, launch};
use crate::cuda::{Slice, SliceMut};

/// The `Walk` of `kernels/common.cuh`: a shape, and strides for up to three tensors.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Walk {
    rank: u64,
    shape: [u64; 8],
    strides: [[u64; 8]; 3],
}

impl Walk {
    /// The walk over `shape`, its axes merged where all tensors allow it; more than eight are too many.
    pub(super) fn new(shape: &[usize], strides: &[&[usize]]) -> Option<Walk> {
        let mut walk = Walk { rank: 0, shape: [1; 8], strides: [[0; 8]; 3] };
        for (axis, &size) in shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let size = size as u64;
            let stride = |t: usize| strides[t][axis] as u64;
            let last = (walk.rank as usize).wrapping_sub(1);
            let merges = walk.rank > 0
                && (0..strides.len()).all(|t| walk.strides[t][last] == size * stride(t));
            let at = if merges { last } else { walk.rank as usize };
            if at == 8 {
                trouble(format!("a GPU walks over at most 8 axes, not shape {shape:?}"));
                return None;
            }
            walk.shape[at] *= size;
            (0..strides.len()).for_each(|t| walk.strides[t][at] = stride(t));
            walk.rank = at as u64 + 1;
        }
        Some(walk)
    }

    pub(super) fn arg(&self) -> crate::cuda::launch::Arg<'_> {
        crate::cuda::launch::Arg::Bytes(bytemuck::bytes_of(self))
    }
}

/// As [`crate::cpu::strided::copy`].
pub fn copy<E>(out: SliceMut<E>, src: Slice<E>, strides: &[usize], shape: &[usize]) {
    if let Some(walk) = Walk::new(shape, &[strides]) {
        let (name, n) = (format!("strided_copy_{}", size_of::<E>()), out.len());
        launch(&name, Grid::each(n), args![&out, src, walk.arg(), n]);
    }
}

/// As [`crate::cpu::strided::scatter`].
pub fn scatter<E>(dst: SliceMut<E>, strides: &[usize], src: Slice<E>, shape: &[usize]) {
    if let Some(walk) = Walk::new(shape, &[strides]) {
        let (name, n) = (format!("strided_scatter_{}", size_of::<E>()), shape.iter().product());
        launch(&name, Grid::each(n), args![&dst, src, walk.arg(), n]);
    }
}

/// As [`crate::cpu::strided::cast`].
pub fn cast<A: 'static, B: 'static>(out: SliceMut<B>, src: Slice<A>) {
    let (Some(from), Some(to)) = (name::<A>(), name::<B>()) else {
        return trouble("conversions on a GPU are between f32, bf16, f16 and u32".into());
    };
    let (name, n) = (format!("strided_cast_{from}_{to}"), out.len());
    launch(&name, Grid::each(n), args![&out, src, n]);
}

fn name<E: 'static>() -> Option<&'static str> {
    let names = [
        (TypeId::of::<f32>(), "f32"),
        (TypeId::of::<bf16>(), "bf16"),
        (TypeId::of::<f16>(), "f16"),
        (TypeId::of::<u32>(), "u32"),
    ];
    names.into_iter().find(|(id, _)| *id == TypeId::of::<E>()).map(|(_, name)| name)
}
