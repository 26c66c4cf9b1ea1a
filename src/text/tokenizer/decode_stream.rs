//! Decoding ids one at a time, for text that appears while it is generated.

use super::{Tokenizer, bpe};
use crate::error::Result;

/// Turns ids into text as they come. One id may be half a character (a Chinese character is three
/// bytes): such bytes are held back until the character is whole.
///
/// The pieces joined, with [`DecodeStream::finish`], are what [`Tokenizer::decode`] gives.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Byte-level: bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// Other models: the last id, whose text decides about the space before the next.
    last: Option<u32>,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> DecodeStream<'a> {
        DecodeStream { tokenizer, bytes: Vec::new(), last: None }
    }

    /// The stream of a text that goes on behind `id`: where words stand apart, a new word begins with a space.
    #[must_use]
    pub fn after(self, id: u32) -> DecodeStream<'a> {
        DecodeStream { last: Some(id), ..self }
    }

    /// The text that this id completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// When the id is not in the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if !self.tokenizer.byte_level {
            return self.push_piece(id);
        }
        let token = self.tokenizer.require(id)?;
        if self.tokenizer.added.contains(&token) {
            self.bytes.extend_from_slice(token.as_bytes());
        } else {
            for c in token.chars() {
                match bpe::byte_of(c) {
                    Some(byte) => self.bytes.push(byte),
                    None => {
                        self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
            }
        }
        Ok(self.take_whole(false))
    }

    /// What is left at the end: bytes that never became a character, shown as U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take_whole(true)
    }

    /// The longest run of whole characters; wrong bytes become U+FFFD, a beginning waits.
    fn take_whole(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = tail;
                    match error.error_len() {
                        Some(wrong) => rest = &rest[wrong..],
                        None if end => rest = &[],
                        None => break,
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
        self.bytes = rest.to_vec();
        text
    }

    fn push_piece(&mut self, id: u32) -> Result<String> {
        let text = match self.last {
            None => self.tokenizer.decode(&[id])?,
            Some(last) => {
                let before = self.tokenizer.decode(&[last])?;
                let both = self.tokenizer.decode(&[last, id])?;
                both.strip_prefix(&before).unwrap_or(&both).to_string()
            }
        };
        self.last = Some(id);
        Ok(text)
    }
}
