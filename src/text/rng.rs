//! Random choices as a pure function of a seed.
//!
//! Nothing here keeps global state: the same seed gives the same order or the same story on every
//! machine, at any thread count, today and after a resume. The mixer is SplitMix64 (Steele, Lea and
//! Flood 2014, "Fast splittable pseudorandom number generators"): a counter that walks by the
//! golden ratio, hashed by two multiply-and-shift rounds.

/// The finaliser of SplitMix64: a bijection on 64 bits in which every input bit moves every output bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of random numbers that is fully given by (seed, index).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream number `index` of `seed`. Two streams share no numbers in practice.
    pub fn new(seed: u64, index: u64) -> Rng {
        Rng(mix(mix(seed ^ 0x6A09_E667_F3BC_C909).wrapping_add(index)))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number in `0..n` (0 when n is 0). Multiply-and-shift: the bias is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.bits() as u128 * n as u128) >> 64) as usize
    }

    /// True with probability `percent` / 100.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One element of a slice.
    ///
    /// # Panics
    /// When the slice is empty; every table in this room has entries.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A random order of `0..n`, a pure function of (n, seed): Fisher and Yates, from the back.
pub fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut rng = Rng::new(seed, 0x5348_5546);
    for last in (1..n).rev() {
        order.swap(last, rng.below(last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffle_is_a_permutation_and_depends_on_the_seed_alone() {
        let mut order = shuffled(1000, 7);
        assert_eq!(order, shuffled(1000, 7));
        assert_ne!(order, shuffled(1000, 8));
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..1000));
        assert!(shuffled(0, 1).is_empty());
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut rng = Rng::new(1, 2);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
    }
}
