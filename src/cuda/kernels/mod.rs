//! Launches: the functions of [`crate::cpu`] with the same names and arguments, for slices on a device.
//!
//! Each file holds the grids, shared memory and arguments of the kernels in `kernels/` of the same name.
//! They return nothing, as their CPU twins do: see [`super`] on when errors show.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod bce_with_logits;
pub(crate) mod binary;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod gru;
pub(crate) mod index;
pub(crate) mod layer_norm;
pub(crate) mod lstm;
pub(crate) mod norm;
mod recurrent;
pub(crate) mod reduce;
pub(crate) mod rms_norm;
pub(crate) mod rnn;
pub(crate) mod sgd;
pub(crate) mod softmax;
pub(crate) mod strided;
pub(crate) mod unary;

// Names that calls of kernels use without their module.
pub(crate) use gemm::{Epilogue, Factor};

use super::gpu::{Gpu, trouble};
use super::memory::Buffer;

/// Memory for the length of a call, or nothing, with the reason kept for later.
pub(super) fn scratch(gpu: Option<&'static Gpu>, bytes: usize) -> Option<Buffer> {
    let Some(gpu) = gpu else {
        trouble("a kernel's output is not on a GPU".into());
        return None;
    };
    Buffer::on(gpu, bytes).map_err(|error| trouble(error.to_string())).ok()
}

/// Pieces to cut `n` summands into, so that with `blocks` other blocks the device is busy, and the length
/// of a piece. A piece is never shorter than 512. It depends on the shape alone, for it decides the bits.
fn pieces(n: usize, blocks: usize) -> (usize, usize) {
    let wanted = (1024 / blocks.max(1)).clamp(1, 1024);
    let piece = n.div_ceil(wanted).max(512);
    (n.div_ceil(piece).max(1), piece)
}
