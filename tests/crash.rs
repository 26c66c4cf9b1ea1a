//! A run survives the failure of any of its file operations, and the death of its process or machine at any.
//!
//! The n-th operation fails, for every n until the run passes untouched, in each of the ways of [`Fault`], over a
//! pretraining and a fine-tuning that save, evaluate, replace their best model and remove old checkpoints.
//! Afterwards the newest checkpoint is no older than the last one that was reported as saved, no more than one
//! save interval of steps is lost, nothing that is there is damaged, and the resumed run ends with the same bits
//! as a run to which nothing happened.

#[path = "common/training.rs"]
mod training;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use handloom::Result;
use handloom::train::checkpoint::RunFolder;
use handloom::train::config::TrainerConfig;
use handloom::train::fsx::{Disk, Fs};
use handloom::train::observer::{Observer, Saved, StepRecord};
use handloom::train::{Control, Trainer};
use training::{Fast, Kind, TINY, config, folder, task};

/// How many points there must be in all.
const AT_LEAST: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The device reports an error, once; whatever was asked for is not done.
    Error,
    /// From here on the device reports errors.
    ErrorForever,
    /// A write stops halfway, once.
    Short,
    /// The disk is full, once: what takes space fails, a write halfway.
    Full,
    /// The disk stays full; renaming and removing still work.
    FullForever,
    /// The process dies before the operation.
    KilledBefore,
    /// The process dies in the middle of a write.
    KilledWithin,
    /// The process dies after the operation took effect, before it could know.
    KilledAfter,
    /// The machine loses power: of what was not synced, contents are lost and renames undone.
    PowerLoss,
}

const FAULTS: [Fault; 9] = [
    Fault::Error,
    Fault::ErrorForever,
    Fault::Short,
    Fault::Full,
    Fault::FullForever,
    Fault::KilledBefore,
    Fault::KilledWithin,
    Fault::KilledAfter,
    Fault::PowerLoss,
];

/// What a power loss would take.
#[derive(Default)]
struct Unsynced {
    /// Files written to, with the bytes that are safe.
    files: HashMap<PathBuf, u64>,
    /// Renames whose folder was not synced since.
    renames: Vec<(PathBuf, PathBuf)>,
}

/// Fails at one operation, or from it on. Does not wait for the disk.
struct Failing {
    fault: Fault,
    at: u64,
    count: AtomicU64,
    calls: Mutex<Vec<(&'static str, PathBuf)>>,
    unsynced: Mutex<Unsynced>,
}

impl Failing {
    fn new(fault: Fault, at: u64) -> Failing {
        let (count, calls, unsynced) = Default::default();
        Failing { fault, at, count, calls, unsynced }
    }

    /// Counts an operation that changes something and does it as far as the fault lets it; `takes_space`
    /// operations fail on a full disk, and `part` is what is done when one stops in the middle.
    fn perform(
        &self,
        call: &'static str,
        path: &Path,
        takes_space: bool,
        whole: impl FnOnce() -> io::Result<()>,
        part: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.calls.lock().unwrap().push((call, path.to_owned()));
        let n = self.count.fetch_add(1, SeqCst) + 1;
        let failed = |kind: io::ErrorKind| Err(io::Error::new(kind, "injected"));
        let first = n == self.at;
        match self.fault {
            _ if n < self.at => whole(),
            Fault::Error if first => failed(io::ErrorKind::Other),
            Fault::ErrorForever | Fault::KilledBefore => failed(io::ErrorKind::Other),
            Fault::Short if first && takes_space => part().and(failed(io::ErrorKind::WriteZero)),
            Fault::Full if first && takes_space => part().and(failed(io::ErrorKind::StorageFull)),
            Fault::FullForever if takes_space => part().and(failed(io::ErrorKind::StorageFull)),
            Fault::KilledWithin if first => part().and(failed(io::ErrorKind::Other)),
            Fault::KilledAfter if first => whole().and(failed(io::ErrorKind::Other)),
            Fault::PowerLoss if first => {
                whole()?;
                self.lose_power();
                failed(io::ErrorKind::Other)
            }
            Fault::KilledWithin | Fault::KilledAfter | Fault::PowerLoss => {
                failed(io::ErrorKind::Other)
            }
            _ => whole(),
        }
    }

