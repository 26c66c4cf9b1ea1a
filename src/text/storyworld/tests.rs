use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::text::Encoding;
use crate::text::conll::TaggedSet;
use crate::text::labelled::{LabelledSet, ReadOptions};
use crate::text::srl::SrlSet;

const BOTH: [Language; 2] = [Language::English, Language::Chinese];

#[test]
fn a_story_is_a_function_of_seed_and_index() {
    for language in [Language::English, Language::Chinese, Language::Mixed] {
        let all: Vec<Story> = stories(5, language).take(50).collect();
        assert_eq!(all[33], Story::generate(5, 33, language));
        assert_ne!(all[33], Story::generate(6, 33, language));
        let distinct: std::collections::HashSet<&str> = all.iter().map(|s| &*s.text).collect();
        assert_eq!(distinct.len(), 50);
    }
    let chinese = |story: &Story| story.text.contains('。');
    let count = stories(1, Language::Mixed).take(200).filter(chinese).count();
    assert!((60..140).contains(&count), "{count}");
}

#[test]
fn no_notation_is_left_and_labels_point_at_words() {
    for language in BOTH {
        for story in stories(3, language).take(3000) {
            assert!(
                !story.text.contains(['[', ']', '@', '#', '~', '^', '|', '\n', '"', '\t']),
                "{}",
                story.text
            );
            assert!(
                story.words.iter().all(|w| !w.is_empty() && !w.contains(' ')),
                "{}",
                story.text
            );
            assert!(TOPICS.contains(&story.topic) && SENTIMENTS.contains(&story.sentiment));
            let sentence_of = |word: usize| story.sentences.iter().position(|s| s.contains(&word));
            for entity in &story.entities {
                assert!(entity.start < entity.end && entity.end <= story.words.len());
                assert_eq!(sentence_of(entity.start), sentence_of(entity.end - 1));
            }
            assert!(story.roles.len() >= 3, "{}", story.text);
            for predicate in &story.roles {
                let own = sentence_of(predicate.verb.start);
                let mut end = 0;
                for (_, words) in &predicate.arguments {
                    assert!(words.start < words.end && words.start >= end, "{}", story.text);
                    assert_eq!((sentence_of(words.start), sentence_of(words.end - 1)), (own, own));
                    assert!(words.end <= predicate.verb.start || words.start >= predicate.verb.end);
                    end = words.end;
                }
            }
            let end = story.sentences.windows(2).all(|two| two[0].end == two[1].start);
            assert!(end && story.sentences.last().unwrap().end == story.words.len());
        }
    }
}

#[test]
fn labels_are_balanced() {
    for language in BOTH {
        let mut topics = BTreeMap::new();
        let mut sentiments = BTreeMap::new();
        for story in stories(9, language).take(6000) {
            *topics.entry(story.topic).or_insert(0) += 1;
            *sentiments.entry(story.sentiment).or_insert(0) += 1;
        }
        assert!(
            topics.len() == 6 && topics.values().all(|&n| (850..1150).contains(&n)),
            "{topics:?}"
        );
        assert!(sentiments.values().all(|&n| (2800..3200).contains(&n)), "{sentiments:?}");
    }
}

/// Accuracy of naive Bayes on single words, trained on `n` stories: what needs no model at all.
fn naive_bayes(language: Language, n: usize, label: fn(&Story) -> &'static str) -> f64 {
    let mut words: HashMap<&'static str, HashMap<String, f64>> = HashMap::new();
    let mut vocabulary = std::collections::HashSet::new();
    for story in stories(11, language).take(n) {
        let counts = words.entry(label(&story)).or_default();
        for word in story.words {
            vocabulary.insert(word.clone());
            *counts.entry(word).or_default() += 1.0;
        }
    }
    let totals: HashMap<&str, f64> =
        words.iter().map(|(&class, counts)| (class, counts.values().sum())).collect();
    let test: Vec<Story> = stories(12, language).take(1000).collect();
    let right = test.iter().filter(|story| {
        let score = |class: &str| -> f64 {
            let total = totals[class] + vocabulary.len() as f64;
            let count = |word| words[class].get(word).copied().unwrap_or(0.0) + 1.0;
            story.words.iter().map(|word| (count(word) / total).ln()).sum()
        };
        let best = words.keys().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        *best == label(story)
    });
    right.count() as f64 / test.len() as f64
}

/// Counting words must not solve the sentiment, and few labels must not solve the topic.
#[test]
fn counting_words_is_not_enough() {
    for language in BOTH {
        let topic = |n| naive_bayes(language, n, |story| story.topic);
        let sentiment = |n| naive_bayes(language, n, |story| story.sentiment);
        let scores = [topic(64), topic(5000), sentiment(64), sentiment(5000)];
        println!("{language:?}: topic {:?}, sentiment {:?}", &scores[..2], &scores[2..]);
        assert!(scores[0] < 0.8 && scores[1] > 0.9, "{language:?}: {scores:?}");
        assert!(scores[2] < 0.65 && scores[3] < 0.85, "{language:?}: {scores:?}");
    }
}

#[test]
fn written_files_read_back() {
    let folder = std::env::temp_dir().join(format!("handloom-stories-{}", std::process::id()));
    for language in BOTH {
        let some: Vec<Story> = stories(4, language).take(100).collect();
        let path = folder.join("plain.txt");
        write_plain(&some, &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100);

        let path = folder.join("topics.csv");
        write_topic_csv(&some, &path).unwrap();
        if cfg!(feature = "cli") {
            let set = LabelledSet::read(&path, &ReadOptions::default()).unwrap();
            assert_eq!((set.len(), set.labels.len()), (100, 6));
            assert_eq!(set.rows[7].text, some[7].text);
            assert_eq!(set.labels[set.rows[7].label], some[7].topic);
            write_sentiment_csv(&some, &path).unwrap();
            let set = LabelledSet::read(&path, &ReadOptions::default()).unwrap();
            assert_eq!(set.labels, SENTIMENTS);
        }

        let path = folder.join("ner.txt");
        write_ner(&some, &path).unwrap();
        let set = TaggedSet::read(&path, Encoding::Utf8).unwrap();
        assert_eq!(set.spans(), some.iter().map(|s| s.entities.len()).sum::<usize>());
        assert_eq!(set.len(), some.iter().map(|s| s.sentences.len()).sum::<usize>());

        let path = folder.join("srl.tsv");
        write_srl(&some, &path).unwrap();
        let set = SrlSet::read(&path, Encoding::Utf8).unwrap();
        assert_eq!(set.len(), some.iter().map(|s| s.roles.len()).sum::<usize>());
        let (words, verb, tags) = some[0].role_tags(&some[0].roles[0]);
        assert_eq!(set.examples[0].words, words);
        assert_eq!((set.examples[0].predicate, &set.examples[0].tags), (verb, &tags));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_corpus_has_the_size_asked_for() {
    let text = corpus(1, Language::English, 100_000);
    assert!((100_000..102_000).contains(&text.len()) && text.ends_with('\n'));
    assert!(corpus(1, Language::Chinese, 1).lines().count() == 1);
}
