//! Classification of whole texts, or of pairs of texts.
//!
//! The body reads the tokens; what it makes of them is pooled into one vector (last token for gpt, the pooler
//! for bert, last, maximum and mean for recurrent bodies) and a linear layer gives one logit a class. A
//! classifier of words and characters does without a body. Texts of similar length share a batch. Class weights multiply each row's loss by the weight of its class, which
//! lets rare classes count.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Loss, Metric, Task, tag};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{Classifier, Sentence};
use crate::nn::Module;
use crate::ops::{CrossEntropy, Reduction, cross_entropy};
use crate::tensor::Tensor;
use crate::train::data::{Cursor, bucketed};
use crate::train::metrics::Confusion;
use crate::train::observer::{Figures, Header};
use crate::train::pretrained::{Extras, read_labels, write_labels};
use crate::train::report::{Cell, Report, Table};
use crate::train::strategy::Strategy;

/// Texts with one label each.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// The tokens, or words.
    pub texts: Vec<Sentence>,
    /// The class of each.
    pub labels: Vec<u32>,
    /// Rows of the file whose label the model does not know. They count as wrong.
    pub unseen: u64,
    /// Texts that were cut to the longest length.
    pub truncated: u64,
}

impl Examples {
    /// How many texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Weights that let each class count alike: `n / (classes · n_class)`.
    pub fn balanced_weights(&self, classes: usize) -> Vec<f32> {
        let mut counts = vec![0u64; classes];
        self.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let share = self.len() as f32 / classes as f32;
        counts.iter().map(|&n| if n == 0 { 1.0 } else { share / n as f32 }).collect()
    }
}

/// Classes beyond which the confusion matrix says nothing to the eye.
const MATRIX: usize = 12;

/// How well a classifier does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    /// The mean loss in nats.
    pub loss: f64,
    /// The names of the classes.
    pub labels: Vec<String>,
    /// Gold classes by predicted classes.
    pub confusion: Confusion,
    /// Rows whose label the model does not know. They count as wrong.
    pub unseen: u64,
    /// Texts that were cut.
    pub truncated: u64,
}

impl ClassificationReport {
    /// Rows, unseen labels included.
    pub fn rows(&self) -> u64 {
        self.confusion.total() + self.unseen
    }

    /// The share of rows that is right.
    pub fn accuracy(&self) -> f64 {
        let seen = self.confusion.total() as f64;
        self.confusion.accuracy() * seen / (seen + self.unseen as f64).max(1.0)
    }

    /// `loss`, `accuracy`, `macro_f1`, `micro_f1`; the first one called `val_loss` while training.
    pub fn figures(&self, loss_name: &'static str) -> Figures {
        Figures(vec![
            (loss_name, self.loss),
            ("accuracy", self.accuracy()),
            ("macro_f1", self.confusion.macro_f1()),
            (
                "micro_f1",
                if self.unseen == 0 { self.confusion.micro_f1() } else { self.accuracy() },
            ),
        ])
    }

    /// The form that all tasks share: the table of classes and, for few of them, the confusion matrix.
    pub fn report(&self) -> Report {
        let score = |c: usize| self.confusion.class(c);
        let class = |c: usize| {
            let score = score(c);
            let figures = [score.precision, score.recall, score.f1].map(Cell::Number);
            let name = Cell::Text(self.labels[c].clone());
            [name].into_iter().chain(figures).chain([Cell::Count(score.support)]).collect()
        };
        let n = self.labels.len();
        let head = ["class", "precision", "recall", "f1", "rows"].map(String::from).to_vec();
        let mut tables = vec![Table { head, rows: (0..n).map(class).collect() }];
        if n <= MATRIX {
            let row = |gold: usize| {
                let counts = (0..n).map(|p| Cell::Count(self.confusion.count(gold, p)));
                [Cell::Text(self.labels[gold].clone())].into_iter().chain(counts).collect()
            };
            let corner = "gold \\ predicted".to_owned();
            let head = [corner].into_iter().chain(self.labels.iter().cloned()).collect();
            tables.push(Table { head, rows: (0..n).map(row).collect() });
        }
        let mut remarks = Vec::new();
        if self.unseen > 0 {
            remarks.push(format!(
                "{} rows have a label that the model does not know; they count as wrong",
                self.unseen
            ));
        }
        if self.truncated > 0 {
            remarks.push(format!("{} texts were cut to the longest input", self.truncated));
        }
        Report {
            metric: "accuracy".into(),
            figures: self.figures("loss").named(),
            tables,
            remarks,
            json: self.to_json(),
        }
    }

