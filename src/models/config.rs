//! What a model is made of: architecture and sizes, as `config.json` says them.
//!
//! The keys are those of Hugging Face's `GPT2Config` and `BertConfig`, so their files are read and
//! ours are read by them. The recurrent language models, which have no such class, use PyTorch's
//! words for the layer's arguments. What a file does not say has the default of the original class;
//! what it says wrongly is refused with a sentence, never corrected in silence.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::nn::{Activation, RecurrentKind};

/// A model's architecture and sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum ModelConfig {
    /// A decoder with GPT-2's architecture.
    Gpt(GptConfig),
    /// An encoder with BERT's architecture.
    Bert(BertConfig),
    /// A recurrent language model: `rnn`, `lstm` or `gru`.
    Rnn(RnnConfig),
}

/// Hugging Face's `GPT2Config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GptConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// The longest context, in tokens.
    pub n_positions: usize,
    /// The width of the residual stream.
    pub n_embd: usize,
    /// How many blocks.
    pub n_layer: usize,
    /// How many attention heads; they divide `n_embd`.
    pub n_head: usize,
    /// The width of the feed-forward layer; 4 · `n_embd` where absent.
    pub n_inner: Option<usize>,
    /// `gelu_new`, `gelu`, `relu`, `silu` or `tanh`.
    pub activation_function: String,
    /// Dropout on what attention and feed-forward add to the stream.
    pub resid_pdrop: f64,
    /// Dropout on the embeddings.
    pub embd_pdrop: f64,
    /// Dropout on the attention weights.
    pub attn_pdrop: f64,
    /// ε of the norms.
    pub layer_norm_epsilon: f64,
    /// Deviation of the first weights.
    pub initializer_range: f64,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// The token that ends a text, where the configuration names one.
    pub eos_token_id: Option<u32>,
}

impl Default for GptConfig {
    fn default() -> Self {
        GptConfig {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: true,
            eos_token_id: None,
        }
    }
}

impl GptConfig {
    /// The width of the feed-forward layer.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }
}

/// Hugging Face's `BertConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// The width.
    pub hidden_size: usize,
    /// How many layers.
    pub num_hidden_layers: usize,
    /// How many attention heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// The width of the feed-forward layer.
    pub intermediate_size: usize,
    /// `gelu`, `gelu_new`, `relu`, `silu` or `tanh`.
    pub hidden_act: String,
    /// Dropout on embeddings and on what each sub-layer adds.
    pub hidden_dropout_prob: f64,
    /// Dropout on the attention weights.
    pub attention_probs_dropout_prob: f64,
    /// The longest text, in tokens.
    pub max_position_embeddings: usize,
    /// How many token types (segments) there are.
    pub type_vocab_size: usize,
    /// Deviation of the first weights.
    pub initializer_range: f64,
    /// ε of the norms.
    pub layer_norm_eps: f64,
    /// The id that fills short rows up.
    pub pad_token_id: usize,
    /// Dropout before a classifier; `hidden_dropout_prob` where absent.
    pub classifier_dropout: Option<f64>,
}

impl Default for BertConfig {
    fn default() -> Self {
        BertConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            classifier_dropout: None,
        }
    }
}

/// A recurrent language model: embedding, `torch.nn.RNN`, `LSTM` or `GRU`, linear head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RnnConfig {
    /// `rnn`, `lstm` or `gru`; written as `model_type`.
    #[serde(skip)]
    pub kind: RnnKind,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the token vectors.
    pub embedding_size: usize,
    /// Hidden units of one direction.
    pub hidden_size: usize,
    /// How many layers.
    pub num_layers: usize,
    /// `tanh` or `relu`; for kind `rnn` only.
    pub nonlinearity: String,
    /// Dropout on embeddings, between layers and on the outputs.
    pub dropout: f64,
    /// Whether a second recurrence runs from the end. Such a model can tag and classify but not
    /// predict the next token.
    pub bidirectional: bool,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// How many token types there are, each with a vector that is added to the token's; 0 for none.
    pub type_vocab_size: usize,
    /// How many tokens are trained on at once.
    pub context_length: usize,
    /// The token that ends a text, where the configuration names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<u32>,
}

/// Which recurrence a [`RnnConfig`] means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RnnKind {
    /// The simple recurrent network.
    Rnn,
    /// Long short-term memory.
    #[default]
    Lstm,
    /// Gated recurrent unit.
    Gru,
}

