//! Launches of `kernels/attention.cu` and of its second generation, `kernels/attention_mma.cu`.

use bytemuck::{Pod, Zeroable};

use super::scratch;
use crate::cpu::attention::{Shape, Strides};
use crate::cpu::gemm::Precision;
use crate::cpu::philox::Key;
use crate::cuda::gpu::{Gpu, trouble};
use crate::cuda::launch::{Arg, Grid, Random, args, launch, random};
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
    /// With [`Precision::Medium`] on tensor cores: factors rounded to bf16, sums in f32.
    pub precision: Precision,
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
    unused: u32,
    random: Random,
}

impl Parameters {
    fn new(
        gpu: Option<&'static Gpu>,
        shape: &Shape,
        options: &Options,
        strides: [Strides; 8],
    ) -> Parameters {
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
            unused: 0,
            random: random(gpu, key),
        }
    }
}

/// One of the three passes: the kernel for heads of this size, and its launch.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Keys,
    Queries,
}

impl Pass {
    /// Name and grid; nothing where heads are too large.
    fn plan(self, shape: &Shape, precision: Precision) -> Option<(String, Grid)> {
        let (name, rows) = match self {
            Pass::Forward => ("forward", shape.tq),
            Pass::Keys => ("backward_keys", shape.tk),
            Pass::Queries => ("backward_queries", shape.tq),
        };
        let Some(size) = [32, 64, 128, 256].into_iter().find(|&size| shape.d <= size) else {
            trouble(format!(
                "attention on a GPU has heads of at most 256 elements, not {}",
                shape.d
            ));
            return None;
        };
        let blocks = |tile: usize| [shape.batch * shape.heads, rows.div_ceil(tile), 1];
        if precision == Precision::Medium && size <= 128 {
            // Tiles of 64 rows of bf16: as they are, and turned.
            let (plain, turned) = (64 * (size + 8) * 2, size * 72 * 2);
            let shared = match self {
                Pass::Forward => 2 * plain + turned,
                Pass::Keys => 4 * plain + 2 * turned,
                Pass::Queries => 4 * plain + turned,
            };
            let grid = Grid::blocks(blocks(64), [128, 1, 1]).shared(shared);
            return Some((format!("attention_mma_{name}_{size}"), grid));
        }
        let tiles = if matches!(self, Pass::Forward) { 3 } else { 4 };
        let shared = tiles * 32 * (shape.d + 1) * size_of::<f32>();
        let grid = Grid::blocks(blocks(32), [256, 1, 1]).shared(shared);
        Some((format!("attention_{name}_{size}"), grid))
    }
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
    let Some((name, grid)) = Pass::Forward.plan(shape, options.precision) else { return };
    let parameters = Parameters::new(o.gpu, shape, options, [qs, ks, vs, os, os, qs, ks, vs]);
    let parameters = Arg::Bytes(bytemuck::bytes_of(&parameters));
    let arguments = args![&o, &lse, q, k, v, options.key_padding, parameters];
    launch(&name, grid, arguments);
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
    let (dq, dqs, dk, dks, dv, dvs) = match &gradients {
        Gradients::Apart { dq, dq_strides, dk, dk_strides, dv, dv_strides } => {
            (dq.read(), *dq_strides, dk.read(), *dk_strides, dv.read(), *dv_strides)
        }
        Gradients::Fused { dqkv, strides, width } => {
            let (k, v) = (dqkv.read().from(*width), dqkv.read().from(2 * width));
            (dqkv.read(), *strides, k, *strides, v, *strides)
        }
    };
    let plan = |pass: Pass| pass.plan(shape, options.precision);
    let [Some(keys), Some(queries)] = [Pass::Keys, Pass::Queries].map(plan) else {
        return;
    };
    let parameters = Parameters::new(q.gpu, shape, options, [qs, ks, vs, os, dos, dqs, dks, dvs]);
    let parameters = Arg::Bytes(bytemuck::bytes_of(&parameters));
    let rows = shape.batch * shape.heads * shape.tq;
    let Some(buffer) = scratch(dq.gpu.or(dk.gpu), rows * size_of::<T>()) else { return };
    let (delta, mask) = (buffer.slice_mut::<T>(0, rows), options.key_padding);
    launch("attention_delta", Grid::rows(rows.div_ceil(8)), args![&delta, d_o, o, parameters]);
    let delta = delta.read();
    let arguments = args![dk, dv, d_o, lse, delta, q, k, v, mask, parameters];
    launch(&keys.0, keys.1, arguments);
    let arguments = args![dq, d_o, lse, delta, q, k, v, mask, parameters];
    launch(&queries.0, queries.1, arguments);
}
