//! Shapes, strides and the arithmetic of views.
//!
//! A tensor is a flat buffer read through a layout: element `(i, j, …)` sits at
//! `offset + i·strides[0] + j·strides[1] + …`. A transposed, narrowed or broadcast tensor is the same
//! buffer under another layout; nothing is copied. A stride of 0 repeats one element along its axis.

use smallvec::SmallVec;

/// Sizes or strides of a tensor's axes; on the stack up to rank 6.
pub type Dims = SmallVec<[usize; 6]>;

/// Anything that can say a shape: `[2, 3]`, `&[2, 3]`, `5`, `vec![…]`, `()` for a scalar.
pub trait IntoShape {
    /// The shape's sizes.
    fn into_shape(self) -> Dims;
}

impl<const N: usize> IntoShape for [usize; N] {
    fn into_shape(self) -> Dims {
        Dims::from_slice(&self)
    }
}
impl<const N: usize> IntoShape for &[usize; N] {
    fn into_shape(self) -> Dims {
        Dims::from_slice(self)
    }
}
impl IntoShape for &[usize] {
    fn into_shape(self) -> Dims {
        Dims::from_slice(self)
    }
}
impl IntoShape for &Dims {
    fn into_shape(self) -> Dims {
        self.clone()
    }
}
impl IntoShape for Dims {
    fn into_shape(self) -> Dims {
        self
    }
}
impl IntoShape for &Vec<usize> {
    fn into_shape(self) -> Dims {
        Dims::from_slice(self)
    }
}
impl IntoShape for Vec<usize> {
    fn into_shape(self) -> Dims {
        Dims::from_slice(&self)
    }
}
impl IntoShape for usize {
    fn into_shape(self) -> Dims {
        Dims::from_slice(&[self])
    }
}
impl IntoShape for () {
    fn into_shape(self) -> Dims {
        Dims::new()
    }
}

/// How a tensor reads its buffer: sizes, strides and offset, all counted in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shape: Dims,
    pub(crate) strides: Dims,
    pub(crate) offset: usize,
}

/// The number of elements of a shape, or `None` where the product overflows.
pub(crate) fn checked_numel(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product 0, but the other sizes must still be sane numbers.
    shape
        .iter()
        .filter(|&&n| n != 0)
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .map(|product| if shape.contains(&0) { 0 } else { product })
}

/// Row-major strides: the last axis is dense.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Dims {
    let mut strides = Dims::from_elem(1, shape.len());
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// NumPy's rule: align shapes at the right; sizes must agree or be 1.
pub(crate) fn broadcast_shapes(a: &[usize], b: &[usize]) -> Option<Dims> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        let missing = rank - shape.len();
        if axis < missing { 1 } else { shape[axis - missing] }
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

impl Layout {
    pub(crate) fn contiguous(shape: Dims) -> Layout {
        Layout { strides: contiguous_strides(&shape), shape, offset: 0 }
    }

