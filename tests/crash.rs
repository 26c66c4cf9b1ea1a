//! A run survives the failure of any of its file operations.
//!
//! The n-th operation fails, for every n until the run passes untouched: once, for ever (as when the process
//! is killed or the disk stays full), and for ever with half of the data written. Afterwards the newest
//! checkpoint is no older than the last one that was reported as saved, and the resumed run ends with
//! the same bits as a run to which nothing happened.

#[path = "common/training.rs"]
mod training;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use handloom::Result;
use handloom::train::checkpoint::RunFolder;
use handloom::train::config::TrainerConfig;
use handloom::train::fsx::{Disk, Fs};
use handloom::train::observer::{Observer, Saved};
use handloom::train::{Control, Trainer};
use training::{Kind, TINY, config, folder, task};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Once,
    Forever,
    HalfWritten,
}

/// Fails at one operation, or from it on. Does not wait for the disk.
struct Failing {
    fault: Fault,
    at: u64,
    count: AtomicU64,
    calls: std::sync::Mutex<Vec<(&'static str, PathBuf)>>,
}

impl Failing {
    fn new(fault: Fault, at: u64) -> Failing {
        Failing { fault, at, count: AtomicU64::new(0), calls: Default::default() }
    }

    /// Counts an operation that changes something; whether it fails.
    fn fails(&self, call: &'static str, path: &Path) -> bool {
        self.calls.lock().unwrap().push((call, path.to_owned()));
        let n = self.count.fetch_add(1, SeqCst) + 1;
        match self.fault {
            Fault::Once => n == self.at,
            _ => n >= self.at,
        }
    }

    fn check(&self, call: &'static str, path: &Path) -> io::Result<()> {
        if self.fails(call, path) { Err(io::Error::other("injected")) } else { Ok(()) }
    }

    fn first(&self) -> bool {
        self.fault == Fault::HalfWritten && self.count.load(SeqCst) == self.at
    }
}

impl Fs for Failing {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check("mkdir", path)?;
        Disk.create_dir_all(path)
    }
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if self.fails("write", path) {
            if self.first() {
                Disk.write(path, &data[..data.len() / 2])?;
            }
            return Err(io::Error::other("injected"));
        }
        Disk.write(path, data)
    }
    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if self.fails("append", path) {
            if self.first() {
                Disk.append(path, &data[..data.len() / 2])?;
            }
            return Err(io::Error::other("injected"));
        }
        Disk.append(path, data)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.check("truncate", path)?;
        Disk.truncate(path, len)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.check("sync", path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check("rename", to)?;
        Disk.rename(from, to)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check("remove", path)?;
        Disk.remove_dir_all(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.list(path)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        Disk.len(path)
    }
    fn exists(&self, path: &Path) -> bool {
        Disk.exists(path)
    }
}

/// Remembers the last step that was reported as saved.
#[derive(Default)]
struct LastSaved(u64);

impl Observer for LastSaved {
    fn saved(&mut self, step: u64, what: Saved, _: &Path) {
        if what == Saved::Checkpoint {
            self.0 = step;
        }
    }
}

const STEPS: u64 = 8;

/// Runs in `dir`, going on with what is there; gives the last step reported as saved.
fn run(dir: &Path, fs: Arc<dyn Fs>) -> (u64, Result<()>) {
    let mut saved = LastSaved::default();
    let mut task = task(Kind::Lstm, TINY);
    let settings = TrainerConfig {
        save_steps: 2,
        save_total_limit: 2,
        eval_steps: 3,
        logging_steps: 1,
        ..config(STEPS)
    };
    let result = (|| {
        let mut control = Control::new(&mut saved);
        control.clock = Box::new(|| 0.0);
        control.fs = fs.clone();
        let mut folder = match dir.join("checkpoints").is_dir() {
            true => RunFolder::open(dir, fs.clone())?,
            false => RunFolder::create(dir, fs.clone())?,
        };
        let newest = folder.newest()?.newest;
        if newest.is_none() {
            folder.truncate_log(0)?;
        }
        let trainer = Trainer::new(&settings, task.as_mut(), &mut control)?;
        let mut trainer = trainer.with_run(folder, Default::default(), "");
        if let Some(checkpoint) = &newest {
            trainer.resume_from(checkpoint)?;
        }
        trainer.run_here().map(|_| ())
    })();
    (saved.0, result)
}

