//! `handloom evaluate`: every figure of a model on data.

use serde::Serialize;

use super::console::Console;
use super::flags::ColumnFlags;
use super::layers::{self, Sources};
use super::terminal::out;
use super::values::{count, share};
use super::{control, report};
use crate::train::evaluate::{self, EvaluateConfig, Evaluation};
use crate::{Error, Result};

/// Evaluate a model on text or on labelled data
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom evaluate --from runs/reviews --data test.csv
  handloom evaluate --from runs/book --data other-book.txt
  handloom evaluate --from runs/book --data book.txt --validation-fraction 0.1 --json
  handloom evaluate --from runs/names --data names-test.txt --line-by-line

A language model gives val_loss (nats a token), perplexity and bits_per_byte over the whole text; a
classifier loss, accuracy, macro and micro F1, each class, and the confusion matrix; a tagger precision,
recall and F1 of whole spans, type by type.")]
pub struct Evaluate {
    #[command(flatten)]
    flags: Flags,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize, clap::Args)]
struct Flags {
    /// A run folder (its best model is taken) or a model folder
    #[arg(long, value_name = "DIR")]
    from: Option<String>,
    /// Text files, or label files
    #[arg(long, alias = "test", value_name = "FILE", num_args = 1..)]
    data: Vec<String>,
    /// lm, classify, ner or srl [default: what the model is for]
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Language models: only this share at the end of the text, as pretraining keeps it
    #[arg(long, value_name = "X", value_parser = share, allow_negative_numbers = true)]
    validation_fraction: Option<f64>,
    /// Language models: each line, or row of a label file, is an example by itself
    #[arg(long)]
    line_by_line: bool,
    #[command(flatten)]
    #[serde(flatten)]
    columns: ColumnFlags,
    /// Sequences of one batch
    #[arg(long, value_name = "N", value_parser = count)]
    batch_size: Option<usize>,
    /// Language models: tokens of a window [default: the model's]
    #[arg(long, value_name = "N", value_parser = count)]
    context_length: Option<usize>,
    /// Classifiers and taggers: cut texts to this many tokens
    #[arg(long, value_name = "N", value_parser = count)]
    max_length: Option<usize>,
    /// Threads; the result does not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Where to compute: cpu, cuda or cuda:N [default: cpu]
    #[arg(long, value_name = "DEVICE", value_parser = super::flags::device)]
    device: Option<String>,
}

impl Evaluate {
    /// Evaluates and prints.
    pub fn run(self) -> Result<()> {
        let config: EvaluateConfig = layers::resolve(&self.sources, &self.flags)?;
        if config.from.as_os_str().is_empty() {
            return Err(Error::Usage("which model? give --from DIR".into()));
        }
        let mut console = Console::new(Vec::new());
        let evaluation = evaluate::run(&config, &mut control(&mut console))?;
        if self.json {
            out(serde_json::Value::Object(evaluation.to_json()));
            return Ok(());
        }
        match &evaluation {
            Evaluation::LanguageModel { figures, tokens } => {
                out(report::figures(&figures.named()));
                out(format_args!("over {} tokens", super::format::grouped(*tokens)));
            }
            Evaluation::Labelled(found) => out(report::report(found)),
        }
        Ok(())
    }
}
