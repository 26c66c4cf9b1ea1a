//! Words with tags in columns: named entities as CoNLL-2003 keeps them.
//!
//! One word a line with its tag in the last column, an empty line after each sentence. The tags mark
//! spans, in one of several schemes; all become BIO:
//!
//! ```text
//! words   U.N.   official  Ekeus   heads   for   New    York   .
//! IOB1    I-ORG  O         I-PER   O       O     I-LOC  I-LOC  O     B- only between two of one type
//! BIO     B-ORG  O         B-PER   O       O     B-LOC  I-LOC  O     every entity begins with B-
//! BIOES   S-ORG  O         S-PER   O       O     B-LOC  E-LOC  O     (BMES: M- for I-; BILOU: L-, U-)
//! ```
//!
//! A tagger that takes IOB1 for BIO loses the beginnings of nearly all entities, quietly.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Encoding, read_text};
use crate::error::{Error, Result};

/// How the tags of a file mark spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `I-` begins an entity, `B-` only beside another of the same type (CoNLL-2003).
    Iob1,
    /// `B-` begins, `I-` continues. The one that is used here.
    Bio,
    /// With `E-` or `L-` for the last word and `S-` or `U-` for a single one.
    Bioes,
    /// As BIOES with `M-` for the middle (Chinese corpora).
    Bmes,
}

/// A sentence of words and BIO tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaggedSentence {
    /// The words, or the characters of a Chinese sentence.
    pub words: Vec<String>,
    /// A BIO tag a word: `O`, `B-PER`, `I-PER`.
    pub tags: Vec<String>,
    /// The line of the file on which the sentence begins, from 1.
    pub line: u64,
}

/// A file of tagged sentences.
#[derive(Clone, Debug)]
pub struct TaggedSet {
    /// What messages call it: the path of the file.
    pub name: String,
    /// The sentences in the order of the file.
    pub sentences: Vec<TaggedSentence>,
    /// The scheme that the file was written in.
    pub scheme: Scheme,
}

impl TaggedSet {
    /// Reads a file of columns. The word is in the first column and the tag in the last; columns
    /// are parted by tabs, or by spaces when a line has no tab. `-DOCSTART-` lines are skipped. Where
    /// every word is one character and a number (its place in the word, as in the Weibo corpus), the
    /// number is dropped.
    ///
    /// # Errors
    /// When the file cannot be read, a line has no tag, or a tag is of no known scheme (file and line
    /// are named).
    pub fn read(path: impl AsRef<Path>, encoding: Encoding) -> Result<TaggedSet> {
        let path = path.as_ref();
        Self::parse(&path.display().to_string(), &read_text(path, encoding)?)
    }

    /// [`TaggedSet::read`] of a text in memory.
    ///
    /// # Errors
    /// As [`TaggedSet::read`].
    pub fn parse(name: &str, text: &str) -> Result<TaggedSet> {
        let mut sentences = columns(name, text)?;
        strip_positions(&mut sentences);
        let scheme = scheme(&sentences);
        for sentence in &mut sentences {
            sentence.tags = to_bio(&sentence.tags);
        }
        if sentences.is_empty() {
            return Err(Error::Data(format!("{name}: there is no sentence in it")));
        }
        Ok(TaggedSet { name: name.into(), sentences, scheme })
    }

    /// How many sentences.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }

    /// The tags a tagger must tell apart, in a stable order: `O`, then `B-` and `I-` of each type.
    pub fn labels(&self) -> Vec<String> {
        bio_labels(self.sentences.iter().flat_map(|s| s.tags.iter().map(String::as_str)))
    }

    /// How many entities there are.
    pub fn spans(&self) -> usize {
        let tags = self.sentences.iter().flat_map(|sentence| &sentence.tags);
        tags.filter(|tag| tag.starts_with("B-")).count()
    }

    /// How many sentences of this set also occur in `train`, word for word.
    pub fn overlap(&self, train: &TaggedSet) -> usize {
        let seen: std::collections::HashSet<&[String]> =
            train.sentences.iter().map(|s| s.words.as_slice()).collect();
        self.sentences.iter().filter(|s| seen.contains(s.words.as_slice())).count()
    }
}

/// `O`, then `B-X` and `I-X` for each type X that occurs, types in the order of the alphabet.
pub fn bio_labels<'a>(tags: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let types: BTreeSet<&str> =
        tags.into_iter().filter_map(|tag| Some(tag.split_once('-')?.1)).collect();
    let mut labels = vec!["O".to_string()];
    for name in types {
        labels.extend([format!("B-{name}"), format!("I-{name}")]);
    }
    labels
}