    fn lose_power(&self) {
        let unsynced = self.unsynced.lock().unwrap();
        for (path, safe) in &unsynced.files {
            if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
                file.set_len(*safe).unwrap();
            }
        }
        for (from, to) in unsynced.renames.iter().rev() {
            let _ = std::fs::rename(to, from);
        }
    }
}

fn nothing() -> io::Result<()> {
    Ok(())
}

impl Fs for Failing {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.perform("mkdir", path, true, || Disk.create_dir_all(path), nothing)
    }
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let half = &data[..data.len() / 2];
        self.unsynced.lock().unwrap().files.insert(path.to_owned(), 0);
        self.perform("write", path, true, || Disk.write(path, data), || Disk.write(path, half))
    }
    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let half = &data[..data.len() / 2];
        let len = Disk.len(path).unwrap_or(0);
        self.unsynced.lock().unwrap().files.entry(path.to_owned()).or_insert(len);
        self.perform("append", path, true, || Disk.append(path, data), || Disk.append(path, half))
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.perform("truncate", path, false, || Disk.truncate(path, len), nothing)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.perform("sync", path, false, nothing, nothing)?;
        let mut unsynced = self.unsynced.lock().unwrap();
        unsynced.files.remove(path);
        unsynced.renames.retain(|(_, to)| to.parent() != Some(path));
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let whole = || {
            Disk.rename(from, to)?;
            self.unsynced.lock().unwrap().renames.push((from.to_owned(), to.to_owned()));
            Ok(())
        };
        self.perform("rename", to, false, whole, nothing)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        // In the middle, a folder has lost some of its files.
        let part = || match Disk.list(path)?.first() {
            Some(name) => std::fs::remove_file(path.join(name)),
            None => Ok(()),
        };
        self.perform("remove", path, false, || Disk.remove_dir_all(path), part)
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

/// Remembers the last step, and the last one that was reported as saved.
#[derive(Default)]
struct Heard {
    step: u64,
    saved: u64,
}

impl Observer for Heard {
    fn step(&mut self, record: &StepRecord) {
        self.step = record.step;
    }
    fn saved(&mut self, step: u64, what: Saved, _: &Path) {
        if what == Saved::Checkpoint {
            self.saved = step;
        }
    }
}

const STEPS: u64 = 7;
const SAVE_STEPS: u64 = 2;
const KEEP: usize = 2;

