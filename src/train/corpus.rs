//! From files to what a language model learns from: one stream of tokens, or lines of them.
//!
//! Text files are text. Label files (CSV, TSV, JSONL, `label text`, CoNLL) give their text column, so
//! that a model can first learn how the texts of a task are written (Howard and Ruder 2018): each row is
//! a document, and since such files are often sorted by class, the rows are shuffled before any of them
//! is kept for validation.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::control::Control;
use super::data::Sequence;
use super::labelled::Columns;
use super::pretrain::settings::PretrainConfig;
use super::tasks::lines::Lines;
use crate::error::{Error, Result};
use crate::text::conll::TaggedSet;
use crate::text::labelled::{Format, read_unlabelled};
use crate::text::rng::shuffled;
use crate::text::{Encoding, Progress, TokenFile, Tokenizer, Tokens, read_text};

/// Text that is longer than this many bytes is tokenised into a file and mapped, not held in memory.
const IN_MEMORY: u64 = 256 << 20;

/// What a language model learns from, and what it is measured by.
pub(super) type Split<T> = (T, Option<T>);

/// Whether a file is read for its text column: its name or the flags say so.
fn is_labelled(file: &Path, columns: &Columns) -> bool {
    let ending = file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let named = ["csv", "tsv", "jsonl", "ndjson"];
    columns.format.is_some()
        || columns.text_column.is_some()
        || columns.label_column.is_some()
        || ending.is_some_and(|ending| named.contains(&ending.as_str()))
}

/// The texts of label files, row by row; `None` where the files are plain text.
///
/// # Errors
/// When a file cannot be read as what it seems to be.
pub(super) fn documents(files: &[PathBuf], columns: &Columns) -> Result<Option<Vec<String>>> {
    if !files.iter().any(|file| is_labelled(file, columns)) {
        return Ok(None);
    }
    let options = columns.options()?;
    let mut all = Vec::new();
    for file in files {
        if options.format == Format::Conll {
            let set = TaggedSet::read(file, options.encoding)?;
            all.extend(set.sentences.iter().map(|sentence| joined(&sentence.words)));
            continue;
        }
        for row in read_unlabelled(file, &options)? {
            all.push(row.text);
            all.extend(row.text_pair);
        }
    }
    all.retain(|text| !text.trim().is_empty());
    Ok(Some(all))
}

/// Words as running text: a space between two, but not beside a Chinese character.
fn joined(words: &[String]) -> String {
    let wide = |c: Option<char>| c.is_some_and(|c| ('\u{2E80}'..='\u{FFEF}').contains(&c));
    let mut text = String::new();
    for word in words {
        let apart = !text.is_empty() && !wide(text.chars().last()) && !wide(word.chars().next());
        text.push_str(if apart { " " } else { "" });
        text.push_str(word);
    }
    text
}

/// The texts for a tokenizer to learn from, where the files are label files.
///
/// # Errors
/// As [`documents`].
pub(super) fn texts(
    files: &[PathBuf],
    columns: &Columns,
    line_by_line: bool,
) -> Result<Option<Vec<String>>> {
    match documents(files, columns)? {
        // The end of a line must be in the vocabulary.
        Some(texts) if line_by_line => Ok(Some(texts.into_iter().map(|t| t + "\n").collect())),
        other => Ok(other),
    }
}

/// The tokens of the training files, and of the validation files or the share that is kept for
/// validation: the end of a text, some of the rows of label files.
pub(super) fn stream(
    config: &PretrainConfig,
    tokenizer: &Tokenizer,
    context: usize,
    control: &mut Control<'_>,
) -> Result<Split<Tokens>> {
    let (columns, fraction) = (&config.columns, config.validation_fraction);
    let files =
        |files: &[PathBuf], name: &str, control: &mut Control<'_>| match documents(files, columns)?
        {
            Some(texts) => tokens_of(&texts, tokenizer),
            None => read_tokens(files, columns, tokenizer, &config.out, name, control),
        };
    if !config.validation.is_empty() {
        let train = files(&config.train, "train", control)?;
        return Ok((train, Some(files(&config.validation, "validation", control)?)));
    }
    if fraction == 0.0 {
        return Ok((files(&config.train, "train", control)?, None));
    }
    if let Some(texts) = documents(&config.train, columns)? {
        let (train, valid) = split(texts, fraction, config.trainer.seed)?;
        return Ok((tokens_of(&train, tokenizer)?, Some(tokens_of(&valid, tokenizer)?)));
    }
    let all = files(&config.train, "train", control)?;
    if all.len() < context + 2 {
        return Err(Error::Data(format!(
            "the training text has {} tokens, too few for a context of {context}; give more text or a smaller \
             --context-length",
            all.len()
        )));
    }
    let (train, valid) = all.split_tail(fraction)?;
    Ok((train, Some(valid)))
}

