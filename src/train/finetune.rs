//! Fine-tuning: from a pretrained model, or from scratch, to a task.
//!
//! `compare_scratch` runs both on the same seeds, and `seeds` repeats each: what pretraining bought is a
//! difference with a spread, not a number. A series of runs lives in one folder, a run folder for each; what
//! is finished is not run again when the series is resumed.

mod classify;
mod series;
mod start;
mod tag;
mod words;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::adapters::LoraConfig;
use super::config::{self, TrainerConfig};
use super::control::{Control, in_pool};
use super::labelled::Columns;
use super::pretrain::{self, ModelShape, PretrainConfig, command_of, saved_config};
use super::report::Report;
use crate::error::{Error, Result};

/// The tasks on labelled data, by name: each reads its data and makes itself ready for a series of runs.
const TASKS: &[(&str, series::Prepare)] =
    &[("classify", classify::prepare), ("ner", tag::prepare_ner), ("srl", tag::prepare_srl)];

/// Everything about a fine-tuning; the fields are the flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// `classify`, `ner`, `srl`, or `lm` to go on with language modelling on the task's own text.
    pub task: String,
    /// The pretrained model: a model or run folder.
    pub from: Option<PathBuf>,
    /// Without `from`: the size of a new model.
    pub scratch: Option<String>,
    /// With `scratch`: `gpt`, `bert`, `rnn`, `lstm` or `gru`.
    pub model: String,
    /// With `scratch`: changes to the size. Dropout counts with `from` too.
    #[serde(flatten)]
    pub shape: ModelShape,
    /// With `scratch`: the tokenizer, as for pretraining, or `word`: words and characters.
    pub tokenizer: Option<String>,
    /// Label files to train on.
    pub train: Vec<PathBuf>,
    /// Label files to choose the best step by.
    pub validation: Vec<PathBuf>,
    /// Where `validation` is empty: the share of each class that is kept for it; 0: none.
    pub validation_fraction: f64,
    /// Label files to report on at the end, with the best model.
    pub test: Vec<PathBuf>,
    /// Where the columns are.
    #[serde(flatten)]
    pub columns: Columns,
    /// Texts are cut to this many tokens; by default what the model reads, at most 256.
    pub max_length: Option<usize>,
    /// Train on this many rows only, as many of each class as can be.
    pub limit: Option<usize>,
    /// What does not learn: `embeddings`, `body`, `0-3`, a part of a name.
    pub freeze: Vec<String>,
    /// The learning rate of a layer relative to the one above.
    pub layerwise_lr_decay: f64,
    /// One more layer learns each epoch, from the top.
    pub gradual_unfreezing: bool,
    /// `none`, or `balanced`: rare classes count as much as frequent ones.
    pub class_weights: String,
    /// Tagging: a conditional random field decides about the tags of a sentence together.
    pub crf: bool,
    /// Adapters instead of all weights.
    #[serde(flatten)]
    pub lora: LoraConfig,
    /// Also train the same model from scratch on the same seeds.
    pub compare_scratch: bool,
    /// Repeat with so many seeds, counting up from `seed`.
    pub seeds: u64,
    /// The folder of the run, or of the series of runs.
    pub out: PathBuf,
    /// How to train.
    #[serde(flatten)]
    pub trainer: TrainerConfig,
}

impl Default for FinetuneConfig {
    fn default() -> FinetuneConfig {
        FinetuneConfig {
            task: "classify".into(),
            from: None,
            scratch: None,
            model: "gpt".into(),
            shape: ModelShape::default(),
            tokenizer: None,
            train: Vec::new(),
            validation: Vec::new(),
            validation_fraction: 0.1,
            test: Vec::new(),
            columns: Columns::default(),
            max_length: None,
            limit: None,
            freeze: Vec::new(),
            layerwise_lr_decay: 1.0,
            gradual_unfreezing: false,
            class_weights: "none".into(),
            crf: false,
            lora: LoraConfig::default(),
            compare_scratch: false,
            seeds: 1,
            out: "runs/finetune".into(),
            trainer: TrainerConfig::finetuning(),
        }
    }
}

/// Where a run started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// A pretrained model.
    Pretrained,
    /// First values.
    Scratch,
}

impl Arm {
    /// `pretrained` or `scratch`.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Pretrained => "pretrained",
            Arm::Scratch => "scratch",
        }
    }
}

/// One finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneRun {
    /// Where it started from.
    pub arm: Arm,
    /// Its seed.
    pub seed: u64,
    /// Steps done.
    pub steps: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// The figure that decided, by name.
    pub metric: String,
    /// Step and value of the best evaluation.
    pub best: Option<(u64, f64)>,
    /// The best model on the test set.
    pub test: Option<Report>,
    /// The run folder; the best model is in its `best/`.
    pub out: PathBuf,
}

impl FinetuneRun {
    /// The figure that runs are compared by: the test set's where there is one, else the best on the
    /// validation set.
    pub fn value(&self) -> Option<f64> {
        match &self.test {
            Some(test) => Some(test.value()),
            None => self.best.map(|(_, value)| value),
        }
    }
}

/// What a fine-tuning came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FinetuneReport {
    /// The runs: all seeds of one arm, then of the other.
    pub runs: Vec<FinetuneRun>,
}

impl FinetuneReport {
    /// The deciding figure of an arm over its seeds, sorted.
    pub fn values(&self, arm: Arm) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.arm == arm);
        sorted(runs.filter_map(FinetuneRun::value).collect())
    }

    /// What pretraining bought: the deciding figure of the pretrained run less that of the run from scratch,
    /// seed by seed, sorted. Empty where only one arm was run.
    pub fn differences(&self) -> Vec<f64> {
        let of = |arm, seed| {
            let run = self.runs.iter().find(|run| run.arm == arm && run.seed == seed);
            run.and_then(FinetuneRun::value)
        };
        let pretrained = self.runs.iter().filter(|run| run.arm == Arm::Pretrained);
        let pairs = pretrained.filter_map(|run| Some(run.value()? - of(Arm::Scratch, run.seed)?));
        sorted(pairs.collect())
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The median of sorted values.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
}

