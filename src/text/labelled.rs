//! Texts with one label each: CSV, TSV, JSONL and `label text` files.
//!
//! Label files come in every shape: with and without a header, the label first or last, quoted line
//! breaks, old encodings, sorted by class, the same text in train and test. [`LabelledSet::read`]
//! finds out what it can, says what it chose ([`LabelledSet::columns`]), and refuses the rest with
//! the line. The traps that spoil a result without an error have a question each:
//! [`LabelledSet::is_sorted_by_class`], [`overlap`], [`LabelledSet::align_to`].

mod columns;
mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::str::FromStr;

use super::rng::shuffled;
use super::{Encoding, read_text};
use crate::error::{Error, Result};

/// How a label file is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// From the file's name, or else from its first lines.
    #[default]
    Auto,
    /// Comma-separated, quoted as in RFC 4180 (a quoted field may hold line breaks).
    Csv,
    /// Tab-separated, never quoted.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// The label, one space, the text.
    LabelText,
    /// Words and tags in columns: not for this reader, see [`conll`](super::conll).
    Conll,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Format> {
        match name.to_ascii_lowercase().replace('-', "_").as_str() {
            "auto" => Ok(Format::Auto),
            "csv" => Ok(Format::Csv),
            "tsv" => Ok(Format::Tsv),
            "jsonl" | "json" => Ok(Format::Jsonl),
            "label_text" => Ok(Format::LabelText),
            "conll" => Ok(Format::Conll),
            _ => Err(Error::Usage(format!(
                "unknown format '{name}'; use auto, csv, tsv, jsonl, label_text or conll"
            ))),
        }
    }
}

/// What to read from a label file.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// The layout.
    pub format: Format,
    /// The column of the text: a name in the header, or a number from 1.
    pub text_column: Option<String>,
    /// The column of a second text, for tasks on pairs.
    pub text_pair_column: Option<String>,
    /// The column of the label.
    pub label_column: Option<String>,
    /// How the bytes are characters.
    pub encoding: Encoding,
    /// Whether the first line names the columns; `None` finds out.
    pub header: Option<bool>,
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The label: an index into [`LabelledSet::labels`].
    pub label: usize,
    /// The line of the file on which the example begins, from 1.
    pub line: u64,
}

/// An example without a label, for prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlabelledRow {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The line of the file on which the example begins, from 1.
    pub line: u64,
}

/// Labelled examples and the names of their classes.
#[derive(Clone, Debug, Default)]
pub struct LabelledSet {
    /// What messages call it: the path of the file.
    pub name: String,
    /// The examples in the order of the file.
    pub rows: Vec<Row>,
    /// The classes: numbers by value, names by the alphabet. The index is the class id.
    pub labels: Vec<String>,
    /// Which columns were taken for what, for the log.
    pub columns: String,
    /// Rows without any text, which were left out.
    pub skipped_empty: usize,
}

/// A row before labels are numbered.
pub(super) struct Raw {
    text: String,
    text_pair: Option<String>,
    label: String,
    line: u64,
}

impl LabelledSet {
    /// Reads a label file.
    ///
    /// # Errors
    /// When the file cannot be read, no column can be taken for text or label, a row lacks a column
    /// or its label (file and line are named), or nothing is left.
    pub fn read(path: impl AsRef<Path>, options: &ReadOptions) -> Result<LabelledSet> {
        let path = path.as_ref();
        Self::parse(&path.display().to_string(), &read_text(path, options.encoding)?, options)
    }

    /// [`LabelledSet::read`] of a text in memory; `name` is what messages call it, and its ending tells
    /// the layout.
    ///
    /// # Errors
    /// As [`LabelledSet::read`].
    pub fn parse(name: &str, text: &str, options: &ReadOptions) -> Result<LabelledSet> {
        let (raw, columns) = table::read(name, text, options, true)?;
        let total = raw.len();
        let raw: Vec<Raw> = raw.into_iter().filter(|row| !row.text.trim().is_empty()).collect();
        let skipped_empty = total - raw.len();
        if raw.is_empty() {
            return Err(Error::Data(format!("{name}: there is no example with a text in it")));
        }
        Ok(LabelledSet { columns, skipped_empty, ..Self::number(name.into(), raw) })
    }