/// A random share of texts is kept for validation: the rest and those.
fn split<T>(all: Vec<T>, fraction: f64, seed: u64) -> Result<(Vec<T>, Vec<T>)> {
    let kept = (all.len() as f64 * fraction).round() as usize;
    if kept == 0 || kept >= all.len() {
        return Err(Error::Data(format!(
            "{} lines are too few to keep {fraction} of them for validation; give --validation",
            all.len()
        )));
    }
    let mut chosen = vec![false; all.len()];
    shuffled(all.len(), seed).into_iter().take(kept).for_each(|i| chosen[i] = true);
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for (text, chosen) in all.into_iter().zip(chosen) {
        if chosen { valid.push(text) } else { train.push(text) }
    }
    Ok((train, valid))
}

/// The tokens of documents, one after the other with what parts them.
pub(super) fn tokens_of(texts: &[String], tokenizer: &Tokenizer) -> Result<Tokens> {
    let line = || tokenizer.token_to_id("\n");
    let separator = tokenizer.eos_id().or_else(|| tokenizer.sep_id()).or_else(line);
    let mut all = Vec::new();
    for ids in tokenizer.encode_batch(texts)? {
        all.extend(ids);
        all.extend(separator);
    }
    let bytes: usize = texts.iter().map(|text| text.len() + 1).sum();
    Tokens::from_vec(all, tokenizer.vocab_size(), bytes as u64)
}

/// The tokens of files: text is tokenised (into a file of the run folder where it is long), one token file
/// is opened.
pub(super) fn read_tokens(
    files: &[PathBuf],
    columns: &Columns,
    tokenizer: &Tokenizer,
    out: &Path,
    name: &str,
    control: &mut Control<'_>,
) -> Result<Tokens> {
    if let [file] = files
        && is_token_file(file)
    {
        return Ok(TokenFile::open(file, Some(tokenizer.hash()))?.into());
    }
    let encoding = encoding(columns)?;
    let observer = &mut control.observer;
    let progress = |p: Progress| observer.progress(p.stage, p.done, p.total);
    let bytes: u64 = files.iter().filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len()).sum();
    if bytes <= IN_MEMORY {
        return Tokens::from_files(files, encoding, tokenizer, progress);
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
    let path = out.join(format!("{name}.tokens"));
    Ok(TokenFile::build_encoded(files, encoding, tokenizer, path, progress)?.into())
}

/// The encoding that the flags name.
pub(super) fn encoding(columns: &Columns) -> Result<Encoding> {
    columns.encoding.as_deref().unwrap_or("utf8").parse()
}

fn is_token_file(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0u8; 8];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"HANDLOOM"
}

/// The lines of files (of label files, the texts), each with its start and end. A model that reads
/// `longest` tokens gets no longer ones.
pub(super) fn lines(
    files: &[PathBuf],
    columns: &Columns,
    tokenizer: &Tokenizer,
    masked: bool,
    longest: Option<usize>,
) -> Result<Lines> {
    let texts = match documents(files, columns)? {
        Some(texts) => texts,
        None => {
            let mut all = Vec::new();
            for file in files {
                let text = read_text(file, encoding(columns)?)?;
                all.extend(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned));
            }
            all
        }
    };
    let frame = if masked { tokenizer.cls_id().zip(tokenizer.sep_id()) } else { ends(tokenizer) };
    let Some((start, end)) = frame else {
        return Err(Error::Usage(
            "--line-by-line: the tokenizer has no token that ends a line; train one on text with line \
             breaks"
                .into(),
        ));
    };
    // A next token is predicted from all but the last one.
    let room = longest.map_or(usize::MAX, |n| if masked { n } else { n + 1 });
    if room < 3 {
        return Err(Error::Usage("--context-length: leaves no room for a line".into()));
    }
    let encoded: Vec<Result<Sequence>> = texts
        .par_iter()
        .map(|text| {
            let mut ids = vec![start];
            ids.extend(tokenizer.encode(text)?);
            ids.push(end);
            Ok(Sequence { ids, token_type_ids: Vec::new() })
        })
        .collect();
    let mut all =
        Lines { bytes: texts.iter().map(|t| t.len() as u64 + 1).sum(), ..Lines::default() };
    for row in encoded {
        let mut row = row?;
        if row.ids.len() > room {
            all.truncated += 1;
            row.ids.truncate(room);
            if masked {
                row.ids[room - 1] = end;
            }
        }
        all.rows.push(row);
    }
    Ok(all)
}

