//! Writing a story word by word while keeping account of what each word is.
//!
//! Sentence patterns are short strings. White space parts English words and is ignored in Chinese.
//!
//! ```text
//! [a0 @p] [aV gave] [a1 the #a] to [a2 @q] .
//!
//! [a0 …]   these words are ARG0 of the sentence's predicate a; V its verb, T when, L where;
//!          [a0|b0 …] belong to two predicates
//! @p @q    the two people; @c the town; @o the firm: named entities
//! #x       a word of a list (see `slot`), which may hold a pattern again
//! ~ ^      he or she, his or her: the first person
//! ```

use std::ops::Range;

use super::{Entity, Predicate, Story, Tongue};
use crate::text::rng::Rng;

/// A name: the long form for the first mention, the short one afterwards.
pub(super) struct Name {
    pub long: String,
    pub short: String,
}

/// Who and where.
pub(super) struct Cast {
    /// The two people.
    pub people: [Name; 2],
    pub town: String,
    pub firm: String,
    /// "she" and "her" of the first person.
    pub pronouns: [&'static str; 2],
}

pub(super) struct Draft {
    tongue: &'static Tongue,
    chinese: bool,
    topic: usize,
    cast: Cast,
    pub rng: Rng,
    /// The mood of the words chosen next.
    pub good: bool,
    /// The two things this story keeps coming back to.
    things: [&'static str; 2],
    event: &'static str,
    used: Vec<&'static str>,
    /// The deed of this sentence: (verb, object).
    deed: (&'static str, &'static str),
    mentioned: [bool; 2],
    words: Vec<String>,
    sentences: Vec<Range<usize>>,
    entities: Vec<Entity>,
    roles: Vec<Predicate>,
    /// Spans of the sentence being written: predicate letter, role letter, words.
    spans: Vec<(char, char, Range<usize>)>,
}

impl Draft {
    pub(super) fn new(
        tongue: &'static Tongue,
        chinese: bool,
        topic: usize,
        cast: Cast,
        mut rng: Rng,
    ) -> Draft {
        let words = &tongue.topics[topic];
        let first = rng.below(words.things.len());
        let second = (first + 1 + rng.below(words.things.len() - 1)) % words.things.len();
        Draft {
            things: [words.things[first], words.things[second]],
            event: words.events[rng.below(words.events.len())],
            used: Vec::with_capacity(8),
            deed: words.deeds[0],
            tongue,
            chinese,
            topic,
            cast,
            rng,
            good: true,
            mentioned: [false; 2],
            words: Vec::with_capacity(96),
            sentences: Vec::with_capacity(8),
            entities: Vec::with_capacity(12),
            roles: Vec::with_capacity(10),
            spans: Vec::new(),
        }
    }

    /// Writes one sentence after one of the patterns.
    pub(super) fn sentence(&mut self, patterns: &'static [&'static str]) {
        let start = self.words.len();
        self.deed = *self.rng.pick(self.tongue.topics[self.topic].deeds);
        // No sentence is built twice in a story; every list is longer than its use.
        let pattern = loop {
            let pattern = *self.rng.pick(patterns);
            if !self.used.contains(&pattern) {
                break pattern;
            }
        };
        self.used.push(pattern);
        self.expand(pattern);
        for word in start..self.words.len().saturating_sub(1) {
            let vowel = self.words[word + 1].starts_with(['a', 'e', 'i', 'o', 'u']);
            if vowel && self.words[word] == "a" {
                self.words[word] = "an".into();
            }
        }
        if let Some(first) = self.words.get_mut(start).filter(|_| !self.chinese) {
            let mut letters = first.chars();
            if let Some(letter) = letters.next() {
                *first = letter.to_uppercase().chain(letters).collect();
            }
        }
        self.sentences.push(start..self.words.len());
        self.collect_roles();
    }

