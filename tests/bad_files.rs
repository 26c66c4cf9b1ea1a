//! Every reader of foreign bytes against files made by hand to break it.
//!
//! Each case is a file and the words that the refusal must have: what is wrong, and where. Among them are the
//! holes that other readers of these formats have or had: doubled keys, a shape of [2^64 − 1, 0], a merge longer
//! than its token, `../` in a list of shards, a gap between two tensors, nesting without end. A reader may not
//! panic, not fall back on its last net ("malformed"), and not take longer than a second.

#![cfg(feature = "cli")]

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use handloom::Error;
use handloom::models::{folder, safetensors};
use handloom::text::conll::TaggedSet;
use handloom::text::hash::{fold, hash_bytes};
use handloom::text::labelled::{LabelledSet, ReadOptions};
use handloom::text::srl::SrlSet;
use handloom::text::word_vocabulary::WordVocabulary;
use handloom::text::{Encoding, TokenFile, Tokenizer, read_text};
use handloom::train::checkpoint;
use handloom::train::fsx::Disk;
use serde_json::{Value, json};

/// How many cases all tests together must have.
const AT_LEAST: usize = 150;
static CASES: AtomicUsize = AtomicUsize::new(0);
/// What was wrong with the refusals, all of it.
static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A folder of its own for a test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("handloom-bad-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads and expects a refusal that has all `words` (parted by ` & `).
fn refused<T>(case: &str, words: &str, read: impl FnOnce() -> handloom::Result<T>) {
    CASES.fetch_add(1, Ordering::Relaxed);
    let start = Instant::now();
    let result = catch_unwind(std::panic::AssertUnwindSafe(read));
    let shown: String = case.chars().take(300).collect();
    let wrong = |what: String| WRONG.lock().unwrap().push(format!("{what}\n    {shown}"));
    if start.elapsed() > Duration::from_secs(1) {
        wrong("it took more than a second".into());
    }
    let error = match result {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => return wrong("accepted".into()),
        Err(_) => return wrong("a panic".into()),
    };
    let message = error.to_string();
    for word in words.split(" & ").filter(|word| !message.contains(word)) {
        wrong(format!("no `{word}` in: {message}"));
    }
    if !matches!(error, Error::Data(_) | Error::Usage(_) | Error::Io { .. }) {
        wrong(format!("not an error about a file: {error:?}"));
    }
    if message.contains("malformed") {
        wrong(format!("only the last net caught it: {message}"));
    }
    if message.len() > 1500 {
        wrong(format!("not a sentence but {} bytes", message.len()));
    }
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + &close.repeat(depth)
}

// ---- safetensors ------------------------------------------------------------------------------

fn weights(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; data][..]].concat()
}

