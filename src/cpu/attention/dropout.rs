//! Dropout of probabilities: a factor for each query and key, made again whenever it is needed.

use super::super::philox::{Stream, Words};
use super::{Options, Shape};
use crate::cpu::simd::{LANES, Number, Real, Vector};

/// Keys whose factors sixteen blocks of random numbers give.
pub(super) const GROUP: usize = 4 * LANES;

/// The factors of one attention: 0, or 1/(1 − p).
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    stream: Stream,
    threshold: u32,
    kept: f64,
    blocks_a_row: u64,
}

impl Dropout {
    pub(super) fn new(options: &Options, shape: &Shape) -> Option<Dropout> {
        options.dropout.map(|(p, key)| Dropout {
            stream: Stream::new(key),
            // p = 1 keeps one word in 2³²; its factor is 0 all the same.
            threshold: (p * 4_294_967_296.0) as u32,
            kept: if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 },
            blocks_a_row: (shape.tk.div_ceil(GROUP) * LANES) as u64,
        })
    }

    /// The random numbers of query `row` (counted over all batches and heads) for the keys
    /// `GROUP · group ..`: those of vector w of the group in `words[w]`.
    #[inline(always)]
    pub(super) fn words(&self, row: usize, group: usize) -> Words {
        self.stream.blocks(row as u64 * self.blocks_a_row + (group * LANES) as u64)
    }

    /// The factors of sixteen keys.
    #[inline(always)]
    pub(super) fn factors<V: Vector>(&self, words: &[u32; LANES]) -> V {
        let mut factors = [V::Elem::ZERO; LANES];
        let kept = V::Elem::from_f64(self.kept);
        for (factor, &word) in factors.iter_mut().zip(words) {
            *factor = if word >= self.threshold { kept } else { V::Elem::ZERO };
        }
        V::from_array(factors)
    }
}