    /// Everything, for `--json`.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut all = self.figures("loss").to_json();
        all.insert("rows".into(), json!(self.rows()));
        let classes = self.labels.iter().enumerate().map(|(c, label)| {
            let mut class = Map::new();
            class.insert("label".into(), json!(label));
            if let Ok(Value::Object(scores)) = serde_json::to_value(self.confusion.class(c)) {
                class.extend(scores);
            }
            Value::Object(class)
        });
        all.insert("classes".into(), classes.collect());
        let rows = (0..self.labels.len()).map(|gold| {
            (0..self.labels.len()).map(|p| self.confusion.count(gold, p)).collect::<Vec<u64>>()
        });
        all.insert("confusion".into(), json!(rows.collect::<Vec<_>>()));
        if self.unseen > 0 {
            all.insert("unseen_labels".into(), json!(self.unseen));
        }
        if self.truncated > 0 {
            all.insert("truncated".into(), json!(self.truncated));
        }
        all
    }
}

/// What it takes to train a classifier.
pub struct ClassifyTask {
    model: Box<dyn Classifier>,
    train: Examples,
    valid: Option<Examples>,
    lengths: Vec<usize>,
    batch: usize,
    seed: u64,
    label_smoothing: f64,
    class_weights: Option<Tensor>,
    strategy: Strategy,
    pad_id: u32,
    /// The batches of one epoch, made when the epoch begins.
    order: Option<(u64, Vec<Vec<usize>>)>,
    extras: Extras,
}

/// What a [`ClassifyTask`] can be told.
#[derive(Clone, Debug)]
pub struct ClassifyOptions {
    /// Sequences of a batch.
    pub batch_size: usize,
    /// The seed of the order.
    pub seed: u64,
    /// The share of the target's mass that goes to all classes alike.
    pub label_smoothing: f64,
    /// One weight a class.
    pub class_weights: Option<Vec<f32>>,
    /// What learns how fast.
    pub strategy: Strategy,
    /// The id that fills short rows: Hugging Face's GPT-2 finds the end of a text by it.
    pub pad_id: u32,
}

impl ClassifyTask {
    /// Trains `model` on `train` and evaluates on `valid`.
    ///
    /// # Errors
    /// When there is nothing to train on, or the options name what the model does not have.
    pub fn new(
        model: Box<dyn Classifier>,
        train: Examples,
        valid: Option<Examples>,
        options: ClassifyOptions,
    ) -> Result<ClassifyTask> {
        if train.is_empty() {
            return Err(Error::Data("there is no example to train on".into()));
        }
        options.strategy.freeze(&*model, model.num_layers())?;
        let class_weights = match &options.class_weights {
            Some(weights) => Some(Tensor::from_slice(weights, weights.len())?),
            None => None,
        };
        Ok(ClassifyTask {
            lengths: train.texts.iter().map(|row| row.ids.len()).collect(),
            model,
            train,
            valid: valid.filter(|valid| !valid.is_empty()),
            batch: options.batch_size.max(1),
            seed: options.seed,
            label_smoothing: options.label_smoothing,
            class_weights,
            strategy: options.strategy,
            pad_id: options.pad_id,
            order: None,
            extras: Extras::default(),
        })
    }

    /// Adds files (the tokenizer) to every folder the model is saved in.
    pub fn with_extras(mut self, extras: Extras) -> ClassifyTask {
        self.extras = extras;
        self
    }

    /// The classifier.
    pub fn model(&self) -> &dyn Classifier {
        &*self.model
    }

    /// Tokens, or words, of a text of the training set.
    fn mean_length(&self) -> usize {
        let all: u64 = self.train.texts.iter().map(tokens).sum();
        (all as usize / self.train.len().max(1)).max(1)
    }

    /// What `config.json` says beside the model's own.
    fn extra(&self) -> Map<String, Value> {
        let mut extra = Map::new();
        if self.model.kind() == "gpt" {
            extra.insert("pad_token_id".into(), self.pad_id.into());
        }
        extra
    }

