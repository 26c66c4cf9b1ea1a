//! A part of a step, recorded once and launched many times (a CUDA graph).
//!
//! A small model has hundreds of kernels a step, each of a few microseconds, and launching one takes as long. The
//! driver can note launches down instead of doing them, and do all of them at one call later. What is noted
//! down are addresses and numbers, so that
//!
//! - memory that the step takes belongs to it for good: an [`Arena`];
//! - nothing of it may need main memory: no copy from there, no number read back;
//! - what changes from step to step lies in a table ([`super::changing`]), which is sent before each launch.
//!
//! Memory cannot be taken from the driver while a step is being recorded. So the step is done once in the
//! arena before ([`Arena::rehearse`]), as it always is: after that the arena has all it needs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::changing::{ENTRY, MOST, Recording};
use super::driver::{self, Pinned};
use super::gpu::{self, Gpu, gpu, lock};
use super::memory::Buffer;
use super::pool::Owner;
use crate::error::{Error, Result};

static ASKED: OnceLock<AtomicBool> = OnceLock::new();
static LAUNCHES: AtomicUsize = AtomicUsize::new(0);

fn asked() -> &'static AtomicBool {
    ASKED.get_or_init(|| {
        AtomicBool::new(std::env::var("HANDLOOM_CUDA_GRAPHS").is_ok_and(|value| value == "1"))
    })
}

/// Whether training steps on a GPU are recorded once and launched whole, where they can be. Off unless
/// `HANDLOOM_CUDA_GRAPHS=1` or [`record_steps`] asks for it: what it brings has not been measured on a device yet.
pub fn steps_are_recorded() -> bool {
    asked().load(Relaxed)
}

/// Switches [`steps_are_recorded`].
pub fn record_steps(on: bool) {
    asked().store(on, Relaxed);
}

/// How often recorded work has been launched.
pub fn launches() -> usize {
    LAUNCHES.load(Relaxed)
}

/// Memory of a device that belongs to a recorded step.
pub struct Arena {
    gpu: &'static Gpu,
    owner: Owner,
}

impl Arena {
    /// An empty one on device `number`.
    ///
    /// # Errors
    /// When the device is not there.
    pub fn new(number: usize) -> Result<Arena> {
        let gpu = gpu(number)?;
        let owner = lock(&gpu.pool).new_owner();
        Ok(Arena { gpu, owner })
    }

    /// Runs `f` with all buffers taken from the arena.
    pub fn rehearse<R>(&self, f: impl FnOnce() -> R) -> R {
        let _serving = Serving::new(self.gpu, self.owner);
        f()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        lock(&self.gpu.pool).disown(self.owner);
    }
}

/// Serves an owner until it is dropped.
struct Serving {
    gpu: &'static Gpu,
    before: Owner,
}

impl Serving {
    fn new(gpu: &'static Gpu, owner: Owner) -> Serving {
        Serving { gpu, before: lock(&gpu.pool).serve(owner) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        lock(&self.gpu.pool).serve(self.before);
    }
}

/// Recorded work.
pub struct Graph {
    work: driver::Graph,
    recording: Recording,
    table: Buffer,
    sent: Pinned,
}

impl Graph {
    /// Records what `f` launches, at training position `position`, without doing it.
    ///
    /// # Errors
    /// When `f` fails, or asks for something that cannot be recorded.
    pub fn record<R>(
        arena: &Arena,
        position: u64,
        f: impl FnOnce() -> Result<R>,
    ) -> Result<(Graph, R)> {
        let gpu = arena.gpu;
        gpu::report()?;
        let table = Buffer::on(gpu, MOST * ENTRY)?;
        let sent = Pinned::new(MOST * ENTRY).map_err(Error::Failed)?;
        let serving = Serving::new(gpu, arena.owner);
        gpu.enter().and_then(|()| driver::begin_capture(gpu.stream)).map_err(Error::Failed)?;
        *lock(&gpu.recording) = Some(Recording::new(table.address(), position));
        lock(&gpu.pool).seal(true);
        let result = f();
        lock(&gpu.pool).seal(false);
        let recording = lock(&gpu.recording).take();
        let work = driver::Graph::end_capture(gpu.stream);
        drop(serving);
        let result = result?;
        gpu::report()?;
        let (work, recording) = match (work, recording) {
            (Ok(work), Some(recording)) if !recording.overflows() => (work, recording),
            (Err(message), _) => return Err(Error::Failed(message)),
            _ => {
                let message = format!("a step with more than {MOST} changing kernels");
                return Err(Error::Failed(message));
            }
        };
        Ok((Graph { work, recording, table, sent }, result))
    }

    /// Does the work at training position `position`; `numbers` are those that change otherwise, in the order
    /// of the kernels that take them. The launch before must have been waited for.
    ///
    /// # Errors
    /// When the driver refuses, or `numbers` are not as many as were asked for.
    pub fn launch(&mut self, position: u64, numbers: &[[u32; 8]]) -> Result<()> {
        let table = self.recording.table(position, numbers);
        let table = table.ok_or_else(|| {
            Error::Failed(format!("{} numbers do not fit the recorded step", numbers.len()))
        })?;
        let (gpu, bytes) = (self.table.gpu(), table.len() * ENTRY);
        LAUNCHES.fetch_add(1, Relaxed);
        self.sent.bytes()[..bytes].copy_from_slice(bytemuck::cast_slice(&table));
        gpu.enter()
            .and_then(|()| self.sent.send(self.table.address(), bytes, gpu.stream))
            .and_then(|()| self.work.launch(gpu.stream))
            .map_err(Error::Failed)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // The last table may be underway.
        let gpu = self.table.gpu();
        let _ = gpu.enter().and_then(|()| driver::synchronize(gpu.stream));
    }
}
