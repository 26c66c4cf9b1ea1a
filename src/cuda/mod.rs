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
//! | `gpu` | a device: context, stream, compiled kernels, launching |
//! | `memory` | the pool of device memory and its statistics |
//! | `slice` | addresses with a length and a lifetime: what kernels take |
//! | `kernels/` | one file for each file of `kernels/`: grids, shared memory, arguments |

mod driver;
mod gpu;
pub(crate) mod kernels;
mod memory;
mod slice;

pub use memory::{Buffer, MemoryStats, memory_stats, poison_fresh_buffers, reset_peak};
pub use slice::{Slice, SliceMut};

use crate::error::{Error, Result};

/// A device that can be computed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, as in `cuda:0`.
    pub number: usize,
    /// The name the driver gives it.
    pub name: String,
    /// Its compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Its memory in bytes.
    pub memory_bytes: usize,
}

impl std::fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.capability;
        let gib = self.memory_bytes as f64 / (1u64 << 30) as f64;
        let (number, name) = (self.number, &self.name);
        write!(f, "cuda:{number} {name}, compute capability {major}.{minor}, {gib:.0} GiB")
    }
}

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
