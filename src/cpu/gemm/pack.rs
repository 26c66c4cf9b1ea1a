//! Packing: copying a part of a matrix into panels that the micro-kernel reads in one stream.
//!
//! A panel is `width` lanes wide and k deep, lane beside lane, k after k:
//!
//! ```text
//!   B, a panel of two vectors          in memory
//!   k=0  │ b00 b01 … b0,31 │           b00 b01 … b0,31 b10 b11 … b1,31 b20 …
//!   k=1  │ b10 b11 … b1,31 │
//! ```
//!
//! For B the lanes are columns, for A they are rows; otherwise the two are the same. Where the lanes lie
//! side by side, packing copies vectors; where k does, it transposes squares of 16 × 16 in registers.

use super::factor::{Start, stored};
use crate::cpu::simd::{Kernel, LANES, Real, Stored, Vector, inlined};

/// A part of a matrix on its way into panels.
#[derive(Clone, Copy)]
pub(super) struct Source<P> {
    /// Lane 0, k = 0: a pointer, or a [`Start`].
    pub(super) data: P,
    /// From one lane to the next.
    pub(super) lane: usize,
    /// From one k to the next.
    pub(super) step: usize,
    /// How many lanes there are.
    pub(super) lanes: usize,
    /// How deep it is.
    pub(super) k: usize,
}

impl<P> Source<P> {
    /// A part of the same shape that begins at `data`.
    #[inline(always)]
    pub(super) fn at<Q>(&self, data: Q) -> Source<Q> {
        let Source { lane, step, lanes, k, .. } = *self;
        Source { data, lane, step, lanes, k }
    }
}

impl<T: Copy> Source<Start<T>> {
    /// The same part where U is T by another name.
    pub(super) fn cast<U>(self) -> Source<Start<U>> {
        self.at(self.data.cast())
    }
}

/// Which operand is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A, whose lanes are rows of C.
    A,
    /// B, whose lanes are columns of C.
    B,
}

/// The elements that `lanes` × `k` take in panels of `width`.
pub(super) fn size(lanes: usize, k: usize, width: usize) -> usize {
    lanes.div_ceil(width) * width * k
}

/// The room for them, so that what comes after is aligned to a vector.
pub(super) fn room(lanes: usize, k: usize, width: usize) -> usize {
    size(lanes, k, width).next_multiple_of(LANES)
}

/// Packs `source` into panels of `width`; lanes that are missing in the last panel become 0.
///
/// # Safety
/// All lanes and k of `source` can be read.
pub(super) unsafe fn pack<T: Real>(dst: &mut [T], source: Source<Start<T>>, width: usize) {
    assert!(dst.len() >= size(source.lanes, source.k, width), "panels need more room");
    stored!(source, source => T::dispatch(Pack { dst, source, width }));
}

struct Pack<'a, T, S> {
    dst: &'a mut [T],
    source: Source<*const S>,
    width: usize,
}

impl<T: Real, S: Stored<T>> Kernel<T> for Pack<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Pack { dst, source, width } = self;
        if source.lane == 1 {
            // SAFETY: the caller vouches for the source.
            return unsafe { by_rows::<V, S>(dst, &source, width) };
        }
        each_group(
            dst,
            source,
            width,
            #[inline(always)]
            |rows, group| {
                // SAFETY: the group's lanes are lanes of the source, which the caller vouches for.
                unsafe {
                    if group.lanes == 0 {
                        fill::<V>(rows, source.k);
                    } else if group.step == 1 {
                        transpose::<V, S>(rows, group);
                    } else {
                        gather::<V, S>(rows, group);
                    }
                }
            },
        );
    }
}

/// Calls `write` for each vector's worth of lanes of `source` with its place in the panels in `dst`.
#[inline(always)]
fn each_group<T, S>(
    dst: &mut [T],
    source: Source<*const S>,
    width: usize,
    mut write: impl FnMut(Rows<'_, T>, Source<*const S>),
) {
    let size = width * source.k;
    if size == 0 {
        return;
    }
    for (p, first) in (0..source.lanes).step_by(width).enumerate() {
        let panel = &mut dst[p * size..(p + 1) * size];
        for at in (0..width).step_by(LANES) {
            let group = Source {
                data: source.data.wrapping_add((first + at) * source.lane),
                lanes: source.lanes.saturating_sub(first + at).min(width - at).min(LANES),
                ..source
            };
            // A panel narrower than a vector is written with whole vectors all the same: what reaches
            // past a row of it is written over by the next.
            let reach = if width < LANES { LANES } else { LANES.min(width - at) };
            write(Rows { panel: &mut panel[at..], width, reach }, group);
        }
    }
}

/// One vector's place in each row of a panel.
struct Rows<'a, T> {
    panel: &'a mut [T],
    /// From one row to the next.
    width: usize,
    /// Lanes that are written.
    reach: usize,
}

impl<T: Real> Rows<'_, T> {
    #[inline(always)]
    fn put<V: Vector<Elem = T>>(&mut self, k: usize, v: V) {
        let row = &mut self.panel[k * self.width..];
        let reach = self.reach.min(row.len());
        if reach == LANES {
            v.store(row);
        } else {
            v.store_part(&mut row[..reach]);
        }
    }
}

/// No lanes at all: zeros.
#[inline(always)]
fn fill<V: Vector>(mut rows: Rows<'_, V::Elem>, k: usize) {
    for p in 0..k {
        rows.put(p, V::zero());
    }
}

