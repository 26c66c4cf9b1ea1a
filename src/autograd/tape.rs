//! The tape: nodes, leaves and how an operation records itself.
//!
//! An operation computes its result and then says, in the order of PyTorch's
//! `autograd.Function`: what I am called, what I read, what I keep for later, how to go back.
//!
//! ```ignore
//! record("tanh", &[x]).save(&[&y]).backward(|ctx, dy| {
//!     // y = tanh x,  so  dx = dy · (1 − y²)
//!     …
//! }).output(y)
//! ```
//!
//! Saved tensors are kept without their history (the edges already hold it), so a node never owns
//! itself and no reference cycle can form.

use std::any::Any;
use std::cell::RefCell;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use smallvec::SmallVec;

use super::mode::{Mode, Scope};
use super::trace;
use crate::error::{Error, Result};
use crate::tensor::{Dims, History, Tensor, Tracked};

/// Gradients of a node's inputs, in the order of the inputs; `None` where there is none to give.
pub type Grads = SmallVec<[Option<Tensor>; 6]>;

/// What an operation kept for its backward rule.
#[derive(Default)]
pub struct Context {
    /// The tensors kept, in the order they were saved.
    pub saved: SmallVec<[Option<Tensor>; 8]>,
    /// Sizes, axes and flags that were kept.
    pub ints: SmallVec<[usize; 16]>,
    /// Real numbers that were kept.
    pub floats: SmallVec<[f64; 4]>,
    /// For each input whether its gradient is wanted.
    pub needs: SmallVec<[bool; 8]>,
    /// For a rule that [adds](Recorder::adds): what has arrived at its first input so far. What the rule
    /// returns takes its place.
    pub so_far: Option<Tensor>,
    /// Whether the rule wants [`Context::so_far`].
    pub(crate) adds: bool,
}

impl Context {
    /// Takes the saved tensor `i` out; it must have been saved.
    pub fn take(&mut self, i: usize) -> Result<Tensor> {
        self.take_option(i).ok_or_else(|| {
            Error::Failed(format!("a backward rule asks for saved tensor {i}, which was not kept"))
        })
    }

    /// Takes the saved tensor `i` out if there is one.
    pub fn take_option(&mut self, i: usize) -> Option<Tensor> {
        self.saved.get_mut(i).and_then(Option::take)
    }
}

/// The backward rule of an operation with one output.
pub type BackwardOne = fn(Context, Tensor) -> Result<Grads>;
/// The backward rule of an operation with several outputs; `None` where no gradient arrived.
pub type BackwardMany = fn(Context, Grads) -> Result<Grads>;
/// A backward rule that carries data of its own.
pub type BackwardClosure = Arc<dyn Fn(Context, Grads) -> Result<Grads> + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Rule {
    One(BackwardOne),
    Many(BackwardMany),
    Closure(BackwardClosure),
}

/// What a node holds while its graph is alive. An empty state is a used-up or recycled node.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) location: Option<&'static Location<'static>>,
    pub(crate) inputs: SmallVec<[Option<Tracked>; 6]>,
    pub(crate) context: Context,
    pub(crate) rule: Option<Rule>,
    pub(crate) output_shapes: SmallVec<[Dims; 3]>,
    /// Gradients that have arrived at the outputs so far.
    pub(crate) grads: Grads,
}

