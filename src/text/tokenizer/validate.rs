//! Looking at a `tokenizer.json` before the tokenizers crate does.
//!
//! The file may come from anywhere. The crate trusts it: a merge longer than its token makes it
//! panic, a duplicate key wins silently, an unknown part gives a message about an untagged enum. So
//! everything the crate relies on is checked here first, and a wrong file is refused with a sentence.

use std::collections::HashMap;

use serde_json::Value;

/// Ids above this are refused: an embedding of that many rows would not fit any machine of ours.
const MOST_IDS: u64 = 4_000_000;
/// How deep normalisers, pre-tokenisers and decoders may be nested.
const DEEPEST: usize = 4;

const NORMALIZERS: &[&str] = &[
    "BertNormalizer",
    "ByteLevel",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Prepend",
    "Replace",
    "Sequence",
    "Strip",
    "StripAccents",
];
const PRE_TOKENIZERS: &[&str] = &[
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Digits",
    "Metaspace",
    "Punctuation",
    "Sequence",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
];
/// `Strip` is left out: the crate's counts beyond the end of short tokens and panics.
const DECODERS: &[&str] = &[
    "BPEDecoder",
    "ByteFallback",
    "ByteLevel",
    "Fuse",
    "Metaspace",
    "Replace",
    "Sequence",
    "WordPiece",
];

/// Checks everything; `Err` holds the rest of a sentence that begins with the file's name.
pub(super) fn validate(json: &Value) -> Result<(), String> {
    if !json.is_object() || json["model"].is_null() {
        return Err("not a tokenizer.json: there is no \"model\" in it".into());
    }
    component(&json["normalizer"], "normalizer", "normalizers", NORMALIZERS, 0)?;
    component(&json["pre_tokenizer"], "pre_tokenizer", "pretokenizers", PRE_TOKENIZERS, 0)?;
    component(&json["decoder"], "decoder", "decoders", DECODERS, 0)?;
    let vocab = vocabulary(&json["model"]["vocab"])?;
    model(&json["model"], &vocab)?;
    added_tokens(&json["added_tokens"], &vocab)
}

/// A part of the pipeline must be of a type that is known here, and not nested without end.
fn component(
    part: &Value,
    role: &str,
    list: &str,
    known: &[&str],
    depth: usize,
) -> Result<(), String> {
    if part.is_null() {
        return Ok(());
    }
    let Some(kind) = part["type"].as_str() else {
        return Err(format!("the {role} has no \"type\""));
    };
    if !known.contains(&kind) {
        return Err(format!(
            "the {role} is a {kind}, which is not supported; known: {}",
            known.join(", ")
        ));
    }
    if kind == "Sequence" {
        if depth == DEEPEST {
            return Err(format!("the {role}s are nested more than {DEEPEST} deep"));
        }
        let Some(parts) = part[list].as_array() else {
            return Err(format!("the {role} Sequence has no list \"{list}\""));
        };
        for part in parts {
            component(part, role, list, known, depth + 1)?;
        }
    }
    Ok(())
}

fn vocabulary(vocab: &Value) -> Result<HashMap<&str, u64>, String> {
    let Some(object) = vocab.as_object() else {
        return Err("the model has no \"vocab\" that maps tokens to ids".into());
    };
    if object.is_empty() {
        return Err("the vocabulary is empty".into());
    }
    let mut tokens: HashMap<u64, &str> = HashMap::with_capacity(object.len());
    let mut vocab = HashMap::with_capacity(object.len());
    for (token, id) in object {
        let Some(id) = id.as_u64().filter(|&id| id < MOST_IDS) else {
            return Err(format!(
                "the token {token:?} has the id {id}; ids are whole numbers from 0 to {}",
                MOST_IDS - 1
            ));
        };
        if let Some(other) = tokens.insert(id, token) {
            return Err(format!("the tokens {other:?} and {token:?} have the same id {id}"));
        }
        vocab.insert(token.as_str(), id);
    }
    Ok(vocab)
}

