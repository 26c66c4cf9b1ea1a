//! WordPiece, as in BERT (Devlin et al. 2019; Schuster and Nakajima 2012).
//!
//! The text is cleaned (control characters dropped, Chinese characters set apart, by request lower
//! case and without accents), cut at spaces and punctuation, and each word is covered from the left
//! by the longest pieces of the vocabulary; pieces inside a word begin with `##`. A word that cannot
//! be covered is `[UNK]` as a whole. Spaces are not kept: decoding sets single ones.
//!
//! The pieces are learned as byte-pair merges over characters. Ids: `[PAD]` 0, `[UNK]` 1, `[CLS]` 2,
//! `[SEP]` 3, `[MASK]` 4, then single characters in code-point order, then the merges.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::merges::{Word, learn};
use super::{WordCounts, document};
use crate::error::{Error, Result};
use crate::text::Progress;

pub(super) const SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const PREFIX: &str = "##";

/// The words of a text after BERT's cleaning.
pub(super) fn words(
    text: &str,
    lowercase: bool,
    sink: &mut dyn FnMut(&str),
) -> tokenizers::Result<()> {
    let mut cleaned = NormalizedString::from(text);
    BertNormalizer::new(true, true, None, lowercase).normalize(&mut cleaned)?;
    let mut parts = PreTokenizedString::from(cleaned);
    BertPreTokenizer.pre_tokenize(&mut parts)?;
    for (word, _, _) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
        sink(word);
    }
    Ok(())
}

/// Single-character pieces, `x` for a first character and `##x` for a later one, with their counts.
fn characters(counts: &WordCounts) -> BTreeMap<String, u64> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for (word, count) in counts {
        for (index, c) in word.chars().enumerate() {
            *seen.entry(piece(c, index)).or_default() += count;
        }
    }
    // A letter seen in one place of a word may come in the other tomorrow.
    let letters: Vec<String> = seen.keys().cloned().collect();
    for text in letters {
        let c = text.chars().next_back().unwrap_or('#');
        if c.is_alphabetic() && !is_cjk(c) {
            seen.entry(piece(c, 0)).or_default();
            seen.entry(piece(c, 1)).or_default();
        }
    }
    seen
}

fn piece(c: char, index: usize) -> String {
    if index == 0 { c.to_string() } else { format!("{PREFIX}{c}") }
}

/// The ranges that BERT sets apart as words of one character.
pub(super) fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// Learns the pieces and writes the `tokenizer.json`.
pub(super) fn build(
    counts: WordCounts,
    vocab_size: usize,
    min_frequency: u64,
    lowercase: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Value> {
    if vocab_size <= SPECIALS.len() {
        return Err(Error::Usage(format!(
            "wordpiece:{vocab_size}: the vocabulary must hold the five special tokens and the \
             characters of the text; ask for a few hundred, or thousands for Chinese"
        )));
    }
    // When there are more characters than room, the rarest stay out and become [UNK].
    let mut alphabet: Vec<(String, u64)> = characters(&counts).into_iter().collect();
    alphabet.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    alphabet.truncate(vocab_size - SPECIALS.len());
    alphabet.sort();
    let mut pieces = SPECIALS.map(String::from).to_vec();
    pieces.extend(alphabet.into_iter().map(|(piece, _)| piece));

    let ids: HashMap<&str, u32> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.as_str(), id as u32)).collect();
    let words: Vec<Word> = counts
        .into_iter()
        .filter_map(|(word, count)| {
            let symbols: Option<Vec<u32>> = word
                .chars()
                .enumerate()
                .map(|(index, c)| ids.get(piece(c, index).as_str()).copied())
                .collect();
            symbols.map(|symbols| Word { symbols, count })
        })
        .collect();
    let join = |a: &str, b: &str| format!("{a}{}", b.strip_prefix(PREFIX).unwrap_or(b));
    let learned = learn(pieces, words, vocab_size, min_frequency, join, progress);

    let vocab: serde_json::Map<String, Value> =
        learned.pieces.iter().enumerate().map(|(id, p)| (p.clone(), json!(id))).collect();
    let model = json!({
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": PREFIX,
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    });
    let normalizer = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": true,
        "strip_accents": null,
        "lowercase": lowercase,
    });
    let special = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
    let part =
        |kind: &str, id: &str, type_id: u32| json!({ kind: { "id": id, "type_id": type_id } });
    let single = [
        part("SpecialToken", "[CLS]", 0),
        part("Sequence", "A", 0),
        part("SpecialToken", "[SEP]", 0),
    ];
    let mut pair = single.to_vec();
    pair.extend([part("Sequence", "B", 1), part("SpecialToken", "[SEP]", 1)]);
    let post_processor = json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": { "[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3) },
    });
    let decoder = json!({ "type": "WordPiece", "prefix": PREFIX, "cleanup": true });
    let pre_tokenizer = json!({ "type": "BertPreTokenizer" });
    Ok(document(&SPECIALS, normalizer, pre_tokenizer, post_processor, decoder, model))
}
