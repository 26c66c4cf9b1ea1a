//! A device: its context, its stream, its kernels, and launching them.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::driver::{self, Address, Context, Function, Handle, Module, Stream};
use super::memory::Pool;
use super::slice::{Slice, SliceMut};
use super::{DeviceInfo, memory};
use crate::error::{Error, Result};

// `IMAGES`: the compiled kernels by the name of their file; empty where there was no nvcc.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The oldest compute capability the kernels are compiled for.
const OLDEST: (u32, u32) = (8, 0);

/// The name that the emulated driver gives its device: it brings kernels of its own.
const EMULATED: &str = "emulated GPU";

const MOST_DEVICES: usize = 16;

/// One device, for as long as the program runs.
pub(super) struct Gpu {
    number: usize,
    name: String,
    capability: (u32, u32),
    memory_bytes: usize,
    shared_bytes: u32,
    context: Context,
    pub(super) stream: Stream,
    kernels: Mutex<Kernels>,
    pub(super) pool: Mutex<Pool>,
    /// A word on the device that kernels set to the id (plus one) that was out of range.
    fault: Address,
}

#[derive(Default)]
struct Kernels {
    modules: HashMap<&'static str, Handle<Module>>,
    functions: HashMap<String, (Handle<Function>, u32)>,
}

/// The first thing that went wrong and has not been reported yet.
static TROUBLE: Mutex<Option<String>> = Mutex::new(None);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// Keeps `message` until the next number is read or the next buffer made.
pub(super) fn trouble(message: String) {
    lock(&TROUBLE).get_or_insert(message);
}

/// Reports what was kept.
pub(super) fn report() -> Result<()> {
    lock(&TROUBLE).take().map_or(Ok(()), |message| Err(Error::Failed(message)))
}

/// The number of devices, or the sentence that says why there is none.
pub(super) fn count() -> std::result::Result<usize, String> {
    driver::open()?;
    match driver::device_count()? {
        0 => Err("the NVIDIA driver finds no GPU on this machine; compute on the CPU".into()),
        count => Ok(count.min(MOST_DEVICES)),
    }
}

/// Device `number`, opened when it is first asked for.
pub(super) fn gpu(number: usize) -> Result<&'static Gpu> {
    type Opened = std::result::Result<Gpu, String>;
    static GPUS: [OnceLock<Opened>; MOST_DEVICES] = [const { OnceLock::new() }; MOST_DEVICES];
    let opened = count().and_then(|count| match GPUS.get(number) {
        Some(slot) if number < count => {
            slot.get_or_init(|| Gpu::open(number)).as_ref().map_err(String::clone)
        }
        _ => Err(format!("there is no device cuda:{number}; the last one is cuda:{}", count - 1)),
    });
    let gpu = opened.map_err(Error::Failed)?;
    gpu.enter().map_err(Error::Failed)?;
    Ok(gpu)
}

impl Gpu {
    fn open(number: usize) -> std::result::Result<Gpu, String> {
        let facts = driver::facts(number)?;
        let (major, minor) = facts.capability;
        if facts.capability < OLDEST {
            return Err(format!(
                "cuda:{number}, {}, is too old: it has compute capability {major}.{minor}, and the \
                 kernels need {}.{} (Ampere) or newer",
                facts.name, OLDEST.0, OLDEST.1
            ));
        }
        if IMAGES.is_empty() && facts.name != EMULATED {
            return Err(
                "this build has no GPU kernels, for nvcc was not found when it was made; run \
                        kernels/get-nvcc.sh (or set NVCC) and build again with --features cuda"
                    .into(),
            );
        }
        let (context, stream) = driver::context(facts.device)?;
        let mut pool = Pool::default();
        let fault = pool.take(4).map_err(|e| format!("cuda:{number}: {e}"))?;
        driver::fill_bytes(fault, 0, 4, stream)?;
        Ok(Gpu {
            number,
            name: facts.name,
            capability: facts.capability,
            memory_bytes: facts.memory_bytes,
            shared_bytes: facts.shared_bytes,
            context,
            stream,
            kernels: Mutex::default(),
            pool: Mutex::new(pool),
            fault,
        })
    }

