//! The file form: header, checks, memory map.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;
use rayon::prelude::*;

use super::beyond_vocabulary;
use crate::error::{Error, Result};
use crate::text::hash::{BLOCK, fold, hash_bytes};
use crate::text::read::refuse_folder;

const MAGIC: &[u8; 8] = b"HANDLOOM";
const VERSION: u32 = 1;
/// Bytes before the ids.
pub(super) const HEADER: usize = 64;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes an id: 2 or 4.
    pub width: u32,
    pub vocab_size: u64,
    pub tokenizer: u64,
    pub count: u64,
    pub source_bytes: u64,
    pub checksum: u64,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.width.to_le_bytes());
        let fields =
            [self.vocab_size, self.tokenizer, self.count, self.source_bytes, self.checksum];
        for (index, field) in fields.into_iter().enumerate() {
            bytes[16 + 8 * index..][..8].copy_from_slice(&field.to_le_bytes());
        }
        let own = hash_bytes(&bytes[..56]);
        bytes[56..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads a header; the error is the rest of a sentence that begins with the file's name.
    fn from_bytes(bytes: &[u8]) -> std::result::Result<Header, String> {
        if bytes.len() < HEADER || &bytes[..8] != MAGIC {
            return Err("not a token file; make one with this tokenizer from the text".into());
        }
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if word(8) != VERSION {
            return Err(format!(
                "token file version {}, but this build reads version {VERSION}; \
                 tokenise the text again",
                word(8)
            ));
        }
        if long(56) != hash_bytes(&bytes[..56]) {
            return Err("the header is damaged; tokenise the text again".into());
        }
        let header = Header {
            width: word(12),
            vocab_size: long(16),
            tokenizer: long(24),
            count: long(32),
            source_bytes: long(40),
            checksum: long(48),
        };
        match header.width {
            2 | 4 => Ok(header),
            width => Err(format!("ids of {width} bytes; expected 2 or 4")),
        }
    }
}

/// Folds blocks of id bytes into one checksum; blocks may be hashed in parallel.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let hashes: Vec<u64> = bytes.par_chunks(BLOCK).map(hash_bytes).collect();
    hashes.into_iter().fold(0, fold)
}

/// A token file, open and checked. Ids are read from the memory map without copying the file.
pub struct TokenFile {
    path: PathBuf,
    map: Mmap,
    /// To ask the system again how the file is.
    file: File,
    /// Its length and time of writing when it was opened.
    stamp: (u64, Option<SystemTime>),
    header: Header,
}

impl TokenFile {
    /// Opens a token file and checks all of it: header, length, checksum, tokenizer, every id.
    ///
    /// `tokenizer` is the hash of the tokenizer in use ([`Tokenizer::hash`](crate::text::Tokenizer::hash)),
    /// or `None` to take the file as it is.
    ///
    /// The file must not be changed in place while it is open: reading from it fails then.
    /// [`TokenFile::build`] never does that, it writes a new file and renames it.
    ///
    /// # Errors
    /// When the file is missing or any of the checks fails; the sentence says which and what to do.
    pub fn open(path: impl AsRef<Path>, tokenizer: Option<u64>) -> Result<TokenFile> {
        let path = path.as_ref();
        let refused = |why: String| Error::Data(format!("{}: {why}", path.display()));
        refuse_folder(path)?;
        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        let stamp = stamp(&file).map_err(|e| Error::io(path, "read", e))?;
        let size = stamp.0;
        if size < HEADER as u64 {
            return Err(refused(too_few(size))); // an empty file cannot be mapped
        }
        #[cfg(unix)]
        super::bus_error::watch(path);
        // SAFETY: the map is read only. The file is one that was renamed into place when it was
        // whole and that this program never writes to again. Should a foreign program shorten it
        // meanwhile, the check before each copy sees that; in the instant between the check and the copy,
        // reading beyond its new end raises a bus error, which ends the process (`bus_error`).
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        let header = check(&map, tokenizer).map_err(refused)?;
        let file = TokenFile { path: path.to_path_buf(), map, file, stamp, header };
        file.check_unchanged()?;
        Ok(file)
    }

