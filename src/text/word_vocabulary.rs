//! What a word tagger knows of words: several columns of ids for each word, and its characters.
//!
//! ```text
//! column     Peter-2     what it tells
//! word       peter-0     the word in lower case, digits as 0
//! shape      Xx-0        case and kind of the characters, runs shortened
//! prefix     pet         the first three characters
//! suffix     r-0         the last three
//! before     of+peter    Chinese, and texts to be classified: the word with the one before it
//! after      peter+said  Chinese sentences to be tagged: … with the one after it
//! flag       0           roles only: 1 on the predicate
//! distance   −3          roles only: words from the predicate, ten at most
//! predicate  says        roles only: the predicate itself, the same for the whole sentence
//! ```
//!
//! Id 0 is the unknown entry of every column. So that it learns something, training reads a word (or a pair)
//! that occurs n times as unknown with probability 1/(n + 1): the tagger must look at characters, affixes
//! and context then.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Encoding;
use crate::error::{Error, Result};

/// A column of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// The word in lower case, digits as 0.
    Word,
    /// Case and kind of its characters.
    Shape,
    /// Its first three characters.
    Prefix,
    /// Its last three characters.
    Suffix,
    /// It and the word before.
    Before,
    /// It and the word after.
    After,
    /// 1 on the predicate.
    Flag,
    /// Words from the predicate.
    Distance,
    /// The predicate.
    Predicate,
}

impl Column {
    /// The name of the table that the column is looked up in.
    pub fn table(self) -> &'static str {
        match self {
            Column::Word | Column::Predicate => "word",
            Column::Shape => "shape",
            Column::Prefix => "prefix",
            Column::Suffix => "suffix",
            Column::Before | Column::After => "pair",
            Column::Flag => "flag",
            Column::Distance => "distance",
        }
    }

    /// How often an entry must occur to be kept.
    fn least(self) -> u64 {
        match self {
            Column::Prefix | Column::Suffix | Column::Before | Column::After => 2,
            _ => 1,
        }
    }

    fn text(self, words: &[String], at: usize, predicate: Option<usize>) -> String {
        let word = |at: Option<usize>| at.and_then(|at| words.get(at)).map_or("", String::as_str);
        let own = normal(&words[at]);
        match self {
            Column::Word => own,
            Column::Shape => shape(&words[at]),
            Column::Prefix => own.chars().take(3).collect(),
            Column::Suffix => {
                let skip = own.chars().count().saturating_sub(3);
                own.chars().skip(skip).collect()
            }
            Column::Before => format!("{}\u{1}{own}", normal(word(at.checked_sub(1)))),
            Column::After => format!("{own}\u{1}{}", normal(word(Some(at + 1)))),
            Column::Flag => if predicate == Some(at) { "1" } else { "0" }.into(),
            Column::Distance => {
                let from = predicate.map_or(0, |predicate| at as i64 - predicate as i64);
                from.clamp(-10, 10).to_string()
            }
            Column::Predicate => normal(word(predicate)),
        }
    }
}

/// Lower case, every digit a 0.
fn normal(word: &str) -> String {
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    word.chars().flat_map(char::to_lowercase).map(digit).collect()
}

/// Capitals as X, small letters as x, digits as 0, other letters as c, the rest as it is; runs of one kind once.
fn shape(word: &str) -> String {
    let mut shape = String::new();
    for c in word.chars() {
        let kind = match c {
            _ if c.is_ascii_digit() => '0',
            _ if c.is_uppercase() => 'X',
            _ if c.is_lowercase() => 'x',
            _ if c.is_alphabetic() => 'c',
            _ => c,
        };
        if !shape.ends_with(kind) {
            shape.push(kind);
        }
    }
    shape.chars().take(6).collect()
}

/// One table: its entries in the order of their ids, from 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Table {
    entries: Vec<String>,
    /// How often each occurred in training.
    counts: Vec<u64>,
    #[serde(skip)]
    index: HashMap<String, u32>,
}

impl Table {
    fn new(counts: BTreeMap<String, u64>, least: u64) -> Table {
        let kept: Vec<(String, u64)> = counts.into_iter().filter(|(_, n)| *n >= least).collect();
        let (entries, counts) = kept.into_iter().unzip();
        let mut table = Table { entries, counts, index: HashMap::new() };
        table.find_places();
        table
    }

    fn find_places(&mut self) {
        self.index = self.entries.iter().cloned().zip(1..).collect();
    }

    fn id(&self, entry: &str) -> u32 {
        self.index.get(entry).copied().unwrap_or(0)
    }
}

/// A sentence as ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WordIds {
    /// All columns of the first word, then all of the second.
    pub columns: Vec<u32>,
    /// The characters of each word.
    pub characters: Vec<Vec<u32>>,
    /// How likely each id of `columns` is to be read as unknown in training.
    pub rare: Vec<f32>,
}

