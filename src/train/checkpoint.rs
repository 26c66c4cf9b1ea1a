//! The run folder, and checkpoints that survive a crash at any instant.
//!
//! ```text
//! DIR/config.toml            the resolved configuration
//! DIR/tokenizer.json
//! DIR/metrics.jsonl          append-only log
//! DIR/run.lock               who is writing
//! DIR/best/                  the best model so far, a Hugging Face folder
//! DIR/checkpoints/step-000500/
//!     config.json  model.safetensors  tokenizer.json     the model as it is
//!     optimizer.safetensors  carried.safetensors         moments, carried state
//!     average.safetensors                                with --ema-decay: the moving average of the weights
//!     trainer_state.json                                 step, cursor, clock, best, configuration
//!     manifest.json                                      length and checksum of each file
//! ```
//!
//! A checkpoint is written to a folder `tmp-…`: each file is written and synced, the manifest last;
//! then the folder is synced, renamed into place, and its parent synced. Only a rename makes it exist,
//! so a checkpoint is whole or not there. There is no pointer to the latest one, which could be
//! wrong: the newest valid one is found by looking. "Valid" means that every file of the manifest is
//! there in its length and checksum.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fsx::{Fs, Lock};
use crate::error::{Error, Result};
use crate::text::hash::hash_bytes;

const FORMAT: u64 = 1;
const MANIFEST: &str = "manifest.json";
const LOG: &str = "metrics.jsonl";

/// A run folder that this process alone writes to.
pub struct RunFolder {
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    /// Bytes of the log so far.
    log_len: u64,
    _lock: Lock,
}

/// A checkpoint whose files have all been verified.
pub struct Checkpoint {
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    /// The step it was taken at.
    pub step: u64,
    names: Vec<String>,
}

/// The search for the newest valid checkpoint.
pub struct Search {
    /// What was found.
    pub newest: Option<Checkpoint>,
    /// One sentence for each newer folder that is damaged.
    pub damaged: Vec<String>,
}

impl RunFolder {
    /// Makes a new run folder at `dir`.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is a run already, [`Error::Data`] when somebody writes to it,
    /// [`Error::Io`] when the system refuses.
    pub fn create(dir: &Path, fs: Arc<dyn Fs>) -> Result<RunFolder> {
        fs.create_dir_all(dir).map_err(|e| Error::io(dir, "create the folder", e))?;
        let lock = Lock::take(dir)?;
        // An empty folder checkpoints/ alone is what a run leaves that was stopped as it began.
        let checkpoints = dir.join("checkpoints");
        let begun = fs.list(&checkpoints).is_ok_and(|names| !names.is_empty());
        if begun || fs.exists(&dir.join(LOG)) || fs.exists(&dir.join("config.toml")) {
            return Err(Error::Usage(format!(
                "{} holds a run already; go on with it by --resume, or choose another --out",
                dir.display()
            )));
        }
        fs.create_dir_all(&checkpoints)
            .map_err(|e| Error::io(&checkpoints, "create the folder", e))?;
        Ok(RunFolder { dir: dir.to_owned(), fs, log_len: 0, _lock: lock })
    }

