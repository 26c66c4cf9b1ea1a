//! The storyworld: short stories made up by rule, with gold labels for every task.
//!
//! **This text is synthetic.** No person, place or firm in it exists, and a score on it says that a
//! program works, not that a model is good. It is here so that the demo and the tests have text in
//! two languages without a download.
//!
//! A story is a pure function of (seed, index). It has a cast (two people, a town, a firm), one of six
//! topics, and an ending that is good or bad:
//!
//! ```text
//! Last winter, Mara Holden worked for the Glenford Bakery in Ashport.      opening
//! Tomas kneaded the dough. The recipe was copied by Mara.                   deeds of the topic
//! On the way home she saw the anchor in a window.                           a stray thing of another topic
//! At first the dinner was splendid.                                         how it looked
//! But in the end the result disappointed Tomas. Mara sighed.                how it ended
//! topic: cooking   sentiment: negative   PER Mara Holden, ORG Glenford Bakery, LOC Ashport …
//! ```
//!
//! What makes it a task and not a lookup:
//! - the topic is what most of the story is about; a thing of another topic is always there too, and
//!   some words belong to two topics (*scale*, *net*, *score*);
//! - the sentiment is the ending's. The first impression says the opposite more often than not, a
//!   concession may stand after the ending (*although …*), and *not* turns words around: which words
//!   occur says little, their order says all;
//! - each mood has dozens of words. A few labelled stories show only some of them; unlabelled stories
//!   show which go together. That is what pretraining can learn here;
//! - surnames and towns are built from the same syllables (*Ashford*), and some given names are towns:
//!   the context tells a person from a place;
//! - the doer may stand first or, in the passive, last.

mod chinese;
mod draft;
mod english;
mod write;

use std::ops::Range;
use std::str::FromStr;

use super::rng::Rng;
use crate::error::{Error, Result};
use draft::{Cast, Draft};
pub use write::{write_ner, write_plain, write_sentiment_csv, write_srl, write_topic_csv};

/// The language of a story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Chinese, simplified characters.
    Chinese,
    /// Each story in one of the two.
    Mixed,
}

impl FromStr for Language {
    type Err = Error;

    fn from_str(name: &str) -> Result<Language> {
        match name.to_ascii_lowercase().as_str() {
            "en" | "english" => Ok(Language::English),
            "zh" | "chinese" => Ok(Language::Chinese),
            "mixed" => Ok(Language::Mixed),
            _ => Err(Error::Usage(format!("unknown language '{name}'; use en, zh or mixed"))),
        }
    }
}

/// The topics, by the index that [`Story::topic`] names.
pub const TOPICS: [&str; 6] = ["business", "cooking", "football", "music", "sailing", "science"];

/// The two moods of an ending.
pub const SENTIMENTS: [&str; 2] = ["negative", "positive"];

/// A named entity: words `start..end` of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// First word.
    pub start: usize,
    /// One past the last word.
    pub end: usize,
    /// `PER`, `LOC` or `ORG`.
    pub kind: &'static str,
}

/// A predicate and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicate {
    /// The words of the verb.
    pub verb: Range<usize>,
    /// Roles and their words: `ARG0` the doer, `ARG1` what it is done to, `ARG2` the receiver,
    /// `ARGM-TMP` when, `ARGM-LOC` where.
    pub arguments: Vec<(&'static str, Range<usize>)>,
}

/// A story and everything that is true of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// The running text, one paragraph without a line break.
    pub text: String,
    /// One of [`TOPICS`].
    pub topic: &'static str,
    /// How it ends: one of [`SENTIMENTS`].
    pub sentiment: &'static str,
    /// The words with punctuation apart; in Chinese the single characters.
    pub words: Vec<String>,
    /// The words of each sentence.
    pub sentences: Vec<Range<usize>>,
    /// Named entities, in order.
    pub entities: Vec<Entity>,
    /// Who did what to whom, in order.
    pub roles: Vec<Predicate>,
}

/// A language's words and sentence patterns; see `draft` for the notation.
struct Tongue {
    topics: [Topic; 6],
    openings: &'static [&'static str],
    deeds: &'static [&'static str],
    gifts: &'static [&'static str],
    strays: &'static [&'static str],
    impressions: &'static [&'static str],
    endings: &'static [&'static str],
    reactions: &'static [&'static str],
    times: &'static [&'static str],
    /// Adjectives of a mood: \[negative, positive\].
    moods: [&'static [&'static str]; 2],
    /// What an outcome does to somebody: \[negative, positive\].
    effects: [&'static [&'static str]; 2],
    /// What somebody does who takes it so: \[negative, positive\].
    responses: [&'static [&'static str]; 2],
    cast: fn(&mut Rng) -> Cast,
}