/// The configuration that `given` pairs make over the defaults. A reader of words (`tokenizer = "word"`) starts
/// from nothing: what is left open there is 15 epochs of 16 sentences a batch at a rate of 2e-3, evaluated
/// every 500 steps.
///
/// # Errors
/// [`Error::Usage`] for an unknown key or a value of the wrong kind.
pub fn settle(mut given: Map<String, Value>) -> Result<FinetuneConfig> {
    if given.get("tokenizer").and_then(Value::as_str) == Some("word") {
        let mut open = vec![
            ("learning_rate", Value::from(2e-3)),
            ("batch_size", 16.into()),
            ("eval_steps", 500.into()),
        ];
        if !["max_steps", "epochs", "budget"].iter().any(|key| given.contains_key(*key)) {
            open.push(("epochs", 15.0.into()));
        }
        for (key, value) in open {
            if !given.contains_key(key) {
                given.insert(key.into(), value);
            }
        }
    }
    config::resolve(&given)
}

/// Runs a fine-tuning, or a series of them.
///
/// # Errors
/// [`Error::Usage`] and [`Error::Data`] before anything is written when configuration or data make no
/// sense; else as [`Trainer::run`].
pub fn run(config: &FinetuneConfig, control: &mut Control<'_>) -> Result<FinetuneReport> {
    start(config, control, false)
}

/// Goes on with the run or series in `dir`. `changes` are settings to replace; only those that do not touch
/// model and data may be.
///
/// # Errors
/// As [`run`]; [`Error::Data`] when there is no run.
pub fn resume(
    dir: &Path,
    changes: &Map<String, Value>,
    control: &mut Control<'_>,
) -> Result<FinetuneReport> {
    // `--task lm` is a pretraining, and its folder that of one.
    if !command_of(dir, control)?.contains_key("task") {
        return pretrain::resume(dir, changes, control)
            .map(|report| of_language_model(report, dir));
    }
    let mut config: FinetuneConfig = saved_config(dir, changes, control)?;
    config.out = dir.to_owned();
    start(&config, control, true)
}

fn start(
    config: &FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<FinetuneReport> {
    if config.task == "lm" {
        return language_model(config, control);
    }
    let Some((_, prepare)) = TASKS.iter().find(|(name, _)| *name == config.task) else {
        let names: Vec<&str> = TASKS.iter().map(|(name, _)| *name).collect();
        return Err(Error::Usage(format!(
            "--task {}: there are {} and lm",
            config.task,
            names.join(", ")
        )));
    };
    config.trainer.validate()?;
    in_pool(config.trainer.threads, || series::run(config, *prepare, control, resume))?
}

/// `--task lm`: pretraining goes on with other text.
fn language_model(config: &FinetuneConfig, control: &mut Control<'_>) -> Result<FinetuneReport> {
    if config.from.is_none() {
        return Err(Error::Usage(
            "--task lm goes on with a language model; give --from DIR".into(),
        ));
    }
    let pretrain = PretrainConfig {
        from: config.from.clone(),
        shape: config.shape.clone(),
        train: config.train.clone(),
        validation: config.validation.clone(),
        validation_fraction: config.validation_fraction,
        columns: config.columns.clone(),
        lora: config.lora.clone(),
        out: config.out.clone(),
        trainer: config.trainer.clone(),
        ..PretrainConfig::default()
    };
    let report = pretrain::run(&pretrain, control)?;
    Ok(of_language_model(report, &config.out))
}

/// The report of a pretraining as that of a series of one run.
fn of_language_model(report: pretrain::PretrainReport, out: &Path) -> FinetuneReport {
    let run = FinetuneRun {
        arm: Arm::Pretrained,
        seed: report.seed,
        steps: report.train.steps,
        elapsed_s: report.train.elapsed_s,
        metric: report.train.metric.to_owned(),
        best: report.train.best,
        test: None,
        out: out.to_owned(),
    };
    FinetuneReport { runs: vec![run] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_words_has_defaults_of_its_own() {
        let settled = |pairs: &[(&str, Value)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            settle(pairs.collect()).unwrap().trainer
        };
        let plain = settled(&[("tokenizer", "char".into())]);
        assert_eq!(plain, FinetuneConfig::default().trainer);
        let words = settled(&[("tokenizer", "word".into())]);
        assert_eq!((words.learning_rate, words.epochs, words.batch_size), (2e-3, Some(15.0), 16));
        let given = settled(&[
            ("tokenizer", "word".into()),
            ("learning_rate", 1e-3.into()),
            ("max_steps", 7.into()),
        ]);
        assert_eq!((given.learning_rate, given.max_steps), (1e-3, Some(7)));
    }

    #[test]
    fn differences_go_seed_by_seed() {
        let run = |arm, seed, value| FinetuneRun {
            arm,
            seed,
            steps: 1,
            elapsed_s: 1.0,
            metric: "f1".into(),
            best: Some((1, value)),
            test: None,
            out: PathBuf::new(),
        };
        let (a, b) = (Arm::Pretrained, Arm::Scratch);
        let runs = vec![run(a, 1, 0.75), run(a, 2, 0.5), run(b, 1, 0.25), run(b, 2, 0.25)];
        assert_eq!(FinetuneReport { runs }.differences(), [0.25, 0.5]);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
    }
}
