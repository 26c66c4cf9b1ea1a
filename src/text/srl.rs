//! Semantic roles: for a given predicate, who did what to whom.
//!
//! An example is a sentence, one predicate in it, and the predicate's arguments as BIO tags. A
//! sentence with three verbs is three examples. Two layouts are read:
//!
//! ```text
//! # doc sentence roleset          # doc sentence
//! where  0  B-ARGM-LOC            where  WRB  -       (ARGM-LOC*)  *
//! I      0  B-ARG0                I      PRP  -       (ARG0*)      (ARG0*)
//! get    1  B-V                   get    VB   get.01  (V*)         *
//! ```
//!
//! on the left one block a predicate (word, predicate flag, tag), on the right CoNLL-2005's brackets
//! (word, part of speech, roleset or `-`, one column a predicate). Columns are parted by tabs. A word
//! may be `#`: a comment begins with `#` and has no tab.

use std::path::Path;

use super::conll::bio_labels;
use super::{Encoding, read_text};
use crate::error::{Error, Result};

/// A sentence with one predicate and the roles of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SrlExample {
    /// The words.
    pub words: Vec<String>,
    /// The index of the predicate.
    pub predicate: usize,
    /// A BIO tag a word: `B-ARG0`, `I-ARG0`, `B-V`, `O`.
    pub tags: Vec<String>,
    /// The sense of the predicate, like `get.01`; empty when the file has none.
    pub roleset: String,
    /// The line of the file on which the example begins, from 1.
    pub line: u64,
}

/// A file of predicates.
#[derive(Clone, Debug)]
pub struct SrlSet {
    /// What messages call it: the path of the file.
    pub name: String,
    /// The examples in the order of the file.
    pub examples: Vec<SrlExample>,
}

impl SrlSet {
    /// Reads a file in either layout.
    ///
    /// # Errors
    /// When the file cannot be read, a line lacks a column, or a block has no or two predicates (file
    /// and line are named).
    pub fn read(path: impl AsRef<Path>, encoding: Encoding) -> Result<SrlSet> {
        let path = path.as_ref();
        Self::parse(&path.display().to_string(), &read_text(path, encoding)?)
    }

    /// [`SrlSet::read`] of a text in memory.
    ///
    /// # Errors
    /// As [`SrlSet::read`].
    pub fn parse(name: &str, text: &str) -> Result<SrlSet> {
        let mut examples = Vec::new();
        let mut block: Vec<(u64, Vec<&str>)> = Vec::new();
        let mut comment = "";
        for (row, line) in text.lines().chain([""]).zip(1..) {
            let row = row.trim_end_matches('\r');
            let empty = row.trim().is_empty();
            if !empty && row.contains('\t') {
                block.push((line, row.split('\t').collect()));
                continue;
            }
            if !block.is_empty() {
                let read = if is_block(&block) { one_predicate } else { brackets };
                read(&block, comment, &mut examples)
                    .map_err(|(line, why)| Error::Data(format!("{name}: line {line}: {why}")))?;
                block.clear();
                comment = "";
            }
            if row.starts_with('#') {
                comment = row;
            } else if !empty {
                return Err(Error::Data(format!(
                    "{name}: line {line}: expected columns parted by tabs, found {row:?}"
                )));
            }
        }
        if examples.is_empty() {
            return Err(Error::Data(format!("{name}: there is no predicate in it")));
        }
        Ok(SrlSet { name: name.into(), examples })
    }

    /// How many predicates.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The tags a tagger must tell apart: `O`, then `B-` and `I-` of each role.
    pub fn labels(&self) -> Vec<String> {
        bio_labels(self.examples.iter().flat_map(|e| e.tags.iter().map(String::as_str)))
    }

    /// Roles of this set that `train` does not have, with their numbers of spans: a model trained
    /// there cannot find them.
    pub fn unseen_roles(&self, train: &SrlSet) -> Vec<(String, usize)> {
        let known = train.labels();
        let mut unseen = std::collections::BTreeMap::new();
        for tag in self.examples.iter().flat_map(|e| &e.tags) {
            if let Some(role) = tag.strip_prefix("B-").filter(|_| !known.contains(tag)) {
                *unseen.entry(role.to_string()).or_insert(0) += 1;
            }
        }
        unseen.into_iter().collect()
    }
}

type Block<'a> = [(u64, Vec<&'a str>)];
/// A line and what is wrong with it.
type Wrong = (u64, String);

/// Whether all rows are word, flag, tag.
fn is_block(block: &Block) -> bool {
    block.iter().all(|(_, cells)| cells.len() == 3 && matches!(cells[1], "0" | "1"))
}

