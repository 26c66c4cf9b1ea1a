//! Tokenizers: text to ids and back.
//!
//! Three kinds are trained here, each in its file: `char`, byte-level `bpe` and `wordpiece`. All are
//! kept as `tokenizer.json`, the format of Hugging Face, and encoding and decoding are the work of
//! its `tokenizers` crate: a file saved here gives the same ids there, and GPT-2's and BERT's own
//! files load here.
//!
//! | kind | lossless | unknown text | for |
//! |---|---|---|---|
//! | `char` | on its own corpus | `<unk>` per character | small corpora, Chinese |
//! | `bpe:N` | always | does not exist: bytes | gpt |
//! | `wordpiece:N` | no: spaces, case by choice | `[UNK]` per word | bert, tagging |
//!
//! Training is deterministic: the same texts give the same file at any number of threads.

mod bpe;
mod char_level;
mod cut;
mod decode_stream;
mod kind;
mod merges;
mod validate;
mod wordpiece;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::hash::hash_bytes;
use super::{Encoding, Progress, atomic, read_text};
use crate::error::{Error, Result};
pub use decode_stream::DecodeStream;
pub use kind::{TokenizerKind, TrainOptions};

/// Bytes of text that one thread tokenises at a time.
const PART: usize = 64 << 10;

/// Distinct words and how often each occurs.
type WordCounts = BTreeMap<String, u64>;

/// A text as a model takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for the first text (with `[CLS]` and its `[SEP]`), 1 for the second. As long as `ids`.
    pub token_type_ids: Vec<u32>,
    /// How many tokens did not fit and were cut off.
    pub truncated: usize,
}

/// Words cut into pieces, for tagging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordPieces {
    /// Token ids, no special tokens.
    pub ids: Vec<u32>,
    /// For each id the index of its word. Every word has at least one piece.
    pub words: Vec<u32>,
}

/// A tokenizer: trained here or read from a `tokenizer.json`. Immutable, shared freely by threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The file's text, kept as it came, so that saving changes nothing.
    json: String,
    hash: u64,
    vocab_size: usize,
    /// The texts of the added tokens (`<|endoftext|>`, `[CLS]`, …).
    added: Vec<String>,
    byte_level: bool,
    /// Whether a long text may be cut at word ends without changing the ids.
    divisible: bool,
    pad: Option<u32>,
    unk: Option<u32>,
    cls: Option<u32>,
    sep: Option<u32>,
    mask: Option<u32>,
    eos: Option<u32>,
}

/// The frame of a `tokenizer.json`; `specials` get the ids from 0.
fn document(
    specials: &[&str],
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
) -> Value {
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    })
}

/// Runs the crate with a net: its errors and its panics become one of ours.
fn guarded<T>(what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Data(format!("{what}: {error}"))),
        Err(_) => Err(Error::Data(format!("{what}: the tokenizer file is malformed"))),
    }
}

/// Training.
impl Tokenizer {
    /// Trains a tokenizer on texts that are in memory or come one by one.
    ///
    /// # Errors
    /// When the texts are empty or the vocabulary is too small for the kind.
    pub fn train(
        kind: TokenizerKind,
        texts: impl IntoIterator<Item = String>,
        progress: impl FnMut(Progress),
    ) -> Result<Tokenizer> {
        let texts = texts.into_iter().map(Ok);
        Self::train_with(kind, &TrainOptions::default(), texts, 0, progress)
    }

