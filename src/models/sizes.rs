//! The sizes one can ask for by name, and what a model of some size costs.
//!
//! `gpt nano` is nanoGPT's recipe for a laptop, `gpt mini` its recipe for a graphics card, `gpt2`
//! the 124M model; the `bert` sizes are Google's (Turc et al. 2019, "Well-Read Students Learn
//! Better").

use super::config::{BertConfig, GptConfig, ModelConfig, RnnConfig, RnnKind};
use crate::error::{Error, Result};
use crate::nn::Module;

/// The names of all sizes, model by model.
pub const ALL: &[(&str, &[&str])] = &[
    ("gpt", &["nano", "tiny", "mini", "small", "gpt2"]),
    ("bert", &["nano", "tiny", "mini", "small", "medium", "base"]),
    ("rnn", &["nano", "tiny", "mini", "small", "medium"]),
    ("lstm", &["nano", "tiny", "mini", "small", "medium"]),
    ("gru", &["nano", "tiny", "mini", "small", "medium"]),
];

impl ModelConfig {
    /// The model `model` (`gpt`, `bert`, `rnn`, `lstm`, `gru`) in the size called `size`.
    /// `context_length` and `dropout` replace the size's own where given.
    ///
    /// | gpt | layers, heads, width, context | bert | layers, heads, width | rnn, lstm, gru | layers, width |
    /// |---|---|---|---|---|---|
    /// | nano | 4, 4, 128, 64 | nano | 2, 2, 64 | nano | 1, 128 |
    /// | tiny | 4, 4, 256, 128 | tiny | 2, 2, 128 | tiny | 1, 256 |
    /// | mini | 6, 6, 384, 256 | mini | 4, 4, 256 | mini | 2, 384 |
    /// | small | 8, 8, 512, 512 | small | 4, 8, 512 | small | 2, 512 |
    /// | gpt2 | 12, 12, 768, 1024 | medium | 8, 8, 512 | medium | 2, 650 |
    /// | | | base | 12, 12, 768 | | |
    ///
    /// # Errors
    /// For a model or size that does not exist: the message lists those that do; and as
    /// [`ModelConfig::validate`].
    pub fn preset(
        model: &str,
        size: &str,
        vocab_size: usize,
        context_length: Option<usize>,
        dropout: Option<f64>,
    ) -> Result<ModelConfig> {
        let Some((_, sizes)) = ALL.iter().find(|(name, _)| *name == model) else {
            let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
            return Err(Error::Usage(format!(
                "no model `{model}`; there are {}",
                names.join(", ")
            )));
        };
        let no_size = || {
            Error::Usage(format!("{model} has no size `{size}`; there are {}", sizes.join(", ")))
        };
        let mut config = match model {
            "gpt" => {
                let (n_layer, n_head, n_embd, n_positions) = match size {
                    "nano" => (4, 4, 128, 64),
                    "tiny" => (4, 4, 256, 128),
                    "mini" => (6, 6, 384, 256),
                    "small" => (8, 8, 512, 512),
                    "gpt2" => (12, 12, 768, 1024),
                    _ => return Err(no_size()),
                };
                ModelConfig::Gpt(GptConfig {
                    vocab_size,
                    n_positions: context_length.unwrap_or(n_positions),
                    n_embd,
                    n_layer,
                    n_head,
                    resid_pdrop: 0.0,
                    embd_pdrop: 0.0,
                    attn_pdrop: 0.0,
                    ..Default::default()
                })
            }
            "bert" => {
                let (layers, heads, width, positions) = match size {
                    "nano" => (2, 2, 64, 128),
                    "tiny" => (2, 2, 128, 512),
                    "mini" => (4, 4, 256, 512),
                    "small" => (4, 8, 512, 512),
                    "medium" => (8, 8, 512, 512),
                    "base" => (12, 12, 768, 512),
                    _ => return Err(no_size()),
                };
                ModelConfig::Bert(BertConfig {
                    vocab_size,
                    hidden_size: width,
                    num_hidden_layers: layers,
                    num_attention_heads: heads,
                    intermediate_size: 4 * width,
                    max_position_embeddings: context_length.unwrap_or(positions),
                    ..Default::default()
                })
            }
            _ => {
                let (num_layers, width) = match size {
                    "nano" => (1, 128),
                    "tiny" => (1, 256),
                    "mini" => (2, 384),
                    "small" => (2, 512),
                    "medium" => (2, 650),
                    _ => return Err(no_size()),
                };
                ModelConfig::Rnn(RnnConfig {
                    kind: match model {
                        "rnn" => RnnKind::Rnn,
                        "gru" => RnnKind::Gru,
                        _ => RnnKind::Lstm,
                    },
                    vocab_size,
                    embedding_size: width,
                    hidden_size: width,
                    num_layers,
                    tie_word_embeddings: true,
                    context_length: context_length.unwrap_or(64),
                    ..Default::default()
                })
            }
        };
        if let Some(p) = dropout {
            config.set_dropout(p);
        }
        config.validate()?;
        Ok(config)
    }
}