impl RnnKind {
    /// `rnn`, `lstm` or `gru`.
    pub fn name(self) -> &'static str {
        match self {
            RnnKind::Rnn => "rnn",
            RnnKind::Lstm => "lstm",
            RnnKind::Gru => "gru",
        }
    }
}

impl Default for RnnConfig {
    fn default() -> Self {
        RnnConfig {
            kind: RnnKind::Lstm,
            vocab_size: 1000,
            embedding_size: 128,
            hidden_size: 128,
            num_layers: 1,
            nonlinearity: "tanh".into(),
            dropout: 0.0,
            bidirectional: false,
            tie_word_embeddings: false,
            type_vocab_size: 0,
            context_length: 64,
            eos_token_id: None,
        }
    }
}

impl RnnConfig {
    /// The recurrence as the layer names it.
    pub fn recurrent_kind(&self) -> RecurrentKind {
        match self.kind {
            RnnKind::Rnn if self.nonlinearity == "relu" => RecurrentKind::RnnRelu,
            RnnKind::Rnn => RecurrentKind::RnnTanh,
            RnnKind::Lstm => RecurrentKind::Lstm,
            RnnKind::Gru => RecurrentKind::Gru,
        }
    }

    /// Width of the outputs.
    pub fn output_size(&self) -> usize {
        self.hidden_size * if self.bidirectional { 2 } else { 1 }
    }
}

/// The largest size that any entry of a configuration may have; a larger one is a damaged file.
const MOST: usize = 1 << 31;

impl ModelConfig {
    /// The token that ends a text, where the configuration names one of its vocabulary.
    pub fn eos_token_id(&self) -> Option<u32> {
        let named = match self {
            ModelConfig::Gpt(c) => c.eos_token_id,
            ModelConfig::Bert(_) => None,
            ModelConfig::Rnn(c) => c.eos_token_id,
        };
        named.filter(|&id| (id as usize) < self.vocab_size())
    }

    /// Names the token that ends a text, which an encoder does not have.
    pub fn set_eos_token_id(&mut self, id: Option<u32>) {
        match self {
            ModelConfig::Gpt(c) => c.eos_token_id = id,
            ModelConfig::Bert(_) => {}
            ModelConfig::Rnn(c) => c.eos_token_id = id,
        }
    }

