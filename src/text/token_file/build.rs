//! Making a token file: read, cut, tokenise in parallel, write, in bounded memory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Tokens;
use super::file::{HEADER, Header, TokenFile};
use crate::error::{Error, Result};
use crate::text::atomic::AtomicFile;
use crate::text::hash::{BLOCK, fold, hash_bytes};
use crate::text::read::{latin1, lines, not_utf8, refuse_folder};
use crate::text::{Encoding, Progress, Tokenizer};

/// Bytes of one file that are in memory at a time.
const READ: usize = 8 << 20;

impl TokenFile {
    /// Tokenises any number of UTF-8 files into one token file, and opens it.
    ///
    /// Between two files stands the end-of-text token (or `[SEP]`), where the tokenizer has one. The
    /// result does not depend on the number of threads. Memory: some 10 MB of text and its ids,
    /// however long the files are. Nothing is left behind when it fails.
    ///
    /// # Errors
    /// When a file is missing, empty or not UTF-8 (file, line and byte are named), or the system
    /// refuses to write.
    pub fn build(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        out: impl AsRef<Path>,
        progress: impl FnMut(Progress),
    ) -> Result<TokenFile> {
        Self::build_encoded(files, Encoding::Utf8, tokenizer, out, progress)
    }

    /// [`TokenFile::build`] for files in another encoding.
    ///
    /// # Errors
    /// As [`TokenFile::build`].
    pub fn build_encoded(
        files: &[PathBuf],
        encoding: Encoding,
        tokenizer: &Tokenizer,
        out: impl AsRef<Path>,
        progress: impl FnMut(Progress),
    ) -> Result<TokenFile> {
        let out = out.as_ref();
        let width = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
        let mut file = AtomicFile::create(out)?;
        file.write(&[0; HEADER])?;
        let mut block = Vec::with_capacity(BLOCK);
        let mut checksum = 0;
        let mut count = 0u64;
        let source_bytes = each_part(files, encoding, tokenizer, progress, |ids| {
            for id in ids {
                block.extend_from_slice(&id.to_le_bytes()[..width]);
                if block.len() == BLOCK {
                    checksum = fold(checksum, hash_bytes(&block));
                    file.write(&block)?;
                    block.clear();
                }
            }
            count += ids.len() as u64;
            Ok(())
        })?;
        if !block.is_empty() {
            checksum = fold(checksum, hash_bytes(&block));
            file.write(&block)?;
        }
        let header = Header {
            width: width as u32,
            vocab_size: tokenizer.vocab_size() as u64,
            tokenizer: tokenizer.hash(),
            count,
            source_bytes,
            checksum,
        };
        file.commit(Some(&header.to_bytes()))?;
        TokenFile::open(out, Some(tokenizer.hash()))
    }
}

impl Tokens {
    /// The ids of files, in memory: what [`TokenFile::build`] would write.
    ///
    /// # Errors
    /// As [`TokenFile::build`].
    pub fn from_files(
        files: &[PathBuf],
        encoding: Encoding,
        tokenizer: &Tokenizer,
        progress: impl FnMut(Progress),
    ) -> Result<Tokens> {
        let mut all = Vec::new();
        let bytes = each_part(files, encoding, tokenizer, progress, |ids| {
            all.extend_from_slice(ids);
            Ok(())
        })?;
        Tokens::from_vec(all, tokenizer.vocab_size(), bytes)
    }

    /// The ids of one text, in memory.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn from_text(text: &str, tokenizer: &Tokenizer) -> Result<Tokens> {
        Tokens::from_vec(tokenizer.encode(text)?, tokenizer.vocab_size(), text.len() as u64)
    }
}

