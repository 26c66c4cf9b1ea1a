//! What a kernel takes of a tensor: a slice of main memory, or an address in a GPU's.
//!
//! [`Tensor::slice_ref`] and its siblings return whatever the kernel they are an argument of asks for,
//! so that one call reads the same for either device.

use super::Tensor;
use super::dtype::{DType, Element};
use crate::cpu::gemm::{Elements, Output};

/// Elements to read: `len` of them from element `from` of the buffer.
pub(crate) trait View<'a>: Sized {
    /// The view; the caller has checked type and bounds.
    fn of(tensor: &'a Tensor, from: usize, len: usize) -> Self;
}

/// Elements to write, of a tensor with one owner.
pub(crate) trait ViewMut<'a>: Sized {
    /// The view; the caller has checked type and bounds.
    fn of(tensor: &'a mut Tensor, from: usize, len: usize) -> Self;
}

impl<'a, E: Element> View<'a> for &'a [E] {
    fn of(tensor: &'a Tensor, from: usize, len: usize) -> Self {
        assert!(tensor.dtype == E::DTYPE);
        if len == 0 {
            return &[]; // an empty view may begin beyond the end of its buffer
        }
        &tensor.storage.as_slice()[from..][..len]
    }
}

impl<'a, E: Element> View<'a> for Elements<'a, E> {
    fn of(tensor: &'a Tensor, from: usize, len: usize) -> Self {
        match tensor.dtype {
            DType::BF16 => Elements::Bf16(View::of(tensor, from, len)),
            _ => Elements::Own(View::of(tensor, from, len)),
        }
    }
}

impl<'a, E: Element> ViewMut<'a> for &'a mut [E] {
    fn of(tensor: &'a mut Tensor, from: usize, len: usize) -> Self {
        assert!(tensor.dtype == E::DTYPE);
        let whole =
            tensor.storage.as_mut_slice().expect("only a tensor with one owner is written to");
        &mut whole[from..][..len]
    }
}

impl<'a, E: Element> ViewMut<'a> for Output<'a, E> {
    fn of(tensor: &'a mut Tensor, from: usize, len: usize) -> Self {
        match tensor.dtype {
            DType::BF16 => Output::Bf16(ViewMut::of(tensor, from, len)),
            _ => Output::Own(ViewMut::of(tensor, from, len)),
        }
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::{Element, Tensor, View, ViewMut};
    use crate::cuda::{Slice, SliceMut};
    use crate::tensor::storage::Storage;

    impl<'a, E: Element> View<'a> for Slice<'a, E> {
        fn of(tensor: &'a Tensor, from: usize, len: usize) -> Self {
            assert!(tensor.dtype == E::DTYPE);
            match &tensor.storage {
                Storage::Cuda(buffer) => buffer.slice(from, len),
                Storage::Host(_) => Slice::elsewhere(len),
            }
        }
    }

    impl<'a, E: Element> ViewMut<'a> for SliceMut<'a, E> {
        fn of(tensor: &'a mut Tensor, from: usize, len: usize) -> Self {
            assert!(tensor.dtype == E::DTYPE);
            match &tensor.storage {
                Storage::Cuda(buffer) => buffer.slice_mut(from, len),
                Storage::Host(_) => SliceMut::elsewhere(len),
            }
        }
    }
}
