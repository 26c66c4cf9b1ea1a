//! The handle by which a tensor remembers how it was made.
//!
//! The tape lives on the floor above; all a tensor knows is that somebody keeps its history, and that
//! this somebody wants to be told when the last tensor that needs it is gone.

use std::any::Any;
use std::sync::Arc;

/// What keeps the history of a tensor: a node of the tape, or a leaf that collects a gradient.
pub(crate) trait History: Any + Send + Sync {
    /// Called instead of a plain drop when the last owner lets go: a long chain of nodes is taken
    /// apart in a loop, not by recursion, and its memory is kept for the next step.
    fn release(self: Arc<Self>);

    /// For the tape to find its own types again.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// One output of a history: which node, and which of its outputs.
pub(crate) struct Tracked {
    // `None` only while `drop` runs.
    node: Option<Arc<dyn History>>,
    pub(crate) output: usize,
}

impl Tracked {
    pub(crate) fn new(node: Arc<dyn History>, output: usize) -> Tracked {
        Tracked { node: Some(node), output }
    }

    /// The keeper, as the type it really is.
    pub(crate) fn downcast<T: History>(&self) -> Option<Arc<T>> {
        self.node.clone()?.as_any().downcast().ok()
    }
}

impl Clone for Tracked {
    fn clone(&self) -> Tracked {
        Tracked { node: self.node.clone(), output: self.output }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(node) = self.node.take()
            && Arc::strong_count(&node) == 1
        {
            node.release();
        }
    }
}
