//! The same values in memory in other ways.

use crate::reference::indices;
use handloom::{DType, Tensor};

/// How an input lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Row-major without gaps.
    Contiguous,
    /// The axes in the opposite order in memory.
    Transposed,
    /// Every second element of every axis of a larger buffer.
    Stepped,
    /// Beginning in the middle of a buffer.
    Offset,
    /// Rows with a gap after each.
    Narrowed,
    /// Axes of size 1 with strides that mean nothing.
    OddOnes,
    /// The first axis that is not of size 1 repeated from one index with stride 0. Changes the values.
    Broadcast,
    /// Another of these for each input.
    Mixed,
}

impl Layout {
    pub const ALL: [Layout; 8] = [
        Layout::Contiguous,
        Layout::Transposed,
        Layout::Stepped,
        Layout::Offset,
        Layout::Narrowed,
        Layout::OddOnes,
        Layout::Broadcast,
        Layout::Mixed,
    ];
}

/// `inputs` (contiguous) in the given layout; `None` where that changes nothing.
pub fn lay_out(inputs: &[Tensor], layout: Layout) -> Option<Vec<Tensor>> {
    let arrange = |(i, x): (usize, &Tensor)| match layout {
        Layout::Mixed => one(x, Layout::ALL[1 + i % 5]),
        _ => one(x, layout),
    };
    let all: Vec<Tensor> = inputs.iter().enumerate().map(arrange).collect();
    let changed =
        |(old, new): (&Tensor, &Tensor)| old.strides() != new.strides() || layout == Layout::Offset;
    let worth_it = layout == Layout::Contiguous || inputs.iter().zip(&all).any(changed);
    worth_it.then_some(all)
}

fn one(x: &Tensor, layout: Layout) -> Tensor {
    match layout {
        Layout::Contiguous | Layout::Mixed => x.clone(),
        Layout::Transposed => reversed(x),
        Layout::Stepped => inside(x, |n| (0, 2 * n, 2), |_, _| true),
        Layout::Offset => inside(x, |n| (2, n + 3, 1), |axis, _| axis == 0),
        Layout::Narrowed => inside(x, |n| (1, n + 2, 1), |axis, rank| axis + 1 == rank),
        Layout::OddOnes => inside(x, |_| (1, 3, 3), |axis, _| x.shape()[axis] == 1),
        Layout::Broadcast => match broadcast_axis(x) {
            Some(axis) => x.narrow(axis as isize, 0, 1).unwrap().expand(x.shape()).unwrap(),
            None => x.clone(),
        },
    }
}

/// The axis that [`Layout::Broadcast`] repeats.
pub fn broadcast_axis(x: &Tensor) -> Option<usize> {
    if x.dtype().is_float() { x.shape().iter().position(|&n| n > 1) } else { None }
}

/// The values with their axes in the opposite order in memory.
fn reversed(x: &Tensor) -> Tensor {
    let axes: Vec<isize> = (0..x.rank() as isize).rev().collect();
    let memory = x.permute(&axes).unwrap();
    // Read and written by the test, not by the crate's own copy.
    let mut shape = x.shape().to_vec();
    shape.reverse();
    let source = crate::array(x);
    let data: Vec<f64> = indices(&shape)
        .iter()
        .map(|index| source.at(&index.iter().rev().copied().collect::<Vec<_>>()))
        .collect();
    assert_eq!(memory.shape(), shape);
    tensor(&data, &shape, x.dtype()).permute(&axes).unwrap()
}

/// The values at `start`, `start + step`, … of each chosen axis of a larger buffer whose other elements
/// are NaN, or no id of anything.
fn inside(
    x: &Tensor,
    place: impl Fn(usize) -> (usize, usize, usize),
    chosen: impl Fn(usize, usize) -> bool,
) -> Tensor {
    let rank = x.rank();
    if rank == 0 {
        let data = [f64::NAN, x.item().unwrap(), f64::NAN].map(|v| sentinel(v, x.dtype()));
        return tensor(&data, &[3], x.dtype()).select(0, 1).unwrap();
    }
    let spots: Vec<(usize, usize, usize)> = (0..rank)
        .map(
            |axis| {
                if chosen(axis, rank) { place(x.shape()[axis]) } else { (0, x.shape()[axis], 1) }
            },
        )
        .collect();
    let shape: Vec<usize> = spots.iter().map(|s| s.1).collect();
    let source = crate::array(x);
    let data: Vec<f64> = indices(&shape)
        .iter()
        .map(|index| {
            let inner = |(axis, &i): (usize, &usize)| {
                let (start, _, step) = spots[axis];
                let back = i.checked_sub(start)?;
                let own = back / step;
                (back % step == 0 && own < x.shape()[axis]).then_some(own)
            };
            let own: Option<Vec<usize>> = index.iter().enumerate().map(inner).collect();
            own.map_or(sentinel(f64::NAN, x.dtype()), |own| source.at(&own))
        })
        .collect();
    let mut out = tensor(&data, &shape, x.dtype());
    for (axis, &(start, _, step)) in spots.iter().enumerate() {
        let n = x.shape()[axis];
        if chosen(axis, rank) {
            let end = if n == 0 { start } else { start + (n - 1) * step + 1 };
            out = out.slice(axis as isize, start, end, step).unwrap();
        }
    }
    assert_eq!(out.shape(), x.shape());
    out
}

fn sentinel(value: f64, dtype: DType) -> f64 {
    if value.is_nan() && dtype == DType::U32 { 4e9 } else { value }
}

/// Row-major data as a tensor.
pub fn tensor(data: &[f64], shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(data, shape).unwrap().to_dtype(dtype).unwrap()
}
