//! Manifests of checkpoints.

use std::sync::Arc;

use handloom::text::hash::hash_bytes;
use handloom::train::checkpoint;
use handloom::train::fsx::Disk;
use serde_json::{Value, json};

use crate::{Folder, nested, refused};

fn sealed(mut manifest: Value) -> String {
    manifest["checksum"] = format!("{:016x}", hash_bytes(manifest.to_string().as_bytes())).into();
    manifest.to_string()
}

pub fn files() {
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
