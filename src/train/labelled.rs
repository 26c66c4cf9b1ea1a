//! From label files to texts as ids, and from model folders to classifiers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::pretrained::{Extras, check_vocabulary, model_dir, open_tokenizer};
use super::tasks::classify::Examples;
use crate::error::{Error, Result};
use crate::models::folder::{open_classifier, read_config};
use crate::models::{Classifier, ModelConfig, Sentence};
use crate::text::labelled::{LabelledSet, ReadOptions};
use crate::text::words::split_words;
use crate::text::{Tokenizer, WordVocabulary};

/// Tokens, or words, of a text that a classifier reads unless told otherwise.
pub const LONGEST_TEXT: usize = 256;

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

/// The name of a word reader's vocabulary in a model folder.
pub const VOCABULARY: &str = "vocabulary.json";

/// How a classifier reads texts.
#[derive(Clone)]
pub enum TextReader {
    /// As tokens of a language model's tokenizer.
    Tokens {
        /// The tokenizer.
        tokenizer: Arc<Tokenizer>,
        /// Texts are cut to this many tokens.
        max_length: usize,
    },
    /// As words with their characters.
    Words {
        /// The words.
        vocabulary: Arc<WordVocabulary>,
        /// Texts are cut to this many words.
        max_length: usize,
    },
}

/// Words as an encoder of words takes them.
pub(super) fn words_as_read(
    vocabulary: &WordVocabulary,
    words: &[String],
    predicate: Option<usize>,
) -> Sentence {
    let ids = vocabulary.encode(words, predicate);
    Sentence {
        words: words.len(),
        ids: ids.columns,
        characters: ids.characters,
        rare: ids.rare,
        ..Sentence::default()
    }
}

/// The words of one or two texts.
pub fn words_of(text: &str, pair: Option<&str>) -> Vec<String> {
    let words = |text: &str| {
        split_words(text).into_iter().map(|range| text[range].to_owned()).collect::<Vec<_>>()
    };
    let mut all = words(text);
    if let Some(pair) = pair {
        all.push("[SEP]".into());
        all.extend(words(pair));
    }
    if all.is_empty() {
        all.push(String::new());
    }
    all
}

impl TextReader {
    /// The ids of one or two texts, never none, and whether they were cut.
    ///
    /// # Errors
    /// When the tokenizer cannot express the text.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<(Sentence, bool)> {
        match self {
            TextReader::Tokens { tokenizer, max_length } => {
                let encoded = tokenizer.encode_pair(text, pair, *max_length)?;
                let mut sentence = Sentence {
                    ids: encoded.ids,
                    token_type_ids: encoded.token_type_ids,
                    ..Sentence::default()
                };
                if sentence.ids.is_empty() {
                    sentence.ids.push(tokenizer.unk_id().or(tokenizer.eos_id()).unwrap_or(0));
                    sentence.token_type_ids.push(0);
                }
                Ok((sentence, encoded.truncated > 0))
            }
            TextReader::Words { vocabulary, max_length } => {
                let words = words_of(text, pair);
                let read = &words[..words.len().min(*max_length)];
                Ok((words_as_read(vocabulary, read, None), read.len() < words.len()))
            }
        }
    }

    /// The texts of a label file's rows. `unseen` rows had a label that the model does not know.
    ///
    /// # Errors
    /// As [`TextReader::encode`], with the line.
    pub fn examples(&self, set: &LabelledSet, unseen: u64) -> Result<Examples> {
        let encoded: Vec<Result<(Sentence, bool)>> = set
            .rows
            .par_iter()
            .map(|row| {
                self.encode(&row.text, row.text_pair.as_deref()).map_err(|e| match e {
                    Error::Data(text) => {
                        Error::Data(format!("{}, line {}: {text}", set.name, row.line))
                    }
                    other => other,
                })
            })
            .collect();
        let mut all = Examples { unseen, ..Examples::default() };
        for (row, encoded) in set.rows.iter().zip(encoded) {
            let (sentence, truncated) = encoded?;
            all.texts.push(sentence);
            all.labels.push(row.label as u32);
            all.truncated += u64::from(truncated);
        }
        Ok(all)
    }

    /// Opens a classifier with its reader from a model or run folder. Texts are cut to `max_length`, by default
    /// to what the model reads, [`LONGEST_TEXT`] at most.
    ///
    /// # Errors
    /// When something is missing, damaged or does not fit.
    pub fn open(
        path: &Path,
        max_length: Option<usize>,
    ) -> Result<(Box<dyn Classifier>, TextReader)> {
        let dir = model_dir(path)?;
        if dir.join(VOCABULARY).is_file() {
            let model = open_classifier(&dir)?;
            let vocabulary = Arc::new(WordVocabulary::open(&dir.join(VOCABULARY))?);
            let max_length = max_length.unwrap_or(LONGEST_TEXT);
            return Ok((model, TextReader::Words { vocabulary, max_length }));
        }
        let tokenizer = Arc::new(open_tokenizer(&dir)?);
        let model = open_classifier(&dir)?;
        let (config, _) = read_config(&dir)?;
        check_vocabulary(&tokenizer, &config)?;
        let longest = match &config {
            ModelConfig::Rnn(_) => LONGEST_TEXT,
            other => other.context_length().min(LONGEST_TEXT),
        };
        let max_length = max_length.unwrap_or(longest);
        Ok((model, TextReader::Tokens { tokenizer, max_length }))
    }

    /// What a model folder keeps of it.
    pub fn extras(&self) -> Extras {
        match self {
            TextReader::Tokens { tokenizer, max_length } => {
                Extras::tokenizer(tokenizer, *max_length)
            }
            TextReader::Words { vocabulary, .. } => {
                Extras::new().with(VOCABULARY, &vocabulary.to_json())
            }
        }
    }
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
