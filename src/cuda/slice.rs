//! What a kernel takes: an address on a device, with a length and a lifetime.
//!
//! The counterparts of `&[T]` and `&mut [T]`. They cannot be looked into from here.

use std::marker::PhantomData;

use super::driver::Address;
use super::gpu::Gpu;

/// Elements on a device, to be read by a kernel.
pub struct Slice<'a, T> {
    pub(super) gpu: Option<&'static Gpu>,
    pub(super) address: Address,
    pub(super) len: usize,
    life: PhantomData<&'a T>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Slice<'_, T> {}

impl<T> Slice<'_, T> {
    pub(super) fn new(gpu: &'static Gpu, address: Address, len: usize) -> Self {
        Slice { gpu: Some(gpu), address, len, life: PhantomData }
    }

    /// A slice that is not on a device: a kernel that gets it is not launched, and says so.
    pub(crate) fn elsewhere(len: usize) -> Self {
        Slice { gpu: None, address: 0, len, life: PhantomData }
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements from `start` on; none where it is beyond the end.
    pub(crate) fn from(self, start: usize) -> Self {
        let start = start.min(self.len);
        let address = self.address + (start * size_of::<T>()) as Address;
        Slice { address, len: self.len - start, ..self }
    }
}

/// Elements on a device, to be written by a kernel.
pub struct SliceMut<'a, T> {
    pub(super) gpu: Option<&'static Gpu>,
    pub(super) address: Address,
    pub(super) len: usize,
    life: PhantomData<&'a mut T>,
}

impl<'a, T> SliceMut<'a, T> {
    pub(super) fn new(gpu: &'static Gpu, address: Address, len: usize) -> Self {
        SliceMut { gpu: Some(gpu), address, len, life: PhantomData }
    }

    /// As [`Slice::elsewhere`].
    pub(crate) fn elsewhere(len: usize) -> Self {
        SliceMut { gpu: None, address: 0, len, life: PhantomData }
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The same elements, for reading.
    pub(crate) fn read(&self) -> Slice<'_, T> {
        Slice { gpu: self.gpu, address: self.address, len: self.len, life: PhantomData }
    }

    /// The same elements for reading while others of them are written: for kernels that go from one part
    /// of a tensor to the next, in order.
    pub(super) fn shadow(&self) -> Slice<'a, T> {
        Slice { gpu: self.gpu, address: self.address, len: self.len, life: PhantomData }
    }

    /// The elements from `start` on; none where it is beyond the end.
    pub(crate) fn from(&mut self, start: usize) -> SliceMut<'_, T> {
        let Slice { gpu, address, len, .. } = self.read().from(start);
        SliceMut { gpu, address, len, life: PhantomData }
    }
}