/// Runs in `dir`, going on with what is there.
fn run(kind: Kind, dir: &Path, fs: Arc<dyn Fs>) -> (Heard, Result<()>) {
    let mut heard = Heard::default();
    let mut task = task(kind, TINY);
    let settings = TrainerConfig {
        save_steps: SAVE_STEPS,
        save_total_limit: KEEP,
        eval_steps: 3,
        logging_steps: 1,
        ..config(STEPS)
    };
    let result = (|| {
        let mut control = Control::new(&mut heard);
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
    (heard, result)
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

/// Fails at every operation in turn; gives the number of points.
fn every_operation(kind: Kind) -> u64 {
    let root = folder(&format!("crash-{kind:?}"));
    let whole = root.join("whole");
    run(kind, &whole, Arc::new(Failing::new(Fault::Error, u64::MAX))).1.unwrap();
    let expected = outcome(&whole);
    let mut points = 0;
    for fault in FAULTS {
        for n in 1.. {
            let dir = root.join(format!("{fault:?}-{n}"));
            let fs = Arc::new(Failing::new(fault, n));
            let (heard, result) = run(kind, &dir, fs.clone());
            let at = format!("{kind:?}, {fault:?} at operation {n}");
            if let Err(error) = &result {
                assert!(error.to_string().contains("injected"), "{at}: {error}");
            }
            if dir.join("checkpoints").is_dir() {
                let search = RunFolder::open(&dir, Arc::new(Fast)).unwrap().newest().unwrap();
                let step = search.newest.map_or(0, |checkpoint| checkpoint.step);
                assert!(step >= heard.saved, "{at}: {} was saved, {step} is left", heard.saved);
                assert!(heard.step <= step + SAVE_STEPS, "{at}: {} steps, {step} left", heard.step);
                assert!(search.damaged.is_empty(), "{at}: {:?}", search.damaged);
                let folders = Disk.list(&dir.join("checkpoints")).unwrap().len();
                assert!(folders <= KEEP + 1, "{at}: {folders} checkpoints are kept");
            } else {
                assert_eq!(heard.saved, 0, "{at}");
            }
            run(kind, &dir, Arc::new(Fast)).1.unwrap();
            for (i, (a, b)) in expected.iter().zip(outcome(&dir)).enumerate() {
                assert!(*a == b, "{at}: file {i} differs after the resume");
            }
            std::fs::remove_dir_all(&dir).unwrap();
            if fs.count.load(SeqCst) < n {
                break; // untouched
            }
            points += 1;
        }
    }
    std::fs::remove_dir_all(&root).unwrap();
    points
}

#[test]
fn any_operation_may_fail_or_be_the_last() {
    let fine_tuning = std::thread::spawn(|| every_operation(Kind::Classify));
    let (pretraining, fine_tuning) = (every_operation(Kind::Lstm), fine_tuning.join().unwrap());
    println!("{pretraining} points of failure in pretraining, {fine_tuning} in fine-tuning");
    assert!(pretraining + fine_tuning >= AT_LEAST);
}

#[test]
fn files_are_synced_before_they_are_renamed_and_the_folder_after() {
    let root = folder("crash-order");
    let fs = Arc::new(Failing::new(Fault::Error, u64::MAX));
    run(Kind::Lstm, &root.join("run"), fs.clone()).1.unwrap();
    let calls = fs.calls.lock().unwrap();
    let (mut checkpoints, mut best) = (0, 0);
    for (i, (call, target)) in calls.iter().enumerate() {
        let (place, name) = (target.parent().unwrap(), target.file_name().unwrap());
        let name = name.to_string_lossy();
        if *call != "rename" || !(name.starts_with("step-") || name == "best") {
            continue;
        }
        *if name == "best" { &mut best } else { &mut checkpoints } += 1;
        // Before: each file written and synced, the manifest last, then the folder.
        let fresh = place.join(format!("tmp-{name}"));
        let begin = calls[..i].iter().rposition(|(c, p)| *c == "mkdir" && *p == fresh).unwrap();
        let steps: Vec<_> =
            calls[begin + 1..i].iter().filter(|(_, path)| path.starts_with(&fresh)).collect();
        let files: Vec<&PathBuf> =
            steps.iter().filter(|(c, _)| *c == "write").map(|(_, p)| p).collect();
        for pair in steps.chunks(2).take(files.len()) {
            assert_eq!((pair[0].0, pair[1].0), ("write", "sync"));
            assert_eq!(pair[0].1, pair[1].1);
        }
        assert!(files.last().unwrap().ends_with("manifest.json"));
        assert_eq!(*steps.last().unwrap(), &("sync", fresh));
        // After: the parent.
        assert_eq!(calls[i + 1], ("sync", place.to_owned()));
    }
    assert_eq!(checkpoints, STEPS.div_ceil(SAVE_STEPS));
    assert!(best > 0);
    // The log is synced before a checkpoint says how long it is.
    let log = |(call, path): &(&str, PathBuf)| *call == "sync" && path.ends_with("metrics.jsonl");
    assert_eq!(calls.iter().filter(|call| log(call)).count() as u64, checkpoints);
    drop(calls);
    std::fs::remove_dir_all(&root).unwrap();
}
