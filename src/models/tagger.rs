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

use super::labels::{LabelModel, Sentence, rectangle};
use crate::error::Result;
use crate::nn::{Crf, Parameter};
use crate::ops::{self, CrfTables, CrossEntropy, Reduction};
use crate::tensor::{DType, Device, Tensor};

/// A network that gives each word of a sentence a tag.
pub trait Tagger: LabelModel {
    /// The CRF on top, where there is one.
    fn crf(&self) -> Option<&Crf>;

    /// The scores of the tags of each word, `[B, W, K]`; past the end of a shorter row they mean nothing.
    ///
    /// # Errors
    /// When a sentence is empty or an id is unknown.
    fn emissions(&self, rows: &[&Sentence]) -> Result<Tensor>;
}

/// The lengths of rows in words, `[B]`.
pub(crate) fn lengths(rows: &[&Sentence]) -> Result<Tensor> {
    let lengths: Vec<u32> = rows.iter().map(|row| row.words as u32).collect();
    Tensor::from_slice(&lengths, lengths.len())
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
