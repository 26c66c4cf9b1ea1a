//! `tokenizer.json`.

use handloom::text::Tokenizer;
use serde_json::{Value, json};

use crate::{nested, refused};

pub fn files() {
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