    /// Trains a tokenizer on files, one in memory at a time.
    ///
    /// # Errors
    /// As [`Tokenizer::train`], and when a file cannot be read as text.
    pub fn train_files(
        kind: TokenizerKind,
        options: &TrainOptions,
        files: &[PathBuf],
        encoding: Encoding,
        progress: impl FnMut(Progress),
    ) -> Result<Tokenizer> {
        let bytes = files.iter().filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len()).sum();
        let texts = files.iter().map(|file| read_text(file, encoding));
        Self::train_with(kind, options, texts, bytes, progress)
    }

    /// Trains with every choice open. `total` is the number of bytes to come, for the progress, or 0.
    ///
    /// # Errors
    /// As [`Tokenizer::train`]; an `Err` among the texts is passed on.
    pub fn train_with(
        kind: TokenizerKind,
        options: &TrainOptions,
        texts: impl IntoIterator<Item = Result<String>>,
        total: u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<Tokenizer> {
        let mut characters = BTreeSet::new();
        let mut counts = WordCounts::new();
        let mut done = 0;
        for text in texts {
            let text = text?;
            match kind {
                TokenizerKind::Char => characters.extend(text.chars()),
                TokenizerKind::Bpe { .. } => {
                    let added = [bpe::END_OF_TEXT.to_string()];
                    count_words(&text, &added, &mut counts, bpe::words)?;
                }
                TokenizerKind::WordPiece { .. } => {
                    let added = wordpiece::SPECIALS.map(String::from);
                    count_words(&text, &added, &mut counts, |part, sink| {
                        wordpiece::words(part, options.lowercase, sink)
                    })?;
                }
            }
            done += text.len() as u64;
            progress(Progress { stage: "count words", done, total: total.max(done) });
        }
        if characters.is_empty() && counts.is_empty() {
            return Err(Error::Data(format!("no text to train the tokenizer '{kind}' on")));
        }
        let json = match kind {
            TokenizerKind::Char => char_level::build(&characters),
            TokenizerKind::Bpe { vocab_size } => {
                bpe::build(counts, vocab_size, options.min_frequency, &mut progress)?
            }
            TokenizerKind::WordPiece { vocab_size } => wordpiece::build(
                counts,
                vocab_size,
                options.min_frequency,
                options.lowercase,
                &mut progress,
            )?,
        };
        let json = serde_json::to_string_pretty(&json).map_err(|e| Error::Failed(e.to_string()))?;
        Self::parse(json, "the trained tokenizer")
    }
}

/// Counts the words of a text in parallel. Sums of integers: the order of the parts does not matter.
fn count_words(
    text: &str,
    added: &[String],
    counts: &mut WordCounts,
    words: impl Fn(&str, &mut dyn FnMut(&str)) -> tokenizers::Result<()> + Sync,
) -> Result<()> {
    let parts = cut::cut(text, PART, added);
    let found: Vec<Result<WordCounts>> = parts
        .par_iter()
        .map(|part| {
            let mut counts = std::collections::HashMap::<String, u64>::new();
            guarded("counting words", || {
                words(part, &mut |word| match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(word.to_string(), 1);
                    }
                })
            })?;
            Ok(counts.into_iter().collect())
        })
        .collect();
    for part in found {
        for (word, count) in part? {
            *counts.entry(word).or_default() += count;
        }
    }
    Ok(())
}

/// Files.
impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file is missing or not a tokenizer this build understands: the sentence says what is
    /// wrong with it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        Self::parse(read_text(path, Encoding::Utf8)?, &path.display().to_string())
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Tokenizer> {
        let name = "tokenizer.json";
        Self::parse(super::decode_bytes(bytes.to_vec(), Encoding::Utf8, name)?, name)
    }

    fn parse(json: String, name: &str) -> Result<Tokenizer> {
        let value = crate::json::parse(json.as_bytes())
            .map_err(|wrong| Error::Data(format!("{name}: {wrong}")))?;
        validate::validate(&value).map_err(|wrong| Error::Data(format!("{name}: {wrong}")))?;

        // Truncation, padding and special tokens are our callers' business: the crate's own are
        // taken out, and with them its least guarded code.
        let mut kept = value.clone();
        for key in ["truncation", "padding", "post_processor"] {
            kept[key] = Value::Null;
        }
        let bytes = serde_json::to_vec(&kept).map_err(|e| Error::Failed(e.to_string()))?;
        let inner = guarded(name, || tokenizers::Tokenizer::from_bytes(bytes))?;

        let mut added = Vec::new();
        for token in value["added_tokens"].as_array().into_iter().flatten() {
            let content = token["content"].as_str().unwrap_or_default();
            let id = token["id"].as_u64().map(|id| id as u32);
            if inner.token_to_id(content) != id {
                return Err(Error::Data(format!(
                    "{name}: the added token {content:?} does not get its id {}",
                    token["id"]
                )));
            }
            added.push(content.to_string());
        }
        let vocab_size =
            inner.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1);
        let find = |names: &[&str]| names.iter().find_map(|name| inner.token_to_id(name));
        let kind = |key: &str| value[key]["type"].as_str().unwrap_or("").to_string();
        let (pre, normalizer) = (kind("pre_tokenizer"), kind("normalizer"));
        let gpt2 = pre == "ByteLevel"
            && value["pre_tokenizer"]["add_prefix_space"] == json!(false)
            && value["pre_tokenizer"]["use_regex"] != json!(false);
        let char = pre.is_empty() && value["model"]["merges"] == json!([]);
        let bert = pre == "BertPreTokenizer" && ["BertNormalizer", ""].contains(&&*normalizer);
        Ok(Tokenizer {
            hash: hash_bytes(&canonical(&value)),
            vocab_size,
            byte_level: kind("decoder") == "ByteLevel",
            divisible: bert || (normalizer.is_empty() && (gpt2 || char)),
            pad: find(&["[PAD]", "<pad>", "<|pad|>", "<|padding|>"]),
            unk: find(&["[UNK]", "<unk>"]),
            cls: find(&["[CLS]"]),
            sep: find(&["[SEP]"]),
            mask: find(&["[MASK]", "<mask>"]),
            eos: find(&["<|endoftext|>", "</s>", "<eos>"]),
            added,
            inner,
            json,
        })
    }

    /// Writes the `tokenizer.json`, whole or not at all. A file that was read is written back
    /// unchanged.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic::write_file(path.as_ref(), self.json.as_bytes())
    }

    /// The `tokenizer.json` as text.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// The `tokenizer_config.json` that lets `AutoTokenizer` open the folder; `max_length` is the
    /// model's context.
    pub fn config_json(&self, max_length: usize) -> String {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "clean_up_tokenization_spaces": false,
        });
        let roles = [
            ("pad_token", self.pad),
            ("unk_token", self.unk),
            ("cls_token", self.cls),
            ("sep_token", self.sep),
            ("mask_token", self.mask),
            ("eos_token", self.eos),
            ("bos_token", self.eos),
        ];
        for (role, id) in roles {
            // A role makes its text special there: `<unk>` of the char tokenizer must stay plain.
            let token = id.and_then(|id| self.id_to_token(id));
            if let Some(token) = token.filter(|token| self.added.contains(token)) {
                config[role] = json!(token);
            }
        }
        serde_json::to_string_pretty(&config).unwrap_or_default()
    }
}

