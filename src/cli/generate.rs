//! `handloom generate`: text from a model, as it is written.

use std::io::Read;
use std::path::PathBuf;

use serde::Serialize;

use super::layers::{self, Sources};
use super::terminal::{self, To, dim, note};
use super::values::{count, count_or_zero, dtype, not_negative, positive, share};
use crate::tensor::release_free_memory;
use crate::train::control::in_pool;
use crate::train::generate::Writer;
use crate::train::sampling::GenerateOptions;
use crate::{DType, Device, Error, Result};

/// Write text with a model, from a prompt
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom generate --from runs/book --prompt \"It was\"
  handloom generate --from runs/book --prompt \"It was\" --temperature 0.7 --top-k 40 --seed 7
  handloom generate --from runs/dream --prompt 宝玉 --max-new-tokens 100 --stop 。
  handloom generate --from runs/book --prompts-file beginnings.txt --num-beams 4 --json
  echo \"Once upon a time\" | handloom generate --from runs/book --prompt -

The same seed writes the same text, on any machine, at any number of threads, alone or among others; with --dtype bf16
another one, also the same everywhere.")]
pub struct Generate {
    /// A run folder (its best model is taken) or a model folder
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// How the text begins; - reads it from stdin; several write one text each
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    prompt: Vec<String>,
    /// A file of prompts, one a line: one text each
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts_file: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    /// Texts to write, each with the next seed
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    num_return_sequences: usize,
    /// Print one JSON object a text: prompt, text, tokens, finish, seed
    #[arg(long)]
    json: bool,
    /// Threads; the text does not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// How weights are stored: f32, or bf16 in half the memory, which a large model writes with nearly twice as fast
    /// (gpt, on a CPU)
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = dtype)]
    dtype: DType,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize, clap::Args)]
struct Flags {
    /// Tokens to write at most [default: 200]
    #[arg(long, value_name = "N", value_parser = count)]
    max_new_tokens: Option<usize>,
    /// Below 1 the likely becomes likelier; 0 always takes the likeliest [default: 0.8]
    #[arg(long, value_name = "X", value_parser = not_negative, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Only the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", value_parser = count_or_zero)]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = share, allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Only tokens with this share of the likeliest one's probability
    #[arg(long, value_name = "P", value_parser = not_negative, allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Above 1 what has been said becomes unlikelier
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// End before this text; can be given again
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// The seed of the draws
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Beam search with this many beams, instead of drawing
    #[arg(long, value_name = "N", value_parser = count)]
    num_beams: Option<usize>,
    /// Beam search: divide by the length to this power
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
}

impl Generate {
    /// Writes to stdout: one text as its tokens come, several when they are done.
    pub fn run(self) -> Result<()> {
        let options: GenerateOptions = layers::resolve(&self.sources, &self.flags)?;
        options.validate()?;
        self.device.check()?;
        if self.dtype != DType::F32 && self.device != Device::Cpu {
            return Err(Error::Usage(
                "--dtype bf16 is for --device cpu; a GPU computes in f32".into(),
            ));
        }
        let prompts = self.prompts()?;
        in_pool(self.threads.unwrap_or(0), || {
            let writer = Writer::open(&self.from)?;
            writer.model().to_device(self.device)?;
            if self.dtype != DType::F32 {
                let refused = |e| Error::Usage(format!("--dtype {}: {e}", self.dtype));
                writer.model().store_weights(self.dtype).map_err(refused)?;
            }
            // First values, and weights before they were stored otherwise: nobody will ask for buffers of their size.
            release_free_memory();
            match prompts.as_slice() {
                [one] if !self.json => self.stream(&writer, one, options),
                all => self.batch(&writer, all, options),
            }
        })?
    }

    /// The prompts that were given; without any, an empty one.
    fn prompts(&self) -> Result<Vec<String>> {
        if let Some(file) = &self.prompts_file {
            let text = crate::text::read_text(file, crate::text::Encoding::Utf8)?;
            return Ok(text.lines().map(str::to_owned).collect());
        }
        let mut prompts = self.prompt.clone();
        for prompt in prompts.iter_mut().filter(|prompt| *prompt == "-") {
            prompt.clear();
            let read = std::io::stdin().read_to_string(prompt);
            read.map_err(|e| Error::Data(format!("stdin: cannot read the prompt: {e}")))?;
            prompt.truncate(prompt.trim_end_matches('\n').len());
        }
        if prompts.is_empty() {
            prompts.push(String::new());
        }
        Ok(prompts)
    }

    /// One prompt: each text is printed while it is written.
    fn stream(&self, writer: &Writer, prompt: &str, mut options: GenerateOptions) -> Result<()> {
        for n in 0..self.num_return_sequences {
            if self.num_return_sequences > 1 {
                note(dim(To::Stderr, format_args!("— seed {} —", options.seed)));
            }
            let start = std::time::Instant::now();
            terminal::out_piece(prompt);
            let written = writer.write(prompt, &options, &mut terminal::out_piece)?;
            terminal::out("");
            let rate = written.tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
            let speed = format!("{} tokens, {}/s", written.tokens, super::format::short(rate));
            note(dim(To::Stderr, speed));
            options.seed = options.seed.wrapping_add(1);
            if n + 1 < self.num_return_sequences {
                terminal::out("");
            }
        }
        Ok(())
    }

    /// Several prompts: the texts in the order of their prompts, an empty line between two.
    fn batch(
        &self,
        writer: &Writer,
        prompts: &[String],
        mut options: GenerateOptions,
    ) -> Result<()> {
        let mut first = true;
        for _ in 0..self.num_return_sequences {
            for written in writer.write_batch(prompts, &options)? {
                if self.json {
                    let mut line = serde_json::to_value(&written).unwrap_or_default();
                    line["seed"] = options.seed.into();
                    terminal::out(line);
                    continue;
                }
                if !std::mem::take(&mut first) {
                    terminal::out("");
                }
                terminal::out(format_args!("{}{}", written.prompt, written.text));
            }
            options.seed = options.seed.wrapping_add(1);
        }
        Ok(())
    }
}
