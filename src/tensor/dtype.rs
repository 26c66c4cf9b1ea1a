//! Element types, known at run time.

use bytemuck::Pod;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

#[cfg(not(feature = "cuda"))]
use crate::error::Error;
use crate::error::Result;

/// What a tensor's elements are. `f32` is the working type; `bf16` and `f16` are for storage,
/// `f64` for checks and `u32` for ids and masks. There is nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: weights, activations, gradients.
    F32,
    /// IEEE double precision: gradient checks and references.
    F64,
    /// bfloat16 storage: the top half of an `f32`.
    BF16,
    /// IEEE half precision storage.
    F16,
    /// Token ids, class indices and 0/1 masks.
    U32,
}

impl DType {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }

    /// The name as printed: `f32`, `f64`, `bf16`, `f16`, `u32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
        }
    }

    /// Whether elements are real numbers (everything but `u32`).
    pub fn is_float(self) -> bool {
        self != DType::U32
    }

    /// Whether this is a 16-bit storage type, computed with in `f32`.
    pub fn is_half(self) -> bool {
        matches!(self, DType::BF16 | DType::F16)
    }

    /// The type that sums over this one are kept in.
    pub(crate) fn summed_in(self) -> DType {
        if self.is_half() { DType::F32 } else { self }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: Pod + Send + Sync + Default + PartialOrd + std::fmt::Debug {
    /// The run-time name of this type.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// Where a tensor's buffer lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Device {
    /// Main memory, computed on by the kernels of [`crate::cpu`].
    #[default]
    Cpu,
    /// The GPU of this number, computed on by `kernels/*.cu`. Tensors can be put there when the crate is
    /// built with the feature `cuda` and the machine has such a device.
    Cuda(usize),
}

impl Device {
    /// Whether this device can be computed on.
    ///
    /// # Errors
    /// [`Error::Failed`] with one sentence that says what is missing and what to do.
    pub fn check(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => crate::cuda::check(number),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::Failed(NO_CUDA.into())),
        }
    }
}

/// What a build without the feature `cuda` says when it is asked for a GPU.
#[cfg(not(feature = "cuda"))]
pub(crate) const NO_CUDA: &str =
    "this build has no CUDA part; build it with `cargo build --release --features cuda`";

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Device, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = String;

    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    fn from_str(text: &str) -> std::result::Result<Device, String> {
        let number = match text {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        let number =
            number.ok_or_else(|| format!("{text} is no device; expected cpu, cuda or cuda:N"))?;
        Ok(Device::Cuda(number))
    }
}
