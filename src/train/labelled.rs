//! From label files to examples of token ids.

use std::path::PathBuf;

use rayon::prelude::*;

use super::data::Sequence;
use super::tasks::classify::Examples;
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::text::labelled::{LabelledSet, ReadOptions};

/// Where the columns of label files are; the fields are flags.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Columns {
    /// The column of the text: a name in the header, or a number from 1.
    pub text_column: Option<String>,
    /// The column of a second text.
    pub text_pair_column: Option<String>,
    /// The column of the label.
    pub label_column: Option<String>,
    /// `auto`, `csv`, `tsv`, `jsonl` or `label_text`.
    pub format: Option<String>,
    /// `utf8` or `latin1`.
    pub encoding: Option<String>,
}

impl Columns {
    /// As the reader takes them.
    ///
    /// # Errors
    /// [`Error::Usage`] for a format or encoding that does not exist.
    pub fn options(&self) -> Result<ReadOptions> {
        Ok(ReadOptions {
            format: self.format.as_deref().unwrap_or("auto").parse()?,
            text_column: self.text_column.clone(),
            text_pair_column: self.text_pair_column.clone(),
            label_column: self.label_column.clone(),
            encoding: self.encoding.as_deref().unwrap_or("utf8").parse()?,
            header: None,
        })
    }

    /// Reads one or several files as one set.
    ///
    /// # Errors
    /// As [`LabelledSet::read`].
    pub fn read(&self, files: &[PathBuf]) -> Result<LabelledSet> {
        let options = self.options()?;
        let [first, rest @ ..] = files else {
            return Err(Error::Usage("no label file was given".into()));
        };
        let mut all = LabelledSet::read(first, &options)?;
        if rest.is_empty() {
            return Ok(all);
        }
        // Labels are numbered anew over all files.
        let mut sets = vec![all.clone()];
        for file in rest {
            sets.push(LabelledSet::read(file, &options)?);
        }
        let pairs = sets.iter().flat_map(|set| {
            set.rows.iter().map(|row| (row.text.clone(), set.labels[row.label].clone()))
        });
        let pair_texts: Vec<Option<String>> =
            sets.iter().flat_map(|set| set.rows.iter().map(|row| row.text_pair.clone())).collect();
        let name = format!("{} and {} more", all.name, rest.len());
        all = LabelledSet::from_pairs(&name, pairs);
        for (row, pair) in all.rows.iter_mut().zip(pair_texts) {
            row.text_pair = pair;
        }
        Ok(all)
    }
}

/// The tokens of one or two texts, never empty.
///
/// # Errors
/// When the tokenizer cannot express the text.
pub fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    pair: Option<&str>,
    max_length: usize,
) -> Result<(Sequence, bool)> {
    let encoded = tokenizer.encode_pair(text, pair, max_length)?;
    let mut sequence = Sequence { ids: encoded.ids, token_type_ids: encoded.token_type_ids };
    if sequence.ids.is_empty() {
        sequence.ids.push(tokenizer.unk_id().or(tokenizer.eos_id()).unwrap_or(0));
        sequence.token_type_ids.push(0);
    }
    Ok((sequence, encoded.truncated > 0))
}

/// The tokens of a label file's rows. `unseen` rows had a label that the model does not know.
///
/// # Errors
/// As [`encode`], with the line.
pub fn examples(
    set: &LabelledSet,
    tokenizer: &Tokenizer,
    max_length: usize,
    unseen: u64,
) -> Result<Examples> {
    let encoded: Vec<Result<(Sequence, bool)>> = set
        .rows
        .par_iter()
        .map(|row| {
            encode(tokenizer, &row.text, row.text_pair.as_deref(), max_length).map_err(
                |e| match e {
                    Error::Data(text) => {
                        Error::Data(format!("{}, line {}: {text}", set.name, row.line))
                    }
                    other => other,
                },
            )
        })
        .collect();
    let mut all = Examples { unseen, ..Examples::default() };
    for (row, encoded) in set.rows.iter().zip(encoded) {
        let (sequence, truncated) = encoded?;
        all.sequences.push(sequence);
        all.labels.push(row.label as u32);
        all.truncated += u64::from(truncated);
    }
    Ok(all)
}

/// Renumbers `set` by the labels of a model; gives the number of rows whose label it does not know, and a
/// sentence about them.
pub fn align(set: &mut LabelledSet, labels: &[String]) -> (u64, Option<String>) {
    let unseen = set.align_to(labels);
    let rows: usize = unseen.iter().map(|(_, n)| n).sum();
    let sentence = (rows > 0).then(|| {
        let names: Vec<&str> = unseen.iter().map(|(label, _)| label.as_str()).take(5).collect();
        format!(
            "{}: {rows} row(s) have a label that the training set has not ({}); they count as wrong",
            set.name,
            names.join(", ")
        )
    });
    (rows as u64, sentence)
}
