//! What a model is trained for.
//!
//! The trainer asks a [`Task`] for the loss of the batch at a cursor, for an evaluation and for its
//! module, and knows nothing else about it. A new task is a file here: data in, head on, loss,
//! decoding, figures.

pub mod classify;
pub mod lines;
pub mod lm;
pub mod masking;
pub mod tag;

use crate::error::Result;
use crate::nn::Module;
use crate::tensor::Tensor;

use super::data::Cursor;
use super::observer::{Figures, Header};

/// The loss of one micro-batch.
pub struct Loss {
    /// The mean over what counts, a scalar with its history.
    pub loss: Tensor,
    /// What the mean is over (targets, rows): the weight of this micro-batch in its step. Not 0.
    pub count: u64,
    /// Tokens that went through the model, for the speed.
    pub tokens: u64,
}

/// The figure that decides what is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name among the [`Figures`] of an evaluation.
    pub name: &'static str,
    /// Whether more is better.
    pub greater_is_better: bool,
}

impl Metric {
    /// Whether `new` is better than `old` by more than `threshold`.
    pub fn improves(&self, new: f64, old: f64, threshold: f64) -> bool {
        if self.greater_is_better { new > old + threshold } else { new < old - threshold }
    }
}

/// A file of a model folder: its name and what is in it.
pub type FolderFile = (String, Vec<u8>);

/// Something to train a model for.
pub trait Task: Send + Sync {
    /// What is trained.
    fn module(&self) -> &dyn Module;

    /// Micro-batches of one pass over the training data.
    fn batches_per_epoch(&self) -> u64;

    /// The loss of the micro-batch at `at`, inside [`crate::autograd::training`]. A pure function of
    /// the weights, `at`, the training position and what [`Task::carried`] shows.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn loss(&mut self, at: Cursor) -> Result<Loss>;

    /// The tensors of the micro-batch at `at`, where every one has the same shapes and counts: such a step can be
    /// recorded on a GPU once and done again with other numbers in them. `None` where it cannot.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn batch(&self, at: Cursor) -> Result<Option<[Tensor; 2]>> {
        let _ = at;
        Ok(None)
    }

    /// As [`Task::loss`], with what [`Task::batch`] gave; never asked for where that is `None`.
    ///
    /// # Errors
    /// As [`Task::loss`].
    fn loss_of(&mut self, at: Cursor, batch: &[Tensor; 2]) -> Result<Loss> {
        let _ = batch;
        self.loss(at)
    }

    /// Before the micro-batches of a step. A task that carries a state from batch to batch remembers
    /// it here.
    fn begin_step(&mut self) {}

    /// The step is not going to happen: the carried state goes back to what it was.
    fn abandon_step(&mut self) {}

    /// The state carried from batch to batch, for the checkpoint.
    fn carried(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Takes back what [`Task::carried`] gave.
    ///
    /// # Errors
    /// When it does not fit.
    fn restore_carried(&mut self, carried: &[(String, Tensor)]) -> Result<()> {
        let _ = carried;
        Ok(())
    }

    /// Evaluates on the whole validation set; `None` where there is none. `progress` is told
    /// `(done, total)`.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>>;

    /// The figure that decides about best checkpoint and early stopping.
    fn metric(&self) -> Metric;

    /// A text that the model writes now, to watch it learn.
    ///
    /// # Errors
    /// When the forward pass fails.
    fn sample(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The factor of the learning rate for a parameter, by its name.
    fn lr_scale(&self, name: &str) -> f64 {
        let _ = name;
        1.0
    }

    /// Before each step: which parameters learn may change with the epoch (gradual unfreezing).
    fn begin_epoch(&mut self, epoch: u64) {
        let _ = epoch;
    }

    /// Floating-point operations of a forward pass over one token; 0 where unknown.
    fn forward_flops_per_token(&self) -> u64 {
        0
    }

    /// A hash of the training data, so that a run is not resumed on other data.
    fn fingerprint(&self) -> u64;

    /// Adds title, model and data to what is shown before the first step.
    fn describe(&self, header: &mut Header);

    /// The files of the model's folder, one at a time (they may be large): `config.json`,
    /// `model.safetensors`, `tokenizer.json`.
    ///
    /// # Errors
    /// When they cannot be made, or `write` fails.
    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>;

    /// Puts the weights of a folder that [`Task::write_folder`] wrote back into the module; `read` gives
    /// the content of a file by its name.
    ///
    /// # Errors
    /// When they do not fit.
    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()>;
}
