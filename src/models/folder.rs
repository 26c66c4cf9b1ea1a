//! Model folders: `config.json` and weights as Hugging Face keeps them, so that `from_pretrained`
//! of either side opens what the other has saved.
//!
//! Names on disk and in memory are the same but for this:
//!
//! - GPT-2's four products are stored `[in, out]` (its `Conv1D`) and held `[out, in]`.
//! - Files saved from a bare body lack the prefix `transformer.` or `bert.`.
//! - Old BERT files call a norm's parameters `gamma` and `beta`.
//! - An adapter folder of PEFT is read as its base with the adapter merged in ([`peft`]).
//! - Buffers (`attn.bias`, `position_ids`) and second names of tied tensors (`lm_head.weight`) are
//!   passed over.
//!
//! What else does not match is an error that lists it, unless it belongs to a head: a body may be
//! taken from a folder with another head than the one wanted.

use std::path::Path;

use serde_json::{Map, Value};

use super::safetensors::{WEIGHTS, is_buffer, read, read_folder, to_bytes, write_atomic};
use super::{LanguageModel, ModelConfig, SequenceClassifier, TokenClassifier, build, peft};
use crate::error::{Error, Result};
use crate::nn::lora::merged_state_dict;
use crate::nn::module::listed;
use crate::nn::{Module, StateDict};
use crate::tensor::Tensor;

/// The name of the configuration in a model folder.
pub const CONFIG: &str = "config.json";

// ---- names ------------------------------------------------------------------------------------

/// Whether GPT-2 stores this weight transposed.
pub(super) fn is_transposed(config: &ModelConfig, name: &str) -> bool {
    const ENDS: [&str; 4] =
        ["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];
    matches!(config, ModelConfig::Gpt(_)) && ENDS.iter().any(|end| name.ends_with(end))
}

/// The name that a tensor called `name` in a file has here; `None` where it is not needed.
pub(super) fn name_here(config: &ModelConfig, name: &str) -> Option<String> {
    if is_buffer(name) {
        return None;
    }
    match config {
        ModelConfig::Gpt(c) => match name {
            "lm_head.weight" if c.tie_word_embeddings => None,
            _ if ["wte.", "wpe.", "h.", "ln_f."].iter().any(|start| name.starts_with(start)) => {
                Some(format!("transformer.{name}"))
            }
            _ => Some(name.to_owned()),
        },
        ModelConfig::Bert(_) => {
            // The head's output layer is the word table; its bias has two names.
            if name == "cls.predictions.decoder.weight" || name == "cls.predictions.decoder.bias" {
                return None;
            }
            let bare =
                ["embeddings.", "encoder.", "pooler."].iter().any(|start| name.starts_with(start));
            let name = if bare { format!("bert.{name}") } else { name.to_owned() };
            Some(match name.rsplit_once('.') {
                Some((front, "gamma")) if front.ends_with("LayerNorm") => format!("{front}.weight"),
                Some((front, "beta")) if front.ends_with("LayerNorm") => format!("{front}.bias"),
                _ => name,
            })
        }
        ModelConfig::Rnn(c) => match name {
            "decoder.weight" if c.tie_word_embeddings => None,
            _ => Some(name.to_owned()),
        },
    }
}

/// Whether a parameter belongs to a head, which a folder may lack or have another of.
fn is_head(name: &str) -> bool {
    let starts = ["lm_head.", "cls.", "bert.pooler.", "decoder.", "score.", "classifier.", "crf."];
    starts.iter().any(|start| name.starts_with(start))
}

/// Tensors of a file under the names and in the layout that the model here wants.
fn to_here(config: &ModelConfig, tensors: StateDict) -> Result<StateDict> {
    let mut list = StateDict::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let Some(here) = name_here(config, &name) else { continue };
        let turn = is_transposed(config, &here) && tensor.rank() == 2;
        list.push((here, if turn { tensor.t()? } else { tensor }));
    }
    Ok(list)
}

/// Parameters of a model under the names and in the layout that a file has.
fn to_file(config: &ModelConfig, module: &dyn Module) -> Result<StateDict> {
    let mut list = merged_state_dict(module)?;
    for (name, tensor) in &mut list {
        if is_transposed(config, name) {
            *tensor = tensor.t()?;
        }
    }
    Ok(list)
}

