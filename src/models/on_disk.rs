//! How a model is written down: the names and the layout of its weights, and what its `config.json` says.
//!
//! Names on disk and in memory are the same but for this:
//!
//! - GPT-2's four products are stored `[in, out]` (its `Conv1D`) and held `[out, in]`.
//! - Files saved from a bare body lack the prefix `transformer.` or `bert.`.
//! - Old BERT files call a norm's parameters `gamma` and `beta`.
//! - Buffers (`attn.bias`, `position_ids`) and second names of tied tensors (`lm_head.weight`) are
//!   passed over.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ModelConfig;
use super::safetensors::{from_bytes, is_buffer, read, to_bytes};
use crate::error::{Error, Result};
use crate::nn::lora::merged_state_dict;
use crate::nn::{Module, StateDict};

/// The name of the configuration in a model folder.
pub const CONFIG: &str = "config.json";

// ---- weights ----------------------------------------------------------------------------------

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
pub(super) fn is_head(name: &str) -> bool {
    let starts = ["lm_head.", "cls.", "bert.pooler.", "decoder.", "score.", "classifier.", "crf."];
    starts.iter().any(|start| name.starts_with(start))
}

/// Tensors of a file under the names and in the layout that the model here wants.
pub(super) fn to_here(config: &ModelConfig, tensors: StateDict) -> Result<StateDict> {
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
    let tensors = to_here(config, from_bytes(bytes, name)?)?;
    module.load_state_dict(&tensors, true).map_err(|e| Error::Data(format!("{name}: {e}")))?;
    Ok(())
}

// ---- config.json --------------------------------------------------------------------------------

/// The text of the `config.json` of a model. Entries of `extra` (`architectures`, labels, special
/// tokens) come after the model's own and replace defaults.
pub fn config_text(config: &ModelConfig, extra: &Map<String, Value>) -> String {
    let mut object = Map::new();
    let architecture = match config {
        ModelConfig::Gpt(_) => "GPT2LMHeadModel",
        ModelConfig::Bert(_) => "BertForMaskedLM",
        ModelConfig::Rnn(_) => "RnnLm",
    };
    object.insert("architectures".into(), json!([architecture]));
    object.extend(config.to_json());
    if let ModelConfig::Gpt(_) = config {
        // The class would otherwise fill in an id of its own large vocabulary, as for the end where none is named.
        object.insert("bos_token_id".into(), Value::Null);
    }
    object.insert("dtype".into(), "float32".into());
    object.extend(extra.iter().map(|(key, value)| (key.clone(), value.clone())));
    let mut text = serde_json::to_string_pretty(&object).unwrap_or_default();
    text.push('\n');
    text
}

/// All that the `config.json` in `dir` says; adapters are not followed to their base.
///
/// # Errors
/// When it is missing or no JSON object.
pub(super) fn read_json_in(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join(CONFIG);
    parse_json(&read(&path)?, &path.display().to_string())
}

/// The `config.json` in `dir`: what it means, and all it says.
///
/// # Errors
/// When it is missing, not JSON, or does not describe a model that exists here.
pub(super) fn read_config_in(dir: &Path) -> Result<(ModelConfig, Map<String, Value>)> {
    config_of(read_json_in(dir)?, &dir.join(CONFIG).display().to_string())
}

/// What the bytes of a `config.json` mean, and all they say; `name` is what messages call them.
///
/// # Errors
/// When they are not JSON, or do not describe a model that exists here.
pub fn parse_config(bytes: &[u8], name: &str) -> Result<(ModelConfig, Map<String, Value>)> {
    config_of(parse_json(bytes, name)?, name)
}

pub(super) fn config_of(
    json: Map<String, Value>,
    name: &str,
) -> Result<(ModelConfig, Map<String, Value>)> {
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

/// Refuses no labels, and one twice.
pub(super) fn expect_labels(labels: &[String]) -> Result<()> {
    if labels.is_empty() {
        return Err(Error::Usage("a classifier needs at least one label".into()));
    }
    if let Some(twice) = labels.iter().enumerate().find(|(i, label)| labels[..*i].contains(label)) {
        return Err(Error::Usage(format!("the label `{}` occurs twice", twice.1)));
    }
    Ok(())
}

/// The entries of `config.json` that a classifier adds: architecture and labels.
pub(super) fn label_entries(architecture: &str, labels: &[String]) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("architectures".into(), json!([architecture]));
    let by_id = labels.iter().enumerate().map(|(i, label)| (i.to_string(), label.as_str().into()));
    map.insert("id2label".into(), Value::Object(by_id.collect()));
    let by_label = labels.iter().enumerate().map(|(i, label)| (label.clone(), i.into()));
    map.insert("label2id".into(), Value::Object(by_label.collect()));
    map
}

/// Whether `config.json` names an architecture that ends so.
pub fn names_architecture(json: &Map<String, Value>, ending: &str) -> bool {
    let names = json.get("architectures").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str).any(|name| name.ends_with(ending))
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
