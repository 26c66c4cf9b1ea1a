//! `handloom finetune`: a task on top of a pretrained model, or from scratch.

use std::path::Path;

use serde::Serialize;

use super::console::{self, Console};
use super::flags::{ColumnFlags, ModelFlags, TrainerFlags};
use super::layers::{self, Sources};
use super::terminal::{To, bold, note, out};
use super::values::{count, fraction, positive, share};
use super::{control, report};
use crate::train::finetune::{self, Arm, FinetuneConfig, FinetuneReport, median};
use crate::{Error, Result};

/// Fine-tune a pretrained model on a task, or train the same model from scratch to compare
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom finetune --from runs/book --train train.csv --test test.csv --out runs/reviews
  handloom finetune --from runs/book --train train.tsv --test test.tsv --seeds 3 --compare-scratch
  handloom finetune --scratch nano --model lstm --tokenizer char --train 外卖.csv --out runs/waimai
  handloom finetune --scratch tiny --model lstm --tokenizer word --train train.tsv --test test.tsv
  handloom finetune --task ner --scratch tiny --model lstm --tokenizer word --crf --train train.conll --test test.conll
  handloom finetune --task srl --from runs/bert --train train.bio.tsv --test test.bio.tsv --out runs/roles
  handloom finetune --from runs/book --train train.csv --lora-r 8 --out runs/adapted
  handloom finetune --from runs/book --task lm --train train.csv --out runs/letters
  handloom finetune --resume runs/reviews

Label files are CSV, TSV or JSONL with named columns, or lines of `label text`. For ner they are columns,
the word first and its tag last (IOB1, BIO, BIOES, BMES), an empty line after each sentence; for srl word,
1 on the predicate, tag, or the columns of CoNLL-2005, with tabs between.")]
pub struct Finetune {
    #[command(flatten)]
    flags: Flags,
    /// Go on with the run, or series of runs, in this folder
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    resume: Option<String>,
    /// Print the result as one JSON object on stdout
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize, clap::Args)]
struct Flags {
    /// The pretrained model: a run folder or a model folder
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    from: Option<String>,
    /// Instead of --from: a new model of this size (nano, tiny, mini, small)
    #[arg(long, value_name = "SIZE", help_heading = "Model")]
    scratch: Option<String>,
    /// classify, ner (entities), srl (semantic roles), or lm to go on with language modelling
    #[arg(long, value_name = "TASK", help_heading = "Model")]
    task: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelFlags,
    /// With --scratch: the longest context in tokens
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Model")]
    context_length: Option<usize>,
    /// With --scratch: char, bpe:4096, wordpiece:8000, a tokenizer.json; or word: words and characters
    #[arg(long, value_name = "KIND|FILE", help_heading = "Model")]
    tokenizer: Option<String>,

    /// Label files to train on
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data")]
    train: Vec<String>,
    /// Label files to choose the best step by
    #[arg(long, alias = "valid", value_name = "FILE", num_args = 1.., help_heading = "Data")]
    validation: Vec<String>,
    /// Without --validation: the share of each class that is kept for it [default: 0.1]
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Data")]
    #[arg(allow_negative_numbers = true)]
    validation_fraction: Option<f64>,
    /// Label files to report on at the end, with the best model
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data")]
    test: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    columns: ColumnFlags,
    /// Cut texts to this many tokens [default: what the model reads, 256 at most; taggers of words: 4096]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Data")]
    max_length: Option<usize>,
    /// Train on this many rows only, as many of each class as can be
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Data")]
    limit: Option<usize>,

    /// What does not learn: embeddings, body, layers as 0-3, or a part of a parameter's name
    #[arg(long, value_name = "WHAT", num_args = 1.., help_heading = "Optimisation")]
    freeze: Vec<String>,
    /// The learning rate of each layer relative to the one above it
    #[arg(long, value_name = "X", value_parser = share, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    layerwise_lr_decay: Option<f64>,
    /// Let one more layer learn each epoch, from the top
    #[arg(long, help_heading = "Optimisation")]
    gradual_unfreezing: bool,
    /// Tagging: score the tags of a sentence together (a conditional random field)
    #[arg(long, help_heading = "Model")]
    crf: bool,
    /// none, or balanced: rare classes count as much as frequent ones
    #[arg(long, value_name = "NAME", help_heading = "Optimisation")]
    class_weights: Option<String>,