// ---- writing ----------------------------------------------------------------------------------

/// The bytes of the `model.safetensors` of a model, adapters merged into their weights.
///
/// # Errors
/// When memory cannot be had.
pub fn weights_to_bytes(module: &dyn Module, config: &ModelConfig) -> Result<Vec<u8>> {
    to_bytes(&to_file(config, module)?)
}

/// Loads what [`weights_to_bytes`] gave into a model of the same kind, every name matched.
///
/// # Errors
/// When the bytes are damaged or do not fit; the message begins with `name`.
pub fn weights_from_bytes(
    bytes: &[u8],
    name: &str,
    module: &dyn Module,
    config: &ModelConfig,
) -> Result<()> {
    let tensors = to_here(config, super::safetensors::from_bytes(bytes, name)?)?;
    module.load_state_dict(&tensors, true).map_err(|e| Error::Data(format!("{name}: {e}")))?;
    Ok(())
}

/// The text of the `config.json` of a model. Entries of `extra` (`architectures`, labels, special
/// tokens) come after the model's own and replace defaults.
pub fn config_text(config: &ModelConfig, extra: &Map<String, Value>) -> String {
    let mut object = Map::new();
    let architecture = match config {
        ModelConfig::Gpt(_) => "GPT2LMHeadModel",
        ModelConfig::Bert(_) => "BertForMaskedLM",
        ModelConfig::Rnn(_) => "RnnLm",
    };
    object.insert("architectures".into(), serde_json::json!([architecture]));
    object.extend(config.to_json());
    if let ModelConfig::Gpt(_) = config {
        // The class would otherwise fill in ids of its own large vocabulary.
        object.insert("bos_token_id".into(), Value::Null);
        object.insert("eos_token_id".into(), Value::Null);
    }
    object.insert("dtype".into(), "float32".into());
    object.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
    let mut text = serde_json::to_string_pretty(&object).unwrap_or_default();
    text.push('\n');
    text
}

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

// ---- reading ----------------------------------------------------------------------------------

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
    let path = dir.as_ref().join(CONFIG);
    parse_json(&read(&path)?, &path.display().to_string())
}

/// The `config.json` of a folder: what it means, and all it says.
///
/// # Errors
/// When it is missing, not JSON, or does not describe a model that exists here.
pub fn read_config(dir: impl AsRef<Path>) -> Result<(ModelConfig, Map<String, Value>)> {
    let dir = dir.as_ref();
    config_of(read_json(dir)?, &dir.join(CONFIG).display().to_string())
}

/// [`read_config`] of bytes in memory; `name` is what messages call them.
///
/// # Errors
/// As [`read_config`].
pub fn parse_config(bytes: &[u8], name: &str) -> Result<(ModelConfig, Map<String, Value>)> {
    config_of(parse_json(bytes, name)?, name)
}

fn config_of(json: Map<String, Value>, name: &str) -> Result<(ModelConfig, Map<String, Value>)> {
    let config = ModelConfig::from_json(&Value::Object(json.clone()))
        .map_err(|e| Error::Data(format!("{name}: {e}")))?;
    Ok((config, json))
}

fn parse_json(bytes: &[u8], name: &str) -> Result<Map<String, Value>> {
    match crate::json::parse(bytes) {
        Ok(Value::Object(json)) => Ok(json),
        Ok(_) => Err(Error::Data(format!("{name}: not a JSON object"))),
        Err(wrong) => Err(Error::Data(format!("{name}: {wrong}"))),
    }
}

/// The class names that a `config.json` lists, by id.
pub(super) fn labels_of(json: &Map<String, Value>) -> Result<Vec<String>> {
    let Some(Value::Object(map)) = json.get("id2label") else { return Ok(Vec::new()) };
    let mut labels = vec![None; map.len()];
    for (id, label) in map {
        let slot = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id));
        match (slot, label) {
            (Some(slot), Value::String(label)) => *slot = Some(label.clone()),
            _ => {
                return Err(Error::Data(format!("{CONFIG}: id2label has the entry {id}: {label}")));
            }
        }
    }
    labels.into_iter().collect::<Option<_>>().ok_or_else(|| {
        Error::Data(format!("{CONFIG}: id2label does not name each id from 0 to {}", map.len() - 1))
    })
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

#[cfg(test)]
mod tests;
