//! Configurations: plain structs, read from key = value pairs.
//!
//! A configuration struct serialises to a flat map of keys. [`resolve`] starts from the struct's
//! defaults, lays the user's pairs over them and reads the struct back, so defaults are written down
//! once and an unknown key is refused with the nearest name that exists. Keys are the flags of the
//! command line with `_` for `-`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::schedule::Scheduler;
use crate::cpu::gemm::Precision;
use crate::error::{Error, Result};
use crate::tensor::Device;

/// The optimiser by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// What becomes of a step whose loss or gradient is not finite. It never reaches the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonfinite {
    /// Leave the step out and go on; stop after ten in a row.
    Skip,
    /// End the run with exit code 5.
    Stop,
    /// Go back to the newest checkpoint and on from there with other data.
    Rollback,
}

/// What the numbers of a training step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NumberFormat {
    /// `f32` throughout.
    F32,
    /// Weights, activations and sums in `f32`, the operands of matrix products rounded to bf16.
    Bf16,
}

/// The part of a configuration that every training run has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerConfig {
    /// Optimiser steps; counts before `epochs`.
    pub max_steps: Option<u64>,
    /// Passes over the training data, where `max_steps` and `budget` are not given.
    pub epochs: Option<f64>,
    /// Wall-clock seconds (`"10m"`, `"90s"`, `"1.5h"` or a number); the schedule follows the clock.
    #[serde(deserialize_with = "seconds", default)]
    pub budget: Option<f64>,
    /// Sequences of one micro-batch.
    pub batch_size: usize,
    /// Micro-batches of one optimiser step.
    pub gradient_accumulation_steps: u64,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Where the learning rate ends.
    pub min_learning_rate: f64,
    /// The shape of the schedule.
    pub lr_scheduler: Scheduler,
    /// Steps of linear warm-up; below 1 a share of all steps.
    pub warmup_steps: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// β₁ of AdamW.
    pub adam_beta1: f64,
    /// β₂ of AdamW.
    pub adam_beta2: f64,
    /// ε of AdamW.
    pub adam_epsilon: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Whether SGD looks ahead (Nesterov).
    pub nesterov: bool,
    /// The global gradient norm is clipped to this; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// The share of the target's mass that goes to all classes alike.
    pub label_smoothing: f64,
    /// Decay of the moving average of the weights that is evaluated and kept as the best model; 0: none.
    pub ema_decay: f64,
    /// Steps from one evaluation to the next; 0: only at the end.
    pub eval_steps: u64,
    /// Steps from one checkpoint to the next; 0: only at the end.
    pub save_steps: u64,
    /// Checkpoints kept, the newest ones; 0 keeps all.
    pub save_total_limit: usize,
    /// Steps from one line of `metrics.jsonl` to the next; step 1 has one as well.
    pub logging_steps: u64,
    /// Evaluations without progress after which the run ends; 0: never.
    pub early_stopping_patience: u32,
    /// The least change of the deciding figure that counts as progress.
    pub early_stopping_threshold: f64,
    /// What the numbers of a step are.
    pub precision: NumberFormat,
    /// How exact the matrix products of a step are where `precision` is f32. Evaluation is always exact.
    pub matmul_precision: Precision,
    /// The seed of weights, data order and dropout.
    pub seed: u64,
    /// Threads; 0: one a core.
    pub threads: usize,
    /// Where the model is trained.
    pub device: Device,
    /// What becomes of numbers that are not finite.
    pub on_nonfinite: OnNonfinite,
}

impl TrainerConfig {
    /// nanoGPT's recipe for a laptop: 2000 steps of AdamW, cosine from 1e-3 to 1e-4.
    pub fn pretraining() -> TrainerConfig {
        TrainerConfig {
            max_steps: Some(2000),
            epochs: None,
            budget: None,
            batch_size: 12,
            gradient_accumulation_steps: 1,
            optimizer: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            min_learning_rate: 1e-4,
            lr_scheduler: Scheduler::Cosine,
            warmup_steps: 100.0,
            weight_decay: 0.1,
            adam_beta1: 0.9,
            adam_beta2: 0.99,
            adam_epsilon: 1e-8,
            momentum: 0.9,
            nesterov: false,
            max_grad_norm: 1.0,
            label_smoothing: 0.0,
            ema_decay: 0.0,
            eval_steps: 250,
            save_steps: 500,
            save_total_limit: 2,
            logging_steps: 10,
            early_stopping_patience: 0,
            early_stopping_threshold: 0.0,
            precision: NumberFormat::F32,
            matmul_precision: Precision::Highest,
            seed: 1337,
            threads: 0,
            device: Device::Cpu,
            on_nonfinite: OnNonfinite::Stop,
        }
    }

    /// Three epochs with a linear schedule, evaluated a few times an epoch.
    pub fn finetuning() -> TrainerConfig {
        TrainerConfig {
            max_steps: None,
            epochs: Some(3.0),
            batch_size: 32,
            learning_rate: 5e-4,
            min_learning_rate: 0.0,
            lr_scheduler: Scheduler::Linear,
            warmup_steps: 0.1,
            weight_decay: 0.01,
            adam_beta2: 0.999,
            eval_steps: 50,
            seed: 42,
            ..TrainerConfig::pretraining()
        }
    }