/// The words, affixes and characters of a training set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordVocabulary {
    columns: Vec<Column>,
    tables: BTreeMap<String, Table>,
    characters: Vec<char>,
    #[serde(skip)]
    places: HashMap<char, u32>,
}

impl WordVocabulary {
    /// Collects what occurs in sentences, each with the place of its predicate where roles are the task;
    /// `whole` says that not words but whole texts are to be judged.
    pub fn build<'a>(
        sentences: impl Iterator<Item = (&'a [String], Option<usize>)> + Clone,
        whole: bool,
    ) -> WordVocabulary {
        let (mut words, mut letters, mut roles) = (0u64, 0u64, false);
        let mut characters = std::collections::BTreeSet::new();
        for (sentence, predicate) in sentences.clone() {
            roles |= predicate.is_some();
            words += sentence.len() as u64;
            for word in sentence {
                letters += word.chars().count() as u64;
                characters.extend(word.chars());
            }
        }
        // Chinese is tagged character by character: there are no affixes, neighbours say more.
        let single = letters * 2 < words * 3;
        let mut columns = vec![Column::Word, Column::Shape];
        if !single {
            columns.extend([Column::Prefix, Column::Suffix]);
        }
        if single || whole {
            columns.push(Column::Before);
        }
        if single && !whole {
            columns.push(Column::After); // of a whole text it tells nothing that `Before` does not
        }
        if roles {
            columns.extend([Column::Flag, Column::Distance, Column::Predicate]);
        }
        let mut tables = BTreeMap::new();
        for &column in &columns {
            if tables.contains_key(column.table()) {
                continue;
            }
            let mut counts = BTreeMap::new();
            for (sentence, predicate) in sentences.clone() {
                for at in 0..sentence.len() {
                    *counts.entry(column.text(sentence, at, predicate)).or_insert(0) += 1;
                }
            }
            tables.insert(column.table().to_owned(), Table::new(counts, column.least()));
        }
        let mut vocabulary = WordVocabulary {
            columns,
            tables,
            characters: characters.into_iter().collect(),
            places: HashMap::new(),
        };
        vocabulary.find_places();
        vocabulary
    }

    /// The vocabulary with what else occurs in `sentences`, behind what it has: ids stay what they are.
    pub fn extended<'a>(
        mut self,
        sentences: impl Iterator<Item = (&'a [String], Option<usize>)> + Clone,
    ) -> WordVocabulary {
        for (name, table) in &mut self.tables {
            let Some(&column) = self.columns.iter().find(|c| c.table() == name) else { continue };
            let mut new: BTreeMap<String, u64> = BTreeMap::new();
            for (sentence, predicate) in sentences.clone() {
                for at in 0..sentence.len() {
                    *new.entry(column.text(sentence, at, predicate)).or_insert(0) += 1;
                }
            }
            for (entry, n) in new {
                match table.id(&entry) {
                    0 if n >= column.least() => {
                        table.entries.push(entry);
                        table.counts.push(n);
                    }
                    0 => {}
                    id => table.counts[id as usize - 1] += n,
                }
            }
        }
        let words = sentences.flat_map(|(sentence, _)| sentence);
        let characters: std::collections::BTreeSet<char> =
            words.flat_map(|word| word.chars()).collect();
        let new = characters.into_iter().filter(|c| !self.places.contains_key(c));
        self.characters.extend(new);
        self.find_places();
        self
    }

    fn find_places(&mut self) {
        self.tables.values_mut().for_each(Table::find_places);
        self.places = self.characters.iter().copied().zip(1..).collect();
    }

