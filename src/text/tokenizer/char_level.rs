//! The character tokenizer: one id a character, newline and space included.
//!
//! Id 0 is `<unk>`, for characters that the corpus did not have; the others follow in code-point
//! order. In `tokenizer.json` it is a BPE model without merges and a decoder that joins. `<unk>` is
//! an entry of the vocabulary but not an added token: a corpus that contains the five characters
//! `<unk>` (WikiText does) keeps them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::document;

pub(super) const UNK: &str = "<unk>";

/// The `tokenizer.json` of a character set.
pub(super) fn build(characters: &BTreeSet<char>) -> Value {
    let mut vocab = serde_json::Map::new();
    vocab.insert(UNK.into(), json!(0));
    for (index, character) in characters.iter().enumerate() {
        vocab.insert(character.to_string(), json!(index + 1));
    }
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": UNK,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": [],
    });
    document(&[], Value::Null, Value::Null, Value::Null, json!({ "type": "Fuse" }), model)
}
