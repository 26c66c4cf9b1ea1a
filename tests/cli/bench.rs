//! `handloom bench`: what it refuses, what it prints, what it makes of an earlier run.

use super::*;
use serde_json::Value;

/// A run of one small group that ends in seconds.
const QUICK: &[&str] = &["bench", "--quick", "--only", "gemm,softmax", "--threads", "1"];

/// The rows of `--json`, roofs apart.
fn rows(output: &Output) -> (Vec<Value>, Vec<Value>) {
    let rows = stdout(output);
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.partition(|row| row["op"].as_str().unwrap().starts_with("roof_"))
}

/// The rows with all times multiplied by `by`, as a file would hold them.
fn scaled(rows: &[Value], by: f64) -> String {
    let scale = |row: &Value| {
        let mut row = row.clone();
        for sample in row["samples"].as_array_mut().unwrap() {
            *sample = (sample.as_f64().unwrap() * by).into();
        }
        row.to_string() + "\n"
    };
    rows.iter().map(scale).collect()
}

#[test]
fn bad_flags_are_refused_before_anything_is_measured() {
    let folder = Folder::new();
    let refuse = |flags: &[&str], code, words: &[&str]| {
        refuses(&folder, &with(&["bench"], flags), code, words);
    };
    refuse(&["--only", "loom"], 2, &["--only loom", "gemm, rowops, optim, attention, rnn, train"]);
    refuse(&["--only", "copy", "--quick"], 2, &["no row", "--quick"]);
    refuse(&["--shapes", "3x3"], 2, &["--shapes 3x3", "no row"]);
    refuse(&["--dtypes", "f8"], 2, &["--dtypes f8", "f32, high, bf16"]);
    refuse(&["--only", "copy", "--shapes", "char-cpu"], 2, &["leave no row"]);
    refuse(&["--ladder", "loom"], 2, &["no ladder 'loom'", "gemm, attention, layer_norm"]);
    refuse(&["--ladder", "gemm", "--json"], 2, &["--ladder", "--json"]);
    refuse(&["--threads", "0"], 2, &["--threads", "1 or more"]);
    refuse(&["--svg", "nowhere/roof.svg"], 3, &["nowhere", "cannot write"]);
}

#[test]
fn files_to_compare_with_must_be_of_the_bench() {
    let folder = Folder::new();
    let refuse = |file: &str, words: &[&str]| {
        refuses(&folder, &["bench", "--compare", file], 3, words);
    };
    refuse("missing.jsonl", &["missing.jsonl", "cannot read"]);
    folder.write("words.jsonl", "warp and weft\n");
    refuse("words.jsonl", &["words.jsonl, line 1", "not JSON", "handloom bench --json"]);
    folder.write("other.jsonl", "{\"op\": \"gemm_nn\", \"median_s\": 1}\n");
    refuse("other.jsonl", &["line 1", "missing field"]);
    folder.write("roofs.jsonl", "{\"op\": \"roof_fma\"}\n");
    refuse("roofs.jsonl", &["no row"]);
}

#[test]
fn rows_hold_what_a_comparison_needs() {
    let folder = Folder::new();
    let output = works(&folder, &with(QUICK, &["--json", "--svg", "roof.svg"]));
    let (roofs, rows) = rows(&output);
    assert!(roofs.iter().any(|r| r["op"] == "roof_fma" && r["gflops"].as_f64() > Some(0.0)));
    assert!(roofs.iter().any(|r| r["op"] == "roof_copy" && r["gbs"].as_f64() > Some(0.0)));
    for row in &rows {
        for key in ["op", "shape", "dtype", "threads", "median_s", "gflops", "gbs", "tokens_per_s"]
        {
            assert!(row.get(key).is_some(), "no {key} in {row}");
        }
        assert!(row["median_s"].as_f64() > Some(0.0) && row["max_error"].as_f64() < Some(1e-2));
    }
    assert!(rows.iter().any(|r| r["op"] == "gemm_nn" && r["shape"] == "64x64x64"));
    let svg = std::fs::read_to_string(folder.0.join("roof.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), rows.len());

    // A past a hundred times slower, one a hundred times faster, one of another machine.
    folder.write("slow.jsonl", scaled(&rows, 100.0));
    let output = works(&folder, &with(QUICK, &["--compare", "slow.jsonl"]));
    assert!(stdout(&output).contains("FAST"), "{}", stdout(&output));
    folder.write("fast.jsonl", scaled(&rows, 0.01));
    let output = handloom(&folder, &with(QUICK, &["--compare", "fast.jsonl", "--no-roofs"]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("slower than fast.jsonl in two measurements: gemm_nn"));
    folder.write("other.jsonl", scaled(&rows, 1.0).replace("\"cpu\":\"", "\"cpu\":\"not "));
    refuses(&folder, &with(QUICK, &["--compare", "other.jsonl"]), 3, &["two machines"]);
    let threads = scaled(&rows, 1.0).replace("\"threads\":1", "\"threads\":7");
    folder.write("threads.jsonl", threads);
    refuses(
        &folder,
        &with(QUICK, &["--compare", "threads.jsonl"]),
        3,
        &["none of its rows", "on 7 threads"],
    );
}

#[test]
fn a_ladder_ends_at_our_kernel() {
    let folder = Folder::new();
    let output = works(&folder, &["bench", "--ladder", "gemm", "--quick", "--threads", "1"]);
    let text = stdout(&output);
    let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("no `{words}` in {text}"));
    assert!(at("v1 naive") < at("v4 vectorised") && at("v4 vectorised") < at("v7 ours"));
    assert!(text.contains("matrixmultiply"));
}