/// Feeds the ids of all files to `sink`, part by part in order; gives the bytes of text.
fn each_part(
    files: &[PathBuf],
    encoding: Encoding,
    tokenizer: &Tokenizer,
    mut progress: impl FnMut(Progress),
    mut sink: impl FnMut(&[u32]) -> Result<()>,
) -> Result<u64> {
    if files.is_empty() {
        return Err(Error::Usage("no text files were given".into()));
    }
    let mut total = 0;
    for path in files {
        refuse_folder(path)?;
        total += std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?.len();
    }
    let separator = tokenizer.eos_id().or(tokenizer.sep_id());
    let (mut done, mut text_bytes) = (0, 0);
    for (index, path) in files.iter().enumerate() {
        if let Some(id) = separator.filter(|_| index > 0) {
            sink(&[id])?;
        }
        let mut reader = Blocks::open(path, encoding)?;
        let mut any = false;
        while let Some(text) = reader.next()? {
            any |= !text.is_empty();
            text_bytes += text.len() as u64;
            let parts: Vec<Result<Vec<u32>>> =
                tokenizer.cut(&text).into_par_iter().map(|p| tokenizer.encode(p)).collect();
            for part in parts {
                sink(&part?)?;
            }
            progress(Progress { stage: "tokenise", done: done + reader.bytes_read, total });
        }
        if !any {
            return Err(crate::text::read::empty(path));
        }
        done += reader.bytes_read;
    }
    Ok(text_bytes)
}

/// A file as pieces of text that end where a word ends.
struct Blocks<'a> {
    path: &'a Path,
    encoding: Encoding,
    file: File,
    /// Bytes read but not given out yet.
    pending: Vec<u8>,
    /// Bytes and line feeds before `pending`.
    offset: u64,
    line: u64,
    bytes_read: u64,
    end: bool,
}

impl<'a> Blocks<'a> {
    fn open(path: &'a Path, encoding: Encoding) -> Result<Blocks<'a>> {
        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        let pending = Vec::new();
        Ok(Blocks { path, encoding, file, pending, offset: 0, line: 1, bytes_read: 0, end: false })
    }

    fn next(&mut self) -> Result<Option<String>> {
        if self.end && self.pending.is_empty() {
            return Ok(None);
        }
        let wanted = READ.saturating_sub(self.pending.len()) as u64;
        let read = (&mut self.file)
            .take(wanted)
            .read_to_end(&mut self.pending)
            .map_err(|e| Error::io(self.path, "read", e))?;
        self.bytes_read += read as u64;
        self.end = (read as u64) < wanted;
        let valid = self.valid()?;
        let keep = if self.end { valid } else { last_word_end(&self.pending[..valid]) };
        let rest = self.pending.split_off(keep);
        let bytes = std::mem::replace(&mut self.pending, rest);
        let first = self.offset == 0;
        self.offset += bytes.len() as u64;
        self.line += lines(&bytes);
        if self.encoding == Encoding::Latin1 {
            return Ok(Some(latin1(&bytes)));
        }
        let mut text = String::from_utf8(bytes).map_err(|e| Error::Failed(e.to_string()))?;
        if first && text.starts_with('\u{FEFF}') {
            text.drain(..'\u{FEFF}'.len_utf8());
        }
        Ok(Some(text))
    }

    /// How many of the pending bytes are whole characters.
    fn valid(&self) -> Result<usize> {
        if self.encoding == Encoding::Latin1 {
            return Ok(self.pending.len());
        }
        match std::str::from_utf8(&self.pending) {
            Ok(text) => Ok(text.len()),
            Err(error) if error.error_len().is_none() && !self.end => Ok(error.valid_up_to()),
            Err(error) => {
                let at = error.valid_up_to();
                let line = self.line + lines(&self.pending[..at]);
                let name = self.path.display().to_string();
                Err(not_utf8(&name, self.offset + at as u64, line, self.pending[at]))
            }
        }
    }
}

/// The last place before white space that follows something else, or all of it when there is none.
fn last_word_end(bytes: &[u8]) -> usize {
    (1..bytes.len())
        .rev()
        .find(|&i| bytes[i].is_ascii_whitespace() && !bytes[i - 1].is_ascii_whitespace())
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