    /// Evaluates the classifier as it is on other examples.
    ///
    /// # Errors
    /// When the forward pass fails.
    pub fn test(
        &self,
        examples: &Examples,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<ClassificationReport> {
        evaluate(&*self.model, examples, self.batch, progress)
    }
}

/// Tokens, or words, of a text.
fn tokens(text: &Sentence) -> u64 {
    if text.words > 0 { text.words as u64 } else { text.ids.len() as u64 }
}

/// Runs `model` over `examples`, the longest texts together.
///
/// # Errors
/// When the forward pass fails or there is nothing to evaluate.
pub fn evaluate(
    model: &dyn Classifier,
    examples: &Examples,
    batch: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ClassificationReport> {
    let classes = model.labels().len();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&i| examples.texts[i].ids.len());
    let mut losses = vec![0.0f64; examples.len()];
    let mut confusion = Confusion::new(classes);
    let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
    let mut done = 0;
    for chunk in order.chunks(batch.max(1)) {
        let rows: Vec<&Sentence> = chunk.iter().map(|&i| &examples.texts[i]).collect();
        let gold: Vec<u32> = chunk.iter().map(|&i| examples.labels[i]).collect();
        no_grad(|| -> Result<()> {
            let logits = model.scores(&rows)?;
            let targets = Tensor::from_slice(&gold, gold.len())?;
            let loss = cross_entropy(&logits, &targets, &options)?;
            for (&i, loss) in chunk.iter().zip(loss.to_f64_vec()?) {
                losses[i] = loss;
            }
            for (gold, row) in gold.iter().zip(logits.to_vec::<f32>()?.chunks(classes)) {
                confusion.add(*gold as usize, crate::train::sampling::argmax(row) as usize);
            }
            Ok(())
        })?;
        done += chunk.len() as u64;
        progress(done, examples.len() as u64);
    }
    if examples.is_empty() {
        return Err(Error::Data("there is no example to evaluate on".into()));
    }
    // Summed in the order of the file, whatever the batches were.
    let loss = losses.iter().sum::<f64>() / examples.len() as f64;
    Ok(ClassificationReport {
        loss,
        labels: model.labels().to_vec(),
        confusion,
        unseen: examples.unseen,
        truncated: examples.truncated,
    })
}

impl Task for ClassifyTask {
    fn module(&self) -> &dyn Module {
        &*self.model
    }

    fn batches_per_epoch(&self) -> u64 {
        // Pools of 50 batches are cut on their own, but 50 is a whole number of batches.
        self.train.len().div_ceil(self.batch) as u64
    }

    fn loss(&mut self, at: Cursor) -> Result<Loss> {
        if self.order.as_ref().is_none_or(|(epoch, _)| *epoch != at.epoch) {
            self.order = Some((at.epoch, bucketed(&self.lengths, self.batch, self.seed, at.epoch)));
        }
        let Some((_, batches)) = &self.order else { unreachable!("just made") };
        let chosen = &batches[at.index as usize];
        let stream = at.epoch.wrapping_mul(self.batches_per_epoch()) + at.index;
        let rows = tag::read(&self.train.texts, chosen, self.seed, stream);
        let rows: Vec<&Sentence> = rows.iter().collect();
        let gold: Vec<u32> = chosen.iter().map(|&i| self.train.labels[i]).collect();
        let logits = self.model.scores(&rows)?;
        let weights = &self.class_weights;
        let weights = weights.as_ref().map(|w| w.to_device(logits.device())).transpose()?;
        let options = CrossEntropy {
            label_smoothing: self.label_smoothing,
            weight: weights,
            ..CrossEntropy::default()
        };
        let targets = Tensor::from_slice(&gold, gold.len())?;
        let loss = cross_entropy(&logits, &targets, &options)?;
        let tokens = rows.iter().map(|row| tokens(row)).sum();
        Ok(Loss { loss, count: gold.len() as u64, tokens })
    }

    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        match &self.valid {
            Some(valid) => Ok(Some(self.test(valid, progress)?.figures("val_loss"))),
            None => Ok(None),
        }
    }

    fn metric(&self) -> Metric {
        Metric { name: "accuracy", greater_is_better: true }
    }

    fn lr_scale(&self, name: &str) -> f64 {
        self.strategy.lr_scale(name, self.model.num_layers())
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.strategy.begin_epoch(&*self.model, self.model.num_layers(), epoch);
    }

    fn forward_flops_per_token(&self) -> u64 {
        let mean = self.mean_length();
        self.model.forward_flops(1, mean) / mean as u64
    }

    fn fingerprint(&self) -> u64 {
        let mut all = Vec::new();
        for (row, label) in self.train.texts.iter().zip(&self.train.labels) {
            row.ids.iter().chain([label]).for_each(|id| all.extend_from_slice(&id.to_le_bytes()));
        }
        crate::text::hash::hash_bytes(&all)
    }

    fn describe(&self, header: &mut Header) {
        header.title = format!("fine-tune {} (classify)", self.model.kind());
        header.model =
            serde_json::from_str(&self.model.config_json(&self.extra())).unwrap_or_default();
        header.data.push(("train examples".into(), self.train.len() as u64));
        if let Some(valid) = &self.valid {
            header.data.push(("validation examples".into(), valid.len() as u64));
        }
        header.data.push(("classes".into(), self.model.labels().len() as u64));
        if self.train.truncated > 0 {
            header.data.push(("texts cut to the longest length".into(), self.train.truncated));
        }
        header.memory.activations = self.model.activations(self.batch, self.mean_length());
    }

    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.extras.write(write)?;
        write_labels(&*self.model, &self.extra(), write)
    }

    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        read_labels(&*self.model, read)
    }
}