    pub(super) fn info(&self) -> DeviceInfo {
        DeviceInfo {
            number: self.number,
            name: self.name.clone(),
            capability: self.capability,
            memory_bytes: self.memory_bytes,
        }
    }

    /// Makes this device the calling thread's.
    pub(super) fn enter(&self) -> std::result::Result<(), String> {
        thread_local! {
            static CURRENT: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        if CURRENT.get() != self.number {
            driver::enter(self.context)?;
            CURRENT.set(self.number);
        }
        Ok(())
    }

    /// Waits for everything that was launched, and reports what went wrong meanwhile.
    pub(super) fn synchronize(&self) -> Result<()> {
        let mut word = [0u8; 4];
        let read = driver::download(&mut word, self.fault, self.stream);
        report()?;
        read.map_err(Error::Failed)?;
        match u32::from_ne_bytes(word) {
            0 => Ok(()),
            id => {
                driver::fill_bytes(self.fault, 0, 4, self.stream).map_err(Error::Failed)?;
                Err(Error::Failed(format!(
                    "cuda:{}: an operation met the id {}, which is not below the number of rows or \
                     classes it picks from",
                    self.number,
                    id - 1
                )))
            }
        }
    }

    /// The kernel `name`, from the file that its name begins with.
    fn function(&self, name: &str, shared: u32) -> std::result::Result<Handle<Function>, String> {
        let mut kernels = lock(&self.kernels);
        let (function, allowed) = match kernels.functions.get(name) {
            Some(&known) => known,
            None => {
                let of_file = |(file, _): &&(&str, &[u8])| {
                    name.strip_prefix(file).is_some_and(|rest| rest.starts_with('_'))
                };
                let image = IMAGES.iter().filter(of_file).max_by_key(|(file, _)| file.len());
                let (file, image) = match image {
                    Some(&(file, image)) => (file, image),
                    None if IMAGES.is_empty() => ("", [].as_slice()),
                    None => return Err(format!("no file of kernels/ has {name}")),
                };
                let module = match kernels.modules.get(file) {
                    Some(&module) => module,
                    None => {
                        let module = driver::load(image)?;
                        kernels.modules.insert(file, module);
                        module
                    }
                };
                (driver::function(module, name)?, 48 * 1024)
            }
        };
        let allowed = if shared > allowed {
            if shared > self.shared_bytes {
                return Err(format!(
                    "it needs {shared} bytes of shared memory, {} has {}",
                    self.name, self.shared_bytes
                ));
            }
            driver::allow_shared(function, shared)?;
            shared
        } else {
            allowed
        };
        kernels.functions.insert(name.to_owned(), (function, allowed));
        Ok(function)
    }
}

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
    ($($x:expr),* $(,)?) => { &[$($crate::cuda::gpu::Arg::from($x)),*] };
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

/// Copies `bytes` to `to` on the device.
pub(super) fn upload(gpu: &Gpu, to: Address, bytes: &[u8]) -> Result<()> {
    report()?;
    let sent = gpu.enter().and_then(|()| driver::upload(to, bytes, gpu.stream));
    sent.map_err(Error::Failed)
}

/// Copies from the device, when everything before has been done.
pub(super) fn download(gpu: &Gpu, from: Address, bytes: &mut [u8]) -> Result<()> {
    gpu.enter().map_err(Error::Failed)?;
    driver::download(bytes, from, gpu.stream).map_err(Error::Failed)?;
    gpu.synchronize()
}

/// Fills fresh memory with NaN where that is asked for.
pub(super) fn poison(gpu: &Gpu, at: Address, bytes: usize) {
    if memory::poisons()
        && let Err(message) = driver::fill_bytes(at, 0xFF, bytes, gpu.stream)
    {
        trouble(message);
    }
}

/// Fills with zero bytes.
pub(super) fn clear<T>(slice: &mut SliceMut<'_, T>) {
    if let Some(gpu) = slice.gpu
        && slice.len > 0
        && let Err(message) = gpu.enter().and_then(|()| {
            driver::fill_bytes(slice.address, 0, slice.len * size_of::<T>(), gpu.stream)
        })
    {
        trouble(message);
    }
}