/// The parts of a file that decide about ids, in one spelling: keys sorted, merges as pairs, no
/// spaces. Two files with the same canonical form give the same ids.
fn canonical(value: &Value) -> Vec<u8> {
    fn write(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Object(object) => {
                let mut keys: Vec<&String> = object.keys().collect();
                keys.sort();
                out.push(b'{');
                for key in keys.into_iter().filter(|key| !object[*key].is_null()) {
                    out.extend(json!(key).to_string().bytes());
                    out.push(b':');
                    if key == "merges" {
                        for merge in object[key].as_array().into_iter().flatten() {
                            let (a, b) = validate::halves(merge).unwrap_or_default();
                            out.extend(json!([a, b]).to_string().bytes());
                        }
                    } else {
                        write(&object[key], out);
                    }
                    out.push(b',');
                }
                out.push(b'}');
            }
            Value::Array(list) => {
                out.push(b'[');
                for item in list {
                    write(item, out);
                    out.push(b',');
                }
                out.push(b']');
            }
            leaf => out.extend(leaf.to_string().bytes()),
        }
    }
    let mut out = Vec::new();
    for key in ["added_tokens", "normalizer", "pre_tokenizer", "decoder", "model"] {
        write(&value[key], &mut out);
        out.push(b'\n');
    }
    out
}