    /// `gpt`, `bert`, `rnn`, `lstm` or `gru`: the name on the command line.
    pub fn kind(&self) -> &'static str {
        match self {
            ModelConfig::Gpt(_) => "gpt",
            ModelConfig::Bert(_) => "bert",
            ModelConfig::Rnn(c) => c.kind.name(),
        }
    }

    /// The `model_type` in `config.json`.
    pub fn model_type(&self) -> &'static str {
        match self {
            ModelConfig::Gpt(_) => "gpt2",
            other => other.kind(),
        }
    }

    /// Rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            ModelConfig::Gpt(c) => c.vocab_size,
            ModelConfig::Bert(c) => c.vocab_size,
            ModelConfig::Rnn(c) => c.vocab_size,
        }
    }

    /// The longest context in tokens; for a recurrent model, which has no limit, the length of
    /// training.
    pub fn context_length(&self) -> usize {
        match self {
            ModelConfig::Gpt(c) => c.n_positions,
            ModelConfig::Bert(c) => c.max_position_embeddings,
            ModelConfig::Rnn(c) => c.context_length,
        }
    }

    /// The width of the hidden states that the model gives.
    pub fn hidden_size(&self) -> usize {
        match self {
            ModelConfig::Gpt(c) => c.n_embd,
            ModelConfig::Bert(c) => c.hidden_size,
            ModelConfig::Rnn(c) => c.output_size(),
        }
    }

    /// How many token types the model tells apart; 0 where it has none. To GPT-2 types are tokens: type 0
    /// would add the vector of token 0 to every position, which no pretraining has seen.
    pub fn token_types(&self) -> usize {
        match self {
            ModelConfig::Gpt(_) => 0,
            ModelConfig::Bert(c) => c.type_vocab_size,
            ModelConfig::Rnn(c) => c.type_vocab_size,
        }
    }

    /// How many layers.
    pub fn num_layers(&self) -> usize {
        match self {
            ModelConfig::Gpt(c) => c.n_layer,
            ModelConfig::Bert(c) => c.num_hidden_layers,
            ModelConfig::Rnn(c) => c.num_layers,
        }
    }

    /// Whether the output layer is the embedding table.
    pub fn is_tied(&self) -> bool {
        match self {
            ModelConfig::Gpt(c) => c.tie_word_embeddings,
            ModelConfig::Bert(_) => true,
            ModelConfig::Rnn(c) => c.tie_word_embeddings,
        }
    }

    /// Dropout before a classifier's linear layer.
    pub fn classifier_dropout(&self) -> f64 {
        match self {
            ModelConfig::Gpt(c) => c.resid_pdrop,
            ModelConfig::Bert(c) => c.classifier_dropout.unwrap_or(c.hidden_dropout_prob),
            ModelConfig::Rnn(c) => c.dropout,
        }
    }

    /// Sets all dropout probabilities of the model.
    pub fn set_dropout(&mut self, p: f64) {
        match self {
            ModelConfig::Gpt(c) => (c.resid_pdrop, c.embd_pdrop, c.attn_pdrop) = (p, p, p),
            ModelConfig::Bert(c) => {
                (c.hidden_dropout_prob, c.attention_probs_dropout_prob) = (p, p);
                c.classifier_dropout = None;
            }
            ModelConfig::Rnn(c) => c.dropout = p,
        }
    }

    /// Every entry that must be at least 1, by name.
    fn sizes(&self) -> Vec<(&'static str, usize)> {
        match self {
            ModelConfig::Gpt(c) => vec![
                ("vocab_size", c.vocab_size),
                ("n_positions", c.n_positions),
                ("n_embd", c.n_embd),
                ("n_layer", c.n_layer),
                ("n_head", c.n_head),
                ("n_inner", c.n_inner.unwrap_or(1)),
            ],
            ModelConfig::Bert(c) => vec![
                ("vocab_size", c.vocab_size),
                ("hidden_size", c.hidden_size),
                ("num_hidden_layers", c.num_hidden_layers),
                ("num_attention_heads", c.num_attention_heads),
                ("intermediate_size", c.intermediate_size),
                ("max_position_embeddings", c.max_position_embeddings),
                ("type_vocab_size", c.type_vocab_size),
            ],
            ModelConfig::Rnn(c) => vec![
                ("vocab_size", c.vocab_size),
                ("embedding_size", c.embedding_size),
                ("hidden_size", c.hidden_size),
                ("num_layers", c.num_layers),
                ("context_length", c.context_length),
                ("type_vocab_size", c.type_vocab_size.max(1)),
            ],
        }
    }

    /// Every dropout probability, by name.
    fn probabilities(&self) -> Vec<(&'static str, f64)> {
        match self {
            ModelConfig::Gpt(c) => vec![
                ("resid_pdrop", c.resid_pdrop),
                ("embd_pdrop", c.embd_pdrop),
                ("attn_pdrop", c.attn_pdrop),
            ],
            ModelConfig::Bert(c) => vec![
                ("hidden_dropout_prob", c.hidden_dropout_prob),
                ("attention_probs_dropout_prob", c.attention_probs_dropout_prob),
                ("classifier_dropout", c.classifier_dropout.unwrap_or(0.0)),
            ],
            ModelConfig::Rnn(c) => vec![("dropout", c.dropout)],
        }
    }

    /// Checks that the sizes make a model.
    ///
    /// # Errors
    /// With a sentence on the first thing that does not fit.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::Usage(text));
        for (name, size) in self.sizes() {
            if size == 0 || size >= MOST {
                return refuse(format!(
                    "{name} = {size}: a model needs a size from 1 to {}",
                    MOST - 1
                ));
            }
        }
        for (name, p) in self.probabilities() {
            if !(0.0..1.0).contains(&p) {
                return refuse(format!("{name} = {p}: dropout is a probability from 0 to below 1"));
            }
        }
        let eps = match self {
            ModelConfig::Gpt(c) => c.layer_norm_epsilon,
            ModelConfig::Bert(c) => c.layer_norm_eps,
            ModelConfig::Rnn(_) => 0.0,
        };
        if !(0.0..1.0).contains(&eps) {
            return refuse(format!(
                "the epsilon of the norms is {eps}; expected a small positive number"
            ));
        }
        let divides = |heads: usize, width: usize| match width % heads {
            0 => Ok(()),
            _ => Err(Error::Usage(format!(
                "{heads} attention heads do not divide the width {width}; choose a width that is a \
                 multiple of the number of heads"
            ))),
        };
        match self {
            ModelConfig::Gpt(c) => {
                divides(c.n_head, c.n_embd)?;
                Activation::from_name(&c.activation_function)?;
            }
            ModelConfig::Bert(c) => {
                divides(c.num_attention_heads, c.hidden_size)?;
                Activation::from_name(&c.hidden_act)?;
                if c.pad_token_id >= c.vocab_size {
                    return refuse(format!(
                        "pad_token_id {} is not below vocab_size {}",
                        c.pad_token_id, c.vocab_size
                    ));
                }
            }
            ModelConfig::Rnn(c) => {
                if !matches!(c.nonlinearity.as_str(), "tanh" | "relu") {
                    return refuse(format!(
                        "nonlinearity `{}` is neither tanh nor relu",
                        c.nonlinearity
                    ));
                }
                if c.tie_word_embeddings && c.output_size() != c.embedding_size {
                    return refuse(format!(
                        "a tied output layer needs embedding_size = the width of the outputs, got {} and {}; \
                         make them equal or set tie_word_embeddings = false",
                        c.embedding_size,
                        c.output_size()
                    ));
                }
            }
        }
        if self.num_parameters().is_none() {
            return refuse("the sizes multiply to more parameters than can be counted".into());
        }
        Ok(())
    }

    /// The configuration that a `config.json` holds. Keys that only concern other programs are
    /// passed over.
    ///
    /// # Errors
    /// For an unknown `model_type`, a key of the wrong type, an option that is not supported here,
    /// and sizes that do not make a model.
    pub fn from_json(value: &Value) -> Result<ModelConfig> {
        let bad = |text: String| Error::Data(text);
        let object = value.as_object().ok_or_else(|| bad("not a JSON object".into()))?;
        let model_type = match object.get("model_type") {
            Some(Value::String(name)) => name.as_str(),
            Some(other) => return Err(bad(format!("`model_type` is {other}, not a string"))),
            None => {
                return Err(bad(
                    "`model_type` is missing; known are gpt2, bert, rnn, lstm, gru".into()
                ));
            }
        };
        let flag = |key: &str| object.get(key).and_then(Value::as_bool);
        let unsupported = |key: &str| {
            Err(bad(format!(
                "`{key}` = {} is not supported",
                object.get(key).unwrap_or(&Value::Null)
            )))
        };
        let config = match model_type {
            "gpt2" | "gpt" => {
                if flag("scale_attn_weights") == Some(false) {
                    return unsupported("scale_attn_weights");
                }
                for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
                    if flag(key) == Some(true) {
                        return unsupported(key);
                    }
                }
                let mut object = renamed(object, &[("n_ctx", "n_positions")]);
                // Other programs may list several.
                object.retain(|key, value| key != "eos_token_id" || value.is_u64());
                ModelConfig::Gpt(parse(object)?)
            }
            "bert" => {
                if !matches!(
                    object.get("position_embedding_type").and_then(Value::as_str),
                    None | Some("absolute")
                ) {
                    return unsupported("position_embedding_type");
                }
                for key in ["is_decoder", "add_cross_attention"] {
                    if flag(key) == Some(true) {
                        return unsupported(key);
                    }
                }
                if flag("tie_word_embeddings") == Some(false) {
                    return unsupported("tie_word_embeddings");
                }
                // A model without padding says null.
                let mut object = object.clone();
                object.retain(|key, value| !(key == "pad_token_id" && value.is_null()));
                ModelConfig::Bert(parse(object)?)
            }
            "rnn" | "lstm" | "gru" => {
                let kind = match model_type {
                    "rnn" => RnnKind::Rnn,
                    "lstm" => RnnKind::Lstm,
                    _ => RnnKind::Gru,
                };
                ModelConfig::Rnn(RnnConfig { kind, ..parse(object.clone())? })
            }
            other => {
                return Err(bad(format!(
                    "`model_type` is `{other}`; known are gpt2, bert, rnn, lstm, gru"
                )));
            }
        };
        // In a file, what does not fit is bad data.
        config.validate().map_err(|e| bad(e.to_string()))?;
        Ok(config)
    }

    /// The entries of `config.json` that describe the model.
    pub fn to_json(&self) -> Map<String, Value> {
        let fields = match self {
            ModelConfig::Gpt(c) => serde_json::to_value(c),
            ModelConfig::Bert(c) => serde_json::to_value(c),
            ModelConfig::Rnn(c) => serde_json::to_value(c),
        };
        let mut object = Map::new();
        object.insert("model_type".into(), self.model_type().into());
        // Plain structs of numbers and strings always serialise.
        if let Ok(Value::Object(fields)) = fields {
            object.extend(fields);
        }
        if let ModelConfig::Bert(_) = self {
            object.insert("tie_word_embeddings".into(), true.into());
        }
        object
    }
}