fn outcome(dir: &Path) -> Vec<Vec<u8>> {
    let last = dir.join(format!("checkpoints/step-{STEPS:06}"));
    let files = [
        last.join("model.safetensors"),
        last.join("optimizer.safetensors"),
        last.join("trainer_state.json"),
        dir.join("best/model.safetensors"),
        dir.join("metrics.jsonl"),
    ];
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn any_operation_may_fail() {
    let root = folder("crash");
    let whole = root.join("whole");
    run(&whole, Arc::new(Failing::new(Fault::Once, u64::MAX))).1.unwrap();
    let expected = outcome(&whole);
    let mut points = 0;
    for fault in [Fault::Once, Fault::Forever, Fault::HalfWritten] {
        for n in 1.. {
            let dir = root.join(format!("{fault:?}-{n}"));
            let fs = Arc::new(Failing::new(fault, n));
            let (saved, result) = run(&dir, fs.clone());
            let untouched = fs.count.load(SeqCst) < n;
            if let Err(error) = &result {
                assert!(error.to_string().contains("injected"), "{fault:?} at {n}: {error}");
            }
            if dir.join("checkpoints").is_dir() {
                let newest =
                    RunFolder::open(&dir, Arc::new(training::Fast)).unwrap().newest().unwrap();
                let step = newest.newest.map_or(0, |checkpoint| checkpoint.step);
                assert!(step >= saved, "{fault:?} at {n}: step {saved} was saved, {step} is left");
                assert!(newest.damaged.is_empty(), "{fault:?} at {n}: {:?}", newest.damaged);
            }
            run(&dir, Arc::new(training::Fast)).1.unwrap();
            for (i, (a, b)) in expected.iter().zip(outcome(&dir)).enumerate() {
                assert!(*a == b, "{fault:?} at {n}: file {i} differs after the resume");
            }
            std::fs::remove_dir_all(&dir).unwrap();
            if untouched {
                break;
            }
            points += 1;
        }
    }
    println!("{points} points of failure");
    assert!(points > 200);
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn files_are_synced_before_they_are_renamed_and_the_folder_after() {
    let root = folder("crash-order");
    let fs = Arc::new(Failing::new(Fault::Once, u64::MAX));
    run(&root.join("run"), fs.clone()).1.unwrap();
    let calls = fs.calls.lock().unwrap();
    let mut renames = 0;
    for (i, (call, target)) in calls.iter().enumerate() {
        let place = target.parent().unwrap();
        let is_checkpoint = place.ends_with("checkpoints")
            && target.file_name().unwrap().to_string_lossy().starts_with("step-");
        if *call != "rename" || !is_checkpoint {
            continue;
        }
        renames += 1;
        // Before: each file written and synced, the manifest last, then the folder.
        let fresh = place.join(format!("tmp-{}", target.file_name().unwrap().to_string_lossy()));
        let begin = calls[..i].iter().rposition(|(c, p)| *c == "mkdir" && *p == fresh).unwrap();
        let steps = &calls[begin + 1..i];
        let files: Vec<&PathBuf> =
            steps.iter().filter(|(c, _)| *c == "write").map(|(_, p)| p).collect();
        for pair in steps.chunks(2).take(files.len()) {
            assert_eq!((pair[0].0, pair[1].0), ("write", "sync"));
            assert_eq!(pair[0].1, pair[1].1);
        }
        assert!(files.last().unwrap().ends_with("manifest.json"));
        assert_eq!(*steps.last().unwrap(), ("sync", fresh));
        // After: the parent.
        assert_eq!(calls[i + 1], ("sync", place.to_owned()));
    }
    assert_eq!(renames as u64, STEPS / 2);
    drop(calls);
    std::fs::remove_dir_all(&root).unwrap();
}