fn columns(name: &str, text: &str) -> Result<Vec<TaggedSentence>> {
    let mut sentences = Vec::new();
    let mut sentence = TaggedSentence::default();
    // The end of the file ends a sentence as an empty line does.
    for (row, line) in text.lines().chain([""]).zip(1..) {
        let comment = row.starts_with("# ") && !row.contains('\t') && sentence.words.is_empty();
        let cells = cells(row);
        let skipped = cells.first() == Some(&"-DOCSTART-") || (comment && !looks_tagged(&cells));
        if cells.is_empty() || skipped {
            if !sentence.words.is_empty() {
                sentences.push(std::mem::take(&mut sentence));
            }
            continue;
        }
        let (word, tag) = match cells[..] {
            [word, .., tag] => (word, tag),
            _ => {
                return Err(Error::Data(format!(
                    "{name}: line {line}: expected a word and a tag, found {row:?}"
                )));
            }
        };
        if parse_tag(tag).is_none() {
            return Err(Error::Data(format!(
                "{name}: line {line}: {tag:?} is no span tag; expected O or like B-PER, I-PER"
            )));
        }
        if sentence.words.is_empty() {
            sentence.line = line;
        }
        sentence.words.push(word.to_string());
        sentence.tags.push(tag.to_string());
    }
    Ok(sentences)
}

fn looks_tagged(cells: &[&str]) -> bool {
    cells.len() > 1 && cells.last().is_some_and(|tag| parse_tag(tag).is_some())
}

/// The columns of a line. A tab-separated word may itself be a space; an empty line has no column.
fn cells(row: &str) -> Vec<&str> {
    if row.contains('\t') && !row.trim().is_empty() {
        return row.trim_end_matches(['\r', '\t']).split('\t').collect();
    }
    row.split_ascii_whitespace().collect()
}

/// The letter and the type of a tag; `O` is ('O', "").
fn parse_tag(tag: &str) -> Option<(char, &str)> {
    if tag == "O" {
        return Some(('O', ""));
    }
    let (letter, kind) = tag.split_once(['-', '_'])?;
    match letter {
        "B" | "I" | "M" | "E" | "S" | "L" | "U" if !kind.is_empty() => {
            Some((letter.chars().next()?, kind))
        }
        _ => None,
    }
}

/// Drops the number after the character where all words have one: `科0 技1`, `t11`, `310` (a 3).
fn strip_positions(sentences: &mut [TaggedSentence]) {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let after_first = |word: &str| word.chars().next().map_or(0, char::len_utf8);
    let words = || sentences.iter().flat_map(|sentence| &sentence.words);
    let total = words().count();
    let marked = words().filter(|word| number(&word[after_first(word)..])).count();
    let all_end_so =
        words().all(|word| word.len() > 1 && word.ends_with(|c: char| c.is_ascii_digit()));
    // A few characters were damaged into two before the corpus was published.
    if !all_end_so || marked * 10 < total * 9 {
        return;
    }
    for word in sentences.iter_mut().flat_map(|sentence| &mut sentence.words) {
        let first = after_first(word);
        let end = match number(&word[first..]) {
            true => first,
            false => word.trim_end_matches(|c: char| c.is_ascii_digit()).len(),
        };
        word.truncate(end);
    }
}

/// Tells the scheme of a file by the letters it uses and by what begins an entity.
fn scheme(sentences: &[TaggedSentence]) -> Scheme {
    let mut begins_with_b = 0;
    let mut begins_with_i = 0;
    let mut single = false;
    for sentence in sentences {
        let mut before = ('O', "");
        for tag in sentence.tags.iter().filter_map(|tag| parse_tag(tag)) {
            match tag.0 {
                'M' => return Scheme::Bmes,
                'E' | 'S' | 'L' | 'U' => single = true,
                'B' if before.1 != tag.1 => begins_with_b += 1,
                'I' if before.1 != tag.1 => begins_with_i += 1,
                _ => {}
            }
            before = tag;
        }
    }
    // Real files have slips (two in CoNLL-2003), so the majority decides.
    match single {
        true => Scheme::Bioes,
        false if begins_with_i > begins_with_b => Scheme::Iob1,
        false => Scheme::Bio,
    }
}

