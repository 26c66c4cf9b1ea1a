//! Batches on their way to the device while it computes.
//!
//! The ids of the next batch are written into pinned memory, which the device copies by itself on a stream of its
//! own. There are two places on either side: one is being filled while the other is being read.

use super::driver::{self, Event, Pinned};
use super::gpu::{Gpu, gpu};
use super::memory::Buffer;
use crate::error::{Error, Result};

/// One batch underway: pinned memory, where it goes on the device, and a mark for when it has arrived.
struct Place {
    here: Pinned,
    there: Buffer,
    arrived: Event,
}

/// Two batches of a fixed size underway.
pub struct Feed {
    gpu: &'static Gpu,
    places: [Place; 2],
    next: usize,
    bytes: usize,
}

impl Feed {
    /// For batches of `bytes` bytes to device `number`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(number: usize, bytes: usize) -> Result<Feed> {
        let gpu = gpu(number)?;
        let place = || -> Result<Place> {
            let there = Buffer::on(gpu, bytes)?;
            let here = Pinned::new(bytes).map_err(Error::Failed)?;
            Ok(Place { here, there, arrived: Event::new().map_err(Error::Failed)? })
        };
        Ok(Feed { gpu, places: [place()?, place()?], next: 0, bytes })
    }

    /// Sends a batch off; `fill` writes its bytes. The batch before the last one must have been waited for.
    ///
    /// # Errors
    /// When `fill` fails or the driver refuses.
    pub fn send(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let place = &mut self.places[self.next];
        fill(&mut place.here.bytes()[..self.bytes])?;
        self.gpu
            .enter()
            .and_then(|()| place.here.send(place.there.address(), self.bytes, self.gpu.copies))
            .and_then(|()| place.arrived.record(self.gpu.copies))
            .map_err(Error::Failed)?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Lets the device copy the batch that was sent last to `to`, one part after the other, as soon as it has
    /// arrived; what is launched afterwards finds it there.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn deliver(&self, to: &[&Buffer], sizes: &[usize]) -> Result<()> {
        let place = &self.places[1 - self.next];
        place.arrived.holds_up(self.gpu.stream).map_err(Error::Failed)?;
        let mut start = 0;
        for (buffer, &bytes) in to.iter().zip(sizes) {
            buffer.copy_from(&place.there, start, bytes)?;
            start += bytes;
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // A batch may be underway that nobody has asked for.
        let _ = self.gpu.enter().and_then(|()| driver::synchronize(self.gpu.copies));
    }
}