    /// How exact the matrix products of a step are.
    pub fn products(&self) -> Precision {
        match self.precision {
            NumberFormat::F32 => self.matmul_precision,
            NumberFormat::Bf16 => Precision::Medium,
        }
    }

    /// Refuses numbers that make no sense, each by the name of its flag.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first such number.
    pub fn validate(&self) -> Result<()> {
        let refuse = |flag: &str, value: f64, wanted: &str| {
            Err(Error::Usage(format!("--{flag} {value}: {wanted}")))
        };
        let not_negative = [
            ("learning-rate", self.learning_rate),
            ("min-learning-rate", self.min_learning_rate),
            ("warmup-steps", self.warmup_steps),
            ("weight-decay", self.weight_decay),
            ("max-grad-norm", self.max_grad_norm),
            ("early-stopping-threshold", self.early_stopping_threshold),
        ];
        for (flag, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(flag, value, "must be a finite number, 0 or more");
            }
        }
        let shares = [
            ("adam-beta1", self.adam_beta1),
            ("adam-beta2", self.adam_beta2),
            ("momentum", self.momentum),
            ("label-smoothing", self.label_smoothing),
            ("ema-decay", self.ema_decay),
        ];
        for (flag, value) in shares {
            if !(0.0..1.0).contains(&value) {
                return refuse(flag, value, "must be at least 0 and below 1");
            }
        }
        if self.adam_epsilon.is_nan() || self.adam_epsilon <= 0.0 {
            return refuse("adam-epsilon", self.adam_epsilon, "must be above 0");
        }
        if self.learning_rate < self.min_learning_rate {
            let sentence = "is below --min-learning-rate; raise one or lower the other";
            return refuse("learning-rate", self.learning_rate, sentence);
        }
        if self.batch_size == 0 {
            return refuse("batch-size", 0.0, "must be at least 1");
        }
        if self.gradient_accumulation_steps == 0 {
            return refuse("gradient-accumulation-steps", 0.0, "must be at least 1");
        }
        if self.max_steps == Some(0) {
            return refuse("max-steps", 0.0, "must be at least 1");
        }
        for (flag, value) in [("epochs", self.epochs), ("budget", self.budget)] {
            if let Some(value) = value
                && !(value.is_finite() && value > 0.0)
            {
                return refuse(flag, value, "must be a finite number above 0");
            }
        }
        if self.max_steps.is_none() && self.epochs.is_none() && self.budget.is_none() {
            return Err(Error::Usage(
                "how long to train? give --max-steps, --epochs or --budget".into(),
            ));
        }
        self.device.check()?;
        if self.threads > 1024 {
            return refuse(
                "threads",
                self.threads as f64,
                "must be at most 1024; 0 means one a core",
            );
        }
        Ok(())
    }
}

/// How long to train can be said in three ways.
const LENGTHS: [&str; 3] = ["max_steps", "epochs", "budget"];

/// Lays `key = value` over `settings`. A length replaces one that an earlier layer, or the defaults, gave in
/// another way: `--epochs 2` does not wait for the steps of a file.
pub fn lay(settings: &mut Map<String, Value>, key: String, value: Value) {
    if LENGTHS.contains(&key.as_str()) && !value.is_null() {
        let others = LENGTHS.iter().filter(|other| **other != key);
        settings.extend(others.map(|other| (other.to_string(), Value::Null)));
    }
    settings.insert(key, value);
}

/// Reads a configuration: the defaults of `C` with `given` laid over them.
///
/// # Errors
/// [`Error::Usage`] that names the key: unknown (with the nearest one that exists) or of a wrong type.
pub fn resolve<C: Default + Serialize + DeserializeOwned>(given: &Map<String, Value>) -> Result<C> {
    let mut all = to_map(&C::default());
    for key in given.keys() {
        if !all.contains_key(key) {
            let known = all.keys().map(String::as_str);
            return Err(Error::Usage(match nearest(key, known) {
                Some(name) => format!("there is no setting '{key}'; did you mean '{name}'?"),
                None => format!("there is no setting '{key}'"),
            }));
        }
    }
    let defaults = all.clone();
    all.extend(given.clone());
    serde_json::from_value(Value::Object(all)).map_err(|error| {
        // Find the pair that is to blame by reading each one alone.
        for (key, value) in given {
            let mut one = defaults.clone();
            one.insert(key.clone(), value.clone());
            if let Err(error) = serde_json::from_value::<C>(Value::Object(one)) {
                return Error::Usage(format!("setting {key} = {value}: {error}"));
            }
        }
        Error::Usage(format!("settings: {error}"))
    })
}

/// The configuration as a flat map, in the order of its fields.
pub fn to_map<C: Serialize>(config: &C) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Reads the value of `--set key=value`: JSON where it is JSON (`3`, `true`, `[1, 2]`, `1e-3`), else
/// a string.
pub fn parse_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The configuration as a TOML file. Settings that are not given are written as comments.
pub fn to_toml(config: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (key, value) in config {
        match value {
            Value::Null => out.push_str(&format!("# {key} =\n")),
            value => out.push_str(&format!("{key} = {}\n", toml_value(value))),
        }
    }
    out
}

