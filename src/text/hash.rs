//! A 64-bit content hash that never changes: tokenizer identity and token-file checksums.
//!
//! Not cryptographic. It tells a damaged or different file from the right one; it does not stop
//! somebody who forges one. The bytes are read as little-endian words, so the value is the same on
//! every machine:
//!
//! ```text
//! h ← mix(h ⊕ word) · K + length      mix: the finaliser of SplitMix64
//! ```

use super::rng::mix;

const K: u64 = 0x9E37_79B9_7F4A_7C15;

/// Bytes in one independently hashed block: blocks are hashed in parallel and folded in order.
#[cfg(feature = "cli")]
pub(crate) const BLOCK: usize = 1 << 20;

/// The hash of a byte string.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    // Four lanes, so that the multiplications of neighbouring words overlap.
    let mut lanes = [1u64, 2, 3, 4].map(|n| n.wrapping_mul(K));
    let mut groups = bytes.chunks_exact(32);
    for group in &mut groups {
        for (lane, word) in lanes.iter_mut().zip(group.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            *lane = (*lane ^ word).wrapping_mul(K);
            *lane ^= *lane >> 29;
        }
    }
    let mut h = bytes.len() as u64;
    for byte in groups.remainder() {
        h = (h ^ u64::from(*byte)).wrapping_mul(K);
        h ^= h >> 29;
    }
    lanes.iter().fold(h, |h, lane| mix(h ^ lane).wrapping_mul(K))
}

/// Folds the hash of the next block into a running value; the order of blocks matters.
#[cfg(feature = "cli")]
pub fn fold(running: u64, next: u64) -> u64 {
    mix(running ^ next).wrapping_mul(K).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_position_counts() {
        let bytes: Vec<u8> = (0..200u8).collect();
        let whole = hash_bytes(&bytes);
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            assert_ne!(hash_bytes(&other), whole, "byte {i}");
            assert_ne!(hash_bytes(&bytes[..i]), whole, "length {i}");
        }
        let mut swapped = bytes.clone();
        swapped.swap(3, 67);
        assert_ne!(hash_bytes(&swapped), whole);
    }

    /// The value is stored in files: it must never change.
    #[test]
    fn the_value_is_fixed() {
        assert_eq!(format!("{:016x}", hash_bytes(b"")), EMPTY);
        assert_eq!(format!("{:016x}", hash_bytes(&[7; 100])), SEVENS);
    }

    const EMPTY: &str = "068e50183048089e";
    const SEVENS: &str = "c1ff3287a9734659";
}
