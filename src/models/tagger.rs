//! Taggers: one tag a word.
//!
//! ```text
//! words → encoder → emissions [B, W, K] → best path that is a legal sequence of BIO tags
//! ```
//!
//! Two encoders stand behind [`Tagger`]: a language model's body that reads pieces of words, of which the
//! first speaks for the word ([`TokenClassifier`](super::TokenClassifier)), and a bidirectional recurrent network
//! that reads words and their characters ([`WordTagger`](super::WordTagger)). Either is trained by the
//! cross-entropy of each word, or by a CRF. Decoding is Viterbi in both cases: `I-X` follows `B-X` or `I-X` only
//! and never stands first.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::nn::{Crf, Module, Parameter};
use crate::ops::{self, CrfTables, CrossEntropy, Reduction};
use crate::tensor::{DType, Device, Tensor};

/// A sentence as a tagger takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentence {
    /// How many words there are to tag.
    pub words: usize,
    /// Token ids in the order of the text, special tokens included. For a word tagger its columns, all of
    /// the first word, then all of the second.
    pub ids: Vec<u32>,
    /// One for each id of a body: 1 on the predicate, 0 elsewhere.
    pub token_type_ids: Vec<u32>,
    /// For a body: where in `ids` the first piece of each word is.
    pub first: Vec<u32>,
    /// For a word tagger: the characters of each word.
    pub characters: Vec<Vec<u32>>,
    /// For a word tagger: how likely each of `ids` is to be read as unknown (0) in training.
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

/// A network that gives each word of a sentence a tag.
pub trait Tagger: Module {
    /// The tags by id.
    fn labels(&self) -> &[String];

    /// The CRF on top, where there is one.
    fn crf(&self) -> Option<&Crf>;

    /// The scores of the tags of each word, `[B, W, K]`; past the end of a shorter row they mean nothing.
    ///
    /// # Errors
    /// When a sentence is empty or an id is unknown.
    fn emissions(&self, rows: &[&Sentence]) -> Result<Tensor>;

    /// How many layers the encoder has.
    fn num_layers(&self) -> usize;

    /// The architecture by its name on the command line.
    fn kind(&self) -> &'static str;

    /// `config.json` without what `extra` adds.
    fn config_json(&self, extra: &Map<String, Value>) -> String;

    /// The bytes of `model.safetensors`.
    ///
    /// # Errors
    /// When memory cannot be had.
    fn weights(&self) -> Result<Vec<u8>>;

    /// Takes the weights that [`Tagger::weights`] gave; `name` begins the message of an error.
    ///
    /// # Errors
    /// When they do not fit.
    fn load_weights(&self, bytes: &[u8], name: &str) -> Result<()>;

    /// Floating-point operations of a forward pass over `batch` rows of `t` words.
    fn forward_flops(&self, batch: usize, t: usize) -> u64;
}

/// The lengths of rows in words, `[B]`.
pub(crate) fn lengths(rows: &[&Sentence]) -> Result<Tensor> {
    let lengths: Vec<u32> = rows.iter().map(|row| row.words as u32).collect();
    Tensor::from_slice(&lengths, lengths.len())
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

/// The loss of each row `[B]`, summed over its words, in nats: the CRF's, or the cross-entropy's.
///
/// # Errors
/// When shapes do not fit or a tag does not exist.
pub fn losses(
    tagger: &dyn Tagger,
    emissions: &Tensor,
    rows: &[&Sentence],
    tags: &[&[u32]],
    label_smoothing: f64,
) -> Result<Tensor> {
    let width = emissions.shape()[1];
    let tags = tags.iter().copied();
    if let Some(crf) = tagger.crf() {
        return crf.loss(emissions, &rectangle(tags, width, 0)?, &lengths(rows)?);
    }
    let targets = rectangle(tags, width, CrossEntropy::IGNORE)?;
    let options =
        CrossEntropy { label_smoothing, reduction: Reduction::None, ..Default::default() };
    ops::cross_entropy(emissions, &targets, &options)?.sum(&[1], false)
}

/// Which tag may follow which, as tables of 0 and −∞: `I-X` follows `B-X` or `I-X` only and does not stand
/// first. Types without a `B-` tag are not held to it.
fn legal(labels: &[String]) -> (Vec<f32>, Vec<f32>) {
    let inside = |tag: usize| {
        let kind = labels[tag].strip_prefix("I-")?;
        let begins = |other: &String| other.strip_prefix("B-") == Some(kind);
        labels.iter().any(begins).then_some(kind)
    };
    let continues = |tag: usize| labels[tag].split_once('-').map(|(_, kind)| kind);
    let k = labels.len();
    let forbidden = |no: bool| if no { f32::NEG_INFINITY } else { 0.0 };
    let start = (0..k).map(|tag| forbidden(inside(tag).is_some())).collect();
    let pairs = (0..k * k).map(|at| {
        let (from, to) = (at / k, at % k);
        forbidden(inside(to).is_some_and(|kind| continues(from) != Some(kind)))
    });
    (pairs.collect(), start)
}

/// The best legal path of each row, one tag a word.
///
/// # Errors
/// When shapes do not fit.
pub fn decode(
    tagger: &dyn Tagger,
    emissions: &Tensor,
    rows: &[&Sentence],
) -> Result<Vec<Vec<u32>>> {
    let k = tagger.labels().len();
    let (pairs, first) = legal(tagger.labels());
    let emissions = emissions.detach().to_device(Device::Cpu)?; // decoded there
    let here = |p: &Parameter| p.data().to_device(Device::Cpu);
    let mut pairs = Tensor::from_slice(&pairs, [k, k])?;
    let mut start = Tensor::from_slice(&first, k)?;
    let mut end = Tensor::zeros(k, DType::F32)?;
    if let Some(crf) = tagger.crf() {
        pairs = pairs.add(&here(&crf.transitions)?)?;
        start = start.add(&here(&crf.start_transitions)?)?;
        end = here(&crf.end_transitions)?;
    }
    let tables = CrfTables { transitions: &pairs, start: &start, end: &end };
    let paths = ops::viterbi(&emissions, &tables, &lengths(rows)?)?.to_vec::<u32>()?;
    let width = emissions.shape()[1].max(1);
    Ok(paths.chunks(width).zip(rows).map(|(path, row)| path[..row.words].to_vec()).collect())
}

/// Refuses a batch with an empty sentence.
pub(crate) fn expect_words(rows: &[&Sentence]) -> Result<usize> {
    match rows.iter().map(|row| row.words).min() {
        None | Some(0) => Err(Error::op("tagger", "a batch holds a sentence without words")),
        Some(_) => Ok(rows.iter().map(|row| row.words).max().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_follows_its_own_type_only() {
        let labels = ["O", "B-A", "I-A", "B-C", "I-C", "I-D"].map(String::from);
        let (pairs, start) = legal(&labels);
        let free = |from: usize, to: usize| pairs[from * 6 + to] == 0.0;
        assert!(free(1, 2) && free(2, 2) && free(3, 4));
        assert!(!free(0, 2) && !free(3, 2) && !free(4, 2) && !free(2, 4));
        assert!((0..6).all(|from| free(from, 0) && free(from, 1)));
        assert_eq!(
            start.iter().map(|x| *x == 0.0).collect::<Vec<_>>(),
            [true, true, false, true, false, true]
        );
        // A model that knows no B-D may begin with I-D.
        assert!(free(0, 5));
    }
}
