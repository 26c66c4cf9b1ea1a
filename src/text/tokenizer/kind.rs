//! What can be asked of the training of a tokenizer.

use std::str::FromStr;

use crate::error::{Error, Result};

/// Which tokenizer to train. Written `char`, `bpe:4096`, `wordpiece:8000` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// One id a character.
    Char,
    /// Byte-level byte-pair encoding.
    Bpe {
        /// How many ids, `<|endoftext|>` and the 256 bytes included.
        vocab_size: usize,
    },
    /// BERT's WordPiece.
    WordPiece {
        /// How many ids, the five special tokens included.
        vocab_size: usize,
    },
}

impl FromStr for TokenizerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<TokenizerKind> {
        let (name, size) = match text.split_once(':') {
            Some((name, size)) => (name, Some(size)),
            None => (text, None),
        };
        let size = |default: usize| match size {
            None => Ok(default),
            Some(size) => size
                .parse::<usize>()
                .ok()
                .filter(|n| (1..=4_000_000).contains(n))
                .ok_or_else(|| {
                    Error::Usage(format!("{text}: the vocabulary size '{size}' is not a number"))
                }),
        };
        match name {
            "char" if !text.contains(':') => Ok(TokenizerKind::Char),
            "bpe" => Ok(TokenizerKind::Bpe { vocab_size: size(4096)? }),
            "wordpiece" => Ok(TokenizerKind::WordPiece { vocab_size: size(8000)? }),
            _ => Err(Error::Usage(format!(
                "unknown tokenizer '{text}'; use char, bpe:4096, wordpiece:8000 or the path of a \
                 tokenizer.json"
            ))),
        }
    }
}

impl std::fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenizerKind::Char => write!(f, "char"),
            TokenizerKind::Bpe { vocab_size } => write!(f, "bpe:{vocab_size}"),
            TokenizerKind::WordPiece { vocab_size } => write!(f, "wordpiece:{vocab_size}"),
        }
    }
}

/// What can be chosen when a tokenizer is trained.
#[derive(Clone, Copy, Debug)]
pub struct TrainOptions {
    /// WordPiece: fold to lower case and drop accents (BERT "uncased"). Default true.
    pub lowercase: bool,
    /// A pair must occur this often to be merged. Default 2.
    pub min_frequency: u64,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions { lowercase: true, min_frequency: 2 }
    }
}
