//! The readers of foreign bytes against their corpus and against files that chance has changed.
//!
//! `cargo test` replays the seeds and every committed file of `fuzz/corpus/`, and some changed copies of each.
//! With a number of executions the changing goes on for as long as wanted:
//!
//! ```text
//! HANDLOOM_FUZZ=1000000 cargo test --release --test fuzz_corpus -- --nocapture
//! ```
//!
//! No reader may panic, take longer than a second, or hold more than ten times the input at once (and a fixed
//! sum on top, for tables that do not depend on the input). A panic inside the tokenizers crate is caught by the
//! guard around it and becomes an error; those are counted apart.

#![cfg(feature = "cli")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use handloom::text::rng::Rng;

/// Counts what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a reader may hold beside ten times its input.
fn fixed(target: &str) -> usize {
    match target {
        "tokenizer" => 16 << 20, // caches and automata of the crate
        _ => 1 << 20,
    }
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Words that the formats know, to be put anywhere.
const WORDS: [&str; 40] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "18446744073709551615",
    "4294967296",
    "\\ud800",
    "\\u0000",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    "O",
    "B-",
    "I-",
    "(",
    "*)",
    "#",
    "\u{FEFF}",
    "织",
    "\"type\":\"Sequence\"",
    "\"dtype\":\"F64\"",
    "\"shape\":[0]",
    "../",
    "=",
    "'''",
    "[[a]]",
    "nan",
    "\"Regex\":\"(a*)*b\"",
    "Ġ",
    "##",
    "\0",
];

/// A changed copy.
fn changed(input: &[u8], others: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(out.len() + 1);
        let some = |rng: &mut Rng| at.min(out.len())..(at + rng.below(16)).min(out.len());
        match rng.below(9) {
            0 if at < out.len() => out[at] ^= 1 << rng.below(8),
            1 if at < out.len() => {
                out[at] = [0, 1, 0x7F, 0x80, 0xFF, b'0', b'"', b'\n'][rng.below(8)]
            }
            2 => drop(out.drain(some(rng))),
            3 => {
                let range = some(rng);
                let again = out[range].repeat(1 + rng.below(3));
                out.splice(at..at, again);
            }
            4 => {
                let other: &[u8] = &others[rng.below(others.len())];
                let from = rng.below(other.len() + 1);
                let to = (from + rng.below(64)).min(other.len());
                out.splice(at..at, other[from..to].iter().copied());
            }
            5 => out.truncate(at),
            6 => {
                // A number becomes another one.
                if let Some(digit) = (at..out.len()).find(|&i| out[i].is_ascii_digit()) {
                    let end = (digit..out.len()).find(|&i| !out[i].is_ascii_digit());
                    let number = (rng.bits() >> rng.below(64)).to_string();
                    out.splice(digit..end.unwrap_or(out.len()), number.bytes());
                }
            }
            _ => drop(out.splice(at..at, WORDS[rng.below(WORDS.len())].bytes())),
        }
    }
    out
}

/// One execution, checked.
fn execute(name: &str, target: fn(&[u8]), input: &[u8]) {
    let (start, held) = (Instant::now(), HELD.get());
    PEAK.set(held);
    let result = catch_unwind(|| target(input));
    let (took, peak) = (start.elapsed(), (PEAK.get() - held) as usize);
    let shown = || {
        let place = std::env::temp_dir().join(format!("handloom-{name}.crash"));
        let _ = std::fs::write(&place, input);
        format!(
            "{} ({:?})",
            place.display(),
            String::from_utf8_lossy(&input[..input.len().min(400)])
        )
    };
    assert!(result.is_ok(), "{name} panics on {}", shown());
    assert!(took < Duration::from_secs(1), "{name} takes {took:?} on {}", shown());
    assert!(peak <= 10 * input.len() + fixed(name), "{name} holds {peak} bytes on {}", shown());
}

#[test]
fn readers_survive_their_corpus_and_changes_of_it() {
    std::panic::set_hook(Box::new(|info| match info.location() {
        Some(place) if place.file().contains("handloom") || place.file().starts_with("src") => {
            eprintln!("{info}")
        }
        Some(place) if place.file().starts_with("tests") || place.file().starts_with("fuzz") => {
            eprintln!("{info}")
        }
        _ => drop(CAUGHT.fetch_add(1, Relaxed)),
    }));
    let wanted = std::env::var("HANDLOOM_FUZZ").ok().and_then(|n| n.parse::<u64>().ok());
    let only = std::env::var("HANDLOOM_FUZZ_TARGET").ok();
    let seed = std::env::var("HANDLOOM_FUZZ_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut total = 0;
    for (number, (name, target)) in targets::TARGETS.into_iter().enumerate() {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let seeds = targets::seeds(name);
        let mut corpus = seeds.clone();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
        files.sort_by_key(|file| file.file_name());
        corpus.extend(files.iter().map(|file| std::fs::read(file.path()).unwrap()));
        for input in &corpus {
            execute(name, target, input);
        }
        let mut rng = Rng::new(seed, number as u64);
        let start = Instant::now();
        // The tokenizers crate takes some hundred microseconds a file; the others a few.
        let executions = wanted.unwrap_or(if name == "tokenizer" { 1000 } else { 10_000 });
        let mut pool = corpus.clone();
        for _ in 0..executions {
            // Half of them from sound files: most of the corpus is broken near its beginning.
            let from = if rng.below(2) == 0 { &seeds } else { &pool };
            let input = changed(&from[rng.below(from.len())], &corpus, &mut rng);
            execute(name, target, &input);
            // Some changes stay, so that they add up; the pool keeps its size.
            if input.len() < 4096 && rng.below(8) == 0 {
                match pool.len() < 2 * corpus.len() + 64 {
                    true => pool.push(input),
                    false => {
                        let place = corpus.len() + rng.below(pool.len() - corpus.len());
                        pool[place] = input;
                    }
                }
            }
        }
        total += corpus.len() as u64 + executions;
        println!(
            "{name}: {} files, {executions} changed ones in {:.1} s",
            corpus.len(),
            start.elapsed().as_secs_f64()
        );
    }
    println!(
        "{total} executions, 0 panics; {} panics of the tokenizers crate became errors",
        CAUGHT.load(Relaxed)
    );
}
