//! Output that several tasks write, each its own pieces.

/// A part of a slice that several tasks write, each its own elements: for outputs whose pieces are not
/// contiguous (a block of columns, one head of many).
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a `Shared` is a pointer and a length; what may be done with it through `slice` is the
// caller's promise there.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Hands out `data` for writing in disjoint pieces.
    pub(crate) fn new(data: &mut [T]) -> Shared<T> {
        Shared { start: data.as_mut_ptr(), len: data.len() }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// The slice given to [`Shared::new`] is still borrowed, and no two pieces that are alive at
    /// the same time overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a piece leaves its slice");
        // SAFETY: the range is inside the slice, which the caller keeps borrowed; the caller
        // promises that pieces do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// The address of element `at`, for kernels that walk with strides.
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "an address leaves its slice");
        self.start.wrapping_add(at)
    }
}
