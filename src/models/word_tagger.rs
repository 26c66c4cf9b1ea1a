//! A tagger that reads words and their characters: for tagging without pretraining (Ma and Hovy 2016).
//!
//! ```text
//! y = encoder(words)                                                 [W, B, 2H]
//! emissions = y W_clsᵀ + b → CRF                                     [B, W, K]
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::labels::{LabelModel, Sentence};
use super::on_disk::{expect_labels, label_entries, labels_of};
use super::tagger::Tagger;
use super::word_encoder::{WordEncoder, WordEncoderConfig, config_text, read_parts};
use crate::error::{Error, Result};
use crate::nn::{Crf, Init, Linear, Module, Visitor};
use crate::tensor::Tensor;

/// The `model_type` in `config.json`.
pub const MODEL_TYPE: &str = "word_tagger";

/// The sizes of a [`WordTagger`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordTaggerConfig {
    /// The encoder's.
    #[serde(flatten)]
    pub encoder: WordEncoderConfig,
    /// Whether a CRF stands on top.
    pub crf: bool,
}

/// A bidirectional recurrent tagger on words and characters.
pub struct WordTagger {
    config: WordTaggerConfig,
    labels: Vec<String>,
    encoder: WordEncoder,
    classifier: Linear,
    crf: Option<Crf>,
}

impl WordTagger {
    /// A tagger with first values that are a pure function of `seed`.
    ///
    /// # Errors
    /// When the sizes do not make a model, or labels are missing or twice there.
    pub fn new(config: &WordTaggerConfig, labels: Vec<String>, seed: u64) -> Result<WordTagger> {
        expect_labels(&labels)?;
        let (root, n) = (Init::new(seed), labels.len());
        let outputs = config.encoder.output_size();
        Ok(WordTagger {
            encoder: WordEncoder::new(&root, &config.encoder)?,
            classifier: Linear::new(&root.at("classifier"), outputs, n, true)?,
            crf: config.crf.then(|| Crf::new(&root.at("crf"), n)).transpose()?,
            config: config.clone(),
            labels,
        })
    }

    /// Reads a folder that [`LabelModel::config_json`] and [`LabelModel::weights`] filled.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<WordTagger> {
        let dir = dir.as_ref();
        let (config, json, tensors) = read_parts(dir, |c: &WordTaggerConfig| &c.encoder)?;
        let tagger = WordTagger::new(&config, labels_of(&json)?, 0)?;
        tagger
            .load_state_dict(&tensors, true)
            .map_err(|e| Error::Data(format!("{}: {e}", dir.display())))?;
        Ok(tagger)
    }
}

impl Module for WordTagger {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.encoder.visit(v);
        v.module("classifier", &self.classifier);
        if let Some(crf) = &self.crf {
            v.module("crf", crf);
        }
    }
}

impl LabelModel for WordTagger {
    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn num_layers(&self) -> usize {
        self.config.encoder.num_layers
    }

    fn kind(&self) -> &'static str {
        MODEL_TYPE
    }

    fn config_json(&self, extra: &Map<String, Value>) -> String {
        let entries = label_entries("WordTagger", &self.labels);
        config_text(entries, MODEL_TYPE, &self.config, extra)
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        self.encoder.forward_flops(batch, t)
    }
}

impl Tagger for WordTagger {
    fn crf(&self) -> Option<&Crf> {
        self.crf.as_ref()
    }

    fn emissions(&self, rows: &[&Sentence]) -> Result<Tensor> {
        self.classifier.forward(&self.encoder.forward(rows)?)?.transpose(0, 1)
    }
}
