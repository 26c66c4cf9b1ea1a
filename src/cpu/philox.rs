//! Random numbers by counting: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random
//! numbers: as easy as 1, 2, 3").
//!
//! # The idea
//!
//! Philox is a cipher of ten rounds: it turns a counter of four words into four random words under a
//! key of two. The i-th number of a stream is the cipher of i, so it does not depend on what was drawn
//! before, by which thread or in chunks of what size; and a step of training can be done again from its
//! number alone.
//!
//! ```text
//! (key', high) = philox(counter: stream, step; key: seed)     once for each tensor
//! block b      = philox(counter: b, high;      key: key')     four words each
//! ```
//!
//! For one seed the first line is a permutation: no two (stream, step) share their key and counters.
//!
//! Sixteen blocks are made at a time, one a lane. Element i of a tensor of `f32` takes word `(i % 64) /
//! 16` of block `16 (i / 64) + i % 16`; an `f64` takes two words.

use super::simd::{Kernel, LANES, Number, Real, Vector, math};
use super::threads;

/// What a stream of random numbers is a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// Which consumer: a layer, a parameter, a data loader.
    pub stream: u64,
    /// Which step of the consumer.
    pub step: u64,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Sixteen blocks: word w of block j is `[w][j]`.
pub(crate) type Words = [[u32; LANES]; 4];

/// The numbers of one [`Key`], ready to be drawn in any order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    key: [u32; 2],
    high: [u32; 2],
}

#[inline(always)]
fn halves(n: u64) -> [u32; 2] {
    [n as u32, (n >> 32) as u32]
}

/// One block of the cipher.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = halves(counter[0] as u64 * MULTIPLIERS[0] as u64);
        let b = halves(counter[2] as u64 * MULTIPLIERS[1] as u64);
        counter = [b[1] ^ counter[1] ^ key[0], b[0], a[1] ^ counter[3] ^ key[1], a[0]];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

impl Stream {
    /// The stream of `key`.
    pub(crate) fn new(key: Key) -> Stream {
        let ([a, b], [c, d]) = (halves(key.stream), halves(key.step));
        let [k0, k1, h0, h1] = philox([a, b, c, d], halves(key.seed));
        Stream { key: [k0, k1], high: [h0, h1] }
    }

    /// Its key and the upper half of its counters, for kernels that draw from it elsewhere.
    #[cfg(feature = "cuda")]
    pub(crate) fn words(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.high[0], self.high[1]]
    }

    /// The four words of block `block`.
    pub(crate) fn block(&self, block: u64) -> [u32; 4] {
        let [low, high] = halves(block);
        philox([low, high, self.high[0], self.high[1]], self.key)
    }

    /// The blocks `first .. first + 16`; the same words as [`Stream::block`], sixteen at a time.
    #[inline(always)] // the loops become vectors of whatever the caller is compiled for
    pub(crate) fn blocks(&self, first: u64) -> Words {
        let mut c = [[0; LANES]; 4];
        for j in 0..LANES {
            [c[0][j], c[1][j]] = halves(first + j as u64);
        }
        c[2] = [self.high[0]; LANES];
        c[3] = [self.high[1]; LANES];
        let mut key = self.key;
        for _ in 0..ROUNDS {
            for j in 0..LANES {
                let a = halves(c[0][j] as u64 * MULTIPLIERS[0] as u64);
                let b = halves(c[2][j] as u64 * MULTIPLIERS[1] as u64);
                let (c1, c3) = (c[1][j], c[3][j]);
                c[0][j] = b[1] ^ c1 ^ key[0];
                c[1][j] = b[0];
                c[2][j] = a[1] ^ c3 ^ key[1];
                c[3][j] = a[0];
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        c
    }
}

/// The four random words of block `block` of `key`'s stream.
pub fn bits(key: Key, block: u64) -> [u32; 4] {
    Stream::new(key).block(block)
}

/// Elements that sixteen blocks fill: 64 of `f32`, 32 of `f64`.
const fn group<T>() -> usize {
    16 * LANES / size_of::<T>()
}

/// Elements of a chunk: a multiple of every group.
const CHUNK: usize = 4096;

/// Fills `out` with independent samples of the uniform distribution on [0, 1): multiples of 2⁻²⁴ for
/// `f32`, of 2⁻⁵³ for `f64`.
pub fn uniform<T: Real>(out: &mut [T], key: Key) {
    fill(out, key, false);
}

/// Fills `out` with independent samples of the standard normal distribution, by the method of Box and
/// Muller: for u, v uniform, √(−2 ln u) (cos 2πv, sin 2πv) are two of them.
pub fn normal<T: Real>(out: &mut [T], key: Key) {
    fill(out, key, true);
}

fn fill<T: Real>(out: &mut [T], key: Key, normal: bool) {
    let stream = Stream::new(key);
    let work = 8 * out.len();
    threads::for_chunks(out, CHUNK, work, |i, out| {
        let first = (i * (CHUNK / group::<T>()) * LANES) as u64;
        T::dispatch(Fill { out, stream, first, normal });
    });
}

/// Fills a chunk whose first group starts at block `first`.
struct Fill<'a, T> {
    out: &'a mut [T],
    stream: Stream,
    first: u64,
    normal: bool,
}

impl<T: Real> Kernel<T> for Fill<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        for (g, out) in self.out.chunks_mut(group::<T>()).enumerate() {
            let words = self.stream.blocks(self.first + (g * LANES) as u64);
            // A pair of uniform numbers for every two vectors of the group.
            for (pair, out) in out.chunks_mut(2 * LANES).enumerate() {
                let (u, v) = uniforms::<V>(&words, pair);
                let (a, b) = if self.normal { box_muller(u, v) } else { (u, v) };
                let middle = out.len().min(LANES);
                let (low, high) = out.split_at_mut(middle);
                a.store_part(low);
                b.store_part(high);
            }
        }
    }
}

