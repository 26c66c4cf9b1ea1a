//! Byte-level byte-pair encoding, as in GPT-2 (Radford et al. 2019).
//!
//! Text is cut into words by GPT-2's pattern (a word takes its leading space along), each word is
//! written as its UTF-8 bytes, and frequent pairs are merged. Every byte is in the vocabulary, so
//! any text in any language comes back exactly, and nothing is ever unknown.
//!
//! Ids: `<|endoftext|>` is 0, the 256 bytes follow, then the merges in the order learned. In the
//! file each byte stands as one printable character (GPT-2's table: a space is `Ġ`).

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::merges::{Word, learn};
use super::{WordCounts, document};
use crate::error::{Error, Result};
use crate::text::Progress;

pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// The byte that each character of GPT-2's table stands for: printable Latin-1 characters stand for
/// themselves, the other bytes are numbered from U+0100.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = character as u32;
    if code < 256 {
        return Some(code as u8).filter(|&b| printable(b));
    }
    (0..=255u8).filter(|&b| !printable(b)).nth(code as usize - 256)
}

/// GPT-2's characters for the 256 bytes, in code-point order.
fn alphabet() -> impl Iterator<Item = char> {
    (0x21..0x144).filter_map(char::from_u32).filter(|&c| byte_of(c).is_some())
}

/// The words of a text as GPT-2's pattern cuts them, in the byte alphabet.
pub(super) fn words(text: &str, sink: &mut dyn FnMut(&str)) -> tokenizers::Result<()> {
    let mut parts = PreTokenizedString::from(text);
    ByteLevel::new(false, false, true).pre_tokenize(&mut parts)?;
    for (word, _, _) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        sink(word);
    }
    Ok(())
}

/// Learns the merges and writes the `tokenizer.json`.
pub(super) fn build(
    counts: WordCounts,
    vocab_size: usize,
    min_frequency: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value> {
    if vocab_size < 257 {
        return Err(Error::Usage(format!(
            "bpe:{vocab_size}: the vocabulary must hold the 256 bytes and {END_OF_TEXT}; \
             ask for 257 or more"
        )));
    }
    let mut pieces = vec![END_OF_TEXT.to_string()];
    pieces.extend(alphabet().map(String::from));
    let id = |c: char| pieces.iter().position(|p| p.chars().eq([c])).unwrap_or(0) as u32;
    let ids: std::collections::HashMap<char, u32> = alphabet().map(|c| (c, id(c))).collect();
    let words = counts
        .into_iter()
        .map(|(word, count)| Word { symbols: word.chars().map(|c| ids[&c]).collect(), count })
        .collect();
    let learned =
        learn(pieces, words, vocab_size, min_frequency, |a, b| format!("{a}{b}"), progress);

    let vocab: serde_json::Map<String, Value> =
        learned.pieces.iter().enumerate().map(|(id, p)| (p.clone(), json!(id))).collect();
    let merges: Vec<Value> = learned
        .merges
        .iter()
        .map(|&(a, b)| json!([learned.pieces[a as usize], learned.pieces[b as usize]]))
        .collect();
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    let byte_level = |trim: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": trim,
            "use_regex": true,
        })
    };
    Ok(document(
        &[END_OF_TEXT],
        Value::Null,
        byte_level(true),
        byte_level(false),
        byte_level(true),
        model,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_gpt2s() {
        assert_eq!(alphabet().count(), 256);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('a'), Some(b'a'));
        assert_eq!(byte_of(' '), None);
        let library = ByteLevel::alphabet();
        assert!(alphabet().all(|c| library.contains(&c)));
        let mut bytes: Vec<u8> = alphabet().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert!(bytes.into_iter().eq(0..=255));
    }
}
