//! Buffers on a device, from the pool of [`super::pool`].

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::driver::Address;
use super::gpu::{self, Gpu, gpu, lock};
use super::pool::MemoryStats;
use super::slice::{Slice, SliceMut};
use crate::error::{Error, Result};

static POISON: AtomicBool = AtomicBool::new(false);

/// For tests: fill every buffer with NaN before it is handed out, so that a kernel which reads what
/// it has not written is found out.
pub fn poison_fresh_buffers(on: bool) {
    POISON.store(on, Relaxed);
}

/// The figures of device `number` at this moment.
///
/// # Errors
/// When the device is not there.
pub fn memory_stats(number: usize) -> Result<MemoryStats> {
    Ok(lock(&gpu(number)?.pool).stats())
}

/// Starts a new measurement of [`MemoryStats::peak`] from what is live now.
///
/// # Errors
/// When the device is not there.
pub fn reset_peak(number: usize) -> Result<()> {
    lock(&gpu(number)?.pool).reset_peak();
    Ok(())
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
        let buffer = Buffer { gpu, address, bytes };
        if POISON.load(Relaxed) {
            gpu.fill(address, 0xFF, bytes)?;
        }
        Ok(buffer)
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies on its device.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Copies `data` to its beginning.
    ///
    /// # Errors
    /// When the driver refuses, or something has gone wrong before.
    pub fn upload(&self, data: &[u8]) -> Result<()> {
        assert!(data.len() <= self.bytes, "{} bytes for {}", data.len(), self.bytes);
        if data.is_empty() { Ok(()) } else { self.gpu.upload(self.address, data) }
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
        self.gpu.download(self.address + start as Address, data)
    }

    /// Repeats `pattern`, of 1, 2 or 4 bytes, over its first `bytes` bytes.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn fill(&self, pattern: &[u8], bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes, "{bytes} bytes of {}", self.bytes);
        self.gpu.repeat(self.address, pattern, bytes)
    }

    /// Copies `bytes` bytes of `from` to its beginning, on the device. Whoever else holds the buffer sees it.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn copy_from(&self, from: &Buffer, start: usize, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && start + bytes <= from.bytes, "beyond the buffer");
        self.gpu.copy(self.address, from.address + start as Address, bytes)
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