/// The words of a topic.
struct Topic {
    /// (verb, object).
    deeds: &'static [(&'static str, &'static str)],
    things: &'static [&'static str],
    events: &'static [&'static str],
    places: &'static [&'static str],
    trades: &'static [&'static str],
}

impl Story {
    /// The story number `index` of `seed`.
    pub fn generate(seed: u64, index: u64, language: Language) -> Story {
        let mut rng = Rng::new(seed, index);
        let chinese = match language {
            Language::English => false,
            Language::Chinese => true,
            Language::Mixed => rng.chance(50),
        };
        let tongue = if chinese { &chinese::TONGUE } else { &english::TONGUE };
        let topic = rng.below(TOPICS.len());
        let good = rng.chance(50);
        let cast = (tongue.cast)(&mut rng);
        let mut draft = Draft::new(tongue, chinese, topic, cast, rng);

        draft.sentence(tongue.openings);
        let stray = 1 + draft.rng.below(3);
        for place in 0..3 {
            if place == stray {
                draft.sentence(tongue.strays);
            }
            match draft.rng.below(10) {
                0..6 => draft.sentence(tongue.deeds),
                _ => draft.sentence(tongue.gifts),
            }
        }
        if stray == 3 {
            draft.sentence(tongue.strays);
        }
        // The first impression misleads in three stories of five.
        draft.good = good ^ draft.rng.chance(60);
        draft.sentence(tongue.impressions);
        draft.good = good;
        draft.sentence(tongue.endings);
        if draft.rng.chance(50) {
            draft.sentence(tongue.reactions);
        }
        draft.finish(TOPICS[topic], SENTIMENTS[usize::from(good)])
    }

    /// The BIO tags of the entities, one a word.
    pub fn entity_tags(&self) -> Vec<String> {
        let mut tags = vec!["O".to_string(); self.words.len()];
        for entity in &self.entities {
            mark(&mut tags, entity.start..entity.end, entity.kind);
        }
        tags
    }

    /// The BIO tags of one predicate's roles over its sentence: (words, index of the verb, tags).
    pub fn role_tags(&self, predicate: &Predicate) -> (&[String], usize, Vec<String>) {
        let verb = predicate.verb.start;
        let inside = |sentence: &&Range<usize>| sentence.contains(&verb);
        let sentence = self.sentences.iter().find(inside).cloned().unwrap_or(0..self.words.len());
        let mut tags = vec!["O".to_string(); self.words.len()];
        mark(&mut tags, predicate.verb.clone(), "V");
        for (role, words) in &predicate.arguments {
            mark(&mut tags, words.clone(), role);
        }
        let tags = tags[sentence.clone()].to_vec();
        (&self.words[sentence.clone()], verb - sentence.start, tags)
    }
}

fn mark(tags: &mut [String], words: Range<usize>, kind: &str) {
    for (offset, tag) in tags[words].iter_mut().enumerate() {
        *tag = format!("{}-{kind}", if offset == 0 { 'B' } else { 'I' });
    }
}

/// The stories 0, 1, 2, … of a seed, without end.
pub fn stories(seed: u64, language: Language) -> impl Iterator<Item = Story> {
    (0..).map(move |index| Story::generate(seed, index, language))
}

/// Stories that a [`corpus`] sorts by topic before it writes them.
const VOLUME: usize = 60;

/// Stories as running text, one a line, until there are `bytes` bytes. Like real books it keeps to a topic
/// for a while, some ten stories. So the end of a story says something of the next one, and a model that
/// predicts text has a reason to remember the topic up to there, which is where a classifier asks for it.
pub fn corpus(seed: u64, language: Language, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 1024);
    let mut stories = stories(seed, language);
    loop {
        let mut volume: Vec<Story> = stories.by_ref().take(VOLUME).collect();
        volume.sort_by_key(|story| story.topic);
        for story in volume {
            if text.len() >= bytes {
                return text;
            }
            text.push_str(&story.text);
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests;