fn model(model: &Value, vocab: &HashMap<&str, u64>) -> Result<(), String> {
    // Files of older versions have no type; then merges tell a BPE from the others.
    let kind = model["type"].as_str().unwrap_or(match model["merges"].is_null() {
        true => "WordPiece",
        false => "BPE",
    });
    match kind {
        "BPE" => {
            if model["dropout"].as_f64().is_some_and(|p| p != 0.0) {
                return Err("the model has dropout on; its ids would be random".into());
            }
            if !model["unk_token"].is_null() {
                in_vocabulary(model, "unk_token", vocab)?;
            }
            merges(model, vocab)
        }
        "WordPiece" => {
            if model["max_input_chars_per_word"].as_u64().is_none() {
                return Err("the model has no whole number \"max_input_chars_per_word\"".into());
            }
            in_vocabulary(model, "unk_token", vocab)
        }
        "WordLevel" => in_vocabulary(model, "unk_token", vocab),
        other => Err(format!("the model is {other}; known: BPE, WordPiece, WordLevel")),
    }
}

fn in_vocabulary(model: &Value, key: &str, vocab: &HashMap<&str, u64>) -> Result<(), String> {
    match model[key].as_str() {
        Some(token) if vocab.contains_key(token) => Ok(()),
        Some(token) => Err(format!("\"{key}\" is {token:?}, which is not in the vocabulary")),
        None => Err(format!("the model has no \"{key}\"")),
    }
}

/// Each merge joins two known tokens into a known one.
fn merges(model: &Value, vocab: &HashMap<&str, u64>) -> Result<(), String> {
    let Some(list) = model["merges"].as_array() else {
        return Err("the BPE model has no list \"merges\"".into());
    };
    let prefix = match &model["continuing_subword_prefix"] {
        Value::Null => "",
        Value::String(prefix) => prefix,
        _ => return Err("\"continuing_subword_prefix\" is not a text".into()),
    };
    let mut joined = String::new();
    for (index, merge) in list.iter().enumerate() {
        let number = index + 1;
        let Some((a, b)) = halves(merge) else {
            return Err(format!("merge {number} is {merge}; expected two tokens"));
        };
        for half in [a, b] {
            if !vocab.contains_key(half) {
                return Err(format!("merge {number}: {half:?} is not in the vocabulary"));
            }
        }
        let Some(tail) = b.strip_prefix(prefix) else {
            return Err(format!("merge {number}: {b:?} does not begin with {prefix:?}"));
        };
        joined.clear();
        joined.push_str(a);
        joined.push_str(tail);
        if !vocab.contains_key(joined.as_str()) {
            return Err(format!("merge {number} makes {joined:?}, which is not in the vocabulary"));
        }
    }
    Ok(())
}

/// Both ways in which files write a merge: `"a b"` and `["a", "b"]`.
pub(super) fn halves(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' ').filter(|(_, b)| !b.contains(' ')),
        Value::Array(two) if two.len() == 2 => Some((two[0].as_str()?, two[1].as_str()?)),
        _ => None,
    }
}

fn added_tokens(added: &Value, vocab: &HashMap<&str, u64>) -> Result<(), String> {
    let list = match added {
        Value::Null => return Ok(()),
        Value::Array(list) => list,
        _ => return Err("\"added_tokens\" is not a list".into()),
    };
    let taken: HashMap<u64, &str> = vocab.iter().map(|(&token, &id)| (id, token)).collect();
    let mut ids = HashMap::new();
    for token in list {
        let content = token["content"].as_str().unwrap_or_default();
        if content.is_empty() {
            return Err("an added token has no \"content\"".into());
        }
        let Some(id) = token["id"].as_u64().filter(|&id| id < MOST_IDS) else {
            return Err(format!("the added token {content:?} has no proper \"id\""));
        };
        if vocab.get(content).is_some_and(|&known| known != id) {
            return Err(format!("the added token {content:?} has another id in the vocabulary"));
        }
        if let Some(other) = taken.get(&id).filter(|&&other| other != content) {
            return Err(format!("the added token {content:?} has the id {id} of {other:?}"));
        }
        if let Some(other) = ids.insert(id, content) {
            return Err(format!("the added tokens {other:?} and {content:?} share the id {id}"));
        }
    }
    Ok(())
}
