//! Device memory: a pool of blocks cut out of few large chunks.
//!
//! `cuMemAlloc` waits for the whole device, so it is asked rarely: for chunks of tens of megabytes, out of which
//! blocks of multiples of 512 bytes are cut by best fit. A block that is given back joins its free
//! neighbours. All work of a device runs in order on one stream, so a block may be given out again
//! while kernels that read its old content are still waiting to run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::driver::{self, Address};
use super::gpu::{self, Gpu, gpu, lock};
use super::slice::{Slice, SliceMut};
use crate::error::{Error, Result};

const UNIT: usize = 512;
const CHUNK: usize = 32 << 20;

static POISON: AtomicBool = AtomicBool::new(false);

/// For tests: fill every buffer with NaN before it is handed out, so that a kernel which reads what
/// it has not written is found out.
pub fn poison_fresh_buffers(on: bool) {
    POISON.store(on, Relaxed);
}

pub(super) fn poisons() -> bool {
    POISON.load(Relaxed)
}

/// What the pool of a device holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In buffers that tensors own now.
    pub live: usize,
    /// The most that `live` has been since the last [`reset_peak`].
    pub peak: usize,
    /// Taken from the device: live buffers and free blocks.
    pub allocated: usize,
    /// The largest free block; much less than `allocated - live` means that memory is in pieces.
    pub largest_free: usize,
    /// How often the device had to be asked.
    pub misses: usize,
}

/// The figures of device `number` at this moment.
///
/// # Errors
/// When the device is not there.
pub fn memory_stats(number: usize) -> Result<MemoryStats> {
    let pool = lock(&gpu(number)?.pool);
    let largest_free = pool.by_size.last().map_or(0, |&(size, _)| size);
    Ok(MemoryStats { largest_free, ..pool.stats })
}

/// Starts a new measurement of [`MemoryStats::peak`] from what is live now.
///
/// # Errors
/// When the device is not there.
pub fn reset_peak(number: usize) -> Result<()> {
    let mut pool = lock(&gpu(number)?.pool);
    pool.stats.peak = pool.stats.live;
    Ok(())
}

#[derive(Clone, Copy)]
struct Block {
    size: usize,
    free: bool,
    /// Whether it begins a chunk: it never joins the block before it.
    first: bool,
}

/// The blocks of a device, free and taken.
#[derive(Default)]
pub(super) struct Pool {
    blocks: BTreeMap<Address, Block>,
    by_size: BTreeSet<(usize, Address)>,
    stats: MemoryStats,
}

impl Pool {
    /// A block of at least `bytes`, of the calling thread's device.
    pub(super) fn take(&mut self, bytes: usize) -> std::result::Result<Address, String> {
        let size = bytes.max(1).next_multiple_of(UNIT);
        let found = self.by_size.range((size, 0)..).next().copied();
        let (have, address) = match found {
            Some(found) => found,
            None => self.grow(size)?,
        };
        self.by_size.remove(&(have, address));
        let first = self.blocks.get(&address).is_some_and(|block| block.first);
        self.blocks.insert(address, Block { size, free: false, first });
        if have > size {
            let rest = address + size as Address;
            self.blocks.insert(rest, Block { size: have - size, free: true, first: false });
            self.by_size.insert((have - size, rest));
        }
        self.stats.live += size;
        self.stats.peak = self.stats.peak.max(self.stats.live);
        Ok(address)
    }

    /// A new chunk with room for `size` bytes; where there is none, once more after free chunks went back.
    fn grow(&mut self, size: usize) -> std::result::Result<(usize, Address), String> {
        let chunk = size.next_multiple_of(CHUNK);
        let address = match driver::allocate(chunk) {
            Ok(address) => address,
            Err(_) => {
                self.release();
                driver::allocate(chunk)?
            }
        };
        self.stats.misses += 1;
        self.stats.allocated += chunk;
        self.blocks.insert(address, Block { size: chunk, free: true, first: true });
        self.by_size.insert((chunk, address));
        Ok((chunk, address))
    }

