//! Tiny training runs for the tests of the trainer. Each test file uses a part of this.
#![allow(dead_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use handloom::models::{
    self, BertConfig, GptConfig, ModelConfig, RnnConfig, RnnKind, Sentence, SequenceClassifier,
};
use handloom::nn::{Linear, Module, Visitor};
use handloom::text::Tokens;
use handloom::text::rng::Rng;
use handloom::train::Control;
use handloom::train::config::TrainerConfig;
use handloom::train::data::{Cursor, LmBatches, Sampling};
use handloom::train::fsx::{Disk, Fs};
use handloom::train::observer::{Figures, Header, Observer, StepRecord};
use handloom::train::strategy::Strategy;
use handloom::train::tasks::classify::{ClassifyOptions, ClassifyTask, Examples};
use handloom::train::tasks::lm::LmTask;
use handloom::train::tasks::masking::Masking;
use handloom::train::tasks::{Loss, Metric, Task};
use handloom::{Result, Tensor};

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A gpt on random crops.
    Gpt,
    /// An LSTM along lanes, with a carried state.
    Lstm,
    /// An encoder that fills gaps.
    Bert,
    /// A classifier on a gpt, with dropout and gradual unfreezing.
    Classify,
}

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub width: usize,
    pub layers: usize,
    pub context: usize,
    pub batch: usize,
    pub vocab: usize,
    pub tokens: usize,
    pub dropout: f64,
}

pub const TINY: Size =
    Size { width: 16, layers: 2, context: 8, batch: 3, vocab: 20, tokens: 200, dropout: 0.1 };

fn gpt(size: Size) -> ModelConfig {
    let p = size.dropout;
    ModelConfig::Gpt(GptConfig {
        vocab_size: size.vocab,
        n_positions: size.context,
        n_embd: size.width,
        n_layer: size.layers,
        n_head: 2,
        resid_pdrop: p,
        embd_pdrop: p,
        attn_pdrop: p,
        ..GptConfig::default()
    })
}

/// A text with something to learn: each id follows from the one before, but for some noise.
pub fn text(size: Size, seed: u64) -> Tokens {
    let mut rng = Rng::new(seed, 0);
    let mut id = 0;
    let ids = (0..size.tokens).map(|_| {
        id = if rng.chance(70) { (id * 7 + 3) % size.vocab } else { rng.below(size.vocab) };
        id as u32
    });
    Tokens::from_vec(ids.collect(), size.vocab, size.tokens as u64).unwrap()
}

/// The task of `kind` with seed 5.
pub fn task(kind: Kind, size: Size) -> Box<dyn Task> {
    let seed = 5;
    match kind {
        Kind::Gpt => {
            let train =
                LmBatches::new(text(size, 1), size.batch, size.context, Sampling::Random, seed);
            let model = models::build(&gpt(size), seed).unwrap();
            let valid = text(Size { tokens: 61, ..size }, 2);
            Box::new(LmTask::new(model, train.unwrap(), Some(valid), None, 0.1, seed).unwrap())
        }
        Kind::Lstm => {
            let config = ModelConfig::Rnn(RnnConfig {
                kind: RnnKind::Lstm,
                vocab_size: size.vocab,
                embedding_size: size.width,
                hidden_size: size.width,
                num_layers: size.layers,
                dropout: size.dropout,
                context_length: size.context,
                ..RnnConfig::default()
            });
            let train =
                LmBatches::new(text(size, 1), size.batch, size.context, Sampling::Lanes, seed);
            let model = models::build(&config, seed).unwrap();
            let valid = text(Size { tokens: 61, ..size }, 2);
            Box::new(LmTask::new(model, train.unwrap(), Some(valid), None, 0.0, seed).unwrap())
        }
        Kind::Bert => {
            let config = ModelConfig::Bert(BertConfig {
                vocab_size: size.vocab,
                hidden_size: size.width,
                num_hidden_layers: size.layers,
                num_attention_heads: 2,
                intermediate_size: 4 * size.width,
                hidden_dropout_prob: size.dropout,
                attention_probs_dropout_prob: size.dropout,
                max_position_embeddings: size.context + 2,
                ..BertConfig::default()
            });
            let masking = Masking {
                probability: 0.15,
                mask_id: 2,
                frame: Some((0, 1)),
                special: (0..size.vocab).map(|id| id < 3).collect(),
                continues: None,
            };
            let train =
                LmBatches::new(text(size, 1), size.batch, size.context, Sampling::Shuffled, seed);
            let model = models::build(&config, seed).unwrap();
            let valid = text(Size { tokens: 61, ..size }, 2);
            let (train, masking) = (train.unwrap(), Some(masking));
            Box::new(LmTask::new(model, train, Some(valid), masking, 0.0, seed).unwrap())
        }
        Kind::Classify => {
            let body = models::build(&gpt(size), seed).unwrap();
            let labels = vec!["even".to_owned(), "odd".to_owned()];
            let model = SequenceClassifier::new(body, labels, seed).unwrap();
            let examples = |n: usize, seed: u64| {
                let mut rng = Rng::new(seed, 1);
                let mut all = Examples::default();
                for _ in 0..n {
                    let len = 1 + rng.below(size.context);
                    let ids: Vec<u32> = (0..len).map(|_| rng.below(size.vocab) as u32).collect();
                    all.labels.push(ids[len - 1] % 2);
                    all.texts.push(Sentence {
                        token_type_ids: vec![0; len],
                        ids,
                        ..Sentence::default()
                    });
                }
                all
            };
            let options = ClassifyOptions {
                batch_size: size.batch,
                seed,
                label_smoothing: 0.0,
                class_weights: Some(vec![1.0, 1.5]),
                strategy: Strategy {
                    layerwise_lr_decay: 0.9,
                    gradual_unfreezing: true,
                    ..Strategy::default()
                },
                pad_id: 0,
            };
            let (train, valid) = (examples(25, 3), examples(10, 4));
            Box::new(ClassifyTask::new(Box::new(model), train, Some(valid), options).unwrap())
        }
    }
}

