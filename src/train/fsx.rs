//! Every file operation that a checkpoint consists of, behind one small trait.
//!
//! A checkpoint is safe when it survives a failure of *any* of its operations. [`Disk`] performs them;
//! a test puts another [`Fs`] in its place that fails at the n-th, or records the order: write, fsync,
//! rename, fsync of the parent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The operations, with the semantics of a POSIX file system.
pub trait Fs: Send + Sync {
    /// Creates the folder and its parents; no error if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates or replaces the file with `data`. Not durable before [`Fs::sync`].
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Adds `data` at the end of the file, which is created if missing.
    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Makes a file's content, or a folder's list of names, durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or folder; a file is replaced, a folder must not be there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// The length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Whether there is anything at `path`.
    fn exists(&self, path: &Path) -> bool;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Fs for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        File::create(path)?.write_all(data)
    }

    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        // One write call a line: a kill leaves at most one torn line, the last.
        OpenOptions::new().create(true).append(true).open(path)?.write_all(data)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(len)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        if cfg!(windows) && path.is_dir() {
            return Ok(()); // folders cannot be opened there; the rename is journalled
        }
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(PathBuf::from(entry?.file_name()));
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Holds the one writer's lock of a run folder. The system lets go of it when the process ends,
/// however it ends, so a lock is never stale.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the run folder `dir` by its file `run.lock`.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) with the other writer's process id when somebody holds it.
    pub fn take(dir: &Path) -> crate::Result<Lock> {
        use crate::Error;
        let path = dir.join("run.lock");
        let open =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(|e| Error::io(&path, "open the lock file", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                // Between taking the lock and writing its id the other one needs a moment.
                let mut pid = String::new();
                for _ in 0..50 {
                    pid = fs::read_to_string(&path).unwrap_or_default();
                    if pid.ends_with('\n') {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                let pid = pid.trim();
                return Err(Error::Data(format!(
                    "{}: process {} is writing to this run; wait for it, stop it, or choose another \
                     --out",
                    dir.display(),
                    if pid.is_empty() { "unknown" } else { pid }
                )));
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, "lock", e)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|e| Error::io(&path, "write", e))?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_refused_with_the_pid_of_the_first() {
        let dir = std::env::temp_dir().join(format!("handloom-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = Lock::take(&dir).unwrap();
        let error = Lock::take(&dir).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Lock::take(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
