//! An encoder that reads words and their characters: for tagging and classifying without pretraining (Ma and
//! Hovy 2016).
//!
//! ```text
//! columns: word, shape, affixes …   one table lookup each            [W, B, width] each
//! characters: windows of three → linear → largest over the word      [W, B, F]
//! x = all side by side → dropout → bidirectional LSTM → dropout      [W, B, 2H]
//! ```
//!
//! A convolution of width three is a linear layer on three vectors side by side, and a lookup of id triples
//! puts them there. A word that occurs several times in a batch is convolved once.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::labels::{Sentence, expect_words};
use super::on_disk::read_json_in;
use super::safetensors::read_folder;
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::nn::{
    Dropout, Embedding, Init, Linear, Module, Recurrent, RecurrentKind, RecurrentOptions,
    StateDict, Visitor,
};
use crate::ops;
use crate::tensor::Tensor;

/// Characters of a word that are read.
pub const LONGEST_WORD: usize = 32;
/// Characters side by side.
const WINDOW: usize = 3;

/// A table that columns are looked up in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSize {
    /// What is in it: `word`, `shape`, …
    pub name: String,
    /// Entries, the unknown one (id 0) included.
    pub rows: usize,
    /// The width of a vector.
    pub width: usize,
}

/// The sizes of a [`WordEncoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordEncoderConfig {
    /// `rnn`, `lstm` or `gru`.
    pub cell: String,
    /// The tables.
    pub tables: Vec<TableSize>,
    /// For each column of a sentence the index of its table.
    pub columns: Vec<usize>,
    /// Characters, the unknown one (id 0, also beside a word) included.
    pub char_vocab_size: usize,
    /// The width of a character's vector.
    pub char_embedding_size: usize,
    /// Outputs of the convolution.
    pub char_filters: usize,
    /// Hidden units of one direction.
    pub hidden_size: usize,
    /// Layers of the recurrence.
    pub num_layers: usize,
    /// Dropout on inputs, between layers and on outputs.
    pub dropout: f64,
}

impl WordEncoderConfig {
    /// Width of the outputs: both directions side by side.
    pub fn output_size(&self) -> usize {
        2 * self.hidden_size
    }

    fn kind(&self) -> Result<RecurrentKind> {
        match self.cell.as_str() {
            "rnn" => Ok(RecurrentKind::RnnTanh),
            "lstm" => Ok(RecurrentKind::Lstm),
            "gru" => Ok(RecurrentKind::Gru),
            other => Err(Error::Usage(format!(
                "the cell of a reader of words is rnn, lstm or gru, not `{other}`"
            ))),
        }
    }

    /// The width of what the recurrence reads.
    fn inputs(&self) -> usize {
        let columns = self.columns.iter().map(|&table| self.tables[table].width);
        columns.sum::<usize>() + self.char_filters
    }

