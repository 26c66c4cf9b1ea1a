//! Settings in three layers: TOML file < flags < `--set key=value`.
//!
//! A key *is* a flag: `learning_rate = 1e-3` in the file, `--learning-rate 1e-3` and
//! `--set learning_rate=1e-3` say one thing, to the configuration struct of the command in `train/`,
//! where the defaults and the checks are. A `config.toml` of a run folder can be given back as it is.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::text::Encoding;
use crate::train::config;
use crate::{Error, Result};

/// Where settings come from besides the flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct Sources {
    /// Read settings from a TOML file, one `key = value` a line; keys are the flags with underscores
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, over the file and the flags; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// The configuration that the three layers make, over the defaults of `C`.
///
/// # Errors
/// [`Error::Usage`] for an unknown key (with the nearest one there is) or a value of the wrong kind,
/// with the file and line, or the flag, that it stands in.
pub fn resolve<C>(sources: &Sources, flags: &impl Serialize) -> Result<C>
where
    C: Default + Serialize + DeserializeOwned,
{
    config::resolve(&given::<C>(sources, flags)?)
}

/// The pairs that the three layers give, without the defaults.
///
/// # Errors
/// As [`resolve`].
pub fn given<C>(sources: &Sources, flags: &impl Serialize) -> Result<Map<String, Value>>
where
    C: Default + Serialize + DeserializeOwned,
{
    let mut all = Map::new();
    // One pair at a time, so that a complaint can say where the pair stands.
    let mut lay = |key: String, value: Value, at: &str| -> Result<()> {
        let key = key.replace('-', "_");
        config::resolve::<C>(&Map::from_iter([(key.clone(), value.clone())]))
            .map_err(|error| Error::Usage(format!("{at}: {error}")))?;
        config::lay(&mut all, key, value);
        Ok(())
    };
    if let Some(path) = &sources.config {
        for (key, line, value) in read(path)? {
            lay(key, value, &format!("{}, line {line}", path.display()))?;
        }
    }
    for (key, value) in config::to_map(flags) {
        let empty =
            value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == false;
        if !empty {
            lay(key.clone(), value, &format!("--{}", key.replace('_', "-")))?;
        }
    }
    for pair in &sources.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Error::Usage(format!(
                "--set {pair}: expected key=value, as in --set learning_rate=3e-4"
            ))
        })?;
        lay(key.trim().to_owned(), config::parse_value(value.trim()), &format!("--set {pair}"))?;
    }
    Ok(all)
}

/// The keys of a TOML file with their lines.
fn read(path: &Path) -> Result<Vec<(String, usize, Value)>> {
    parse(&path.display().to_string(), &crate::text::read_text(path, Encoding::Utf8)?)
}

/// The keys of a TOML text with their lines; `name` is what messages call it.
///
/// # Errors
/// [`Error::Usage`] with the line, when it is not TOML or has a number that is not finite.
pub fn parse(name: &str, text: &str) -> Result<Vec<(String, usize, Value)>> {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let wrong = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(span.start));
        Error::Usage(format!("{name}, line {line}: this is not TOML: {}", e.message()))
    };
    let table = toml::de::DeTable::parse(text).map_err(wrong)?;
    let values: toml::Table = toml::from_str(text).map_err(wrong)?;
    let mut pairs = Vec::new();
    for key in table.get_ref().keys() {
        let (line, key) = (line_of(key.span().start), key.get_ref().to_string());
        let value = json(&values[&key]).ok_or_else(|| {
            let sentence = "is not a finite number";
            Error::Usage(format!("{name}, line {line}: {key} {sentence}"))
        })?;
        pairs.push((key, line, value));
    }
    pairs.sort_by_key(|pair| pair.1);
    Ok(pairs)
}

/// The same value for serde_json; None for numbers that JSON does not have.
fn json(value: &toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::Float(x) => Value::Number(serde_json::Number::from_f64(*x)?),
        toml::Value::Integer(n) => Value::from(*n),
        toml::Value::Boolean(b) => Value::from(*b),
        toml::Value::String(s) => Value::from(s.as_str()),
        toml::Value::Datetime(time) => Value::from(time.to_string()),
        toml::Value::Array(items) => Value::Array(items.iter().map(json).collect::<Option<_>>()?),
        toml::Value::Table(table) => Value::Object(
            table.iter().map(|(k, v)| Some((k.clone(), json(v)?))).collect::<Option<_>>()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Toy {
        learning_rate: f64,
        train: Vec<String>,
        fast: bool,
    }

    impl Default for Toy {
        fn default() -> Toy {
            Toy { learning_rate: 1.0, train: Vec::new(), fast: false }
        }
    }

    fn toy(
        toml: Option<(&str, &str)>,
        flags: Value,
        set: &[&str],
    ) -> std::result::Result<Toy, String> {
        let config = toml.map(|(name, text)| {
            let path =
                std::env::temp_dir().join(format!("handloom-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            path
        });
        let sources = Sources { config, set: set.iter().map(|s| s.to_string()).collect() };
        resolve::<Toy>(&sources, &flags).map_err(|e| e.to_string())
    }

    #[test]
    fn the_later_layer_wins_key_by_key() {
        let file = Some(("win", "learning_rate = 1e-3\ntrain = [\"a\", \"b\"]\nfast = true\n"));
        let ab = || vec!["a".to_owned(), "b".to_owned()];
        let none = json!({"learning_rate": null, "train": [], "fast": false});
        assert_eq!(
            toy(file, none.clone(), &[]),
            Ok(Toy { learning_rate: 1e-3, train: ab(), fast: true })
        );
        assert_eq!(
            toy(file, json!({"learning_rate": 2.0, "train": ["c"]}), &["fast=false"]),
            Ok(Toy { learning_rate: 2.0, train: vec!["c".into()], fast: false })
        );
        assert_eq!(
            toy(file, json!({"learning_rate": 2.0}), &["learning-rate=3"]),
            Ok(Toy { learning_rate: 3.0, train: ab(), fast: true })
        );
        assert_eq!(toy(None, none, &[]), Ok(Toy::default()));
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let refused = |name, text| toy(Some((name, text)), json!({}), &[]).unwrap_err();
        let error = refused("unknown", "# a comment\nfast = true\nlearning_rat = 1\n");
        assert!(
            error.contains("line 3") && error.contains("did you mean 'learning_rate'"),
            "{error}"
        );
        let error = refused("value", "\nlearning_rate = \"fast\"\n");
        assert!(error.contains("line 2") && error.contains("learning_rate"), "{error}");
        assert!(
            refused("nan", "learning_rate = nan\n")
                .contains("line 1: learning_rate is not a finite")
        );
        assert!(refused("broken", "fast = true\nfast =\n").contains("line 2: this is not TOML"));
        assert!(refused("table", "[fast]\nx = 1\n").contains("line 1"));
        let error = toy(None, json!({}), &["trian=x"]).unwrap_err();
        assert!(
            error.contains("--set trian=x") && error.contains("did you mean 'train'"),
            "{error}"
        );
        assert!(toy(None, json!({}), &["fast"]).unwrap_err().contains("expected key=value"));
    }
}
