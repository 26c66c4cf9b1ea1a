//! Where the runs of a series start: tokenizer, sizes, and a body with pretrained or first values.

use std::path::Path;
use std::sync::Arc;

use super::{Arm, FinetuneConfig};
use crate::error::{Error, Result};
use crate::models::{self, LanguageModel, ModelConfig};
use crate::nn::Module;
use crate::text::{Tokenizer, TokenizerKind};
use crate::train::control::Control;
use crate::train::pretrained::{self, Extras, TOKENIZER};
use crate::train::strategy::Strategy;

/// What all tasks on a language model's body share.
pub(super) struct Start<'a> {
    /// The flags.
    pub config: &'a FinetuneConfig,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's sizes.
    pub model: ModelConfig,
    /// Texts are cut to this many tokens.
    pub max_length: usize,
}

impl<'a> Start<'a> {
    /// Opens the pretrained model's tokenizer and sizes, or makes those of a model from scratch; `texts` are
    /// what a new tokenizer is trained on.
    ///
    /// # Errors
    /// When the flags contradict each other, or model and tokenizer do not fit.
    pub fn new(
        config: &'a FinetuneConfig,
        texts: &mut dyn Iterator<Item = String>,
        control: &mut Control<'_>,
        resume: bool,
    ) -> Result<Start<'a>> {
        let from = config.from.as_deref().map(pretrained::model_dir).transpose()?;
        let saved = config.out.join(TOKENIZER);
        let tokenizer = match &from {
            Some(dir) => pretrained::open_tokenizer(dir)?,
            None if resume && saved.is_file() => Tokenizer::from_file(saved)?,
            None => fresh_tokenizer(config, texts, control)?,
        };
        let model = match (&from, &config.scratch) {
            (Some(dir), _) => {
                let (mut model, _) = models::folder::read_config(dir)?;
                if let Some(p) = config.shape.dropout {
                    model.set_dropout(p);
                }
                model
            }
            (None, size) => {
                let size = size.as_deref().unwrap_or("nano");
                config.shape.config(&config.model, size, tokenizer.vocab_size())?
            }
        };
        pretrained::check_vocabulary(&tokenizer, &model)?;
        let needed = models::estimate_memory(&model, config.trainer.batch_size, 64);
        crate::train::memory::check(&needed)?;
        let recurrent = matches!(model, ModelConfig::Rnn(_));
        let longest = if recurrent { usize::MAX } else { model.context_length() };
        let max_length = config.max_length.unwrap_or(256.min(longest));
        if max_length > longest {
            return Err(Error::Usage(format!(
                "--max-length {max_length}: the model reads {longest} tokens at most"
            )));
        }
        let tokenizer = Arc::new(tokenizer);
        Ok(Start { config, tokenizer, model, max_length })
    }

    /// The body before training.
    ///
    /// # Errors
    /// When the pretrained weights cannot be read.
    pub fn body(&self, arm: Arm, seed: u64) -> Result<Box<dyn LanguageModel>> {
        let body = models::build(&self.model, seed)?;
        if let (Arm::Pretrained, Some(from)) = (arm, &self.config.from) {
            // Only the body is taken over: dropout may differ, heads are made anew.
            let loaded = models::load_pretrained(pretrained::model_dir(from)?, seed)?;
            body.load_state_dict(&loaded.model.state_dict(), false)?;
        }
        Ok(body)
    }

    /// Puts adapters on a pretrained `model` where the flags ask for them, and their configuration beside
    /// the `extras` that go into each folder of it; `task` is PEFT's word for what it is for.
    ///
    /// # Errors
    /// When the flags name no layer of it.
    pub fn adapt(
        &self,
        model: &dyn Module,
        (arm, seed): (Arm, u64),
        task: &str,
        extras: Extras,
    ) -> Result<Extras> {
        match (arm, &self.config.from) {
            (Arm::Pretrained, Some(from)) => {
                let (base, task) = (pretrained::model_dir(from)?, Some(task));
                self.config.lora.attach(model, &self.model, task, &base, seed, extras)
            }
            _ => Ok(extras),
        }
    }

    /// The id that fills short rows.
    pub fn pad_id(&self) -> u32 {
        self.tokenizer.pad_id().unwrap_or(0)
    }
}

/// What learns how fast, as the flags say.
///
/// # Errors
/// [`Error::Usage`] for a decay that is none.
pub(super) fn strategy(config: &FinetuneConfig) -> Result<Strategy> {
    let decay = config.layerwise_lr_decay;
    if !(decay > 0.0 && decay <= 1.0) {
        return Err(Error::Usage(format!(
            "--layerwise-lr-decay {decay}: must be above 0 and at most 1; 1 changes nothing"
        )));
    }
    if config.lora.lora_r.is_some() {
        let sentence = match (config.gradual_unfreezing, &config.from) {
            (_, None) => "adapts a pretrained model; give --from DIR",
            (true, _) => "leaves the body frozen; it does not go with --gradual-unfreezing",
            _ => "",
        };
        if !sentence.is_empty() {
            return Err(Error::Usage(format!("--lora-r {sentence}")));
        }
    }
    Ok(Strategy {
        freeze: config.freeze.clone(),
        layerwise_lr_decay: decay,
        gradual_unfreezing: config.gradual_unfreezing,
    })
}

/// A tokenizer for a model from scratch: the named one, or one trained on the training texts.
fn fresh_tokenizer(
    config: &FinetuneConfig,
    texts: &mut dyn Iterator<Item = String>,
    control: &mut Control<'_>,
) -> Result<Tokenizer> {
    let default = if config.model == "bert" { "wordpiece:8000" } else { "bpe:4096" };
    let name = config.tokenizer.as_deref().unwrap_or(default);
    let path = Path::new(name);
    if path.is_dir() {
        return pretrained::open_tokenizer(&pretrained::model_dir(path)?);
    }
    if path.is_file() || name.ends_with(".json") {
        return Tokenizer::from_file(path);
    }
    let kind: TokenizerKind = name.parse()?;
    let observer = &mut control.observer;
    Tokenizer::train(kind, texts, |progress| {
        observer.progress(progress.stage, progress.done, progress.total)
    })
}
