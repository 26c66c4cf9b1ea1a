//! Predictions for texts without labels.

use std::path::Path;

use serde::Serialize;

use super::data::Sequence;
use super::evaluate::longest_input;
use super::labelled::encode;
use super::pretrained;
use super::tasks::classify::logits;
use crate::autograd::no_grad;
use crate::error::Result;
use crate::models::SequenceClassifier;
use crate::nn::Module;
use crate::tensor::Device;
use crate::text::Tokenizer;

/// What a classifier says about one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The likeliest class.
    pub label: String,
    /// Its probability.
    pub score: f64,
    /// All classes with their probabilities, the likeliest first.
    pub scores: Vec<(String, f64)>,
    /// Whether the text was cut.
    pub truncated: bool,
}

/// A model folder opened for predictions.
pub struct Predictor {
    model: SequenceClassifier,
    tokenizer: Tokenizer,
    /// Texts are cut to this many tokens.
    pub max_length: usize,
}

/// Texts side by side.
const BATCH: usize = 32;

impl Predictor {
    /// Opens a model folder, or the best model of a run folder.
    ///
    /// # Errors
    /// When there is no such model or it is no classifier.
    pub fn open(path: &Path) -> Result<Predictor> {
        let (model, tokenizer) = pretrained::open_classifier(path)?;
        let max_length = longest_input(model.body.config());
        Ok(Predictor { model, tokenizer, max_length })
    }

    /// Moves the model to `device`.
    ///
    /// # Errors
    /// When the device is not there or is full.
    pub fn to_device(&self, device: Device) -> Result<()> {
        self.model.to_device(device)
    }

    /// The names of the classes.
    pub fn labels(&self) -> &[String] {
        &self.model.labels
    }

    /// Predicts a class for each text, or pair of texts, in order.
    ///
    /// # Errors
    /// When a text cannot be tokenised.
    pub fn predict(&self, texts: &[(String, Option<String>)]) -> Result<Vec<Prediction>> {
        let mut encoded: Vec<(Sequence, bool)> = Vec::with_capacity(texts.len());
        for (text, pair) in texts {
            encoded.push(encode(&self.tokenizer, text, pair.as_deref(), self.max_length)?);
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| encoded[i].0.ids.len());
        let mut all: Vec<Option<Prediction>> = vec![None; texts.len()];
        let pad = self.tokenizer.pad_id().unwrap_or(0);
        for chunk in order.chunks(BATCH) {
            let rows: Vec<&Sequence> = chunk.iter().map(|&i| &encoded[i].0).collect();
            let p = no_grad(|| logits(&self.model, &rows, pad)?.softmax(-1))?.to_f64_vec()?;
            for (&i, row) in chunk.iter().zip(p.chunks(self.model.labels.len())) {
                let mut scores: Vec<(String, f64)> =
                    self.model.labels.iter().cloned().zip(row.iter().copied()).collect();
                scores.sort_by(|a, b| b.1.total_cmp(&a.1));
                let (label, score) = scores[0].clone();
                all[i] = Some(Prediction { label, score, scores, truncated: encoded[i].1 });
            }
        }
        Ok(all.into_iter().flatten().collect())
    }
}
