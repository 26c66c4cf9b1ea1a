//! A classifier of texts that reads words and their characters: for classifying without pretraining.
//!
//! ```text
//! y = encoder(words)                                                 [W, B, 2H]
//! p = largest of each unit over the text, and its mean, side by side [B, 4H]
//! logits = dropout(p) W_clsᵀ + b                                     [B, K]
//! ```

use std::path::Path;

use serde_json::{Map, Value};

use super::labels::{Classifier, LabelModel, Sentence};
use super::on_disk::{expect_labels, label_entries, labels_of};
use super::word_encoder::{WordEncoder, WordEncoderConfig, config_text, read_parts};
use crate::error::{Error, Result};
use crate::nn::{Init, Linear, Module, Visitor};
use crate::ops;
use crate::tensor::Tensor;

/// The `model_type` in `config.json`.
pub const MODEL_TYPE: &str = "word_classifier";

/// A bidirectional recurrent classifier on words and characters.
pub struct WordClassifier {
    labels: Vec<String>,
    encoder: WordEncoder,
    classifier: Linear,
}

impl WordClassifier {
    /// A classifier with first values that are a pure function of `seed`.
    ///
    /// # Errors
    /// When the sizes do not make a model, or labels are missing or twice there.
    pub fn new(
        config: &WordEncoderConfig,
        labels: Vec<String>,
        seed: u64,
    ) -> Result<WordClassifier> {
        expect_labels(&labels)?;
        let root = Init::new(seed);
        let width = 2 * config.output_size();
        Ok(WordClassifier {
            encoder: WordEncoder::new(&root, config)?,
            classifier: Linear::new(&root.at("classifier"), width, labels.len(), true)?,
            labels,
        })
    }

    /// Reads a folder that [`LabelModel::config_json`] and [`LabelModel::weights`] filled.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<WordClassifier> {
        let dir = dir.as_ref();
        let (config, json, tensors) = read_parts(dir, |c: &WordEncoderConfig| c)?;
        let model = WordClassifier::new(&config, labels_of(&json)?, 0)?;
        model
            .load_state_dict(&tensors, true)
            .map_err(|e| Error::Data(format!("{}: {e}", dir.display())))?;
        Ok(model)
    }
}

impl Module for WordClassifier {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.encoder.visit(v);
        v.module("classifier", &self.classifier);
    }
}

impl LabelModel for WordClassifier {
    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn num_layers(&self) -> usize {
        self.encoder.config.num_layers
    }

    fn kind(&self) -> &'static str {
        MODEL_TYPE
    }

    fn config_json(&self, extra: &Map<String, Value>) -> String {
        let entries = label_entries("WordsForSequenceClassification", &self.labels);
        config_text(entries, MODEL_TYPE, &self.encoder.config, extra)
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        self.encoder.forward_flops(batch, t)
    }
}

impl Classifier for WordClassifier {
    fn scores(&self, rows: &[&Sentence]) -> Result<Tensor> {
        let y = self.encoder.forward(rows)?; // [W, B, 2H], 0 past the end of a row
        let (width, b) = (y.shape()[0], rows.len());
        let past: Vec<u32> = (0..width)
            .flat_map(|at| rows.iter().map(move |row| u32::from(at >= row.words)))
            .collect();
        let past = Tensor::from_slice(&past, [width, b, 1])?;
        let (largest, _) = y.masked_fill(&past, -1e30)?.max(0, false)?;
        let share: Vec<f32> = rows.iter().map(|row| 1.0 / row.words as f32).collect();
        let share = Tensor::from_slice(&share, [b, 1])?.to_device(y.device())?;
        let mean = y.sum(&[0], false)?.mul(&share)?;
        self.classifier.forward(&ops::cat(&[&largest, &mean], -1)?)
    }
}
