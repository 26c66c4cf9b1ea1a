//! What a run writes: log lines, checkpoints, the best model.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{State, Trainer};
use crate::error::{Error, Result};
use crate::train::checkpoint::Checkpoint;
use crate::train::observer::{EvalRecord, Saved, StepRecord};
use crate::train::state_file;

/// The moving average of the weights in a checkpoint.
const AVERAGE: &str = "average.safetensors";

impl Trainer<'_, '_> {
    /// Goes to where `checkpoint` was taken: weights, moments, step, cursor, clock, log.
    ///
    /// # Errors
    /// [`Error::Data`] when a file of it does not fit this task.
    pub fn resume_from(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let (state, log_len) = self.load(checkpoint)?;
        if let Some(run) = &mut self.run
            && !run.truncate_log(log_len)?
        {
            self.control.observer.warning(
                "metrics.jsonl is shorter than at the checkpoint; lines of earlier steps are missing",
            );
        }
        self.zero = self.control.now() - state.elapsed;
        self.resumed_from = Some(state.step);
        self.saved_at = Some(state.step);
        self.checked = state.step > 0;
        self.state = state;
        Ok(())
    }

    /// Reads weights, moments and carried state; gives the state and the length of the log.
    pub(super) fn load(&mut self, checkpoint: &Checkpoint) -> Result<(State, u64)> {
        let text = checkpoint.read("trainer_state.json")?;
        let damaged = |e: serde_json::Error| {
            Error::Data(format!("{}/trainer_state.json: {e}", checkpoint.dir().display()))
        };
        let saved: Value = serde_json::from_slice(&text).map_err(damaged)?;
        let state: State = serde_json::from_value(saved["state"].clone()).map_err(damaged)?;
        let steps: Vec<u64> =
            serde_json::from_value(saved["optimizer_steps"].clone()).map_err(damaged)?;
        if saved["data"] != json!(format!("{:016x}", self.task.fingerprint())) {
            return Err(Error::Data(format!(
                "{}: the training data or its batches are not those that the run began with; go on \
                 with the same files, or start a new run",
                checkpoint.dir().display()
            )));
        }
        // Checksums tell damage, not intent: a state that no run can reach would overflow later.
        let (batches, most) = (self.task.batches_per_epoch(), 1u64 << 53);
        let counts = [state.step, state.micro, state.cursor.epoch, state.tokens];
        if state.cursor.index >= batches
            || counts.iter().any(|&count| count > most)
            || state.step != checkpoint.step
        {
            return Err(Error::Data(format!(
                "{}/trainer_state.json: step {}, batch {} of epoch {} is no place in this run, where an \
                 epoch has {batches} batches",
                checkpoint.dir().display(),
                state.step,
                state.cursor.index,
                state.cursor.epoch
            )));
        }
        self.task.read_folder(&|name| checkpoint.read(name))?;
        let moments = state_file::from_bytes(&checkpoint.read("optimizer.safetensors")?)?;
        self.optimizer.load_state_dict(
            self.task.module(),
            moments.into_iter().collect(),
            &steps,
        )?;
        if let Some(average) = &mut self.average {
            let saved = state_file::from_bytes(&checkpoint.read(AVERAGE)?)?;
            average.load_state_dict(saved.into_iter().collect())?;
        }
        let carried = state_file::from_bytes(&checkpoint.read("carried.safetensors")?)?;
        self.task.restore_carried(&carried)?;
        Ok((state, saved["log_len"].as_u64().unwrap_or(0)))
    }

    /// Writes a checkpoint, unless this step has one already. `None` where the run writes no files.
    pub(super) fn save(&mut self) -> Result<Option<PathBuf>> {
        self.elapsed();
        let Some(run) = &mut self.run else { return Ok(None) };
        let step = self.state.step;
        if self.saved_at == Some(step) {
            return Ok(Some(run.dir().join("checkpoints").join(format!("step-{step:06}"))));
        }
        let state = json!({
            "format": 1,
            "state": self.state,
            "optimizer_steps": self.optimizer.steps(),
            "log_len": run.log_len(),
            "data": format!("{:016x}", self.task.fingerprint()),
            "command": self.command,
        });
        let (task, optimizer, average) = (&*self.task, &self.optimizer, &self.average);
        let path = run.save(step, self.config.save_total_limit, |write| {
            task.write_folder(write)?;
            write("optimizer.safetensors", &state_file::to_bytes(&optimizer.state_dict())?)?;
            write("carried.safetensors", &state_file::to_bytes(&task.carried())?)?;
            if let Some(average) = average {
                write(AVERAGE, &state_file::to_bytes(average.state_dict())?)?;
            }
            write("trainer_state.json", format!("{state:#}\n").as_bytes())
        })?;
        self.saved_at = Some(step);
        self.control.observer.saved(step, Saved::Checkpoint, &path);
        Ok(Some(path))
    }

    /// Writes `best/`.
    pub(super) fn save_best(&mut self) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let (task, step) = (&*self.task, self.state.step);
        let path = run.save_best(step, |write| task.write_folder(write))?;
        self.control.observer.saved(step, Saved::Best, &path);
        Ok(())
    }

    /// Adds a line to the log.
    pub(super) fn log(&mut self, line: &Value) -> Result<()> {
        match (&mut self.run, line.as_object()) {
            (Some(run), Some(line)) => run.log(line),
            _ => Ok(()),
        }
    }

    /// The line of a training step, where one is due. Its loss is the mean since the last line.
    pub(super) fn log_step(&mut self, record: &StepRecord) -> Result<()> {
        // The first step too, so that a run of a few steps leaves a trace.
        let due = record.step == 1 || record.step.is_multiple_of(self.config.logging_steps.max(1));
        if !due || self.state.pending_loss.1 == 0 || record.skipped {
            return Ok(());
        }
        let (sum, n) = std::mem::take(&mut self.state.pending_loss);
        self.log(&json!({
            "step": record.step,
            "epoch": record.epoch,
            "loss": sum / f64::from(n),
            "learning_rate": record.learning_rate,
            "grad_norm": record.grad_norm,
            "tokens": self.state.tokens,
            "tokens_per_s": record.tokens_per_s,
            "elapsed_s": record.elapsed_s,
        }))
    }

    /// The line of an evaluation.
    pub(super) fn log_eval(&mut self, record: &EvalRecord) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), json!(record.step));
        line.extend(record.figures.to_json());
        line.insert("best".into(), json!(record.best));
        self.log(&Value::Object(line))
    }
}