    /// Reads what [`WordVocabulary::to_json`] gave.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn from_json(text: &str, name: &str) -> Result<WordVocabulary> {
        let bad =
            |why: String| Error::Data(format!("{name}: not the vocabulary of a tagger: {why}"));
        let mut vocabulary: WordVocabulary =
            serde_json::from_value(crate::json::parse(text.as_bytes()).map_err(bad)?)
                .map_err(|e| bad(e.to_string()))?;
        for column in &vocabulary.columns {
            match vocabulary.tables.get(column.table()) {
                Some(table) if table.counts.len() == table.entries.len() => {}
                _ => return Err(bad(format!("the table `{}` is missing or cut", column.table()))),
            }
        }
        vocabulary.find_places();
        Ok(vocabulary)
    }

    /// Reads the file of a vocabulary.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open(file: &Path) -> Result<WordVocabulary> {
        let text = super::read_text(file, Encoding::Utf8)?;
        WordVocabulary::from_json(&text, &file.display().to_string())
    }

    /// As a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The columns of a word.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The names of the tables with their numbers of ids, the unknown one included.
    pub fn tables(&self) -> Vec<(&str, usize)> {
        self.tables.iter().map(|(name, t)| (name.as_str(), t.entries.len() + 1)).collect()
    }

    /// How many ids of characters there are, the unknown one included.
    pub fn characters(&self) -> usize {
        self.characters.len() + 1
    }

    /// Whether sentences need a predicate.
    pub fn wants_predicate(&self) -> bool {
        self.columns.contains(&Column::Flag)
    }

    /// The ids of a sentence.
    pub fn encode(&self, words: &[String], predicate: Option<usize>) -> WordIds {
        let mut ids = WordIds::default();
        for (at, word) in words.iter().enumerate() {
            for &column in &self.columns {
                let table = &self.tables[column.table()];
                let id = table.id(&column.text(words, at, predicate));
                let seen = id.checked_sub(1).map_or(0, |place| table.counts[place as usize]);
                let open = matches!(column, Column::Word | Column::Before | Column::After);
                ids.rare.push(if open { 1.0 / (seen + 1) as f32 } else { 0.0 });
                ids.columns.push(id);
            }
            let place = |c: char| self.places.get(&c).copied().unwrap_or(0);
            ids.characters.push(word.chars().map(place).collect());
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn words_are_seen_from_several_sides() {
        assert_eq!((normal("Peter-2").as_str(), shape("Peter-2").as_str()), ("peter-0", "Xx-0"));
        let (a, b) = (words("Peter saw 12 Peters"), words("peter left"));
        let sentences = [(a.as_slice(), None), (b.as_slice(), None)];
        let vocabulary = WordVocabulary::build(sentences.into_iter(), false);
        let n = vocabulary.columns().len();
        assert_eq!(n, 4);
        let ids = vocabulary.encode(&words("PETER 99 Mary"), None);
        assert_eq!((ids.columns.len(), ids.characters.len()), (3 * n, 3));
        // Seen twice in other cases; seen once with other digits; never seen.
        assert!(ids.columns[0] > 0 && ids.columns[n] > 0 && ids.columns[2 * n] == 0);
        let rare: Vec<f32> = ids.rare.chunks(n).map(|word| word[0]).collect();
        assert_eq!(rare, [1.0 / 3.0, 0.5, 1.0]);
        let again = WordVocabulary::from_json(&vocabulary.to_json(), "v").unwrap();
        assert_eq!(again.encode(&words("PETER 99 Mary"), None), ids);
        assert!(WordVocabulary::from_json("{\"columns\":[\"word\"]}", "v").is_err());
    }

    #[test]
    fn what_is_known_keeps_its_ids_when_more_is_learned() {
        let (a, b) = (words("peter saw peter"), words("mary saw zoë"));
        let known = WordVocabulary::build([(a.as_slice(), None)].into_iter(), false);
        let more = known.clone().extended([(b.as_slice(), None)].into_iter());
        let n = known.columns().len();
        let (before, after) = (known.encode(&a, None), more.encode(&a, None));
        assert_eq!((&before.columns, &before.characters), (&after.columns, &after.characters));
        assert!(after.rare[n] < before.rare[n], "`saw` has been seen once more");
        let new = more.encode(&b, None);
        assert!(known.encode(&b, None).columns[0] == 0 && new.columns[0] > 0);
        assert!(new.characters[2].iter().all(|&c| c > 0));
        assert!(more.tables().iter().zip(known.tables()).all(|(more, known)| more.1 >= known.1));
    }

    #[test]
    fn roles_add_the_predicate_and_chinese_its_neighbours() {
        let a = words("she gave him");
        let vocabulary = WordVocabulary::build([(a.as_slice(), Some(1))].into_iter(), false);
        assert!(vocabulary.wants_predicate());
        let at = |place: usize, column: Column| {
            let ids = vocabulary.encode(&a, Some(place));
            let n = vocabulary.columns().len();
            let c = vocabulary.columns().iter().position(|&c| c == column).unwrap();
            ids.columns.chunks(n).map(|word| word[c]).collect::<Vec<_>>()
        };
        assert_eq!(
            at(1, Column::Flag).iter().filter(|&&id| id == at(1, Column::Flag)[0]).count(),
            2
        );
        assert_ne!(at(0, Column::Predicate)[2], at(1, Column::Predicate)[2]);
        let zh = words("他 在 北 京");
        let vocabulary = WordVocabulary::build([(zh.as_slice(), None)].into_iter(), false);
        assert!(vocabulary.columns().contains(&Column::After));
        let vocabulary = WordVocabulary::build([(a.as_slice(), None)].into_iter(), true);
        assert!(vocabulary.columns().contains(&Column::Before));
    }
}