/// The settings of a 30-step run: accumulation, warm-up, an epoch border, evaluations.
pub fn config(steps: u64) -> TrainerConfig {
    TrainerConfig {
        max_steps: Some(steps),
        batch_size: 3,
        gradient_accumulation_steps: 2,
        learning_rate: 1e-2,
        min_learning_rate: 1e-3,
        warmup_steps: 5.0,
        eval_steps: 7,
        save_steps: 0,
        save_total_limit: 0,
        logging_steps: 2,
        max_grad_norm: 0.5,
        seed: 5,
        threads: 1,
        ..TrainerConfig::pretraining()
    }
}

/// A file system that does not wait for the disk.
pub struct Fast;

impl Fs for Fast {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir_all(path)
    }
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        Disk.write(path, data)
    }
    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        Disk.append(path, data)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        Disk.truncate(path, len)
    }
    fn sync(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        Disk.remove_dir_all(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.list(path)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        Disk.len(path)
    }
    fn exists(&self, path: &Path) -> bool {
        Disk.exists(path)
    }
}

/// Advances a clock by a second a step, and asks the run to stop after some step.
pub struct Ticker {
    pub steps: Arc<AtomicU64>,
    pub stop: Arc<AtomicBool>,
    pub stop_at: Option<u64>,
    pub warnings: Vec<String>,
}

impl Ticker {
    pub fn new(stop_at: Option<u64>) -> Ticker {
        let (steps, stop) = (Arc::default(), Arc::default());
        Ticker { steps, stop, stop_at, warnings: Vec::new() }
    }

    /// A control with this clock and the fast file system.
    pub fn control(&mut self) -> Control<'_> {
        let (steps, stop) = (self.steps.clone(), self.stop.clone());
        let mut control = Control::new(self);
        control.clock = Box::new(move || steps.load(Relaxed) as f64);
        control.stop = stop;
        control.fs = Arc::new(Fast);
        control
    }
}

impl Observer for Ticker {
    fn step(&mut self, record: &StepRecord) {
        self.steps.fetch_add(1, Relaxed);
        if self.stop_at == Some(record.step) {
            self.stop.store(true, Relaxed);
        }
    }

    fn warning(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
    }
}

/// A task whose loss at one cursor (or from it on) is not a number, and that may have a layer nobody uses.
pub struct Faulty {
    pub inner: Box<dyn Task>,
    pub at: Cursor,
    pub unused: Option<Linear>,
    /// What the loss is multiplied by there.
    pub factor: f64,
    /// At every later cursor too.
    pub for_ever: bool,
    /// The loss stays finite, its gradient does not.
    pub backward_only: bool,
}

impl Faulty {
    pub fn new(inner: Box<dyn Task>, at: Cursor) -> Faulty {
        Faulty { inner, at, unused: None, factor: f64::NAN, for_ever: false, backward_only: false }
    }
}

impl Module for Faulty {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.inner.module().visit(v);
        if let Some(unused) = &self.unused {
            v.module("unused", unused);
        }
    }
}

impl Task for Faulty {
    fn module(&self) -> &dyn Module {
        self
    }
    fn batches_per_epoch(&self) -> u64 {
        self.inner.batches_per_epoch()
    }
    fn loss(&mut self, at: Cursor) -> Result<Loss> {
        let mut loss = self.inner.loss(at)?;
        let later = (at.epoch, at.index) > (self.at.epoch, self.at.index);
        if at == self.at || (self.for_ever && later) {
            // The slope of √x at 0 is infinite, and 0 times it is not a number.
            loss.loss = match self.backward_only {
                true => loss.loss.add(&loss.loss.mul_scalar(0.0)?.sqrt()?)?,
                false => loss.loss.mul_scalar(self.factor)?,
            };
        }
        Ok(loss)
    }
    fn begin_step(&mut self) {
        self.inner.begin_step();
    }
    fn abandon_step(&mut self) {
        self.inner.abandon_step();
    }
    fn carried(&self) -> Vec<(String, Tensor)> {
        self.inner.carried()
    }
    fn restore_carried(&mut self, carried: &[(String, Tensor)]) -> Result<()> {
        self.inner.restore_carried(carried)
    }
    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        self.inner.evaluate(progress)
    }
    fn metric(&self) -> Metric {
        self.inner.metric()
    }
    fn lr_scale(&self, name: &str) -> f64 {
        self.inner.lr_scale(name)
    }
    fn begin_epoch(&mut self, epoch: u64) {
        self.inner.begin_epoch(epoch);
    }
    fn fingerprint(&self) -> u64 {
        self.inner.fingerprint()
    }
    fn describe(&self, header: &mut Header) {
        self.inner.describe(header);
    }
    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.inner.write_folder(write)
    }
    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        self.inner.read_folder(read)
    }
}

/// A new folder for a test, in memory where the system has such a place: thousands of files come and go.
pub fn folder(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = place.join(format!("handloom-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// All weights as bits.
pub fn bits(module: &dyn Module) -> Vec<(String, Vec<u32>)> {
    let one = |(name, value): (String, Tensor)| {
        (name, value.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect())
    };
    module.state_dict().into_iter().map(one).collect()
}