    pub(super) fn ids(&self) -> &[u8] {
        &self.map[HEADER..]
    }

    /// What [`TokenFile::open`] checks, of bytes in memory; `name` is what messages call them.
    ///
    /// # Errors
    /// As [`TokenFile::open`].
    pub fn check(bytes: &[u8], name: &str, tokenizer: Option<u64>) -> Result<()> {
        check(bytes, tokenizer).map(drop).map_err(|why| Error::Data(format!("{name}: {why}")))
    }

    /// How many ids.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Every id is below this.
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// The hash of the tokenizer that made the ids.
    pub fn tokenizer_hash(&self) -> u64 {
        self.header.tokenizer
    }

    /// Bytes of the text behind the ids, for bits per byte.
    pub fn source_bytes(&self) -> u64 {
        self.header.source_bytes
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file that was written to since it was opened.
    fn check_unchanged(&self) -> Result<()> {
        let now = stamp(&self.file).map_err(|e| Error::io(&self.path, "read", e))?;
        if now == self.stamp {
            return Ok(());
        }
        Err(Error::Data(format!(
            "{}: the file was changed while it was in use (it had {} bytes, now it has {}); tokenise the \
             text again, then go on with --resume",
            self.path.display(),
            self.stamp.0,
            now.0
        )))
    }

    /// Copies `out.len()` ids from position `start`. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Data`] when the file was written to since it was opened.
    ///
    /// # Panics
    /// When the range reaches beyond the end, as slice indexing does.
    pub fn copy_to(&self, start: usize, out: &mut [u32]) -> Result<()> {
        self.check_unchanged()?;
        let width = self.header.width as usize;
        let bytes = &self.ids()[start * width..(start + out.len()) * width];
        if width == 2 {
            for (id, two) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *id = u32::from(u16::from_le_bytes([two[0], two[1]]));
            }
        } else {
            for (id, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *id = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenFile({}, {} ids)", self.path.display(), self.header.count)
    }
}

/// Checks the bytes of a token file: header, length, checksum, tokenizer (where one is given), every id.
///
/// # Errors
/// With the rest of a sentence that begins with the file's name.
fn check(bytes: &[u8], tokenizer: Option<u64>) -> std::result::Result<Header, String> {
    if bytes.len() < HEADER {
        return Err(too_few(bytes.len() as u64));
    }
    let header = Header::from_bytes(bytes)?;
    if let Some(expected) = tokenizer.filter(|&expected| expected != header.tokenizer) {
        return Err(format!(
            "made with another tokenizer ({:016x}, in use is {expected:016x}); use that \
             tokenizer or tokenise the text again",
            header.tokenizer
        ));
    }
    let (size, ids) = (bytes.len() as u128, &bytes[HEADER..]);
    let expected = u128::from(header.count) * u128::from(header.width) + HEADER as u128;
    if size != expected {
        let how = if size < expected { "cut short" } else { "too long" };
        return Err(format!(
            "{how}: {} tokens need {expected} bytes, the file has {size}; tokenise the text again",
            header.count
        ));
    }
    if checksum(ids) != header.checksum {
        return Err(
            "the checksum does not match: the file is damaged; tokenise the text again".into()
        );
    }
    let width = header.width as usize;
    let beyond = ids.par_chunks(BLOCK).enumerate().find_map_first(|(block, bytes)| {
        let mut ids = bytes.chunks_exact(width).map(read_id);
        let at = ids.position(|id| u64::from(id) >= header.vocab_size)?;
        Some(block * (BLOCK / width) + at)
    });
    match beyond {
        None => Ok(header),
        Some(at) => {
            Err(beyond_vocabulary(at, read_id(&ids[at * width..][..width]), header.vocab_size))
        }
    }
}

fn too_few(size: u64) -> String {
    format!("{size} bytes are too few for a token file; tokenise the text again")
}

/// Length and time of writing; half a microsecond.
fn stamp(file: &File) -> std::io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

fn read_id(bytes: &[u8]) -> u32 {
    match *bytes {
        [a, b] => u32::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
        _ => u32::MAX,
    }
}
