//! `handloom predict`: labels for texts.

use std::io::BufRead;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::flags::ColumnFlags;
use super::format;
use super::terminal::out;
use super::values::count;
use crate::text::labelled::read_unlabelled;
use crate::train::control::in_pool;
use crate::train::fill_mask::{self, FillMask};
use crate::train::labelled::Columns;
use crate::train::predict::{Prediction, Predictor};
use crate::{Error, Result};

/// Predict labels for texts: given here, in a file, or on stdin, one a line; or what fills a [MASK]
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom predict --from runs/reviews \"a splendid evening\" \"the soup was cold\"
  handloom predict --from runs/reviews --data new.csv --text-column review > labels.tsv
  cut -f2 reviews.tsv | handloom predict --from runs/reviews --json
  handloom predict --from runs/bert \"a [MASK] day\"

Output: label, probability and text, with tabs between; with --json one object a line with all classes.")]
pub struct Predict {
    /// A run folder (its best model is taken) or a model folder
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// A file of texts: CSV, TSV or JSONL with named columns, or one text a line
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    data: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnFlags,
    /// Cut texts to this many tokens [default: what the model reads, 256 at most]
    #[arg(long, value_name = "N", value_parser = count)]
    max_length: Option<usize>,
    /// Threads; the result does not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Texts; without any, they are read from stdin
    text: Vec<String>,
}

/// Texts read from stdin before the first prediction is printed.
const BLOCK: usize = 256;

impl Predict {
    /// Predicts and prints, in the order of the texts.
    pub fn run(self) -> Result<()> {
        in_pool(self.threads.unwrap_or(0), || self.predict())?
    }

    fn predict(&self) -> Result<()> {
        if fill_mask::fills(&self.from)? {
            return self.fill();
        }
        let mut predictor = Predictor::open(&self.from)?;
        if let Some(n) = self.max_length {
            predictor.max_length = n;
        }
        if let Some(file) = &self.data {
            let c = self.columns.clone();
            let columns = Columns {
                text_column: c.text_column,
                text_pair_column: c.text_pair_column,
                label_column: c.label_column,
                format: c.format,
                encoding: c.encoding,
            };
            let rows = read_unlabelled(file, &columns.options()?)?;
            let texts: Vec<_> = rows.into_iter().map(|row| (row.text, row.text_pair)).collect();
            return self.print(&predictor, &texts);
        }
        if !self.text.is_empty() {
            let texts: Vec<_> = self.text.iter().map(|text| (text.clone(), None)).collect();
            return self.print(&predictor, &texts);
        }
        let mut block = Vec::new();
        for (line, n) in std::io::stdin().lock().lines().zip(1..) {
            let text =
                line.map_err(|e| Error::Data(format!("stdin, line {n}: cannot read it: {e}")))?;
            block.push((text, None));
            if block.len() == BLOCK {
                self.print(&predictor, &block)?;
                block.clear();
            }
        }
        self.print(&predictor, &block)
    }

    fn print(&self, predictor: &Predictor, texts: &[(String, Option<String>)]) -> Result<()> {
        for (prediction, (text, _)) in predictor.predict(texts)?.iter().zip(texts) {
            out(if self.json { json_line(prediction, text) } else { line(prediction, text) });
        }
        Ok(())
    }
}

impl Predict {
    /// A masked language model: for each gap of a text the likeliest pieces.
    fn fill(&self) -> Result<()> {
        let filler = FillMask::open(&self.from)?;
        let mut texts = self.text.clone();
        if texts.is_empty() {
            let stdin = std::io::stdin().lock().lines();
            texts = stdin
                .collect::<std::io::Result<_>>()
                .map_err(|e| Error::Data(format!("stdin: cannot read it: {e}")))?;
        }
        for text in &texts {
            for gap in filler.fill(text)? {
                if self.json {
                    out(json!({"text": text, "filled": gap.text, "candidates": gap.candidates}));
                    continue;
                }
                for (piece, p) in &gap.candidates {
                    out(format_args!("{p:.4}\t{piece}"));
                }
                out(format_args!("\t{}", format::one_line(&gap.text)));
            }
        }
        Ok(())
    }
}

fn line(prediction: &Prediction, text: &str) -> String {
    format!("{}\t{:.4}\t{}", prediction.label, prediction.score, format::one_line(text))
}

fn json_line(prediction: &Prediction, text: &str) -> String {
    let scores: Map<String, Value> =
        prediction.scores.iter().map(|(label, score)| (label.clone(), json!(score))).collect();
    let mut line = json!({
        "text": text,
        "label": prediction.label,
        "score": prediction.score,
        "scores": scores,
    });
    if prediction.truncated {
        line["truncated"] = json!(true);
    }
    line.to_string()
}
