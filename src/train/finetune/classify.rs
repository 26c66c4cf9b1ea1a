//! `--task classify`: label files, and a classifier of texts on a body, or of words.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::series::Labelled;
use super::start::{Start, strategy};
use super::words::WordStart;
use super::{Arm, FinetuneConfig};
use crate::error::{Error, Result};
use crate::models::folder::open_classifier;
use crate::models::{Classifier, SequenceClassifier, WordClassifier};
use crate::text::labelled::{LabelledSet, overlap};
use crate::train::control::Control;
use crate::train::labelled::{LONGEST_TEXT, TextReader, align, words_of};
use crate::train::pretrained::Extras;
use crate::train::report::Report;
use crate::train::strategy::Strategy;
use crate::train::tasks::Task;
use crate::train::tasks::classify::{self, ClassifyOptions, ClassifyTask, Examples};

/// What reads the texts.
enum Encoder<'a> {
    /// A language model's body.
    Body(Box<Start<'a>>),
    /// Words and characters.
    Words(WordStart),
}

/// The data of a classification. Beside a set stands how many of its rows have an unknown label.
struct Classify<'a> {
    config: &'a FinetuneConfig,
    encoder: Encoder<'a>,
    reader: TextReader,
    extras: Extras,
    strategy: Strategy,
    labels: Vec<String>,
    train: LabelledSet,
    valid: Option<(LabelledSet, u64)>,
    test: Option<(LabelledSet, u64)>,
}

pub(super) fn prepare<'a>(
    config: &'a FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<Box<dyn Labelled + 'a>> {
    if config.train.is_empty() {
        return Err(Error::Usage("no examples to train on; give --train FILE".into()));
    }
    if !matches!(config.class_weights.as_str(), "none" | "balanced") {
        let given = &config.class_weights;
        return Err(Error::Usage(format!("--class-weights {given}: there are none and balanced")));
    }
    let strategy = strategy(config)?;
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
                "{twice} text(s) of the {name} set also occur in the training set; the score is too \
                 good by that much"
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
    let (encoder, reader) = match WordStart::is_meant(config)? {
        true => words(config, &train)?,
        false => body(config, &train, control, resume)?,
    };
    let extras = reader.extras();
    Ok(Box::new(Classify { config, encoder, reader, extras, strategy, labels, train, valid, test }))
}

/// A classifier of words and characters.
fn words<'a>(config: &FinetuneConfig, train: &LabelledSet) -> Result<(Encoder<'a>, TextReader)> {
    let texts: Vec<Vec<String>> =
        train.rows.iter().map(|row| words_of(&row.text, row.text_pair.as_deref())).collect();
    let texts = texts.iter().map(|words| (&words[..], None));
    let (start, vocabulary) = WordStart::new(config, texts, true)?;
    let max_length = config.max_length.unwrap_or(LONGEST_TEXT);
    let reader = TextReader::Words { vocabulary: Arc::new(vocabulary), max_length };
    Ok((Encoder::Words(start), reader))
}

/// A classifier on a language model's body.
fn body<'a>(
    config: &'a FinetuneConfig,
    train: &LabelledSet,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<(Encoder<'a>, TextReader)> {
    let mut texts = train
        .rows
        .iter()
        .flat_map(|row| std::iter::once(row.text.clone()).chain(row.text_pair.clone()));
    let start = Start::new(config, &mut texts, control, resume)?;
    let tokenizer = Arc::clone(&start.tokenizer);
    let reader = TextReader::Tokens { tokenizer, max_length: start.max_length };
    Ok((Encoder::Body(Box::new(start)), reader))
}

impl Classify<'_> {
    fn encode(&self, (set, unseen): &(LabelledSet, u64)) -> Result<Examples> {
        self.reader.examples(set, *unseen)
    }
}

impl Labelled for Classify<'_> {
    fn task(&self, arm: Arm, seed: u64) -> Result<Box<dyn Task>> {
        let config = self.config;
        let train = self.reader.examples(&self.train, 0)?;
        let valid = self.valid.as_ref().map(|set| self.encode(set)).transpose()?;
        let balanced = config.class_weights == "balanced";
        let options = ClassifyOptions {
            batch_size: config.trainer.batch_size,
            seed,
            label_smoothing: config.trainer.label_smoothing,
            class_weights: balanced.then(|| train.balanced_weights(self.labels.len())),
            strategy: self.strategy.clone(),
            pad_id: match &self.encoder {
                Encoder::Body(start) => start.pad_id(),
                Encoder::Words(_) => 0,
            },
        };
        let (labels, mut extras) = (self.labels.clone(), self.extras.clone());
        let model: Box<dyn Classifier> = match &self.encoder {
            Encoder::Words(start) => {
                let model = WordClassifier::new(&start.sizes, labels, seed)?;
                start.load(arm, &model)?;
                Box::new(model)
            }
            Encoder::Body(start) => {
                let model = SequenceClassifier::new(start.body(arm, seed)?, labels, seed)?;
                extras = start.adapt(&model, (arm, seed), "SEQ_CLS", extras)?;
                Box::new(model)
            }
        };
        Ok(Box::new(ClassifyTask::new(model, train, valid, options)?.with_extras(extras)))
    }

    fn test(&self, best: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Report>> {
        let Some(set) = &self.test else { return Ok(None) };
        let model = open_classifier(best)?;
        let (set, batch) = (self.encode(set)?, self.config.trainer.batch_size);
        let found = classify::evaluate(&*model, &set, batch, progress)?;
        Ok(Some(found.report()))
    }

    fn extras(&self) -> &Extras {
        &self.extras
    }
}
