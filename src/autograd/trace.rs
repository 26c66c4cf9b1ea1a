//! The tape as data: what ran, in which layer, on which shapes, at what cost, from which source line.

use std::cell::RefCell;
use std::panic::Location;

use super::mode::Scope;
use crate::tensor::{Dims, Tensor};

/// One operation that ran while tracing.
#[derive(Clone)]
pub struct TraceEntry {
    /// The operation, by the name it has in [`crate::ops`].
    pub name: &'static str,
    /// The layer it ran in, such as `transformer.h.0.attn`; empty outside any layer.
    pub scope: &'static str,
    /// The source line that called the operation.
    pub location: &'static Location<'static>,
    /// The shapes of its inputs.
    pub inputs: Vec<Dims>,
    /// The shapes of its outputs.
    pub outputs: Vec<Dims>,
    /// Floating-point operations of the forward pass (a fused multiply-add counts as two).
    pub flops: u64,
    /// Bytes read and written by the forward pass: each input and each output once.
    pub bytes: u64,
    /// Whether a backward rule was recorded.
    pub tracked: bool,
    /// The outputs themselves, without their history.
    pub values: Vec<Tensor>,
}

/// The operations of one run, in order.
#[derive(Clone, Default)]
pub struct Trace {
    /// One entry for each operation.
    pub entries: Vec<TraceEntry>,
}

impl Trace {
    /// Floating-point operations of all entries.
    pub fn flops(&self) -> u64 {
        self.entries.iter().map(|entry| entry.flops).sum()
    }

    /// Bytes moved by all entries.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for entry in &self.entries {
            let shapes = |list: &[Dims]| {
                list.iter().map(|s| format!("{:?}", s.as_slice())).collect::<Vec<_>>().join(" ")
            };
            writeln!(
                f,
                "{:<32} {:<28} {} -> {}  {:.3} MFLOP  {:.3} MB  {}:{}",
                entry.name,
                entry.scope,
                shapes(&entry.inputs),
                shapes(&entry.outputs),
                entry.flops as f64 / 1e6,
                entry.bytes as f64 / 1e6,
                entry.location.file(),
                entry.location.line()
            )?;
        }
        Ok(())
    }
}

thread_local! {
    static ACTIVE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Runs `f` and returns, beside its result, what operations it ran on this thread.
pub fn trace<R>(f: impl FnOnce() -> R) -> (R, Trace) {
    let outer = ACTIVE.with_borrow_mut(|active| active.replace(Trace::default()));
    let result = f();
    let trace = ACTIVE.with_borrow_mut(|active| std::mem::replace(active, outer));
    (result, trace.unwrap_or_default())
}

/// Called by every operation; does nothing unless a trace is being taken.
pub(crate) fn note(
    name: &'static str,
    scope: Scope,
    location: &'static Location<'static>,
    inputs: &[&Tensor],
    outputs: &[Tensor],
    flops: u64,
    tracked: bool,
) {
    ACTIVE.with_borrow_mut(|active| {
        let Some(trace) = active else { return };
        let size = |x: &Tensor| (x.numel() * x.dtype().size()) as u64;
        trace.entries.push(TraceEntry {
            name,
            scope: scope.name(),
            location,
            inputs: inputs.iter().map(|x| Dims::from_slice(x.shape())).collect(),
            outputs: outputs.iter().map(|x| Dims::from_slice(x.shape())).collect(),
            flops,
            bytes: inputs.iter().map(|x| size(x)).sum::<u64>()
                + outputs.iter().map(size).sum::<u64>(),
            tracked,
            values: outputs.iter().map(Tensor::detach).collect(),
        });
    });
}
