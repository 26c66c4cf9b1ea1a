//! Launches of `kernels/attention.cu`.

use bytemuck::{Pod, Zeroable};

use super::scratch;
use crate::cpu::attention::{Shape, Strides};
use crate::cpu::philox::{Key, Stream};
use crate::cuda::gpu::{Arg, Grid, args, launch, trouble};
use crate::cuda::{Slice, SliceMut};

/// As [`crate::cpu::attention::Options`].
pub struct Options<'a> {
    /// Query i sees keys `0 ..= i + tk − tq` only.
    pub causal: bool,
    /// `[batch, tk]`: keys that are not 0 here are seen by nobody.
    pub key_padding: Option<Slice<'a, u32>>,
    /// The factor on the scores.
    pub scale: f64,
    /// Dropout of probabilities: p and the key of the random numbers.
    pub dropout: Option<(f64, Key)>,
}

/// As [`crate::cpu::attention::Gradients`].
pub enum Gradients<'a, T> {
    /// One tensor each.
    Apart {
        /// Of the queries.
        dq: SliceMut<'a, T>,
        /// Its strides.
        dq_strides: Strides,
        /// Of the keys.
        dk: SliceMut<'a, T>,
        /// Its strides.
        dk_strides: Strides,
        /// Of the values.
        dv: SliceMut<'a, T>,
        /// Its strides.
        dv_strides: Strides,
    },
    /// Side by side in one tensor.
    Fused {
        /// `[B, T, 3·C]`.
        dqkv: SliceMut<'a, T>,
        /// The strides of each third.
        strides: Strides,
        /// C.
        width: usize,
    },
}

/// The `Attention` of `kernels/attention.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Parameters {
    sizes: [u64; 5],
    /// q, k, v, o, d_o, dq, dk, dv: batch, head, row.
    strides: [[u64; 3]; 8],
    scale: f32,
    kept: f32,
    causal: u32,
    dropout: u32,
    below: u32,
    stream: [u32; 4],
    unused: u32,
}

impl Parameters {
    fn new(shape: &Shape, options: &Options, strides: [Strides; 8]) -> Parameters {
        let Shape { batch, heads, tq, tk, d } = *shape;
        let (p, key) = options.dropout.unwrap_or_default();
        Parameters {
            sizes: [batch, heads, tq, tk, d].map(|n| n as u64),
            strides: strides.map(|s| [s.batch as u64, s.head as u64, s.row as u64]),
            scale: options.scale as f32,
            kept: if p < 1.0 { (1.0 / (1.0 - p)) as f32 } else { 0.0 },
            causal: u32::from(options.causal),
            dropout: u32::from(options.dropout.is_some()),
            below: (p * 4_294_967_296.0) as u32,
            stream: Stream::new(key).words(),
            unused: 0,
        }
    }
}

/// Rows of a tile.
const TILE: usize = 32;

/// Of a kernel the one for heads of `d` elements.
fn sized(name: &str, d: usize) -> Option<String> {
    match [32, 64, 128, 256].into_iter().find(|&size| d <= size) {
        Some(size) => Some(format!("{name}_{size}")),
        None => {
            trouble(format!("attention on a GPU has heads of at most 256 elements, not {d}"));
            None
        }
    }
}

/// The grid for tiles of `rows`, with `tiles` tiles in shared memory.
fn grid(shape: &Shape, rows: usize, tiles: usize) -> Grid {
    Grid::blocks([shape.batch * shape.heads, rows.div_ceil(TILE), 1], [256, 1, 1])
        .shared(tiles * TILE * (shape.d + 1) * size_of::<f32>())
}

/// As [`crate::cpu::attention::forward`].
pub fn forward<T>(
    o: SliceMut<T>,
    os: Strides,
    lse: SliceMut<T>,
    q: Slice<T>,
    qs: Strides,
    k: Slice<T>,
    ks: Strides,
    v: Slice<T>,
    vs: Strides,
    shape: &Shape,
    options: &Options<'_>,
) {
    let Some(name) = sized("attention_forward", shape.d) else { return };
    let parameters = Parameters::new(shape, options, [qs, ks, vs, os, os, qs, ks, vs]);
    let parameters = Arg::Bytes(bytemuck::bytes_of(&parameters));
    let arguments = args![&o, &lse, q, k, v, options.key_padding, parameters];
    launch(&name, grid(shape, shape.tq, 3), arguments);
}

/// As [`crate::cpu::attention::backward`].
pub fn backward<T>(
    gradients: Gradients<'_, T>,
    d_o: Slice<T>,
    dos: Strides,
    o: Slice<T>,
    os: Strides,
    lse: Slice<T>,
    q: Slice<T>,
    qs: Strides,
    k: Slice<T>,
    ks: Strides,
    v: Slice<T>,
    vs: Strides,
    shape: &Shape,
    options: &Options<'_>,
) {
    let mut whole;
    let (dq, dqs, dk, dks, dv, dvs) = match &gradients {
        Gradients::Apart { dq, dq_strides, dk, dk_strides, dv, dv_strides } => {
            (dq.read(), *dq_strides, dk.read(), *dk_strides, dv.read(), *dv_strides)
        }
        Gradients::Fused { dqkv, strides, width } => {
            whole = dqkv.read();
            let (k, v) = (whole.from(*width), whole.from(2 * width));
            whole = whole.from(0);
            (whole, *strides, k, *strides, v, *strides)
        }
    };
    let names = ["attention_backward_keys", "attention_backward_queries"];
    let [Some(keys), Some(queries)] = names.map(|name| sized(name, shape.d)) else { return };
    let parameters = Parameters::new(shape, options, [qs, ks, vs, os, dos, dqs, dks, dvs]);
    let parameters = Arg::Bytes(bytemuck::bytes_of(&parameters));
    let rows = shape.batch * shape.heads * shape.tq;
    let Some(buffer) = scratch(dq.gpu.or(dk.gpu), rows * size_of::<T>()) else { return };
    let (delta, mask) = (buffer.slice_mut::<T>(0, rows), options.key_padding);
    launch("attention_delta", Grid::rows(rows.div_ceil(8)), args![&delta, d_o, o, parameters]);
    let delta = delta.read();
    let arguments = args![dk, dv, d_o, lse, delta, q, k, v, mask, parameters];
    launch(&keys, grid(shape, shape.tk, 4), arguments);
    let arguments = args![dq, d_o, lse, delta, q, k, v, mask, parameters];
    launch(&queries, grid(shape, shape.tq, 4), arguments);
}
