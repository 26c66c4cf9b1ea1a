//! NVIDIA's driver: the few calls that are used here, each returning a `Result` in words.
//!
//! The functions come from `libcuda`, which `cudarc` opens at run time. `HANDLOOM_LIBCUDA` names
//! another library of the same functions, such as the emulator of `kernels/emu/`: it is opened first, and being known
//! under the driver's name it is the one that is found.

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;

pub(super) use sys::{CUdeviceptr as Address, CUfunction as Function, CUmodule as Module};

/// A handle of the driver's. The driver allows its use from any thread.
#[derive(Clone, Copy)]
pub(super) struct Handle<T>(pub(super) T);
// SAFETY: handles are opaque numbers; the driver's functions lock for themselves.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// An answer of the driver's, or what it complains about.
type Answer<T> = Result<T, String>;

fn check(what: &str, code: sys::CUresult) -> Answer<()> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: `text` is a place for a pointer; the driver's strings live as long as the program.
    let known = unsafe { sys::cuGetErrorString(code, &mut text) } == sys::CUresult::CUDA_SUCCESS;
    let text = if known && !text.is_null() {
        // SAFETY: the driver gives a terminated string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        format!("error {}", code as u32)
    };
    Err(format!("{what}: {text}"))
}

/// Opens the driver, once. The error is a sentence for the user.
pub(super) fn open() -> Answer<()> {
    static OPENED: OnceLock<Answer<()>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("HANDLOOM_LIBCUDA").filter(|p| !p.is_empty()) {
                // SAFETY: whoever names a library wants its initialisers run.
                let library = unsafe { libloading::Library::new(&path) };
                let library = library.map_err(|e| {
                    format!("HANDLOOM_LIBCUDA={} cannot be opened: {e}", path.to_string_lossy())
                })?;
                std::mem::forget(library); // stays open, to be found by name
            }
            // SAFETY: looks for a library and opens it.
            if !unsafe { sys::is_culib_present() } {
                return Err(
                    "there is no NVIDIA driver on this machine (libcuda was not found); install \
                            the driver, or compute on the CPU"
                        .into(),
                );
            }
            // SAFETY: the first call of the driver; it takes no pointers.
            check("the NVIDIA driver does not start", unsafe { sys::cuInit(0) })
        })
        .clone()
}

/// How many devices there are.
pub(super) fn device_count() -> Answer<usize> {
    let mut count = 0;
    // SAFETY: writes one number.
    check("counting devices", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count.max(0) as usize)
}

/// What a device says of itself.
pub(super) struct Facts {
    pub(super) device: sys::CUdevice,
    pub(super) name: String,
    pub(super) capability: (u32, u32),
    pub(super) memory_bytes: usize,
    pub(super) shared_bytes: u32,
}

pub(super) fn facts(number: usize) -> Answer<Facts> {
    use sys::CUdevice_attribute_enum as Attribute;
    let mut device = 0;
    // SAFETY: writes one number.
    check("opening the device", unsafe { sys::cuDeviceGet(&mut device, number as i32) })?;
    let attribute = |attribute: Attribute| {
        let mut value = 0;
        // SAFETY: writes one number.
        let code = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) };
        check("asking the device", code).map(|()| value.max(0) as u32)
    };
    let mut name = [0u8; 128];
    // SAFETY: writes a terminated string of at most 128 bytes.
    let code = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 128, device) };
    check("asking the device's name", code)?;
    let mut memory_bytes = 0;
    // SAFETY: writes one number.
    let code = unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, device) };
    check("asking the device's memory", code)?;
    Ok(Facts {
        device,
        name: CStr::from_bytes_until_nul(&name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

/// The device's primary context and a stream of its own in it; the context is current afterwards.
pub(super) fn context(
    device: sys::CUdevice,
) -> Answer<(Handle<sys::CUcontext>, Handle<sys::CUstream>)> {
    let mut context = std::ptr::null_mut();
    // SAFETY: writes one handle.
    let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) };
    check("taking the device", code)?;
    enter(Handle(context))?;
    Ok((Handle(context), stream()?))
}

/// A stream that does not wait for the default one.
pub(super) fn stream() -> Answer<Stream> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: writes one handle. Flag 1: independent of the default stream.
    check("making a stream", unsafe { sys::cuStreamCreate(&mut stream, 1) })?;
    Ok(Handle(stream))
}