    /// Turns the spans of the sentence into predicates.
    fn collect_roles(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        for (predicate, _, verb) in spans.iter().filter(|span| span.1 == 'V') {
            let mut arguments: Vec<(&'static str, Range<usize>)> = spans
                .iter()
                .filter(|span| span.0 == *predicate && span.1 != 'V')
                .map(|span| {
                    let role = match span.1 {
                        '0' => "ARG0",
                        '1' => "ARG1",
                        '2' => "ARG2",
                        'T' => "ARGM-TMP",
                        _ => "ARGM-LOC",
                    };
                    (role, span.2.clone())
                })
                .collect();
            arguments.sort_by_key(|argument| argument.1.start);
            self.roles.push(Predicate { verb: verb.clone(), arguments });
        }
    }

    fn expand(&mut self, pattern: &str) {
        let mut open: Vec<(&str, usize)> = Vec::new();
        let mut rest = pattern;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                ' ' => {}
                '[' => {
                    let (labels, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                    open.push((labels, self.words.len()));
                    rest = tail;
                }
                ']' => {
                    let (labels, start) = open.pop().unwrap_or(("", 0));
                    for label in labels.split('|') {
                        let mut letters = label.chars();
                        if let (Some(predicate), Some(role)) = (letters.next(), letters.next()) {
                            self.spans.push((predicate, role, start..self.words.len()));
                        }
                    }
                }
                '@' | '#' => {
                    let key = rest.chars().next().unwrap_or(' ');
                    rest = &rest[key.len_utf8()..];
                    if c == '@' { self.entity(key) } else { self.slot(key) }
                }
                '~' => self.put(self.cast.pronouns[0]),
                '^' => self.put(self.cast.pronouns[1]),
                _ if self.chinese => self.words.push(c.to_string()),
                _ => {
                    let end = rest.find([' ', ']', '[', '#', '@']).unwrap_or(rest.len());
                    self.words.push(format!("{c}{}", &rest[..end]));
                    rest = &rest[end..];
                }
            }
        }
    }

    /// Plain words, without notation.
    fn put(&mut self, text: &str) {
        if self.chinese {
            self.words.extend(text.chars().map(String::from));
        } else {
            self.words.extend(text.split(' ').map(String::from));
        }
    }

    fn entity(&mut self, key: char) {
        let start = self.words.len();
        let person = |draft: &mut Draft, number: usize| {
            let full = !std::mem::replace(&mut draft.mentioned[number], true);
            let name = &draft.cast.people[number];
            let name = if full { name.long.clone() } else { name.short.clone() };
            draft.put(&name);
            "PER"
        };
        let kind = match key {
            'p' => person(self, 0),
            'q' => person(self, 1),
            'c' => {
                self.put(&self.cast.town.clone());
                "LOC"
            }
            _ => {
                self.put(&self.cast.firm.clone());
                "ORG"
            }
        };
        self.entities.push(Entity { start, end: self.words.len(), kind });
    }

    /// A word of a list:
    /// `a` `b` the story's things, `n` any thing of the topic, `s` a thing of another topic,
    /// `e` the event, `l` a place, `k` a trade, `v` `d` verb and object of a deed, `t` a time,
    /// `j` an adjective of the mood, `i` one of the opposite mood, `f` an effect, `r` a response.
    fn slot(&mut self, key: char) {
        let tongue = self.tongue;
        let topic = &tongue.topics[self.topic];
        let mood = usize::from(self.good);
        let pick = |draft: &mut Draft, list: &'static [&'static str]| *draft.rng.pick(list);
        let text = match key {
            'a' => self.things[0],
            'b' => self.things[1],
            'e' => self.event,
            'v' => self.deed.0,
            'd' => self.deed.1,
            'n' => pick(self, topic.things),
            's' => {
                let other = (self.topic + 1 + self.rng.below(5)) % 6;
                pick(self, tongue.topics[other].things)
            }
            'l' => pick(self, topic.places),
            'k' => pick(self, topic.trades),
            't' => pick(self, tongue.times),
            'j' => pick(self, tongue.moods[mood]),
            'i' => pick(self, tongue.moods[1 - mood]),
            'f' => pick(self, tongue.effects[mood]),
            _ => pick(self, tongue.responses[mood]),
        };
        self.expand(text);
    }

    pub(super) fn finish(self, topic: &'static str, sentiment: &'static str) -> Story {
        Story {
            text: if self.chinese { self.words.concat() } else { join_english(&self.words) },
            topic,
            sentiment,
            words: self.words,
            sentences: self.sentences,
            entities: self.entities,
            roles: self.roles,
        }
    }
}

/// Words with single spaces, none before punctuation.
fn join_english(words: &[String]) -> String {
    let mut text = String::with_capacity(words.len() * 6);
    for word in words {
        if !text.is_empty() && !matches!(word.as_str(), "." | "," | ";" | "!" | "'s") {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}
