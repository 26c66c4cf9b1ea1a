//! What a pretraining is told: the model by name and changes to it, the text, how to train.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::ModelConfig;
use crate::train::adapters::LoraConfig;
use crate::train::config::TrainerConfig;
use crate::train::data::Sampling;
use crate::train::labelled::Columns;

/// Sizes of a model that differ from its named size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Layers.
    pub num_hidden_layers: Option<usize>,
    /// Attention heads.
    pub num_attention_heads: Option<usize>,
    /// Width; of recurrent models also the width of the embeddings.
    pub hidden_size: Option<usize>,
    /// Dropout, everywhere the model has it.
    pub dropout: Option<f64>,
    /// The longest context in tokens.
    pub context_length: Option<usize>,
    /// Whether the output layer is the embedding table; a bert's always is.
    pub tie_word_embeddings: Option<bool>,
}

impl ModelShape {
    /// The configuration of `model` in `size` with these changes.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such model or size, or the numbers make no model.
    pub fn config(&self, model: &str, size: &str, vocab_size: usize) -> Result<ModelConfig> {
        let (context, dropout) = (self.context_length, self.dropout);
        let mut config = ModelConfig::preset(model, size, vocab_size, context, dropout)?;
        match &mut config {
            ModelConfig::Gpt(c) => {
                c.n_layer = self.num_hidden_layers.unwrap_or(c.n_layer);
                c.n_head = self.num_attention_heads.unwrap_or(c.n_head);
                c.n_embd = self.hidden_size.unwrap_or(c.n_embd);
                c.tie_word_embeddings = self.tie_word_embeddings.unwrap_or(c.tie_word_embeddings);
            }
            ModelConfig::Bert(c) => {
                c.num_hidden_layers = self.num_hidden_layers.unwrap_or(c.num_hidden_layers);
                c.num_attention_heads = self.num_attention_heads.unwrap_or(c.num_attention_heads);
                if let Some(width) = self.hidden_size {
                    (c.hidden_size, c.intermediate_size) = (width, width.saturating_mul(4));
                }
            }
            ModelConfig::Rnn(c) => {
                c.num_layers = self.num_hidden_layers.unwrap_or(c.num_layers);
                c.tie_word_embeddings = self.tie_word_embeddings.unwrap_or(c.tie_word_embeddings);
                if self.num_attention_heads.is_some() {
                    return Err(Error::Usage(format!(
                        "--num-attention-heads: {model} is recurrent and has no attention"
                    )));
                }
                if let Some(width) = self.hidden_size {
                    (c.hidden_size, c.embedding_size) = (width, width);
                }
            }
        }
        config.validate()?;
        Ok(config)
    }
}

/// Everything about a pretraining run; the fields are the flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainConfig {
    /// `gpt`, `bert`, `rnn`, `lstm` or `gru`.
    pub model: String,
    /// The size by name.
    pub size: String,
    /// Changes to the size.
    #[serde(flatten)]
    pub shape: ModelShape,
    /// A model or run folder to go on from, with its tokenizer; `model` and `size` do not count then.
    pub from: Option<PathBuf>,
    /// Text files, or token files made with the same tokenizer.
    pub train: Vec<PathBuf>,
    /// Text files to validate on.
    pub validation: Vec<PathBuf>,
    /// Where `validation` is empty: the share at the end of the text that is kept for it; 0: none.
    pub validation_fraction: f64,
    /// `char`, `bpe:4096`, `wordpiece:8000` or the path of a `tokenizer.json`; by default `char`, and
    /// `wordpiece:8000` for bert.
    pub tokenizer: Option<String>,
    /// Where the text is in label files (CSV, TSV, JSONL, …), and how the bytes are characters.
    #[serde(flatten)]
    pub columns: Columns,
    /// Each line, or row of a label file, is an example by itself.
    pub line_by_line: bool,
    /// With `from`: adapters learn, not the weights.
    #[serde(flatten)]
    pub lora: LoraConfig,
    /// The run folder.
    pub out: PathBuf,
    /// `random`, `shuffled` or `lanes`; by default `random`, and `lanes` for recurrent models.
    pub sampling: Option<Sampling>,
    /// bert: the share of tokens to be hidden.
    pub mlm_probability: f64,
    /// bert: hide whole words.
    pub whole_word_mask: bool,
    /// What samples begin with; without it they begin like a new text.
    pub sample_prompt: String,
    /// Tokens of a sample after each evaluation; 0: no samples.
    pub sample_length: usize,
    /// How to train.
    #[serde(flatten)]
    pub trainer: TrainerConfig,
}

impl Default for PretrainConfig {
    fn default() -> PretrainConfig {
        PretrainConfig {
            model: "gpt".into(),
            size: "nano".into(),
            shape: ModelShape::default(),
            from: None,
            train: Vec::new(),
            validation: Vec::new(),
            validation_fraction: 0.1,
            tokenizer: None,
            columns: Columns::default(),
            line_by_line: false,
            lora: LoraConfig::default(),
            out: "runs/pretrain".into(),
            sampling: None,
            mlm_probability: 0.15,
            whole_word_mask: false,
            sample_prompt: String::new(),
            sample_length: 200,
            trainer: TrainerConfig::pretraining(),
        }
    }
}
