//! What models that give labels share, to a text or to each of its words: rows of ids, the names of the labels,
//! and how they are written down.
//!
//! A text is read in one of two ways: as tokens by a language model's body ([`super::heads`]), or as words and
//! their characters ([`super::word_encoder`]).

use serde_json::{Map, Value};

use super::safetensors::{from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::nn::Module;
use crate::tensor::Tensor;

/// A text as a model that gives labels takes it: tokens of a body, or words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentence {
    /// How many words there are; 0 where a text is tokens and nothing is to be tagged.
    pub words: usize,
    /// Token ids in the order of the text, special tokens included. For a reader of words its columns, all of
    /// the first word, then all of the second.
    pub ids: Vec<u32>,
    /// One for each id of a body: 1 on the predicate, 0 elsewhere.
    pub token_type_ids: Vec<u32>,
    /// For a body: where in `ids` the first piece of each word is.
    pub first: Vec<u32>,
    /// For a reader of words: the characters of each word.
    pub characters: Vec<Vec<u32>>,
    /// For a reader of words: how likely each of `ids` is to be read as unknown (0) in training.
    pub rare: Vec<f32>,
}

impl Sentence {
    /// The sentence as training reads it: some rare words as unknown ones. `unit` draws from 0 to below 1.
    pub fn with_unknowns(&self, unit: &mut dyn FnMut() -> f32) -> Sentence {
        let mut read = self.clone();
        for (id, &rare) in read.ids.iter_mut().zip(&self.rare) {
            if unit() < rare {
                *id = 0;
            }
        }
        read
    }
}

/// Rows of ids side by side as `[B, T]`, filled up with `fill`.
pub(crate) fn rectangle<'a>(
    rows: impl ExactSizeIterator<Item = &'a [u32]> + Clone,
    width: usize,
    fill: u32,
) -> Result<Tensor> {
    let mut all = vec![fill; rows.len() * width];
    for (out, row) in all.chunks_mut(width.max(1)).zip(rows.clone()) {
        out[..row.len()].copy_from_slice(row);
    }
    Tensor::from_slice(&all, [rows.len(), width])
}

/// Refuses a batch with an empty sentence.
pub(crate) fn expect_words(rows: &[&Sentence]) -> Result<usize> {
    match rows.iter().map(|row| row.words).min() {
        None | Some(0) => Err(Error::op("tagger", "a batch holds a sentence without words")),
        Some(_) => Ok(rows.iter().map(|row| row.words).max().unwrap_or(0)),
    }
}

/// A model that gives labels.
pub trait LabelModel: Module {
    /// The labels by id.
    fn labels(&self) -> &[String];

    /// How many layers stand below the head.
    fn num_layers(&self) -> usize;

    /// The architecture by its name on the command line.
    fn kind(&self) -> &'static str;

    /// `config.json`; entries of `extra` come last.
    fn config_json(&self, extra: &Map<String, Value>) -> String;

    /// The bytes of `model.safetensors`.
    ///
    /// # Errors
    /// When memory cannot be had.
    fn weights(&self) -> Result<Vec<u8>> {
        to_bytes(&self.state_dict())
    }

    /// Takes the weights that [`LabelModel::weights`] gave; `name` begins the message of an error.
    ///
    /// # Errors
    /// When they do not fit.
    fn load_weights(&self, bytes: &[u8], name: &str) -> Result<()> {
        let tensors = from_bytes(bytes, name)?;
        self.load_state_dict(&tensors, true).map_err(|e| Error::Data(format!("{name}: {e}")))?;
        Ok(())
    }

    /// Floating-point operations of a forward pass over `batch` rows of `t` tokens or words.
    fn forward_flops(&self, batch: usize, t: usize) -> u64;

    /// Bytes that such a pass keeps for the way back, as far as they are estimated.
    fn activations(&self, batch: usize, t: usize) -> u64 {
        let _ = (batch, t);
        0
    }
}

/// A network that gives each text one score a class.
pub trait Classifier: LabelModel {
    /// The scores of the classes, `[B, K]`.
    ///
    /// # Errors
    /// When a text is empty or an id is unknown.
    fn scores(&self, rows: &[&Sentence]) -> Result<Tensor>;
}