impl ModelConfig {
    /// How many parameters the language model has, from the sizes alone; `None` where the number
    /// overflows.
    pub fn num_parameters(&self) -> Option<usize> {
        // In u128 no product of five sizes below 2³¹ is lost before the final check.
        let n = |x: usize| x as u128;
        let total: u128 = match self {
            ModelConfig::Gpt(c) => {
                let (d, v, inner) = (n(c.n_embd), n(c.vocab_size), n(c.inner()));
                let block = 2 * 2 * d
                    + (3 * d * d + 3 * d)
                    + (d * d + d)
                    + (d * inner + inner)
                    + (inner * d + d);
                let head = if c.tie_word_embeddings { 0 } else { v * d };
                v * d + n(c.n_positions) * d + n(c.n_layer) * block + 2 * d + head
            }
            ModelConfig::Bert(c) => {
                let (d, v, inner) = (n(c.hidden_size), n(c.vocab_size), n(c.intermediate_size));
                let tables = (v + n(c.max_position_embeddings) + n(c.type_vocab_size)) * d + 2 * d;
                let layer = 4 * (d * d + d) + 2 * 2 * d + (d * inner + inner) + (inner * d + d);
                let pooler_and_head = 2 * (d * d + d) + 2 * d + v;
                tables + n(c.num_hidden_layers) * layer + pooler_and_head
            }
            ModelConfig::Rnn(c) => {
                let (h, v, ways) =
                    (n(c.hidden_size), n(c.vocab_size), if c.bidirectional { 2 } else { 1 });
                let gates = n(c.recurrent_kind().gates());
                let layer = |inputs: u128| ways * gates * h * (inputs + h + 2);
                let rest = (n(c.num_layers) - 1) * layer(ways * h);
                let head = if c.tie_word_embeddings { 0 } else { v * ways * h };
                (v + n(c.type_vocab_size)) * n(c.embedding_size)
                    + layer(n(c.embedding_size))
                    + rest
                    + head
                    + v
            }
        };
        usize::try_from(total).ok().filter(|&n| n <= isize::MAX as usize / 16)
    }
}

/// What training a model needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryEstimate {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass, and its largest temporaries.
    pub activations: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.gradients, self.optimizer, self.activations]
            .into_iter()
            .fold(self.weights, u64::saturating_add)
    }
}

/// Estimates the memory of a training step of the language model in `f32` with AdamW, on batches of
/// `batch` rows of `context` tokens. Activations are counted as the operations save them; the
/// allocator's rounding is not in it.
pub fn estimate_memory(config: &ModelConfig, batch: usize, context: usize) -> MemoryEstimate {
    // Sizes come from files and flags: what overflows is certainly too much.
    let weights = (config.num_parameters().unwrap_or(usize::MAX) as u64).saturating_mul(4);
    let tokens = (batch as u64).saturating_mul(context as u64) as u128;
    let n = |x: usize| x as u128;
    // Elements kept for each token, and the widest temporary of the backward pass.
    let (kept, widest) = match config {
        ModelConfig::Gpt(c) => {
            let (d, inner) = (n(c.n_embd), n(c.inner()));
            // Stream twice, two norms, qkv, attention's output; before and after the nonlinearity.
            let block = 8 * d + 2 * inner + 2 * n(c.n_head) + 4;
            (n(c.n_layer) * block + 2 * d + n(c.vocab_size), 2 * inner.max(n(c.vocab_size)))
        }
        ModelConfig::Bert(c) => {
            let (d, inner) = (n(c.hidden_size), n(c.intermediate_size));
            // q, k, v, attention's output, two sums, two norms; before and after the nonlinearity.
            let layer = 8 * d + 2 * inner + 2 * n(c.num_attention_heads) + 4;
            // The head runs on the masked sixth of the tokens only.
            (n(c.num_hidden_layers) * layer + 2 * d + n(c.vocab_size) / 6, 2 * inner)
        }
        ModelConfig::Rnn(c) => {
            let (h, ways) = (n(c.hidden_size), if c.bidirectional { 2 } else { 1 });
            let unit = match c.kind {
                RnnKind::Rnn => 1 + 1,
                RnnKind::Lstm => 4 + 4 + 2,
                RnnKind::Gru => 3 + 4 + 1,
            };
            let layers = n(c.num_layers) * ways * h * (unit + 1);
            (n(c.embedding_size) + layers + ways * h + n(c.vocab_size), n(c.vocab_size).max(4 * h))
        }
    };
    MemoryEstimate {
        weights,
        gradients: weights,
        optimizer: weights.saturating_mul(2),
        activations: tokens
            .checked_mul(4 * (kept + widest))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(u64::MAX),
    }
}

