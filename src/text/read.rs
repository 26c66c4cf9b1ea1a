//! Reading text files, with errors that say where the file stops being text.

use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How the bytes of a file stand for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, with or without a byte-order mark. The default.
    #[default]
    Utf8,
    /// ISO 8859-1: byte n is character n. Every byte string is valid.
    Latin1,
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Encoding> {
        match name.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8" => Ok(Encoding::Utf8),
            "latin1" | "latin-1" | "iso-8859-1" => Ok(Encoding::Latin1),
            _ => Err(Error::Usage(format!("unknown encoding '{name}'; use utf8 or latin1"))),
        }
    }
}

/// Reads a whole text file. A byte-order mark at the start is dropped.
///
/// # Errors
/// When the file is missing, unreadable or a folder, when it is empty, and when it is not UTF-8
/// (with the byte offset and the line of the first wrong byte).
pub fn read_text(path: impl AsRef<Path>, encoding: Encoding) -> Result<String> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    if bytes.is_empty() {
        return Err(empty(path));
    }
    let text = decode_bytes(bytes, encoding, &path.display().to_string())?;
    if text.is_empty() {
        return Err(empty(path));
    }
    Ok(text)
}

/// Turns bytes into text: [`read_text`] without the file. `name` is what error messages call it.
///
/// # Errors
/// When the bytes are not in that encoding.
pub fn decode_bytes(bytes: Vec<u8>, encoding: Encoding, name: &str) -> Result<String> {
    match encoding {
        Encoding::Latin1 => Ok(latin1(&bytes)),
        Encoding::Utf8 => {
            let mut text = String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                let before = &error.as_bytes()[..at];
                not_utf8(name, at as u64, lines(before) + 1, error.as_bytes()[at])
            })?;
            if text.starts_with('\u{FEFF}') {
                text.drain(..'\u{FEFF}'.len_utf8());
            }
            Ok(text)
        }
    }
}

/// The bytes of a file, with the message for a missing one.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    refuse_folder(path)?;
    std::fs::read(path).map_err(|e| Error::io(path, "read", e))
}

/// "Is a directory" is what the system says, on some systems, and late. Say it first and everywhere.
pub(crate) fn refuse_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::Data(format!(
            "{}: this is a folder, not a file; name the files in it",
            path.display()
        )));
    }
    Ok(())
}

pub(crate) fn empty(path: &Path) -> Error {
    Error::Data(format!("{}: the file is empty", path.display()))
}

pub(crate) fn not_utf8(name: &str, offset: u64, line: u64, byte: u8) -> Error {
    Error::Data(format!(
        "{name}: line {line}: not UTF-8 (byte 0x{byte:02X} at offset {offset}); \
         convert the file, or pass --encoding latin1 if that is what it is"
    ))
}

/// Each byte as the character of the same number.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// How many line feeds there are.
pub(crate) fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_with_and_without_mark() {
        let marked = decode_bytes(b"\xEF\xBB\xBFhi".to_vec(), Encoding::Utf8, "f").unwrap();
        assert_eq!(marked, "hi");
        assert_eq!(decode_bytes(b"\xE9t\xE9".to_vec(), Encoding::Latin1, "f").unwrap(), "été");
    }

    #[test]
    fn a_wrong_byte_is_located() {
        let error = decode_bytes(b"one\ntwo \xFF".to_vec(), Encoding::Utf8, "a.txt").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("a.txt: line 2"), "{message}");
        assert!(message.contains("0xFF at offset 8"), "{message}");
        assert!(message.contains("--encoding latin1"), "{message}");
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn missing_empty_and_folder() {
        let folder = std::env::temp_dir();
        assert!(read_text(&folder, Encoding::Utf8).unwrap_err().to_string().contains("folder"));
        let missing = folder.join("handloom-no-such-file");
        assert_eq!(read_text(&missing, Encoding::Utf8).unwrap_err().exit_code(), 3);
        let path = folder.join(format!("handloom-empty-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let message = read_text(&path, Encoding::Utf8).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(message.contains("empty"), "{message}");
    }
}
