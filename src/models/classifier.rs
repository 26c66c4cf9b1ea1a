//! What all classifiers of texts share: a text in, one score a class out.
//!
//! Two kinds stand behind [`Classifier`]: a head on a language model's body that reads tokens
//! ([`SequenceClassifier`]), and a recurrent network that reads words and their characters
//! ([`WordClassifier`](super::WordClassifier)).

use serde_json::{Map, Value};

use super::on_disk::{config_text, weights_from_bytes, weights_to_bytes};
use super::tagger::{Sentence, rectangle};
use super::{Inputs, ModelConfig, SequenceClassifier};
use crate::error::{Error, Result};
use crate::nn::Module;
use crate::tensor::Tensor;

/// A network that gives each text one score a class.
pub trait Classifier: Module {
    /// The classes by id.
    fn labels(&self) -> &[String];

    /// The scores of the classes, `[B, K]`.
    ///
    /// # Errors
    /// When a text is empty or an id is unknown.
    fn scores(&self, rows: &[&Sentence]) -> Result<Tensor>;

    /// How many layers stand below the head.
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

    /// Takes the weights that [`Classifier::weights`] gave; `name` begins the message of an error.
    ///
    /// # Errors
    /// When they do not fit.
    fn load_weights(&self, bytes: &[u8], name: &str) -> Result<()>;

    /// Floating-point operations of a forward pass over `batch` rows of `t` tokens or words.
    fn forward_flops(&self, batch: usize, t: usize) -> u64;
}

impl Classifier for SequenceClassifier {
    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn scores(&self, rows: &[&Sentence]) -> Result<Tensor> {
        let config = self.body.config();
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::Data("a batch holds an empty text".into()));
        }
        let t = lengths.iter().copied().max().unwrap_or(0);
        let pad = if let ModelConfig::Bert(c) = config { c.pad_token_id as u32 } else { 0 };
        let ids = rectangle(rows.iter().map(|row| row.ids.as_slice()), t, pad)?;
        let types = rectangle(rows.iter().map(|row| row.token_type_ids.as_slice()), t, 0)?;
        self.logits(&Inputs {
            ids: &ids,
            token_type_ids: (config.token_types() > 0).then_some(&types),
            padding_mask: None,
            lengths: Some(&lengths),
        })
    }

    fn num_layers(&self) -> usize {
        self.body.config().num_layers()
    }

    fn kind(&self) -> &'static str {
        self.body.config().kind()
    }

    fn config_json(&self, extra: &Map<String, Value>) -> String {
        let mut entries = self.config_entries();
        entries.extend(extra.clone());
        config_text(self.body.config(), &entries)
    }

    fn weights(&self) -> Result<Vec<u8>> {
        weights_to_bytes(self, self.body.config())
    }

    fn load_weights(&self, bytes: &[u8], name: &str) -> Result<()> {
        weights_from_bytes(bytes, name, self, self.body.config())
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        self.body.forward_flops(batch, t)
    }
}