    /// Checks that the sizes make a model.
    ///
    /// # Errors
    /// With a sentence on the first thing that does not fit.
    pub fn validate(&self) -> Result<()> {
        self.kind()?;
        let sizes = [
            ("char_vocab_size", self.char_vocab_size),
            ("char_embedding_size", self.char_embedding_size),
            ("char_filters", self.char_filters),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("columns", self.columns.len()),
        ];
        let tables = self.tables.iter().flat_map(|t| [("rows", t.rows), ("width", t.width)]);
        for (name, size) in sizes.into_iter().chain(tables) {
            if size == 0 || size > 1 << 28 {
                return Err(Error::Usage(format!(
                    "{name} = {size}: an encoder of words cannot have that"
                )));
            }
        }
        if let Some(table) = self.columns.iter().find(|&&table| table >= self.tables.len()) {
            return Err(Error::Usage(format!(
                "a column is looked up in table {table}, which is not there"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Usage(format!(
                "dropout = {}: dropout is a probability from 0 to below 1",
                self.dropout
            )));
        }
        Ok(())
    }
}

/// A bidirectional recurrent network on words and characters.
pub struct WordEncoder {
    /// The sizes.
    pub config: WordEncoderConfig,
    tables: Vec<(String, Embedding)>,
    characters: Embedding,
    convolution: Linear,
    rnn: Recurrent,
    input_dropout: Dropout,
    output_dropout: Dropout,
    scope: Scope,
}

impl WordEncoder {
    /// An encoder whose first values are a pure function of where `root` is.
    ///
    /// # Errors
    /// When the sizes do not make a model.
    pub fn new(root: &Init, config: &WordEncoderConfig) -> Result<WordEncoder> {
        config.validate()?;
        let c = config;
        // Uniform with variance 1/width, as in the paper.
        let table = |name: &str, rows: usize, width: usize| {
            Embedding::uniform(&root.at(name), rows, width, (3.0 / width as f64).sqrt())
        };
        let tables = c.tables.iter().map(|t| {
            let name = format!("{}_embedding", t.name);
            let made = table(&name, t.rows, t.width)?;
            Ok((name, made))
        });
        let options = RecurrentOptions {
            num_layers: c.num_layers,
            dropout: c.dropout,
            bidirectional: true,
            ..Default::default()
        };
        let window = WINDOW * c.char_embedding_size;
        Ok(WordEncoder {
            tables: tables.collect::<Result<_>>()?,
            characters: table("character_embedding", c.char_vocab_size, c.char_embedding_size)?,
            convolution: Linear::new(&root.at("convolution"), window, c.char_filters, true)?,
            rnn: Recurrent::new(&root.at("rnn"), c.kind()?, c.inputs(), c.hidden_size, &options)?,
            input_dropout: Dropout::new(&root.at("drop.input"), c.dropout)?,
            output_dropout: Dropout::new(&root.at("drop.output"), c.dropout)?,
            scope: root.at("words").scope(),
            config: config.clone(),
        })
    }

    /// What each word means where it stands, `[W, B, 2H]`, after dropout; past the end of a shorter row 0.
    ///
    /// # Errors
    /// When a sentence is empty or an id is unknown.
    pub fn forward(&self, rows: &[&Sentence]) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let width = expect_words(rows)?;
        let columns = self.config.columns.len();
        if let Some(row) = rows.iter().find(|row| row.ids.len() != row.words * columns) {
            return Err(Error::op(
                "word_encoder",
                format!("{} ids for {} words of {columns} columns", row.ids.len(), row.words),
            ));
        }
        let mut parts = Vec::with_capacity(columns + 1);
        for (column, &table) in self.config.columns.iter().enumerate() {
            let id = |at: usize, row: &Sentence| {
                row.ids.get(at * columns + column).copied().unwrap_or(0)
            };
            let ids: Vec<u32> =
                (0..width).flat_map(|at| rows.iter().map(move |row| id(at, row))).collect();
            let ids = Tensor::from_slice(&ids, [width, rows.len()])?;
            parts.push(self.tables[table].1.forward(&ids)?);
        }
        parts.push(self.spell(rows, width)?);
        let x = ops::cat(&parts.iter().collect::<Vec<_>>(), -1)?; // [W, B, inputs]
        let lengths: Vec<usize> = rows.iter().map(|row| row.words).collect();
        let x = self.input_dropout.forward(&x)?;
        let (y, _) = self.rnn.forward_time_major(&x, None, Some(&lengths))?;
        self.output_dropout.forward(&y)
    }

    /// Floating-point operations of a forward pass over `batch` rows of `t` words.
    pub fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        let c = &self.config;
        let gates = c.kind().map_or(1, |kind| kind.gates());
        let layer = |inputs: usize| 4 * gates * c.hidden_size * (inputs + c.hidden_size);
        let above = (c.num_layers - 1) * layer(2 * c.hidden_size);
        (batch * t * (layer(c.inputs()) + above)) as u64
    }

