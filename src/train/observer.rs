//! What a run tells the outside world.
//!
//! The trainer prints nothing. It calls an [`Observer`]: the console, a plot, a test. Every method has
//! an empty body by default, so an observer implements what it cares for. `metrics.jsonl` is not an
//! observer: the log belongs to the run folder, and a resumed run cuts it back to its checkpoint.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use crate::models::MemoryEstimate;

/// What is known before the first step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Header {
    /// What is done, for example `pretrain gpt (next token)`.
    pub title: String,
    /// The resolved configuration, one entry a key.
    pub config: Map<String, Value>,
    /// The model's own configuration, Hugging Face's `config.json`.
    pub model: Value,
    /// Parameters that exist.
    pub parameters: usize,
    /// Parameters that are trained.
    pub trainable: usize,
    /// Parameters by module, in the order of the model: `("transformer.h.0", 198272)`.
    pub by_module: Vec<(String, usize)>,
    /// Estimated memory.
    pub memory: MemoryEstimate,
    /// The data in words and numbers: `("train tokens", 1003854)`.
    pub data: Vec<(String, u64)>,
    /// Optimiser steps to come in all, where the number is known (not with a wall-clock budget).
    pub total_steps: Option<u64>,
    /// Seconds of the wall-clock budget, where there is one.
    pub budget_s: Option<f64>,
    /// Tokens (language models) or examples of one optimiser step.
    pub batch: String,
    /// Floating-point operations of one token, forward and backward; 0 where unknown.
    pub flops_per_token: u64,
    /// The instruction set in force.
    pub isa: String,
    /// Threads of the pool that the run uses.
    pub threads: usize,
    /// The run folder.
    pub out: Option<PathBuf>,
    /// The step that the run goes on from.
    pub resumed_from: Option<u64>,
}

/// One optimiser step, as the console sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepRecord {
    /// Steps done, this one included; the first is 1.
    pub step: u64,
    /// Passes over the training data so far, with a fraction.
    pub epoch: f64,
    /// The share of the run that is done, in [0, 1].
    pub progress: f64,
    /// The training loss of this step in nats (the mean over its micro-batches).
    pub loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// The global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens (or examples, for tasks that count those) of this step.
    pub tokens: u64,
    /// Tokens a second, smoothed over the recent steps.
    pub tokens_per_s: f64,
    /// Floating-point operations a second, smoothed; 0 where the model does not say.
    pub flops_per_s: f64,
    /// Seconds of training so far, earlier parts of a resumed run included.
    pub elapsed_s: f64,
    /// Seconds to go, where that can be said.
    pub eta_s: Option<f64>,
    /// Whether the step was skipped because its loss or gradient was not finite.
    pub skipped: bool,
}

/// Named figures in a fixed order, such as `val_loss`, `perplexity`, `accuracy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(pub Vec<(&'static str, f64)>);

impl Figures {
    /// The figure called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| *n == name).map(|&(_, value)| value)
    }

    /// With names of their own.
    pub fn named(&self) -> Vec<(String, f64)> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    /// As a JSON object, in order. A figure that is not finite becomes `null`.
    pub fn to_json(&self) -> Map<String, Value> {
        self.0.iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect()
    }
}

/// One evaluation over the whole validation set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalRecord {
    /// Steps done when it was taken.
    pub step: u64,
    /// What was found, the deciding figure among it.
    pub figures: Figures,
    /// The figure that decides about best checkpoint and early stopping.
    pub metric: &'static str,
    /// Whether this is the best so far.
    pub best: bool,
    /// Evaluations in a row without a new best one.
    pub without_progress: u32,
    /// Seconds that the evaluation took.
    pub seconds: f64,
}

/// Why a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps, epochs or seconds are used up.
    Complete,
    /// The validation figure did not improve for `early_stopping_patience` evaluations.
    EarlyStopping,
}

/// What a finished run amounts to.
#[derive(Clone, Debug)]
pub struct TrainReport {
    /// Steps done.
    pub steps: u64,
    /// Seconds of training, evaluations included, earlier parts of a resumed run included.
    pub elapsed_s: f64,
    /// Tokens (or examples) trained on.
    pub tokens: u64,
    /// Steps that were skipped because of numbers that are not finite.
    pub skipped: u64,
    /// The figure that decided.
    pub metric: &'static str,
    /// The step and value of the best evaluation.
    pub best: Option<(u64, f64)>,
    /// The last evaluation.
    pub last: Option<Figures>,
    /// Why it ended.
    pub ending: Ending,
    /// The run folder.
    pub out: Option<PathBuf>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// A checkpoint to resume from.
    Checkpoint,
    /// The best model so far.
    Best,
}

/// Listens to a run. Called on the thread that trains, between its steps.
pub trait Observer: Send {
    /// Before the first step.
    fn header(&mut self, header: &Header) {
        let _ = header;
    }
    /// Long work before or between steps: `what` is `"tokenising"` or `"evaluating"`.
    fn progress(&mut self, what: &str, done: u64, total: u64) {
        let _ = (what, done, total);
    }
    /// After every optimiser step.
    fn step(&mut self, record: &StepRecord) {
        let _ = record;
    }
    /// After an evaluation.
    fn eval(&mut self, record: &EvalRecord) {
        let _ = record;
    }
    /// A text that the model has just written.
    fn sample(&mut self, step: u64, text: &str) {
        let _ = (step, text);
    }
    /// After a folder has been written and synced.
    fn saved(&mut self, step: u64, what: Saved, path: &Path) {
        let _ = (step, what, path);
    }
    /// Something the user should know; one sentence.
    fn warning(&mut self, message: &str) {
        let _ = message;
    }
    /// At the end.
    fn finished(&mut self, report: &TrainReport) {
        let _ = report;
    }
}

/// An observer that says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
