//! Starting kernels: grids and arguments.

use std::ffi::c_void;

use bytemuck::{Pod, Zeroable};

use super::driver::{self, Address};
use super::gpu::{Gpu, lock, trouble};
use super::slice::{Slice, SliceMut};
use crate::cpu::philox::{Key, Stream};

/// The shape of a launch.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    blocks: [usize; 3],
    threads: [u32; 3],
    shared: usize,
}

impl Grid {
    /// Threads enough for `n` elements; the kernel walks on where they are too few.
    pub(super) fn each(n: usize) -> Grid {
        Grid::blocks([n.div_ceil(256).min(1 << 16), 1, 1], [256, 1, 1])
    }

    /// A block of 256 threads for each of `n` rows.
    pub(super) fn rows(n: usize) -> Grid {
        Grid::blocks([n, 1, 1], [256, 1, 1])
    }

    pub(super) fn blocks(blocks: [usize; 3], threads: [u32; 3]) -> Grid {
        Grid { blocks, threads, shared: 0 }
    }

    /// With `bytes` of dynamic shared memory for each block.
    pub(super) fn shared(self, bytes: usize) -> Grid {
        Grid { shared: bytes, ..self }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// The address of a slice on a device.
    Address(&'static Gpu, Address),
    /// No slice.
    Null,
    /// A slice that is not on any device.
    Elsewhere,
    /// The word that takes ids out of range.
    Fault,
    Word(u32),
    Long(u64),
    Bytes(&'a [u8]),
}

/// A stream of random numbers as kernels take it: the words, and where a recorded launch finds them instead.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Random {
    words: [u32; 4],
    changing: Address,
}

/// The stream of `key` for a kernel on `gpu`.
pub(super) fn random(gpu: Option<&'static Gpu>, key: Key) -> Random {
    let changing = gpu.and_then(|gpu| Some(lock(&gpu.recording).as_mut()?.stream(key)));
    Random { words: Stream::new(key).words(), changing: changing.unwrap_or(0) }
}

/// Where a recorded launch on `gpu` finds the numbers that whoever launches it gives; 0 outside a recording.
pub(super) fn changing_numbers(gpu: Option<&'static Gpu>) -> usize {
    let place = gpu.and_then(|gpu| Some(lock(&gpu.recording).as_mut()?.numbers()));
    place.unwrap_or(0) as usize
}

impl<T> From<Slice<'_, T>> for Arg<'_> {
    fn from(slice: Slice<'_, T>) -> Self {
        match slice.gpu {
            Some(gpu) => Arg::Address(gpu, slice.address),
            None if slice.len == 0 => Arg::Null,
            None => Arg::Elsewhere,
        }
    }
}
impl<T> From<&SliceMut<'_, T>> for Arg<'_> {
    fn from(slice: &SliceMut<'_, T>) -> Self {
        slice.read().into()
    }
}
impl<T> From<Option<Slice<'_, T>>> for Arg<'_> {
    fn from(slice: Option<Slice<'_, T>>) -> Self {
        slice.map_or(Arg::Null, Arg::from)
    }
}
impl<T> From<Option<&SliceMut<'_, T>>> for Arg<'_> {
    fn from(slice: Option<&SliceMut<'_, T>>) -> Self {
        slice.map_or(Arg::Null, Arg::from)
    }
}
impl From<usize> for Arg<'_> {
    fn from(n: usize) -> Self {
        Arg::Long(n as u64)
    }
}
impl From<u32> for Arg<'_> {
    fn from(n: u32) -> Self {
        Arg::Word(n)
    }
}
impl From<f32> for Arg<'_> {
    fn from(x: f32) -> Self {
        Arg::Word(x.to_bits())
    }
}

/// The arguments of a launch, each converted.
macro_rules! args {
    ($($x:expr),* $(,)?) => { &[$($crate::cuda::launch::Arg::from($x)),*] };
}
pub(super) use args;

/// Launches the kernel `name` on the device of its arguments. What goes wrong is kept for later; an empty
/// grid is no work.
pub(super) fn launch(name: &str, grid: Grid, arguments: &[Arg]) {
    if grid.blocks.contains(&0) {
        return;
    }
    if let Err(message) = try_launch(name, grid, arguments) {
        trouble(format!("the kernel {name} did not start: {message}"));
    }
}

fn try_launch(name: &str, grid: Grid, arguments: &[Arg]) -> std::result::Result<(), String> {
    let gpu = arguments.iter().find_map(|argument| match argument {
        Arg::Address(gpu, _) => Some(*gpu),
        _ => None,
    });
    let gpu = gpu.ok_or("none of its tensors is on a GPU")?;
    gpu.enter()?;
    // Values first, then their addresses: parameters are copied from there.
    let mut values = [0u64; 24];
    let mut places = [std::ptr::null_mut::<c_void>(); 24];
    for (i, argument) in arguments.iter().enumerate() {
        values[i] = match *argument {
            Arg::Address(there, _) if !std::ptr::eq(there, gpu) => {
                return Err("its tensors are on different GPUs".into());
            }
            Arg::Address(_, address) => address,
            Arg::Null | Arg::Bytes(_) => 0,
            Arg::Elsewhere => return Err("one of its tensors is on the CPU".into()),
            Arg::Fault => gpu.fault,
            Arg::Word(word) => u64::from(word),
            Arg::Long(long) => long,
        };
        places[i] = match *argument {
            Arg::Bytes(bytes) => bytes.as_ptr().cast_mut().cast(),
            _ => (&raw mut values[i]).cast(),
        };
    }
    let mut blocks = [0u32; 3];
    for (axis, &n) in grid.blocks.iter().enumerate() {
        let most = if axis == 0 { i32::MAX as usize } else { 65_535 };
        if n > most {
            return Err(format!("{n} blocks along axis {axis}, more than {most}"));
        }
        blocks[axis] = n as u32;
    }
    let function = gpu.function(name, grid.shared as u32)?;
    let places = &mut places[..arguments.len()];
    // SAFETY: the files of `kernels/` pass each kernel the arguments it declares, and slices as long as
    // it takes them to be; the tests run every one of them.
    unsafe {
        driver::launch(function, blocks, grid.threads, grid.shared as u32, gpu.stream, places)
    }
}

/// Fills with zero bytes.
pub(super) fn clear<T>(slice: &mut SliceMut<'_, T>) {
    if let Some(gpu) = slice.gpu
        && let Err(error) = gpu.fill(slice.address, 0, slice.len * size_of::<T>())
    {
        trouble(error.to_string());
    }
}
