//! A run that is stopped after any step and resumed is the same run, bit for bit: weights, moments, carried
//! state, trainer state, log and best model.
//!
//! Each run has 60 steps with gradient accumulation, dropout, a warm-up, several epochs, evaluations, a batch
//! whose loss is not a number, a moving average of the weights, and (for the classifier) layers that begin to learn later. It is resumed at each
//! of its steps, the last one included.

#[path = "common/training.rs"]
mod training;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use handloom::text::hash::hash_bytes;
use handloom::train::Trainer;
use handloom::train::checkpoint::RunFolder;
use handloom::train::config::{OnNonfinite, TrainerConfig};
use handloom::train::data::Cursor;
use training::{Fast, Faulty, Kind, TINY, Ticker, config, folder, task};

const STEPS: u64 = 60;

fn settings(save_steps: u64) -> TrainerConfig {
    TrainerConfig { save_steps, on_nonfinite: OnNonfinite::Skip, ema_decay: 0.9, ..config(STEPS) }
}

fn faulty(kind: Kind) -> Faulty {
    Faulty::new(task(kind, TINY), Cursor { epoch: 2, index: 3 })
}

/// Runs in `dir` to the end, or to `stop_at`; goes on with the run that is there when `resume`.
fn run(kind: Kind, dir: &Path, save_steps: u64, stop_at: Option<u64>, resume: bool) -> Ticker {
    let mut ticker = Ticker::new(stop_at);
    let mut task = faulty(kind);
    {
        let mut control = ticker.control();
        let fs = Arc::new(Fast);
        let folder = if resume { RunFolder::open(dir, fs) } else { RunFolder::create(dir, fs) };
        let folder = folder.unwrap();
        let newest = folder.newest().unwrap();
        let trainer = Trainer::new(&settings(save_steps), &mut task, &mut control).unwrap();
        let mut trainer = trainer.with_run(folder, Default::default(), "handloom resume");
        if resume {
            assert!(newest.damaged.is_empty(), "{:?}", newest.damaged);
            trainer.resume_from(&newest.newest.unwrap()).unwrap();
        }
        match (trainer.run(), stop_at) {
            (Ok(_), None) => {}
            (Err(error), Some(_)) => {
                assert_eq!(error.exit_code(), 130, "{error}");
                assert!(error.to_string().contains("handloom resume"), "{error}");
            }
            (result, _) => panic!("{result:?}"),
        }
    }
    ticker
}

/// Every file of the last checkpoint, of `best/`, and the log.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for folder in [format!("checkpoints/step-{STEPS:06}"), "best".into()] {
        for entry in std::fs::read_dir(dir.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            all.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    all.insert("metrics.jsonl".into(), std::fs::read(dir.join("metrics.jsonl")).unwrap());
    all
}

