//! Evaluation of a model folder on files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::control::{Control, in_pool};
use super::corpus;
use super::data::EvalWindows;
use super::labelled::{Columns, TextReader, align};
use super::observer::Figures;
use super::pretrain::{line_masking, longest_line, masking};
use super::pretrained;
use super::report::Report;
use super::tagging::{self, TagSet, tagging_task};
use super::tasks::classify;
use super::tasks::lines::{self, LineOptions};
use super::tasks::lm::{self, lm_figures};
use super::tasks::tag;
use crate::error::{Error, Result};
use crate::models::on_disk::names_architecture;
use crate::models::{LanguageModel, ModelConfig, folder};
use crate::nn::Module;
use crate::tensor::Device;
use crate::text::Tokenizer;

/// What to evaluate; the fields are the flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateConfig {
    /// A model or run folder.
    pub from: PathBuf,
    /// `lm`, `classify`, `ner` or `srl`; by default what the folder holds.
    pub task: Option<String>,
    /// Text files, or label files.
    pub data: Vec<PathBuf>,
    /// Language models: only the share at the end of the text, as in pretraining.
    pub validation_fraction: Option<f64>,
    /// Language models: each line, or row of a label file, is an example by itself.
    pub line_by_line: bool,
    /// Where the columns of label files are.
    #[serde(flatten)]
    pub columns: Columns,
    /// Sequences side by side.
    pub batch_size: usize,
    /// Language models: the length of a window; by default the model's context.
    pub context_length: Option<usize>,
    /// Classifiers: texts are cut to this many tokens.
    pub max_length: Option<usize>,
    /// Threads; 0: one a core.
    pub threads: usize,
    /// Where the model computes.
    pub device: Device,
}

