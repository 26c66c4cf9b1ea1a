//! Pretraining: from text files to a language model.

pub(super) mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::settings::{ModelShape, PretrainConfig};

use serde::Serialize;
use serde_json::{Map, Value};

use super::checkpoint::{self, RunFolder};
use super::config;
use super::control::{Control, in_pool};
use super::corpus;
use super::data::{LmBatches, Sampling};
use super::generate::write_text;
use super::observer::TrainReport;
use super::pretrained::{self, Extras, TOKENIZER};
use super::sampling::GenerateOptions;
use super::tasks::Task;
use super::tasks::lines::{LineOptions, LinesTask};
use super::tasks::lm::LmTask;
use super::tasks::masking::Masking;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::models::{self, LanguageModel, ModelConfig};
use crate::text::{Encoding, Tokenizer, TokenizerKind, TrainOptions};

/// What a pretraining run came to.
#[derive(Clone, Debug)]
pub struct PretrainReport {
    /// Steps, time and figures.
    pub train: TrainReport,
    /// The folder of the best model.
    pub model: PathBuf,
    /// How many parameters the model has.
    pub parameters: usize,
    /// The seed of the run.
    pub seed: u64,
}

/// Runs a new pretraining.
///
/// # Errors
/// [`Error::Usage`] and [`Error::Data`] before anything is written when configuration or data make no
/// sense; else as [`Trainer::run`].
pub fn run(config: &PretrainConfig, control: &mut Control<'_>) -> Result<PretrainReport> {
    in_pool(config.trainer.threads, || Job::prepare(config, control, None)?.train(control))?
}

/// Goes on with the run in `dir`. `changes` are settings to replace; only those that do not touch model
/// and data may be.
///
/// # Errors
/// As [`run`]; [`Error::Data`] when there is no run.
pub fn resume(
    dir: &Path,
    changes: &Map<String, Value>,
    control: &mut Control<'_>,
) -> Result<PretrainReport> {
    let mut config: PretrainConfig = saved_config(dir, changes, control)?;
    config.out = dir.to_owned();
    let threads = config.trainer.threads;
    in_pool(threads, || Job::prepare(&config, control, Some(dir))?.train(control))?
}

/// Settings that a resumed run may change.
const CHANGEABLE: [&str; 13] = [
    "max_steps",
    "epochs",
    "budget",
    "threads",
    "device",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "early_stopping_patience",
    "on_nonfinite",
    "sample_length",
    "sample_prompt",
];

/// The configuration of the run in `dir`, with `changes`.
pub(super) fn saved_config<C: Default + Serialize + serde::de::DeserializeOwned>(
    dir: &Path,
    changes: &Map<String, Value>,
    control: &mut Control<'_>,
) -> Result<C> {
    let mut saved = command_of(dir, control)?;
    for (key, value) in changes {
        let differs = saved.get(key) != Some(value);
        if differs && !CHANGEABLE.contains(&key.as_str()) && key != "out" {
            let before = saved.get(key).cloned().unwrap_or_default();
            return Err(Error::Usage(format!(
                "the run in {} has {key} = {before}, and a resumed run cannot change it to {value}; \
                 it may change {}",
                dir.display(),
                CHANGEABLE.join(", ")
            )));
        }
        config::lay(&mut saved, key.clone(), value.clone());
    }
    config::resolve(&saved)
}

/// The settings of the run in `dir`: from its newest checkpoint, or from `config.toml` where there is none.
pub(super) fn command_of(dir: &Path, control: &mut Control<'_>) -> Result<Map<String, Value>> {
    if control.fs.exists(&dir.join("checkpoints")) {
        let search = checkpoint::newest(dir, control.fs.clone())?;
        if let Some(checkpoint) = search.newest {
            let state = checkpoint.read("trainer_state.json")?;
            let state: Value = serde_json::from_slice(&state).map_err(|e| {
                Error::Data(format!("{}/trainer_state.json: {e}", checkpoint.dir().display()))
            })?;
            if let Some(command) = state["command"].as_object() {
                return Ok(command.clone());
            }
        }
    }
    let path = dir.join("config.toml");
    if !path.is_file() {
        return Err(Error::Data(format!(
            "{}: there is no run to go on with; start one without --resume",
            dir.display()
        )));
    }
    let text = crate::text::read_text(&path, Encoding::Utf8)?;
    let table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
    match serde_json::to_value(table) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::Data(format!("{}: cannot be read as settings", path.display()))),
    }
}

