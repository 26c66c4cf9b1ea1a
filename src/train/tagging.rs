//! From files of tagged words to sentences of ids, and from model folders to taggers.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::labelled::{VOCABULARY, words_as_read};
use super::pretrained::{Extras, check_vocabulary, model_dir, open_tokenizer};
use super::tasks::tag::{TagExamples, TagKind};
use crate::error::{Error, Result};
use crate::models::Sentence;
use crate::models::folder::{open_tagger, read_config, read_json};
use crate::models::on_disk::names_architecture;
use crate::models::tagger::Tagger;
use crate::models::{ModelConfig, word_tagger};
use crate::text::conll::{TaggedSet, bio_labels};
use crate::text::rng::shuffled;
use crate::text::srl::SrlSet;
use crate::text::{Encoding, Tokenizer, WordVocabulary};

/// Words of a sentence that a word tagger reads unless told otherwise. A list of two thousand names is a sentence in
/// some corpora; what is longer is hardly one.
pub const LONGEST_SENTENCE: usize = 4096;

/// A sentence of a label file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagRow {
    /// Its words.
    pub words: Vec<String>,
    /// A BIO tag a word.
    pub tags: Vec<String>,
    /// The place of the predicate, for semantic roles.
    pub predicate: Option<usize>,
    /// The line of the file on which it begins.
    pub line: u64,
}

/// Tagged sentences of one or several files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagSet {
    /// What messages call it.
    pub name: String,
    /// The sentences.
    pub rows: Vec<TagRow>,
}

impl TagSet {
    /// Reads files of columns: words and entity tags, or words, predicates and roles.
    ///
    /// # Errors
    /// When a file cannot be read or is not such a file (file and line are named).
    pub fn read(kind: TagKind, files: &[PathBuf], encoding: Encoding) -> Result<TagSet> {
        let mut set = TagSet::default();
        for file in files {
            if set.name.is_empty() {
                set.name = file.display().to_string();
            }
            match kind {
                TagKind::Ner => {
                    let sentences = TaggedSet::read(file, encoding)?.sentences.into_iter();
                    set.rows.extend(sentences.map(|s| TagRow {
                        words: s.words,
                        tags: s.tags,
                        predicate: None,
                        line: s.line,
                    }));
                }
                TagKind::Srl => {
                    let examples = SrlSet::read(file, encoding)?.examples.into_iter();
                    set.rows.extend(examples.map(|e| TagRow {
                        words: e.words,
                        tags: e.tags,
                        predicate: Some(e.predicate),
                        line: e.line,
                    }));
                }
            }
        }
        if files.len() > 1 {
            set.name = format!("{} and {} more", set.name, files.len() - 1);
        }
        Ok(set)
    }

    /// The tags a tagger must tell apart: `O`, then `B-` and `I-` of each type.
    pub fn labels(&self) -> Vec<String> {
        bio_labels(self.rows.iter().flat_map(|row| row.tags.iter().map(String::as_str)))
    }

    /// Sentences that also occur in `train`, word for word.
    pub fn overlap(&self, train: &TagSet) -> usize {
        let known: HashSet<(&[String], Option<usize>)> =
            train.rows.iter().map(|row| (row.words.as_slice(), row.predicate)).collect();
        let twice = |row: &&TagRow| known.contains(&(row.words.as_slice(), row.predicate));
        self.rows.iter().filter(twice).count()
    }

    /// Parts off a share of the sentences at random; the predicates of one sentence stay together.
    ///
    /// # Errors
    /// When one of the parts would be empty.
    pub fn split(self, fraction: f64, seed: u64) -> Result<(TagSet, TagSet)> {
        let mut groups: Vec<Vec<TagRow>> = Vec::new();
        for row in self.rows {
            match groups.last_mut() {
                Some(group) if row.predicate.is_some() && group[0].words == row.words => {
                    group.push(row);
                }
                _ => groups.push(vec![row]),
            }
        }
        let kept = (groups.len() as f64 * fraction).round() as usize;
        if kept == 0 || kept >= groups.len() {
            return Err(Error::Data(format!(
                "{}: {} sentences cannot give a share of {fraction} for validation; give \
                 --validation FILE or --validation-fraction 0",
                self.name,
                groups.len()
            )));
        }
        let mut chosen = vec![false; groups.len()];
        shuffled(groups.len(), seed).into_iter().take(kept).for_each(|i| chosen[i] = true);
        let (mut rest, mut parted) = (Vec::new(), Vec::new());
        for (group, chosen) in groups.into_iter().zip(chosen) {
            if chosen { parted.extend(group) } else { rest.extend(group) }
        }
        let set = |rows| TagSet { name: self.name.clone(), rows };
        Ok((set(rest), set(parted)))
    }