impl Default for EvaluateConfig {
    fn default() -> EvaluateConfig {
        EvaluateConfig {
            from: PathBuf::new(),
            task: None,
            data: Vec::new(),
            validation_fraction: None,
            line_by_line: false,
            columns: Columns::default(),
            batch_size: 32,
            context_length: None,
            max_length: None,
            threads: 0,
            device: Device::Cpu,
        }
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub enum Evaluation {
    /// A language model: `val_loss`, `perplexity`, `bits_per_byte`, and over how many tokens.
    LanguageModel {
        /// The figures.
        figures: Figures,
        /// Tokens that were predicted.
        tokens: u64,
    },
    /// A task on labelled data.
    Labelled(Report),
}

impl Evaluation {
    /// One JSON object, for `--json`.
    pub fn to_json(&self) -> Map<String, Value> {
        match self {
            Evaluation::LanguageModel { figures, tokens } => {
                let mut all = figures.to_json();
                all.insert("tokens".into(), json!(tokens));
                all
            }
            Evaluation::Labelled(report) => report.json.clone(),
        }
    }
}

/// Evaluates.
///
/// # Errors
/// When model or data cannot be read or do not fit.
pub fn run(config: &EvaluateConfig, control: &mut Control<'_>) -> Result<Evaluation> {
    if config.data.is_empty() {
        return Err(Error::Usage("nothing to evaluate on; give --data FILES".into()));
    }
    config.device.check()?;
    in_pool(config.threads, || {
        let dir = pretrained::model_dir(&config.from)?;
        let json = folder::read_json(&dir)?;
        let task = match &config.task {
            Some(task) => task.as_str(),
            None if tagging_task(&dir)?.is_some() => "tag",
            None if names_architecture(&json, "ForSequenceClassification") => "classify",
            None => "lm",
        };
        match task {
            "lm" => language_model(config, control),
            "classify" => classifier(config, control),
            "tag" | "ner" | "srl" => tagger(config, control),
            other => {
                Err(Error::Usage(format!("--task {other}: there are lm, classify, ner and srl")))
            }
        }
    })?
}

fn language_model(config: &EvaluateConfig, control: &mut Control<'_>) -> Result<Evaluation> {
    let (model, tokenizer) = pretrained::open_language_model(&config.from)?;
    model.to_device(config.device)?;
    if config.line_by_line {
        return on_lines(config, model.as_ref(), &tokenizer, control);
    }
    let (columns, out) = (&config.columns, std::env::temp_dir());
    let mut tokens = match corpus::documents(&config.data, columns)? {
        Some(texts) => corpus::tokens_of(&texts, &tokenizer)?,
        None => corpus::read_tokens(&config.data, columns, &tokenizer, &out, "evaluate", control)?,
    };
    if let Some(fraction) = config.validation_fraction {
        tokens = tokens.split_tail(fraction)?.1;
    }
    let carry = matches!(model.config(), ModelConfig::Rnn(_));
    let longest = model.config().context_length();
    let mut context = config.context_length.unwrap_or(longest);
    if !carry && context > longest {
        return Err(Error::Usage(format!(
            "--context-length {context}: the model reads {longest} tokens at most"
        )));
    }
    let masking = match model.config() {
        ModelConfig::Bert(_) => Some(masking(&tokenizer, 0.15, false)?),
        _ => None,
    };
    if masking.as_ref().is_some_and(|m| m.frame.is_some()) {
        context = context.saturating_sub(2).max(1);
    }
    let bytes = tokens.source_bytes();
    let windows = EvalWindows::new(tokens, config.batch_size, context)?;
    let observer = &mut control.observer;
    let progress = &mut |done, total| observer.progress("evaluating", done, total);
    let (sum, count) = lm::evaluate(model.as_ref(), &windows, carry, masking.as_ref(), progress)?;
    let bytes = masking.is_none().then_some(bytes);
    Ok(Evaluation::LanguageModel { figures: lm_figures(sum, count, bytes), tokens: count })
}

/// A language model on lines, each by itself.
fn on_lines(
    config: &EvaluateConfig,
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    control: &mut Control<'_>,
) -> Result<Evaluation> {
    let options = LineOptions {
        batch_size: config.batch_size,
        pad_id: tokenizer.pad_id().unwrap_or(0),
        masking: line_masking(tokenizer, model.config(), 0.15, false)?,
        label_smoothing: 0.0,
        seed: 0,
    };
    let (masked, longest) = (options.masking.is_some(), longest_line(model.config()));
    let all = corpus::lines(&config.data, &config.columns, tokenizer, masked, longest)?;
    if all.is_empty() {
        return Err(Error::Data("there is no line to evaluate on".into()));
    }
    if all.truncated > 0 {
        control.observer.warning(&format!(
            "{} of {} lines were cut to what the model reads",
            all.truncated,
            all.len()
        ));
    }
    let observer = &mut control.observer;
    let progress = &mut |done, total| observer.progress("evaluating", done, total);
    let (sum, count) = lines::evaluate(model, &all, &options, progress)?;
    let bytes = (!masked).then_some(all.bytes);
    Ok(Evaluation::LanguageModel { figures: lm_figures(sum, count, bytes), tokens: count })
}

fn classifier(config: &EvaluateConfig, control: &mut Control<'_>) -> Result<Evaluation> {
    let (model, reader) = TextReader::open(&config.from, config.max_length)?;
    model.to_device(config.device)?;
    let mut set = config.columns.read(&config.data)?;
    let (unseen, sentence) = align(&mut set, model.labels());
    if let Some(sentence) = sentence {
        control.observer.warning(&sentence);
    }
    if set.is_empty() {
        return Err(Error::Data(format!(
            "{}: no row has a label that the model knows ({})",
            set.name,
            model.labels().join(", ")
        )));
    }
    let set = reader.examples(&set, unseen)?;
    let observer = &mut control.observer;
    let progress = &mut |done, total| observer.progress("evaluating", done, total);
    let found = classify::evaluate(&*model, &set, config.batch_size, progress)?;
    Ok(Evaluation::Labelled(found.report()))
}

fn tagger(config: &EvaluateConfig, control: &mut Control<'_>) -> Result<Evaluation> {
    let (tagger, reader, kind) = tagging::open(&config.from, config.max_length)?;
    tagger.to_device(config.device)?;
    let encoding = config.columns.encoding.as_deref().unwrap_or("utf8").parse()?;
    let set = TagSet::read(kind, &config.data, encoding)?.examples(&reader, tagger.labels())?;
    let observer = &mut control.observer;
    let progress = &mut |done, total| observer.progress("evaluating", done, total);
    let found = tag::evaluate(&*tagger, kind, &set, config.batch_size, progress)?;
    Ok(Evaluation::Labelled(found.report()))
}