fn one_predicate(
    block: &Block,
    comment: &str,
    examples: &mut Vec<SrlExample>,
) -> std::result::Result<(), Wrong> {
    let first = block[0].0;
    let roleset = comment.split_ascii_whitespace().nth(3).unwrap_or("").to_string();
    let mut example = SrlExample { roleset, line: first, ..SrlExample::default() };
    let mut predicate = None;
    for (index, (line, cells)) in block.iter().enumerate() {
        let tag = cells[2];
        let role = tag.strip_prefix("B-").or(tag.strip_prefix("I-"));
        if tag != "O" && role.is_none_or(str::is_empty) {
            return Err((*line, format!("{tag:?} is no BIO tag; expected like B-ARG0, I-ARG0, O")));
        }
        if cells[1] == "1" && predicate.replace(index).is_some() {
            return Err((*line, "a second predicate in one block".into()));
        }
        example.words.push(cells[0].to_string());
        example.tags.push(tag.to_string());
    }
    example.predicate =
        predicate.ok_or_else(|| (first, "no word of the block is marked as predicate".into()))?;
    examples.push(example);
    Ok(())
}

/// CoNLL-2005: the k-th word with a roleset owns the k-th bracket column.
fn brackets(
    block: &Block,
    _comment: &str,
    examples: &mut Vec<SrlExample>,
) -> std::result::Result<(), Wrong> {
    let width = block[0].1.len();
    for (line, cells) in block {
        if cells.len() != width || width < 3 {
            return Err((
                *line,
                format!(
                    "{} columns; expected word, part of speech, roleset and one column a \
                     predicate ({width} in the first row)",
                    cells.len()
                ),
            ));
        }
    }
    let predicates: Vec<usize> = (0..block.len()).filter(|&row| block[row].1[2] != "-").collect();
    if predicates.len() != width - 3 {
        return Err((
            block[0].0,
            format!("{} predicates but {} columns of brackets", predicates.len(), width - 3),
        ));
    }
    for (number, &predicate) in predicates.iter().enumerate() {
        let mut open: Option<&str> = None;
        let mut tags = Vec::with_capacity(block.len());
        for (line, cells) in block {
            let cell = cells[3 + number];
            let begins = cell.strip_prefix('(').map(|rest| rest.trim_end_matches([')', '*']));
            tags.push(match (begins, open) {
                (Some(role), None) if !role.is_empty() && !role.contains(['(', ')', '*']) => {
                    open = Some(role);
                    format!("B-{role}")
                }
                (None, Some(role)) => format!("I-{role}"),
                (None, None) if cell == "*" => "O".to_string(),
                _ => return Err((*line, format!("{cell:?}: brackets that do not match"))),
            });
            if cell.ends_with(')') {
                open = None;
            }
        }
        if open.is_some() {
            return Err((block[0].0, "a bracket that is never closed".into()));
        }
        examples.push(SrlExample {
            words: block.iter().map(|(_, cells)| cells[0].to_string()).collect(),
            predicate,
            tags,
            roleset: block[predicate].1[2].to_string(),
            line: block[0].0,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_give_the_same() {
        let bio = "# d 0 get.01\n#\t0\tB-ARG0\ncan\t0\tI-ARG0\nget\t1\tB-V\n,\t0\tO\n\n\
                   # d 0 be.01\n#\t0\tO\ncan\t0\tO\nget\t0\tB-ARG1\n,\t1\tB-V\n";
        let five = "# d 0\n#\tX\t-\t(ARG0*\t*\ncan\tX\t-\t*)\t*\nget\tX\tget.01\t(V*)\t(ARG1*)\n\
                    ,\tX\tbe.01\t*\t(V*)\n";
        let (a, b) = (SrlSet::parse("a", bio).unwrap(), SrlSet::parse("b", five).unwrap());
        assert_eq!(a.len(), 2);
        for (a, b) in a.examples.iter().zip(&b.examples) {
            assert_eq!(
                (&a.words, a.predicate, &a.tags, &a.roleset),
                (&b.words, b.predicate, &b.tags, &b.roleset)
            );
        }
        assert_eq!(a.labels(), ["O", "B-ARG0", "I-ARG0", "B-ARG1", "I-ARG1", "B-V", "I-V"]);
    }

    #[test]
    fn wrong_blocks_are_named() {
        for (text, expected) in [
            ("a\t0\tO\nb\t0\tO\n", "line 1: no word"),
            ("a\t1\tB-V\nb\t1\tO\n", "line 2: a second"),
            ("a\t1\tV\n", "line 1: \"V\""),
            ("a\tX\tb.01\t(V*\n", "never closed"),
            ("a\tX\tb.01\n", "1 predicates but 0 columns"),
            ("a b c\n", "parted by tabs"),
        ] {
            let message = SrlSet::parse("f", text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
