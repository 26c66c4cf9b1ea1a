//! Operations that move elements about.

use super::{Array, axis_of, indices};

pub fn flatten(x: &Array, dims: &[i64]) -> Array {
    let (start, end) = (axis_of(x.rank(), dims[0]), axis_of(x.rank(), dims[1]));
    let middle: usize = x.shape[start..=end].iter().product();
    let shape = [&x.shape[..start], &[middle], &x.shape[end + 1..]].concat();
    Array::new(&shape, x.data.clone())
}

pub fn permute(x: &Array, dims: &[i64]) -> Array {
    let from: Vec<usize> = dims.iter().map(|&d| axis_of(x.rank(), d)).collect();
    let shape: Vec<usize> = from.iter().map(|&axis| x.shape[axis]).collect();
    Array::build(&shape, |index| {
        let mut source = vec![0; index.len()];
        for (&axis, &i) in from.iter().zip(index) {
            source[axis] = i;
        }
        x.at(&source)
    })
}

pub fn transpose(x: &Array, dims: &[i64]) -> Array {
    let mut order: Vec<i64> = (0..x.rank() as i64).collect();
    order.swap(axis_of(x.rank(), dims[0]), axis_of(x.rank(), dims[1]));
    permute(x, &order)
}

pub fn slice(x: &Array, dim: i64, start: usize, len: usize, step: usize) -> Array {
    let axis = axis_of(x.rank(), dim);
    let mut shape = x.shape.clone();
    shape[axis] = len;
    Array::build(&shape, |index| {
        let mut source = index.to_vec();
        source[axis] = start + step * index[axis];
        x.at(&source)
    })
}

pub fn without_axis(x: &Array, dim: i64) -> Array {
    let mut shape = x.shape.clone();
    assert_eq!(shape.remove(axis_of(x.rank(), dim)), 1);
    Array::new(&shape, x.data.clone())
}

pub fn with_axis(x: &Array, dim: i64) -> Array {
    let mut shape = x.shape.clone();
    shape.insert(axis_of(x.rank() + 1, dim), 1);
    Array::new(&shape, x.data.clone())
}

pub fn split(x: &Array, size: usize, dim: i64) -> Vec<Array> {
    let n = x.shape[axis_of(x.rank(), dim)];
    if n == 0 {
        return vec![x.clone()];
    }
    (0..n).step_by(size).map(|start| slice(x, dim, start, size.min(n - start), 1)).collect()
}

pub fn cat(all: &[Array], dim: i64) -> Array {
    let axis = axis_of(all[0].rank(), dim);
    let mut shape = all[0].shape.clone();
    shape[axis] = all.iter().map(|x| x.shape[axis]).sum();
    Array::build(&shape, |index| {
        let mut source = index.to_vec();
        for x in all {
            if source[axis] < x.shape[axis] {
                return x.at(&source);
            }
            source[axis] -= x.shape[axis];
        }
        unreachable!("the sizes along the axis add up")
    })
}

pub fn embedding(weight: &Array, ids: &Array) -> Array {
    let shape = [ids.shape.as_slice(), &[weight.shape[1]]].concat();
    Array::build(&shape, |index| {
        let (&col, token) = index.split_last().expect("at least the width");
        weight.at(&[ids.at(token) as usize, col])
    })
}

pub fn index_select(x: &Array, dim: i64, ids: &Array) -> Array {
    let axis = axis_of(x.rank(), dim);
    let mut shape = x.shape.clone();
    shape[axis] = ids.data.len();
    Array::build(&shape, |index| {
        let mut source = index.to_vec();
        source[axis] = ids.data[index[axis]] as usize;
        x.at(&source)
    })
}

pub fn gather(x: &Array, dim: i64, ids: &Array) -> Array {
    let axis = axis_of(x.rank(), dim);
    Array::build(&ids.shape, |index| {
        let mut source = index.to_vec();
        source[axis] = ids.at(index) as usize;
        x.at(&source)
    })
}

pub fn scatter_add(x: &Array, dim: i64, ids: &Array, src: &Array) -> Array {
    let axis = axis_of(x.rank(), dim);
    let mut y = x.clone();
    for index in indices(&ids.shape) {
        let mut to = index.clone();
        to[axis] = ids.at(&index) as usize;
        *y.at_mut(&to) += src.at(&index);
    }
    y
}
