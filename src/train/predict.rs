//! Predictions for texts without labels.

use std::path::Path;

use serde::Serialize;

use super::labelled::TextReader;
use crate::autograd::no_grad;
use crate::error::Result;
use crate::models::{Classifier, Sentence};
use crate::tensor::Device;

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
    model: Box<dyn Classifier>,
    reader: TextReader,
}

/// Texts side by side.
const BATCH: usize = 32;

impl Predictor {
    /// Opens a model folder, or the best model of a run folder. Texts are cut to `max_length`, by default to
    /// what the model reads.
    ///
    /// # Errors
    /// When there is no such model or it is no classifier.
    pub fn open(path: &Path, max_length: Option<usize>) -> Result<Predictor> {
        let (model, reader) = TextReader::open(path, max_length)?;
        Ok(Predictor { model, reader })
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
        self.model.labels()
    }

    /// Predicts a class for each text, or pair of texts, in order.
    ///
    /// # Errors
    /// When a text cannot be tokenised.
    pub fn predict(&self, texts: &[(String, Option<String>)]) -> Result<Vec<Prediction>> {
        let mut encoded: Vec<(Sentence, bool)> = Vec::with_capacity(texts.len());
        for (text, pair) in texts {
            encoded.push(self.reader.encode(text, pair.as_deref())?);
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| encoded[i].0.ids.len());
        let mut all: Vec<Option<Prediction>> = vec![None; texts.len()];
        for chunk in order.chunks(BATCH) {
            let rows: Vec<&Sentence> = chunk.iter().map(|&i| &encoded[i].0).collect();
            let p = no_grad(|| self.model.scores(&rows)?.softmax(-1))?.to_f64_vec()?;
            for (&i, row) in chunk.iter().zip(p.chunks(self.labels().len())) {
                let mut scores: Vec<(String, f64)> =
                    self.labels().iter().cloned().zip(row.iter().copied()).collect();
                scores.sort_by(|a, b| b.1.total_cmp(&a.1));
                let (label, score) = scores[0].clone();
                all[i] = Some(Prediction { label, score, scores, truncated: encoded[i].1 });
            }
        }
        Ok(all.into_iter().flatten().collect())
    }
}
