//! Stories as files: the formats of the real corpora, so that the same readers and tasks run on both.

use std::fmt::Write;
use std::path::Path;

use super::Story;
use crate::error::Result;
use crate::text::atomic::write_file;

/// Running text, one story a line.
///
/// # Errors
/// When the system refuses to write.
pub fn write_plain<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: impl AsRef<Path>,
) -> Result<()> {
    let mut text = String::new();
    for story in stories {
        text.push_str(&story.text);
        text.push('\n');
    }
    write_file(path.as_ref(), text.as_bytes())
}

/// CSV with the columns `label` (the topic) and `text`.
///
/// # Errors
/// When the system refuses to write.
pub fn write_topic_csv<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: impl AsRef<Path>,
) -> Result<()> {
    write_csv(stories, path.as_ref(), |story| story.topic)
}

/// CSV with the columns `label` (the sentiment) and `text`.
///
/// # Errors
/// When the system refuses to write.
pub fn write_sentiment_csv<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: impl AsRef<Path>,
) -> Result<()> {
    write_csv(stories, path.as_ref(), |story| story.sentiment)
}

fn write_csv<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: &Path,
    label: impl Fn(&Story) -> &'static str,
) -> Result<()> {
    let mut text = String::from("label,text\n");
    for story in stories {
        // No story holds a quote; doubling them keeps that from becoming a trap.
        let quoted = story.text.replace('"', "\"\"");
        text.push_str(&format!("{},\"{quoted}\"\n", label(story)));
    }
    write_file(path, text.as_bytes())
}

/// Named entities as CoNLL columns: word, TAB, BIO tag; an empty line after each sentence.
///
/// # Errors
/// When the system refuses to write.
pub fn write_ner<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: impl AsRef<Path>,
) -> Result<()> {
    let mut text = String::new();
    for story in stories {
        let tags = story.entity_tags();
        for sentence in &story.sentences {
            for index in sentence.clone() {
                text.push_str(&format!("{}\t{}\n", story.words[index], tags[index]));
            }
            text.push('\n');
        }
    }
    write_file(path.as_ref(), text.as_bytes())
}

/// Semantic roles, one block a predicate: word, TAB, 1 at the predicate, TAB, BIO tag.
///
/// # Errors
/// When the system refuses to write.
pub fn write_srl<'a>(
    stories: impl IntoIterator<Item = &'a Story>,
    path: impl AsRef<Path>,
) -> Result<()> {
    let mut text = String::new();
    for story in stories {
        for predicate in &story.roles {
            let (words, verb, tags) = story.role_tags(predicate);
            for (index, (word, tag)) in words.iter().zip(tags).enumerate() {
                let _ = writeln!(text, "{word}\t{}\t{tag}", u8::from(index == verb));
            }
            text.push('\n');
        }
    }
    write_file(path.as_ref(), text.as_bytes())
}
