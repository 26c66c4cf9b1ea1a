//! The product in `f32` by the crate `matrixmultiply`, to measure ours against.

/// `C = A B` for dense row-major A `[m, k]`, B `[k, n]` and C `[m, n]`, on one thread.
///
/// # Panics
/// When a slice has another length.
pub fn matrixmultiply(c: &mut [f32], a: &[f32], b: &[f32], m: usize, n: usize, k: usize) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "matrices of other sizes");
    let row = |cols: usize| cols as isize;
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    // SAFETY: the three slices have just been checked to hold matrices of these sizes and strides.
    unsafe {
        matrixmultiply::sgemm(m, k, n, 1.0, a, row(k), 1, b, row(n), 1, 0.0, c, row(n), 1);
    }
}
