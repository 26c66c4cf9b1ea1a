//! Every reader of foreign bytes against files made by hand to break it.
//!
//! Each case is a file and the words that the refusal must have: what is wrong, and where. Among them are the
//! holes that other readers of these formats have or had: doubled keys, a shape of [2^64 − 1, 0], a merge longer
//! than its token, `../` in a list of shards, a gap between two tensors, nesting without end. A reader may not
//! panic, not fall back on its last net ("malformed"), and not take longer than a second.

#![cfg(feature = "cli")]

#[path = "../common/folder.rs"]
mod folder;
mod labelled;
mod manifest;
mod model_config;
mod model_folder;
mod safetensors;
mod settings;
mod tagged;
mod token_file;
mod tokenizer;

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use folder::Folder;
use handloom::Error;

/// How many cases all tests together must have.
const AT_LEAST: usize = 150;
static CASES: AtomicUsize = AtomicUsize::new(0);
/// What was wrong with the refusals, all of it.
static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Folder {
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
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
        ("safetensors", safetensors::files),
        ("config.json", model_config::files),
        ("model folders", model_folder::files),
        ("tokenizer.json", tokenizer::files),
        ("token files", token_file::files),
        ("manifests", manifest::files),
        ("texts", labelled::texts),
        ("labels", labelled::labels),
        ("tags and roles", tagged::files),
        ("word vocabularies", tagged::vocabularies),
        ("settings", settings::files),
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