    /// `n` sentences at random, in the order of the file.
    pub fn limit(mut self, n: usize, seed: u64) -> TagSet {
        let mut chosen: Vec<usize> = shuffled(self.rows.len(), seed).into_iter().take(n).collect();
        chosen.sort_unstable();
        self.rows = chosen.into_iter().map(|i| std::mem::take(&mut self.rows[i])).collect();
        self
    }

    /// The ids of all sentences for a tagger with these labels. Types that it does not know are counted.
    ///
    /// # Errors
    /// When the tokenizer cannot express a sentence (file and line are named).
    pub fn examples(&self, reader: &TagReader, labels: &[String]) -> Result<TagExamples> {
        let mut all = TagExamples::default();
        let mut unseen: BTreeMap<String, u64> = BTreeMap::new();
        for row in &self.rows {
            let sentence = reader.encode(&row.words, row.predicate).map_err(|e| match e {
                Error::Data(text) => {
                    Error::Data(format!("{}, line {}: {text}", self.name, row.line))
                }
                other => other,
            })?;
            let lost = (row.words.len() - sentence.words) as u64;
            all.truncated += u64::from(lost > 0);
            all.lost += lost;
            for kind in row.tags.iter().filter_map(|tag| tag.strip_prefix("B-")) {
                if !labels.iter().any(|label| label.strip_prefix("B-") == Some(kind)) {
                    *unseen.entry(kind.to_owned()).or_insert(0) += 1;
                }
            }
            let id =
                |tag: &String| labels.iter().position(|label| label == tag).unwrap_or(0) as u32;
            all.tags.push(row.tags.iter().take(sentence.words).map(id).collect());
            all.gold.push(row.tags.clone());
            all.sentences.push(sentence);
        }
        all.unseen = unseen.into_iter().collect();
        Ok(all)
    }
}

/// How a tagger reads words.
pub enum TagReader {
    /// As pieces, of which the first speaks for the word.
    Pieces {
        /// The tokenizer.
        tokenizer: Arc<Tokenizer>,
        /// Pieces and special tokens that the body reads.
        max_length: usize,
    },
    /// As words with their characters.
    Words {
        /// The words and characters that are known.
        vocabulary: WordVocabulary,
        /// Words that are read.
        max_length: usize,
    },
}

impl TagReader {
    /// The ids of a sentence. Words that do not fit are left out.
    ///
    /// # Errors
    /// When the tokenizer cannot express a word, or a predicate is wanted and missing.
    pub fn encode(&self, words: &[String], predicate: Option<usize>) -> Result<Sentence> {
        match self {
            TagReader::Words { vocabulary, max_length } => {
                if vocabulary.wants_predicate() && predicate.is_none() {
                    return Err(Error::Data("the tagger of roles needs a predicate".into()));
                }
                let words = &words[..words.len().min(*max_length)];
                Ok(words_as_read(vocabulary, words, predicate))
            }
            TagReader::Pieces { tokenizer, max_length } => {
                let texts: Vec<&str> = words.iter().map(String::as_str).collect();
                let pieces = tokenizer.encode_words(&texts)?;
                let (cls, sep) = (tokenizer.cls_id(), tokenizer.sep_id());
                let room = max_length
                    .saturating_sub(usize::from(cls.is_some()) + usize::from(sep.is_some()))
                    .max(1);
                let mut sentence = Sentence::default();
                sentence.ids.extend(cls);
                sentence.token_type_ids.extend(cls.map(|_| 0));
                for (&id, &word) in pieces.ids.iter().zip(&pieces.words).take(room) {
                    if word as usize == sentence.words {
                        sentence.first.push(sentence.ids.len() as u32);
                        sentence.words += 1;
                    }
                    sentence.ids.push(id);
                    sentence.token_type_ids.push(u32::from(predicate == Some(word as usize)));
                }
                sentence.ids.extend(sep);
                sentence.token_type_ids.extend(sep.map(|_| 0));
                Ok(sentence)
            }
        }
    }

    /// What a model folder keeps of it.
    pub fn extras(&self) -> Extras {
        match self {
            TagReader::Pieces { tokenizer, max_length } => {
                Extras::tokenizer(tokenizer, *max_length)
            }
            TagReader::Words { vocabulary, .. } => {
                Extras::new().with(VOCABULARY, &vocabulary.to_json())
            }
        }
    }
}

