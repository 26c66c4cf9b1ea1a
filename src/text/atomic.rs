//! Files that are either whole or not there.
//!
//! The bytes go to a temporary file beside the target, are flushed to the disk, and the file is
//! renamed into place: a crash, a full disk or Ctrl-C leaves the old file or the new one, never half.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file being written. Dropped before [`AtomicFile::commit`], it removes itself.
pub(crate) struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Opens the temporary file; the folder is made if it is not there.
    pub(crate) fn create(target: &Path) -> Result<AtomicFile> {
        let Some(name) = target.file_name() else {
            return Err(Error::Usage(format!("{}: not a file name", target.display())));
        };
        if let Some(folder) = target.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::io(folder, "create the folder", e))?;
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(hidden);
        let file = File::create(&temporary).map_err(|e| Error::io(&temporary, "create", e))?;
        let writer = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(AtomicFile { target: target.to_path_buf(), temporary, writer })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.writer.as_mut().expect("open until commit");
        writer.write_all(bytes).map_err(|e| Error::io(&self.target, "write", e))
    }

    /// Flushes, replaces the first bytes by `header` if there is one, syncs and renames.
    pub(crate) fn commit(mut self, header: Option<&[u8]>) -> Result<()> {
        let writer = self.writer.take().expect("open until commit");
        let target = self.target.clone();
        let failed = |e: std::io::Error| Error::io(&target, "write", e);
        let mut file = writer.into_inner().map_err(|e| failed(e.into_error()))?;
        if let Some(header) = header {
            use std::io::{Seek, SeekFrom};
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            file.write_all(header).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        drop(file);
        std::fs::rename(&self.temporary, &self.target).map_err(failed)?;
        sync_folder(&self.target);
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit the temporary name is gone and this does nothing.
        self.writer = None;
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Makes the rename itself durable. Best effort: not every system lets a folder be opened.
fn sync_folder(file: &Path) {
    if cfg!(unix) {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
    }
}

/// Writes a whole file at once.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.commit(None)
}