/// Makes a context the calling thread's current one.
pub(super) fn enter(context: Handle<sys::CUcontext>) -> Answer<()> {
    // SAFETY: the context is retained for as long as the program runs.
    check("entering the device", unsafe { sys::cuCtxSetCurrent(context.0) })
}

pub(super) type Stream = Handle<sys::CUstream>;
pub(super) type Context = Handle<sys::CUcontext>;

pub(super) fn synchronize(stream: Stream) -> Answer<()> {
    // SAFETY: the stream lives as long as the program.
    check("waiting for the GPU", unsafe { sys::cuStreamSynchronize(stream.0) })
}

pub(super) fn allocate(bytes: usize) -> Answer<Address> {
    let mut address = 0;
    // SAFETY: writes one address.
    check("allocating", unsafe { sys::cuMemAlloc_v2(&mut address, bytes) })?;
    Ok(address)
}

/// Gives back what [`allocate`] gave.
pub(super) fn free(address: Address) {
    // SAFETY: the pool frees each of its chunks once, when nothing is in it.
    let _ = unsafe { sys::cuMemFree_v2(address) };
}

/// Writes `pattern`, of 1, 2 or 4 bytes, `count` times.
pub(super) fn fill(to: Address, pattern: &[u8], count: usize, stream: Stream) -> Answer<()> {
    let code = match *pattern {
        // SAFETY: here and below: `to` is the start of at least so many bytes of a live buffer.
        [a] => unsafe { sys::cuMemsetD8Async(to, a, count, stream.0) },
        [a, b] => {
            let word = u16::from_ne_bytes([a, b]);
            // SAFETY: as above; blocks of the pool begin at multiples of 512.
            unsafe { sys::cuMemsetD16Async(to, word, count, stream.0) }
        }
        [a, b, c, d] => {
            let word = u32::from_ne_bytes([a, b, c, d]);
            // SAFETY: as above.
            unsafe { sys::cuMemsetD32Async(to, word, count, stream.0) }
        }
        _ => return Err(format!("a pattern of {} bytes cannot be repeated", pattern.len())),
    };
    check("filling", code)
}

/// Copies from one buffer to another on the same device.
pub(super) fn copy(to: Address, from: Address, bytes: usize, stream: Stream) -> Answer<()> {
    // SAFETY: both are places in live buffers with so many bytes after them.
    check("copying", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream.0) })
}

pub(super) fn upload(to: Address, from: &[u8], stream: Stream) -> Answer<()> {
    let data: *const c_void = from.as_ptr().cast();
    // SAFETY: reads `from`, which the driver has copied away when the call returns (memory that is not
    // pinned); `to` is a live buffer of that size.
    let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, data, from.len(), stream.0) };
    check("copying to the GPU", code)
}

/// Copies and waits.
pub(super) fn download(to: &mut [u8], from: Address, stream: Stream) -> Answer<()> {
    let data: *mut c_void = to.as_mut_ptr().cast();
    // SAFETY: `to` is borrowed until the stream has been waited for, below.
    let code = unsafe { sys::cuMemcpyDtoHAsync_v2(data, from, to.len(), stream.0) };
    let copied = check("copying from the GPU", code);
    synchronize(stream)?;
    copied
}

pub(super) fn load(image: &[u8]) -> Answer<Handle<Module>> {
    // Embedded bytes may begin anywhere; the driver reads words.
    let mut words = vec![0u64; image.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..image.len()].copy_from_slice(image);
    let mut module = std::ptr::null_mut();
    // SAFETY: a whole fat binary, made by nvcc at build time, which says its own length.
    let code = unsafe { sys::cuModuleLoadData(&mut module, words.as_ptr().cast()) };
    check("loading kernels", code)?;
    Ok(Handle(module))
}

pub(super) fn function(module: Handle<Module>, name: &str) -> Answer<Handle<Function>> {
    let text = CString::new(name).map_err(|e| e.to_string())?;
    let mut function = std::ptr::null_mut();
    // SAFETY: a live module and a terminated name; writes one handle.
    let code = unsafe { sys::cuModuleGetFunction(&mut function, module.0, text.as_ptr()) };
    check(name, code)?;
    Ok(Handle(function))
}

/// Lets a kernel have more than the 48 KiB of shared memory that every kernel may have.
pub(super) fn allow_shared(function: Handle<Function>, bytes: u32) -> Answer<()> {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
    // SAFETY: a live function.
    let code = unsafe { sys::cuFuncSetAttribute(function.0, SHARED, bytes as i32) };
    check("asking for shared memory", code)
}

