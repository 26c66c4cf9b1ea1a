//! Adapter folders as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A key is `base_model.model.`, the layer's name, and `.lora_A.weight` `[r, in]` or `.lora_B.weight`
//! `[out, r]`; what was trained whole beside the adapters (a classifier's head, the pooler of a BERT)
//! has its own name after the prefix. The two matrices are never turned around, even where GPT-2 keeps
//! the weight beside them as `[in, out]` (`fan_in_fan_out`).
//!
//! Here a folder is read by adding each product to its weight: what opens is a plain model. Folders
//! with DoRA, adapters of embeddings and other kinds of PEFT are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::ModelConfig;
use super::on_disk::{CONFIG, is_transposed, labels_of, name_here, read_config_in};
use super::safetensors::{from_bytes, read, to_bytes};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::nn::lora::is_lora;
use crate::nn::module::listed;
use crate::nn::{LoraOptions, Module, StateDict};
use crate::tensor::Tensor;

/// The name of the configuration in an adapter folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The name of the weights in an adapter folder.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT's wrappers put in front of every name.
const PREFIX: &str = "base_model.model.";

// ---- writing ----------------------------------------------------------------------------------

/// Whether a parameter goes into the adapter's file: the adapters, and what learns beside them.
fn belongs(name: &str, trainable: bool) -> bool {
    is_lora(name) || trainable
}

/// The bytes of the `adapter_model.safetensors` of a module; `None` where it has no adapter.
///
/// # Errors
/// When memory cannot be had.
pub fn adapter_to_bytes(module: &dyn Module) -> Result<Option<Vec<u8>>> {
    let mut list = StateDict::new();
    let mut any = false;
    module.for_each_parameter(&mut |name, parameter| {
        any |= is_lora(name);
        if belongs(name, parameter.requires_grad()) {
            list.push((name.to_owned(), parameter.data()));
        }
    });
    if !any {
        return Ok(None);
    }
    // Heads and poolers are stored as they are held; only a body has weights to turn around.
    list.iter_mut().for_each(|(name, _)| name.insert_str(0, PREFIX));
    to_bytes(&list).map(Some)
}

/// Loads what [`adapter_to_bytes`] gave into a module with the same adapters.
///
/// # Errors
/// When the bytes are damaged or do not fit; the message begins with `name`.
pub fn adapter_from_bytes(bytes: &[u8], name: &str, module: &dyn Module) -> Result<()> {
    let bad = |text: String| Error::Data(format!("{name}: {text}"));
    let mut tensors = from_bytes(bytes, name)?;
    for (name, _) in &mut tensors {
        *name = name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    }
    let report = module.load_state_dict(&tensors, false).map_err(|e| bad(e.to_string()))?;
    let mut lost = report.unexpected;
    module.for_each_parameter(&mut |name, parameter| {
        if belongs(name, parameter.requires_grad()) && report.missing.iter().any(|m| m == name) {
            lost.push(name.to_owned());
        }
    });
    match lost.is_empty() {
        true => Ok(()),
        false => Err(bad(format!("not the adapters of this run: {}", listed(&lost)))),
    }
}

/// The text of an `adapter_config.json` for the adapters of `module` on the model in the folder
/// `base`. Layers and heads are named in full, as PEFT names what `all-linear` has found.
pub fn adapter_config_text(
    module: &dyn Module,
    config: &ModelConfig,
    options: &LoraOptions,
    task_type: Option<&str>,
    base: &str,
) -> String {
    let mut targets = Vec::new();
    module.for_each_linear(&mut |name, layer| {
        if layer.lora().is_some() {
            targets.push(name.to_owned());
        }
    });
    let mut whole: Vec<String> = Vec::new();
    module.for_each_parameter(&mut |name, parameter| {
        if parameter.requires_grad() && !is_lora(name) {
            let module = name.rsplit_once('.').map_or(name, |(module, _)| module).to_owned();
            if !whole.contains(&module) {
                whole.push(module);
            }
        }
    });
    let alpha = options.alpha;
    let object = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": matches!(config, ModelConfig::Gpt(_)),
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as u64) } else { json!(alpha) },
        "lora_dropout": options.dropout,
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "peft_type": "LORA",
        "r": options.r,
        "target_modules": targets,
        "task_type": task_type,
        "use_dora": false,
        "use_rslora": false,
    });
    let mut text = serde_json::to_string_pretty(&object).unwrap_or_default();
    text.push('\n');
    text
}