/// What a line begins after and ends with, for a model that predicts the next token: the end of a text,
/// a line feed, or the frame of an encoder.
pub(super) fn ends(tokenizer: &Tokenizer) -> Option<(u32, u32)> {
    let end = tokenizer.eos_id().or_else(|| tokenizer.token_to_id("\n"));
    end.map(|end| (end, end)).or_else(|| tokenizer.cls_id().zip(tokenizer.sep_id()))
}

/// The lines of the training files, and those kept for validation.
pub(super) fn split_lines(all: Lines, fraction: f64, seed: u64) -> Result<Split<Lines>> {
    if fraction == 0.0 {
        return Ok((all, None));
    }
    let (total, bytes, truncated) = (all.len() as u64, all.bytes, all.truncated);
    let (train, valid) = split(all.rows, fraction, seed)?;
    let part = |rows: Vec<Sequence>, truncated| Lines {
        bytes: bytes * rows.len() as u64 / total.max(1),
        rows,
        truncated,
    };
    Ok((part(train, truncated), Some(part(valid, 0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TokenizerKind;

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("handloom-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn label_files_give_their_texts() {
        let columns = Columns::default();
        let csv = file("corpus.csv", "label,text\n1,\"two\nlines\"\n0,one\n0,\" \"\n");
        let jsonl = file("corpus.jsonl", "{\"text\": \"很好\", \"label\": 1}\n");
        let texts = documents(&[csv, jsonl], &columns).unwrap().unwrap();
        assert_eq!(texts, ["two\nlines", "one", "很好"]);
        let plain = file("corpus.txt", "a\tb\nc\td\n");
        assert!(documents(std::slice::from_ref(&plain), &columns).unwrap().is_none());
        let tsv = Columns { format: Some("tsv".into()), text_column: Some("2".into()), ..columns };
        assert_eq!(documents(&[plain], &tsv).unwrap().unwrap(), ["b", "d"]);
        let conll = Columns { format: Some("conll".into()), ..Columns::default() };
        let tagged = file("corpus.conll", "New B-LOC\nYork I-LOC\n\n北 B-LOC\n京 I-LOC\nok O\n");
        assert_eq!(documents(&[tagged], &conll).unwrap().unwrap(), ["New York", "北京ok"]);
    }

    #[test]
    fn rows_are_shuffled_before_some_are_kept() {
        let all: Vec<u32> = (0..100).collect();
        let (train, valid) = split(all.clone(), 0.2, 7).unwrap();
        assert_eq!((train.len(), valid.len()), (80, 20));
        // A file sorted by class has both halves in the part that is kept.
        assert!(valid.iter().any(|&i| i < 50) && valid.iter().any(|&i| i >= 50), "{valid:?}");
        assert_eq!(split(all.clone(), 0.2, 7).unwrap().1, valid);
        assert_ne!(split(all, 0.2, 8).unwrap().1, valid);
        assert!(split(vec![1, 2], 0.1, 0).is_err());
    }

    #[test]
    fn lines_have_start_and_end_and_are_cut_to_the_context() {
        let text = "ann\nbo\n\nannabella\n";
        let names = file("names.txt", text);
        let tokenizer = Tokenizer::train(TokenizerKind::Char, [text.to_owned()], |_| {}).unwrap();
        let end = tokenizer.token_to_id("\n").unwrap();
        let columns = Columns::default();
        let files = std::slice::from_ref(&names);
        let all = lines(files, &columns, &tokenizer, false, Some(5)).unwrap();
        assert_eq!((all.len(), all.truncated, all.bytes), (3, 1, 17));
        let ann = tokenizer.encode("\nann\n").unwrap();
        assert_eq!(all.rows[0].ids, ann);
        assert!(all.rows.iter().all(|row| row.ids[0] == end && row.ids.len() <= 6));
        assert!(lines(files, &columns, &tokenizer, true, None).is_err(), "no [CLS]");
        let (train, valid) = split_lines(all, 0.34, 1).unwrap();
        assert_eq!((train.len(), valid.unwrap().len()), (2, 1));
    }
}