    /// LoRA: adapters of this rank learn, and the head; the pretrained weights stand still
    #[arg(long, value_name = "N", value_parser = count, help_heading = "LoRA")]
    lora_r: Option<usize>,
    /// What an adapter adds counts ALPHA / r [default: 8]
    #[arg(long, value_name = "ALPHA", value_parser = positive, help_heading = "LoRA")]
    lora_alpha: Option<f64>,
    /// Dropout on what goes into an adapter
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "LoRA")]
    #[arg(allow_negative_numbers = true)]
    lora_dropout: Option<f64>,
    /// Layers with an adapter: c_attn, c_proj, c_fc; query, value, key, dense; or all-linear
    /// [default: c_attn of a gpt, query and value of a bert]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', help_heading = "LoRA")]
    lora_target: Vec<String>,

    /// Also train the same model from scratch, on the same seeds
    #[arg(long, help_heading = "Run")]
    compare_scratch: bool,
    /// Repeat with this many seeds, counting up from --seed
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Run")]
    seeds: Option<usize>,
    /// The folder of the run, or of the series of runs [default: runs/finetune]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    out: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    trainer: TrainerFlags,
}

impl Finetune {
    /// Trains, or goes on training, and reports.
    pub fn run(self) -> Result<()> {
        let report = match &self.resume {
            Some(dir) => {
                let changes = layers::given::<FinetuneConfig>(&self.sources, &self.flags)?;
                let mut console = Console::new(next(dir));
                finetune::resume(Path::new(dir), &changes, &mut control(&mut console))?
            }
            None => {
                let given = layers::given::<FinetuneConfig>(&self.sources, &self.flags)?;
                let config = finetune::settle(given)?;
                let mut console = Console::new(next(&config.out.to_string_lossy()));
                finetune::run(&config, &mut control(&mut console))?
            }
        };
        if self.json {
            let json = serde_json::to_value(&report).map_err(|e| Error::Failed(e.to_string()))?;
            out(json);
        } else {
            print(&report);
        }
        Ok(())
    }
}

/// What to type after the run in `out`.
fn next(out: &str) -> Vec<String> {
    let from = console::quoted(out.trim_end_matches('/'));
    vec![
        format!("handloom evaluate --from {from} --data test.csv"),
        format!("handloom predict --from {from} \"a text\""),
    ]
}

/// The test figures of a single run, or the table of a series.
fn print(report: &FinetuneReport) {
    if let [run] = report.runs.as_slice() {
        if let Some(test) = &run.test {
            note(bold(To::Stderr, "test set, best model"));
            out(report::report(test));
        }
        return;
    }
    out(comparison(report));
}

/// One row a run, then median and range of each arm and of what pretraining bought.
pub fn comparison(report: &FinetuneReport) -> String {
    let Some(first) = report.runs.first() else { return String::new() };
    let metric = match &first.test {
        Some(test) => format!("test {}", test.metric),
        None => first.metric.clone(),
    };
    let row = |arm: &str, seed: &str, value: String, steps: String, time: String| {
        vec![arm.to_owned(), seed.to_owned(), value, steps, time]
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for run in &report.runs {
        rows.push(row(
            run.arm.name(),
            &run.seed.to_string(),
            run.value().map_or("-".into(), |v| format!("{v:.4}")),
            run.steps.to_string(),
            super::format::took(run.elapsed_s),
        ));
    }
    let mut summary = |what: &str, values: &[f64], signed: bool| {
        let number = |v: f64| if signed { format!("{v:+.4}") } else { format!("{v:.4}") };
        if let (Some(middle), [low, .., high]) = (median(values), values) {
            let range = format!("{} to {}", number(*low), number(*high));
            rows.push(row(what, "median", number(middle), String::new(), String::new()));
            rows.push(row(what, "range", range, String::new(), String::new()));
        } else if let [one] = values
            && signed
        {
            rows.push(row(what, "", number(*one), String::new(), String::new()));
        }
    };
    for arm in [Arm::Pretrained, Arm::Scratch] {
        summary(arm.name(), &report.values(arm), false);
    }
    summary("difference", &report.differences(), true);
    super::format::table(&["from", "seed", &metric, "steps", "time"], &rows, 1)
}
