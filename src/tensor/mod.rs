//! The tensor: a handle on a pooled buffer, read through a strided layout.
//!
//! [`Tensor`] is cheap to clone and to view: clones and views share one buffer. A buffer is written in
//! place only while one tensor owns it, otherwise the writer gets a copy of its own, so no view ever
//! changes behind another's back. This room makes, reads and prints tensors; it does no maths. The
//! mathematics are methods too, but they live in [`crate::ops`].

mod dispatch;
mod display;
mod dtype;
mod history;
mod layout;
mod storage;
mod view;

pub use dtype::{DType, Device, Element};
pub use layout::{Dims, IntoShape};
pub use storage::{
    MemoryStats, memory_stats, poison_fresh_buffers, release_free_memory, reset_peak,
};

pub(crate) use dispatch::{for_any, for_float, kernel, kernel_any, kernel_on};
pub(crate) use history::{History, Tracked};
pub(crate) use layout::{Layout, broadcast_shapes, checked_numel};

use crate::cpu::philox::{self, Key};
use crate::cpu::strided;
use crate::error::{Error, Result};
use storage::Storage;
use view::{View, ViewMut};

/// An n-dimensional array of one dtype on one device, with an optional history for autograd.
///
/// Shapes are written `[outer, …, inner]`, row-major; a scalar has shape `[]`.
#[derive(Clone)]
pub struct Tensor {
    storage: Storage,
    layout: Layout,
    dtype: DType,
    device: Device,
    history: Option<Tracked>,
}

impl Tensor {
    // ---- making -------------------------------------------------------------------------------

    /// A tensor of `shape` whose elements have arbitrary values.
    ///
    /// # Errors
    /// When the element count overflows or the memory cannot be had.
    #[track_caller]
    pub fn empty(shape: impl IntoShape, dtype: DType) -> Result<Tensor> {
        Tensor::empty_on(shape, dtype, Device::Cpu)
    }

    /// As [`Tensor::empty`], on `device`.
    ///
    /// # Errors
    /// As [`Tensor::empty`], and when the device is not there.
    #[track_caller]
    pub fn empty_on(shape: impl IntoShape, dtype: DType, device: Device) -> Result<Tensor> {
        let shape = shape.into_shape();
        let bytes = checked_numel(&shape).and_then(|n| n.checked_mul(dtype.size()));
        let bytes = bytes.ok_or_else(|| {
            Error::op("empty", format!("shape {shape:?} has more elements than can be counted"))
        })?;
        Ok(Tensor {
            storage: Storage::new(bytes, device)?,
            layout: Layout::contiguous(shape),
            dtype,
            device,
            history: None,
        })
    }

