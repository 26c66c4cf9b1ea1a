//! What a run is given from outside: somebody to talk to, a way to be stopped, a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use super::fsx::Fs;
use super::observer::Observer;
use crate::cpu::simd::{level_here, with_level};

/// The surroundings of a run.
pub struct Control<'a> {
    /// Hears what happens.
    pub observer: &'a mut dyn Observer,
    /// Set it (from a signal handler, say) and the run finishes its step, saves and ends with
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub stop: Arc<AtomicBool>,
    /// Seconds since any fixed moment. Tests put a counter here.
    pub clock: Box<dyn FnMut() -> f64 + Send>,
    /// The file system that checkpoints are written through. Tests put a failing one here.
    pub fs: Arc<dyn Fs>,
}

impl<'a> Control<'a> {
    /// The real clock and file system, and a stop flag that nobody has set.
    pub fn new(observer: &'a mut dyn Observer) -> Control<'a> {
        let start = Instant::now();
        Control {
            observer,
            stop: Arc::new(AtomicBool::new(false)),
            clock: Box::new(move || start.elapsed().as_secs_f64()),
            fs: Arc::new(super::fsx::Disk),
        }
    }

    /// Whether somebody asked the run to stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The clock's reading, in seconds.
    pub fn now(&mut self) -> f64 {
        (self.clock)()
    }
}

/// Runs `f` inside a thread pool of its own; 0 threads means one a core. Where there are no threads it runs
/// as it is.
///
/// # Errors
/// When the threads cannot be started.
pub fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> crate::Result<R> {
    if cfg!(target_family = "wasm") {
        return Ok(f());
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("handloom-{i}"))
        .build()
        .map_err(|e| crate::Error::Failed(format!("cannot start {threads} threads: {e}")))?;
    let level = level_here();
    Ok(pool.install(move || with_level(level, f)))
}
