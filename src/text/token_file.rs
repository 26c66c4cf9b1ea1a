//! A corpus as token ids: in memory, or in a checked file that is mapped, not read.
//!
//! [`Tokens`] is what the trainer sees: a window on ids, cheap to clone and to cut. Behind it is a
//! vector, or a [`TokenFile`]:
//!
//! ```text
//! 0    8         "HANDLOOM"
//! 8    u32       version (1)
//! 12   u32       bytes an id: 2 or 4
//! 16   u64       vocabulary size
//! 24   u64       hash of the tokenizer
//! 32   u64       number of ids
//! 40   u64       bytes of source text, for bits per byte
//! 48   u64       checksum of the ids
//! 56   u64       checksum of the 56 bytes above
//! 64   ids       little-endian
//! ```
//!
//! A raw array of ids, as most small trainers write it, cannot tell that it was made with another
//! tokenizer or cut short by a full disk; training on it runs, and the loss is wrong. Here every such
//! mismatch is found at opening, which reads the file once. What happens to the file later is found before
//! each batch is copied: one that was written to is refused, one that vanished under the map ends the
//! process with a sentence, not with a bus error.

use std::sync::Arc;

#[cfg(feature = "cli")]
mod build;
#[cfg(all(unix, feature = "cli"))]
mod bus_error;
#[cfg(feature = "cli")]
mod file;
#[cfg(feature = "cli")]
pub use file::TokenFile;

use crate::error::{Error, Result};

enum Storage {
    Memory(Vec<u32>),
    #[cfg(feature = "cli")]
    File(TokenFile),
}

/// A window on a sequence of token ids. Clones share the storage.
#[derive(Clone)]
pub struct Tokens {
    storage: Arc<Storage>,
    start: usize,
    len: usize,
    vocab_size: usize,
    source_bytes: u64,
}

impl Tokens {
    /// Ids in memory. `source_bytes` is the length of the text they stand for (0 when unknown).
    ///
    /// # Errors
    /// When an id is not below `vocab_size`.
    pub fn from_vec(ids: Vec<u32>, vocab_size: usize, source_bytes: u64) -> Result<Tokens> {
        if let Some(at) = ids.iter().position(|&id| id as usize >= vocab_size) {
            let why = beyond_vocabulary(at, ids[at], vocab_size as u64);
            return Err(Error::Data(format!("token ids: {why}")));
        }
        let len = ids.len();
        let storage = Arc::new(Storage::Memory(ids));
        Ok(Tokens { storage, start: 0, len, vocab_size, source_bytes })
    }

    /// How many ids.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every id is below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Bytes of text behind these ids. For a window it is the share of the whole by its number of
    /// ids, an estimate; 0 when unknown.
    pub fn source_bytes(&self) -> u64 {
        let whole = match &*self.storage {
            Storage::Memory(ids) => ids.len(),
            #[cfg(feature = "cli")]
            Storage::File(file) => file.len(),
        };
        if whole == self.len {
            return self.source_bytes;
        }
        (u128::from(self.source_bytes) * self.len as u128 / whole.max(1) as u128) as u64
    }

    /// Copies `out.len()` ids from position `start`. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Data`] when the file behind them has been changed since it was opened.
    ///
    /// # Panics
    /// When the range reaches beyond the end, as slice indexing does.
    pub fn copy_to(&self, start: usize, out: &mut [u32]) -> Result<()> {
        let end = start.checked_add(out.len());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "ids {start}..+{} of {}",
            out.len(),
            self.len
        );
        let start = self.start + start;
        match &*self.storage {
            Storage::Memory(ids) => out.copy_from_slice(&ids[start..start + out.len()]),
            #[cfg(feature = "cli")]
            Storage::File(file) => file.copy_to(start, out)?,
        }
        Ok(())
    }

    /// All ids, copied.
    ///
    /// # Errors
    /// As [`Tokens::copy_to`].
    pub fn to_vec(&self) -> Result<Vec<u32>> {
        let mut ids = vec![0; self.len];
        self.copy_to(0, &mut ids)?;
        Ok(ids)
    }

    /// The window `start..end` of this window.
    ///
    /// # Errors
    /// When the range is reversed or reaches beyond the end.
    pub fn slice(&self, start: usize, end: usize) -> Result<Tokens> {
        if start > end || end > self.len {
            return Err(Error::Usage(format!("token range {start}..{end} of {} tokens", self.len)));
        }
        Ok(Tokens { start: self.start + start, len: end - start, ..self.clone() })
    }

    /// The head for training and the last `fraction` for validation.
    ///
    /// # Errors
    /// When the fraction is not between 0 and 1, or one of the parts would be empty.
    pub fn split_tail(&self, fraction: f64) -> Result<(Tokens, Tokens)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::Usage(format!(
                "--validation-fraction {fraction}: expected a number between 0 and 1, like 0.1"
            )));
        }
        let head = self.len - (self.len as f64 * fraction) as usize;
        if head == 0 || head == self.len {
            return Err(Error::Data(format!(
                "{} tokens are too few to keep {fraction} of them for validation",
                self.len
            )));
        }
        Ok((self.slice(0, head)?, self.slice(head, self.len)?))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({} ids below {})", self.len, self.vocab_size)
    }
}

#[cfg(feature = "cli")]
impl From<TokenFile> for Tokens {
    fn from(file: TokenFile) -> Tokens {
        let (len, vocab_size, source_bytes) = (file.len(), file.vocab_size(), file.source_bytes());
        Tokens { storage: Arc::new(Storage::File(file)), start: 0, len, vocab_size, source_bytes }
    }
}

fn beyond_vocabulary(position: usize, id: u32, vocab_size: u64) -> String {
    format!(
        "token {position} is {id}, beyond the vocabulary of {vocab_size}; \
         tokenise the text again with this tokenizer"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_in_memory() {
        let tokens = Tokens::from_vec((0..100).collect(), 100, 1000).unwrap();
        let (head, tail) = tokens.split_tail(0.1).unwrap();
        assert_eq!((head.len(), tail.len()), (90, 10));
        assert_eq!((tokens.source_bytes(), tail.source_bytes()), (1000, 100));
        assert_eq!(tail.slice(2, 5).unwrap().to_vec().unwrap(), [92, 93, 94]);
        assert!(tail.slice(2, 11).is_err() && tail.slice(3, 2).is_err());
        assert!(tokens.split_tail(f64::NAN).is_err() && tokens.split_tail(1.0).is_err());
        assert!(tokens.split_tail(0.001).is_err());
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_located() {
        let message = Tokens::from_vec(vec![1, 2, 9], 5, 0).unwrap_err().to_string();
        assert!(message.contains("token 2 is 9"), "{message}");
    }
}