/// A copy in which an old name of a key is replaced by the new one, unless that is there too.
fn renamed(object: &Map<String, Value>, names: &[(&str, &str)]) -> Map<String, Value> {
    let mut object = object.clone();
    for (old, new) in names {
        if !object.contains_key(*new)
            && let Some(value) = object.get(*old).cloned()
        {
            object.insert((*new).into(), value);
        }
    }
    object
}

fn parse<T: serde::de::DeserializeOwned>(object: Map<String, Value>) -> Result<T> {
    // By way of the text of each key, so that the message names the key.
    serde_json::from_value(Value::Object(object.clone())).map_err(|e| {
        let culprit = object.iter().find(|(key, value)| {
            let mut alone = Map::new();
            alone.insert((*key).clone(), (*value).clone());
            serde_json::from_value::<T>(Value::Object(alone)).is_err()
        });
        match culprit {
            Some((key, value)) => Error::Data(format!("`{key}` = {value}: {e}")),
            None => Error::Data(e.to_string()),
        }
    })
}

impl TryFrom<Value> for ModelConfig {
    type Error = Error;

    fn try_from(value: Value) -> Result<ModelConfig> {
        ModelConfig::from_json(&value)
    }
}

impl From<ModelConfig> for Value {
    fn from(config: ModelConfig) -> Value {
        Value::Object(config.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_preset_goes_through_json_and_back() {
        for (model, sizes) in super::super::sizes::ALL {
            for size in *sizes {
                let config = ModelConfig::preset(model, size, 300, None, Some(0.2)).unwrap();
                let text = serde_json::to_string(&config).unwrap();
                assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), config, "{text}");
            }
        }
    }

