//! Buffers and the pool they come from.
//!
//! A training step asks for the same buffer sizes again and again. Fresh memory is slow (every page
//! faults on its first touch), so a buffer whose last owner lets go returns to a free list of its
//! size class, and the next request of that class takes it from there: after the first steps nothing
//! is allocated any more. Even the `Arc` that counts the owners is kept and used again.
//!
//! Every buffer starts on a 64-byte line, one cache line and one AVX-512 vector. `bytemuck` views the
//! cells as elements of any dtype, so there is no unsafe code here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytemuck::{Pod, Zeroable};

use super::dtype::Device;
use crate::error::{Error, Result};

/// A quarter of a cache line: as much alignment as zeros from the system come with. For more, Rust would write the
/// zeros itself, and so touch the pages that a class rounds up to.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Cell([u8; 16]);

/// The bytes of a cache line.
const LINE: usize = 64;

const CELLS: usize = LINE / size_of::<Cell>();

/// Aligned memory of one size class. Its content is whatever the last owner left.
struct Buffer {
    cells: Vec<Cell>,
    /// The first cell that begins a line.
    start: usize,
    /// The length in lines.
    lines: usize,
    /// Whether it is counted as owned by a tensor.
    live: bool,
}

impl Buffer {
    /// Zeros; `None` where there is no such memory.
    fn new(lines: usize) -> Option<Buffer> {
        let cells = lines.checked_mul(CELLS)?.checked_add(CELLS - 1)?;
        let cells: Vec<Cell> = bytemuck::allocation::try_zeroed_vec(cells).ok()?;
        let over = cells.as_ptr() as usize % LINE / size_of::<Cell>();
        Some(Buffer { start: (CELLS - over) % CELLS, cells, lines, live: false })
    }

    fn data(&self) -> &[Cell] {
        &self.cells[self.start..][..self.lines * CELLS]
    }

    fn data_mut(&mut self) -> &mut [Cell] {
        &mut self.cells[self.start..][..self.lines * CELLS]
    }
}

/// A shared handle on the memory of a tensor.
#[derive(Clone)]
pub(crate) enum Storage {
    /// Main memory.
    Host(Pooled),
    /// The memory of a GPU; it comes from a pool of its own.
    #[cfg(feature = "cuda")]
    Cuda(Arc<crate::cuda::Buffer>),
}

impl Storage {
    /// A buffer of at least `bytes` bytes with arbitrary (but valid) content.
    pub(crate) fn new(bytes: usize, device: Device) -> Result<Storage> {
        match device {
            Device::Cpu => Ok(Storage::Host(Pooled::new(bytes)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => {
                Ok(Storage::Cuda(Arc::new(crate::cuda::Buffer::new(bytes, number)?)))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::Failed(super::dtype::NO_CUDA.into())),
        }
    }

    /// The size of the whole buffer.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Storage::Host(memory) => memory.buffer().lines * LINE,
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.bytes(),
        }
    }

    /// The whole buffer as elements of type `E`. Callers have asked where it lives.
    pub(crate) fn as_slice<E: Pod>(&self) -> &[E] {
        match self {
            Storage::Host(memory) => bytemuck::cast_slice(memory.buffer().data()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) => panic!("the memory of a GPU was read as main memory"),
        }
    }

    /// The whole buffer for writing, if this is its only owner and it is main memory.
    pub(crate) fn as_mut_slice<E: Pod>(&mut self) -> Option<&mut [E]> {
        match self {
            Storage::Host(memory) => {
                let buffer = Arc::get_mut(memory.buffer.as_mut()?)?;
                Some(bytemuck::cast_slice_mut(buffer.data_mut()))
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) => None,
        }
    }

    /// Whether no other tensor shares the buffer.
    pub(crate) fn is_unique(&self) -> bool {
        match self {
            Storage::Host(memory) => Arc::strong_count(memory.buffer()) == 1,
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => Arc::strong_count(memory) == 1,
        }
    }

