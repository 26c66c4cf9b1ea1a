//! A device: its context, its stream, its kernels, its memory.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::changing::Recording;
use super::driver::{self, Address, Context, Function, Handle, Module, Stream};
use super::pool::Pool;
use crate::error::{Error, Result};

// `IMAGES`: the compiled kernels by the name of their file; empty where there was no nvcc.
include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The oldest compute capability the kernels are compiled for.
const OLDEST: (u32, u32) = (8, 0);

/// The name that the emulated driver gives its device: it brings kernels of its own.
const EMULATED: &str = "emulated GPU";

const MOST_DEVICES: usize = 16;

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

/// One device, for as long as the program runs.
pub(super) struct Gpu {
    number: usize,
    name: String,
    capability: (u32, u32),
    memory_bytes: usize,
    shared_bytes: u32,
    context: Context,
    /// Where kernels run, in order.
    pub(super) stream: Stream,
    /// Where batches are copied meanwhile.
    pub(super) copies: Stream,
    kernels: Mutex<Kernels>,
    pub(super) pool: Mutex<Pool>,
    /// What changes from launch to launch of the step that is being recorded, while one is.
    pub(super) recording: Mutex<Option<Recording>>,
    /// A word on the device that kernels set to the id (plus one) that was out of range.
    pub(super) fault: Address,
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

/// Whether kernels were compiled into this build, which takes nvcc.
pub fn has_kernels() -> bool {
    !IMAGES.is_empty()
}

/// Why a device cannot be computed on: it is too old, or there are no kernels for it.
fn usable(
    number: usize,
    name: &str,
    capability: (u32, u32),
    kernels: bool,
) -> std::result::Result<(), String> {
    let (major, minor) = capability;
    if capability < OLDEST {
        return Err(format!(
            "cuda:{number}, {name}, is too old: it has compute capability {major}.{minor}, and the \
             kernels need {}.{} (Ampere) or newer",
            OLDEST.0, OLDEST.1
        ));
    }
    if !kernels && name != EMULATED {
        return Err("this build has no GPU kernels, for nvcc was not found when it was made; run \
                    kernels/get-nvcc.sh (or set NVCC) and build again with --features cuda"
            .into());
    }
    Ok(())
}

impl Gpu {
    fn open(number: usize) -> std::result::Result<Gpu, String> {
        let facts = driver::facts(number)?;
        usable(number, &facts.name, facts.capability, has_kernels())?;
        let (context, stream) = driver::context(facts.device)?;
        let mut pool = Pool::default();
        let fault = pool.take(4).map_err(|e| format!("cuda:{number}: {e}"))?;
        driver::fill(fault, &[0], 4, stream)?;
        Ok(Gpu {
            number,
            name: facts.name,
            capability: facts.capability,
            memory_bytes: facts.memory_bytes,
            shared_bytes: facts.shared_bytes,
            context,
            stream,
            copies: driver::stream()?,
            kernels: Mutex::default(),
            pool: Mutex::new(pool),
            recording: Mutex::new(None),
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

    /// Refuses what cannot be part of a recorded step.
    fn only_now(&self, what: &str) -> Result<()> {
        match &*lock(&self.recording) {
            None => Ok(()),
            Some(_) => Err(Error::Failed(format!("{what} cannot be part of a recorded step"))),
        }
    }

    /// Waits for everything that was launched, and reports what went wrong meanwhile.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.only_now("waiting for the GPU")?;
        let mut word = [0u8; 4];
        let read = driver::download(&mut word, self.fault, self.stream);
        report()?;
        read.map_err(Error::Failed)?;
        match u32::from_ne_bytes(word) {
            0 => Ok(()),
            id => {
                self.fill(self.fault, 0, 4)?;
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
    pub(super) fn function(
        &self,
        name: &str,
        shared: u32,
    ) -> std::result::Result<Handle<Function>, String> {
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

    /// Copies `bytes` to `to`.
    pub(super) fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        report()?;
        self.only_now("a copy from main memory")?;
        self.enter().and_then(|()| driver::upload(to, bytes, self.stream)).map_err(Error::Failed)
    }

    /// Copies from the device, when everything before has been done.
    pub(super) fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.only_now("reading a number")?;
        self.enter().map_err(Error::Failed)?;
        driver::download(bytes, from, self.stream).map_err(Error::Failed)?;
        self.synchronize()
    }

    /// Copies from one place on the device to another.
    pub(super) fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()
            .and_then(|()| driver::copy(to, from, bytes, self.stream))
            .map_err(Error::Failed)
    }

    /// Writes `value` to `bytes` bytes.
    pub(super) fn fill(&self, at: Address, value: u8, bytes: usize) -> Result<()> {
        self.repeat(at, &[value], bytes)
    }

    /// Writes `pattern`, of 1, 2 or 4 bytes, over and over to `bytes` bytes.
    pub(super) fn repeat(&self, at: Address, pattern: &[u8], bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let count = bytes / pattern.len();
        self.enter()
            .and_then(|()| driver::fill(at, pattern, count, self.stream))
            .map_err(Error::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::usable;

    #[test]
    fn no_kernels_and_too_old_are_said_in_words() {
        assert!(usable(0, "some GPU", (9, 0), true).is_ok());
        let old = usable(1, "some GPU", (7, 5), true).unwrap_err();
        assert!(
            old.contains("cuda:1, some GPU, is too old: it has compute capability 7.5"),
            "{old}"
        );
        let none = usable(0, "some GPU", (9, 0), false).unwrap_err();
        assert!(none.contains("nvcc was not found") && none.contains("get-nvcc.sh"), "{none}");
    }
}