/// One recorded operation.
pub(crate) struct Node {
    /// Creation order; later nodes can only depend on earlier ones.
    sequence: AtomicU64,
    /// The last walk that met this node.
    pub(crate) visited: AtomicU64,
    state: Mutex<State>,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(1);
/// Empty nodes for the next step, so that recording allocates nothing once warm.
static RECYCLED: Mutex<Vec<Arc<Node>>> = Mutex::new(Vec::new());

impl Node {
    fn with_state(state: State) -> Arc<Node> {
        let recycled = RECYCLED.lock().unwrap_or_else(|broken| broken.into_inner()).pop();
        let node = recycled.unwrap_or_else(|| {
            Arc::new(Node {
                sequence: AtomicU64::new(0),
                visited: AtomicU64::new(0),
                state: Mutex::new(State::default()),
            })
        });
        node.sequence.store(SEQUENCE.fetch_add(1, Relaxed), Relaxed);
        *node.state() = state;
        node
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Relaxed)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

thread_local! {
    // Nodes waiting to be taken apart, and whether somebody further up the stack is doing it.
    static FALLEN: RefCell<(bool, Vec<Arc<Node>>)> = const { RefCell::new((false, Vec::new())) };
}

impl History for Node {
    /// Dropping a node drops its inputs, whose nodes may then fall too, and so on down a chain that
    /// can be a hundred thousand nodes long. A queue replaces the recursion.
    fn release(self: Arc<Self>) {
        let first = FALLEN.with_borrow_mut(|(draining, queue)| {
            queue.push(self);
            !std::mem::replace(draining, true)
        });
        if !first {
            return;
        }
        while let Some(mut node) = FALLEN.with_borrow_mut(|(_, queue)| queue.pop()) {
            if Arc::get_mut(&mut node).is_none() {
                continue; // somebody took hold of it again
            }
            let state = std::mem::take(&mut *node.state());
            drop(state); // may push the nodes of its inputs onto the queue
            RECYCLED.lock().unwrap_or_else(|broken| broken.into_inner()).push(node);
        }
        FALLEN.with_borrow_mut(|(draining, _)| *draining = false);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Where gradients end: a parameter or an input that asked for its gradient.
pub(crate) struct Leaf {
    pub(crate) grad: Mutex<Option<Tensor>>,
}

impl Leaf {
    pub(crate) fn grad(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.grad.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl History for Leaf {
    fn release(self: Arc<Self>) {}

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Tensor {
    /// The same data as a new leaf: [`Tensor::backward`] of what is computed from it leaves its
    /// gradient in [`Tensor::grad`].
    ///
    /// # Errors
    /// For `u32`, which has no gradient.
    #[track_caller]
    pub fn requires_grad_(&self) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return Err(Error::op("requires_grad_", "u32 ids and masks have no gradient"));
        }
        let leaf = Arc::new(Leaf { grad: Mutex::new(None) });
        Ok(self.detach().with_history(Tracked::new(leaf, 0)))
    }

    /// Whether gradients flow back from this tensor.
    pub fn requires_grad(&self) -> bool {
        self.history().is_some()
    }

    /// The gradient collected so far, if this is a leaf that has received one.
    pub fn grad(&self) -> Option<Tensor> {
        self.history()?.downcast::<Leaf>()?.grad().clone()
    }

    /// Takes the collected gradient out of a leaf, leaving none.
    pub fn take_grad(&self) -> Option<Tensor> {
        self.history()?.downcast::<Leaf>()?.grad().take()
    }

    /// Puts `grad` in the place of a leaf's gradient; ignored for tensors that are not leaves.
    pub fn set_grad(&self, grad: Option<Tensor>) {
        if let Some(leaf) = self.history().and_then(|h| h.downcast::<Leaf>()) {
            *leaf.grad() = grad;
        }
    }
}

/// An operation that is about to record itself; made by [`record`].
pub(crate) struct Recorder<'a> {
    name: &'static str,
    location: &'static Location<'static>,
    inputs: &'a [&'a Tensor],
    tracked: bool,
    context: Context,
    flops: u64,
}

/// Begins the record of operation `name` on `inputs`.
#[track_caller]
pub(crate) fn record<'a>(name: &'static str, inputs: &'a [&'a Tensor]) -> Recorder<'a> {
    let tracked = Mode::current().grad && inputs.iter().any(|x| x.requires_grad());
    let mut context = Context::default();
    if tracked {
        context.needs.extend(inputs.iter().map(|x| x.requires_grad()));
    }
    Recorder { name, location: Location::caller(), inputs, tracked, context, flops: 0 }
}

impl<'a> Recorder<'a> {
    /// Keeps tensors for the backward rule.
    pub(crate) fn save(self, tensors: &[&Tensor]) -> Self {
        tensors.iter().fold(self, |recorder, tensor| recorder.save_option(Some(tensor)))
    }

    /// Keeps a tensor that may not be there; it takes a place in the order either way.
    pub(crate) fn save_option(mut self, tensor: Option<&Tensor>) -> Self {
        if self.tracked {
            self.context.saved.push(tensor.map(Tensor::detach));
        }
        self
    }

    /// Keeps sizes, axes or flags.
    pub(crate) fn ints(mut self, values: &[usize]) -> Self {
        if self.tracked {
            self.context.ints.extend_from_slice(values);
        }
        self
    }