/// Encoding and decoding.
impl Tokenizer {
    /// The ids of a text; no special token is added. A long text is tokenised in parallel.
    ///
    /// # Errors
    /// When the tokenizer cannot express the text (a foreign file without an unknown token).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() <= 2 * PART {
            return self.encode_part(text);
        }
        let parts: Vec<Result<Vec<u32>>> =
            self.cut(text).into_par_iter().map(|part| self.encode_part(part)).collect();
        let mut ids = Vec::with_capacity(text.len() / 2);
        for part in parts {
            ids.extend(part?);
        }
        Ok(ids)
    }

    /// The parts of a text that may be tokenised apart; one, when this tokenizer cannot be cut.
    pub(super) fn cut<'a>(&self, text: &'a str) -> Vec<&'a str> {
        if self.divisible { cut::cut(text, PART, &self.added) } else { vec![text] }
    }

    fn encode_part(&self, text: &str) -> Result<Vec<u32>> {
        guarded("tokenising", || Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec()))
    }

    /// [`Tokenizer::encode`] of many texts in parallel, in order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// One or two texts as a classifier takes them, at most `max_length` ids.
    ///
    /// With `[CLS]` and `[SEP]` in the vocabulary: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.
    /// Otherwise `a` or `a eos b`. The longer text is cut first, from its end.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; when `max_length` leaves no room for text.
    pub fn encode_pair(&self, a: &str, b: Option<&str>, max_length: usize) -> Result<Encoded> {
        let mut first = self.encode(a)?;
        let mut second = b.map(|b| self.encode(b)).transpose()?;
        let (before, between, after) = match (self.cls, self.sep) {
            (Some(cls), Some(sep)) => (Some(cls), Some(sep), Some(sep)),
            _ => (None, self.eos, None),
        };
        let between = between.filter(|_| second.is_some());
        let extra = [before, between, after].iter().flatten().count();
        let Some(room) = max_length.checked_sub(extra).filter(|&room| room > 0) else {
            return Err(Error::Usage(format!(
                "a length of {max_length} tokens leaves no room for text beside {extra} special tokens"
            )));
        };
        let mut other = second.as_ref().map_or(0, Vec::len);
        let wanted = first.len() + other;
        let mut own = first.len();
        while own + other > room {
            // Cut the longer to the length of the shorter, then both in turn.
            if own > other {
                own -= (own + other - room).min(own - other);
            } else if other > own {
                other -= (own + other - room).min(other - own);
            } else {
                let over = own + other - room;
                own -= over / 2;
                other -= over - over / 2;
            }
        }
        first.truncate(own);
        let mut encoded = Encoded { truncated: wanted - own - other, ..Encoded::default() };
        let mut put = |ids: &[u32], kind: u32| {
            encoded.ids.extend_from_slice(ids);
            encoded.token_type_ids.resize(encoded.ids.len(), kind);
        };
        put(before.as_slice(), 0);
        put(&first, 0);
        put(between.as_slice(), 0);
        if let Some(second) = &mut second {
            second.truncate(other);
            put(second, 1);
        }
        put(after.as_slice(), u32::from(second.is_some()));
        Ok(encoded)
    }

    /// The pieces of given words, each piece with the index of its word; no special tokens.
    ///
    /// Byte-level and character models see a space between two words (not beside a Chinese
    /// character), as they would in running text. A word that normalises to nothing becomes one
    /// unknown piece, so that no tag is lost.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_words(&self, words: &[&str]) -> Result<WordPieces> {
        let mut pieces = WordPieces::default();
        let spaced = self.cls.is_none();
        let mut before: Option<char> = None;
        let mut buffer = String::new();
        for (index, word) in words.iter().enumerate() {
            buffer.clear();
            let first = word.chars().next();
            let joint = [before, first];
            if spaced && joint.iter().all(|c| c.is_some_and(|c| !wordpiece::is_cjk(c))) {
                buffer.push(' ');
            }
            buffer.push_str(word);
            before = word.chars().next_back().or(before);
            let start = pieces.ids.len();
            pieces.ids.extend(self.encode_part(&buffer)?);
            if pieces.ids.len() == start {
                pieces.ids.push(self.unk.or(self.eos).unwrap_or(0));
            }
            pieces.words.resize(pieces.ids.len(), index as u32);
        }
        Ok(pieces)
    }

    /// The text of ids, special tokens written out. Bytes that are no character become U+FFFD.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, false)
    }

    /// [`Tokenizer::decode`] without the special tokens (`[CLS]`, `[PAD]`, `<|endoftext|>`).
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, true)
    }

    fn decode_with(&self, ids: &[u32], skip: bool) -> Result<String> {
        for &id in ids {
            if id as usize >= self.vocab_size {
                self.require(id)?;
            }
        }
        guarded("decoding", || self.inner.decode(ids, skip))
    }

    /// Decodes ids as they come; see [`DecodeStream`].
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    fn require(&self, id: u32) -> Result<String> {
        self.id_to_token(id).ok_or_else(|| {
            Error::Data(format!(
                "the token id {id} is not in the vocabulary of {} entries",
                self.vocab_size
            ))
        })
    }
}

/// The vocabulary.
impl Tokenizer {
    /// How many rows an embedding needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a piece, written as in the file.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The piece of an id, written as in the file (`Ġthe`, `##ing`).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// A hash of everything that decides about ids. It does not change when the file is laid out
    /// anew, here or by another program.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether each id of the vocabulary is a special token (never masked, never scored).
    pub fn special_ids(&self) -> Vec<bool> {
        let mut special = vec![false; self.vocab_size];
        let ids = self.added.iter().filter_map(|token| self.token_to_id(token));
        ids.for_each(|id| special[id as usize] = true);
        special
    }

    /// `[PAD]` or its like.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// `[UNK]` or `<unk>`.
    pub fn unk_id(&self) -> Option<u32> {
        self.unk
    }

    /// `[CLS]`.
    pub fn cls_id(&self) -> Option<u32> {
        self.cls
    }

    /// `[SEP]`.
    pub fn sep_id(&self) -> Option<u32> {
        self.sep
    }

    /// `[MASK]` or `<mask>`.
    pub fn mask_id(&self) -> Option<u32> {
        self.mask
    }

    /// `<|endoftext|>` or its like: the end of a document.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }
}

#[cfg(test)]
mod tests;
