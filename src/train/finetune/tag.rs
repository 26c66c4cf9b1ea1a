//! `--task ner` and `--task srl`: files of tagged words, and a tagger of pieces or of words.

use std::path::Path;
use std::sync::Arc;

use super::series::Labelled;
use super::start::{Start, strategy};
use super::words::WordStart;
use super::{Arm, FinetuneConfig};
use crate::error::{Error, Result};
use crate::models::folder::open_tagger;
use crate::models::tagger::Tagger;
use crate::models::{ModelConfig, TokenClassifier};
use crate::models::{WordTagger, WordTaggerConfig};
use crate::train::control::Control;
use crate::train::pretrained::Extras;
use crate::train::report::Report;
use crate::train::strategy::Strategy;
use crate::train::tagging::{LONGEST_SENTENCE, TagReader, TagSet};
use crate::train::tasks::Task;
use crate::train::tasks::tag::{self, TagKind, TagOptions, TagTask};

/// What stands under the tags.
enum Encoder<'a> {
    /// A language model's body.
    Body(Start<'a>),
    /// Words and characters.
    Words(WordStart),
}

/// The data of a tagging.
struct Tag<'a> {
    config: &'a FinetuneConfig,
    kind: TagKind,
    encoder: Encoder<'a>,
    reader: TagReader,
    extras: Extras,
    strategy: Strategy,
    labels: Vec<String>,
    train: TagSet,
    valid: Option<TagSet>,
    test: Option<TagSet>,
}

/// [`prepare`] for named entities.
pub(super) fn prepare_ner<'a>(
    config: &'a FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<Box<dyn Labelled + 'a>> {
    prepare(TagKind::Ner, config, control, resume)
}

/// [`prepare`] for semantic roles.
pub(super) fn prepare_srl<'a>(
    config: &'a FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<Box<dyn Labelled + 'a>> {
    prepare(TagKind::Srl, config, control, resume)
}

fn prepare<'a>(
    kind: TagKind,
    config: &'a FinetuneConfig,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<Box<dyn Labelled + 'a>> {
    if config.train.is_empty() {
        return Err(Error::Usage("no sentences to train on; give --train FILE".into()));
    }
    if config.class_weights != "none" {
        return Err(Error::Usage(format!(
            "--class-weights {}: tagging has none",
            config.class_weights
        )));
    }
    let strategy = strategy(config)?;
    let encoding = config.columns.encoding.as_deref().unwrap_or("utf8").parse()?;
    let read = |files: &[_]| match files {
        [] => Ok(None),
        files => TagSet::read(kind, files, encoding).map(Some),
    };
    let mut train = TagSet::read(kind, &config.train, encoding)?;
    let (mut valid, test) = (read(&config.validation)?, read(&config.test)?);
    let labels = train.labels();
    if labels.len() < 2 {
        return Err(Error::Data(format!("{}: no word is tagged with more than O", train.name)));
    }
    for (name, other) in [("validation", &valid), ("test", &test)] {
        let twice = other.as_ref().map_or(0, |other| other.overlap(&train));
        if twice > 0 {
            control.observer.warning(&format!(
                "{twice} sentence(s) of the {name} set also occur in the training set, word for word; the \
                 score is too good by that much"
            ));
        }
    }
    if valid.is_none() && config.validation_fraction > 0.0 {
        let (rest, kept) = train.split(config.validation_fraction, config.trainer.seed)?;
        (train, valid) = (rest, Some(kept));
    }
    if let Some(n) = config.limit {
        train = train.limit(n, config.trainer.seed);
    }
    let (encoder, reader) = match WordStart::is_meant(config)? {
        true => words(config, &train)?,
        false => body(kind, config, &train, control, resume)?,
    };
    let extras = reader.extras();
    Ok(Box::new(Tag {
        config,
        kind,
        encoder,
        reader,
        extras,
        strategy,
        labels,
        train,
        valid,
        test,
    }))
}

/// A tagger of words and characters.
fn words<'a>(config: &FinetuneConfig, train: &TagSet) -> Result<(Encoder<'a>, TagReader)> {
    let sentences = train.rows.iter().map(|row| (row.words.as_slice(), row.predicate));
    let (start, vocabulary) = WordStart::new(config, sentences, false)?;
    let max_length = config.max_length.unwrap_or(LONGEST_SENTENCE);
    Ok((Encoder::Words(start), TagReader::Words { vocabulary, max_length }))
}

/// A tagger on a language model's body.
fn body<'a>(
    kind: TagKind,
    config: &'a FinetuneConfig,
    train: &TagSet,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<(Encoder<'a>, TagReader)> {
    let mut texts = train.rows.iter().map(|row| row.words.join(" "));
    let mut start = Start::new(config, &mut texts, control, resume)?;
    if let ModelConfig::Rnn(sizes) = &mut start.model {
        if config.from.is_none() {
            (sizes.bidirectional, sizes.tie_word_embeddings) = (true, false);
        }
        if kind == TagKind::Srl {
            sizes.type_vocab_size = sizes.type_vocab_size.max(2);
        }
    }
    if kind == TagKind::Srl && start.model.token_types() < 2 {
        return Err(Error::Usage(format!(
            "--task srl marks the predicate by a token type, which a {} does not have; use bert, lstm, \
             gru or rnn",
            start.model.kind()
        )));
    }
    let reader =
        TagReader::Pieces { tokenizer: Arc::clone(&start.tokenizer), max_length: start.max_length };
    Ok((Encoder::Body(start), reader))
}

impl Labelled for Tag<'_> {
    fn task(&self, arm: Arm, seed: u64) -> Result<Box<dyn Task>> {
        let labels = self.labels.clone();
        let tagger: Box<dyn Tagger> = match &self.encoder {
            Encoder::Words(start) => {
                let sizes = WordTaggerConfig { encoder: start.sizes.clone(), crf: self.config.crf };
                let tagger = WordTagger::new(&sizes, labels, seed)?;
                start.load(arm, &tagger)?;
                Box::new(tagger)
            }
            Encoder::Body(start) => {
                let tagger = TokenClassifier::new(start.body(arm, seed)?, labels, seed)?;
                Box::new(if self.config.crf { tagger.with_crf(seed)? } else { tagger })
            }
        };
        let mut extras = self.extras.clone();
        if let Encoder::Body(start) = &self.encoder {
            extras = start.adapt(&tagger, (arm, seed), "TOKEN_CLS", extras)?;
        }
        let options = TagOptions {
            kind: self.kind,
            batch_size: self.config.trainer.batch_size,
            seed,
            label_smoothing: self.config.trainer.label_smoothing,
            strategy: self.strategy.clone(),
        };
        let train = self.train.examples(&self.reader, &self.labels)?;
        let valid = self.valid.as_ref().map(|set| set.examples(&self.reader, &self.labels));
        let task = TagTask::new(tagger, train, valid.transpose()?, options, extras)?;
        Ok(Box::new(task))
    }

    fn test(&self, best: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Report>> {
        let Some(set) = &self.test else { return Ok(None) };
        let tagger = open_tagger(best)?;
        let set = set.examples(&self.reader, &self.labels)?;
        let batch = self.config.trainer.batch_size;
        Ok(Some(tag::evaluate(&*tagger, self.kind, &set, batch, progress)?.report()))
    }

    fn extras(&self) -> &Extras {
        &self.extras
    }
}
