//! The primitives of `kernels/probe.cu`, one at a time, for tests.

use super::kernels::scratch;
use super::launch::{Arg, Grid, args, launch, random};
use super::memory::Buffer;
use crate::cpu::philox::Key;
use crate::error::{Error, Result};

/// A primitive and what it is given; words are 32 bits.
#[derive(Clone, Copy, Debug)]
pub enum Probe<'a> {
    /// Rounds each number to bf16: one word a number.
    Bits(&'a [f32]),
    /// So many blocks of the random numbers of a key: four words a block.
    Philox(Key, usize),
    /// One product of tensor cores plus 0.5: the registers of 32 lanes, four words of A and two of B each. Gives
    /// four numbers a lane.
    Mma(&'a [u32; 128], &'a [u32; 64]),
    /// 64 rows of eight 16-bit elements. Gives four words a lane of the first half as it is, then of the
    /// second half turned, of which only 16 rows are copied and the others are 0.
    Matrices(&'a [u32; 256]),
    /// Sum and largest of 256 numbers, in each of 256 threads.
    Sums(&'a [f32; 256]),
}

/// What device `number` makes of a primitive.
///
/// # Errors
/// When the device is not there or the kernel does not run.
pub fn probe(number: usize, probe: Probe<'_>) -> Result<Vec<u32>> {
    let gpu = super::gpu::gpu(number)?;
    let send = |words: &[u8]| -> Result<Buffer> {
        let buffer = Buffer::new(words.len(), number)?;
        buffer.upload(words)?;
        Ok(buffer)
    };
    let make = |words: usize| {
        scratch(Some(gpu), words * 4).ok_or_else(|| Error::Failed("no memory for a probe".into()))
    };
    let warp = Grid::blocks([1, 1, 1], [32, 1, 1]);
    let (out, words) = match probe {
        Probe::Bits(x) => {
            let (n, from, out) = (x.len(), send(bytemuck::cast_slice(x))?, make(x.len())?);
            let (to, from) = (out.slice::<u32>(0, n), from.slice::<f32>(0, n));
            launch("probe_bits", Grid::each(n), args![to, from, n]);
            (out, n)
        }
        Probe::Philox(key, blocks) => {
            let (stream, out) = (random(Some(gpu), key), make(4 * blocks)?);
            let stream = Arg::Bytes(bytemuck::bytes_of(&stream));
            let to = out.slice::<u32>(0, 4 * blocks);
            launch("probe_philox", Grid::each(blocks), args![to, stream, blocks]);
            (out, 4 * blocks)
        }
        Probe::Mma(a, b) => {
            let (a, b) = (send(bytemuck::cast_slice(a))?, send(bytemuck::cast_slice(b))?);
            let out = make(128)?;
            let (to, a, b) =
                (out.slice::<f32>(0, 128), a.slice::<u32>(0, 128), b.slice::<u32>(0, 64));
            launch("probe_mma", warp, args![to, a, b]);
            (out, 128)
        }
        Probe::Matrices(x) => {
            let (from, out) = (send(bytemuck::cast_slice(x))?, make(256)?);
            let (to, from) = (out.slice::<u32>(0, 256), from.slice::<u32>(0, 256));
            launch("probe_matrices", warp, args![to, from]);
            (out, 256)
        }
        Probe::Sums(x) => {
            let (from, out) = (send(bytemuck::cast_slice(x))?, make(512)?);
            let (to, from) = (out.slice::<f32>(0, 512), from.slice::<f32>(0, 256));
            launch("probe_sums", Grid::rows(1), args![to, from]);
            (out, 512)
        }
    };
    let mut result = vec![0u32; words];
    out.download(0, bytemuck::cast_slice_mut(&mut result))?;
    Ok(result)
}
