//! The factors of a product and what it gives: matrices stored in the type that the product is summed in or in bf16.
//!
//! bf16 becomes f32 on its way into a panel or a register, which is exact: a product of factors in bf16 has the bits of
//! the product of the same numbers in f32, and reads half as much. A C in bf16 is rounded once, from sums that are
//! complete and still near.

use half::bf16;

use super::Mat;

/// Elements to read.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a, T> {
    /// In the type of the sums.
    Own(&'a [T]),
    /// In bf16.
    Bf16(&'a [bf16]),
}

impl<'a, T> Elements<'a, T> {
    /// Those from `first` on; none beyond the end.
    pub(super) fn from(self, first: usize) -> Elements<'a, T> {
        match self {
            Elements::Own(data) => Elements::Own(data.get(first..).unwrap_or(&[])),
            Elements::Bf16(data) => Elements::Bf16(data.get(first..).unwrap_or(&[])),
        }
    }

    /// Where they begin.
    pub(super) fn start(self) -> Start<T> {
        match self {
            Elements::Own(data) => Start::Own(data.as_ptr()),
            Elements::Bf16(data) => Start::Bf16(data.as_ptr()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Elements::Own(data) => data.len(),
            Elements::Bf16(data) => data.len(),
        }
    }
}

/// Elements to write.
pub enum Output<'a, T> {
    /// In the type of the sums.
    Own(&'a mut [T]),
    /// In bf16, rounded once.
    Bf16(&'a mut [bf16]),
}

impl<T> Output<'_, T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Output::Own(data) => data.len(),
            Output::Bf16(data) => data.len(),
        }
    }
}

/// A [`Mat`] whose elements may be bf16.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a, T> {
    /// The elements, from (0, 0) on.
    pub data: Elements<'a, T>,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub col_stride: usize,
}

impl<'a, T> From<Mat<'a, T>> for Factor<'a, T> {
    fn from(mat: Mat<'a, T>) -> Factor<'a, T> {
        let Mat { data, row_stride, col_stride } = mat;
        Factor { data: Elements::Own(data), row_stride, col_stride }
    }
}

impl<T> Factor<'_, T> {
    /// As [`Mat::check`].
    pub(super) fn check(&self, name: &str, batch: (usize, usize), rows: usize, cols: usize) {
        let strides = (self.row_stride, self.col_stride);
        super::check(name, self.data.len(), strides, batch, (rows, cols));
    }

    pub(super) fn is_bf16(&self) -> bool {
        matches!(self.data, Elements::Bf16(_))
    }
}

/// A place in the elements of a factor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<T> {
    Own(*const T),
    Bf16(*const bf16),
}

impl<T> Start<T> {
    /// So many elements further on.
    pub(super) fn plus(self, elements: usize) -> Start<T> {
        match self {
            Start::Own(at) => Start::Own(at.wrapping_add(elements)),
            Start::Bf16(at) => Start::Bf16(at.wrapping_add(elements)),
        }
    }

    /// The place, for a kernel that reads elements as they lie.
    pub(super) fn own(self) -> *const T {
        match self {
            Start::Own(at) => at,
            Start::Bf16(_) => unreachable!("bf16 is packed"),
        }
    }

    /// The place, for a kernel that knows what lies there.
    pub(super) fn address(self) -> *const T {
        match self {
            Start::Own(at) => at,
            Start::Bf16(at) => at.cast(),
        }
    }

    /// The same where U is T by another name.
    pub(super) fn cast<U>(self) -> Start<U> {
        match self {
            Start::Own(at) => Start::Own(at.cast()),
            Start::Bf16(at) => Start::Bf16(at),
        }
    }
}

/// Runs `$body` with `$source` standing for the part of a factor that `$part` is, by the type of its elements.
macro_rules! stored {
    ($part:expr, $source:ident => $body:expr) => {
        match $part.data {
            $crate::cpu::gemm::factor::Start::Own(at) => {
                let $source = $part.at(at);
                $body
            }
            $crate::cpu::gemm::factor::Start::Bf16(at) => {
                let $source = $part.at(at);
                $body
            }
        }
    };
}
pub(super) use stored;