    pub(crate) fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Row-major without gaps (axes of size 1 may have any stride).
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }

    /// Whether two indices can name the same element (an expanded axis).
    pub(crate) fn overlaps(&self) -> bool {
        self.shape.iter().zip(&self.strides).any(|(&size, &stride)| size > 1 && stride == 0)
    }

    pub(crate) fn transpose(&self, a: usize, b: usize) -> Layout {
        let mut layout = self.clone();
        layout.shape.swap(a, b);
        layout.strides.swap(a, b);
        layout
    }

    pub(crate) fn permute(&self, axes: &[usize]) -> Layout {
        Layout {
            shape: axes.iter().map(|&axis| self.shape[axis]).collect(),
            strides: axes.iter().map(|&axis| self.strides[axis]).collect(),
            offset: self.offset,
        }
    }

    /// `len` elements of `axis` from `start`, taking every `step`-th.
    pub(crate) fn slice(&self, axis: usize, start: usize, len: usize, step: usize) -> Layout {
        let mut layout = self.clone();
        if len > 0 {
            layout.offset += start * self.strides[axis];
        }
        layout.shape[axis] = len;
        layout.strides[axis] *= step;
        layout
    }

    /// Broadcast to `shape` (which must be compatible): new and size-1 axes get stride 0.
    pub(crate) fn expand(&self, shape: &[usize]) -> Layout {
        let missing = shape.len() - self.shape.len();
        let strides = (0..shape.len())
            .map(|axis| match axis.checked_sub(missing) {
                Some(old) if self.shape[old] == shape[axis] => self.strides[old],
                _ => 0,
            })
            .collect();
        Layout { shape: Dims::from_slice(shape), strides, offset: self.offset }
    }

    pub(crate) fn squeeze(&self, axis: usize) -> Layout {
        let mut layout = self.clone();
        layout.shape.remove(axis);
        layout.strides.remove(axis);
        layout
    }

    pub(crate) fn unsqueeze(&self, axis: usize) -> Layout {
        let mut layout = self.clone();
        let stride =
            if axis < self.shape.len() { self.shape[axis] * self.strides[axis] } else { 1 };
        layout.shape.insert(axis, 1);
        layout.strides.insert(axis, stride);
        layout
    }

    /// The layout of the same elements under another shape without copying, where strides allow it.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Option<Layout> {
        if self.is_contiguous() {
            let mut layout = Layout::contiguous(Dims::from_slice(shape));
            layout.offset = self.offset;
            return Some(layout);
        }
        // Match runs of old axes with runs of new axes of the same product; inside a run the old
        // axes must be mergeable, that is, each stride the product of the next size and stride.
        let mut strides = Dims::from_elem(0, shape.len());
        let old: SmallVec<[(usize, usize); 6]> = self
            .shape
            .iter()
            .copied()
            .zip(self.strides.iter().copied())
            .filter(|a| a.0 != 1)
            .collect();
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (mut have, mut want) = (old[i].0, 1);
            let first = i;
            let begin = j;
            loop {
                while want < have && j < shape.len() {
                    want *= shape[j];
                    j += 1;
                }
                if want == have {
                    break;
                }
                i += 1;
                if i == old.len() {
                    return None;
                }
                have *= old[i].0;
            }
            for axis in first..i {
                if old[axis].1 != old[axis + 1].0 * old[axis + 1].1 {
                    return None;
                }
            }
            let mut stride = old[i].1;
            for axis in (begin..j).rev() {
                strides[axis] = stride;
                stride *= shape[axis];
            }
            i += 1;
        }
        Some(Layout { shape: Dims::from_slice(shape), strides, offset: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(shape: &[usize], strides: &[usize]) -> Layout {
        Layout { shape: Dims::from_slice(shape), strides: Dims::from_slice(strides), offset: 0 }
    }

    #[test]
    fn broadcasting_follows_numpy() {
        let shape = |a: &[usize], b: &[usize]| broadcast_shapes(a, b).map(|s| s.to_vec());
        assert_eq!(shape(&[2, 3], &[3]), Some(vec![2, 3]));
        assert_eq!(shape(&[4, 1, 3], &[5, 1]), Some(vec![4, 5, 3]));
        assert_eq!(shape(&[0, 1], &[1, 7]), Some(vec![0, 7]));
        assert_eq!(shape(&[], &[2]), Some(vec![2]));
        assert_eq!(shape(&[2], &[3]), None);
        assert_eq!(shape(&[0], &[2]), None);
    }

    #[test]
    fn numel_refuses_overflow_even_beside_a_zero() {
        assert_eq!(checked_numel(&[3, 4]), Some(12));
        assert_eq!(checked_numel(&[]), Some(1));
        assert_eq!(checked_numel(&[0, 5]), Some(0));
        assert_eq!(checked_numel(&[usize::MAX, 2]), None);
        assert_eq!(checked_numel(&[usize::MAX, 2, 0]), None);
    }

    #[test]
    fn reshape_keeps_strides_where_it_can() {
        let transposed = layout(&[4, 2, 3], &[3, 12, 1]);
        assert_eq!(transposed.reshape(&[4, 6]), None, "12 and 1 do not merge over size 3");
        let merged = transposed.reshape(&[2, 2, 2, 3]).unwrap();
        assert_eq!(merged.strides.as_slice(), &[6, 3, 12, 1]);
        let ones = layout(&[1, 4, 1, 6], &[99, 12, 7, 2]).reshape(&[4, 3, 2]).unwrap();
        assert_eq!(ones.strides.as_slice(), &[12, 4, 2]);
        assert!(layout(&[2, 3], &[1, 2]).reshape(&[6]).is_none());
        let scalar = layout(&[1, 1], &[5, 5]).reshape(&[]).unwrap();
        assert!(scalar.shape.is_empty());
    }

    #[test]
    fn contiguity_ignores_axes_of_size_one() {
        assert!(layout(&[1, 3], &[77, 1]).is_contiguous());
        assert!(layout(&[0, 3], &[1, 9]).is_contiguous());
        assert!(!layout(&[2, 3], &[1, 2]).is_contiguous());
        assert!(layout(&[], &[]).is_contiguous());
    }
}
