//! The registry is complete.

use crate::reference::reference;
use crate::samples::{VIEWS, big, small};
use crate::{arrays, entries};
use handloom::DType;
use handloom::autograd::trace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Public functions of `src/ops` that are no operations of their own, and why.
const NOT_OPERATIONS: [(&str, &str); 2] =
    [("sum_all", "sum over every axis"), ("mean_all", "mean over every axis")];

/// Operations that refuse nothing: any tensor can be converted and copied.
const NEVER_FAIL: [&str; 3] = ["to_dtype", "contiguous", "to_device"];

fn sources() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut files = vec![];
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.ends_with("registry.rs")
                && !path.ends_with("entry.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 15, "src/ops has moved");
    files
}

#[test]
fn every_public_operation_has_an_entry() {
    let names: BTreeSet<&str> = entries().iter().map(|e| e.name).collect();
    let mut missing = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub fn ") else { continue };
            let name = rest.split(['(', '<']).next().unwrap().trim_end_matches('_');
            seen.insert(name.to_string());
            if !names.contains(name) && !NOT_OPERATIONS.iter().any(|(n, _)| *n == name) {
                missing.push(format!("{name} in {}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "operations without an entry in the registry: {missing:#?}");
    let gone: Vec<_> = names.iter().filter(|n| !seen.contains(**n)).collect();
    assert!(gone.is_empty(), "entries without a public function: {gone:?}");
}

#[test]
fn every_name_on_the_tape_is_an_entry() {
    let names: BTreeSet<&str> = entries().iter().map(|e| e.name).collect();
    // As the sources spell them…
    for (path, text) in sources() {
        for call in text.split("record(\"").skip(1) {
            let name = call.split('"').next().unwrap();
            assert!(names.contains(name), "{} records {name:?}", path.display());
        }
    }
    // … and as they run.
    for entry in entries() {
        for sample in small(&entry) {
            let mut inputs = sample.tensors(DType::F64, 1).unwrap();
            if entry.differentiable {
                let first = inputs.iter_mut().find(|x| x.dtype().is_float()).unwrap();
                *first = first.requires_grad_().unwrap();
            }
            let (result, trace) = trace(|| (entry.run)(&inputs, &sample.attrs));
            result.unwrap();
            for step in &trace.entries {
                assert!(names.contains(step.name), "{} records {:?}", entry.name, step.name);
            }
        }
    }
}

#[test]
fn names_are_unique_and_every_entry_can_be_tested() {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries() {
        *count.entry(entry.name).or_default() += 1;
        let name = entry.name;
        let samples = small(&entry);
        assert!(!(entry.samples)().is_empty(), "{name} has no samples");
        assert!(entry.tolerance > 0.0 && entry.tolerance < 1e-5, "{name}: tolerance");
        assert!(
            !(entry.errors)().is_empty() || NEVER_FAIL.contains(&name),
            "{name} has nothing that it refuses"
        );
        assert_eq!(
            big(name).is_empty(),
            VIEWS.contains(&name),
            "{name} needs a big sample, or is a view"
        );
        let has = |f: fn(&[usize]) -> bool| {
            samples.iter().any(|s| s.tensors(DType::F32, 0).unwrap().iter().any(|x| f(x.shape())))
        };
        assert!(has(|s| s.contains(&0)), "{name} has no sample of size zero");
        // The projection to q, k and v is at least three wide.
        let ones = name == "self_attention_qkv" || has(|s| s.iter().all(|&n| n == 1));
        assert!(ones, "{name} has no sample of size one");
    }
    count.retain(|_, n| *n > 1);
    assert!(count.is_empty(), "two entries of one name: {count:?}");
}

#[test]
fn every_entry_has_a_reference() {
    for entry in entries() {
        let sample = &(entry.samples)()[0];
        let inputs = sample.tensors(DType::F64, 1).unwrap();
        assert!(!reference(entry.name, &arrays(&inputs), &sample.attrs).is_empty());
    }
}
