//! Working memory that is grown once and then used again.
//!
//! Each thread keeps the buffers it has ever needed. A kernel borrows one for the length of a closure; a
//! second borrow inside the first (another task that rayon runs meanwhile on the same thread) gets
//! another buffer. After the first training step nothing is allocated here any more.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

/// One cache line: what buffers are made of, so that they are aligned to 64 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of working memory, aligned to 64 bytes. What they hold is left over
/// from earlier uses: `f` writes before it reads.
pub(crate) fn with<T: Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    if lines == 0 {
        return f(&mut []);
    }
    let mut buffer = take(lines);
    if buffer.len() < lines {
        buffer.resize(lines, Line([0; 8]));
    }
    let out = f(&mut bytemuck::cast_slice_mut(&mut buffer[..lines])[..len]);
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    out
}

/// The smallest buffer that is large enough, else the largest.
fn take(lines: usize) -> Vec<Line> {
    BUFFERS.with_borrow_mut(|buffers| {
        let fits = |&i: &usize| buffers[i].len() >= lines;
        let by_size = |&i: &usize| buffers[i].len();
        let best = (0..buffers.len()).filter(fits).min_by_key(by_size);
        match best.or_else(|| (0..buffers.len()).max_by_key(by_size)) {
            Some(i) => buffers.swap_remove(i),
            None => Vec::new(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrows_inside_borrows_do_not_share_memory() {
        with::<f32, _>(100, |a| {
            a.fill(1.0);
            with::<f64, _>(50, |b| b.fill(2.0));
            with::<f32, _>(0, |c| assert!(c.is_empty()));
            assert!(a.iter().all(|&x| x == 1.0));
            assert_eq!(a.as_ptr().align_offset(64), 0);
        });
    }

    #[test]
    fn a_buffer_comes_back() {
        let first = with::<f32, _>(1000, |a| a.as_ptr() as usize);
        let second = with::<f32, _>(999, |a| a.as_ptr() as usize);
        assert_eq!(first, second);
    }
}