/// Starts a kernel. `arguments` are the addresses of its parameters' values.
///
/// # Safety
/// The values must have the types of the kernel's parameters, in their order, and the addresses among
/// them must be those of live buffers that are as large as the kernel takes them to be.
pub(super) unsafe fn launch(
    function: Handle<Function>,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Stream,
    arguments: &mut [*mut c_void],
) -> Answer<()> {
    // SAFETY: by the caller. The driver copies the values before it returns.
    let code = unsafe {
        sys::cuLaunchKernel(
            function.0,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared,
            stream.0,
            arguments.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    check("launching", code)
}

/// Main memory that the device reads by itself, while the program goes on.
pub(super) struct Pinned {
    start: Handle<*mut u8>,
    bytes: usize,
}

impl Pinned {
    /// At least one byte, all 0.
    pub(super) fn new(bytes: usize) -> Answer<Pinned> {
        let (mut start, bytes) = (std::ptr::null_mut(), bytes.max(1));
        // SAFETY: writes one address.
        check("taking pinned memory", unsafe { sys::cuMemHostAlloc(&mut start, bytes, 0) })?;
        let start: *mut u8 = start.cast();
        // SAFETY: so many bytes have just been given.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Pinned { start: Handle(start), bytes })
    }

    /// Its bytes, for writing. The caller knows that no copy out of them is on its way.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: owned, of that length, and initialised when it was made.
        unsafe { std::slice::from_raw_parts_mut(self.start.0, self.bytes) }
    }

    /// Starts to copy its first `bytes` bytes to a live buffer at `to`.
    pub(super) fn send(&self, to: Address, bytes: usize, stream: Stream) -> Answer<()> {
        if bytes == 0 {
            return Ok(());
        }
        assert!(bytes <= self.bytes);
        // SAFETY: the memory is pinned and stays; the caller does not write to it before the copy is over.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, self.start.0.cast(), bytes, stream.0) };
        check("copying to the GPU", code)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: given by the driver and freed once; it waits for copies out of it.
        let _ = unsafe { sys::cuMemFreeHost(self.start.0.cast()) };
    }
}

/// A point in the work of a stream that another one can wait for.
pub(super) struct Event(Handle<sys::CUevent>);

impl Event {
    pub(super) fn new() -> Answer<Event> {
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle. Flag 2: nobody asks for its time.
        check("making an event", unsafe { sys::cuEventCreate(&mut event, 2) })?;
        Ok(Event(Handle(event)))
    }

    /// Marks what `stream` has been asked for so far.
    pub(super) fn record(&self, stream: Stream) -> Answer<()> {
        // SAFETY: live handles.
        check("marking", unsafe { sys::cuEventRecord(self.0.0, stream.0) })
    }

    /// Lets `stream` wait for what was marked.
    pub(super) fn holds_up(&self, stream: Stream) -> Answer<()> {
        // SAFETY: live handles.
        check("waiting for a copy", unsafe { sys::cuStreamWaitEvent(stream.0, self.0.0, 0) })
    }
}

/// From here on launches of this thread on `stream` are noted down instead of done.
pub(super) fn begin_capture(stream: Stream) -> Answer<()> {
    use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD;
    // SAFETY: a live stream.
    check("recording", unsafe { sys::cuStreamBeginCapture_v2(stream.0, THREAD) })
}

/// Work that was noted down, ready to be done any number of times.
pub(super) struct Graph(Handle<sys::CUgraphExec>);

impl Graph {
    /// What was noted down since [`begin_capture`].
    pub(super) fn end_capture(stream: Stream) -> Answer<Graph> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: a live stream; writes one handle.
        let code = unsafe { sys::cuStreamEndCapture(stream.0, &mut graph) };
        check("recording", code)?;
        let mut ready = std::ptr::null_mut();
        // SAFETY: a whole graph; writes one handle.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut ready, graph, 0) };
        // SAFETY: the graph is not needed any more, whatever has become of it.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check("preparing what was recorded", code)?;
        Ok(Graph(Handle(ready)))
    }

    /// Does all of it, in order, on `stream`.
    pub(super) fn launch(&self, stream: Stream) -> Answer<()> {
        // SAFETY: live handles; the addresses in the graph belong to it as long as it lives.
        check("launching what was recorded", unsafe { sys::cuGraphLaunch(self.0.0, stream.0) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: given by the driver and let go once; running work is finished first.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0.0) };
    }
}
