//! `--tokenizer word`: the sizes of an encoder of words and characters, which starts from nothing.

use super::FinetuneConfig;
use crate::error::{Error, Result};
use crate::models::WordEncoderConfig;
use crate::models::word_encoder::TableSize;
use crate::text::WordVocabulary;

/// The sizes that the flags ask for, for the words of `vocabulary`.
///
/// # Errors
/// [`Error::Usage`] when there is no such size, or the flags contradict each other.
pub(super) fn word_sizes(
    config: &FinetuneConfig,
    vocabulary: &WordVocabulary,
) -> Result<WordEncoderConfig> {
    let Some(size) = config.scratch.as_deref() else {
        return Err(Error::Usage(
            "--tokenizer word goes with --scratch SIZE: a pretrained model has its own tokenizer"
                .into(),
        ));
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
