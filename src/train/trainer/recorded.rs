//! The step of a GPU as recorded work ([`crate::cuda::Graph`]).
//!
//! ```text
//! record 1    forward and backward of all micro-batches, Σ g² of each gradient
//!             the host looks at the losses and the norm, and decides
//! record 2    the update
//! ```
//!
//! The first steps run as always, so that moments and compiled kernels are there. Then one step runs in memory of its
//! own, the next one is recorded, and from there on a step is two launches. While the first one computes, the next
//! batch goes to the device. The kernels, their order and their arguments are those of the plain step, so the bits are too.
//!
//! A step whose numbers are not finite is done once more as a plain one, which finds out where. A step that the record
//! does not fit (a value that has moved, the first batch of an epoch where a state is carried) is a plain one too.

use crate::autograd::training;
use crate::cuda::{Arena, Buffer, Feed, Graph, steps_are_recorded};
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};
use crate::train::data::Cursor;
use crate::train::observer::StepRecord;
use crate::train::optim::Optimizer;

use super::Trainer;

/// What is known of the step as recorded work.
#[derive(Default)]
pub(super) struct Recorded(Option<Step>);

/// Tensors at fixed places, and the work on them.
struct Step {
    pass: Option<(Graph, Outputs)>,
    update: Option<Graph>,
    rehearsed: bool,
    batches: Vec<[Tensor; 2]>,
    feed: Feed,
    /// The micro-batch that the one underway begins with.
    underway: Option<Cursor>,
    /// The carried state: where the record reads and leaves it, and what it was before the step.
    carried: Vec<(String, Tensor)>,
    before: Vec<Tensor>,
    /// Where weights and moments were.
    places: Vec<u64>,
    arena: Arena,
}

/// What the host looks at.
struct Outputs {
    losses: Vec<Tensor>,
    shares: Vec<f64>,
    tokens: u64,
    squares: Tensor,
}

/// Writes the ids of a batch as bytes.
fn write(batches: &[[Tensor; 2]], mut to: &mut [u8]) -> Result<()> {
    for tensor in batches.iter().flatten() {
        let bytes: &[u8] = bytemuck::cast_slice(tensor.as_slice::<u32>()?);
        let (here, rest) = to.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        to = rest;
    }
    Ok(())
}

impl Step {
    /// Brings the batch to its place.
    fn deliver(&self) -> Result<()> {
        let tensors = || self.batches.iter().flatten();
        let sizes: Vec<usize> = tensors().map(|x| x.numel() * x.dtype().size()).collect();
        let buffers: Option<Vec<&Buffer>> = tensors().map(Tensor::whole_buffer).collect();
        self.feed.deliver(&buffers.unwrap_or_default(), &sizes)
    }
}

impl Trainer<'_, '_> {
    /// The step as recorded work; `None` where it has to be a plain one, with everything as it was before.
    pub(super) fn attempt_recorded(&mut self, lr: f64) -> Result<Option<StepRecord>> {
        let Device::Cuda(number) = self.config.device else { return Ok(None) };
        if !steps_are_recorded() || !self.checked {
            return Ok(None);
        }
        let cursors = self.cursors(self.state.cursor);
        let carried = self.task.carried();
        if !carried.is_empty() && cursors.iter().any(|cursor| cursor.index == 0) {
            return Ok(None);
        }
        let Some(places) = self.optimizer.places(self.task.module()) else { return Ok(None) };
        let step = match self.recorded.0.take().filter(|step| step.places == places) {
            Some(step) => Some(step),
            None => self.prepare(number, &cursors, carried, places)?,
        };
        let Some(mut step) = step else { return Ok(None) };
        let record = self.run_step(&mut step, &cursors, lr)?;
        match record {
            Some(_) => self.recorded.0 = Some(step),
            None => self.task.module().zero_grad(),
        }
        Ok(record)
    }

    /// The micro-batches of the step that begins at `cursor`.
    fn cursors(&self, mut cursor: Cursor) -> Vec<Cursor> {
        let batches = self.task.batches_per_epoch();
        let next = |_| {
            let after = cursor.next(batches);
            std::mem::replace(&mut cursor, after)
        };
        (0..self.config.gradient_accumulation_steps).map(next).collect()
    }

    fn batches(&self, cursors: &[Cursor]) -> Result<Option<Vec<[Tensor; 2]>>> {
        cursors.iter().map(|&cursor| self.task.batch(cursor)).collect()
    }

    fn prepare(
        &self,
        number: usize,
        cursors: &[Cursor],
        carried: Vec<(String, Tensor)>,
        places: Vec<u64>,
    ) -> Result<Option<Step>> {
        let Some(batches) = self.batches(cursors)? else { return Ok(None) };
        let bytes = batches.iter().flatten().map(|x| x.numel() * x.dtype().size()).sum();
        let device = self.config.device;
        let there = |[a, b]: &[Tensor; 2]| Ok([a.moved(device)?, b.moved(device)?]);
        let copies =
            || carried.iter().map(|(name, x)| Ok((name.clone(), x.moved(device)?.copy()?)));
        Ok(Some(Step {
            pass: None,
            update: None,
            rehearsed: false,
            batches: batches.iter().map(there).collect::<Result<_>>()?,
            feed: Feed::new(number, bytes)?,
            underway: None,
            before: copies().map(|x| x.map(|(_, x)| x)).collect::<Result<_>>()?,
            carried: copies().collect::<Result<_>>()?,
            places,
            arena: Arena::new(number)?,
        }))
    }

