//! Model folders as tasks write and read them, and finding the model in a run folder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::models::on_disk::{CONFIG, config_text, weights_from_bytes, weights_to_bytes};
use crate::models::peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_from_bytes, adapter_to_bytes};
use crate::models::{LabelModel, ModelConfig};
use crate::nn::Module;

/// The name of the weights in a model folder.
pub const WEIGHTS: &str = "model.safetensors";
/// The name of the tokenizer in a model folder.
pub const TOKENIZER: &str = "tokenizer.json";

/// Files that go into every folder a model is saved in: the tokenizer.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    files: Vec<(String, Vec<u8>)>,
}

impl Extras {
    /// No files.
    pub fn new() -> Extras {
        Extras::default()
    }

    /// The files of a tokenizer for a model that reads `max_length` tokens.
    #[cfg(feature = "cli")]
    pub fn tokenizer(tokenizer: &crate::text::Tokenizer, max_length: usize) -> Extras {
        Extras::new()
            .with(TOKENIZER, tokenizer.to_json())
            .with("tokenizer_config.json", &tokenizer.config_json(max_length))
    }

    /// Adds a file.
    pub fn with(mut self, name: &str, text: &str) -> Extras {
        self.files.push((name.to_owned(), text.as_bytes().to_vec()));
        self
    }

    /// Hands all of them to `write`.
    ///
    /// # Errors
    /// When `write` fails.
    pub fn write(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.files.iter().try_for_each(|(name, data)| write(name, data))
    }
}

/// Writes `config.json` and the weights of a language model, and the adapters where there are some: the
/// weights then are the merged ones, so that the folder opens everywhere, and the adapters are what a
/// run goes on from.
///
/// # Errors
/// When `write` fails or memory cannot be had.
pub fn write_model(
    module: &dyn Module,
    config: &ModelConfig,
    write: &mut dyn FnMut(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    let (json, weights) = (config_text(config, &Map::new()), weights_to_bytes(module, config)?);
    write_parts(module, &json, &weights, write)
}

/// As [`write_model`] for a model that gives labels; `extra` goes into its `config.json`.
///
/// # Errors
/// As [`write_model`].
pub fn write_labels(
    model: &dyn LabelModel,
    extra: &Map<String, Value>,
    write: &mut dyn FnMut(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    write_parts(model, &model.config_json(extra), &model.weights()?, write)
}

fn write_parts(
    module: &dyn Module,
    json: &str,
    weights: &[u8],
    write: &mut dyn FnMut(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    write(CONFIG, json.as_bytes())?;
    write(WEIGHTS, weights)?;
    match adapter_to_bytes(module)? {
        Some(adapter) => write(&adapter_file(ADAPTER_WEIGHTS), &adapter),
        None => Ok(()),
    }
}

/// The name of a file of the adapter within a model folder.
pub fn adapter_file(name: &str) -> String {
    format!("adapter/{name}")
}

/// Puts weights that were written here back into `module`, every name matched.
///
/// # Errors
/// When the file is damaged or does not fit.
pub fn read_weights(
    module: &dyn Module,
    config: &ModelConfig,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    match read_adapter(module, &|| weights_to_bytes(module, config), read)? {
        true => Ok(()),
        false => weights_from_bytes(&read(WEIGHTS)?, WEIGHTS, module, config),
    }
}

/// As [`read_weights`] for a model that gives labels.
///
/// # Errors
/// As [`read_weights`].
pub fn read_labels(model: &dyn LabelModel, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
    match read_adapter(model, &|| model.weights(), read)? {
        true => Ok(()),
        false => model.load_weights(&read(WEIGHTS)?, WEIGHTS),
    }
}

/// Puts adapters that were written here back into a module that has some; `false` where it has none. The
/// base stays what it is, so base and adapters must give the `merged` weights of the folder.
///
/// # Errors
/// When the file is damaged or does not fit, or the base is another one.
fn read_adapter(
    module: &dyn Module,
    merged: &dyn Fn() -> Result<Vec<u8>>,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<bool> {
    let mut adapted = false;
    module.for_each_linear(&mut |_, layer| adapted |= layer.lora().is_some());
    if !adapted {
        return Ok(false);
    }
    let name = adapter_file(ADAPTER_WEIGHTS);
    adapter_from_bytes(&read(&name)?, &name, module)?;
    if merged()? == read(WEIGHTS)? {
        return Ok(true);
    }
    Err(Error::Data(
        "the model that the adapters are for is not the one that the run began with; put it back where \
         --from says, or start a new run"
            .into(),
    ))
}

/// The model folder that `path` means: itself, or `best/` or the newest checkpoint of a run folder.
///
/// # Errors
/// [`Error::Data`] when there is none.
pub fn model_dir(path: &Path) -> Result<PathBuf> {
    if path.join(CONFIG).is_file() || path.join(ADAPTER_CONFIG).is_file() {
        return Ok(path.to_owned());
    }
    let best = path.join("best");
    if best.join(CONFIG).is_file() {
        return Ok(best);
    }
    if path.join("checkpoints").is_dir() {
        let search = super::checkpoint::newest(path, std::sync::Arc::new(super::fsx::Disk))?;
        if let Some(checkpoint) = search.newest {
            return Ok(checkpoint.dir().to_owned());
        }
    }
    Err(Error::Data(format!(
        "{}: no model here; expected a folder with {CONFIG} and {WEIGHTS}, or a run folder with best/",
        path.display()
    )))
}

#[cfg(feature = "cli")]
pub use with_tokenizer::*;

#[cfg(feature = "cli")]
mod with_tokenizer {
    use super::*;
    use crate::models::{LanguageModel, from_pretrained};
    use crate::text::Tokenizer;

    /// The tokenizer of a model folder.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open_tokenizer(dir: &Path) -> Result<Tokenizer> {
        let path = dir.join(TOKENIZER);
        if !path.is_file()
            && let Some(base) = crate::models::peft::base_of(dir)?
        {
            return open_tokenizer(&base); // an adapter's folder has none of its own
        }
        if !path.is_file() {
            return Err(Error::Data(format!(
                "{}: the model folder has no {TOKENIZER}; put the model's tokenizer there",
                dir.display()
            )));
        }
        Tokenizer::from_file(path)
    }

    /// Refuses a tokenizer with more ids than the model has.
    ///
    /// # Errors
    /// [`Error::Data`] with both numbers.
    pub fn check_vocabulary(tokenizer: &Tokenizer, config: &ModelConfig) -> Result<()> {
        if tokenizer.vocab_size() <= config.vocab_size() {
            return Ok(());
        }
        Err(Error::Data(format!(
            "the tokenizer has {} ids, the model knows {}; they do not belong together",
            tokenizer.vocab_size(),
            config.vocab_size()
        )))
    }

    /// Opens a language model with its tokenizer from a model or run folder.
    ///
    /// # Errors
    /// When something is missing, damaged or does not fit.
    pub fn open_language_model(path: &Path) -> Result<(Box<dyn LanguageModel>, Tokenizer)> {
        let dir = model_dir(path)?;
        let tokenizer = open_tokenizer(&dir)?;
        let (config, model) = from_pretrained(&dir)?;
        check_vocabulary(&tokenizer, &config)?;
        Ok((model, tokenizer))
    }
}
