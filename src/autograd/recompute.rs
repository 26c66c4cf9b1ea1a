//! Activation checkpointing: forget the inside of a block, compute it again when it is needed.
//!
//! A block of layers keeps many activations for its backward pass. Under [`recompute`] it runs without
//! a tape and keeps only its inputs; when the gradient comes back, the block runs once more with a tape
//! of its own, which is walked at once. Memory falls from all activations of the model to those of one
//! block, for one more forward pass of time (Chen et al. 2016, "Training deep nets with sublinear
//! memory cost").

use std::sync::Arc;

use super::mode::{Mode, no_grad};
use super::tape::{Context, Grads, record};
use crate::error::Result;
use crate::tensor::Tensor;

/// Runs `f` on `inputs`, keeping only the inputs for the backward pass.
///
/// `f` must be a pure function of its inputs and of parameters; dropout inside it draws the same
/// numbers again. Gradients reach the inputs and every parameter used inside.
///
/// # Errors
/// What `f` returns.
#[track_caller]
pub fn recompute(
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    inputs: &[&Tensor],
) -> Result<Tensor> {
    let mode = Mode::current();
    let plain: Vec<Tensor> = inputs.iter().map(|x| x.detach()).collect();
    let output = no_grad(|| f(&plain))?;
    let rule = Arc::new(move |context: Context, mut douts: Grads| {
        let Some(dout) = douts[0].take() else { return Ok(Grads::new()) };
        // Run again as the first time, with a tape, on leaves that stand for the inputs.
        let _mode = Mode { grad: true, ..mode }.enter();
        let mut leaves = Vec::with_capacity(plain.len());
        for (x, &needed) in plain.iter().zip(&context.needs) {
            leaves.push(if needed { x.requires_grad_()? } else { x.clone() });
        }
        let again = f(&leaves)?;
        if again.requires_grad() {
            again.backward_with(dout)?;
        }
        leaves
            .iter()
            .zip(&context.needs)
            .map(|(leaf, &needed)| match (needed, leaf.take_grad()) {
                (true, None) => leaf.new_full(leaf.shape(), 0.0).map(Some),
                (_, grad) => Ok(grad),
            })
            .collect()
    });
    record("recompute", inputs).always_tracked().backward_closure(rule).output(output.detach())
}
