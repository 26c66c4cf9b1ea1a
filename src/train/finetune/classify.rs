//! `--task classify`: label files, and a classifier of texts on the body.

use std::path::{Path, PathBuf};

use super::series::Labelled;
use super::start::{Start, strategy};
use super::{Arm, FinetuneConfig};
use crate::error::{Error, Result};
use crate::models::SequenceClassifier;
use crate::text::labelled::{LabelledSet, overlap};
use crate::train::control::Control;
use crate::train::labelled::{align, examples};
use crate::train::pretrained::Extras;
use crate::train::report::Report;
use crate::train::strategy::Strategy;
use crate::train::tasks::Task;
use crate::train::tasks::classify::{self, ClassifyOptions, ClassifyTask, Examples};

/// The data of a classification. Beside a set stands how many of its rows have an unknown label.
struct Classify<'a> {
    start: Start<'a>,
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
    let mut texts = train
        .rows
        .iter()
        .flat_map(|row| std::iter::once(row.text.clone()).chain(row.text_pair.clone()));
    let start = Start::new(config, &mut texts, control, resume)?;
    Ok(Box::new(Classify { start, strategy, labels, train, valid, test }))
}

impl Classify<'_> {
    fn encode(&self, (set, unseen): &(LabelledSet, u64)) -> Result<Examples> {
        examples(set, &self.start.tokenizer, self.start.max_length, *unseen)
    }
}

impl Labelled for Classify<'_> {
    fn task(&self, arm: Arm, seed: u64) -> Result<Box<dyn Task>> {
        let config = self.start.config;
        let train = examples(&self.train, &self.start.tokenizer, self.start.max_length, 0)?;
        let valid = self.valid.as_ref().map(|set| self.encode(set)).transpose()?;
        let balanced = config.class_weights == "balanced";
        let options = ClassifyOptions {
            batch_size: config.trainer.batch_size,
            seed,
            label_smoothing: config.trainer.label_smoothing,
            class_weights: balanced.then(|| train.balanced_weights(self.labels.len())),
            strategy: self.strategy.clone(),
            pad_id: self.start.pad_id(),
        };
        let model =
            SequenceClassifier::new(self.start.body(arm, seed)?, self.labels.clone(), seed)?;
        let extras = self.start.adapt(&model, (arm, seed), "SEQ_CLS", self.extras().clone())?;
        Ok(Box::new(ClassifyTask::new(model, train, valid, options)?.with_extras(extras)))
    }

    fn test(&self, best: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Report>> {
        let Some(set) = &self.test else { return Ok(None) };
        let model = SequenceClassifier::from_pretrained(best)?;
        let batch = self.start.config.trainer.batch_size;
        let set = self.encode(set)?;
        let found = classify::evaluate(&model, &set, batch, self.start.pad_id(), progress)?;
        Ok(Some(found.report()))
    }

    fn extras(&self) -> &Extras {
        &self.start.extras
    }
}