    /// Gives every chunk of which nothing is used back to the device.
    fn release(&mut self) {
        let whole = |(&address, block): (&Address, &Block)| {
            let end = address + block.size as Address;
            let last = self.blocks.range(end..).next().is_none_or(|(&at, b)| at != end || b.first);
            (block.free && block.first && last).then_some((address, block.size))
        };
        let free: Vec<_> = self.blocks.iter().filter_map(whole).collect();
        for (address, size) in free {
            self.blocks.remove(&address);
            self.by_size.remove(&(size, address));
            self.stats.allocated -= size;
            driver::free(address);
        }
    }

    /// Takes a block back.
    pub(super) fn put(&mut self, address: Address) {
        let Some(&Block { size, first, .. }) = self.blocks.get(&address) else { return };
        self.stats.live -= size;
        let (mut start, mut size, mut first) = (address, size, first);
        let after = address + size as Address;
        if let Some(&Block { size: more, free: true, first: false }) = self.blocks.get(&after) {
            self.blocks.remove(&after);
            self.by_size.remove(&(more, after));
            size += more;
        }
        if !first
            && let Some((&before, &Block { size: less, free: true, first: begins })) =
                self.blocks.range(..address).next_back()
        {
            self.blocks.remove(&address);
            self.by_size.remove(&(less, before));
            (start, size, first) = (before, size + less, begins);
        }
        self.blocks.insert(start, Block { size, free: true, first });
        self.by_size.insert((size, start));
    }
}

/// Memory on a device; given back to the pool when dropped.
pub struct Buffer {
    gpu: &'static Gpu,
    address: Address,
    bytes: usize,
}

impl Buffer {
    /// At least `bytes` bytes on device `number`, with arbitrary content.
    ///
    /// # Errors
    /// When the device is not there or its memory is full, and when something has gone wrong on the device
    /// before.
    pub fn new(bytes: usize, number: usize) -> Result<Buffer> {
        gpu::report()?;
        Buffer::on(gpu(number)?, bytes)
    }

    pub(super) fn on(gpu: &'static Gpu, bytes: usize) -> Result<Buffer> {
        let taken = lock(&gpu.pool).take(bytes);
        let address = taken.map_err(|message| {
            Error::Failed(format!(
                "out of memory on {}: {:.1} MiB do not fit ({message}); use a smaller model, batch or \
                 context",
                gpu.info().name,
                bytes as f64 / 1048576.0
            ))
        })?;
        gpu::poison(gpu, address, bytes);
        Ok(Buffer { gpu, address, bytes })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `data` to its beginning.
    ///
    /// # Errors
    /// When the driver refuses, or something has gone wrong before.
    pub fn upload(&self, data: &[u8]) -> Result<()> {
        assert!(data.len() <= self.bytes, "{} bytes for {}", data.len(), self.bytes);
        if data.is_empty() { Ok(()) } else { gpu::upload(self.gpu, self.address, data) }
    }

    /// Copies bytes from `start` on, after waiting for all that was launched.
    ///
    /// # Errors
    /// When the driver refuses, or something has gone wrong before.
    pub fn download(&self, start: usize, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return self.gpu.synchronize(); // an empty view may begin beyond the end of its buffer
        }
        assert!(start + data.len() <= self.bytes, "{start} and {} of {}", data.len(), self.bytes);
        gpu::download(self.gpu, self.address + start as Address, data)
    }

    /// `len` elements from element `from` on.
    pub(crate) fn slice<T>(&self, from: usize, len: usize) -> Slice<'_, T> {
        assert!(len == 0 || (from + len) * size_of::<T>() <= self.bytes, "beyond the buffer");
        Slice::new(self.gpu, self.address + (from * size_of::<T>()) as Address, len)
    }

    /// As [`Buffer::slice`], for writing; the caller is the only owner.
    pub(crate) fn slice_mut<T>(&self, from: usize, len: usize) -> SliceMut<'_, T> {
        let slice = self.slice::<T>(from, len);
        SliceMut::new(self.gpu, slice.address, len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.gpu.pool).put(self.address);
    }
}