    /// Opens the run folder at `dir` to go on with it, and clears away what a crash left behind.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no run or somebody else writes to it.
    pub fn open(dir: &Path, fs: Arc<dyn Fs>) -> Result<RunFolder> {
        let checkpoints = dir.join("checkpoints");
        if !fs.exists(&checkpoints) {
            return Err(Error::Data(format!(
                "{}: there is no run here (no folder checkpoints/); start one without --resume",
                dir.display()
            )));
        }
        let lock = Lock::take(dir)?;
        // A replaced best/ that was not put in place yet.
        let (best, aside) = (dir.join("best"), dir.join("old-best"));
        if fs.exists(&aside) {
            if fs.exists(&best) {
                let _ = fs.remove_dir_all(&aside);
            } else {
                fs.rename(&aside, &best).map_err(|e| Error::io(&aside, "rename", e))?;
            }
        }
        for place in [dir, checkpoints.as_path()] {
            for name in fs.list(place).map_err(|e| Error::io(place, "list", e))? {
                let text = name.to_string_lossy().into_owned();
                if text.starts_with("tmp-") || text.starts_with("old-step-") {
                    let _ = fs.remove_dir_all(&place.join(name));
                }
            }
        }
        let log = dir.join(LOG);
        let log_len = if fs.exists(&log) {
            fs.len(&log).map_err(|e| Error::io(&log, "read", e))?
        } else {
            0
        };
        Ok(RunFolder { dir: dir.to_owned(), fs, log_len, _lock: lock })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file at the top of the folder, whole or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write_top(&self, name: &str, data: &[u8]) -> Result<()> {
        let (to, from) = (self.dir.join(name), self.dir.join(format!(".{name}.tmp")));
        self.write_synced(&from, data)?;
        self.fs.rename(&from, &to).map_err(|e| Error::io(&to, "rename into place", e))?;
        self.sync(&self.dir)
    }

    /// Adds a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn log(&mut self, line: &Map<String, Value>) -> Result<()> {
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        let path = self.dir.join(LOG);
        self.fs.append(&path, text.as_bytes()).map_err(|e| Error::io(&path, "write", e))?;
        self.log_len += text.len() as u64;
        Ok(())
    }

    /// Bytes of the log so far.
    pub fn log_len(&self) -> u64 {
        self.log_len
    }