/// The task that a folder's `config.json` names, where it is one of tagging.
pub fn tagging_task(dir: &Path) -> Result<Option<TagKind>> {
    let json = read_json(dir)?;
    let name = json.get("finetuning_task").and_then(Value::as_str);
    let tagger = names_architecture(&json, "ForTokenClassification")
        || names_architecture(&json, "WordTagger");
    Ok(match name {
        Some("srl") if tagger => Some(TagKind::Srl),
        _ if tagger => Some(TagKind::Ner),
        _ => None,
    })
}

/// Opens a tagger with its reader from a model or run folder. Sentences are cut to `max_length` pieces, by default to
/// what the body reads, 256 at most; or to that many words, [`LONGEST_SENTENCE`] by default.
///
/// # Errors
/// When something is missing, damaged or does not fit.
pub fn open(
    path: &Path,
    max_length: Option<usize>,
) -> Result<(Box<dyn Tagger>, TagReader, TagKind)> {
    let dir = model_dir(path)?;
    let kind = tagging_task(&dir)?.ok_or_else(|| {
        Error::Data(format!(
            "{}: the model there tags no words; train one with `handloom finetune --task ner`",
            path.display()
        ))
    })?;
    let tagger = open_tagger(&dir)?;
    if tagger.kind() == word_tagger::MODEL_TYPE {
        let vocabulary = WordVocabulary::open(&dir.join(VOCABULARY))?;
        let max_length = max_length.unwrap_or(LONGEST_SENTENCE);
        return Ok((tagger, TagReader::Words { vocabulary, max_length }, kind));
    }
    let tokenizer = Arc::new(open_tokenizer(&dir)?);
    let (config, _) = read_config(&dir)?;
    check_vocabulary(&tokenizer, &config)?;
    let longest = match &config {
        ModelConfig::Rnn(_) => usize::MAX,
        other => other.context_length(),
    };
    let max_length = max_length.unwrap_or(256).min(longest);
    Ok((tagger, TagReader::Pieces { tokenizer, max_length }, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TokenizerKind;

    fn row(words: &str, tags: &str, predicate: Option<usize>) -> TagRow {
        let split = |text: &str| text.split(' ').map(String::from).collect();
        TagRow { words: split(words), tags: split(tags), predicate, line: 1 }
    }

    fn set(rows: Vec<TagRow>) -> TagSet {
        TagSet { name: "f".into(), rows }
    }

    #[test]
    fn words_that_are_cut_off_are_counted_and_types_unknown_too() {
        let texts = ["ab abc b".to_owned()];
        let tokenizer = Tokenizer::train(TokenizerKind::Char, texts, |_| {}).unwrap();
        let reader = TagReader::Pieces { tokenizer: Arc::new(tokenizer), max_length: 5 };
        let labels = ["O", "B-A", "I-A"].map(String::from);
        let set = set(vec![row("ab abc b", "B-A I-A B-C", Some(1)), row("b", "O", Some(0))]);
        let all = set.examples(&reader, &labels).unwrap();
        assert_eq!((all.truncated, all.lost), (1, 1));
        assert_eq!(all.unseen, [("C".to_owned(), 1)]);
        // Two letters, a space that belongs to the second word, two of its letters.
        assert_eq!((all.sentences[0].words, &all.sentences[0].first[..]), (2, &[0, 2][..]));
        assert_eq!(all.sentences[0].token_type_ids, [0, 0, 1, 1, 1]);
        assert_eq!((&all.tags[0][..], all.gold[0].len()), (&[1, 2][..], 3));
    }

    #[test]
    fn the_predicates_of_a_sentence_stay_together() {
        let rows = (0..20).flat_map(|i| {
            let words = format!("word{i} said and went");
            [1, 3].map(|predicate| row(&words, "B-ARG0 B-V O O", Some(predicate)))
        });
        let all = set(rows.collect());
        let (rest, parted) = all.clone().split(0.25, 7).unwrap();
        assert_eq!((rest.rows.len(), parted.rows.len()), (30, 10));
        assert_eq!(parted.overlap(&rest), 0);
        assert_eq!(all.overlap(&rest), 30);
        assert_eq!(all.clone().limit(3, 1), all.clone().limit(3, 1));
        assert!(all.split(0.001, 7).unwrap_err().to_string().contains("--validation"));
    }
}
