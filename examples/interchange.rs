//! The Rust side of `tests/interchange.py`: writes a small model folder, or prints the scores that
//! a model folder gives for a batch.
//!
//! ```text
//! interchange save gpt|bert|rnn|lstm|gru lm|classify|tag DIR
//! interchange run lm|classify|tag DIR BATCH.json
//! ```
//!
//! A batch is `{"ids": [[…]], "padding": [[…]], "token_types": [[…]]}`, the last two optional;
//! scores are printed as `{"shape": […], "values": […]}`.

use std::path::Path;

use handloom::models::{
    Inputs, ModelConfig, SequenceClassifier, TokenClassifier, build, from_pretrained,
    save_pretrained,
};
use handloom::nn::Module;
use handloom::{Error, Result, Tensor};
use serde_json::{Map, Value, json};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["save", model, task, dir] => save(model, task, Path::new(dir)),
        ["run", task, dir, batch] => run(task, Path::new(dir), Path::new(batch)),
        _ => Err(Error::Usage("see the first lines of examples/interchange.rs".into())),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(error.exit_code().into());
    }
}

/// Weights far enough from 0 that a mistake shows in the scores.
fn spread_weights(module: &dyn Module) -> Result<()> {
    let mut result = Ok(());
    module.for_each_parameter(&mut |name, parameter| {
        let key = handloom::ops::Key { seed: 5, stream: name.len() as u64, step: 0 };
        let spread = || {
            let noise =
                Tensor::randn(parameter.shape(), parameter.dtype(), key)?.mul_scalar(0.2)?;
            parameter.load(&parameter.data().add(&noise)?)
        };
        if result.is_ok() {
            result = spread();
        }
    });
    result
}

fn save(model: &str, task: &str, dir: &Path) -> Result<()> {
    let mut config = ModelConfig::preset(model, "nano", 50, Some(12), None)?;
    match &mut config {
        ModelConfig::Gpt(c) => (c.n_embd, c.n_head, c.n_layer) = (16, 2, 2),
        ModelConfig::Bert(c) => (c.hidden_size, c.intermediate_size) = (16, 32),
        ModelConfig::Rnn(c) => (c.hidden_size, c.embedding_size, c.num_layers) = (16, 16, 2),
    }
    let model = build(&config, 1)?;
    let labels = ["red", "green", "blue"].map(str::to_owned).to_vec();
    // A GPT-2 of Hugging Face finds the last token of a row by the id of the padding after it.
    let mut extra = Map::new();
    extra.insert("pad_token_id".into(), json!(0));
    match task {
        "classify" => {
            let model = SequenceClassifier::new(model, labels, 2)?;
            spread_weights(&model)?;
            model.save_pretrained(dir, &extra)
        }
        "tag" => {
            let model = TokenClassifier::new(model, labels, 2)?;
            spread_weights(&model)?;
            model.save_pretrained(dir, &extra)
        }
        _ => {
            spread_weights(model.as_ref())?;
            save_pretrained(dir, model.as_ref(), &config, &extra)
        }
    }
}

/// The rows of `batch[key]` as a tensor.
fn rows(batch: &Value, key: &str) -> Result<Option<Tensor>> {
    let Some(rows) = batch.get(key).filter(|rows| !rows.is_null()) else { return Ok(None) };
    let rows: Vec<Vec<u32>> = serde_json::from_value(rows.clone())
        .map_err(|e| Error::Data(format!("the batch's {key}: {e}")))?;
    let width = rows.first().map_or(0, Vec::len);
    Tensor::from_slice(&rows.concat(), [rows.len(), width]).map(Some)
}

fn run(task: &str, dir: &Path, batch: &Path) -> Result<()> {
    let text = std::fs::read(batch).map_err(|e| Error::io(batch, "read", e))?;
    let batch: Value = serde_json::from_slice(&text).map_err(|e| Error::Data(e.to_string()))?;
    let ids = rows(&batch, "ids")?.ok_or_else(|| Error::Data("the batch has no ids".into()))?;
    let (types, padding) = (rows(&batch, "token_types")?, rows(&batch, "padding")?);
    let inputs = Inputs {
        token_type_ids: types.as_ref(),
        padding_mask: padding.as_ref(),
        ..Inputs::new(&ids)
    };
    let scores = match task {
        "classify" => SequenceClassifier::from_pretrained(dir)?.logits(&inputs)?,
        "tag" => TokenClassifier::from_pretrained(dir)?.logits(&inputs)?,
        _ => {
            let (_, model) = from_pretrained(dir)?;
            model.logits(&model.hidden(&inputs)?)?
        }
    };
    println!("{}", json!({"shape": scores.shape(), "values": scores.to_f64_vec()?}));
    Ok(())
}
