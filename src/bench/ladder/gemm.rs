//! `C = A B`, all square, n × n.
//!
//! The operation has n³ multiply-adds on 3n² numbers, so there is enough to compute for every number that is
//! fetched. What goes wrong is where the numbers are when they are needed.

use std::sync::Arc;

use super::{Cost, Ladder, Rung, normal};
use crate::cpu::gemm::{self, Epilogue, Mat};
use crate::cpu::simd::{Kernel, LANES, Real, Vector};
use crate::error::Result;

pub(super) fn ladder(n: usize) -> Result<Ladder> {
    let (a, b) = (Arc::new(normal(n * n, 1)?), Arc::new(normal(n * n, 2)?));
    let wide = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<f64>>();
    let mut want = vec![0.0; n * n];
    let square = |data| Mat { data, row_stride: n, col_stride: 1 };
    let (wide_a, wide_b) = (wide(&a), wide(&b));
    gemm::gemm(&mut want, n, square(&wide_a), square(&wide_b), n, n, n, false, Epilogue::None);

    let rung = |name, idea, f: fn(&mut [f32], &[f32], &[f32], usize)| {
        let (a, b) = (a.clone(), b.clone());
        Rung::new(name, idea, move |c| f(c, &a, &b, n))
    };
    Ok(Ladder {
        problem: format!("C = A B, {n} x {n} x {n}, f32"),
        cost: Cost::flops(2.0 * (n * n * n) as f64, 8.0 * (n * n) as f64, 4.0 * (n * n) as f64),
        want,
        tolerance: 1e-5,
        rungs: vec![
            rung("v1 naive", "row times column, as on paper", naive),
            rung("v2 loop order", "walk along rows of B and C", loop_order),
            rung("v3 blocked", "use a block of B again while it is in the cache", blocked),
            rung("v4 vectorised by the compiler", "the same, compiled for this machine", compiled),
            rung("v5 register tile", "keep a tile of C in registers", register_tile),
            rung("v6 packed", "lay B out in the order it is read", packed),
            rung("v7 ours, one thread", "blocks for every cache, A packed too", ours),
            rung("v8 ours, all threads", "tiles of C to all threads", ours).threaded(),
            rung("matrixmultiply", "the best known crate, one thread", matrixmultiply),
        ],
    })
}

/// `c[i][j] = Σ a[i][p] · b[p][j]`. Going down a column of B touches a new cache line with each step.
fn naive(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    for i in 0..n {
        for j in 0..n {
            let mut sum = 0.0;
            for p in 0..n {
                sum += a[i * n + p] * b[p * n + j];
            }
            c[i * n + j] = sum;
        }
    }
}

/// The two inner loops change places: both B and C are now read along their rows, and sixteen numbers of
/// a cache line are used instead of one.
fn loop_order(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    c.fill(0.0);
    for i in 0..n {
        add_rows(&mut c[i * n..][..n], &a[i * n..][..n], b, n);
    }
}

/// `c += Σ a[p] · (row p of b)`.
#[inline(always)]
fn add_rows(c: &mut [f32], a: &[f32], b: &[f32], stride: usize) {
    for (p, &a) in a.iter().enumerate() {
        let b = &b[p * stride..][..c.len()];
        for (c, &b) in c.iter_mut().zip(b) {
            *c += a * b;
        }
    }
}

/// A block of B, 64 rows of 256 columns (64 KB), stays in the second cache while all rows of A pass over it.
#[inline(always)]
fn blocked(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    const ROWS: usize = 64;
    const COLS: usize = 256;
    c.fill(0.0);
    for j in (0..n).step_by(COLS) {
        let cols = COLS.min(n - j);
        for p in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - p);
            for i in 0..n {
                add_rows(&mut c[i * n + j..][..cols], &a[i * n + p..][..rows], &b[p * n + j..], n);
            }
        }
    }
}

/// [`blocked`], not a letter changed. Without leave the compiler uses the instructions of the oldest processor
/// of this architecture, four numbers at a time.
fn compiled(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    f32::dispatch(Blocked { c, a, b, n });
}

struct Blocked<'a> {
    c: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
    n: usize,
}

impl Kernel<f32> for Blocked<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        blocked(self.c, self.a, self.b, self.n);
    }
}

/// So far each multiply-add loads and stores its element of C. Here 4 × 2 vectors of C stay in registers
/// for all of p: eight multiply-adds for six loads.
fn register_tile(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    f32::dispatch(Tiles { c, a, b, n, panel: WIDTH, stride: n });
}

/// Rows of a tile, and its columns.
const HEIGHT: usize = 4;
const WIDTH: usize = 2 * LANES;

/// Columns j.. of B begin at `b[j / WIDTH · panel]`, its rows are `stride` apart. n is a multiple of the tile.
struct Tiles<'a> {
    c: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
    n: usize,
    panel: usize,
    stride: usize,
}

impl Kernel<f32> for Tiles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector<Elem = f32>>(self) {
        let n = self.n;
        for j in (0..n).step_by(WIDTH) {
            let b = &self.b[j / WIDTH * self.panel..];
            for i in (0..n).step_by(HEIGHT) {
                let mut tile = [[V::zero(); 2]; HEIGHT];
                for p in 0..n {
                    let row = &b[p * self.stride..][..WIDTH];
                    let row = [V::load(row), V::load(&row[LANES..])];
                    for r in 0..HEIGHT {
                        let a = V::splat(self.a[(i + r) * n + p]);
                        tile[r] = [a.mul_add(row[0], tile[r][0]), a.mul_add(row[1], tile[r][1])];
                    }
                }
                for r in 0..HEIGHT {
                    let c = &mut self.c[(i + r) * n + j..][..WIDTH];
                    tile[r][0].store(c);
                    tile[r][1].store(&mut c[LANES..]);
                }
            }
        }
    }
}

/// A panel of B, 32 columns, is copied once so that its rows follow each other: one stream instead of a
/// jump of 4n bytes with each p.
fn packed(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    let mut panels = vec![0.0; n * n];
    for (j, panel) in panels.chunks_exact_mut(n * WIDTH).enumerate() {
        for (p, row) in panel.chunks_exact_mut(WIDTH).enumerate() {
            row.copy_from_slice(&b[p * n + j * WIDTH..][..WIDTH]);
        }
    }
    f32::dispatch(Tiles { c, a, b: &panels, n, panel: n * WIDTH, stride: WIDTH });
}

/// What [`crate::cpu::gemm`] adds: tiles as large as the registers allow, a block for each cache, packing of
/// A, ragged edges, transposes; see the drawing there.
fn ours(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    let square = |data| Mat { data, row_stride: n, col_stride: 1 };
    gemm::gemm(c, n, square(a), square(b), n, n, n, false, Epilogue::None);
}

/// bluss's crate, the yardstick.
fn matrixmultiply(c: &mut [f32], a: &[f32], b: &[f32], n: usize) {
    gemm::matrixmultiply(c, a, b, n, n, n);
}