    fn run_step(
        &mut self,
        step: &mut Step,
        cursors: &[Cursor],
        lr: f64,
    ) -> Result<Option<StepRecord>> {
        for ((_, place), (_, now)) in step.carried.iter().zip(self.task.carried()) {
            if !place.shares_storage(&now) {
                place.overwrite(&now)?;
            }
        }
        for (before, (_, place)) in step.before.iter().zip(&step.carried) {
            before.overwrite(place)?;
        }
        self.task.restore_carried(&step.carried)?;
        if step.underway != cursors.first().copied() {
            self.send(step, cursors)?;
        }
        step.deliver()?;
        let position = self.state.micro;
        let rehearsal = match &mut step.pass {
            Some((graph, _)) => {
                graph.launch(position, &[])?;
                None
            }
            None if step.rehearsed => {
                let run = || self.pass(&step.batches, cursors, &step.carried);
                let (mut graph, outputs) = Graph::record(&step.arena, position, run)?;
                graph.launch(position, &[])?;
                step.pass = Some((graph, outputs));
                None
            }
            None => {
                let run = || self.pass(&step.batches, cursors, &step.carried);
                Some(step.arena.rehearse(run)?)
            }
        };
        self.task.restore_carried(&step.carried)?;
        // The device computes; the next batch is made and sent meanwhile.
        let batches = self.task.batches_per_epoch();
        let next = cursors.last().map(|last| self.cursors(last.next(batches)));
        self.send(step, &next.unwrap_or_default())?;
        let outputs = match (&rehearsal, &step.pass) {
            (Some(outputs), _) | (None, Some((_, outputs))) => outputs,
            (None, None) => return Err(Error::Failed("the step has not been recorded".into())),
        };
        let (mut loss_sum, mut weight) = (0.0, 0.0);
        for (loss, share) in outputs.losses.iter().zip(&outputs.shares) {
            loss_sum += loss.item()? * share;
            weight += share;
        }
        let (scale, tokens) = (1.0 / weight, outputs.tokens);
        let norm = outputs.squares.to_vec::<f64>()?.iter().sum::<f64>().sqrt() * scale;
        if !(loss_sum.is_finite() && norm.is_finite()) {
            for (before, (_, place)) in step.before.iter().zip(&step.carried) {
                place.overwrite(before)?;
            }
            return Ok(None);
        }
        let factor = scale * Optimizer::clip_factor(norm, self.config.max_grad_norm);
        let (optimizer, module) = (&mut self.optimizer, self.task.module());
        if rehearsal.is_some() {
            step.arena.rehearse(|| optimizer.step(module, lr, factor))?;
            step.rehearsed = true;
        } else {
            let numbers = optimizer.numbers(module, lr, factor);
            match &mut step.update {
                Some(graph) => {
                    optimizer.count(module);
                    graph.launch(position, &numbers)?;
                }
                None => {
                    let run = || optimizer.step(module, lr, factor);
                    let (mut graph, ()) = Graph::record(&step.arena, position, run)?;
                    graph.launch(position, &numbers)?;
                    step.update = Some(graph);
                }
            }
        }
        Ok(Some(StepRecord {
            loss: loss_sum * scale,
            learning_rate: lr,
            grad_norm: norm,
            tokens,
            ..StepRecord::default()
        }))
    }

    /// Sends the batch of `cursors` off.
    fn send(&self, step: &mut Step, cursors: &[Cursor]) -> Result<()> {
        let batches = self.batches(cursors)?.unwrap_or_default();
        step.feed.send(|to| write(&batches, to))?;
        step.underway = cursors.first().copied();
        Ok(())
    }

    /// Forward and backward of all micro-batches, and the sums of squares.
    fn pass(
        &mut self,
        batches: &[[Tensor; 2]],
        cursors: &[Cursor],
        carried: &[(String, Tensor)],
    ) -> Result<Outputs> {
        let (mut losses, mut shares, mut first, mut tokens) = (Vec::new(), Vec::new(), 0.0, 0);
        for (micro, (&cursor, batch)) in (0..).zip(cursors.iter().zip(batches)) {
            let position = self.state.micro + micro;
            let out = training(self.config.seed, position, || self.task.loss_of(cursor, batch))?;
            let count = out.count as f64;
            if micro == 0 {
                first = count;
            }
            let share = count / first;
            out.loss.backward_with(out.loss.new_full((), share)?)?;
            losses.push(out.loss.detach());
            shares.push(share);
            tokens += out.tokens;
        }
        let squares = Optimizer::squares_on_gpu(self.task.module())?;
        let squares = squares.ok_or_else(|| Error::Failed("no gradient is on the GPU".into()))?;
        for ((_, place), (_, now)) in carried.iter().zip(self.task.carried()) {
            place.overwrite(&now)?;
        }
        Ok(Outputs { losses, shares, tokens, squares })
    }
}