/// Parameters by module: everything in front of the parameter's own name, the blocks of a stack
/// taken together. `(module, how many blocks, parameters)`, in the order of the model.
pub fn parameters_by_module(module: &dyn Module) -> Vec<(String, usize, usize)> {
    let mut rows: Vec<(String, usize, usize)> = Vec::new();
    module.for_each_parameter(&mut |name, parameter| {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |part: &&str| part.parse::<usize>().ok();
        let (group, blocks) = match parts.iter().position(|part| number(part).is_some()) {
            Some(at) => (parts[..at].join("."), number(&parts[at]).map_or(1, |n| n + 1)),
            None => (parts[..parts.len() - 1].join("."), 1),
        };
        match rows.iter_mut().find(|row| row.0 == group) {
            Some(row) => {
                row.1 = row.1.max(blocks);
                row.2 += parameter.numel();
            }
            None => rows.push((group, blocks, parameter.numel())),
        }
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::build;

    #[test]
    fn counts_from_sizes_are_those_of_the_model() {
        for (model, vocab) in [("gpt", 65), ("bert", 301), ("rnn", 65), ("lstm", 65), ("gru", 65)] {
            for size in ["nano", "tiny"] {
                let config = ModelConfig::preset(model, size, vocab, None, None).unwrap();
                let built = build(&config, 1).unwrap();
                assert_eq!(config.num_parameters(), Some(built.num_parameters()), "{model} {size}");
                let by_module: usize =
                    parameters_by_module(built.as_ref()).iter().map(|row| row.2).sum();
                assert_eq!(by_module, built.num_parameters());
            }
        }
    }

    #[test]
    fn known_models_have_their_known_numbers() {
        let gpt2 = ModelConfig::preset("gpt", "gpt2", 50257, None, None).unwrap();
        assert_eq!(gpt2.num_parameters(), Some(124_439_808));
        let nano = ModelConfig::preset("gpt", "nano", 65, None, None).unwrap();
        // nanoGPT's 0.80M, and the biases that its recipe leaves out.
        assert_eq!(nano.num_parameters(), Some(809_856));
    }

    /// Turc et al. 2019, table 1: 4.4, 11.3, 29.1 and 41.7 million with BERT's vocabulary.
    #[test]
    fn bert_sizes_are_googles() {
        for (size, millions) in [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7)] {
            let config = ModelConfig::preset("bert", size, 30522, None, None).unwrap();
            let d = config.hidden_size();
            // Without the head that predicts tokens.
            let body = config.num_parameters().unwrap() - (d * d + 3 * d + 30522);
            let found = body as f64 / 1e6;
            assert!((found - millions).abs() < 0.35, "{size}: {found}");
        }
    }

    #[test]
    fn groups_keep_the_order_of_the_model() {
        let config = ModelConfig::preset("gpt", "nano", 65, None, None).unwrap();
        let rows = parameters_by_module(build(&config, 1).unwrap().as_ref());
        let names: Vec<(&str, usize)> = rows.iter().map(|r| (r.0.as_str(), r.1)).collect();
        let expected = [
            ("transformer.wte", 1),
            ("transformer.wpe", 1),
            ("transformer.h", 4),
            ("transformer.ln_f", 1),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn names_that_do_not_exist_are_answered_with_those_that_do() {
        let message =
            |m: &str, s: &str| ModelConfig::preset(m, s, 10, None, None).unwrap_err().to_string();
        assert!(message("gpt", "huge").contains("nano, tiny, mini, small, gpt2"));
        assert!(message("llama", "nano").contains("gpt, bert, rnn, lstm, gru"));
        assert!(ModelConfig::preset("gpt", "nano", 0, None, None).is_err());
        assert!(ModelConfig::preset("gpt", "nano", 10, None, Some(f64::NAN)).is_err());
    }
}