    #[test]
    fn what_a_file_does_not_say_is_the_original_default() {
        let config = ModelConfig::from_json(&json!({"model_type": "gpt2", "n_ctx": 32})).unwrap();
        assert_eq!(config, ModelConfig::Gpt(GptConfig { n_positions: 32, ..Default::default() }));
        let config =
            ModelConfig::from_json(&json!({"model_type": "bert", "pad_token_id": null})).unwrap();
        assert_eq!(config, ModelConfig::Bert(BertConfig::default()));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for (value, expected) in [
            (json!([1]), "not a JSON object"),
            (json!({"n_embd": 3}), "`model_type` is missing"),
            (json!({"model_type": "llama"}), "`llama`"),
            (json!({"model_type": 3}), "not a string"),
            (json!({"model_type": "gpt2", "n_head": 7}), "do not divide the width 768"),
            (json!({"model_type": "gpt2", "n_head": 0}), "n_head = 0"),
            (json!({"model_type": "gpt2", "n_layer": -1}), "`n_layer` = -1"),
            (json!({"model_type": "gpt2", "n_layer": 1.5}), "`n_layer` = 1.5"),
            (json!({"model_type": "gpt2", "n_layer": "2"}), "`n_layer` = \"2\""),
            (json!({"model_type": "gpt2", "n_embd": 1u64 << 40}), "n_embd"),
            (json!({"model_type": "gpt2", "activation_function": "mish"}), "`mish`"),
            (json!({"model_type": "gpt2", "resid_pdrop": 1.0}), "resid_pdrop = 1"),
            (json!({"model_type": "gpt2", "add_cross_attention": true}), "add_cross_attention"),
            (
                json!({"model_type": "bert", "position_embedding_type": "relative_key"}),
                "relative_key",
            ),
            (json!({"model_type": "bert", "pad_token_id": 99999}), "pad_token_id 99999"),
            (json!({"model_type": "lstm", "nonlinearity": "elu"}), "elu"),
            (json!({"model_type": "gru", "tie_word_embeddings": true, "hidden_size": 5}), "tied"),
        ] {
            let error = ModelConfig::from_json(&value).unwrap_err();
            assert!(error.to_string().contains(expected), "{value}: {error}");
            assert_eq!(error.exit_code(), 3);
        }
    }
}
