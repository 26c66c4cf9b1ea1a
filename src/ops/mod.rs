//! The operations: one file each, with its formula, shapes, forward, backward and registry entry.
//!
//! An operation checks its inputs, calls the kernel of the same name in [`crate::cpu`] and records how
//! to go back. It holds no loop over elements. Most operations are methods of [`Tensor`]
//! (`x.softmax(-1)`), those with several tensors or options are functions (`ops::layer_norm(…)`).
//!
//! Conventions, once for all:
//! - Axes are `isize` and count from the end where negative.
//! - Both inputs of an operation have one dtype; nothing is promoted silently. `bf16` and `f16`
//!   are for storage: they are computed in `f32` and rounded once at the end.
//! - Outputs are contiguous unless the operation is a view.
//! - In a backward rule `dy` is the gradient of the loss with respect to the output `y`; each rule
//!   returns one gradient for each input, of the input's shape.
//! - Wrong shapes, dtypes or axes are an [`Error::Op`] that names the operation, the
//!   shapes and the caller's source line.

mod binary;
mod binary_cross_entropy;
mod cast;
mod cat;
mod crf;
mod cross_entropy;
mod dropout;
mod embedding;
mod entry;
mod gru;
mod index;
mod layer_norm;
mod linear;
mod linear_cross_entropy;
mod lstm;
mod matmul;
mod reduce;
pub mod registry;
mod rms_norm;
mod rnn;
mod scaled_dot_product_attention;
#[cfg(test)]
mod small;
mod softmax;
mod unary;
mod view;
mod where_;

pub use crate::cpu::philox::Key;
pub use binary_cross_entropy::binary_cross_entropy_with_logits;
pub use cat::{cat, stack};
pub use crf::{CrfTables, crf, viterbi};
pub use cross_entropy::{CrossEntropy, Reduction, cross_entropy};
pub use dropout::dropout;
pub use embedding::embedding;
pub use gru::gru_sequence;
pub use layer_norm::layer_norm;
pub(crate) use layer_norm::layer_norm_to;
pub(crate) use linear::linear_gelu_to;
pub use linear::{linear, linear_add, linear_gelu};
pub use linear_cross_entropy::linear_cross_entropy;
pub use lstm::lstm_sequence;
pub use rms_norm::rms_norm;
pub use rnn::{Nonlinearity, rnn_sequence};
pub use scaled_dot_product_attention::{
    Attention, scaled_dot_product_attention, self_attention_qkv,
};
pub use where_::where_;

use crate::autograd::{Grads, Mode};
use crate::cpu::gemm::{self, Precision};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};
use smallvec::smallvec;

/// Gradients for the inputs of a rule, in order.
fn grads<const N: usize>(list: [Option<Tensor>; N]) -> Result<Grads> {
    Ok(list.into_iter().collect())
}

/// The gradient for an operation with one input.
fn one(dx: Tensor) -> Result<Grads> {
    Ok(smallvec![Some(dx)])
}

/// The gradient of an operation with one input whose rule adds up, which 16-bit gradients do in `f32`.
/// The rule gets a contiguous gradient.
fn one_summed(dy: Tensor, rule: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Grads> {
    let dtype = dy.dtype();
    let dy = if dtype.is_half() { dy.cast(DType::F32)? } else { dy.packed()? };
    one(rule(dy)?.cast(dtype)?)
}

/// `x` without history, in a type in which products read it: f32, f64, and bf16 on a CPU.
fn readable(x: &Tensor) -> Result<Tensor> {
    let as_it_is = !x.dtype().is_half() || x.dtype() == DType::BF16 && x.device() == Device::Cpu;
    if as_it_is { Ok(x.detach()) } else { x.cast(DType::F32) }
}

/// How exactly products with `x` are computed: as the mode says, but what is bf16 loses nothing by being rounded to it.
fn precision_for(x: &Tensor) -> Precision {
    match (x.dtype(), x.device()) {
        (DType::BF16, Device::Cpu) => Precision::Medium,
        _ => Mode::current().precision,
    }
}

/// The type that `x` is kept in where only products read it: bf16 where there are tiles and at least a tile of rows, for
/// which [`Precision::Medium`] rounds it anyway (but for products of few columns or a short k, which read what was
/// rounded); else its own.
pub(crate) fn kept_for_products(x: &Tensor) -> DType {
    let medium = Mode::current().precision == Precision::Medium;
    let (rows, _) = rows_and_cols(x.shape());
    let on_cpu = (x.dtype(), x.device()) == (DType::F32, Device::Cpu);
    if medium && on_cpu && gemm::multiplies_in_tiles(rows) { DType::BF16 } else { x.dtype() }
}

/// Refuses two inputs on different devices.
#[track_caller]
fn same_device(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.device() == b.device() {
        return Ok(());
    }
    Err(Error::op(
        op,
        format!(
            "one tensor is on {}, another on {}; move it with to_device",
            a.device(),
            b.device()
        ),
    ))
}

/// Ids, targets or a mask on the device of `x`: they may come from main memory, where batches are made.
fn beside(x: &Tensor, ids: &Tensor) -> Result<Tensor> {
    ids.moved(x.device())
}

/// Refuses two inputs of different dtype or on different devices.
#[track_caller]
fn same_dtype(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    same_device(op, a, b)?;
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(Error::op(
        op,
        format!("{} and {} do not mix; convert one of them with to_dtype", a.dtype(), b.dtype()),
    ))
}

/// As [`same_dtype`], but beside an x in f32 a weight may be stored in bf16.
#[track_caller]
fn same_dtype_or_bf16(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<()> {
    match (x.dtype(), weight.dtype()) {
        (DType::F32, DType::BF16) => same_device(op, x, weight),
        _ => same_dtype(op, x, weight),
    }
}

/// Refuses ids and masks that are not `u32`.
#[track_caller]
fn expect_u32(op: &'static str, what: &str, x: &Tensor) -> Result<()> {
    if x.dtype() == DType::U32 {
        return Ok(());
    }
    Err(Error::op(op, format!("{what} must be u32, got {}", x.dtype())))
}

/// Refuses a tracked tensor where the operation has no gradient to give: it would be lost silently.
#[track_caller]
fn expect_untracked(op: &'static str, what: &str, x: &Tensor) -> Result<()> {
    if !(x.requires_grad() && crate::autograd::Mode::current().grad) {
        return Ok(());
    }
    Err(Error::op(op, format!("{what} would get no gradient; detach() them")))
}

/// Refuses a tensor of another shape than `expected`.
#[track_caller]
fn expect_shape(op: &'static str, what: &str, x: &Tensor, expected: &[usize]) -> Result<()> {
    if x.shape() == expected {
        return Ok(());
    }
    Err(Error::op(op, format!("{what} has shape {:?}, expected {expected:?}", x.shape())))
}

/// Splits a shape at `axis` into the product before, the size at and the product after it.
fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// The product of all axes but the last, and the last: a tensor seen as rows.
fn rows_and_cols(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [outer @ .., cols] => (outer.iter().product(), *cols),
    }
}
