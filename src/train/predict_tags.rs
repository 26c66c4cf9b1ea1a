//! Tags for texts without them: named entities, and the arguments of a given predicate.

use std::path::Path;

use serde::Serialize;

use super::tagging::{TagReader, open};
use super::tasks::tag::{TagKind, tag};
use crate::error::{Error, Result};
use crate::models::tagger::Tagger;
use crate::text::conll::spans;
use crate::text::words::split_words;

/// A span of words that a tagger found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundSpan {
    /// Its type: `PER`, `ARG0`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of the span.
    pub text: String,
    /// Where it begins, in characters of the text.
    pub start: usize,
    /// One past its last character.
    pub end: usize,
    /// The same in bytes.
    #[serde(skip)]
    pub bytes: std::ops::Range<usize>,
}

/// What a tagger says about one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaggedText {
    /// The text.
    pub text: String,
    /// The predicate, where roles are the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// What was found, in order.
    pub spans: Vec<FoundSpan>,
    /// The words of the text.
    pub words: Vec<String>,
    /// A BIO tag a word.
    pub tags: Vec<String>,
    /// Whether the text was cut; the words behind have the tag O.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A model folder opened for tagging.
pub struct TagPredictor {
    tagger: Box<dyn Tagger>,
    reader: TagReader,
    kind: TagKind,
}

/// Texts side by side.
const BATCH: usize = 32;

impl TagPredictor {
    /// Moves the model to `device`.
    ///
    /// # Errors
    /// When the device is not there or is full.
    pub fn to_device(&self, device: crate::Device) -> Result<()> {
        self.tagger.to_device(device)
    }

    /// Opens a model folder, or the best model of a run folder. Texts are cut to `max_length` tokens.
    ///
    /// # Errors
    /// When there is no such model or it tags no words.
    pub fn open(path: &Path, max_length: Option<usize>) -> Result<TagPredictor> {
        let (tagger, reader, kind) = open(path, max_length)?;
        Ok(TagPredictor { tagger, reader, kind })
    }

    /// What it tags.
    pub fn kind(&self) -> TagKind {
        self.kind
    }

    /// Tags texts, in order. `predicate` is a word of each text, or its number from 1; semantic roles need
    /// one.
    ///
    /// # Errors
    /// [`Error::Usage`] when a predicate is missing, not wanted or not in a text.
    pub fn predict(&self, texts: &[String], predicate: Option<&str>) -> Result<Vec<TaggedText>> {
        let mut places = Vec::new();
        let mut sentences = Vec::new();
        let mut rows = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let ranges = split_words(text);
            let words: Vec<String> = ranges.iter().map(|r| text[r.clone()].to_owned()).collect();
            let at = self.predicate(&words, predicate)?;
            if !words.is_empty() {
                places.push(i);
                sentences.push(self.reader.encode(&words, at)?);
            }
            rows.push((ranges, words, at));
        }
        let mut paths = vec![Vec::new(); texts.len()];
        for (i, path) in places.iter().zip(tag(&*self.tagger, &sentences, BATCH)?) {
            paths[*i] = path;
        }
        let labels = self.tagger.labels();
        let tagged =
            texts.iter().zip(rows).zip(paths).map(|((text, (ranges, words, at)), path)| {
                let truncated = path.len() < words.len();
                let found = path.iter().map(|&tag| labels[tag as usize].as_str());
                let tags: Vec<String> = found
                    .chain(std::iter::repeat("O"))
                    .take(words.len())
                    .map(String::from)
                    .collect();
                let span = |(kind, first, end): (String, usize, usize)| {
                    let bytes = ranges[first].start..ranges[end - 1].end;
                    let start = text[..bytes.start].chars().count();
                    let inside = text[bytes.clone()].to_owned();
                    let end = start + inside.chars().count();
                    FoundSpan { kind, text: inside, start, end, bytes }
                };
                let spans = spans(&tags).into_iter().map(span).collect();
                let predicate = at.map(|at| words[at].clone());
                TaggedText { text: text.clone(), predicate, spans, words, tags, truncated }
            });
        Ok(tagged.collect())
    }

    /// The place of the predicate among the words.
    fn predicate(&self, words: &[String], given: Option<&str>) -> Result<Option<usize>> {
        let given = match (self.kind, given) {
            (TagKind::Ner, None) => return Ok(None),
            (TagKind::Ner, Some(_)) => {
                return Err(Error::Usage(
                    "--predicate: the model finds entities and asks for no predicate".into(),
                ));
            }
            (TagKind::Srl, given) => given,
        };
        let numbered = || {
            let all = words.iter().zip(1..).map(|(word, n)| format!("{n} {word}"));
            all.collect::<Vec<_>>().join(", ")
        };
        let Some(given) = given else {
            return Err(Error::Usage(format!(
                "whose roles? choose the predicate by --predicate WORD or its number: {}",
                numbered()
            )));
        };
        let number = given.parse().ok().and_then(|n: usize| n.checked_sub(1));
        let by_number = number.filter(|&at| at < words.len());
        let same = |word: &String| word.to_lowercase() == given.to_lowercase();
        by_number.or_else(|| words.iter().position(same)).map(Some).ok_or_else(|| {
            Error::Usage(format!(
                "--predicate {given}: not in the text; its words are {}",
                numbered()
            ))
        })
    }
}