    /// Keeps real numbers.
    pub(crate) fn floats(mut self, values: &[f64]) -> Self {
        if self.tracked {
            self.context.floats.extend_from_slice(values);
        }
        self
    }

    /// The rule adds the first input's gradient to what has arrived there, [`Context::so_far`], instead
    /// of making one to be added: for inputs so large that a second buffer would be felt.
    pub(crate) fn adds(mut self) -> Self {
        self.context.adds = true;
        self
    }

    /// The floating-point operations that the forward pass took, for the trace.
    pub(crate) fn flops(mut self, flops: u64) -> Self {
        self.flops = flops;
        self
    }

    /// The rule of an operation with one output.
    pub(crate) fn backward(self, rule: BackwardOne) -> Recorded<'a> {
        Recorded { recorder: self, rule: Rule::One(rule) }
    }

    /// The rule of an operation with several outputs.
    pub(crate) fn backward_many(self, rule: BackwardMany) -> Recorded<'a> {
        Recorded { recorder: self, rule: Rule::Many(rule) }
    }

    /// A rule that owns data.
    pub(crate) fn backward_closure(self, rule: BackwardClosure) -> Recorded<'a> {
        Recorded { recorder: self, rule: Rule::Closure(rule) }
    }

    /// The output is tracked even if no input is: what happens inside may reach parameters.
    pub(crate) fn always_tracked(mut self) -> Self {
        if Mode::current().grad && !self.tracked {
            self.tracked = true;
            self.context.needs.extend(self.inputs.iter().map(|x| x.requires_grad()));
        }
        self
    }
}

/// A record that lacks only its outputs.
pub(crate) struct Recorded<'a> {
    recorder: Recorder<'a>,
    rule: Rule,
}

impl Recorded<'_> {
    /// Hands out the result, with the history if there is one.
    pub(crate) fn output(self, y: Tensor) -> Result<Tensor> {
        let [y] = self.outputs([y]);
        Ok(y)
    }

    /// Hands out several results.
    pub(crate) fn outputs<const N: usize>(self, outputs: [Tensor; N]) -> [Tensor; N] {
        let Recorded { recorder, rule } = self;
        let scope = Mode::current().scope;
        trace::note(
            recorder.name,
            scope,
            recorder.location,
            recorder.inputs,
            &outputs,
            recorder.flops,
            recorder.tracked,
        );
        if !recorder.tracked {
            return outputs;
        }
        let node = Node::with_state(State {
            name: recorder.name,
            scope,
            location: Some(recorder.location),
            inputs: recorder.inputs.iter().map(|x| x.history().cloned()).collect(),
            context: recorder.context,
            rule: Some(rule),
            output_shapes: outputs.iter().map(|y| Dims::from_slice(y.shape())).collect(),
            grads: outputs.iter().map(|_| None).collect(),
        });
        let mut index = 0;
        outputs.map(|y| {
            let tracked = y.with_history(Tracked::new(node.clone(), index));
            index += 1;
            tracked
        })
    }
}

/// Records an operation of your own: `output` was computed from `inputs` (outside autograd), and
/// `backward` turns the gradient of the output into one gradient for each input, of the input's
/// shape, or `None`.
///
/// # Errors
/// None today; a `Result` like every operation.
///
/// ```
/// use handloom::{DType, Tensor, autograd};
/// # fn main() -> handloom::Result<()> {
/// // y = x², with its derivative written by hand.
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], 3)?.requires_grad_()?;
/// let value = x.detach();
/// let y = autograd::custom("square", &[&x], value.mul(&value)?, move |dy| {
///     Ok([Some(dy.mul(&value)?.mul_scalar(2.0)?)].into_iter().collect())
/// })?;
/// y.sum_all()?.backward()?;
/// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0]);
/// # Ok(()) }
/// ```
#[track_caller]
pub fn custom(
    name: &'static str,
    inputs: &[&Tensor],
    output: Tensor,
    backward: impl Fn(Tensor) -> Result<Grads> + Send + Sync + 'static,
) -> Result<Tensor> {
    let rule = Arc::new(move |_: Context, mut douts: Grads| match douts[0].take() {
        Some(dout) => backward(dout),
        None => Ok(Grads::new()),
    });
    record(name, inputs).backward_closure(rule).output(output.detach())
}
