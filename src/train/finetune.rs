//! Fine-tuning: from a pretrained model, or from scratch, to a task.
//!
//! `compare_scratch` runs both on the same seeds, and `seeds` repeats each: what pretraining bought is a
//! difference with a spread, not a number. A series of runs lives in one folder, a run folder for each; what
//! is finished is not run again when the series is resumed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::{self, TrainerConfig};
use super::control::{Control, in_pool};
use super::labelled::{Columns, align, examples};
use super::pretrain::{self, ModelShape, PretrainConfig, open_run, saved_config};
use super::pretrained::{self, Extras, TOKENIZER};
use super::strategy::Strategy;
use super::tasks::classify::{ClassificationReport, ClassifyOptions, ClassifyTask};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::models::{self, ModelConfig, SequenceClassifier};
use crate::text::labelled::{LabelledSet, overlap};
use crate::text::{Tokenizer, TokenizerKind};

/// Everything about a fine-tuning; the fields are the flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// `classify`, or `lm` to go on with language modelling on the task's own text.
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
    /// With `scratch`: the tokenizer, as for pretraining.
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
    pub test: Option<ClassificationReport>,
    /// The run folder; the best model is in its `best/`.
    pub out: PathBuf,
}

/// What a fine-tuning came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FinetuneReport {
    /// The runs: all seeds of one arm, then of the other.
    pub runs: Vec<FinetuneRun>,
}

impl FinetuneReport {
    /// The deciding figure of an arm over its seeds: the test accuracy where there is a test set, else the
    /// best validation figure. Sorted.
    pub fn values(&self, arm: Arm) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.arm == arm);
        let mut all: Vec<f64> = runs
            .filter_map(|run| match &run.test {
                Some(test) => Some(test.accuracy()),
                None => run.best.map(|(_, value)| value),
            })
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// The median of sorted values.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
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
    let mut config: FinetuneConfig = saved_config(dir, changes, control)?;
    config.out = dir.to_owned();
    start(&config, control, true)
}

