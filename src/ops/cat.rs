//! Joining tensors along an axis.
//!
//! `cat` writes its inputs side by side; backward cuts the gradient into the same pieces. `stack` puts
//! them along a new axis: each gets an axis of size 1, then `cat`.

use smallvec::SmallVec;

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::same_dtype;
use crate::autograd::record;
use crate::cpu::strided;
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, Tensor, kernel_any};

/// The tensors one after the other along axis `dim`; all other sizes must agree.
///
/// # Errors
/// For no tensors, different dtypes, or shapes that differ off the axis.
#[track_caller]
pub fn cat(tensors: &[&Tensor], dim: isize) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        return Err(Error::op("cat", "there is nothing to join"));
    };
    let axis = first.axis("cat", dim)?;
    let mut shape = Dims::from_slice(first.shape());
    shape[axis] = 0;
    for x in tensors {
        same_dtype("cat", first, x)?;
        let agree = x.rank() == first.rank()
            && (0..x.rank()).all(|i| i == axis || x.shape()[i] == first.shape()[i]);
        if !agree {
            return Err(Error::op(
                "cat",
                format!(
                    "shapes {:?} and {:?} differ elsewhere than on axis {dim}",
                    first.shape(),
                    x.shape()
                ),
            ));
        }
        shape[axis] += x.shape()[axis];
    }
    let mut y = first.new_empty(&shape)?;
    let mut start = 0;
    for x in tensors {
        let place = y.layout().slice(axis, start, x.shape()[axis], 1);
        start += x.shape()[axis];
        if x.numel() > 0 {
            let x = x.packed()?;
            kernel_any!(x, E => strided::scatter::<E>(
                y.slice_mut_from(place.offset), &place.strides, x.slice_ref(), &place.shape
            ));
        }
    }
    let mut recorder = record("cat", tensors).ints(&[axis]);
    for x in tensors {
        recorder = recorder.ints(&[x.shape()[axis]]);
    }
    recorder
        .backward(|ctx, dy| {
            let axis = ctx.ints[0];
            let mut start = 0;
            let piece = |(&size, &needed): (&usize, &bool)| {
                let layout = dy.layout().slice(axis, start, size, 1);
                start += size;
                Ok(needed.then(|| dy.with_layout(layout)))
            };
            ctx.ints[1..].iter().zip(&ctx.needs).map(piece).collect()
        })
        .output(y)
}

/// The tensors, all of one shape, along a new axis that becomes axis `dim` of the result.
///
/// # Errors
/// As [`cat`].
#[track_caller]
pub fn stack(tensors: &[&Tensor], dim: isize) -> Result<Tensor> {
    let mut raised: SmallVec<[Tensor; 4]> = SmallVec::new();
    for x in tensors {
        raised.push(x.unsqueeze(dim)?);
    }
    cat(&raised.iter().collect::<SmallVec<[&Tensor; 4]>>(), dim)
}

pub(super) fn entries() -> Vec<Entry> {
    fn floats(shapes: &[&[usize]], dim: i64) -> Sample {
        Sample::of(shapes.iter().map(|shape| Input::float(*shape, -2.0, 2.0))).ints("dim", &[dim])
    }
    fn errors() -> Vec<ErrorCase> {
        vec![
            ErrorCase::new("nothing", "nothing to join", Vec::new).ints("dim", &[0]),
            ErrorCase::new("ranks that differ", "differ", || {
                vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([2], DType::F32)]
            })
            .ints("dim", &[0]),
            ErrorCase::new("two dtypes", "do not mix", || {
                vec![Tensor::zeros(2, DType::F32), Tensor::zeros(2, DType::U32)]
            })
            .ints("dim", &[0]),
        ]
    }
    vec![
        Entry::new("cat", |x, a| Ok(vec![cat(&x.iter().collect::<Vec<_>>(), a.dim("dim"))?]))
            .samples(|| {
                vec![
                    floats(&[&[2, 3], &[1, 3]], 0),
                    floats(&[&[2, 3], &[2, 0], &[2, 2]], -1),
                    floats(&[&[4]], 0),
                ]
            })
            .errors(errors),
        Entry::new("stack", |x, a| Ok(vec![stack(&x.iter().collect::<Vec<_>>(), a.dim("dim"))?]))
            .samples(|| vec![floats(&[&[2, 3], &[2, 3]], 1), floats(&[&[], &[]], 0)])
            .errors(errors),
    ]
}