    /// A set made of (text, label) pairs in memory.
    pub fn from_pairs<T, L>(name: &str, pairs: impl IntoIterator<Item = (T, L)>) -> LabelledSet
    where
        T: Into<String>,
        L: Into<String>,
    {
        let raw = pairs.into_iter().zip(1..).map(|((text, label), line)| Raw {
            text: text.into(),
            text_pair: None,
            label: label.into(),
            line,
        });
        Self::number(name.into(), raw.collect())
    }

    fn number(name: String, raw: Vec<Raw>) -> LabelledSet {
        let mut labels: Vec<String> =
            raw.iter().map(|row| row.label.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        if labels.iter().all(|label| label.parse::<i64>().is_ok()) {
            labels.sort_by_key(|label| label.parse::<i64>().unwrap_or(0));
        }
        let ids: HashMap<&str, usize> =
            labels.iter().enumerate().map(|(id, label)| (label.as_str(), id)).collect();
        let rows = raw
            .into_iter()
            .map(|row| Row {
                label: ids[row.label.as_str()],
                text: row.text,
                text_pair: row.text_pair,
                line: row.line,
            })
            .collect();
        LabelledSet { name, rows, labels, ..LabelledSet::default() }
    }

    /// How many examples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many examples each class has, in the order of `labels`.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.labels.len()];
        self.rows.iter().for_each(|row| counts[row.label] += 1);
        counts
    }

    /// Checks that a classifier can be trained: two classes or more, each with an example.
    ///
    /// # Errors
    /// When not; the class is named.
    pub fn check_trainable(&self) -> Result<()> {
        let counts = self.counts();
        if let Some(class) = counts.iter().position(|&count| count == 0) {
            return Err(Error::Data(format!(
                "{}: the class '{}' has no example; add one, or drop the class",
                self.name, self.labels[class]
            )));
        }
        if self.labels.len() < 2 {
            return Err(Error::Data(format!(
                "{}: every row (line {} on) has the label '{}'; a classifier needs two classes or \
                 more. Is --label-column right?",
                self.name,
                self.rows.first().map_or(1, |row| row.line),
                self.labels.first().map_or("", String::as_str)
            )));
        }
        Ok(())
    }

    /// Whether the file is sorted by class, so that its tail must not be split off unshuffled.
    pub fn is_sorted_by_class(&self) -> bool {
        let changes = self.rows.windows(2).filter(|two| two[0].label != two[1].label).count();
        self.labels.len() > 1
            && self.rows.len() >= 4 * self.labels.len()
            && changes < 2 * self.labels.len()
    }

    /// Renumbers the labels by another set's list (the training set's), and takes out the rows whose
    /// label is not in it. Returns the unseen labels with their numbers of rows; the caller counts
    /// those rows as wrong, so that the score is over the whole file.
    pub fn align_to(&mut self, labels: &[String]) -> Vec<(String, usize)> {
        let ids: HashMap<&str, usize> =
            labels.iter().enumerate().map(|(id, label)| (label.as_str(), id)).collect();
        let map: Vec<Option<usize>> =
            self.labels.iter().map(|label| ids.get(label.as_str()).copied()).collect();
        let mut unseen = vec![0; self.labels.len()];
        self.rows.retain_mut(|row| match map[row.label] {
            Some(id) => {
                row.label = id;
                true
            }
            None => {
                unseen[row.label] += 1;
                false
            }
        });
        let own = std::mem::replace(&mut self.labels, labels.to_vec());
        own.into_iter().zip(unseen).filter(|(_, count)| *count > 0).collect()
    }

    /// The rows with these indices, in this order.
    fn choose(&self, indices: impl IntoIterator<Item = usize>) -> LabelledSet {
        let rows = indices.into_iter().map(|index| self.rows[index].clone()).collect();
        LabelledSet {
            name: self.name.clone(),
            rows,
            labels: self.labels.clone(),
            columns: self.columns.clone(),
            skipped_empty: self.skipped_empty,
        }
    }

