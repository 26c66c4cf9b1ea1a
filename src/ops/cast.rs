//! Conversions: `to_dtype` and `contiguous`.
//!
//! The gradient of a conversion is converted back; the gradient of a copy is itself. Conversion to
//! `u32` cuts the fraction off and ends the history.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::one;
use crate::autograd::record;
use crate::error::Result;
use crate::tensor::{DType, Device, Tensor};

impl Tensor {
    /// The elements as another type, each rounded once.
    ///
    /// # Errors
    /// When memory cannot be had.
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let y = self.cast(dtype)?;
        if !dtype.is_float() {
            return Ok(y);
        }
        record("to_dtype", &[self])
            .ints(&[code(self.dtype())])
            .backward(|ctx, dy| one(dy.cast(DTYPES[ctx.ints[0]])?))
            .output(y)
    }

    /// This tensor, or a row-major copy of it if its layout is strided.
    ///
    /// # Errors
    /// When memory cannot be had.
    #[track_caller]
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        record("contiguous", &[self]).backward(|_, dy| one(dy)).output(self.copy()?)
    }

    /// This tensor on `device`.
    ///
    /// # Errors
    /// When the device is not there.
    #[track_caller]
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        if device == self.device() {
            return Ok(self.clone());
        }
        let y = self.moved(device)?;
        record("to_device", &[self])
            .ints(&[match self.device() {
                Device::Cpu => 0,
                Device::Cuda(number) => number + 1,
            }])
            .backward(|ctx, dy| {
                one(dy.moved(match ctx.ints[0] {
                    0 => Device::Cpu,
                    number => Device::Cuda(number - 1),
                })?)
            })
            .output(y)
    }
}

const DTYPES: [DType; 5] = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32];

fn code(dtype: DType) -> usize {
    DTYPES.iter().position(|&d| d == dtype).expect("every dtype is in the list")
}

pub(super) fn entries() -> Vec<Entry> {
    fn none() -> Vec<ErrorCase> {
        Vec::new() // every tensor can be converted and copied
    }
    vec![
        Entry::new("to_dtype", |x, _| Ok(vec![x[0].to_dtype(DType::F64)?]))
            .samples(|| Sample::shapes(&[&[2, 3], &[0]], |s| vec![Input::float(s, -2.0, 2.0)]))
            .errors(none),
        Entry::new("contiguous", |x, _| Ok(vec![x[0].contiguous()?]))
            .samples(|| Sample::shapes(&[&[2, 3], &[]], |s| vec![Input::float(s, -2.0, 2.0)]))
            .errors(none),
        Entry::new("to_device", |x, _| Ok(vec![x[0].to_device(Device::Cpu)?]))
            .samples(|| Sample::shapes(&[&[2, 3]], |s| vec![Input::float(s, -2.0, 2.0)]))
            .errors(none),
    ]
}