// ---- reading ----------------------------------------------------------------------------------

/// An `adapter_config.json` that was understood.
pub(super) struct Adapter {
    dir: PathBuf,
    /// The folder of the model that the adapter is for.
    pub(super) base: PathBuf,
    task: Option<String>,
    r: f64,
    alpha: f64,
    rslora: bool,
    rank_pattern: Map<String, Value>,
    alpha_pattern: Map<String, Value>,
}

/// The adapter in the folder `dir`; `None` where it holds a model of its own, or nothing.
///
/// # Errors
/// When its base is not there, or it is of a kind that is not read here.
pub(super) fn adapter(dir: &Path) -> Result<Option<Adapter>> {
    let path = dir.join(ADAPTER_CONFIG);
    if dir.join(CONFIG).is_file() || !path.is_file() {
        return Ok(None);
    }
    let bad = |text: String| Error::Data(format!("{}: {text}", path.display()));
    let Value::Object(json) = crate::json::parse(&read(&path)?).map_err(bad)? else {
        return Err(bad("not a JSON object".into()));
    };
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    if text("peft_type") != Some("LORA") {
        let kind = text("peft_type").unwrap_or("nothing");
        return Err(bad(format!("peft_type is {kind}; LORA is read here")));
    }
    for key in ["use_dora", "lora_bias", "use_qalora", "use_bdlora"] {
        if json.get(key) == Some(&Value::Bool(true)) {
            return Err(bad(format!("{key} is set; plain LoRA is read here")));
        }
    }
    let number = |key: &str| {
        json.get(key)
            .and_then(Value::as_f64)
            .filter(|x| *x > 0.0)
            .ok_or_else(|| bad(format!("{key} is missing or no number above 0")))
    };
    let pattern = |key: &str| match json.get(key) {
        Some(Value::Object(map)) => map.clone(),
        _ => Map::new(),
    };
    let named = text("base_model_name_or_path").unwrap_or_default();
    let places = [PathBuf::from(named), dir.join(named)];
    let Some(base) = places.into_iter().find(|base| base.join(CONFIG).is_file()) else {
        return Err(bad(format!(
            "the adapter belongs to the model `{named}`, and there is no model folder of that name; write the folder of \
             that model into base_model_name_or_path"
        )));
    };
    Ok(Some(Adapter {
        dir: dir.to_owned(),
        base,
        task: text("task_type").map(str::to_owned),
        r: number("r")?,
        alpha: number("lora_alpha")?,
        rslora: json.get("use_rslora") == Some(&Value::Bool(true)),
        rank_pattern: pattern("rank_pattern"),
        alpha_pattern: pattern("alpha_pattern"),
    }))
}

/// The folder of the model that an adapter folder is for.
///
/// # Errors
/// When the adapter cannot be read.
pub fn base_of(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(adapter(dir)?.map(|adapter| adapter.base))
}

/// A and B by the name of the weight that they change.
type Pairs = BTreeMap<String, [Option<Tensor>; 2]>;

impl Adapter {
    /// The weights of the adapter under their names here: pairs of A and B by the weight's name, and
    /// what replaces a weight of the base.
    fn parts(&self, config: &ModelConfig) -> Result<(Pairs, StateDict)> {
        let path = self.dir.join(ADAPTER_WEIGHTS);
        let (mut pairs, mut whole) = (Pairs::new(), StateDict::new());
        for (key, tensor) in from_bytes(&read(&path)?, &path.display().to_string())? {
            // Old files name the adapter ("default") between the parts.
            let name = key.strip_prefix(PREFIX).unwrap_or(&key);
            let name = name.replace(".default", "").replace(".modules_to_save.", ".");
            let matrix = ["lora_A", "lora_B"]
                .into_iter()
                .position(|part| name.ends_with(&format!(".{part}.weight")));
            if let Some(which) = matrix {
                let layer = &name[..name.len() - ".lora_A.weight".len()];
                if let Some(weight) = name_here(config, &format!("{layer}.weight")) {
                    pairs.entry(weight).or_default()[which] = Some(tensor);
                }
            } else if name.contains("lora_") {
                return Err(Error::Data(format!(
                    "{}: `{key}` is no adapter of a linear layer; only these are read here",
                    path.display()
                )));
            } else if let Some(name) = name_here(config, &name) {
                let turn = is_transposed(config, &name) && tensor.rank() == 2;
                whole.push((name, if turn { tensor.t()? } else { tensor }));
            }
        }
        Ok((pairs, whole))
    }