    /// Cuts the log back to its first `len` bytes. False where it was shorter than that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn truncate_log(&mut self, len: u64) -> Result<bool> {
        let path = self.dir.join(LOG);
        let there = self.log_len;
        if there > len {
            self.fs.truncate(&path, len).map_err(|e| Error::io(&path, "cut", e))?;
            self.log_len = len;
        }
        Ok(there >= len)
    }

    /// Writes the checkpoint of `step` with the files that `fill` hands to the writer, then removes all
    /// but the newest `keep` (0 keeps all).
    ///
    /// # Errors
    /// When the system refuses; what was there before is still there then.
    pub fn save(
        &mut self,
        step: u64,
        keep: usize,
        fill: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<PathBuf> {
        let log = self.dir.join(LOG);
        if self.fs.exists(&log) {
            self.sync(&log)?;
        }
        let parent = self.dir.join("checkpoints");
        let target = parent.join(format!("step-{step:06}"));
        if self.fs.exists(&target) {
            if verify(&target, self.fs.as_ref()).is_ok() {
                return Ok(target); // the same step of the same run is the same checkpoint
            }
            let aside = parent.join(format!("old-step-{step:06}"));
            self.fs.rename(&target, &aside).map_err(|e| Error::io(&target, "move aside", e))?;
            let _ = self.fs.remove_dir_all(&aside);
        }
        self.write_folder(&parent, &target, step, fill)?;
        if keep > 0 {
            self.prune(&parent, step, keep);
        }
        Ok(target)
    }

    /// Replaces `best/` by the files that `fill` hands to the writer.
    ///
    /// # Errors
    /// When the system refuses; the old best is still there then.
    pub fn save_best(
        &mut self,
        step: u64,
        fill: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<PathBuf> {
        let (target, aside) = (self.dir.join("best"), self.dir.join("old-best"));
        let fresh = self.dir.join("tmp-best");
        self.fill_folder(&fresh, step, fill)?;
        // A folder cannot be renamed over another. Should the machine stop between the two renames,
        // `open` finds the old one and puts it back.
        if self.fs.exists(&target) {
            self.fs.rename(&target, &aside).map_err(|e| Error::io(&target, "move aside", e))?;
        }
        self.fs.rename(&fresh, &target).map_err(|e| Error::io(&target, "rename into place", e))?;
        self.sync(&self.dir)?;
        if self.fs.exists(&aside) {
            let _ = self.fs.remove_dir_all(&aside);
        }
        Ok(target)
    }

    fn write_folder(
        &self,
        parent: &Path,
        target: &Path,
        step: u64,
        fill: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let fresh = parent.join(format!("tmp-step-{step:06}"));
        self.fill_folder(&fresh, step, fill)?;
        self.fs.rename(&fresh, target).map_err(|e| Error::io(target, "rename into place", e))?;
        self.sync(parent)
    }

    /// Writes the files and the manifest into the folder `fresh` and makes them durable. Leaves nothing
    /// behind when it fails.
    fn fill_folder(
        &self,
        fresh: &Path,
        step: u64,
        fill: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        if self.fs.exists(fresh) {
            let _ = self.fs.remove_dir_all(fresh);
        }
        let written = (|| {
            self.fs.create_dir_all(fresh).map_err(|e| Error::io(fresh, "create the folder", e))?;
            let mut files = Vec::new();
            fill(&mut |name, data| {
                let path = fresh.join(name);
                // A name may have a folder in front: `adapter/adapter_config.json`.
                let inner = path.parent().filter(|parent| *parent != fresh);
                if let Some(inner) = inner {
                    let made = self.fs.create_dir_all(inner);
                    made.map_err(|e| Error::io(inner, "create the folder", e))?;
                }
                self.write_synced(&path, data)?;
                if let Some(inner) = inner {
                    self.sync(inner)?;
                }
                let checksum = format!("{:016x}", hash_bytes(data));
                files.push(json!({"name": name, "bytes": data.len(), "checksum": checksum}));
                Ok(())
            })?;
            let manifest = seal(json!({"format": FORMAT, "step": step, "files": files}));
            self.write_synced(&fresh.join(MANIFEST), manifest.as_bytes())?;
            self.sync(fresh)
        })();
        if written.is_err() {
            let _ = self.fs.remove_dir_all(fresh);
        }
        written
    }

    fn write_synced(&self, path: &Path, data: &[u8]) -> Result<()> {
        self.fs.write(path, data).map_err(|e| Error::io(path, "write", e))?;
        self.sync(path)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.fs.sync(path).map_err(|e| Error::io(path, "sync", e))
    }

    /// Removes all but the newest `keep` checkpoints up to `step`, which has just been written: so a valid
    /// one always stays. Folders of later steps are damaged ones that the run went back behind; they do
    /// not count, and are replaced when the run comes by. A folder that cannot be removed is left for the
    /// next time.
    fn prune(&self, parent: &Path, step: u64, keep: usize) {
        let steps = steps(parent, self.fs.as_ref()).unwrap_or_default();
        let behind = steps.into_iter().rev().skip_while(|(other, _)| *other > step);
        for (_, name) in behind.skip(keep) {
            let aside = parent.join(format!("old-{name}"));
            // Renamed first: a half-removed folder never looks like a checkpoint.
            if self.fs.rename(&parent.join(&name), &aside).is_ok() {
                let _ = self.fs.remove_dir_all(&aside);
            }
        }
    }

    /// Finds the newest valid checkpoint.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn newest(&self) -> Result<Search> {
        newest(&self.dir, self.fs.clone())
    }
}

/// Finds the newest valid checkpoint of the run folder `dir` without locking it.
///
/// # Errors
/// When the folder cannot be read.
pub fn newest(dir: &Path, fs: Arc<dyn Fs>) -> Result<Search> {
    let parent = dir.join("checkpoints");
    let steps = steps(&parent, fs.as_ref()).map_err(|e| Error::io(&parent, "list", e))?;
    let mut damaged = Vec::new();
    for (step, name) in steps.into_iter().rev() {
        let dir = parent.join(&name);
        let verified = verify(&dir, fs.as_ref()).and_then(|(written, names)| match written {
            _ if written == step => Ok(names),
            _ => Err(format!("it was written for step {written}")),
        });
        match verified {
            Ok(names) => {
                return Ok(Search { newest: Some(Checkpoint { dir, fs, step, names }), damaged });
            }
            Err(why) => {
                damaged.push(format!("{}: {why}; an older checkpoint is used", dir.display()))
            }
        }
    }
    Ok(Search { newest: None, damaged })
}

