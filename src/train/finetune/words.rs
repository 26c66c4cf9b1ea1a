//! Readers of words and characters: from nothing with `--tokenizer word`, or on from another one with `--from`.
//!
//! What goes on keeps its words with their ids, takes in those of the new training set, and gets a new head.

use std::path::PathBuf;

use super::{Arm, FinetuneConfig};
use crate::error::{Error, Result};
use crate::models::WordEncoderConfig;
use crate::models::folder::read_json;
use crate::models::safetensors::read_folder;
use crate::models::word_encoder::TableSize;
use crate::nn::{Module, Parameter};
use crate::text::WordVocabulary;
use crate::train::labelled::VOCABULARY;
use crate::train::pretrained::model_dir;

/// Where runs of a reader of words start.
pub(super) struct WordStart {
    /// The encoder's sizes.
    pub sizes: WordEncoderConfig,
    /// The model folder that the pretrained arm goes on from.
    from: Option<PathBuf>,
}

impl WordStart {
    /// Whether the flags ask for a reader of words.
    ///
    /// # Errors
    /// When `--from` has no model.
    pub fn is_meant(config: &FinetuneConfig) -> Result<bool> {
        let base = config.from.as_deref().map(model_dir).transpose()?;
        Ok(config.tokenizer.as_deref() == Some("word")
            || base.is_some_and(|dir| dir.join(VOCABULARY).is_file()))
    }

    /// Sizes and vocabulary for the sentences of a training set, each with its predicate where it has one;
    /// `whole` as in [`WordVocabulary::build`].
    ///
    /// # Errors
    /// When the flags contradict each other, or the model in `--from` reads something else.
    pub fn new<'a>(
        config: &FinetuneConfig,
        sentences: impl Iterator<Item = (&'a [String], Option<usize>)> + Clone,
        whole: bool,
    ) -> Result<(WordStart, WordVocabulary)> {
        let Some(from) = config.from.as_deref() else {
            let vocabulary = WordVocabulary::build(sentences, whole);
            let sizes = word_sizes(config, &vocabulary)?;
            return Ok((WordStart { sizes, from: None }, vocabulary));
        };
        let dir = model_dir(from)?;
        if !dir.join(VOCABULARY).is_file() {
            return Err(Error::Usage(format!(
                "--tokenizer word: the model in {} has a tokenizer of its own; leave the flag out, or give \
                 --scratch SIZE instead of --from",
                from.display()
            )));
        }
        let vocabulary = WordVocabulary::open(&dir.join(VOCABULARY))?;
        let predicates = sentences.clone().any(|(_, predicate)| predicate.is_some());
        if vocabulary.wants_predicate() != predicates {
            let (has, task) = if predicates { ("knows no", "srl") } else { ("reads a", "not srl") };
            return Err(Error::Usage(format!(
                "the model in {} {has} predicate, and --task is {task}",
                from.display()
            )));
        }
        let vocabulary = vocabulary.extended(sentences);
        let json = serde_json::Value::Object(read_json(&dir)?);
        let mut sizes: WordEncoderConfig = serde_json::from_value(json)
            .map_err(|e| Error::Data(format!("{}: config.json: {e}", dir.display())))?;
        for (name, rows) in vocabulary.tables() {
            sizes.tables.iter_mut().filter(|t| t.name == name).for_each(|t| t.rows = rows);
        }
        sizes.char_vocab_size = vocabulary.characters();
        sizes.dropout = config.shape.dropout.unwrap_or(sizes.dropout);
        sizes.validate()?;
        Ok((WordStart { sizes, from: Some(dir) }, vocabulary))
    }

    /// Gives the encoder of `model` the weights that the arm starts from. Tables may have more rows than
    /// before: the new ones keep their first values, as the head does.
    ///
    /// # Errors
    /// When the weights cannot be read or do not fit.
    pub fn load(&self, arm: Arm, model: &dyn Module) -> Result<()> {
        let (Arm::Pretrained, Some(dir)) = (arm, &self.from) else { return Ok(()) };
        let known = read_folder(dir)?;
        let mut result = Ok(());
        model.for_each_parameter(&mut |name: &str, parameter: &Parameter| {
            if name.starts_with("classifier.") || name.starts_with("crf.") || result.is_err() {
                return;
            }
            let (shape, saved) = (parameter.shape(), known.iter().find(|(n, _)| n == name));
            result = match saved {
                Some((_, saved)) if saved.shape() == shape.as_slice() => parameter.load(saved),
                Some((_, saved))
                    if name.ends_with("_embedding.weight")
                        && saved.shape()[1..] == shape[1..]
                        && saved.shape()[0] < shape[0] =>
                {
                    saved.to_vec::<f32>().and_then(|rows| {
                        parameter.update(|all| all[..rows.len()].copy_from_slice(&rows))
                    })
                }
                _ => Err(Error::Data(format!(
                    "{}: {name} is missing or does not fit the model's sizes",
                    dir.display()
                ))),
            };
        });
        result
    }
}

/// The sizes that the flags ask for, for the words of `vocabulary`.
///
/// # Errors
/// [`Error::Usage`] when there is no such size, or the flags contradict each other.
fn word_sizes(config: &FinetuneConfig, vocabulary: &WordVocabulary) -> Result<WordEncoderConfig> {
    let Some(size) = config.scratch.as_deref() else {
        return Err(Error::Usage("--tokenizer word needs a size: give --scratch SIZE".into()));
    };
    let (width, hidden, layers) = match size {
        "nano" => (50, 100, 1),
        "tiny" => (100, 200, 1),
        "mini" => (100, 300, 2),
        "small" => (200, 400, 2),
        other => {
            return Err(Error::Usage(format!(
                "a reader of words has no size `{other}`; there are nano, tiny, mini, small"
            )));
        }
    };
    if !matches!(config.model.as_str(), "rnn" | "lstm" | "gru") {
        return Err(Error::Usage(format!(
            "--tokenizer word goes with --model lstm, gru or rnn, not {}",
            config.model
        )));
    }
    let tables: Vec<TableSize> = vocabulary
        .tables()
        .into_iter()
        .map(|(name, rows)| {
            let width = match name {
                "word" => width,
                "pair" => width / 2,
                "prefix" | "suffix" => 32,
                _ => 16,
            };
            TableSize { name: name.to_owned(), rows, width }
        })
        .collect();
    let place = |name: &str| tables.iter().position(|table| table.name == name).unwrap_or(0);
    let shape = &config.shape;
    let sizes = WordEncoderConfig {
        cell: config.model.clone(),
        columns: vocabulary.columns().iter().map(|column| place(column.table())).collect(),
        tables,
        char_vocab_size: vocabulary.characters(),
        char_embedding_size: 30,
        char_filters: 50,
        hidden_size: shape.hidden_size.unwrap_or(hidden),
        num_layers: shape.num_hidden_layers.unwrap_or(layers),
        dropout: shape.dropout.unwrap_or(0.5),
    };
    sizes.validate()?;
    Ok(sizes)
}
