//! Scratch memory of a thread: grown once, then used again.
//!
//! A kernel that packs or blocks needs room for a moment. [`with`] lends the calling thread's own
//! room, aligned to a cache line; it is allocated on the first call that needs that much and kept.
//! Calls nest: the inner call gets other room than the outer one.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    /// The buffers that nobody uses at the moment.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of scratch that begin on a cache line. Their content is arbitrary.
pub(crate) fn with<T: Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut lines = FREE.with(|free| free.borrow_mut().pop()).unwrap_or_default();
    let wanted = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if lines.len() < wanted {
        lines.resize(wanted, Line([0; 64]));
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut lines[..wanted])[..len]);
    // Not reached when `f` panics: then the room is freed, and the next call allocates.
    FREE.with(|free| free.borrow_mut().push(lines));
    result
}

#[cfg(test)]
mod tests {
    use super::with;

    #[test]
    fn room_is_aligned_kept_and_nests() {
        let first = with(100, |a: &mut [f32]| {
            assert_eq!((a.len(), a.as_ptr() as usize % 64), (100, 0));
            with(7, |b: &mut [f64]| assert_ne!(a.as_ptr() as usize, b.as_ptr() as usize));
            a.as_ptr() as usize
        });
        with(50, |a: &mut [f32]| assert_eq!(a.as_ptr() as usize, first));
        with(0, |a: &mut [f32]| assert!(a.is_empty()));
    }
}