fn compare(kind: Kind, step: u64, a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) {
    assert!(a.keys().eq(b.keys()));
    for (name, bytes) in a {
        if bytes != &b[name] {
            let show = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[..bytes.len().min(3000)]).into_owned()
            };
            panic!(
                "{kind:?} resumed at step {step}: {name} differs\n{}\n{}",
                show(bytes),
                show(&b[name])
            );
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn every_step(kind: Kind) {
    let root = folder(&format!("resume-{kind:?}"));
    // The run without a stop, which leaves a checkpoint of every step.
    let whole = root.join("whole");
    let ticker = run(kind, &whole, 1, None, false);
    assert!(ticker.warnings.iter().any(|w| w.contains("skipped")), "{:?}", ticker.warnings);
    // What the run must pass: the end of the warm-up, the bad batch, several epochs.
    let batches = task(kind, TINY).batches_per_epoch();
    assert!(config(STEPS).warmup_steps < STEPS as f64 && 4 * batches < 2 * STEPS, "{batches}");
    let expected = files(&whole);
    for step in 1..=STEPS {
        let dir = root.join(format!("from-{step}"));
        let name = format!("checkpoints/step-{step:06}");
        copy(&whole.join(&name), &dir.join(&name));
        // What was written after the checkpoint is there too, as after a crash.
        std::fs::copy(whole.join("metrics.jsonl"), dir.join("metrics.jsonl")).unwrap();
        copy(&whole.join("best"), &dir.join("best"));
        run(kind, &dir, 0, None, true);
        compare(kind, step, &expected, &files(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }
    println!("{kind:?}: {STEPS} of {STEPS} resumes gave the same run");
    // Stopped from outside, twice in one run.
    for (first, second) in [(6, 7), (7, 22), (13, 59)] {
        let dir = root.join("stopped");
        run(kind, &dir, 0, Some(first), false);
        run(kind, &dir, 0, Some(second), true);
        run(kind, &dir, 0, None, true);
        compare(kind, second, &expected, &files(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn pretraining_resumes_at_every_step() {
    every_step(Kind::Gpt);
}

#[test]
fn pretraining_with_a_carried_state_resumes_at_every_step() {
    every_step(Kind::Lstm);
}

#[test]
fn masked_pretraining_resumes_at_every_step() {
    every_step(Kind::Bert);
}

#[test]
fn fine_tuning_resumes_at_every_step() {
    every_step(Kind::Classify);
}

/// A state that no run can reach, with checksums that fit it.
#[test]
fn a_forged_state_is_refused() {
    let root = folder("resume-forged");
    let whole = root.join("whole");
    run(Kind::Gpt, &whole, 0, Some(3), false);
    let place = whole.join("checkpoints/step-000003");
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    let (state, manifest) = (read("trainer_state.json"), read("manifest.json"));
    let huge = u64::MAX.to_string();
    for (key, value) in [
        ("index", "7777777"),
        ("index", huge.as_str()),
        ("epoch", huge.as_str()),
        ("micro", huge.as_str()),
        ("step", "4"),
        ("tokens", "-1"),
        ("elapsed", "\"long\""),
    ] {
        let at = state.find(&format!("\"{key}\": ")).unwrap() + key.len() + 4;
        let end = at + state[at..].find([',', '\n', '}']).unwrap();
        let forged = format!("{}{value}{}", &state[..at], &state[end..]);
        let mut sealed: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        sealed.as_object_mut().unwrap().shift_remove("checksum");
        for file in sealed["files"].as_array_mut().unwrap() {
            if file["name"] == "trainer_state.json" {
                file["bytes"] = forged.len().into();
                file["checksum"] = format!("{:016x}", hash_bytes(forged.as_bytes())).into();
            }
        }
        let checksum = format!("{:016x}", hash_bytes(sealed.to_string().as_bytes()));
        sealed["checksum"] = checksum.into();
        std::fs::write(place.join("trainer_state.json"), &forged).unwrap();
        std::fs::write(place.join("manifest.json"), sealed.to_string()).unwrap();
        let mut ticker = Ticker::new(None);
        let mut control = ticker.control();
        let mut task = faulty(Kind::Gpt);
        let newest = RunFolder::open(&whole, Arc::new(Fast)).unwrap().newest().unwrap();
        assert!(newest.damaged.is_empty(), "{:?}", newest.damaged);
        let mut trainer = Trainer::new(&settings(0), &mut task, &mut control).unwrap();
        let error = trainer.resume_from(&newest.newest.unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{key} = {value}");
        assert!(error.to_string().contains("trainer_state.json"), "{key} = {value}: {error}");
    }
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn other_data_is_refused() {
    let root = folder("resume-other");
    run(Kind::Gpt, &root.join("a"), 0, Some(3), false);
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut other = task(Kind::Gpt, training::Size { tokens: 201, ..TINY });
    let folder = RunFolder::open(&root.join("a"), Arc::new(Fast)).unwrap();
    let newest = folder.newest().unwrap().newest.unwrap();
    let mut trainer = Trainer::new(&settings(0), other.as_mut(), &mut control).unwrap();
    let error = trainer.resume_from(&newest).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("training data"), "{error}");
    std::fs::remove_dir_all(&root).unwrap();
}
