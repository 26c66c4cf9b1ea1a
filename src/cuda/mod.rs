//! The GPU: driver, memory, and the launches of `kernels/*.cu`.
//!
//! # The idea
//!
//! An operation runs on the device of its input. `ops/softmax.rs` calls `softmax::forward(y, x, rows, cols)`; for
//! a tensor in main memory that is the function in `cpu/softmax.rs`, for one on a GPU the function
//! of the same name and arguments in `cuda/kernels/softmax.rs`, which launches `kernels/softmax.cu`.
//! Everything above (tape, layers, trainer, files) is the same code for both.
//!
//! Launches return at once. The GPU works them off in order on one stream; reading a number back waits
//! for it. So a kernel cannot fail where it is called: what goes wrong is kept and reported when the next
//! number is read or the next buffer is made.
//!
//! # Without CUDA
//!
//! The crate builds without anything of NVIDIA's, and the driver is opened at run time. There are four
//! ways to be without a GPU, and [`check`] has a sentence for each: the feature is off, the kernels were
//! not compiled (no nvcc at build time), there is no driver, there is no device or it is too old.
//!
//! # Files
//!
//! | file | what it holds |
//! |---|---|
//! | `driver` | the calls of NVIDIA's driver that are used here; all unsafe code |
//! | `pool` | blocks of device memory and their statistics |
//! | `changing` | what differs from launch to launch of a recorded step |
//! | `gpu` | a device: context, stream, compiled kernels, copies |
//! | `slice` | addresses with a length and a lifetime: what kernels take |
//! | `memory` | buffers |
//! | `launch` | grids and arguments of kernels |
//! | `graph` | a step recorded once and launched many times |
//! | `feed` | batches on their way: pinned memory and a second stream |
//! | `kernels/` | one file for each file of `kernels/`: grids, shared memory, arguments |
//! | `probe` | primitives of kernels one at a time, for tests |
//!
//! Each imports from those above it only.

mod changing;
mod driver;
mod feed;
mod gpu;
mod graph;
pub(crate) mod kernels;
mod launch;
mod memory;
mod pool;
mod probe;
mod slice;

pub use feed::Feed;
pub use gpu::{DeviceInfo, has_kernels};
pub use graph::{Arena, Graph, launches, record_steps, steps_are_recorded};
pub use memory::{Buffer, memory_stats, poison_fresh_buffers, reset_peak};
pub use pool::MemoryStats;
pub use probe::{Probe, probe};
pub use slice::{Slice, SliceMut};

use crate::error::{Error, Result};

/// The devices that can be computed on, or the reason why there are none: one sentence that says what to do.
///
/// # Errors
/// [`Error::Failed`] with that sentence.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let count = gpu::count().map_err(Error::Failed)?;
    (0..count).map(|number| Ok(gpu::gpu(number)?.info())).collect()
}

/// Whether device `number` can be computed on.
///
/// # Errors
/// [`Error::Failed`] with the reason, in one sentence.
pub fn check(number: usize) -> Result<()> {
    gpu::gpu(number).map(|_| ())
}

/// Waits until device `number` has done everything that was asked of it, and reports what went wrong.
///
/// # Errors
/// [`Error::Failed`] when a kernel failed or met an id that its table does not have.
pub fn synchronize(number: usize) -> Result<()> {
    gpu::gpu(number)?.synchronize()
}
