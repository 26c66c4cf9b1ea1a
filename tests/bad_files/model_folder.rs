//! Model folders: lists of shards, adapters, labels.

use handloom::models::folder;
use serde_json::{Value, json};

use crate::safetensors::{entry, weights};
use crate::{Folder, refused};

pub fn files() {
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
