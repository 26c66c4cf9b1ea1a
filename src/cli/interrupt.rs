//! Ctrl-C and SIGTERM: the first asks, the second insists.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use super::terminal;

/// Lets a write beyond the file-size limit (`ulimit -f`) fail with an error that can be told, instead of
/// ending the process by SIGXFSZ without a word. A closed pipe needs nothing: SIGPIPE is ignored already.
pub fn let_large_writes_fail() {
    // SAFETY: ignoring a signal installs no handler and touches no memory.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that the first signal sets; from the first call on. The second signal ends the process at
/// once with exit code 130. What is on disk stays whole either way: files are written beside and moved.
pub fn stop_flag() -> Arc<AtomicBool> {
    let flag = STOP.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let installed = ctrlc::set_handler(move || {
            if seen.swap(true, SeqCst) {
                std::process::exit(130);
            }
            terminal::note("\nfinishing this step and saving; once more stops at once");
        });
        if let Err(error) = installed {
            terminal::warning(format_args!("Ctrl-C will stop without saving: {error}"));
        }
        flag
    });
    flag.clone()
}