/// Lanes of the panels that are filled side by side: eight cache lines of a row.
const BESIDE: usize = 128;

/// Fills panels row by row, so that rows of the source are read from one end to the other: they may be pages
/// apart.
///
/// # Safety
/// The source can be read; its lanes lie side by side.
#[inline(always)]
unsafe fn by_rows<V: Vector, S: Stored<V::Elem>>(
    dst: &mut [V::Elem],
    source: &Source<*const S>,
    width: usize,
) {
    let (lanes, deep) = (source.lanes, source.k);
    let read = inlined(
        #[inline(always)]
        // SAFETY: row k has these lanes side by side; the caller vouches for the source.
        |k: usize, first: usize, lanes: usize| unsafe {
            look_ahead::<V, S>(source, k, first, lanes)
        },
    );
    let beside = (BESIDE / width).max(1) * width;
    for begin in (0..lanes).step_by(beside) {
        let end = lanes.min(begin + beside);
        for k in 0..deep {
            for first in (begin..end).step_by(width) {
                let to = &mut dst[first * deep + k * width..];
                if width.is_multiple_of(LANES) && first + width <= end {
                    let to = &mut to[..width];
                    for at in (0..width).step_by(LANES) {
                        read(k, first + at, LANES).store(&mut to[at..]);
                    }
                    continue;
                }
                for at in (0..width).step_by(LANES) {
                    let left = end.saturating_sub(first + at).min(width - at).min(LANES);
                    let row = if left > 0 { read(k, first + at, left) } else { V::zero() };
                    // A panel narrower than a vector: as in `each_group`.
                    let rest = if width < LANES { (deep - k) * width } else { width - at };
                    if rest >= LANES {
                        row.store(&mut to[at..]);
                    } else {
                        row.store_part(&mut to[at..at + rest]);
                    }
                }
            }
        }
    }
}

/// Rows of k ahead that are asked for while one is copied: no processor guesses the next one pages away.
const AHEAD: usize = 8;

/// `lanes` lanes of row k from `first` on, which lie side by side.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn look_ahead<V: Vector, S: Stored<V::Elem>>(
    source: &Source<*const S>,
    k: usize,
    first: usize,
    lanes: usize,
) -> V {
    let from = source.data.wrapping_add(k * source.step + first);
    V::prefetch(from.wrapping_add(AHEAD * source.step).cast());
    // SAFETY: handed through.
    unsafe { if lanes == LANES { S::load(from) } else { S::load_part(from, lanes) } }
}

/// Each lane dense along k.
///
/// # Safety
/// The group can be read.
#[inline(always)]
unsafe fn transpose<V: Vector, S: Stored<V::Elem>>(
    mut rows: Rows<'_, V::Elem>,
    group: Source<*const S>,
) {
    for p in (0..group.k).step_by(LANES) {
        let depth = LANES.min(group.k - p);
        let from = group.data.wrapping_add(p);
        // The lanes of the next group, each a stream of its own that the processor would find too late.
        for lane in 0..group.lanes {
            V::prefetch(from.wrapping_add((group.lanes + lane) * group.lane).cast());
        }
        // SAFETY: these lanes and k belong to the group.
        let square = unsafe { turned::<V, S>(from, group.lane, group.lanes, depth) };
        // A constant bound: the square stays in registers.
        for q in 0..LANES {
            if q < depth {
                rows.put(p + q, square[q]);
            }
        }
    }
}

/// The transpose of a square: `lanes` rows, `stride` elements apart, of `depth` elements each, the rest
/// zeros. Vector q holds element q of each row.
///
/// # Safety
/// These rows and elements can be read.
#[inline(always)]
pub(super) unsafe fn turned<V: Vector, S: Stored<V::Elem>>(
    from: *const S,
    stride: usize,
    lanes: usize,
    depth: usize,
) -> [V; LANES] {
    // Squares stay in registers; that takes constant indices, hence no loop with a bound.
    if depth == LANES {
        let row = |i: usize| {
            if i >= lanes {
                return V::zero();
            }
            // SAFETY: a row of sixteen elements.
            unsafe { S::load(from.add(i * stride)) }
        };
        let mut square = [
            row(0),
            row(1),
            row(2),
            row(3),
            row(4),
            row(5),
            row(6),
            row(7),
            row(8),
            row(9),
            row(10),
            row(11),
            row(12),
            row(13),
            row(14),
            row(15),
        ];
        V::transpose(&mut square);
        return square;
    }
    let mut square = [V::zero(); LANES];
    for (lane, row) in square.iter_mut().enumerate().take(lanes) {
        // SAFETY: `depth` elements of this row follow each other.
        *row = unsafe { S::load_part(from.wrapping_add(lane * stride), depth) };
    }
    V::transpose(&mut square);
    square
}

/// Neither.
///
/// # Safety
/// The group can be read.
#[inline(always)]
unsafe fn gather<V: Vector, S: Stored<V::Elem>>(
    mut rows: Rows<'_, V::Elem>,
    group: Source<*const S>,
) {
    for p in 0..group.k {
        let mut lanes = [V::Elem::ZERO; LANES];
        for (lane, x) in lanes.iter_mut().enumerate().take(group.lanes) {
            // SAFETY: a lane and a k of the group.
            *x = unsafe { (*group.data.add(lane * group.lane + p * group.step)).widen() };
        }
        rows.put(p, V::from_array(lanes));
    }
}
