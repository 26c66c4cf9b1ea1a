//! The walk back over the tape.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::mode::{Mode, no_grad};
use super::tape::{Context, Grads, Leaf, Node, Rule};
use crate::cpu::binary;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, Tracked, kernel};

static WALKS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    // The list of nodes of a walk, kept for the next one.
    static ORDER: RefCell<Vec<Arc<Node>>> = const { RefCell::new(Vec::new()) };
}

impl Tensor {
    /// Computes the gradient of this one-element tensor with respect to every leaf it was made from
    /// and adds it to the leaf's gradient. The graph is gone afterwards.
    ///
    /// # Errors
    /// When the tensor has more than one element or no history, or when a backward rule fails.
    #[track_caller]
    pub fn backward(&self) -> Result<()> {
        if self.numel() != 1 {
            return Err(Error::op(
                "backward",
                format!(
                    "starts from one number, and shape {:?} has {}; reduce it with sum_all() or \
                     mean_all(), or give its gradient to backward_with",
                    self.shape(),
                    self.numel()
                ),
            ));
        }
        self.backward_with(self.new_full(self.shape(), 1.0)?)
    }

    /// As [`Tensor::backward`], starting from `grad`, the gradient of something with respect to this
    /// tensor.
    ///
    /// # Errors
    /// When `grad` has another shape or dtype, when there is no history, or when a rule fails.
    #[track_caller]
    pub fn backward_with(&self, grad: Tensor) -> Result<()> {
        if grad.shape() != self.shape() || grad.dtype() != self.dtype() {
            return Err(Error::op(
                "backward",
                format!(
                    "the gradient is {} {:?}, the tensor {} {:?}",
                    grad.dtype(),
                    grad.shape(),
                    self.dtype(),
                    self.shape()
                ),
            ));
        }
        let Some(history) = self.history() else {
            return Err(Error::op(
                "backward",
                "this tensor has no history: nothing it was computed from requires a gradient, or it \
                 was computed under no_grad",
            ));
        };
        no_grad(|| walk(history, grad))
    }
}

fn walk(root: &Tracked, grad: Tensor) -> Result<()> {
    deliver(root, grad)?;
    let Some(root) = root.downcast::<Node>() else {
        return Ok(()); // a leaf: its gradient has been delivered
    };
    // Nested walks (recompute) find the list taken and use one of their own.
    let mut order = ORDER.with_borrow_mut(std::mem::take);
    order.clear();
    collect(root, &mut order);
    order.sort_unstable_by_key(|node| std::cmp::Reverse(node.sequence()));
    let mut result = Ok(());
    for node in order.drain(..) {
        if result.is_ok() {
            result = step(&node);
        }
        Tracked::new(node, 0); // dropped at once: the last owner takes the node apart
    }
    ORDER.with_borrow_mut(|kept| {
        if order.capacity() > kept.capacity() {
            *kept = order;
        }
    });
    result
}

/// All nodes that `root` depends on, each once, in any order.
fn collect(root: Arc<Node>, found: &mut Vec<Arc<Node>>) {
    let walk = WALKS.fetch_add(1, Relaxed);
    root.visited.store(walk, Relaxed);
    found.push(root);
    let mut next = 0;
    while next < found.len() {
        let node = found[next].clone();
        for input in node.state().inputs.iter().flatten() {
            if let Some(parent) = input.downcast::<Node>()
                && parent.visited.swap(walk, Relaxed) != walk
            {
                found.push(parent);
            }
        }
        next += 1;
    }
}

