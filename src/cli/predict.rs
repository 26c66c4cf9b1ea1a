//! `handloom predict`: labels for texts, or for the words of texts.

use std::io::BufRead;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::flags::ColumnFlags;
use super::format;
use super::terminal::{To, highlight, out, shows_color};
use super::values::count;
use crate::text::labelled::read_unlabelled;
use crate::train::control::in_pool;
use crate::train::fill_mask::{self, FillMask};
use crate::train::labelled::Columns;
use crate::train::predict::{Prediction, Predictor};
use crate::train::predict_tags::{TagPredictor, TaggedText};
use crate::train::pretrained::model_dir;
use crate::train::tagging::tagging_task;
use crate::{Device, Error, Result};

/// Predict labels for texts: given here, in a file, or on stdin, one a line; or what fills a [MASK]
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom predict --from runs/reviews \"a splendid evening\" \"the soup was cold\"
  handloom predict --from runs/reviews --data new.csv --text-column review > labels.tsv
  cut -f2 reviews.tsv | handloom predict --from runs/reviews --json
  handloom predict --from runs/bert \"a [MASK] day\"
  handloom predict --from runs/entities \"Mara Holden works in Ashport.\"
  handloom predict --from runs/roles --predicate gave \"She gave him the book.\"

Output: label, probability and text, with tabs between; with --json one object a line with all classes.
Taggers give the text with its spans: in colour on a terminal, as [Mara Holden]/PER elsewhere, and with
--json as objects with character offsets.")]
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
    /// Semantic roles: the predicate, a word of the text or its number from 1
    #[arg(long, value_name = "WORD|INDEX")]
    predicate: Option<String>,
    /// Threads; the result does not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
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
        self.device.check()?;
        if fill_mask::fills(&self.from)? {
            return self.fill();
        }
        let says = Says::open(self)?;
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
            return self.print(&says, &texts);
        }
        if !self.text.is_empty() {
            let texts: Vec<_> = self.text.iter().map(|text| (text.clone(), None)).collect();
            return self.print(&says, &texts);
        }
        let mut block = Vec::new();
        for (line, n) in std::io::stdin().lock().lines().zip(1..) {
            let text =
                line.map_err(|e| Error::Data(format!("stdin, line {n}: cannot read it: {e}")))?;
            block.push((text, None));
            if block.len() == BLOCK {
                self.print(&says, &block)?;
                block.clear();
            }
        }
        self.print(&says, &block)
    }

    fn print(&self, says: &Says, texts: &[(String, Option<String>)]) -> Result<()> {
        match says {
            Says::Labels(predictor) => {
                for (prediction, (text, _)) in predictor.predict(texts)?.iter().zip(texts) {
                    let line = if self.json { json_line } else { line };
                    out(line(prediction, text));
                }
            }
            Says::Tags(predictor) => {
                let texts: Vec<String> = texts.iter().map(|(text, _)| text.clone()).collect();
                let mut seen = Vec::new();
                for tagged in predictor.predict(&texts, self.predicate.as_deref())? {
                    out(match self.json {
                        true => serde_json::to_string(&tagged).unwrap_or_default(),
                        false => spans_shown(&tagged, &mut seen),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Predict {
    /// A masked language model: for each gap of a text the likeliest pieces.
    fn fill(&self) -> Result<()> {
        let filler = FillMask::open(&self.from)?;
        filler.to_device(self.device)?;
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

/// What the model of the folder says about texts.
enum Says {
    Labels(Box<Predictor>),
    Tags(TagPredictor),
}

impl Says {
    fn open(flags: &Predict) -> Result<Says> {
        if tagging_task(&model_dir(&flags.from)?)?.is_some() {
            let predictor = TagPredictor::open(&flags.from, flags.max_length)?;
            predictor.to_device(flags.device)?;
            return Ok(Says::Tags(predictor));
        }
        if flags.predicate.is_some() {
            return Err(Error::Usage("--predicate goes with a model of semantic roles".into()));
        }
        let predictor = Predictor::open(&flags.from, flags.max_length)?;
        predictor.to_device(flags.device)?;
        Ok(Says::Labels(Box::new(predictor)))
    }
}

/// The text with its spans: in colour where there is colour, in brackets elsewhere. `seen` gives each type its
/// colour, in the order in which types appear.
fn spans_shown(tagged: &TaggedText, seen: &mut Vec<String>) -> String {
    let (mut shown, mut done) = (String::new(), 0);
    for span in &tagged.spans {
        shown.push_str(&format::one_line(&tagged.text[done..span.bytes.start]));
        done = span.bytes.end;
        let place = seen.iter().position(|kind| *kind == span.kind).unwrap_or_else(|| {
            seen.push(span.kind.clone());
            seen.len() - 1
        });
        let text = format::one_line(&span.text);
        shown.push_str(&match shows_color(To::Stdout) {
            true => highlight(To::Stdout, place, format_args!(" {text} {} ", span.kind)),
            false => format!("[{text}]/{}", span.kind),
        });
    }
    shown.push_str(&format::one_line(&tagged.text[done..]));
    shown
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