/// Verifies the single checkpoint or `best/` folder `dir`.
///
/// # Errors
/// [`Error::Data`] that says what is wrong with it.
pub fn open_folder(dir: &Path, fs: Arc<dyn Fs>) -> Result<Checkpoint> {
    let (step, names) =
        verify(dir, fs.as_ref()).map_err(|why| Error::Data(format!("{}: {why}", dir.display())))?;
    Ok(Checkpoint { dir: dir.to_owned(), fs, step, names })
}

/// The checkpoints by step, whatever state they are in, oldest first.
fn steps(parent: &Path, fs: &dyn Fs) -> std::io::Result<Vec<(u64, String)>> {
    let mut all = Vec::new();
    for name in fs.list(parent)? {
        let name = name.to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|digits| digits.parse().ok()) {
            all.push((step, name));
        }
    }
    all.sort();
    Ok(all)
}

/// The manifest as text, with a checksum of itself.
fn seal(manifest: Value) -> String {
    let checksum = format!("{:016x}", hash_bytes(manifest.to_string().as_bytes()));
    let mut manifest = manifest;
    manifest["checksum"] = json!(checksum);
    format!("{manifest}\n")
}

/// The step and the names of the files of a checkpoint folder whose every file is as its manifest says,
/// or why not.
fn verify(dir: &Path, fs: &dyn Fs) -> std::result::Result<(u64, Vec<String>), String> {
    let text =
        fs.read(&dir.join(MANIFEST)).map_err(|e| format!("{MANIFEST} cannot be read ({e})"))?;
    let damaged = || format!("{MANIFEST} is damaged");
    let Value::Object(mut manifest) = crate::json::parse(&text).map_err(|_| damaged())? else {
        return Err(damaged());
    };
    let checksum = manifest.shift_remove("checksum");
    let format = manifest.get("format").and_then(Value::as_u64);
    let files = manifest.get("files").and_then(Value::as_array).cloned();
    if checksum
        != Some(json!(format!("{:016x}", hash_bytes(json!(manifest).to_string().as_bytes()))))
    {
        return Err(damaged());
    }
    if format != Some(FORMAT) {
        return Err(format!("it has format {format:?}, this program reads {FORMAT}"));
    }
    let mut names = Vec::new();
    for file in files.ok_or_else(damaged)? {
        let name = file["name"].as_str().ok_or_else(damaged)?;
        // A file of this folder or of one in it, and nowhere else.
        let plain = |part: &str| !(part.is_empty() || part.starts_with('.'));
        if name.contains(['\\', ':'])
            || !name.split('/').all(plain)
            || names.iter().any(|n| n == name)
        {
            return Err(damaged());
        }
        let data = fs.read(&dir.join(name)).map_err(|e| format!("{name} cannot be read ({e})"))?;
        if Some(data.len() as u64) != file["bytes"].as_u64() {
            return Err(format!("{name} has {} bytes, expected {}", data.len(), file["bytes"]));
        }
        if file["checksum"].as_str() != Some(format!("{:016x}", hash_bytes(&data)).as_str()) {
            return Err(format!("{name} does not have the checksum it was written with"));
        }
        names.push(name.to_owned());
    }
    let step = manifest.get("step").and_then(Value::as_u64).ok_or_else(damaged)?;
    Ok((step, names))
}

