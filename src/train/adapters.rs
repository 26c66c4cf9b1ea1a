//! LoRA as a way to fine-tune: which layers get an adapter, and what learns beside them.
//!
//! The pretrained weights stand still; adapters learn, and with them what is new: the head, and the
//! pooler of a BERT, which masked-token pretraining leaves as it was. The folders that a run writes
//! hold the merged model, which opens everywhere, and `adapter/` in PEFT's layout.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pretrained::{Extras, adapter_file};
use super::strategy::is_head;
use crate::error::{Error, Result};
use crate::models::ModelConfig;
use crate::models::peft::{ADAPTER_CONFIG, adapter_config_text};
use crate::nn::lora::is_lora;
use crate::nn::{Init, LoraOptions, Module};

/// The flags of LoRA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// The rank; without it there are no adapters.
    pub lora_r: Option<usize>,
    /// α: an adapter's product counts α / r.
    pub lora_alpha: f64,
    /// Dropout on what goes into an adapter.
    pub lora_dropout: f64,
    /// Ends of the names of the layers, or `all-linear`; by default PEFT's: `c_attn` of a gpt, `query` and
    /// `value` of a bert.
    pub lora_target: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> LoraConfig {
        LoraConfig { lora_r: None, lora_alpha: 8.0, lora_dropout: 0.0, lora_target: Vec::new() }
    }
}

/// Whether a layer is part of a head: trained whole, or not at all (a head over the vocabulary).
fn no_target(name: &str) -> bool {
    let name = format!("{name}.");
    is_head(&name) || name.starts_with("lm_head.") || name.starts_with("bert.pooler.")
}

impl LoraConfig {
    /// Puts adapters on the layers of `module` that the flags name, and freezes the rest of its body.
    /// `task` is PEFT's word for what it is for, `base` the folder of the pretrained model. Adds the
    /// adapter's configuration to `extras`. Nothing happens without `lora_r`.
    ///
    /// # Errors
    /// [`Error::Usage`] when a name fits no layer, or the model has none that could be adapted.
    pub fn attach(
        &self,
        module: &dyn Module,
        config: &ModelConfig,
        task: Option<&str>,
        base: &Path,
        seed: u64,
        extras: Extras,
    ) -> Result<Extras> {
        let Some(r) = self.lora_r else { return Ok(extras) };
        let options = LoraOptions { r, alpha: self.lora_alpha, dropout: self.lora_dropout };
        let targets = match (self.lora_target.as_slice(), config) {
            (_, ModelConfig::Rnn(_)) => {
                return Err(Error::Usage(format!(
                    "--lora-r adapts the linear layers of a gpt or bert; a {} has none in its body. Use \
                     --freeze or --gradual-unfreezing",
                    config.kind()
                )));
            }
            ([], ModelConfig::Gpt(_)) => vec!["c_attn".to_owned()],
            ([], ModelConfig::Bert(_)) => vec!["query".to_owned(), "value".to_owned()],
            (given, _) => given.to_vec(),
        };
        let root = Init::new(seed);
        let mut used = vec![false; targets.len()];
        let mut known: Vec<String> = Vec::new();
        let mut result = Ok(());
        module.for_each_linear(&mut |name, layer| {
            if no_target(name) || result.is_err() {
                return;
            }
            let last = name.rsplit('.').next().unwrap_or(name);
            if !known.iter().any(|known| known == last) {
                known.push(last.to_owned());
            }
            let fits = |target: &str| {
                target == "all-linear" || name == target || name.ends_with(&format!(".{target}"))
            };
            let mut chosen = false;
            for (target, used) in targets.iter().zip(&mut used) {
                let fits = fits(target);
                (chosen, *used) = (chosen | fits, *used | fits);
            }
            if chosen {
                result = layer.adapt(&root.at(name), &options);
            }
        });
        result?;
        if let Some((target, _)) = targets.iter().zip(&used).find(|(_, used)| !**used) {
            return Err(Error::Usage(format!(
                "--lora-target {target} names no linear layer of this {}; there are {} and all-linear",
                config.kind(),
                known.join(", ")
            )));
        }
        module.set_requires_grad(false, &mut |name| {
            !is_lora(name) && !is_head(name) && !name.starts_with("bert.pooler.")
        });
        let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
        let base = base.display().to_string();
        let text = adapter_config_text(module, config, &options, task, &base);
        Ok(extras.with(&adapter_file(ADAPTER_CONFIG), &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{SequenceClassifier, build};

    fn classifier(model: &str) -> SequenceClassifier {
        let config = ModelConfig::preset(model, "nano", 20, Some(16), None).unwrap();
        let labels = vec!["a".to_owned(), "b".to_owned()];
        SequenceClassifier::new(build(&config, 1).unwrap(), labels, 1).unwrap()
    }

    fn attach(model: &SequenceClassifier, targets: &[&str]) -> Result<Extras> {
        let lora = LoraConfig {
            lora_r: Some(4),
            lora_target: targets.iter().map(|t| t.to_string()).collect(),
            ..LoraConfig::default()
        };
        lora.attach(model, model.body.config(), Some("SEQ_CLS"), Path::new("x"), 1, Extras::new())
    }

    fn trainable(model: &SequenceClassifier) -> Vec<String> {
        let all = model.named_parameters().into_iter();
        all.filter(|(_, p)| p.requires_grad()).map(|(name, _)| name).collect()
    }

    #[test]
    fn adapters_and_head_learn_and_nothing_else() {
        let gpt = classifier("gpt");
        attach(&gpt, &[]).unwrap();
        let names = trainable(&gpt);
        assert_eq!(names.len(), 2 * 4 + 1, "{names:?}");
        assert_eq!(names[0], "transformer.h.0.attn.c_attn.lora_A.weight");
        assert_eq!(names.last().unwrap(), "score.weight");

        let bert = classifier("bert");
        attach(&bert, &["query", "attention.output.dense"]).unwrap();
        let names = trainable(&bert);
        // Two layers of two adapters, the pooler, the classifier.
        assert_eq!(names.len(), 2 * 2 * 2 + 2 + 2, "{names:?}");
        let bert = classifier("bert");
        attach(&bert, &["all-linear"]).unwrap();
        assert_eq!(trainable(&bert).len(), 2 * 6 * 2 + 2 + 2);
    }

    #[test]
    fn names_that_fit_nothing_and_recurrent_models_are_refused() {
        let error = attach(&classifier("gpt"), &["query"]).unwrap_err().to_string();
        assert!(error.contains("c_attn, c_proj, c_fc and all-linear"), "{error}");
        let error = attach(&classifier("lstm"), &[]).unwrap_err().to_string();
        assert!(error.contains("a lstm has none"), "{error}");
    }
}
