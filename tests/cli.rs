//! The real program, as a person uses it: every bad input gets one sentence, the right exit code, and
//! leaves nothing half-written; what is good works from text to prediction.

#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of its own for a test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("handloom-cli-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), content).unwrap();
        self.path(name)
    }

    /// Everything below, by name, sorted.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, root, out);
                }
                out.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
        let mut out = Vec::new();
        walk(&self.0, &self.0, &mut out);
        out.sort();
        out
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs handloom in `folder`.
fn handloom(folder: &Folder, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_handloom"))
        .args(args)
        .current_dir(&folder.0)
        .env_remove("HANDLOOM_ISA")
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it and expects success.
fn works(folder: &Folder, args: &[&str]) -> Output {
    let output = handloom(folder, args);
    assert!(output.status.success(), "handloom {}\n{}", args.join(" "), stderr(&output));
    output
}

/// Runs it and expects `code`, an error of one paragraph that has all of `words`, nothing on stdout,
/// no panic, and the folder as it was.
fn refuses(folder: &Folder, args: &[&str], code: i32, words: &[&str]) {
    let before = folder.files();
    let output = handloom(folder, args);
    let said = stderr(&output);
    let shown = format!("handloom {}\n{said}", args.join(" "));
    assert_eq!(output.status.code(), Some(code), "{shown}");
    let error = said.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("no `error:` line: {shown}"));
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {shown}");
    }
    assert!(!said.contains("panicked") && !said.contains("a bug in handloom"), "{shown}");
    assert_eq!(stdout(&output), "", "{shown}");
    assert_eq!(folder.files(), before, "left behind by {shown}");
}

/// A small English text.
fn story() -> String {
    "the weaver sat at the loom and the shuttle ran from hand to hand. ".repeat(60)
}
