//! One optimiser step, and what happens when its numbers are not finite.

use serde_json::json;

use super::Trainer;
use crate::autograd::{matmul_precision, no_grad, training};
use crate::error::{Error, Result};
use crate::train::config::OnNonfinite;
use crate::train::data::Cursor;
use crate::train::nonfinite;
use crate::train::observer::StepRecord;
use crate::train::optim::Optimizer;
use crate::train::schedule::Horizon;

/// Skipped steps in a row after which even `skip` stops.
const MOST_SKIPPED: u32 = 10;
/// Rollbacks after which even `rollback` stops.
const MOST_ROLLBACKS: u32 = 3;
/// How much of the smoothed speed a new step leaves.
const SPEED_DECAY: f64 = 0.95;

/// What a step came to.
enum Outcome {
    Done(StepRecord),
    /// The loss or a gradient was not finite: a sentence about where.
    Nonfinite(String),
}

impl Trainer<'_, '_> {
    /// Trains one step, whatever comes of it.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step(&mut self) -> Result<StepRecord> {
        let started = self.elapsed();
        let lr = self.schedule.learning_rate(self.state.step, started);
        if self.epoch_begun != Some(self.state.cursor.epoch) {
            self.task.begin_epoch(self.state.cursor.epoch);
            self.epoch_begun = Some(self.state.cursor.epoch);
        }
        self.task.begin_step();
        match matmul_precision(self.config.products(), || self.attempt(lr))? {
            Outcome::Done(mut record) => {
                self.state.skipped_in_row = 0;
                self.state.pending_loss.0 += record.loss;
                self.state.pending_loss.1 += 1;
                self.advance(record.tokens);
                if let Some(average) = &mut self.average {
                    average.update(self.task.module(), self.state.step)?;
                }
                let ended = self.elapsed();
                if self.state.step > 1 && ended > started {
                    // Bias-corrected as in Adam; the first step, which warms everything up, is left out.
                    let speed = record.tokens as f64 / (ended - started);
                    let (smoothed, weight) = self.state.speed;
                    self.state.speed = (
                        SPEED_DECAY * smoothed + (1.0 - SPEED_DECAY) * speed,
                        SPEED_DECAY * weight + (1.0 - SPEED_DECAY),
                    );
                }
                self.complete(&mut record);
                self.control.observer.step(&record);
                self.warn_of_spikes(&record);
                Ok(record)
            }
            Outcome::Nonfinite(message) => self.nonfinite(lr, message),
        }
    }

    /// Forward, backward and update. On [`Outcome::Nonfinite`] weights, moments and carried state are
    /// what they were before.
    fn attempt(&mut self, lr: f64) -> Result<Outcome> {
        #[cfg(feature = "cuda")]
        if let Some(record) = self.attempt_recorded(lr)? {
            return Ok(Outcome::Done(record));
        }
        let (mut loss_sum, mut weight, mut first, mut tokens) = (0.0, 0.0, 0.0, 0);
        let mut cursor = self.state.cursor;
        let batches = self.task.batches_per_epoch();
        for micro in 0..self.config.gradient_accumulation_steps {
            let position = self.state.micro + micro;
            let out = training(self.config.seed, position, || self.task.loss(cursor))?;
            let value = out.loss.item()?;
            if !value.is_finite() {
                drop(out);
                return self.diagnose(position, cursor, &format!("the loss is {value}"));
            }
            // Micro-batches count by what they average over, the first one with 1.
            let count = out.count as f64;
            if micro == 0 {
                first = count;
            }
            let share = count / first;
            out.loss.backward_with(out.loss.new_full((), share)?)?;
            loss_sum += value * share;
            weight += share;
            tokens += out.tokens;
            cursor = cursor.next(batches);
        }
        let module = self.task.module();
        if !self.checked {
            Optimizer::check_gradients(module)?;
            self.checked = true;
        }
        let scale = 1.0 / weight;
        let norm = Optimizer::gradient_norm(module)? * scale;
        if !norm.is_finite() {
            let what = nonfinite::first_gradient(module)?;
            return self.diagnose(self.state.micro, self.state.cursor, &what);
        }
        let clip = Optimizer::clip_factor(norm, self.config.max_grad_norm);
        self.optimizer.step(module, lr, scale * clip)?;
        let record = StepRecord {
            loss: loss_sum * scale,
            learning_rate: lr,
            grad_norm: norm,
            tokens,
            ..StepRecord::default()
        };
        Ok(Outcome::Done(record))
    }

    /// Lets go of the step and runs its forward pass once more to find where it went wrong.
    fn diagnose(&mut self, position: u64, cursor: Cursor, what: &str) -> Result<Outcome> {
        self.task.module().zero_grad();
        self.task.abandon_step();
        self.task.begin_step();
        // With accumulation, micro-batches before this one move the carried state first.
        let batches = self.task.batches_per_epoch();
        let (mut at, seed) = (self.state.cursor, self.config.seed);
        for before in self.state.micro..position {
            training(seed, before, || no_grad(|| self.task.loss(at)))?;
            at = at.next(batches);
        }
        let place = nonfinite::first_operation(self.task, seed, position, cursor)?;
        self.task.abandon_step();
        Ok(Outcome::Nonfinite(format!(
            "step {} (batch {} of epoch {}): {what}; {place}",
            self.state.step + 1,
            cursor.index,
            cursor.epoch
        )))
    }

    /// Tells of a loss or gradient norm far above those of the last steps.
    fn warn_of_spikes(&mut self, record: &StepRecord) {
        let figures = [("loss", record.loss), ("gradient norm", record.grad_norm)];
        for (window, (name, value)) in self.recent.iter_mut().zip(figures) {
            if let Some((z, mean)) = window.add(value) {
                self.control.observer.warning(&format!(
                    "step {}: the {name} jumped to {value:.4}, {z:.0} deviations above its recent mean of \
                     {mean:.4}; if it does not come down, lower --learning-rate or --max-grad-norm",
                    record.step
                ));
            }
        }
    }

    /// Counts a step and moves to the data of the next.
    fn advance(&mut self, tokens: u64) {
        let batches = self.task.batches_per_epoch();
        for _ in 0..self.config.gradient_accumulation_steps {
            self.state.cursor = self.state.cursor.next(batches);
            self.state.micro += 1;
        }
        self.state.step += 1;
        self.state.tokens += tokens;
    }

    /// Fills in where the run is.
    fn complete(&self, record: &mut StepRecord) {
        let state = &self.state;
        record.step = state.step;
        let batches = self.task.batches_per_epoch() as f64;
        record.epoch = state.cursor.epoch as f64 + state.cursor.index as f64 / batches;
        record.progress = self.schedule.horizon.progress(state.step, state.elapsed);
        record.elapsed_s = state.elapsed;
        record.tokens_per_s = if state.speed.1 > 0.0 { state.speed.0 / state.speed.1 } else { 0.0 };
        record.flops_per_s = record.tokens_per_s * (3 * self.task.forward_flops_per_token()) as f64;
        record.eta_s = match self.schedule.horizon {
            Horizon::Seconds(all) => Some((all - state.elapsed).max(0.0)),
            Horizon::Steps(all) if state.step > 1 => {
                Some(state.elapsed / state.step as f64 * all.saturating_sub(state.step) as f64)
            }
            Horizon::Steps(_) => None,
        };
    }

    /// The policy for numbers that are not finite.
    fn nonfinite(&mut self, lr: f64, message: String) -> Result<StepRecord> {
        let kept = "the weights are as they were before this step";
        match self.config.on_nonfinite {
            OnNonfinite::Stop => {
                self.save()?;
                return Err(Error::Diverged(format!(
                    "{message}; {kept}. Lower --learning-rate, or go on with --on-nonfinite skip"
                )));
            }
            OnNonfinite::Skip => {}
            OnNonfinite::Rollback => self.rollback(&message)?,
        }
        self.state.skipped += 1;
        self.state.skipped_in_row += 1;
        self.advance(0);
        self.control.observer.warning(&format!("{message}; the step is skipped, {kept}"));
        let mut record = StepRecord {
            loss: f64::NAN,
            grad_norm: f64::NAN,
            learning_rate: lr,
            skipped: true,
            ..StepRecord::default()
        };
        self.elapsed();
        self.complete(&mut record);
        self.control.observer.step(&record);
        self.log(&json!({"step": self.state.step, "skipped": true, "reason": message}))?;
        if self.state.skipped_in_row >= MOST_SKIPPED {
            return Err(Error::Diverged(format!(
                "{MOST_SKIPPED} steps in a row were not finite, the last one: {message}"
            )));
        }
        Ok(record)
    }

    /// Goes back to the newest checkpoint's weights and moments, but on with the data after the bad
    /// batch.
    fn rollback(&mut self, message: &str) -> Result<()> {
        let found = match &self.run {
            Some(run) => run.newest()?.newest,
            None => None,
        };
        let Some(checkpoint) = found else {
            return Err(Error::Diverged(format!(
                "{message}; there is no checkpoint yet to roll back to. Lower --save-steps or \
                 --learning-rate"
            )));
        };
        if self.state.rollbacks >= MOST_ROLLBACKS {
            return Err(Error::Diverged(format!(
                "{message}; the run has been rolled back {MOST_ROLLBACKS} times already. Lower \
                 --learning-rate"
            )));
        }
        let (saved, _) = self.load(&checkpoint)?;
        self.state.step = saved.step;
        self.state.rollbacks += 1;
        self.control.observer.warning(&format!("rolled back to step {}", saved.step));
        Ok(())
    }
}