/// Any of the schemes as BIO.
///
/// A word begins an entity when its tag says so (`B`, `S`, `U`), when the word before has another
/// type or none, and when the word before ended its entity (`E`, `L`, `S`, `U`). That reads IOB1, BIO,
/// BIOES, BMES and BILOU alike, and a stray `I-` as conlleval does: as a beginning.
pub fn to_bio<T: AsRef<str>>(tags: &[T]) -> Vec<String> {
    let mut before = ('O', "");
    tags.iter()
        .map(|tag| {
            let tag = parse_tag(tag.as_ref()).unwrap_or(('O', ""));
            let (letter, kind) = tag;
            let ended = matches!(before.0, 'E' | 'L' | 'S' | 'U');
            let begins = matches!(letter, 'B' | 'S' | 'U') || before.1 != kind || ended;
            before = tag;
            match letter {
                'O' => "O".to_string(),
                _ if begins => format!("B-{kind}"),
                _ => format!("I-{kind}"),
            }
        })
        .collect()
}

/// The spans of BIO tags: (type, first word, one past the last word).
pub fn spans<T: AsRef<str>>(tags: &[T]) -> Vec<(String, usize, usize)> {
    let mut spans: Vec<(String, usize, usize)> = Vec::new();
    for (index, tag) in to_bio(tags).iter().enumerate() {
        match tag.split_once('-') {
            Some(("B", kind)) => spans.push((kind.to_string(), index, index + 1)),
            Some((_, _)) => {
                if let Some(span) = spans.last_mut() {
                    span.2 = index + 1;
                }
            }
            None => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_schemes_become_bio() {
        let bio = ["B-A", "I-A", "I-A", "B-A", "O", "B-B", "B-A", "I-A", "O", "B-C"];
        for (name, tags) in [
            ("iob1", ["I-A", "I-A", "I-A", "B-A", "O", "I-B", "I-A", "I-A", "O", "I-C"]),
            ("bio", bio),
            ("bioes", ["B-A", "I-A", "E-A", "S-A", "O", "S-B", "B-A", "E-A", "O", "S-C"]),
            ("bmes", ["B-A", "M-A", "E-A", "S-A", "O", "S-B", "B-A", "E-A", "O", "S-C"]),
            ("bilou", ["B-A", "I-A", "L-A", "U-A", "O", "U-B", "B-A", "L-A", "O", "U-C"]),
        ] {
            assert_eq!(to_bio(&tags), bio, "{name}");
        }
        // A stray end of entity, and a continuation after an end.
        assert_eq!(to_bio(&["O", "E-A", "I-A"]), ["O", "B-A", "B-A"]);
        let found = spans(&bio);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], ("A".to_string(), 0, 3));
        assert_eq!(found[3], ("A".to_string(), 6, 8));
    }

    #[test]
    fn conll_2003_is_iob1() {
        let text = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\n# # I-NP O\nGerman JJ I-NP I-MISC\n\n\
                    Peter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n";
        let set = TaggedSet::parse("f", text).unwrap();
        assert_eq!(set.scheme, Scheme::Iob1);
        assert_eq!(set.len(), 2);
        assert_eq!(set.sentences[0].words, ["EU", "#", "German"]);
        assert_eq!(set.sentences[1].tags, ["B-PER", "I-PER"]);
        assert_eq!(set.sentences[1].line, 7);
        assert_eq!(set.labels(), ["O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]);
        assert_eq!(set.spans(), 3);
    }

    #[test]
    fn weibo_digits_are_dropped_only_when_all_have_one() {
        let set = TaggedSet::parse("f", "科0\tB-ORG.NAM\n技1\tI-ORG.NAM\n10\tO\nt11\tO\n310\tO\n");
        assert_eq!(set.unwrap().sentences[0].words, ["科", "技", "1", "t", "3"]);
        let set = TaggedSet::parse("f", "科\tO\n10\tO\n").unwrap();
        assert_eq!(set.sentences[0].words, ["科", "10"]);
    }

    #[test]
    fn wrong_lines_are_named() {
        let message = TaggedSet::parse("f", "a O\nb\n").unwrap_err().to_string();
        assert!(message.contains("f: line 2") && message.contains("\"b\""), "{message}");
        let message = TaggedSet::parse("f", "a O\n\nb NN\n").unwrap_err().to_string();
        assert!(message.contains("f: line 3") && message.contains("\"NN\""), "{message}");
        assert!(TaggedSet::parse("f", "\n\n").is_err());
    }
}
