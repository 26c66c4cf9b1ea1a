//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), written from the
//! paper, and dropout on top of it.

use super::Array;

#[derive(Clone, Copy)]
pub struct Key {
    pub seed: u64,
    pub stream: u64,
    pub step: u64,
}

/// Ten rounds over a counter of four words under a key of two.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let first = 0xD251_1F53_u64 * c[0] as u64;
        let second = 0xCD9E_8D57_u64 * c[2] as u64;
        c = [
            (second >> 32) as u32 ^ c[1] ^ k[0],
            second as u32,
            (first >> 32) as u32 ^ c[3] ^ k[1],
            first as u32,
        ];
    }
    c
}

/// The random word of element `i` of a tensor.
///
/// Seed, stream and step are first mixed into the key and the upper half of the counter of all blocks of
/// the tensor. Then 64 elements share 16 blocks of four words: the first 16 elements take word 0 of blocks
/// 0 to 15, the next 16 word 1 of the same blocks, and so on.
fn word(i: u64, key: Key) -> u32 {
    let halves = |n: u64| [n as u32, (n >> 32) as u32];
    let ([a, b], [c, d]) = (halves(key.stream), halves(key.step));
    let [k0, k1, high0, high1] = philox4x32_10([a, b, c, d], halves(key.seed));
    let [low0, low1] = halves(16 * (i / 64) + i % 16);
    philox4x32_10([low0, low1, high0, high1], [k0, k1])[(i % 64 / 16) as usize]
}

/// The factor on element `i`: 0 where its word, as a fraction of 2³², is less than p, else 1/(1 − p).
pub fn keep(i: u64, p: f64, key: Key) -> f64 {
    let dropped = p >= 1.0 || (word(i, key) as u64) < (p * 4294967296.0).floor() as u64;
    if dropped { 0.0 } else { 1.0 / (1.0 - p) }
}

pub fn dropout(x: &Array, p: f64, key: Key) -> Array {
    let factors = (0..x.data.len()).map(|i| keep(i as u64, p, key));
    Array::new(&x.shape, x.data.iter().zip(factors).map(|(x, f)| x * f).collect())
}

/// The vectors of the paper's own program: without them two wrong ciphers might agree.
#[test]
fn the_cipher_gives_the_known_answers() {
    assert_eq!(
        philox4x32_10(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0]
        ),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
    assert_eq!(
        philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    );
}