impl Checkpoint {
    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it has a file of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// The content of one of its files.
    ///
    /// # Errors
    /// When it has no such file, or it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(name);
        if !self.has(name) {
            return Err(Error::Data(format!(
                "{}: the checkpoint has no such file",
                path.display()
            )));
        }
        self.fs.read(&path).map_err(|e| Error::io(&path, "read", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::fsx::Disk;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("handloom-run-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    fn save(run: &mut RunFolder, step: u64, keep: usize) -> PathBuf {
        run.save(step, keep, |write| {
            write("a.bin", &[step as u8; 10])?;
            write("inner/c.bin", b"c")?;
            write("b.json", b"{}")
        })
        .unwrap()
    }

    #[test]
    fn the_newest_valid_one_is_found_and_damage_is_named() {
        let dir = folder("newest");
        let mut run = RunFolder::create(&dir, Arc::new(Disk)).unwrap();
        assert!(RunFolder::create(&dir, Arc::new(Disk)).is_err(), "there is a run already");
        assert!(run.newest().unwrap().newest.is_none());
        save(&mut run, 1, 0);
        save(&mut run, 20, 0);
        let last = save(&mut run, 300, 0);
        assert_eq!(run.newest().unwrap().newest.unwrap().step, 300);

        // A flipped bit, a cut file and a missing manifest are all seen.
        std::fs::write(last.join("a.bin"), [9; 10]).unwrap();
        let search = run.newest().unwrap();
        assert_eq!(search.newest.unwrap().step, 20);
        assert!(search.damaged[0].contains("a.bin"), "{:?}", search.damaged);
        std::fs::write(dir.join("checkpoints/step-000020/b.json"), "{").unwrap();
        std::fs::create_dir_all(dir.join("checkpoints/step-000400")).unwrap();
        let search = run.newest().unwrap();
        assert_eq!(search.damaged.len(), 3);
        let found = search.newest.unwrap();
        assert_eq!((found.step, found.read("a.bin").unwrap()), (1, vec![1; 10]));
        assert!(found.read("manifest.json").is_err());
        // Saving behind damaged ones keeps what was saved, however few are kept.
        save(&mut run, 2, 1);
        assert_eq!(run.newest().unwrap().newest.unwrap().step, 2);
        // Saving over a damaged one repairs it.
        save(&mut run, 300, 0);
        assert_eq!(run.newest().unwrap().newest.unwrap().step, 300);
        // A folder under another step's name is not taken for that step.
        std::fs::rename(&last, dir.join("checkpoints/step-000500")).unwrap();
        let search = run.newest().unwrap();
        assert!(search.damaged[0].contains("written for step 300"), "{:?}", search.damaged);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn old_checkpoints_go_and_best_is_replaced() {
        let dir = folder("prune");
        let mut run = RunFolder::create(&dir, Arc::new(Disk)).unwrap();
        for step in 1..=5 {
            save(&mut run, step, 2);
        }
        assert_eq!(Disk.list(&dir.join("checkpoints")).unwrap().len(), 2);
        for step in [7u8, 9] {
            run.save_best(u64::from(step), |write| write("w", &[step])).unwrap();
        }
        assert_eq!(std::fs::read(dir.join("best/w")).unwrap(), [9]);
        assert!(open_folder(&dir.join("best"), Arc::new(Disk)).is_ok());
        drop(run);
        // A crash between the two renames.
        std::fs::rename(dir.join("best"), dir.join("old-best")).unwrap();
        std::fs::create_dir_all(dir.join("tmp-best")).unwrap();
        let run = RunFolder::open(&dir, Arc::new(Disk)).unwrap();
        assert_eq!(std::fs::read(dir.join("best/w")).unwrap(), [9]);
        assert!(!dir.join("tmp-best").exists());
        drop(run);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_log_is_cut_to_a_length() {
        let dir = folder("log");
        let mut run = RunFolder::create(&dir, Arc::new(Disk)).unwrap();
        let line = json!({"step": 1}).as_object().unwrap().clone();
        run.log(&line).unwrap();
        let len = run.log_len();
        run.log(&line).unwrap();
        assert!(run.truncate_log(len).unwrap());
        assert_eq!(std::fs::read_to_string(dir.join(LOG)).unwrap(), "{\"step\":1}\n");
        assert!(!run.truncate_log(len + 5).unwrap());
        drop(run);
        assert!(RunFolder::open(&folder("none"), Arc::new(Disk)).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
