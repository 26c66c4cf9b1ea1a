//! Weights: safetensors files.

use handloom::models::safetensors;

use crate::{nested, refused};

pub fn weights(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; data][..]].concat()
}

/// A header entry.
pub fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

pub fn files() {
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
