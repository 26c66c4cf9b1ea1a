//! Which weights of a pretrained model learn how fast.
//!
//! Every parameter has a depth: 0 for embeddings, i + 1 for layer i, L + 1 for what is on top. Freezing,
//! layer-wise learning rates (`decay^(L + 1 − depth)`, Howard and Ruder 2018; Clark et al. 2020) and gradual
//! unfreezing (one more layer an epoch, from the top) are functions of the depth.

use crate::error::{Error, Result};
use crate::nn::Module;

/// How to fine-tune.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy {
    /// What does not learn: `embeddings`, `body` (all but the head), layers as `0-3` or `2`, or a part of
    /// a parameter's name.
    pub freeze: Vec<String>,
    /// The learning rate of a layer relative to the one above it; 1 changes nothing.
    pub layerwise_lr_decay: f64,
    /// In epoch e only the head and the e topmost layers learn.
    pub gradual_unfreezing: bool,
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy { freeze: Vec::new(), layerwise_lr_decay: 1.0, gradual_unfreezing: false }
    }
}

/// The depth of the parameter called `name` in a model of `layers` layers: 0 to `layers + 1`.
pub fn depth(name: &str, layers: usize) -> usize {
    if is_head(name) {
        return layers + 1;
    }
    if let Some(layer) = layer_of(name) {
        return (layer + 1).min(layers);
    }
    // A recurrent language model's `encoder` is its table of tokens; BERT's has layers.
    let tables = ["wte.", "wpe.", "embedding", "encoder.weight", "token_types.", "convolution."];
    if tables.iter().any(|part| name.contains(part)) { 0 } else { layers }
}

/// Whether the parameter belongs to a task's head and not to the pretrained body.
pub fn is_head(name: &str) -> bool {
    name.starts_with("score.")
        || name.starts_with("classifier.")
        || name.starts_with("head.")
        || name.starts_with("crf.")
}

/// The number of the layer in a name: `h.3.`, `layer.3.`, `layers.3.` or `…_l3`, `…_l3_reverse`.
fn layer_of(name: &str) -> Option<usize> {
    if let Some(number) = name.split('.').find_map(|part| part.parse().ok()) {
        return Some(number);
    }
    let last = name.rsplit('.').next()?.trim_end_matches("_reverse");
    last.rsplit_once("_l").and_then(|(_, digits)| digits.parse().ok())
}

/// Whether `spec` names the parameter.
fn matches(spec: &str, name: &str, layers: usize) -> bool {
    let depth = depth(name, layers);
    let numbers: Option<Vec<usize>> = spec.split('-').map(|n| n.parse().ok()).collect();
    match (spec, numbers.as_deref()) {
        ("embeddings", _) => depth == 0,
        ("body", _) => !is_head(name),
        (_, Some(&[one])) => !is_head(name) && depth == one + 1 && layer_of(name).is_some(),
        (_, Some(&[from, to])) => {
            layer_of(name).is_some() && !is_head(name) && (from + 1..=to + 1).contains(&depth)
        }
        (part, _) => name.contains(part),
    }
}

impl Strategy {
    /// Freezes what the strategy says.
    ///
    /// # Errors
    /// [`Error::Usage`] when an entry of `freeze` names nothing, or nothing is left to train.
    pub fn freeze(&self, module: &dyn Module, layers: usize) -> Result<()> {
        for spec in &self.freeze {
            if module.set_requires_grad(false, &mut |name| matches(spec, name, layers)) == 0 {
                return Err(Error::Usage(format!(
                    "--freeze {spec} names no weight of this model; use embeddings, body, layers such \
                     as 0-{} or a part of a name",
                    layers.saturating_sub(1)
                )));
            }
        }
        if module.num_trainable_parameters() == 0 {
            return Err(Error::Usage("--freeze leaves nothing to train".into()));
        }
        Ok(())
    }

    /// Freezes and thaws for epoch `epoch` of gradual unfreezing; `frozen` never learns.
    pub fn begin_epoch(&self, module: &dyn Module, layers: usize, epoch: u64) {
        if !self.gradual_unfreezing {
            return;
        }
        let lowest = (layers + 1).saturating_sub(epoch as usize);
        module.for_each_parameter(&mut |name, parameter| {
            let named = self.freeze.iter().any(|spec| matches(spec, name, layers));
            let learns = !named && depth(name, layers) >= lowest;
            if learns != parameter.requires_grad() {
                parameter.set_requires_grad(learns);
            }
        });
    }

    /// The factor of the learning rate for a parameter.
    pub fn lr_scale(&self, name: &str, layers: usize) -> f64 {
        let below = (layers + 1 - depth(name, layers)) as u32;
        (0..below).fold(1.0, |scale, _| scale * self.layerwise_lr_decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths() {
        for (name, expected) in [
            ("transformer.wte.weight", 0),
            ("transformer.h.0.attn.c_attn.weight", 1),
            ("transformer.h.3.ln_1.bias", 4),
            ("transformer.ln_f.weight", 4),
            ("score.weight", 5),
            ("bert.embeddings.LayerNorm.weight", 0),
            ("bert.encoder.layer.2.output.dense.weight", 3),
            ("rnn.weight_hh_l1_reverse", 2),
            ("embedding.weight", 0),
            ("encoder.weight", 0),
            ("token_types.weight", 0),
            ("rnn.weight_ih_l0", 1),
            ("decoder.bias", 4),
            ("character_embedding.weight", 0),
            ("convolution.weight", 0),
        ] {
            assert_eq!(depth(name, 4), expected, "{name}");
        }
    }

    #[test]
    fn what_freeze_names() {
        assert!(matches("embeddings", "transformer.wpe.weight", 4));
        assert!(matches("0-2", "transformer.h.2.ln_1.weight", 4));
        assert!(!matches("0-2", "transformer.h.3.ln_1.weight", 4));
        assert!(!matches("3", "transformer.ln_f.weight", 4));
        assert!(matches("body", "transformer.ln_f.weight", 4));
        assert!(!matches("body", "score.weight", 4));
        assert!(matches("ln_f", "transformer.ln_f.weight", 4));
    }

    #[test]
    fn rates_fall_from_the_top() {
        let strategy = Strategy { layerwise_lr_decay: 0.5, ..Strategy::default() };
        assert_eq!(strategy.lr_scale("score.weight", 2), 1.0);
        assert_eq!(strategy.lr_scale("transformer.h.1.x", 2), 0.5);
        assert_eq!(strategy.lr_scale("transformer.wte.weight", 2), 0.125);
    }
}