    /// The rows in a random order: a pure function of the set and the seed.
    pub fn shuffled(&self, seed: u64) -> LabelledSet {
        self.choose(shuffled(self.len(), seed))
    }

    /// At most `n` rows, as many of each class as there are, in a random order.
    ///
    /// # Errors
    /// When `n` is smaller than the number of classes.
    pub fn limit(&self, n: usize, seed: u64) -> Result<LabelledSet> {
        if n < self.labels.len() {
            return Err(Error::Usage(format!(
                "--limit {n}: {} has {} classes, and each needs an example",
                self.name,
                self.labels.len()
            )));
        }
        let order = shuffled(self.len(), seed);
        let mut queues = vec![Vec::new(); self.labels.len()];
        for &index in order.iter().rev() {
            queues[self.rows[index].label].push(index);
        }
        let mut chosen = HashSet::new();
        while chosen.len() < n.min(self.len()) {
            for queue in &mut queues {
                if chosen.len() < n {
                    chosen.extend(queue.pop());
                }
            }
        }
        Ok(self.choose(order.into_iter().filter(|index| chosen.contains(index))))
    }

    /// Splits off every `k`-th row (the k-th, the 2k-th, …): the rest and those rows.
    ///
    /// # Errors
    /// When `k` is below 2 or a part would be empty.
    pub fn split_every(&self, k: usize) -> Result<(LabelledSet, LabelledSet)> {
        if k < 2 || self.len() < k {
            return Err(Error::Usage(format!(
                "every {k}-th row of the {} in {} cannot be split off",
                self.len(),
                self.name
            )));
        }
        let (taken, rest): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|index| index % k == k - 1);
        Ok((self.choose(rest), self.choose(taken)))
    }

    /// Splits off a random `fraction` of every class: the rest and those rows, each in random order.
    ///
    /// # Errors
    /// When the fraction is not between 0 and 1 or a part would be empty.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(LabelledSet, LabelledSet)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::Usage(format!(
                "--validation-fraction {fraction}: expected a number between 0 and 1, like 0.1"
            )));
        }
        let counts = self.counts();
        let wanted: Vec<usize> =
            counts.iter().map(|&count| (count as f64 * fraction).round() as usize).collect();
        let mut seen = vec![0; self.labels.len()];
        let (taken, rest): (Vec<usize>, Vec<usize>) =
            shuffled(self.len(), seed).into_iter().partition(|&index| {
                let label = self.rows[index].label;
                seen[label] += 1;
                seen[label] <= wanted[label]
            });
        if taken.is_empty() || rest.is_empty() {
            return Err(Error::Data(format!(
                "{}: {} rows are too few to split off {fraction} of each class",
                self.name,
                self.len()
            )));
        }
        Ok((self.choose(rest), self.choose(taken)))
    }
}

/// Reads texts to predict on: a label file whose label column may be missing, or lines of text.
///
/// # Errors
/// As [`LabelledSet::read`].
pub fn read_unlabelled(
    path: impl AsRef<Path>,
    options: &ReadOptions,
) -> Result<Vec<UnlabelledRow>> {
    let path = path.as_ref();
    let text = read_text(path, options.encoding)?;
    let (raw, _) = table::read(&path.display().to_string(), &text, options, false)?;
    Ok(raw
        .into_iter()
        .map(|Raw { text, text_pair, line, .. }| UnlabelledRow { text, text_pair, line })
        .collect())
}

/// How many rows of `b` have a text that also occurs in `a`: test examples seen in training.
pub fn overlap(a: &LabelledSet, b: &LabelledSet) -> usize {
    let texts: HashSet<(&str, Option<&str>)> =
        a.rows.iter().map(|row| (row.text.trim(), row.text_pair.as_deref())).collect();
    b.rows.iter().filter(|row| texts.contains(&(row.text.trim(), row.text_pair.as_deref()))).count()
}

#[cfg(test)]
mod tests;