/// Two vectors of numbers on [0, 1).
#[inline(always)]
fn uniforms<V: Vector>(words: &Words, pair: usize) -> (V, V) {
    if size_of::<V::Elem>() == 4 {
        return (narrow(&words[2 * pair]), narrow(&words[2 * pair + 1]));
    }
    (wide(&words[0], &words[1]), wide(&words[2], &words[3]))
}

/// The upper 24 bits of each word, on [0, 1).
#[inline(always)]
fn narrow<V: Vector>(words: &[u32; LANES]) -> V {
    let mut lanes = [V::Elem::ZERO; LANES];
    for j in 0..LANES {
        // By way of i32 and f32, a conversion that every instruction set has; all of it is exact.
        lanes[j] = V::Elem::from_f64((words[j] >> 8) as i32 as f32 as f64);
    }
    V::from_array(lanes).mul(V::constant(1.0 / (1u64 << 24) as f64))
}

/// The upper 53 bits of each pair of words, on [0, 1).
#[inline(always)]
fn wide<V: Vector>(high: &[u32; LANES], low: &[u32; LANES]) -> V {
    let mut lanes = [V::Elem::ZERO; LANES];
    for j in 0..LANES {
        let bits = (high[j] as u64) << 32 | low[j] as u64;
        lanes[j] = V::Elem::from_f64((bits >> 11) as f64 / (1u64 << 53) as f64);
    }
    V::from_array(lanes)
}

/// Two independent normal vectors of two uniform ones.
#[inline(always)]
fn box_muller<V: Vector>(u: V, v: V) -> (V, V) {
    // 1 − u lies in (0, 1]: its logarithm is finite.
    let radius = math::log(V::constant(1.0).sub(u)).mul(V::constant(-2.0)).sqrt();
    let (sin, cos) = math::sin_cos_turns(v);
    (radius.mul(cos), radius.mul(sin))
}

#[cfg(test)]
mod tests {
    use super::super::simd::at_every_level;
    use super::*;

    const KEY: Key = Key { seed: 42, stream: 7, step: 3 };

    #[test]
    fn known_answers() {
        // Random123's kat_vectors, philox4x32 10.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn sixteen_blocks_are_the_blocks_one_by_one() {
        let stream = Stream::new(KEY);
        for first in [0, 5, u32::MAX as u64 - 7] {
            let words = stream.blocks(first);
            for j in 0..LANES {
                let block = stream.block(first + j as u64);
                assert_eq!(block, [0, 1, 2, 3].map(|w| words[w][j]));
                assert_eq!(block, bits(KEY, first + j as u64));
            }
        }
    }

    #[test]
    fn a_prefix_does_not_depend_on_the_length() {
        fn check<T: Real>(draw: fn(&mut [T], Key)) {
            let mut long = vec![T::ZERO; 70_001];
            draw(&mut long, KEY);
            for n in [0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 4095, 4097, 9000] {
                let mut short = vec![T::ZERO; n];
                draw(&mut short, KEY);
                assert_eq!(short, long[..n], "{n}");
            }
        }
        check::<f32>(uniform);
        check::<f32>(normal);
        check::<f64>(uniform);
        check::<f64>(normal);
    }

    #[test]
    fn elements_lie_where_the_documentation_says() {
        let mut out = vec![0.0f32; 300];
        uniform(&mut out, KEY);
        for (i, &u) in out.iter().enumerate() {
            let word = bits(KEY, (16 * (i / 64) + i % 16) as u64)[i % 64 / 16];
            assert_eq!(u, (word >> 8) as f32 / 16_777_216.0);
        }
    }

    #[test]
    fn the_same_bits_on_every_level_and_thread_count() {
        let draw = || {
            let (mut a, mut b) = (vec![0.0f32; 50_000], vec![0.0f32; 50_000]);
            uniform(&mut a, KEY);
            normal(&mut b, KEY);
            [a, b].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let first = draw();
        at_every_level(|level| assert!(draw() == first, "{}", level.name()));
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(draw) == first, "{threads} threads");
        }
    }

    #[test]
    fn moments_and_ranges() {
        fn check<T: Real>() {
            let n = 1 << 20;
            let mut x = vec![T::ZERO; n];
            let moment = |x: &[T], p: i32| {
                x.iter().map(|v| v.to_f64().powi(p)).sum::<f64>() / x.len() as f64
            };
            uniform(&mut x, KEY);
            assert!(x.iter().all(|v| (0.0..1.0).contains(&v.to_f64())));
            assert!((moment(&x, 1) - 0.5).abs() < 1e-3);
            assert!((moment(&x, 2) - 1.0 / 3.0).abs() < 1e-3);
            normal(&mut x, KEY);
            for (p, expected) in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)] {
                let got = moment(&x, p);
                assert!((got - expected).abs() < 0.03, "moment {p}: {got}");
            }
            // Neighbours are independent, also the two of one pair.
            for lag in [1, 16, 64] {
                let product: f64 =
                    x.iter().zip(&x[lag..]).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
                assert!((product / n as f64).abs() < 0.005, "lag {lag}");
            }
        }
        check::<f32>();
        check::<f64>();
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = bits(KEY, 0);
        for other in [
            Key { seed: 43, ..KEY },
            Key { seed: KEY.seed + (1 << 40), ..KEY },
            Key { stream: 8, ..KEY },
            Key { stream: KEY.stream + (1 << 40), ..KEY },
            Key { step: 4, ..KEY },
            Key { step: KEY.step + (1 << 40), ..KEY },
        ] {
            assert_ne!(bits(other, 0), first);
        }
        assert_ne!(bits(KEY, 1), first);
    }
}