fn toml_value(value: &Value) -> String {
    match value {
        // JSON's string escapes are a subset of TOML's.
        Value::String(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(toml_value).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let pair = |(k, v): (&String, &Value)| {
                format!("{} = {}", Value::String(k.clone()), toml_value(v))
            };
            format!("{{ {} }}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Null => "\"\"".into(),
    }
}

/// Seconds from `"90s"`, `"10m"`, `"1.5h"` or a plain number of seconds.
///
/// # Errors
/// [`Error::Usage`] when it is none of these, or not above 0.
pub fn parse_seconds(text: &str) -> Result<f64> {
    let text = text.trim();
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1.0),
        Some(b'm') => (&text[..text.len() - 1], 60.0),
        Some(b'h') => (&text[..text.len() - 1], 3600.0),
        _ => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value * unit),
        _ => Err(Error::Usage(format!(
            "'{text}' is not a length of time; write 90s, 10m, 1.5h or a number of seconds"
        ))),
    }
}

fn seconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<f64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) => parse_seconds(&text).map(Some).map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("expected a length of time such as \"10m\"")),
    }
}

/// The candidate that is fewest edits away from `name`, if it is near at all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = candidates.into_iter().map(|c| (edit_distance(name, c), c)).min()?;
    (best.0 <= 2.max(name.chars().count() / 3)).then_some(best.1)
}

/// Levenshtein's distance: insertions, deletions and replacements of characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Run {
        out: String,
        #[serde(flatten)]
        trainer: TrainerConfig,
    }

    impl Default for Run {
        fn default() -> Run {
            Run { out: "run".into(), trainer: TrainerConfig::pretraining() }
        }
    }

    fn given(pairs: Value) -> Map<String, Value> {
        pairs.as_object().unwrap().clone()
    }

    #[test]
    fn a_length_replaces_the_one_before() {
        let mut settings = to_map(&TrainerConfig::pretraining());
        assert_eq!(settings["max_steps"], 2000);
        lay(&mut settings, "epochs".into(), 2.0.into());
        assert!(settings["max_steps"].is_null() && settings["epochs"] == 2.0);
        lay(&mut settings, "budget".into(), Value::Null);
        assert_eq!(settings["epochs"], 2.0);
        lay(&mut settings, "max_steps".into(), 7.into());
        assert!(settings["epochs"].is_null() && settings["max_steps"] == 7);
    }

    #[test]
    fn given_pairs_lie_over_the_defaults() {
        let run: Run =
            resolve(&given(json!({"learning_rate": 3e-4, "out": "x", "budget": "10m"}))).unwrap();
        assert_eq!(run.trainer.learning_rate, 3e-4);
        assert_eq!(run.trainer.budget, Some(600.0));
        assert_eq!((run.out.as_str(), run.trainer.batch_size), ("x", 12));
        assert_eq!(resolve::<Run>(&to_map(&run)).unwrap(), run);
    }

    #[test]
    fn wrong_keys_and_types_are_named() {
        let error = resolve::<Run>(&given(json!({"learning_rat": 1}))).unwrap_err().to_string();
        assert!(error.contains("did you mean 'learning_rate'"), "{error}");
        let error = resolve::<Run>(&given(json!({"batch_size": "many"}))).unwrap_err().to_string();
        assert!(error.contains("batch_size"), "{error}");
        let error = resolve::<Run>(&given(json!({"zzzzzzzzzzzzzzz": 1}))).unwrap_err().to_string();
        assert!(!error.contains("mean"), "{error}");
    }

    #[test]
    fn nonsense_is_refused_by_flag() {
        let mut config = TrainerConfig::pretraining();
        config.learning_rate = f64::NAN;
        assert!(config.validate().unwrap_err().to_string().contains("--learning-rate"));
        let config = TrainerConfig { batch_size: 0, ..TrainerConfig::pretraining() };
        assert!(config.validate().unwrap_err().to_string().contains("--batch-size"));
        let config = TrainerConfig { max_steps: None, ..TrainerConfig::pretraining() };
        assert!(config.validate().unwrap_err().to_string().contains("--budget"));
        assert!(TrainerConfig::pretraining().validate().is_ok());
        assert!(TrainerConfig::finetuning().validate().is_ok());
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(parse_seconds("90s").unwrap(), 90.0);
        assert_eq!(parse_seconds("1.5h").unwrap(), 5400.0);
        assert_eq!(parse_seconds("12").unwrap(), 12.0);
        for bad in ["", "m", "-3m", "inf", "ten"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn toml_reads_back() {
        let run = Run { out: "a\"b\\c\n文".into(), ..Run::default() };
        let text = to_toml(&to_map(&run));
        let back: Map<String, Value> = serde_json::to_value(text.parse::<toml::Table>().unwrap())
            .unwrap()
            .as_object()
            .unwrap()
            .clone();
        assert_eq!(resolve::<Run>(&back).unwrap(), run);
    }
}
