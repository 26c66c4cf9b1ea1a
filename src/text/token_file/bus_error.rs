//! The last net under a memory map.
//!
//! A page of a mapped file that the file no longer has raises SIGBUS when it is read, and the process is
//! gone without a word. Readers check the file before each copy, so that takes a foreign program which
//! shortens the file in the microsecond between. Then this handler writes a sentence and ends the process
//! with the exit code of bad data. It does not try to go on: other threads may be inside the same copy.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What to say. The handler does not know which map the address was in, so it names all open files; it may
/// not lock or allocate, so the whole sentence is made beforehand and its place published.
static SENTENCE: AtomicPtr<Vec<u8>> = AtomicPtr::new(std::ptr::null_mut());

/// Installs the handler, once, and lets it know which file is mapped.
pub(super) fn watch(path: &Path) {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    static SEEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.iter().any(|known| known == path) {
        seen.push(path.to_owned());
        let names: Vec<&[u8]> = seen.iter().map(|path| path.as_os_str().as_bytes()).collect();
        let sentence = [
            b"error: a data file was cut short while it was mapped (open are: ",
            names.join(&b", "[..]).as_slice(),
            b"); tokenise the text again, then go on with --resume\n",
        ]
        .concat();
        // Leaked on purpose: the handler may be reading the one before. A few bytes a data file.
        SENTENCE.store(Box::into_raw(Box::new(sentence)), Ordering::Release);
    }
    INSTALLED.get_or_init(|| {
        // SAFETY: `on_bus_error` has the signature of a plain handler and calls only functions that
        // POSIX lists as safe in one (write, _exit); the action is fully initialised.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_bus_error(_: libc::c_int) {
    let sentence = SENTENCE.load(Ordering::Acquire);
    // SAFETY: the pointer is null or to a vector that is never changed or freed; write and _exit may be
    // called from a signal handler.
    unsafe {
        if let Some(sentence) = sentence.as_ref() {
            libc::write(libc::STDERR_FILENO, sentence.as_ptr().cast(), sentence.len());
        }
        libc::_exit(3);
    }
}

#[cfg(test)]
mod tests {
    use crate::text::{TokenFile, Tokenizer, quiet};

    /// Runs itself again in a process of its own, which dies of it.
    #[test]
    fn reading_beyond_a_shortened_file_ends_with_a_sentence() {
        const DIR: &str = "HANDLOOM_TEST_BUS_ERROR";
        if let Some(dir) = std::env::var_os(DIR) {
            let dir = std::path::PathBuf::from(dir);
            let text = "a loom ".repeat(20_000);
            std::fs::write(dir.join("a.txt"), &text).unwrap();
            let tokenizer = Tokenizer::train("char".parse().unwrap(), [text], quiet).unwrap();
            let path = dir.join("a.tokens");
            let file = TokenFile::build(&[dir.join("a.txt")], &tokenizer, &path, quiet).unwrap();
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(64).unwrap();
            // As if the file were cut between the check and the copy.
            let last = std::hint::black_box(file.ids()).last().copied();
            println!("read {last:?}, which was not there");
            std::process::exit(0);
        }
        let dir = std::env::temp_dir().join(format!("handloom-bus-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let module = module_path!().split_once("::").unwrap().1;
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg(format!("{module}::reading_beyond_a_shortened_file_ends_with_a_sentence"))
            .env(DIR, &dir)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.contains("a.tokens") && said.contains("cut short while it was mapped"),
            "{said}"
        );
    }
}
