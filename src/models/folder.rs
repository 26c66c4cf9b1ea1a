//! Model folders: `config.json` and weights as Hugging Face keeps them, so that `from_pretrained`
//! of either side opens what the other has saved.
//!
//! [`on_disk`](super::on_disk) has the names and the layout. An adapter folder of PEFT is read as its base with
//! the adapter merged in ([`peft`]).
//!
//! A name that does not match is an error that lists it, unless it belongs to a head: a body may be
//! taken from a folder with another head than the one wanted.

use std::path::Path;

use serde_json::{Map, Value};

use super::on_disk::{
    CONFIG, config_of, config_text, is_head, labels_of, read_json_in, to_here, weights_to_bytes,
};
use super::safetensors::{WEIGHTS, read_folder, write_atomic};
use super::tagger::Tagger;
use super::{
    Classifier, LanguageModel, ModelConfig, SequenceClassifier, TokenClassifier, WordClassifier,
    WordTagger, build, peft, word_classifier, word_tagger,
};
use crate::error::{Error, Result};
use crate::nn::module::listed;
use crate::nn::{Module, StateDict};
use crate::tensor::Tensor;

/// Saves a model as a Hugging Face folder: `config.json` and `model.safetensors`, each replaced
/// whole. `extra` goes into `config.json`: for a classifier, its `config_entries()`.
///
/// # Errors
/// When the system refuses an operation.
pub fn save_pretrained(
    dir: impl AsRef<Path>,
    module: &dyn Module,
    config: &ModelConfig,
    extra: &Map<String, Value>,
) -> Result<()> {
    let dir = dir.as_ref();
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create the folder", e))?;
    write_atomic(&dir.join(WEIGHTS), &weights_to_bytes(module, config)?)?;
    write_atomic(&dir.join(CONFIG), config_text(config, extra).as_bytes())
}

/// A language model read from a folder, and what was found there.
pub struct Pretrained {
    /// Its architecture and sizes.
    pub config: ModelConfig,
    /// The model. Parts that the folder does not have hold first values.
    pub model: Box<dyn LanguageModel>,
    /// The class names in `config.json`, by id; empty where there are none.
    pub labels: Vec<String>,
    /// Parameters of the head that the folder does not have.
    pub fresh: Vec<String>,
    /// Tensors of another head in the folder.
    pub unused: Vec<String>,
    /// How many weights are NaN or infinite.
    pub non_finite: usize,
    /// `config.json` as it was read.
    pub json: Map<String, Value>,
}

/// All that the `config.json` of a folder says.
///
/// # Errors
/// When it is missing or no JSON object.
pub fn read_json(dir: impl AsRef<Path>) -> Result<Map<String, Value>> {
    if let Some(adapter) = peft::adapter(dir.as_ref())? {
        return adapter.json();
    }
    read_json_in(dir.as_ref())
}

/// The `config.json` of a folder: what it means, and all it says.
///
/// # Errors
/// When it is missing, not JSON, or does not describe a model that exists here.
pub fn read_config(dir: impl AsRef<Path>) -> Result<(ModelConfig, Map<String, Value>)> {
    let dir = dir.as_ref();
    config_of(read_json(dir)?, &dir.join(CONFIG).display().to_string())
}

/// Loads tensors into `module`, where only what belongs to a head may be missing or too much.
/// Returns those.
fn load(
    module: &dyn Module,
    tensors: &StateDict,
    dir: &Path,
) -> Result<(Vec<String>, Vec<String>)> {
    let bad = |text: String| Error::Data(format!("{}: {text}", dir.display()));
    let mut known = std::collections::HashSet::new();
    module.for_each_parameter(&mut |name, _| {
        known.insert(name.to_owned());
    });
    let there: std::collections::HashSet<&str> =
        tensors.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<String> = known
        .iter()
        .filter(|name| !is_head(name) && !there.contains(name.as_str()))
        .cloned()
        .collect();
    let extra: Vec<String> = tensors
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !is_head(name) && !known.contains(*name))
        .cloned()
        .collect();
    let mut complaints = Vec::new();
    for (what, mut names) in [("missing", missing), ("not part of this model", extra)] {
        if !names.is_empty() {
            names.sort_unstable();
            complaints.push(format!("{what}: {}", listed(&names)));
        }
    }
    if !complaints.is_empty() {
        return Err(bad(format!(
            "the weights are not those of {CONFIG}; {}",
            complaints.join("; ")
        )));
    }
    let report = module.load_state_dict(tensors, false).map_err(|e| bad(e.to_string()))?;
    Ok((report.missing, report.unexpected))
}

/// The configuration and the tensors of a folder, checked against each other as far as sizes go.
fn open(dir: &Path) -> Result<(ModelConfig, Map<String, Value>, StateDict)> {
    let (config, json) = read_config(dir)?;
    let adapter = peft::adapter(dir)?;
    let weights = adapter.as_ref().map_or(dir, |adapter| &adapter.base);
    let mut tensors = to_here(&config, read_folder(weights)?)?;
    if let Some(adapter) = &adapter {
        adapter.apply(&config, &mut tensors)?;
    }
    // Before a model is built: a damaged size must not ask for all the memory there is.
    let held: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    let wanted = config.num_parameters().unwrap_or(usize::MAX);
    if wanted / 4 > held.saturating_add(1 << 18) {
        return Err(Error::Data(format!(
            "{}: {CONFIG} describes a model of {wanted} parameters, the weights are {held} numbers",
            dir.display()
        )));
    }
    Ok((config, json, tensors))
}