    /// α / r of a layer, or α / √r.
    fn scale(&self, weight: &str) -> f64 {
        let layer = weight.trim_end_matches(".weight");
        let own = |pattern: &Map<String, Value>, default: f64| {
            let fits = |key: &str| layer == key || layer.ends_with(&format!(".{key}"));
            let found = pattern.iter().find(|(key, _)| fits(key));
            found.and_then(|(_, value)| value.as_f64()).unwrap_or(default)
        };
        let (r, alpha) = (own(&self.rank_pattern, self.r), own(&self.alpha_pattern, self.alpha));
        alpha / if self.rslora { r.sqrt() } else { r }
    }

    /// Adds the adapter to the tensors of its base, as they are named here.
    pub(super) fn apply(&self, config: &ModelConfig, tensors: &mut StateDict) -> Result<()> {
        let bad = |text: String| Error::Data(format!("{}: {text}", self.dir.display()));
        let (pairs, whole) = self.parts(config)?;
        for (weight, pair) in pairs {
            let [Some(a), Some(b)] = pair else {
                return Err(bad(format!("`{weight}` has one matrix of its adapter only")));
            };
            let Some((_, value)) = tensors.iter_mut().find(|(name, _)| *name == weight) else {
                return Err(bad(format!("the base {} has no `{weight}`", self.base.display())));
            };
            let fits = matches!((a.shape(), b.shape()), ([r, i], [o, s]) if r == s && [*o, *i] == value.shape());
            if !fits {
                return Err(bad(format!(
                    "adapters {:?} and {:?} do not fit `{weight}` {:?}",
                    a.shape(),
                    b.shape(),
                    value.shape()
                )));
            }
            *value = no_grad(|| value.add(&b.matmul(&a)?.mul_scalar(self.scale(&weight))?))?;
        }
        for (name, tensor) in whole {
            match tensors.iter_mut().find(|(n, _)| *n == name) {
                Some((_, value)) => *value = tensor,
                None => tensors.push((name, tensor)),
            }
        }
        Ok(())
    }

    /// What the base's `config.json` says, with head and labels of the adapter: those of the base, of
    /// the model folder that the adapter stands in, or else `LABEL_0`, `LABEL_1`, ….
    pub(super) fn json(&self) -> Result<Map<String, Value>> {
        let (config, mut json) = read_config_in(&self.base)?;
        let ending = match self.task.as_deref() {
            Some("SEQ_CLS") => "ForSequenceClassification",
            Some("TOKEN_CLS") => "ForTokenClassification",
            _ => return Ok(json),
        };
        json.insert("architectures".into(), json!([ending]));
        let (_, whole) = self.parts(&config)?;
        let head = ["score.weight", "classifier.weight"];
        let classes = whole.iter().find(|(name, _)| head.contains(&name.as_str()));
        let classes = classes.map_or(0, |(_, weight)| weight.shape()[0]);
        if labels_of(&json)?.len() != classes {
            let around = self.dir.parent().and_then(|dir| read_config_in(dir).ok());
            let id2label = around.and_then(|(_, mut json)| json.remove("id2label"));
            let numbered = || {
                let label = |i: usize| (i.to_string(), json!(format!("LABEL_{i}")));
                Value::Object((0..classes).map(label).collect())
            };
            json.insert("id2label".into(), id2label.unwrap_or_else(numbered));
        }
        Ok(json)
    }
}