/// Opens the run folder: a new one, or the one to go on with. Tells of damaged checkpoints.
pub(super) fn open_run(
    out: &Path,
    resume: bool,
    control: &mut Control<'_>,
) -> Result<(RunFolder, Option<checkpoint::Checkpoint>)> {
    if !resume {
        return Ok((RunFolder::create(out, control.fs.clone())?, None));
    }
    let mut run = RunFolder::open(out, control.fs.clone())?;
    let search = run.newest()?;
    for sentence in &search.damaged {
        control.observer.warning(sentence);
    }
    if search.newest.is_none() {
        control.observer.warning("the run has no checkpoint yet; it begins from the start");
        run.truncate_log(0)?;
    }
    Ok((run, search.newest))
}

/// A run whose data and model stand ready.
struct Job {
    task: Box<dyn Task>,
    run: RunFolder,
    checkpoint: Option<checkpoint::Checkpoint>,
    config: PretrainConfig,
}

impl Job {
    fn prepare(
        config: &PretrainConfig,
        control: &mut Control<'_>,
        resume: Option<&Path>,
    ) -> Result<Job> {
        config.trainer.validate()?;
        if config.train.is_empty() {
            return Err(Error::Usage("no text to train on; give --train FILES".into()));
        }
        let share = config.mlm_probability;
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::Usage(format!(
                "--mlm-probability {share}: must be between 0 and 1"
            )));
        }
        if config.lora.lora_r.is_some() && config.from.is_none() {
            return Err(Error::Usage("--lora-r adapts a pretrained model; give --from DIR".into()));
        }
        let from = config.from.as_deref().map(pretrained::model_dir).transpose()?;
        let tokenizer = match (resume, &from) {
            (Some(dir), _) if dir.join(TOKENIZER).is_file() => {
                Tokenizer::from_file(dir.join(TOKENIZER))?
            }
            (_, Some(dir)) => pretrained::open_tokenizer(dir)?,
            _ => make_tokenizer(config, control)?,
        };
        let fits = |shape: &ModelConfig| {
            let longest = shape.context_length();
            let context = config.shape.context_length.unwrap_or(longest).min(longest);
            let batch = config.trainer.batch_size;
            super::memory::check(&models::estimate_memory(shape, batch, context))
        };
        let model = match &from {
            Some(dir) => {
                fits(&models::folder::read_config(dir)?.0)?;
                let loaded = models::load_pretrained(dir, config.trainer.seed)?;
                let mut model_config = loaded.config.clone();
                match config.shape.dropout {
                    // Dropout holds no weights: the same model, built anew with another one.
                    Some(p) => {
                        model_config.set_dropout(p);
                        let model = models::build(&model_config, config.trainer.seed)?;
                        model.load_state_dict(&loaded.model.state_dict(), true)?;
                        model
                    }
                    None => loaded.model,
                }
            }
            None => {
                let vocab = tokenizer.vocab_size();
                let mut shape = config.shape.config(&config.model, &config.size, vocab)?;
                if config.line_by_line {
                    shape.set_eos_token_id(corpus::ends(&tokenizer).map(|(_, end)| end));
                }
                fits(&shape)?;
                models::build(&shape, config.trainer.seed)?
            }
        };
        let tokenizer = Arc::new(tokenizer);
        pretrained::check_vocabulary(&tokenizer, model.config())?;
        // The folder is made once everything that can be refused beforehand has been.
        let mut extras = Extras::tokenizer(&tokenizer, model.config().context_length());
        if let Some(from) = &from {
            let (task, seed) = (peft_task(model.config()), config.trainer.seed);
            extras = config.lora.attach(&model, model.config(), task, from, seed, extras)?;
        }
        let sampler = (config.sample_length > 0 && !matches!(model.config(), ModelConfig::Bert(_)))
            .then(|| sampler(config, tokenizer.clone()));
        let task: Box<dyn Task> = if config.line_by_line {
            let mut task = lines_task(config, model, &tokenizer)?.with_extras(extras);
            if let Some(sampler) = sampler {
                task = task.with_sampler(sampler);
            }
            Box::new(task)
        } else {
            let mut task = stream_task(config, model, &tokenizer, control)?.with_extras(extras);
            if let Some(sampler) = sampler {
                task = task.with_sampler(sampler);
            }
            Box::new(task)
        };
        let (run, checkpoint) = open_run(&config.out, resume.is_some(), control)?;
        let command = config::to_map(config);
        run.write_top("config.toml", config::to_toml(&command).as_bytes())?;
        run.write_top(TOKENIZER, tokenizer.to_json().as_bytes())?;
        Ok(Job { task, run, checkpoint, config: config.clone() })
    }

    fn train(mut self, control: &mut Control<'_>) -> Result<PretrainReport> {
        let out = self.config.out.clone();
        let command = config::to_map(&self.config);
        let hint = format!("handloom pretrain --resume {}", out.display());
        let trainer = Trainer::new(&self.config.trainer, self.task.as_mut(), control)?;
        let mut trainer = trainer.with_run(self.run, command, &hint);
        if let Some(checkpoint) = &self.checkpoint {
            trainer.resume_from(checkpoint)?;
        }
        let report = trainer.run_here()?;
        drop(trainer);
        let parameters = self.task.module().num_parameters();
        let seed = self.config.trainer.seed;
        Ok(PretrainReport { train: report, model: out.join("best"), parameters, seed })
    }
}