fn count_non_finite(tensors: &StateDict) -> Result<usize> {
    let count = |x: &Tensor| {
        let values = x.detach().to_dtype(crate::tensor::DType::F32)?.contiguous()?;
        Ok(values.as_slice::<f32>()?.iter().filter(|v| !v.is_finite()).count())
    };
    tensors.iter().map(|(_, x)| count(x)).sum()
}

/// Reads a model folder, ours or Hugging Face's. The folder may have another head than a language
/// model's (a classifier's, or none): what is missing then starts from `seed` and is listed.
///
/// # Errors
/// When a file is missing or damaged, or body and `config.json` do not fit each other.
pub fn load_pretrained(dir: impl AsRef<Path>, seed: u64) -> Result<Pretrained> {
    let dir = dir.as_ref();
    let (config, json, tensors) = open(dir)?;
    let model = build(&config, seed)?;
    let (fresh, unused) = load(&model, &tensors, dir)?;
    let non_finite = count_non_finite(&tensors)?;
    Ok(Pretrained { labels: labels_of(&json)?, config, model, fresh, unused, non_finite, json })
}

/// Reads a folder that holds a whole language model, ours or Hugging Face's.
///
/// # Errors
/// As [`load_pretrained`], and when the head is missing.
pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<(ModelConfig, Box<dyn LanguageModel>)> {
    let dir = dir.as_ref();
    let loaded = load_pretrained(dir, 0)?;
    // A masked language model has no use for its pooler.
    let missing: Vec<String> =
        loaded.fresh.into_iter().filter(|name| !name.starts_with("bert.pooler.")).collect();
    if missing.is_empty() {
        return Ok((loaded.config, loaded.model));
    }
    Err(Error::Data(format!(
        "{}: this is not a language model but a body or a classifier; it lacks {}",
        dir.display(),
        listed(&missing)
    )))
}

/// Refuses a classifier folder without labels or whose head did not come from it.
fn expect_classifier(dir: &Path, labels: &[String], fresh: &[String]) -> Result<()> {
    if labels.is_empty() {
        return Err(Error::Data(format!(
            "{}: this is not a classifier, {CONFIG} has no id2label; make one of it with \
             `handloom finetune --from {0} --train labels.csv`",
            dir.display()
        )));
    }
    if fresh.is_empty() {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{}: not a folder of such a classifier; it lacks {}. Fine-tune one from it first",
        dir.display(),
        listed(fresh)
    )))
}

impl SequenceClassifier {
    /// Saves the classifier as a Hugging Face folder; `extra` goes into `config.json` too.
    ///
    /// # Errors
    /// When the system refuses an operation.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>, extra: &Map<String, Value>) -> Result<()> {
        let mut entries = self.config_entries();
        entries.extend(extra.clone());
        save_pretrained(dir, self, self.body.config(), &entries)
    }

    /// Reads a folder that holds a text classifier, ours or Hugging Face's.
    ///
    /// # Errors
    /// As [`load_pretrained`], and when head or labels are missing.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<SequenceClassifier> {
        let dir = dir.as_ref();
        let (config, json, tensors) = open(dir)?;
        let labels = labels_of(&json)?;
        expect_classifier(dir, &labels, &[])?;
        let classifier = SequenceClassifier::new(build(&config, 0)?, labels, 0)?;
        let (fresh, _) = load(&classifier, &tensors, dir)?;
        expect_classifier(dir, &classifier.labels, &fresh)?;
        Ok(classifier)
    }
}

impl TokenClassifier {
    /// Saves the tagger as a Hugging Face folder; `extra` goes into `config.json` too.
    ///
    /// # Errors
    /// When the system refuses an operation.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>, extra: &Map<String, Value>) -> Result<()> {
        let mut entries = self.config_entries();
        entries.extend(extra.clone());
        save_pretrained(dir, self, self.body.config(), &entries)
    }

    /// Reads a folder that holds a token classifier, ours or Hugging Face's.
    ///
    /// # Errors
    /// As [`load_pretrained`], and when head or labels are missing.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<TokenClassifier> {
        let dir = dir.as_ref();
        let (config, json, tensors) = open(dir)?;
        let labels = labels_of(&json)?;
        expect_classifier(dir, &labels, &[])?;
        let mut tagger = TokenClassifier::new(build(&config, 0)?, labels, 0)?;
        if json.get("crf") == Some(&Value::Bool(true)) {
            tagger = tagger.with_crf(0)?;
        }
        let (fresh, _) = load(&tagger, &tensors, dir)?;
        expect_classifier(dir, &tagger.labels, &fresh)?;
        Ok(tagger)
    }
}

/// Opens a classifier of texts of either kind.
///
/// # Errors
/// When the folder holds none, or a file is missing or damaged.
pub fn open_classifier(dir: impl AsRef<Path>) -> Result<Box<dyn Classifier>> {
    let dir = dir.as_ref();
    let json = read_json(dir)?;
    if json.get("model_type").and_then(Value::as_str) == Some(word_classifier::MODEL_TYPE) {
        return Ok(Box::new(WordClassifier::from_pretrained(dir)?));
    }
    Ok(Box::new(SequenceClassifier::from_pretrained(dir)?))
}

/// Opens a tagger of either kind.
///
/// # Errors
/// When the folder holds none, or a file is missing or damaged.
pub fn open_tagger(dir: impl AsRef<Path>) -> Result<Box<dyn Tagger>> {
    let dir = dir.as_ref();
    let json = read_json(dir)?;
    if json.get("model_type").and_then(Value::as_str) == Some(word_tagger::MODEL_TYPE) {
        return Ok(Box::new(WordTagger::from_pretrained(dir)?));
    }
    Ok(Box::new(TokenClassifier::from_pretrained(dir)?))
}

#[cfg(test)]
mod tests;