/// A header entry.
fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn weight_files() {
    let f32s = |name: &str, shape: &str, from, to| entry(name, "F32", shape, from, to);
    let object = |entries: &[String]| format!("{{{}}}", entries.join(","));
    let one = object(&[f32s("a", "[1]", 0, 4)]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are too few"),
        (vec![1, 2, 3], "3 bytes are too few"),
        (vec![0; 8], "header & damaged"),
        (b"not a model at all".to_vec(), "its header should have"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00model".to_vec(), "its header should have"),
        (b"PK\x03\x04 a pytorch_model.bin is a zip".to_vec(), "its header should have"),
        ([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "should have 18446744073709551615 bytes"),
        ([&100_000_001u64.to_le_bytes()[..], b"{}"].concat(), "should have 100000001 bytes"),
        ([&3u64.to_le_bytes()[..], b"{}"].concat(), "should have 3 bytes"),
        (weights("{", 0), "header & damaged"),
        (weights("[]", 0), "header & damaged"),
        (weights("null", 0), "header & damaged"),
        (weights("{}{}", 0), "sound safetensors file & trailing"),
        (weights(b"{\"a\xff\":{}}", 0), "header & damaged"),
        (weights(r#"{"\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4), "damaged"),
        (weights("{\"a\u{0}\":1}", 0), "header & damaged"),
        (weights(object(&[f32s("a", "[1]", 0, 4), f32s("a", "[1]", 0, 4)]), 4), "`a` occurs twice"),
        (
            weights(object(&[f32s("a", "[1]", 0, 4), f32s("\\u0061", "[1]", 4, 8)]), 8),
            "`a` occurs twice",
        ),
        (weights(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "__metadata__` occurs twice"),
        (
            weights(r#"{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#, 4),
            "sound safetensors file & duplicate field",
        ),
        (weights(object(&[f32s("a", "[18446744073709551615,0]", 0, 0)]), 0), "`a` & absurd shape"),
        (weights(object(&[f32s("a", "[0,18446744073709551615]", 0, 0)]), 0), "`a` & absurd shape"),
        (weights(object(&[f32s("a", "[4294967296,4294967296]", 0, 0)]), 0), "absurd shape"),
        (weights(object(&[f32s("a", "[4611686018427387904]", 0, 0)]), 0), "absurd shape"),
        (weights(object(&[f32s("a", "[18446744073709551616]", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "[-1]", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "[1.0]", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "[1e0]", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "[\"1\"]", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "1", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "null", 0, 4)]), 4), "damaged"),
        (weights(object(&[f32s("a", "[2]", 0, 4)]), 4), "sound safetensors file"),
        (weights(object(&[f32s("a", "[1]", 4, 0)]), 4), "sound safetensors file"),
        (weights(object(&[f32s("a", "[1]", 4, 8)]), 8), "sound safetensors file"),
        (weights(object(&[f32s("a", "[1]", 0, 4), f32s("b", "[1]", 8, 12)]), 12), "sound"),
        (weights(object(&[f32s("a", "[2]", 0, 8), f32s("b", "[1]", 4, 8)]), 8), "sound"),
        (weights(object(&[f32s("a", "[1]", 0, 4), f32s("b", "[1]", 0, 4)]), 4), "sound"),
        (weights(object(&[f32s("a", "[1]", 0, u64::MAX)]), 4), "sound safetensors file"),
        (weights(&one, 3), "sound safetensors file"),
        (weights(&one, 5), "sound safetensors file"),
        (weights(&one, 0), "cut off"),
        (weights(object(&[entry("a", "F33", "[1]", 0, 4)]), 4), "sound & F33"),
        (weights(object(&[entry("a", "f32", "[1]", 0, 4)]), 4), "sound & f32"),
        (weights(object(&[entry("a", "F8_E4M3", "[4]", 0, 4)]), 4), "`a` has dtype F8_E4M3"),
        (weights(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4), "sound & dtype"),
        (weights(r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#, 4), "sound & shape"),
        (weights(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4), "sound & data_offsets"),
        (weights(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4), "sound"),
        (weights(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, 4), "sound"),
        (weights(r#"{"__metadata__":{"format":["pt"]}}"#, 0), "sound safetensors file"),
        (weights(r#"{"__metadata__":"pt"}"#, 0), "sound safetensors file"),
        (weights(format!("{{\"a\":{}}}", nested("[", "]", 100_000)), 0), "damaged"),
        (weights(format!("{{\"__metadata__\":{}}}", nested("[", "]", 100_000)), 0), "weights: "),
    ];
    for (bytes, words) in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        refused(&shown, &format!("weights: & {words}"), || {
            safetensors::from_bytes(&bytes, "weights")
        });
    }
}

// ---- model folders ----------------------------------------------------------------------------

fn configurations() {
    let gpt = |more: &str| format!("{{\"model_type\":\"gpt2\",{more}}}");
    let bert = |more: &str| format!("{{\"model_type\":\"bert\",{more}}}");
    let rnn = |more: &str| format!("{{\"model_type\":\"lstm\",{more}}}");
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "not JSON & empty"),
        ("\u{FEFF}".into(), "not JSON & empty"),
        ("{".into(), "not JSON & line 1"),
        ("{}".into(), "`model_type` is missing"),
        ("[]".into(), "not a JSON object"),
        ("\"gpt2\"".into(), "not a JSON object"),
        ("{\"model_type\": \"gpt2\"".into(), "not JSON & line 1 column"),
        ("{'model_type': 'gpt2'}".into(), "not JSON"),
        (gpt("\"n_layer\": 2,"), "not JSON & trailing comma"),
        (gpt("\"n_layer\": NaN"), "not JSON"),
        (gpt("\"n_layer\": 2, \"n_layer\": 3"), "`n_layer`|the key \"n_layer\" occurs twice"),
        ("{\"model_type\":\"gpt2\",\"model_type\":\"bert\"}".into(), "occurs twice"),
        (gpt("\"x\": \"\\ud800\""), "not JSON"),
        (gpt(&format!("\"x\": {}", nested("[", "]", 5000))), "not JSON & recursion"),
        (gpt(&format!("\"x\": {}", nested("{\"a\":", "}", 5000))), "not JSON"),
        ("{\"model_type\":\"llama\"}".into(), "`llama` & gpt2, bert"),
        ("{\"model_type\":null}".into(), "`model_type` is null"),
        (gpt("\"n_layer\": 0"), "n_layer = 0"),
        (gpt("\"n_layer\": -2"), "`n_layer` = -2"),
        (gpt("\"n_layer\": 2.0"), "`n_layer` = 2.0"),
        (gpt("\"n_layer\": \"2\""), "`n_layer` = \"2\""),
        (gpt("\"n_layer\": [2]"), "`n_layer`"),
        (gpt("\"n_layer\": 18446744073709551615"), "n_layer = 18446744073709551615"),
        (gpt("\"n_layer\": 18446744073709551616"), "`n_layer`"),
        (gpt("\"n_layer\": 2147483647, \"n_embd\": 2147483640, \"n_head\": 8"), "parameters"),
        (gpt("\"n_head\": 0"), "n_head = 0"),
        (gpt("\"n_head\": 5"), "5 attention heads do not divide the width 768"),
        (gpt("\"vocab_size\": 0"), "vocab_size = 0"),
        (gpt("\"vocab_size\": 2147483648"), "vocab_size = 2147483648"),
        (gpt("\"n_positions\": 0"), "n_positions = 0"),
        (gpt("\"n_inner\": 0"), "n_inner = 0"),
        (gpt("\"resid_pdrop\": 1.0"), "resid_pdrop = 1"),
        (gpt("\"resid_pdrop\": -0.1"), "resid_pdrop = -0.1"),
        (gpt("\"resid_pdrop\": 1e400"), "not JSON & out of range"),
        (gpt("\"layer_norm_epsilon\": -1"), "epsilon & -1"),
        (gpt("\"activation_function\": \"mish\""), "`mish`"),
        (gpt("\"activation_function\": 3"), "`activation_function` = 3"),
        (gpt("\"scale_attn_weights\": false"), "`scale_attn_weights` = false"),
        (gpt("\"add_cross_attention\": true"), "`add_cross_attention` = true"),
        (bert("\"position_embedding_type\": \"relative_key\""), "relative_key"),
        (bert("\"pad_token_id\": 30522"), "pad_token_id 30522 & vocab_size 30522"),
        (bert("\"num_attention_heads\": 7"), "7 attention heads"),
        (bert("\"is_decoder\": true"), "`is_decoder` = true"),
        (bert("\"type_vocab_size\": 0"), "type_vocab_size = 0"),
        (bert("\"tie_word_embeddings\": false"), "tie_word_embeddings"),
        (rnn("\"nonlinearity\": \"elu\""), "`elu`"),
        (rnn("\"hidden_size\": 7, \"tie_word_embeddings\": true"), "tied & 128 and 7"),
        (rnn("\"num_layers\": 0"), "num_layers = 0"),
        (rnn("\"dropout\": 2"), "dropout = 2"),
    ];
    let folder = Folder::new();
    for (text, words) in cases {
        folder.write("config.json", &text);
        let words = words.rsplit('|').next().unwrap();
        refused(&text, &format!("config.json & {words}"), || folder::read_config(&folder.0));
    }
    folder.write("config.json", b"{\"model_type\": \"gpt2\xff\"}");
    refused("not UTF-8", "config.json & not JSON & line 1", || folder::read_config(&folder.0));
}

fn model_folders() {
    let folder = Folder::new();
    let read = || folder::from_pretrained(&folder.0).map(drop);
    refused("an empty folder", "config.json & cannot read", read);
    let config = json!({"model_type": "gpt2", "vocab_size": 5, "n_positions": 4, "n_embd": 4,
        "n_layer": 1, "n_head": 1});
    folder.write("config.json", config.to_string());
    refused("no weights", "no model.safetensors", read);
    folder.write("pytorch_model.bin", "PK");
    refused("only a pickle", "pytorch_model.bin & save_pretrained", read);
    folder.write("model.safetensors", weights("{}", 0));
    refused("no tensor", "missing: & transformer.h.0.attn.c_attn.bias & and 4 more", read);
    let stranger = format!("{{{}}}", entry("stranger", "F32", "[1]", 0, 4));
    folder.write("model.safetensors", weights(stranger, 4));
    refused("a foreign tensor", "not part of this model: & stranger", read);
    let huge =
        json!({"model_type": "gpt2", "vocab_size": 2_000_000_000, "n_embd": 4096, "n_head": 8});
    folder.write("config.json", huge.to_string());
    refused("a configuration beyond its weights", "describes a model of", read);

    std::fs::remove_file(folder.0.join("model.safetensors")).unwrap();
    folder.write("config.json", config.to_string());
    let index = |text: &str| folder.write("model.safetensors.index.json", text);
    folder.write("a.safetensors", weights(format!("{{{}}}", entry("x", "F32", "[1]", 0, 4)), 4));
    for (text, words) in [
        ("", "not JSON & empty"),
        ("[]", "not a list of shards"),
        ("{}", "not a list of shards & weight_map"),
        (r#"{"weight_map": {"x": 3}}"#, "not a list of shards"),
        (r#"{"weight_map": {"x": "a.safetensors", "x": "b"}}"#, "\"x\" occurs twice"),
        (r#"{"weight_map": {"x": "../a.safetensors"}}"#, "`../a.safetensors` is not a file name"),
        (r#"{"weight_map": {"x": "/etc/passwd"}}"#, "`/etc/passwd` is not a file name"),
        (r#"{"weight_map": {"x": "sub/a.safetensors"}}"#, "is not a file name"),
        (r#"{"weight_map": {"x": "sub\\a.safetensors"}}"#, "is not a file name"),
        (r#"{"weight_map": {"x": "C:a.safetensors"}}"#, "is not a file name"),
        (r#"{"weight_map": {"x": ".."}}"#, "is not a file name"),
        (r#"{"weight_map": {"x": ""}}"#, "is not a file name"),
        (r#"{"weight_map": {"x": "none.safetensors"}}"#, "none.safetensors & cannot read"),
        (r#"{"weight_map": {"y": "a.safetensors"}}"#, "`y` should be in & a.safetensors"),
    ] {
        index(text);
        refused(text, words, read);
    }
    // An adapter of PEFT.
    let (adapter, empty) = (Folder::new(), Folder::new());
    let read_adapter = || folder::load_pretrained(&adapter.0, 0).map(drop);
    let lora =
        json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "x"});
    let with = |key: &str, value: Value| {
        let mut all = lora.clone();
        all[key] = value;
        all.to_string()
    };
    for (text, words) in [
        ("".into(), "adapter_config.json & not JSON & empty"),
        ("[]".into(), "adapter_config.json & not a JSON object"),
        ("{\"r\": 1, \"r\": 2}".into(), "adapter_config.json & \"r\" occurs twice"),
        ("{}".into(), "peft_type is nothing"),
        (with("peft_type", "IA3".into()), "peft_type is IA3; LORA is read here"),
        (with("use_dora", true.into()), "use_dora is set"),
        (with("base_model_name_or_path", 3.into()), "no model folder"),
        (with("base_model_name_or_path", "../../etc".into()), "`../../etc` & no model folder"),
        (lora.to_string(), "`x` & no model folder"),
        (with("base_model_name_or_path", empty.0.display().to_string().into()), "no model folder"),
    ] {
        adapter.write("adapter_config.json", &text);
        refused(&text, words, read_adapter);
    }
    // Labels of a classifier.
    let read = || handloom::models::SequenceClassifier::from_pretrained(&folder.0).map(drop);
    let map = entry("transformer.wte.weight", "F32", "[5,4]", 0, 80);
    folder.write("model.safetensors", weights(format!("{{{map}}}"), 80));
    for (labels, words) in [
        (json!({"0": "a", "2": "b"}), "id2label & 2"),
        (json!({"zero": "a"}), "id2label & zero"),
        (json!({"0": 1}), "id2label & 1"),
        (json!({"-1": "a"}), "id2label & -1"),
        (json!({"0": "a", "00": "b"}), "id2label"),
        (Value::Null, "not a classifier"),
    ] {
        let mut config = config.clone();
        config["id2label"] = labels.clone();
        folder.write("config.json", config.to_string());
        refused(&labels.to_string(), words, read);
    }
}

// ---- tokenizers -------------------------------------------------------------------------------

fn tokenizers() {
    let bpe = |vocab: Value, merges: Value| json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    let ab = || json!({"a": 0, "b": 1, "ab": 2});
    let with = |key: &str, value: Value| {
        let mut all = bpe(ab(), json!([["a", "b"]]));
        all[key] = value;
        all
    };
    let model = |key: &str, value: Value| {
        let mut all = bpe(ab(), json!([["a", "b"]]));
        all["model"][key] = value;
        all
    };
    let piece = |value: Value| json!({"model": value});
    let added = |list: Value| with("added_tokens", list);
    let deep = |depth: usize| {
        let mut part = json!({"type": "NFC"});
        for _ in 0..depth {
            part = json!({"type": "Sequence", "normalizers": [part]});
        }
        with("normalizer", part)
    };
    assert!(Tokenizer::from_bytes(bpe(ab(), json!([["a", "b"]])).to_string().as_bytes()).is_ok());
    let cases: Vec<(Value, &str)> = vec![
        (json!({}), "no \"model\""),
        (json!([]), "no \"model\""),
        (json!("text"), "no \"model\""),
        (json!({"model": null}), "no \"model\""),
        (json!({"model": {}}), "no \"vocab\""),
        (json!({"model": "BPE"}), "no \"vocab\""),
        (bpe(json!([]), json!([])), "no \"vocab\""),
        (bpe(json!({}), json!([])), "vocabulary is empty"),
        (bpe(json!({"a": 0, "b": 0}), json!([])), "\"a\" and \"b\" have the same id 0"),
        (bpe(json!({"a": -1}), json!([])), "\"a\" has the id -1"),
        (bpe(json!({"a": 1.5}), json!([])), "\"a\" has the id 1.5"),
        (bpe(json!({"a": "0"}), json!([])), "\"a\" has the id \"0\""),
        (bpe(json!({"a": null}), json!([])), "\"a\" has the id null"),
        (bpe(json!({"a": 4294967296u64}), json!([])), "\"a\" has the id 4294967296"),
        (bpe(json!({"a": 4000000}), json!([])), "\"a\" has the id 4000000"),
        (bpe(ab(), json!([["a", "c"]])), "merge 1: \"c\" is not in the vocabulary"),
        (bpe(ab(), json!([["a", "b"], ["b", "a"]])), "merge 2 makes \"ba\""),
        (bpe(json!({"a": 0, "b": 1}), json!([["a", "b"]])), "merge 1 makes \"ab\""),
        (bpe(ab(), json!(["ab"])), "merge 1 is \"ab\"; expected two tokens"),
        (bpe(ab(), json!(["a b c"])), "merge 1 is \"a b c\""),
        (bpe(ab(), json!([["a"]])), "merge 1"),
        (bpe(ab(), json!([["a", "b", "ab"]])), "merge 1"),
        (bpe(ab(), json!([["a", 1]])), "merge 1"),
        (bpe(ab(), json!({"a": "b"})), "no list \"merges\""),
        (bpe(ab(), json!([["", "ab"]])), "merge 1: \"\" is not in the vocabulary"),
        (model("continuing_subword_prefix", json!("####")), "merge 1: \"b\" does not begin with"),
        (model("continuing_subword_prefix", json!(3)), "continuing_subword_prefix"),
        (model("dropout", json!(0.1)), "dropout"),
        (model("unk_token", json!("<unk>")), "\"<unk>\", which is not in the vocabulary"),
        (model("type", json!("Unigram")), "the model is Unigram"),
        (model("type", json!("__proto__")), "the model is __proto__"),
        (piece(json!({"type": "WordPiece", "vocab": {"a": 0}})), "max_input_chars_per_word"),
        (
            piece(json!({"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 100})),
            "no \"unk_token\"",
        ),
        (
            piece(json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]",
                "max_input_chars_per_word": 100})),
            "\"[UNK]\", which is not in the vocabulary",
        ),
        (piece(json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": 7})), "\"unk_token\""),
        (with("normalizer", json!({"type": "Precompiled"})), "normalizer is a Precompiled"),
        (with("normalizer", json!({"lowercase": true})), "normalizer has no \"type\""),
        (with("normalizer", json!([])), "normalizer has no \"type\""),
        (with("normalizer", json!({"type": "Sequence"})), "no list \"normalizers\""),
        (deep(5), "normalizers are nested more than 4 deep"),
        (deep(40), "normalizers are nested more than 4 deep"),
        (with("pre_tokenizer", json!({"type": "Delimiter"})), "pre_tokenizer is a Delimiter"),
        (with("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": 1})), "pretokenizers"),
        (
            with(
                "pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": "(a"},
                "behavior": "Isolated", "invert": false}),
            ),
            "tokenizer.json",
        ),
        (
            with("pre_tokenizer", json!({"type": "Metaspace", "replacement": "ab"})),
            "tokenizer.json",
        ),
        (
            with("decoder", json!({"type": "Strip", "content": "a", "start": 9, "stop": 9})),
            "decoder is a Strip",
        ),
        (with("decoder", json!({"type": 4})), "decoder has no \"type\""),
        (added(json!({})), "\"added_tokens\" is not a list"),
        (added(json!([{"id": 3}])), "an added token has no \"content\""),
        (added(json!([{"id": 3, "content": ""}])), "an added token has no \"content\""),
        (added(json!([{"id": -3, "content": "<s>"}])), "\"<s>\" has no proper \"id\""),
        (added(json!([{"id": 0, "content": "<s>"}])), "\"<s>\" has the id 0 of \"a\""),
        (added(json!([{"id": 9, "content": "a"}])), "\"a\" has another id"),
        (
            added(json!([{"id": 3, "content": "<s>"}, {"id": 3, "content": "</s>"}])),
            "\"<s>\" and \"</s>\" share the id 3",
        ),
        (
            added(json!([{"id": 3, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false},
                {"id": 7, "content": "</s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}])),
            "\"</s>\" does not get its id 7",
        ),
        (added(json!([3])), "an added token has no \"content\""),
    ];
    for (value, words) in cases {
        let text = value.to_string();
        refused(&text, words, || Tokenizer::from_bytes(text.as_bytes()));
    }
    for (text, words) in [
        (b"".to_vec(), "not JSON & empty"),
        (b"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}".to_vec(), "the key \"a\" occurs twice"),
        (b"{\"model\": 1, \"model\": 2}".to_vec(), "the key \"model\" occurs twice"),
        (b"{\"model\": \"\\udc00\"}".to_vec(), "not JSON & line 1"),
        (b"{\"model\": \"\xc3(\"}".to_vec(), "not UTF-8 & offset 11"),
        (b"{\"model\": \"\x01\"}".to_vec(), "not JSON & control character"),
        (b"{\"model\": {}} {}".to_vec(), "not JSON & trailing"),
        (nested("[", "]", 100_000).into_bytes(), "not JSON & recursion"),
        (nested("{\"model\":", "}", 100_000).into_bytes(), "not JSON & recursion"),
    ] {
        let shown = String::from_utf8_lossy(&text).into_owned();
        refused(&shown, words, || Tokenizer::from_bytes(&text));
    }
}

// ---- token files ------------------------------------------------------------------------------

/// A token file of three ids of two bytes with its checksums, after `change` of the header.
fn token_file(ids: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut head = [0u8; 56];
    head[..8].copy_from_slice(b"HANDLOOM");
    head[8..12].copy_from_slice(&1u32.to_le_bytes());
    head[12..16].copy_from_slice(&2u32.to_le_bytes());
    head[16..24].copy_from_slice(&100u64.to_le_bytes());
    head[24..32].copy_from_slice(&7u64.to_le_bytes());
    head[32..40].copy_from_slice(&3u64.to_le_bytes());
    head[48..56].copy_from_slice(&fold(0, hash_bytes(ids)).to_le_bytes());
    change(&mut head);
    [&head[..], &hash_bytes(&head).to_le_bytes(), ids].concat()
}

fn token_files() {
    let folder = Folder::new();
    let ids = [1, 0, 2, 0, 3, 0];
    let good = token_file(&ids, |_| {});
    let open = |bytes: &[u8]| TokenFile::open(folder.write("t.tokens", bytes), Some(7)).map(drop);
    open(&good).unwrap();
    let put = |at: usize, bytes: &'static [u8]| {
        token_file(&ids, move |head| head[at..at + bytes.len()].copy_from_slice(bytes))
    };
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let mut damaged = good.clone();
    damaged[66] ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are too few"),
        (good[..63].to_vec(), "63 bytes are too few"),
        (vec![0; 64], "not a token file"),
        (
            b"just some text, long enough to be taken for a header of 64 bytes".to_vec(),
            "not a token",
        ),
        (put(0, b"handloom"), "not a token file"),
        (put(8, &[2, 0, 0, 0]), "version 2 & version 1"),
        (put(8, &[0, 0, 0, 1]), "version 16777216"),
        (put(12, &[3, 0, 0, 0]), "ids of 3 bytes; expected 2 or 4"),
        (put(12, &[0, 0, 0, 0]), "ids of 0 bytes"),
        (put(12, &[4, 0, 0, 0]), "cut short & need 76 bytes"),
        (put(16, &[3, 0, 0, 0, 0, 0, 0, 0]), "token 2 is 3, beyond the vocabulary of 3"),
        (put(16, &[0; 8]), "token 0 is 1, beyond the vocabulary of 0"),
        (put(24, &[8]), "another tokenizer"),
        (put(32, &[4]), "cut short & 4 tokens need 72 bytes, the file has 70"),
        (put(32, &[2]), "too long"),
        (put(32, &[255; 8]), "cut short & 18446744073709551615 tokens"),
        (put(48, &[0; 8]), "checksum"),
        (flipped, "header is damaged"),
        (damaged, "checksum"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        ([&good[..], b"x"].concat(), "too long"),
    ];
    for (bytes, words) in cases {
        let shown = format!("{bytes:?}");
        refused(&shown, &format!("t.tokens & {words}"), || open(&bytes));
    }
    refused("a folder", "is a folder", || TokenFile::open(&folder.0, None));
    refused("nothing", "cannot read", || TokenFile::open(folder.0.join("none"), None));
}

// ---- manifests --------------------------------------------------------------------------------

fn sealed(mut manifest: Value) -> String {
    manifest["checksum"] = format!("{:016x}", hash_bytes(manifest.to_string().as_bytes())).into();
    manifest.to_string()
}

fn manifests() {
    let folder = Folder::new();
    let data = b"weights";
    folder.write("a.bin", data);
    let file =
        json!({"name": "a.bin", "bytes": 7, "checksum": format!("{:016x}", hash_bytes(data))});
    let with = |key: &str, value: Value| {
        let mut file = file.clone();
        file[key] = value;
        sealed(json!({"format": 1, "step": 5, "files": [file]}))
    };
    let open = || checkpoint::open_folder(&folder.0, Arc::new(Disk)).map(drop);
    folder.write("manifest.json", with("name", "a.bin".into()));
    open().unwrap();
    let good = with("name", "a.bin".into());
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "manifest.json is damaged"),
        ("{}".into(), "manifest.json is damaged"),
        ("[]".into(), "manifest.json is damaged"),
        (good[..good.len() - 1].into(), "manifest.json is damaged"),
        (good.replace("\"step\":5", "\"step\":6"), "manifest.json is damaged"),
        (good.replace("\"step\":5", "\"step\":5,\"step\":5"), "manifest.json is damaged"),
        (nested("[", "]", 100_000), "manifest.json is damaged"),
        (sealed(json!({"format": 2, "step": 5, "files": [file]})), "format & 2 & reads 1"),
        (sealed(json!({"format": "1", "step": 5, "files": [file]})), "reads 1"),
        (sealed(json!({"format": 1, "step": -5, "files": [file]})), "manifest.json is damaged"),
        (sealed(json!({"format": 1, "step": 5})), "manifest.json is damaged"),
        (sealed(json!({"format": 1, "step": 5, "files": [3]})), "manifest.json is damaged"),
        (
            sealed(json!({"format": 1, "step": 5, "files": [file, file]})),
            "manifest.json is damaged",
        ),
        (with("name", "../a.bin".into()), "manifest.json is damaged"),
        (with("name", "/etc/passwd".into()), "manifest.json is damaged"),
        (with("name", "..".into()), "manifest.json is damaged"),
        (with("name", 3.into()), "manifest.json is damaged"),
        (with("name", "b.bin".into()), "b.bin cannot be read"),
        (with("bytes", 8.into()), "a.bin has 7 bytes, expected 8"),
        (with("bytes", "7".into()), "a.bin has 7 bytes"),
        (with("checksum", "0".into()), "a.bin does not have the checksum"),
        (with("checksum", Value::Null), "a.bin does not have the checksum"),
    ];
    for (text, words) in cases {
        folder.write("manifest.json", &text);
        refused(&text, words, open);
    }
    std::fs::remove_file(folder.0.join("manifest.json")).unwrap();
    refused("no manifest", "manifest.json cannot be read", open);
}

// ---- text and labels --------------------------------------------------------------------------

fn text_files() {
    let folder = Folder::new();
    let cases: Vec<(&[u8], &str)> = vec![
        (b"", "empty"),
        (b"\xEF\xBB\xBF", "empty"),
        (b"good\nbad \xff", "line 2 & 0xFF at offset 9"),
        (b"\xFF\xFEa\0b\0", "line 1 & 0xFF at offset 0"),
        (b"cut \xE4\xB8", "line 1 & 0xE4 at offset 4"),
        (b"overlong \xC0\x80", "0xC0"),
        (b"surrogate \xED\xA0\x80", "0xED"),
        (b"beyond \xF5\x80\x80\x80", "0xF5"),
    ];
    for (bytes, words) in cases {
        let path = folder.write("t.txt", bytes);
        refused(&format!("{bytes:?}"), &format!("t.txt & {words}"), || {
            read_text(&path, Encoding::Utf8)
        });
    }
}

fn label_files() {
    let folder = Folder::new();
    let cases: Vec<(&str, &str, &str)> = vec![
        ("a.csv", "", "empty"),
        ("a.csv", "label,text\n", "no example"),
        ("a.csv", "label,text\n\n\n", "no example"),
        ("a.csv", "label,text\n1,\n2,  \n", "no example"),
        ("a.csv", "label,text\n1,a\n2\n", "line 3: 1 columns & 2"),
        ("a.csv", "label,text\n1,a\n2,b,c\n", "line 3: 3 columns"),
        ("a.csv", "label,text\n1,a\n,b\n", "line 3: the label is empty"),
        ("a.csv", "label,text\n1,\"a\n2,b\n", "line 2: a quote is opened and never closed"),
        ("a.csv", "only text\nmore\n", "one column"),
        ("a.csv", "label,head,tail\n1,a,b\n", "--text-column & label, head, tail"),
        ("a.csv", "x,kind,other\na,b,c\n", "--label-column"),
        ("a.tsv", "a\t1\nb\n", "line 2: 1 columns"),
        ("a.tsv", "text\tlabel\nb\t\n", "line 2: the label is empty"),
        ("a.tsv", "\t\t\n", "a.tsv"),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n",
            "line 2: there is no \"label\"",
        ),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\nnot json\n", "line 2: not JSON"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n[1]\n", "line 2: not a JSON object"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1, \"label\": 2}\n", "line 1: & occurs twice"),
        ("a.jsonl", "{\"text\": [\"a\"], \"label\": 1}\n", "line 1: \"text\" is neither"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": null}\n", "line 1: \"label\" is neither"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": \"  \"}\n", "line 1: the label is empty"),
        ("a.jsonl", "{\"text\": \"\\ud800\", \"label\": 1}\n", "line 1: not JSON"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}}\n", "line 1: not JSON & trailing"),
        ("a.jsonl", "{}\n", "--text-column"),
        ("a.txt", "nothing is here\nthat looks like labels\n", "--format"),
    ];
    for (name, text, words) in cases {
        let path = folder.write(name, text);
        let options = ReadOptions::default();
        refused(text, &format!("{name} & {words}"), || LabelledSet::read(&path, &options));
    }
    let deep = format!("{{\"text\": {}, \"label\": 1}}\n", nested("[", "]", 100_000));
    let path = folder.write("deep.jsonl", &deep);
    refused(&deep, "line 1: not JSON & recursion", || {
        LabelledSet::read(&path, &ReadOptions::default())
    });
    let path = folder.write("b.csv", "a,b,c\nx,y,z\n");
    for (text, pair, label, words) in [
        ("a", None, "a", "must name different columns"),
        ("a", Some("a"), "b", "must name different columns"),
        ("a", Some("b"), "b", "must name different columns"),
        ("9", None, "a", "--text-column 9"),
        ("0", None, "a", "--text-column 0"),
        ("none", None, "a", "--text-column none & a, b, c"),
        ("a", None, "18446744073709551616", "--label-column"),
    ] {
        let options = ReadOptions {
            text_column: Some(text.into()),
            text_pair_column: pair.map(String::from),
            label_column: Some(label.into()),
            ..ReadOptions::default()
        };
        refused(&format!("{options:?}"), words, || LabelledSet::read(&path, &options));
    }
}

fn word_vocabularies() {
    let table = r#"{"entries":["a"],"counts":[1]}"#;
    let whole = |columns: &str, tables: &str| {
        format!("{{\"columns\":{columns},\"tables\":{tables},\"characters\":[\"a\"]}}")
    };
    let good = whole("[\"word\"]", &format!("{{\"word\":{table}}}"));
    WordVocabulary::from_json(&good, "v").unwrap();
    for (text, words) in [
        ("".into(), "empty"),
        ("[]".into(), "invalid"),
        ("{}".into(), "missing field"),
        (good.replace("\"characters\"", "\"columns\""), "\"columns\" occurs twice"),
        (good.replace("[1]", "[1,2]"), "the table `word` is missing or cut"),
        (good.replace("[1]", "[]"), "the table `word` is missing or cut"),
        (good.replace("[1]", "[-1]"), "invalid value"),
        (whole("[\"word\",\"shape\"]", &format!("{{\"word\":{table}}}")), "`shape` is missing"),
        (whole("[\"wort\"]", "{}"), "unknown variant `wort`"),
        (whole("[\"word\"]", "{}"), "`word` is missing"),
        (good.replace("[\"a\"]}", "[\"ab\"]}"), "invalid value"),
    ] {
        refused(&text, &format!("v: not the vocabulary of a tagger & {words}"), || {
            WordVocabulary::from_json(&text, "v")
        });
    }
}

fn tagged_files() {
    for (text, words) in [
        ("", "no sentence"),
        ("\n\n\n", "no sentence"),
        ("-DOCSTART- -X- O O\n\n", "no sentence"),
        ("EU B-ORG\nrejects\n", "line 2: expected a word and a tag"),
        ("EU B-ORG\n\nrejects VB\n", "line 3: \"VB\" is no span tag"),
        ("EU B-\n", "line 1: \"B-\" is no span tag"),
        ("EU b-ORG\n", "line 1: \"b-ORG\""),
        ("EU X-ORG\n", "line 1: \"X-ORG\""),
        ("EU BORG\n", "line 1: \"BORG\""),
        ("EU o\n", "line 1: \"o\""),
        ("EU\tNNP\n", "line 1: \"NNP\""),
        ("词\u{3000}O\n", "line 1: expected a word and a tag"),
        ("\u{0}\n", "line 1: expected a word and a tag"),
    ] {
        refused(text, &format!("f: & {words}"), || TaggedSet::parse("f", text));
    }
    for (text, words) in [
        ("", "no predicate"),
        ("# only a comment\n", "no predicate"),
        ("a b c\n", "line 1: expected columns parted by tabs"),
        ("a\t0\tO\nb\t0\tO\n", "line 1: no word of the block"),
        ("a\t1\tB-V\nb\t1\tO\n", "line 2: a second predicate"),
        ("a\t1\tV\n", "line 1: \"V\" is no BIO tag"),
        ("a\t1\tB-\n", "line 1: \"B-\" is no BIO tag"),
        ("a\t1\tI-\n", "line 1: \"I-\" is no BIO tag"),
        ("a\tX\n", "line 1: 2 columns"),
        ("a\tX\tb.01\n", "line 1: 1 predicates but 0 columns"),
        ("a\tX\t-\t*\n", "line 1: 0 predicates but 1 columns"),
        ("a\tX\tb.01\t(V*)\nc\tX\t-\n", "line 2: 3 columns & 4 in the first"),
        ("a\tX\tb.01\t(V*\n", "line 1: a bracket that is never closed"),
        ("a\tX\tb.01\t*)\n", "line 1: \"*)\": brackets that do not match"),
        ("a\tX\tb.01\t(A0(V*))\n", "line 1: & brackets"),
        ("a\tX\tb.01\t(*)\n", "line 1: \"(*)\""),
        ("a\tX\tb.01\t\n", "line 1: \"\": brackets"),
        ("a\tX\tb.01\t(V*\nb\tX\t-\t(A0*)\n", "line 2: & brackets"),
    ] {
        refused(text, &format!("f: & {words}"), || SrlSet::parse("f", text));
    }
}

// ---- settings ---------------------------------------------------------------------------------

fn settings() {
    use handloom::cli::layers::{Sources, resolve};
    use handloom::train::pretrain::PretrainConfig;

    let folder = Folder::new();
    let deep = format!("train = {}\n", nested("[", "]", 100_000));
    let tables = format!("{} = 1\n", vec!["a"; 100_000].join("."));
    let cases: Vec<(&str, &str)> = vec![
        ("", "empty"),
        ("max_steps", "line 1 & TOML"),
        ("max_steps = ", "line 1 & TOML"),
        ("max_steps = = 3", "line 1 & TOML"),
        ("max_steps = 3\nmax_steps = 4\n", "line 2 & TOML & duplicate"),
        ("\"max_steps\" = 3\nmax_steps = 4\n", "line 2 & TOML & duplicate"),
        ("max_steps = \"many\"\n", "line 1 & max_steps"),
        ("max_steps = 1.5\n", "line 1 & max_steps"),
        ("max_steps = -1\n", "line 1 & max_steps"),
        ("max_steps = 9223372036854775808\n", "line 1"),
        ("max_steps = 99999999999999999999999\n", "line 1"),
        ("max_steps = 1979-05-27\n", "line 1 & max_steps"),
        ("max_steps = [3]\n", "line 1 & max_steps"),
        ("max_steps = {a = 1}\n", "line 1 & max_steps"),
        ("learning_rate = nan\n", "line 1: learning_rate is not a finite number"),
        ("learning_rate = inf\n", "line 1: learning_rate is not a finite number"),
        ("# one\n\nlearning_rat = 1\n", "line 3 & did you mean 'learning_rate'"),
        ("[trainer]\nmax_steps = 3\n", "line 1 & trainer"),
        ("seed = 0x1_\n", "line 1 & TOML"),
        ("seed = 'a\nb'\n", "line & TOML"),
        ("model = \"\\ud800\"\n", "line 1 & TOML"),
        ("model = 3\n", "line 1 & model"),
        ("on_nonfinite = \"ignore\"\n", "line 1 & on_nonfinite & skip"),
        ("optimizer = \"adam\"\n", "line 1 & optimizer & adamw"),
        ("train = \"one.txt\"\n", "line 1 & train"),
        ("budget = \"soon\"\n", "line 1 & budget & 10m"),
        ("budget = \"-3m\"\n", "line 1 & budget"),
        (&deep, "run.toml"),
        (&tables, "run.toml"),
    ];
    for (text, words) in cases {
        let config = Some(folder.write("run.toml", text));
        refused(text, &format!("run.toml & {words}"), || {
            resolve::<PretrainConfig>(&Sources { config, set: vec![] }, &json!({}))
        });
    }
    let config = Some(folder.write("run.toml", b"model = \"\xff\"\n"));
    refused("not UTF-8", "run.toml & line 1 & 0xFF", || {
        resolve::<PretrainConfig>(&Sources { config, set: vec![] }, &json!({}))
    });
}

/// One test, so that the cases can be counted.
#[test]
fn every_bad_file_is_refused_with_a_sentence() {
    // The guard around the tokenizers crate catches panics; they need not be shown.
    std::panic::set_hook(Box::new(|info| {
        if !info.location().is_some_and(|place| place.file().contains("tokenizers")) {
            eprintln!("{info}");
        }
    }));
    let readers: [(&str, fn()); 11] = [
        ("safetensors", weight_files),
        ("config.json", configurations),
        ("model folders", model_folders),
        ("tokenizer.json", tokenizers),
        ("token files", token_files),
        ("manifests", manifests),
        ("texts", text_files),
        ("labels", label_files),
        ("tags and roles", tagged_files),
        ("word vocabularies", word_vocabularies),
        ("settings", settings),
    ];
    for (name, read) in readers {
        let before = CASES.load(Ordering::Relaxed);
        read();
        println!("{name}: {}", CASES.load(Ordering::Relaxed) - before);
    }
    let (cases, wrong) = (CASES.load(Ordering::Relaxed), WRONG.lock().unwrap());
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong.join("\n"));
    println!("{cases} bad files, each refused with the message expected");
    assert!(cases >= AT_LEAST, "{cases}");
}
