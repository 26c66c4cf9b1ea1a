//! Reverse-mode automatic differentiation.
//!
//! # The idea
//!
//! Running a model writes a *tape*: each operation on a tracked tensor leaves a [`Node`](tape) that
//! names its inputs, keeps the few tensors that its derivative needs and knows a backward rule, a
//! function from the gradient of the output to the gradients of the inputs (a vector-Jacobian
//! product). [`Tensor::backward`] walks the nodes from the last made to the first. Creation order is
//! a topological order (an operation can only use what exists), so when a node's turn comes, all
//! that flows into its output has arrived. Gradients that meet are added in place; each saved
//! tensor is let go the moment it has been used; afterwards the graph is gone.
//!
//! # Reading order
//!
//! [`tape`]: nodes and how operations record them. [`backward`](mod@backward): the walk. [`mode`]: `no_grad`,
//! training mode, layer scopes. [`mod@recompute`]: trading time for memory. [`mod@trace`]: the tape as data.
//! [`mod@gradcheck`]: the proof by finite differences.

pub mod backward;
pub mod gradcheck;
pub mod mode;
pub mod recompute;
pub mod tape;
pub mod trace;

pub use gradcheck::{GradcheckOptions, gradcheck};
pub use mode::{Scope, matmul_precision, no_grad, training, training_position};
pub use recompute::recompute;
pub use tape::{Context, Grads, custom};
pub use trace::{Trace, TraceEntry, trace};

pub(crate) use mode::Mode;
pub(crate) use tape::record;

#[cfg(test)]
mod tests;
