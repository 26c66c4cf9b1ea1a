//! `handloom tokenizer`: train one, look at what it does.

use std::path::PathBuf;

use serde_json::json;

use super::terminal::{To, cyan, dim, note, out};
use super::{console, format};
use crate::text::{Encoding, Progress, Tokenizer, TokenizerKind, TrainOptions};
use crate::train::observer::Observer;
use crate::{Error, Result};

/// Train a tokenizer, or show how one cuts a text
#[derive(Debug, clap::Args)]
pub struct TokenizerCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Train(Train),
    Encode(Encode),
}

/// Train a tokenizer on text files and write its tokenizer.json
#[derive(Debug, clap::Args)]
#[command(after_help = "\
char: one token a character, Chinese included; for small texts.
bpe:N: byte-level pairs, as in GPT-2; loses nothing.
wordpiece:N: as in BERT; folds case and spaces.

Examples:
  handloom tokenizer train --tokenizer bpe:4096 --train books/*.txt --out tokenizer.json
  handloom tokenizer train --tokenizer wordpiece:8000 --cased --train 红楼梦.txt --out zh.json")]
struct Train {
    /// What to train: char, bpe:SIZE or wordpiece:SIZE
    #[arg(long, value_name = "KIND", default_value = "bpe:4096")]
    tokenizer: String,
    /// The text files, UTF-8
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    train: Vec<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "tokenizer.json")]
    out: PathBuf,
    /// wordpiece: keep upper case and accents
    #[arg(long)]
    cased: bool,
    /// A pair must occur this often to become one token
    #[arg(long, value_name = "N", default_value = "2", value_parser = super::values::count)]
    min_frequency: usize,
    /// utf8 or latin1
    #[arg(long, value_name = "NAME", default_value = "utf8")]
    encoding: String,
}

/// Show the tokens and ids of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom tokenizer encode --tokenizer tokenizer.json \"The loom sang.\"
  handloom tokenizer encode --tokenizer runs/book/tokenizer.json --json 织布机在唱")]
struct Encode {
    /// A tokenizer.json, or a folder that has one
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The text
    text: String,
}

impl TokenizerCommand {
    /// Trains or shows.
    pub fn run(self) -> Result<()> {
        match self.command {
            Verb::Train(command) => command.run(),
            Verb::Encode(command) => command.run(),
        }
    }
}

impl Train {
    fn run(self) -> Result<()> {
        let start = std::time::Instant::now();
        let kind: TokenizerKind = self.tokenizer.parse()?;
        let encoding: Encoding = self.encoding.parse()?;
        let options =
            TrainOptions { lowercase: !self.cased, min_frequency: self.min_frequency as u64 };
        let mut console = console::Console::new(Vec::new());
        let progress = |p: Progress| console.progress(p.stage, p.done, p.total);
        let tokenizer = Tokenizer::train_files(kind, &options, &self.train, encoding, progress)?;
        tokenizer.save(&self.out)?;
        console.row(format_args!(
            "{kind}: {} tokens, written to {} in {}",
            format::grouped(tokenizer.vocab_size() as u64),
            self.out.display(),
            format::took(start.elapsed().as_secs_f64()),
        ));
        let next = format!(
            "handloom pretrain --tokenizer {} --train {} --out runs/first",
            console::quoted(&self.out),
            console::quoted(&self.train[0])
        );
        note(format_args!("{} {}", dim(To::Stderr, "next"), cyan(To::Stderr, next)));
        Ok(())
    }
}

impl Encode {
    fn run(self) -> Result<()> {
        let path = if self.tokenizer.is_dir() {
            self.tokenizer.join("tokenizer.json")
        } else {
            self.tokenizer
        };
        let tokenizer = Tokenizer::from_file(&path)?;
        let ids = tokenizer.encode(&self.text)?;
        let pieces: Vec<String> =
            ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap_or_default()).collect();
        if self.json {
            out(json!({ "ids": ids, "tokens": pieces, "decoded": tokenizer.decode(&ids)? }));
            return Ok(());
        }
        if ids.is_empty() {
            return Err(Error::Usage("the text is empty: there is nothing to cut".into()));
        }
        let rows: Vec<Vec<String>> = ids
            .iter()
            .zip(&pieces)
            .map(|(id, piece)| {
                let text = tokenizer.decode(&[*id]).unwrap_or_default();
                vec![piece.clone(), format!("{text:?}"), id.to_string()]
            })
            .collect();
        out(format::table(&["token", "text", "id"], &rows, 2));
        Ok(())
    }
}