    /// A tensor of `shape` with this one's dtype and device, whose elements have arbitrary values.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn new_empty(&self, shape: impl IntoShape) -> Result<Tensor> {
        Tensor::empty_on(shape, self.dtype, self.device)
    }

    /// A tensor of `shape` with this one's dtype and device, filled with `value`.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn new_full(&self, shape: impl IntoShape, value: f64) -> Result<Tensor> {
        if self.device == Device::Cpu {
            return Tensor::full(shape, value, self.dtype);
        }
        let one = Tensor::full((), value, self.dtype)?;
        // Where it can, the device repeats the number by itself.
        #[cfg(feature = "cuda")]
        if self.dtype != DType::F64 {
            let out = self.new_empty(shape)?;
            let bytes = out.numel() * out.dtype.size();
            if let Storage::Cuda(buffer) = &out.storage {
                buffer.fill(&one.storage.as_slice::<u8>()[..one.dtype.size()], bytes)?;
            }
            return Ok(out);
        }
        let one = one.moved(self.device)?;
        one.with_layout(one.layout.expand(&shape.into_shape())).copy()
    }

    /// A tensor of `shape` filled with `value` (rounded to `dtype`).
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn full(shape: impl IntoShape, value: f64, dtype: DType) -> Result<Tensor> {
        let mut out = Tensor::empty(shape, dtype)?;
        match dtype {
            DType::F32 => out.slice_mut::<&mut [f32]>().fill(value as f32),
            DType::F64 => out.slice_mut::<&mut [f64]>().fill(value),
            DType::BF16 => out.slice_mut::<&mut [half::bf16]>().fill(half::bf16::from_f64(value)),
            DType::F16 => out.slice_mut::<&mut [half::f16]>().fill(half::f16::from_f64(value)),
            DType::U32 => out.slice_mut::<&mut [u32]>().fill(value as u32),
        }
        Ok(out)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn zeros(shape: impl IntoShape, dtype: DType) -> Result<Tensor> {
        Tensor::full(shape, 0.0, dtype)
    }

    /// A tensor of ones.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn ones(shape: impl IntoShape, dtype: DType) -> Result<Tensor> {
        Tensor::full(shape, 1.0, dtype)
    }

    /// A scalar (shape `[]`).
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn scalar(value: f64, dtype: DType) -> Result<Tensor> {
        Tensor::full((), value, dtype)
    }

    /// A copy of `data` (row-major) under `shape`.
    ///
    /// # Errors
    /// When the shape does not hold exactly `data.len()` elements.
    #[track_caller]
    pub fn from_slice<E: Element>(data: &[E], shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape();
        if checked_numel(&shape) != Some(data.len()) {
            return Err(Error::op(
                "from_slice",
                format!("{} values do not fill shape {:?}", data.len(), shape.as_slice()),
            ));
        }
        let mut out = Tensor::empty(shape, E::DTYPE)?;
        out.slice_mut::<&mut [E]>().copy_from_slice(data);
        Ok(out)
    }

    /// `[0, 1, …, n-1]` as `dtype`.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    #[track_caller]
    pub fn arange(n: usize, dtype: DType) -> Result<Tensor> {
        let counts: Vec<u32> = (0..n as u32).collect();
        let ids = Tensor::from_slice(&counts, n)?;
        ids.cast(dtype)
    }

    /// Independent samples of the standard normal distribution, a pure function of `key`.
    /// `f32` and `f64` only.
    ///
    /// # Errors
    /// As [`Tensor::empty`], and for dtypes that are not computed in.
    #[track_caller]
    pub fn randn(shape: impl IntoShape, dtype: DType, key: Key) -> Result<Tensor> {
        let mut out = Tensor::empty(shape, dtype)?;
        for_float!("randn", dtype, T => philox::normal::<T>(out.slice_mut(), key));
        Ok(out)
    }

    /// Independent samples of the uniform distribution on [0, 1), a pure function of `key`.
    /// `f32` and `f64` only.
    ///
    /// # Errors
    /// As [`Tensor::empty`], and for dtypes that are not computed in.
    #[track_caller]
    pub fn rand(shape: impl IntoShape, dtype: DType, key: Key) -> Result<Tensor> {
        let mut out = Tensor::empty(shape, dtype)?;
        for_float!("rand", dtype, T => philox::uniform::<T>(out.slice_mut(), key));
        Ok(out)
    }

    // ---- asking -------------------------------------------------------------------------------

    /// The sizes of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// The step, in elements, from one index of an axis to the next. 0 for a broadcast axis.
    pub fn strides(&self) -> &[usize] {
        &self.layout.strides
    }

    /// The number of axes; 0 for a scalar.
    pub fn rank(&self) -> usize {
        self.layout.shape.len()
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the buffer lives.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether the elements lie row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// Whether `self` and `other` read the same buffer (one may be a view of the other).
    pub fn shares_storage(&self, other: &Tensor) -> bool {
        self.storage.same(&other.storage)
    }

    /// The size of axis `dim`, counted from the end where negative.
    ///
    /// # Errors
    /// When there is no such axis.
    #[track_caller]
    pub fn size(&self, dim: isize) -> Result<usize> {
        Ok(self.layout.shape[self.axis("size", dim)?])
    }

    /// The axis that `dim` names, negative from the end.
    #[track_caller]
    pub(crate) fn axis(&self, op: &'static str, dim: isize) -> Result<usize> {
        let rank = self.rank() as isize;
        let axis = if dim < 0 { dim + rank } else { dim };
        if (0..rank).contains(&axis) {
            Ok(axis as usize)
        } else {
            Err(Error::op(op, format!("axis {dim} does not exist in shape {:?}", self.shape())))
        }
    }

    // ---- reading ------------------------------------------------------------------------------

    /// The elements of a contiguous tensor, without copying.
    ///
    /// # Errors
    /// When the tensor holds another type than `E` or is not contiguous.
    #[track_caller]
    pub fn as_slice<E: Element>(&self) -> Result<&[E]> {
        self.expect_dtype::<E>("as_slice")?;
        self.expect_host("as_slice")?;
        if !self.is_contiguous() {
            return Err(Error::op(
                "as_slice",
                format!(
                    "shape {:?} with strides {:?} is not contiguous; call contiguous() first",
                    self.shape(),
                    self.strides()
                ),
            ));
        }
        Ok(self.slice_ref())
    }

    /// All elements, row-major whatever the layout.
    ///
    /// # Errors
    /// When the tensor holds another type than `E`.
    #[track_caller]
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        self.expect_dtype::<E>("to_vec")?;
        let here = self.moved(Device::Cpu)?.packed()?;
        let elements: &[E] = here.slice_ref();
        Ok(elements.to_vec())
    }

    /// All elements as `f64`, row-major, whatever the dtype.
    ///
    /// # Errors
    /// When memory for the copy cannot be had.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        self.moved(Device::Cpu)?.cast(DType::F64)?.to_vec::<f64>()
    }

    /// The value of a tensor that has exactly one element.
    ///
    /// # Errors
    /// When it has more, or none.
    #[track_caller]
    pub fn item(&self) -> Result<f64> {
        if self.numel() != 1 {
            return Err(Error::op(
                "item",
                format!("shape {:?} has {} elements, not 1", self.shape(), self.numel()),
            ));
        }
        if self.device != Device::Cpu {
            return self.moved(Device::Cpu)?.item();
        }
        let at = self.layout.offset;
        Ok(match self.dtype {
            DType::F32 => self.storage.as_slice::<f32>()[at] as f64,
            DType::F64 => self.storage.as_slice::<f64>()[at],
            DType::BF16 => self.storage.as_slice::<half::bf16>()[at].to_f64(),
            DType::F16 => self.storage.as_slice::<half::f16>()[at].to_f64(),
            DType::U32 => self.storage.as_slice::<u32>()[at] as f64,
        })
    }

    #[track_caller]
    fn expect_dtype<E: Element>(&self, op: &'static str) -> Result<()> {
        if self.dtype == E::DTYPE {
            return Ok(());
        }
        Err(Error::op(op, format!("the tensor holds {}, not {}", self.dtype, E::DTYPE)))
    }

    #[track_caller]
    fn expect_host(&self, op: &'static str) -> Result<()> {
        if self.device == Device::Cpu {
            return Ok(());
        }
        Err(Error::op(
            op,
            format!("the tensor lies on {}; call to_device(Device::Cpu) first", self.device),
        ))
    }

    // ---- writing ------------------------------------------------------------------------------

    /// The elements for writing. Shared or strided data is first copied into a buffer of its own, so
    /// no other tensor sees the change.
    ///
    /// # Errors
    /// When the tensor holds another type than `E` or is tracked by autograd (its history would be
    /// a lie after the change; [`Tensor::detach`] first).
    #[track_caller]
    pub fn make_mut<E: Element>(&mut self) -> Result<&mut [E]> {
        self.expect_dtype::<E>("make_mut")?;
        self.expect_host("make_mut")?;
        if self.history.is_some() {
            return Err(Error::op(
                "make_mut",
                "the tensor is tracked by autograd; detach() it first",
            ));
        }
        self.own()?;
        Ok(self.slice_mut())
    }

    /// Makes this tensor the sole owner of a contiguous buffer, by a copy where it is not yet.
    pub(crate) fn own(&mut self) -> Result<()> {
        if !self.is_owned() {
            *self = self.copy()?;
        }
        Ok(())
    }

    /// Whether writing would touch nobody else: sole owner and contiguous.
    pub(crate) fn is_owned(&self) -> bool {
        self.storage.is_unique() && self.is_contiguous()
    }

    // ---- for the floors above -----------------------------------------------------------------

    /// The elements of a contiguous tensor; the caller has checked its type.
    pub(crate) fn slice_ref<'a, S: View<'a>>(&'a self) -> S {
        self.slice_from(0)
    }

    /// The elements of a contiguous tensor from its element `start` on (none beyond its end).
    pub(crate) fn slice_from<'a, S: View<'a>>(&'a self, start: usize) -> S {
        assert!(self.is_contiguous());
        S::of(self, self.layout.offset + start, self.numel().saturating_sub(start))
    }

    /// The buffer from the first element on, for kernels that take strides. Empty for empty tensors.
    pub(crate) fn strided_ref<'a, S: View<'a>>(&'a self) -> S {
        let len = match self.numel() {
            0 => 0,
            _ => self.storage.bytes() / self.dtype.size() - self.layout.offset,
        };
        S::of(self, self.layout.offset, len)
    }

    /// The elements of a tensor that was just made and has one owner.
    pub(crate) fn slice_mut<'a, S: ViewMut<'a>>(&'a mut self) -> S {
        self.slice_mut_from(0)
    }

    /// As [`Tensor::slice_mut`], from element `start` on.
    pub(crate) fn slice_mut_from<'a, S: ViewMut<'a>>(&'a mut self, start: usize) -> S {
        assert!(self.is_contiguous());
        let (offset, numel) = (self.layout.offset, self.numel());
        S::of(self, offset + start, numel - start)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The same buffer under another layout, without history.
    pub(crate) fn with_layout(&self, layout: Layout) -> Tensor {
        Tensor {
            storage: self.storage.clone(),
            layout,
            dtype: self.dtype,
            device: self.device,
            history: None,
        }
    }

    /// A contiguous copy without history.
    pub(crate) fn copy(&self) -> Result<Tensor> {
        let mut out = self.new_empty(self.shape())?;
        kernel_any!(self, E => strided::copy::<E>(
            out.slice_mut(), self.strided_ref(), self.strides(), self.shape()
        ));
        Ok(out)
    }

    /// This tensor if it is contiguous, else a contiguous copy; without history either way.
    pub(crate) fn packed(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.detach()) } else { self.copy() }
    }

    /// Conversion of every element to `dtype`, contiguous, without history.
    pub(crate) fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return self.packed();
        }
        if self.device != Device::Cpu && [self.dtype, dtype].contains(&DType::F64) {
            return Err(Error::op(
                "to_dtype",
                format!(
                    "{} does not compute in f64; call to_device(Device::Cpu) first",
                    self.device
                ),
            ));
        }
        let from = self.packed()?;
        let mut out = Tensor::empty_on(self.shape(), dtype, self.device)?;
        kernel_any!(self, A => for_any!(dtype, B => {
            strided::cast::<A, B>(out.slice_mut(), from.slice_ref())
        }));
        Ok(out)
    }

    /// The same elements on `device`, without history; contiguous where they had to be copied.
    pub(crate) fn moved(&self, device: Device) -> Result<Tensor> {
        if device == self.device {
            return Ok(self.detach());
        }
        let from = self.packed()?;
        let mut to = Tensor::empty_on(self.shape(), self.dtype, device)?;
        #[cfg(feature = "cuda")]
        from.transfer(&mut to)?;
        #[cfg(not(feature = "cuda"))]
        let _ = (from, &mut to); // there is no other device to make `to` on
        Ok(to)
    }

    /// Copies the elements of a contiguous tensor to one of the same shape on another device.
    #[cfg(feature = "cuda")]
    fn transfer(&self, to: &mut Tensor) -> Result<()> {
        let (start, bytes) =
            (self.layout.offset * self.dtype.size(), self.numel() * self.dtype.size());
        match (&self.storage, &mut to.storage) {
            (Storage::Host(_), Storage::Cuda(buffer)) => {
                buffer.upload(&self.storage.as_slice::<u8>()[start..][..bytes])
            }
            (Storage::Cuda(buffer), to @ Storage::Host(_)) => {
                let bytes_here = to.as_mut_slice::<u8>().expect("a new buffer has one owner");
                buffer.download(start, &mut bytes_here[..bytes])
            }
            _ => {
                // From one GPU to another, by way of main memory.
                *to = self.moved(Device::Cpu)?.moved(to.device)?;
                Ok(())
            }
        }
    }

    /// The buffer of a contiguous tensor on a GPU that fills it from its beginning.
    #[cfg(feature = "cuda")]
    pub(crate) fn whole_buffer(&self) -> Option<&crate::cuda::Buffer> {
        match &self.storage {
            Storage::Cuda(buffer) if self.is_contiguous() && self.layout.offset == 0 => {
                Some(buffer)
            }
            _ => None,
        }
    }

    /// Copies the elements of `from`, on the same GPU, into this tensor's buffer. Every handle on that
    /// buffer sees it, which is what a recorded step is given its inputs by.
    #[cfg(feature = "cuda")]
    pub(crate) fn overwrite(&self, from: &Tensor) -> Result<()> {
        let from = from.moved(self.device)?.packed()?;
        match (self.whole_buffer(), &from.storage) {
            (Some(to), Storage::Cuda(buffer)) if self.numel() == from.numel() => {
                let size = self.dtype.size();
                to.copy_from(buffer, from.layout.offset * size, from.numel() * size)
            }
            _ => Err(Error::op("overwrite", "not a whole tensor of the same size on a GPU")),
        }
    }

    /// A copy of the whole buffer under the same layout, for changing single elements of it.
    pub(crate) fn duplicate_with(&self, change: impl FnOnce(&mut [f64])) -> Result<Tensor> {
        let whole = self.storage.as_slice::<f64>();
        let mut storage = Storage::new(std::mem::size_of_val(whole), Device::Cpu)?;
        let copy = storage.as_mut_slice::<f64>().expect("a new buffer has one owner");
        copy[..whole.len()].copy_from_slice(whole);
        change(copy);
        Ok(Tensor { storage, layout: self.layout.clone(), ..self.detach() })
    }

    pub(crate) fn history(&self) -> Option<&Tracked> {
        self.history.as_ref()
    }

    pub(crate) fn with_history(mut self, history: Tracked) -> Tensor {
        self.history = Some(history);
        self
    }

    /// The same data without its history: gradients do not flow through.
    pub fn detach(&self) -> Tensor {
        self.with_layout(self.layout.clone())
    }
}

#[cfg(test)]
mod tests;