fn start(
    config: &FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<FinetuneReport> {
    match config.task.as_str() {
        "classify" => {}
        "lm" => return language_model(config, control, resume),
        other => {
            return Err(Error::Usage(format!("--task {other}: there are classify and lm")));
        }
    }
    config.trainer.validate()?;
    in_pool(config.trainer.threads, || series(config, control, resume))?
}

fn series(
    config: &FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<FinetuneReport> {
    let arms: &[Arm] = match (&config.from, &config.scratch, config.compare_scratch) {
        (Some(_), Some(_), _) => {
            return Err(Error::Usage(
                "--from and --scratch exclude each other; --compare-scratch runs both".into(),
            ));
        }
        (None, None, _) => {
            return Err(Error::Usage(
                "where to start? give --from DIR (a pretrained model) or --scratch SIZE".into(),
            ));
        }
        (None, Some(_), true) => {
            return Err(Error::Usage("--compare-scratch needs --from, to compare with".into()));
        }
        (Some(_), None, true) => &[Arm::Pretrained, Arm::Scratch],
        (Some(_), None, false) => &[Arm::Pretrained],
        (None, Some(_), false) => &[Arm::Scratch],
    };
    if config.seeds == 0 {
        return Err(Error::Usage("--seeds 0: must be at least 1".into()));
    }
    let start = Start::prepare(config, control, resume)?;
    let many = arms.len() > 1 || config.seeds > 1;
    let mut report = FinetuneReport::default();
    if many {
        let there = control.fs.exists(&config.out.join("config.toml"));
        if there && !resume {
            return Err(Error::Usage(format!(
                "{} holds a series of runs already; go on with it by --resume, or choose another --out",
                config.out.display()
            )));
        }
        let out = &config.out;
        control.fs.create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
        let text = config::to_toml(&config::to_map(config));
        crate::models::safetensors::write_atomic(&out.join("config.toml"), text.as_bytes())?;
    }
    for &arm in arms {
        for seed in (0..config.seeds).map(|i| config.trainer.seed + i) {
            let out = match many {
                true => config.out.join(format!("{}-seed{seed}", arm.name())),
                false => config.out.clone(),
            };
            report.runs.push(start.one(arm, seed, out, resume, control)?);
        }
    }
    Ok(report)
}

/// `--task lm`: pretraining goes on with other text.
fn language_model(
    config: &FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<FinetuneReport> {
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
        encoding: config.columns.encoding.clone().unwrap_or_else(|| "utf8".into()),
        out: config.out.clone(),
        trainer: config.trainer.clone(),
        ..PretrainConfig::default()
    };
    let report = match resume {
        true => pretrain::resume(&config.out, &Map::new(), control)?,
        false => pretrain::run(&pretrain, control)?,
    };
    let run = FinetuneRun {
        arm: Arm::Pretrained,
        seed: config.trainer.seed,
        steps: report.train.steps,
        elapsed_s: report.train.elapsed_s,
        metric: report.train.metric.to_owned(),
        best: report.train.best,
        test: None,
        out: config.out.clone(),
    };
    Ok(FinetuneReport { runs: vec![run] })
}

/// What the runs of a series share.
struct Start<'a> {
    config: &'a FinetuneConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    labels: Vec<String>,
    max_length: usize,
    train: LabelledSet,
    valid: Option<(LabelledSet, u64)>,
    test: Option<(LabelledSet, u64)>,
}

impl<'a> Start<'a> {
    fn prepare(
        config: &'a FinetuneConfig,
        control: &mut Control<'_>,
        resume: bool,
    ) -> Result<Start<'a>> {
        if config.train.is_empty() {
            return Err(Error::Usage("no examples to train on; give --train FILE".into()));
        }
        if !matches!(config.class_weights.as_str(), "none" | "balanced") {
            let given = &config.class_weights;
            return Err(Error::Usage(format!(
                "--class-weights {given}: there are none and balanced"
            )));
        }
        let decay = config.layerwise_lr_decay;
        if !(decay > 0.0 && decay <= 1.0) {
            return Err(Error::Usage(format!(
                "--layerwise-lr-decay {decay}: must be above 0 and at most 1; 1 changes nothing"
            )));
        }
        let mut train = config.columns.read(&config.train)?;
        train.check_trainable()?;
        let labels = train.labels.clone();
        let mut read = |files: &[PathBuf]| -> Result<Option<(LabelledSet, u64)>> {
            if files.is_empty() {
                return Ok(None);
            }
            let mut set = config.columns.read(files)?;
            let (unseen, sentence) = align(&mut set, &labels);
            if let Some(sentence) = sentence {
                control.observer.warning(&sentence);
            }
            if set.is_empty() {
                return Err(Error::Data(format!(
                    "{}: no row has a label of the training set",
                    set.name
                )));
            }
            Ok(Some((set, unseen)))
        };
        let (mut valid, test) = (read(&config.validation)?, read(&config.test)?);
        for (name, other) in [("validation", &valid), ("test", &test)] {
            let twice = other.as_ref().map_or(0, |(other, _)| overlap(&train, other));
            if twice > 0 {
                control.observer.warning(&format!(
                    "{twice} text(s) of the {name} set also occur in the training set; the score is \
                     too good by that much"
                ));
            }
        }
        if valid.is_none() && config.validation_fraction > 0.0 {
            let (rest, kept) = train.split(config.validation_fraction, config.trainer.seed)?;
            train = rest;
            valid = Some((kept, 0));
        }
        if let Some(n) = config.limit {
            train = train.limit(n, config.trainer.seed)?;
        }
        let from = config.from.as_deref().map(pretrained::model_dir).transpose()?;
        let saved = config.out.join(TOKENIZER);
        let tokenizer = match &from {
            Some(dir) => pretrained::open_tokenizer(dir)?,
            None if resume && saved.is_file() => Tokenizer::from_file(saved)?,
            None => fresh_tokenizer(config, &train, control)?,
        };
        let model = match (&from, &config.scratch) {
            (Some(dir), _) => {
                let (mut model, _) = models::folder::read_config(dir)?;
                if let Some(p) = config.shape.dropout {
                    model.set_dropout(p);
                }
                model
            }
            (None, size) => {
                let size = size.as_deref().unwrap_or("nano");
                config.shape.config(&config.model, size, tokenizer.vocab_size())?
            }
        };
        pretrained::check_vocabulary(&tokenizer, &model)?;
        super::memory::check(&models::estimate_memory(&model, config.trainer.batch_size, 64))?;
        let recurrent = matches!(model, ModelConfig::Rnn(_));
        let longest = if recurrent { usize::MAX } else { model.context_length() };
        let max_length = config.max_length.unwrap_or(256.min(longest));
        if max_length > longest {
            return Err(Error::Usage(format!(
                "--max-length {max_length}: the model reads {longest} tokens at most"
            )));
        }
        Ok(Start { config, tokenizer, model, labels, max_length, train, valid, test })
    }

    /// The classifier before training.
    fn classifier(&self, arm: Arm, seed: u64) -> Result<SequenceClassifier> {
        let body = models::build(&self.model, seed)?;
        if let (Arm::Pretrained, Some(from)) = (arm, &self.config.from) {
            // Only the body is taken over: dropout may differ, heads are made anew.
            let loaded = models::load_pretrained(pretrained::model_dir(from)?, seed)?;
            body.load_state_dict(&loaded.model.state_dict(), false)?;
        }
        SequenceClassifier::new(body, self.labels.clone(), seed)
    }

    fn one(
        &self,
        arm: Arm,
        seed: u64,
        out: PathBuf,
        resume: bool,
        control: &mut Control<'_>,
    ) -> Result<FinetuneRun> {
        let result = out.join("result.json");
        if resume && control.fs.exists(&result) {
            let text = control.fs.read(&result).map_err(|e| Error::io(&result, "read", e))?;
            if let Ok(run) = serde_json::from_slice(&text) {
                return Ok(run);
            }
        }
        let mut config = self.config.clone();
        config.trainer.seed = seed;
        let encode =
            |set: &(LabelledSet, u64)| examples(&set.0, &self.tokenizer, self.max_length, set.1);
        let train = examples(&self.train, &self.tokenizer, self.max_length, 0)?;
        let valid = self.valid.as_ref().map(encode).transpose()?;
        let balanced = config.class_weights == "balanced";
        let options = ClassifyOptions {
            batch_size: config.trainer.batch_size,
            seed,
            label_smoothing: config.trainer.label_smoothing,
            class_weights: balanced.then(|| train.balanced_weights(self.labels.len())),
            strategy: Strategy {
                freeze: config.freeze.clone(),
                layerwise_lr_decay: config.layerwise_lr_decay,
                gradual_unfreezing: config.gradual_unfreezing,
            },
            pad_id: self.tokenizer.pad_id().unwrap_or(0),
        };
        let extras = Extras::tokenizer(&self.tokenizer, self.max_length);
        let task = ClassifyTask::new(self.classifier(arm, seed)?, train, valid, options)?;
        let mut task = task.with_extras(extras);

        let going_on = resume && control.fs.exists(&out.join("checkpoints"));
        let (run, checkpoint) = open_run(&out, going_on, control)?;
        let mut command = config::to_map(&config);
        command.insert("out".into(), out.display().to_string().into());
        run.write_top("config.toml", config::to_toml(&command).as_bytes())?;
        run.write_top(TOKENIZER, self.tokenizer.to_json().as_bytes())?;
        let hint = format!("handloom finetune --resume {}", self.config.out.display());
        let mut trainer =
            Trainer::new(&config.trainer, &mut task, control)?.with_run(run, command, &hint);
        if let Some(checkpoint) = &checkpoint {
            trainer.resume_from(checkpoint)?;
        }
        let report = trainer.run_here()?;
        let run = trainer.into_run();

        let test = match &self.test {
            None => None,
            Some(set) => {
                let best = SequenceClassifier::from_pretrained(out.join("best"))?;
                let set = encode(set)?;
                let pad = self.tokenizer.pad_id().unwrap_or(0);
                let observer = &mut control.observer;
                let progress = &mut |done, total| observer.progress("testing", done, total);
                let batch = config.trainer.batch_size;
                Some(super::tasks::classify::evaluate(&best, &set, batch, pad, progress)?)
            }
        };
        let finished = FinetuneRun {
            arm,
            seed,
            steps: report.steps,
            elapsed_s: report.elapsed_s,
            metric: report.metric.to_owned(),
            best: report.best,
            test,
            out,
        };
        if let Some(run) = run {
            let text = serde_json::to_string_pretty(&finished).unwrap_or_default();
            run.write_top("result.json", text.as_bytes())?;
        }
        Ok(finished)
    }
}

/// A tokenizer for a model from scratch: the named one, or one trained on the training texts.
fn fresh_tokenizer(
    config: &FinetuneConfig,
    train: &LabelledSet,
    control: &mut Control<'_>,
) -> Result<Tokenizer> {
    let default = if config.model == "bert" { "wordpiece:8000" } else { "bpe:4096" };
    let name = config.tokenizer.as_deref().unwrap_or(default);
    let path = Path::new(name);
    if path.is_dir() {
        return pretrained::open_tokenizer(&pretrained::model_dir(path)?);
    }
    if path.is_file() || name.ends_with(".json") {
        return Tokenizer::from_file(path);
    }
    let kind: TokenizerKind = name.parse()?;
    let texts = train
        .rows
        .iter()
        .flat_map(|row| std::iter::once(row.text.clone()).chain(row.text_pair.clone()));
    let observer = &mut control.observer;
    Tokenizer::train(kind, texts.collect::<Vec<_>>(), |progress| {
        observer.progress(progress.stage, progress.done, progress.total)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
    }
}
