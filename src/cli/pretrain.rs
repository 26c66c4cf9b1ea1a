//! `handloom pretrain`: a language model from text.

use std::path::Path;

use serde::Serialize;

use super::console::{self, Console};
use super::flags::{ColumnFlags, ModelFlags, TrainerFlags};
use super::layers::{self, Sources};
use super::values::{count, count_or_zero, fraction};
use super::{control, machine};
use crate::models::estimate_memory;
use crate::train::pretrain::{self, PretrainConfig};
use crate::{Error, Result};

/// Pretrain a language model on text: predict the next token (gpt, rnn, lstm, gru) or hidden ones (bert)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom pretrain --train book.txt --out runs/book
  handloom pretrain --train books/*.txt --tokenizer bpe:4096 --size mini --budget 30m --out runs/books
  handloom pretrain --train 红楼梦.txt --out runs/dream
  handloom pretrain --model lstm --train book.txt --out runs/lstm
  handloom pretrain --model gru --train names.txt --line-by-line --out runs/names
  handloom pretrain --from runs/books --train letters.txt --out runs/letters
  handloom pretrain --resume runs/book

Without more, it is a small GPT on characters: 4 layers, 4 heads, width 128, context 64, 2000 steps.
Every flag is also a key (with underscores) in the file of --config and for --set.")]
pub struct Pretrain {
    #[command(flatten)]
    flags: Flags,
    /// Go on with the run in this folder, from its newest whole checkpoint
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    resume: Option<String>,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize, clap::Args)]
struct Flags {
    /// Text files; of CSV, TSV and JSONL files the text column
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data")]
    train: Vec<String>,
    /// Text to validate on, instead of the end of the training text
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Data")]
    validation: Vec<String>,
    /// The share at the end of the text that is kept for validation [default: 0.1]
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Data")]
    #[arg(allow_negative_numbers = true)]
    validation_fraction: Option<f64>,
    /// char, bpe:4096, wordpiece:8000, or a tokenizer.json [default: char; bert: wordpiece:8000]
    #[arg(long, value_name = "KIND|FILE", help_heading = "Data")]
    tokenizer: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    columns: ColumnFlags,
    /// Each line, or row of a label file, is an example by itself
    #[arg(long, help_heading = "Data")]
    line_by_line: bool,
    /// How batches go through the text: random, shuffled or lanes [default: random; rnn, lstm, gru: lanes]
    #[arg(long, value_name = "WAY", value_parser = ["random", "shuffled", "lanes"])]
    #[arg(hide_possible_values = true, help_heading = "Data")]
    sampling: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelFlags,
    /// Tokens that the model sees at once [default: 64 for nano]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Model")]
    context_length: Option<usize>,
    /// Go on from the model in this folder, with its tokenizer, instead of from random weights
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    from: Option<String>,
    /// bert: the share of tokens that is hidden
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Model")]
    #[arg(allow_negative_numbers = true)]
    mlm_probability: Option<f64>,
    /// bert: hide whole words
    #[arg(long, help_heading = "Model")]
    whole_word_mask: bool,
    /// The folder of the run: settings, log, checkpoints, best model [default: runs/pretrain]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    out: Option<String>,
    /// How the samples begin that show what the model has learned
    #[arg(long, value_name = "TEXT", help_heading = "Run")]
    sample_prompt: Option<String>,
    /// Tokens of such a sample; 0: none
    #[arg(long, value_name = "N", value_parser = count_or_zero, help_heading = "Run")]
    sample_length: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    trainer: TrainerFlags,
}

impl Pretrain {
    /// Trains, or goes on training.
    pub fn run(self) -> Result<()> {
        if let Some(dir) = &self.resume {
            let changes = layers::given::<PretrainConfig>(&self.sources, &self.flags)?;
            let mut console = Console::new(next(dir));
            return pretrain::resume(Path::new(dir), &changes, &mut control(&mut console))
                .map(drop);
        }
        let config: PretrainConfig = layers::resolve(&self.sources, &self.flags)?;
        fits_in_memory(&config)?;
        let mut console = Console::new(next(config.out.to_string_lossy()));
        pretrain::run(&config, &mut control(&mut console)).map(drop)
    }
}

/// What to type after the run in `out`.
fn next(out: impl AsRef<str>) -> Vec<String> {
    let out = out.as_ref().trim_end_matches('/');
    let (from, to) = (console::quoted(out), console::quoted(format!("{out}-labels")));
    vec![
        format!("handloom generate --from {from} --prompt \"…\""),
        format!("handloom finetune --from {from} --train labels.csv --out {to}"),
    ]
}

/// Refuses a model that this machine has no room for, before the first byte of it is asked for. The
/// vocabulary is not known yet and counts as one token: what is refused is too large with any.
pub fn fits_in_memory(config: &PretrainConfig) -> Result<()> {
    let (None, Some((total, _))) = (&config.from, machine::memory()) else { return Ok(()) };
    let model = config.shape.config(&config.model, &config.size, 1)?;
    let context = config.shape.context_length.unwrap_or(model.context_length());
    let needed = estimate_memory(&model, config.trainer.batch_size, context);
    if needed.total() <= total {
        return Ok(());
    }
    let name = super::format::bytes;
    Err(Error::Usage(format!(
        "this model needs {} to train (weights {}, gradients {}, optimizer {}, activations {}) and this machine \
         has {}; choose a smaller --size, --hidden-size, --batch-size or --context-length",
        name(needed.total()),
        name(needed.weights),
        name(needed.gradients),
        name(needed.optimizer),
        name(needed.activations),
        name(total),
    )))
}