/// Applies one node's rule and hands its results on.
fn step(node: &Node) -> Result<()> {
    let (name, scope, location, inputs, context, rule, grads) = {
        let mut state = node.state();
        if state.grads.iter().all(Option::is_none) {
            if state.rule.is_none() {
                return Err(Error::Failed(
                    "backward: part of this graph was used by an earlier backward and is gone; \
                     compute the forward pass again"
                        .into(),
                ));
            }
            return Ok(()); // nothing flows through here
        }
        let Some(rule) = state.rule.take() else {
            return Err(Error::Failed(
                "backward: this graph was used by an earlier backward and is gone; compute the \
                 forward pass again"
                    .into(),
            ));
        };
        let mut context: Context = std::mem::take(&mut state.context);
        if context.adds {
            context.so_far = state.inputs.first().and_then(Option::as_ref).and_then(arrived);
        }
        let (inputs, grads) = (std::mem::take(&mut state.inputs), std::mem::take(&mut state.grads));
        (state.name, state.scope, state.location, inputs, context, rule, grads)
    };
    let needs = context.needs.clone();
    let _scope = Mode { scope, ..Mode::current() }.enter();
    let dinputs = apply(rule, context, grads).map_err(|error| {
        let place = location.map(|at| format!(" recorded at {at}")).unwrap_or_default();
        Error::Failed(format!("backward of {name}{place}: {error}"))
    })?;
    for (i, (input, dinput)) in inputs.iter().zip(dinputs).enumerate() {
        match (input, dinput) {
            (Some(input), Some(dinput)) => deliver(input, dinput)?,
            (Some(_), None) if needs.get(i) == Some(&true) => {
                return Err(Error::Failed(format!(
                    "backward of {name} gave no gradient for its input {i}, which needs one"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn apply(rule: Rule, context: Context, mut grads: Grads) -> Result<Grads> {
    match rule {
        Rule::One(rule) => match grads[0].take() {
            Some(dout) => rule(context, dout),
            None => Ok(Grads::new()),
        },
        Rule::Many(rule) => rule(context, grads),
        Rule::Closure(rule) => rule(context, grads),
    }
}

/// Takes out what has arrived at `target` so far.
fn arrived(target: &Tracked) -> Option<Tensor> {
    match target.downcast::<Node>() {
        Some(node) => node.state().grads.get_mut(target.output)?.take(),
        None => target.downcast::<Leaf>()?.grad().take(),
    }
}

/// Adds `grad` to what has arrived at `target` so far.
fn deliver(target: &Tracked, grad: Tensor) -> Result<()> {
    if let Some(node) = target.downcast::<Node>() {
        let mut state = node.state();
        if state.rule.is_none() {
            return Err(Error::Failed(
                "backward: this graph was used by an earlier backward and is gone; compute the \
                 forward pass again"
                    .into(),
            ));
        }
        let expected = &state.output_shapes[target.output];
        if expected.as_slice() != grad.shape() {
            return Err(Error::Failed(format!(
                "backward: the output of {} has shape {expected:?} but its gradient {:?}",
                state.name,
                grad.shape()
            )));
        }
        accumulate(&mut state.grads[target.output], grad)
    } else if let Some(leaf) = target.downcast::<Leaf>() {
        accumulate(&mut leaf.grad(), grad.packed()?)
    } else {
        Err(Error::Failed("backward: a history of unknown kind".into()))
    }
}

/// The first gradient is taken as it is; a later one is added in place where nobody else holds the
/// sum, and otherwise into a buffer of its own.
fn accumulate(sum: &mut Option<Tensor>, grad: Tensor) -> Result<()> {
    let Some(mut so_far) = sum.take() else {
        *sum = Some(grad);
        return Ok(());
    };
    let dtype = so_far.dtype();
    if dtype.is_half() {
        let total = so_far.cast(DType::F32)?;
        let mut total = Some(total);
        accumulate(&mut total, grad.cast(DType::F32)?)?;
        *sum = total.map(|t| t.cast(dtype)).transpose()?;
        return Ok(());
    }
    // Addition commutes exactly, so the owned one of the two may serve as the sum.
    let mut grad = grad;
    if !so_far.is_owned() && grad.is_owned() {
        std::mem::swap(&mut so_far, &mut grad);
    }
    if !so_far.is_owned() {
        so_far = so_far.copy()?;
    }
    let grad = grad.packed()?;
    kernel!("backward", so_far, T => {
        binary::add_assign::<T>(so_far.slice_mut(), grad.slice_ref())
    });
    *sum = Some(so_far);
    Ok(())
}