/// The task of predicting a stream of text.
fn stream_task(
    config: &PretrainConfig,
    model: Box<dyn LanguageModel>,
    tokenizer: &Tokenizer,
    control: &mut Control<'_>,
) -> Result<LmTask> {
    let longest = model.config().context_length();
    let context = config.shape.context_length.unwrap_or(longest).min(longest);
    let (seed, batch) = (config.trainer.seed, config.trainer.batch_size);
    let (train, valid) = corpus::stream(config, tokenizer, context, control)?;
    let recurrent = matches!(model.config(), ModelConfig::Rnn(_));
    let default = if recurrent { Sampling::Lanes } else { Sampling::Random };
    let sampling = config.sampling.unwrap_or(default);
    let masking = match model.config() {
        ModelConfig::Bert(_) => {
            Some(masking(tokenizer, config.mlm_probability, config.whole_word_mask)?)
        }
        _ => None,
    };
    let frame = masking.as_ref().map_or(0, |m| if m.frame.is_some() { 2 } else { 0 });
    if context <= frame {
        return Err(Error::Usage(format!(
            "--context-length {context}: leaves no room for text beside {frame} special tokens"
        )));
    }
    let batches = LmBatches::new(train, batch, context - frame, sampling, seed)?;
    LmTask::new(model, batches, valid, masking, config.trainer.label_smoothing, seed)
}

/// The task of predicting lines, each by itself.
fn lines_task(
    config: &PretrainConfig,
    model: Box<dyn LanguageModel>,
    tokenizer: &Tokenizer,
) -> Result<LinesTask> {
    let (sizes, seed) = (model.config(), config.trainer.seed);
    let options = LineOptions {
        batch_size: config.trainer.batch_size,
        pad_id: tokenizer.pad_id().unwrap_or(0),
        masking: line_masking(tokenizer, sizes, config.mlm_probability, config.whole_word_mask)?,
        label_smoothing: config.trainer.label_smoothing,
        seed,
    };
    let (masked, longest) = (options.masking.is_some(), longest_line(sizes));
    let read =
        |files: &[PathBuf]| corpus::lines(files, &config.columns, tokenizer, masked, longest);
    let all = read(&config.train)?;
    let (train, valid) = match config.validation.as_slice() {
        [] => corpus::split_lines(all, config.validation_fraction, seed)?,
        files => (all, Some(read(files)?)),
    };
    LinesTask::new(model, train, valid, options)
}