    /// The convolved characters of all words, `[W, B, F]`.
    fn spell(&self, rows: &[&Sentence], width: usize) -> Result<Tensor> {
        const NONE: &[u32] = &[0];
        let mut known: HashMap<&[u32], u32> = HashMap::new();
        let mut words: Vec<&[u32]> = Vec::new();
        let mut places = Vec::with_capacity(width * rows.len());
        for at in 0..width {
            for row in rows {
                let word = row.characters.get(at).map_or(NONE, |word| {
                    if word.is_empty() { NONE } else { &word[..word.len().min(LONGEST_WORD)] }
                });
                places.push(*known.entry(word).or_insert_with(|| {
                    words.push(word);
                    words.len() as u32 - 1
                }));
            }
        }
        let longest = words.iter().map(|word| word.len()).max().unwrap_or(1);
        let mut windows = Vec::with_capacity(words.len() * longest * WINDOW);
        let mut past = Vec::with_capacity(words.len() * longest);
        for word in &words {
            for at in 0..longest {
                let around = (at..at + WINDOW).map(|i| i.checked_sub(WINDOW / 2));
                windows.extend(around.map(|i| i.and_then(|i| word.get(i)).copied().unwrap_or(0)));
                past.push(u32::from(at >= word.len()));
            }
        }
        let (n, c) = (words.len(), &self.config);
        let windows = Tensor::from_slice(&windows, [n, longest, WINDOW])?;
        let past = Tensor::from_slice(&past, [n, longest, 1])?;
        let x = self.characters.forward(&windows)?; // [N, L, 3, E]
        let x = x.reshape([n, longest, WINDOW * c.char_embedding_size])?;
        let x = self.convolution.forward(&x)?.masked_fill(&past, -1e30)?; // [N, L, F]
        let (spelled, _) = x.max(1, false)?;
        let places = Tensor::from_slice(&places, places.len())?;
        spelled.index_select(0, &places)?.reshape([width, rows.len(), c.char_filters])
    }
}

impl Module for WordEncoder {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        for (name, table) in &self.tables {
            v.module(name, table);
        }
        v.module("character_embedding", &self.characters);
        v.module("convolution", &self.convolution);
        v.module("rnn", &self.rnn);
    }
}

/// Reads sizes, labels' source and weights of a folder whose model stands on a [`WordEncoder`]; `words` finds
/// the encoder's sizes in the model's. Refuses sizes that the weights cannot fill: a damaged file must not ask
/// for all the memory there is.
pub(super) fn read_parts<C: DeserializeOwned>(
    dir: &Path,
    words: impl Fn(&C) -> &WordEncoderConfig,
) -> Result<(C, Map<String, Value>, StateDict)> {
    let json = read_json_in(dir)?;
    let bad = |text: String| Error::Data(format!("{}: config.json: {text}", dir.display()));
    let config: C =
        serde_json::from_value(Value::Object(json.clone())).map_err(|e| bad(e.to_string()))?;
    let sizes = words(&config);
    sizes.validate().map_err(|e| bad(e.to_string()))?;
    let tensors = read_folder(dir)?;
    let held: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    let wanted: usize = sizes.tables.iter().map(|t| t.rows.saturating_mul(t.width)).sum();
    if wanted > held || sizes.hidden_size.saturating_mul(sizes.hidden_size) > held {
        return Err(bad("it describes a larger model than the weights are".into()));
    }
    Ok((config, json, tensors))
}

/// The `config.json` of a model on a [`WordEncoder`]: labels, sizes, and what `extra` adds.
pub(super) fn config_text(
    mut entries: Map<String, Value>,
    model_type: &str,
    config: &impl Serialize,
    extra: &Map<String, Value>,
) -> String {
    entries.insert("model_type".into(), model_type.into());
    if let Ok(Value::Object(sizes)) = serde_json::to_value(config) {
        entries.extend(sizes);
    }
    entries.extend(extra.clone());
    let mut text = serde_json::to_string_pretty(&entries).unwrap_or_default();
    text.push('\n');
    text
}