    /// Whether both handles are on the same buffer.
    pub(crate) fn same(&self, other: &Storage) -> bool {
        match (self, other) {
            (Storage::Host(a), Storage::Host(b)) => Arc::ptr_eq(a.buffer(), b.buffer()),
            #[cfg(feature = "cuda")]
            (Storage::Cuda(a), Storage::Cuda(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            _ => false,
        }
    }
}

/// A shared handle on a pooled buffer; the last one to be dropped gives the buffer back.
#[derive(Clone)]
pub(crate) struct Pooled {
    // `None` only while `drop` runs.
    buffer: Option<Arc<Buffer>>,
}

impl Pooled {
    fn new(bytes: usize) -> Result<Pooled> {
        let buffer = POOL.get(bytes.div_ceil(LINE))?;
        Ok(Pooled { buffer: Some(buffer) })
    }

    fn buffer(&self) -> &Arc<Buffer> {
        self.buffer.as_ref().expect("a live storage has its buffer")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(mut buffer) = self.buffer.take()
            && Arc::get_mut(&mut buffer).is_some()
        {
            POOL.put(buffer);
        }
        // Two last owners dropping at the very same moment may each see the other: then the buffer
        // is simply freed, and the pool allocates a new one later.
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        POOL.allocated.fetch_sub(self.lines * LINE, Relaxed);
        if self.live {
            POOL.live.fetch_sub(self.lines * LINE, Relaxed);
        }
    }
}

/// Four size classes to each power of two: at most a quarter of a buffer is slack.
fn class_of(lines: usize) -> (usize, usize) {
    if lines <= 8 {
        return (lines.max(1), lines.max(1));
    }
    let octave = lines.ilog2() as usize;
    let quarter = 1usize << (octave - 2);
    let steps = lines.div_ceil(quarter); // 4..=8 quarters of this octave
    let index = 9 + (octave - 3) * 4 + (steps - 4);
    (index, steps * quarter)
}

const CLASSES: usize = 9 + 61 * 4 + 5;

struct Pool {
    free: [Mutex<Vec<Arc<Buffer>>>; CLASSES],
    live: AtomicUsize,
    peak: AtomicUsize,
    allocated: AtomicUsize,
    misses: AtomicUsize,
    poison: AtomicBool,
}

static POOL: Pool = Pool {
    free: [const { Mutex::new(Vec::new()) }; CLASSES],
    live: AtomicUsize::new(0),
    peak: AtomicUsize::new(0),
    allocated: AtomicUsize::new(0),
    misses: AtomicUsize::new(0),
    poison: AtomicBool::new(false),
};

impl Pool {
    fn free_list(&self, class: usize) -> std::sync::MutexGuard<'_, Vec<Arc<Buffer>>> {
        self.free[class].lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn get(&self, lines: usize) -> Result<Arc<Buffer>> {
        let too_large = || {
            Error::Failed(format!(
                "out of memory: a tensor of {:.1} MiB does not fit beside the {:.1} MiB in use; \
                 use a smaller model, batch or context",
                lines as f64 * LINE as f64 / 1048576.0,
                self.live.load(Relaxed) as f64 / 1048576.0
            ))
        };
        if lines > isize::MAX as usize / LINE / 2 {
            return Err(too_large());
        }
        let (class, capacity) = class_of(lines);
        let recycled = self.free_list(class).pop();
        let mut buffer = match recycled {
            Some(buffer) => buffer,
            None => {
                let buffer = Buffer::new(capacity).ok_or_else(too_large)?;
                self.misses.fetch_add(1, Relaxed);
                self.allocated.fetch_add(capacity * LINE, Relaxed);
                Arc::new(buffer)
            }
        };
        if let Some(buffer) = Arc::get_mut(&mut buffer) {
            buffer.live = true;
            if self.poison.load(Relaxed) {
                // 0xFF… is a NaN in every float type: reading what was never written shows.
                buffer.data_mut().fill(Cell([0xFF; 16]));
            }
        }
        let live = self.live.fetch_add(capacity * LINE, Relaxed) + capacity * LINE;
        self.peak.fetch_max(live, Relaxed);
        Ok(buffer)
    }

    fn put(&self, mut buffer: Arc<Buffer>) {
        let (class, capacity) = class_of(buffer.lines);
        assert_eq!(capacity, buffer.lines);
        if let Some(buffer) = Arc::get_mut(&mut buffer) {
            buffer.live = false;
        }
        self.live.fetch_sub(capacity * LINE, Relaxed);
        self.free_list(class).push(buffer);
    }
}

/// What the buffer pool holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in buffers that tensors own now.
    pub live: usize,
    /// The most that `live` has been since the last [`reset_peak`].
    pub peak: usize,
    /// Bytes taken from the system: live buffers and free lists.
    pub allocated: usize,
    /// How often a request found no free buffer and went to the system.
    pub misses: usize,
}

/// The pool's figures at this moment.
pub fn memory_stats() -> MemoryStats {
    MemoryStats {
        live: POOL.live.load(Relaxed),
        peak: POOL.peak.load(Relaxed),
        allocated: POOL.allocated.load(Relaxed),
        misses: POOL.misses.load(Relaxed),
    }
}

/// Starts a new measurement of [`MemoryStats::peak`] from what is live now.
pub fn reset_peak() {
    POOL.peak.store(POOL.live.load(Relaxed), Relaxed);
}

/// Returns every free buffer to the system.
pub fn release_free_memory() {
    for class in 0..CLASSES {
        POOL.free_list(class).clear();
    }
}

/// For tests: fill every buffer with NaN before it is handed out, so that a kernel which reads what
/// it has not written is found out.
pub fn poison_fresh_buffers(on: bool) {
    POOL.poison.store(on, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_dense_monotone_and_waste_at_most_a_quarter() {
        let mut last = (0, 0);
        for lines in 1..5000 {
            let (class, capacity) = class_of(lines);
            assert!(capacity >= lines && capacity * 4 <= lines * 5 + 3, "{lines} -> {capacity}");
            assert_eq!(class_of(capacity), (class, capacity), "a capacity is its own class");
            assert!((class, capacity) >= last, "classes grow with size");
            assert!(class == last.0 || capacity > last.1);
            last = (class, capacity);
        }
        assert!(class_of(usize::MAX / 4).0 < CLASSES);
    }

    #[test]
    fn buffers_are_aligned_and_come_back() {
        // A size no other test uses.
        let bytes = 7_654_321;
        let first = Storage::new(bytes, Device::Cpu).unwrap();
        let address = first.as_slice::<f32>().as_ptr();
        assert_eq!(address as usize % 64, 0);
        drop(first);
        let second = Storage::new(bytes, Device::Cpu).unwrap();
        assert_eq!(second.as_slice::<f32>().as_ptr(), address, "the same buffer is used again");
    }

    #[test]
    fn absurd_sizes_are_refused_not_aborted() {
        assert!(Storage::new(usize::MAX / 2, Device::Cpu).is_err());
        assert!(Storage::new(1 << 60, Device::Cpu).is_err());
    }
}