/// How an encoder's lines, which have their own frame, get gaps; `None` for other models.
pub(super) fn line_masking(
    tokenizer: &Tokenizer,
    model: &ModelConfig,
    probability: f64,
    whole_words: bool,
) -> Result<Option<Masking>> {
    match model {
        ModelConfig::Bert(_) => {
            let masking = masking(tokenizer, probability, whole_words)?;
            Ok(Some(Masking { frame: None, ..masking }))
        }
        _ => Ok(None),
    }
}

/// How many tokens of a line a model takes; `None` for all.
pub(super) fn longest_line(model: &ModelConfig) -> Option<usize> {
    let recurrent = matches!(model, ModelConfig::Rnn(_));
    (!recurrent).then(|| model.context_length())
}

/// PEFT's word for a language model.
fn peft_task(config: &ModelConfig) -> Option<&'static str> {
    matches!(config, ModelConfig::Gpt(_)).then_some("CAUSAL_LM")
}

/// How to hide tokens of this tokenizer.
pub(super) fn masking(
    tokenizer: &Tokenizer,
    probability: f64,
    whole_words: bool,
) -> Result<Masking> {
    let Some(mask_id) = tokenizer.mask_id() else {
        return Err(Error::Usage(
            "the tokenizer has no [MASK] token, which bert needs; use --tokenizer wordpiece:8000"
                .into(),
        ));
    };
    let ids = 0..tokenizer.vocab_size() as u32;
    let goes_on = |id| tokenizer.id_to_token(id).is_some_and(|token| token.starts_with("##"));
    Ok(Masking {
        probability,
        mask_id,
        frame: tokenizer.cls_id().zip(tokenizer.sep_id()),
        special: tokenizer.special_ids(),
        continues: whole_words.then(|| ids.map(goes_on).collect()),
    })
}

/// Trains or reads the tokenizer that the configuration names.
fn make_tokenizer(config: &PretrainConfig, control: &mut Control<'_>) -> Result<Tokenizer> {
    let default = if config.model == "bert" { "wordpiece:8000" } else { "char" };
    let name = config.tokenizer.as_deref().unwrap_or(default);
    let path = Path::new(name);
    if path.is_dir() {
        return pretrained::open_tokenizer(path);
    }
    if path.is_file() || name.ends_with(".json") {
        return Tokenizer::from_file(path);
    }
    let kind: TokenizerKind = name.parse()?;
    let observer = &mut control.observer;
    let progress = |p: crate::text::Progress| observer.progress(p.stage, p.done, p.total);
    if let Some(texts) = corpus::texts(&config.train, &config.columns, config.line_by_line)? {
        return Tokenizer::train(kind, texts, progress);
    }
    let encoding = corpus::encoding(&config.columns)?;
    Tokenizer::train_files(kind, &TrainOptions::default(), &config.train, encoding, progress)
}

/// Writes a sample after each evaluation: a text, or as many lines as there is room for.
fn sampler(config: &PretrainConfig, tokenizer: Arc<Tokenizer>) -> super::tasks::lm::Sampler {
    let prompt = config.sample_prompt.clone();
    let (length, seed, lines) = (config.sample_length, config.trainer.seed, config.line_by_line);
    Box::new(move |model| {
        let (mut text, mut left, mut seed) = (String::new(), length, seed);
        while left > 0 {
            let options =
                GenerateOptions { max_new_tokens: left, seed, ..GenerateOptions::default() };
            let written = write_text(model, &tokenizer, &prompt, &options, &mut |_| {})?;
            text += &format!("{}{}", written.prompt, written.text);
            if !lines {
                break;
            }
            text.push('\n');
            (left, seed) = (left.saturating_sub(written.tokens + 1), seed.wrapping_add(1));
        }
        Ok(text)
    })
}
