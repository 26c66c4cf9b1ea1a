//! Text: from bytes to token ids, and from label files to examples.
//!
//! | file | what it is for |
//! |---|---|
//! | [`read_text`] | a file as text, or an error that names file, line and byte |
//! | `tokenizer` | char, byte-level BPE and WordPiece: trained here, kept as `tokenizer.json` |
//! | [`token_file`] | a corpus as token ids: a checked, memory-mapped file, or the same in memory |
//! | [`labelled`] | texts with labels: CSV, TSV, JSONL, `label text` |
//! | [`conll`], [`srl`] | words with tags: entities and semantic roles |
//! | [`word_vocabulary`], [`words`] | what a word tagger knows of words; text cut into words |
//! | [`storyworld`] | a generator of short synthetic stories with gold labels for all of these |
//! | [`hash`] | a content hash that never changes |
//! | [`rng`] | orders and choices as pure functions of a seed |
//!
//! The way of a corpus: files → [`read_text`] → tokenizer → [`token_file::Tokens`] → batches (in
//! `train`). The way of an example: file → [`labelled`] or [`conll`] → tokenizer → a task (in `train`).
//! This room knows no tensor; it imports [`crate::error`] alone.

pub(crate) mod atomic;
pub mod conll;
pub mod hash;
pub mod labelled;
mod read;
pub mod rng;
pub mod srl;
pub mod storyworld;
pub mod token_file;
#[cfg(feature = "cli")]
pub mod tokenizer;
pub mod word_vocabulary;
pub mod words;

pub use read::{Encoding, decode_bytes, read_text};
#[cfg(feature = "cli")]
pub use token_file::TokenFile;
pub use token_file::Tokens;
#[cfg(feature = "cli")]
pub use tokenizer::{DecodeStream, Encoded, Tokenizer, TokenizerKind, TrainOptions, WordPieces};
pub use word_vocabulary::WordVocabulary;

/// How far a long job over text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: "count words", "learn merges", "tokenise".
    pub stage: &'static str,
    /// Units done: bytes of text, or vocabulary entries while merges are learned.
    pub done: u64,
    /// Units in all; 0 when that is not known beforehand.
    pub total: u64,
}

/// A progress callback that does nothing.
pub fn quiet(_: Progress) {}
