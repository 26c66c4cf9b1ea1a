//! Batches as pure functions of `(seed, epoch, index)`.
//!
//! No iterator holds a position or a generator: the batch at a [`Cursor`] can be asked for at any time
//! and is always the same. That is why a run resumes to the bit by remembering two numbers.
//!
//! For language models there are three ways through the tokens, with B sequences of T tokens a batch:
//!
//! ```text
//! random    B crops from anywhere, with replacement (nanoGPT)
//! shuffled  the text cut into windows of T, each once an epoch, in a shuffled order;
//!           where the cuts fall moves from epoch to epoch
//! lanes     the text cut into B lanes that are read in parallel, T tokens at a time, so that a
//!           recurrent state can be carried from one batch to the next (truncated BPTT)
//! ```

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::Inputs;
use crate::tensor::{DType, Tensor};
use crate::text::Tokens;
use crate::text::rng::{Rng, shuffled};

/// Where in the data a run is: everything that there is to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes that are complete.
    pub epoch: u64,
    /// The batch within the pass.
    pub index: u64,
}

impl Cursor {
    /// The next batch, where an epoch has `batches` of them.
    pub fn next(self, batches: u64) -> Cursor {
        if self.index + 1 < batches {
            Cursor { index: self.index + 1, ..self }
        } else {
            Cursor { epoch: self.epoch + 1, index: 0 }
        }
    }
}

/// A random order of `0..n` that can be asked for one place at a time, in constant memory.
///
/// A Feistel network (four rounds) is a bijection on `0..4^k`, the least such range that holds n; a value
/// outside `0..n` is sent through again until it falls inside (cycle walking), which keeps it a
/// bijection on `0..n`.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// The order that belongs to `(n, seed, epoch)`.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Permutation {
        let mut rng = Rng::new(seed, epoch);
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Permutation {
            n,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| rng.bits()),
        }
    }

    /// What stands at place `i`, for `i` below n.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n);
        let mut x = i;
        loop {
            x = self.rounds(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn rounds(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            let mixed = Rng::new(key, right).bits() & mask;
            (left, right) = (right, left ^ mixed);
        }
        left << self.half_bits | right
    }
}

/// The way through the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Crops from anywhere, with replacement.
    Random,
    /// Every window once an epoch.
    Shuffled,
    /// Contiguous lanes, for a state that is carried along.
    Lanes,
}

/// Training batches `[B, T]` of inputs and targets (the inputs moved by one) from one token sequence.
#[derive(Clone, Debug)]
pub struct LmBatches {
    tokens: Tokens,
    batch: usize,
    context: usize,
    sampling: Sampling,
    seed: u64,
}

/// Keeps the streams of different uses of one seed apart.
const CROPS: u64 = 0x4352_4F50;
const CUTS: u64 = 0x4355_5453;
const ORDER: u64 = 0x4F52_4445;

impl LmBatches {
    /// Batches of `batch` sequences of `context` tokens.
    ///
    /// # Errors
    /// [`Error::Data`] when the text is too short for one of them.
    pub fn new(
        tokens: Tokens,
        batch: usize,
        context: usize,
        sampling: Sampling,
        seed: u64,
    ) -> Result<LmBatches> {
        let needed = match sampling {
            Sampling::Lanes => batch.saturating_mul(context),
            _ => context,
        };
        if tokens.len() <= needed {
            return Err(Error::Data(format!(
                "the training text has {} tokens, too few for {}context {context}: at least {} are \
                 needed; give more text or a smaller --context-length",
                tokens.len(),
                if sampling == Sampling::Lanes {
                    format!("{batch} lanes of ")
                } else {
                    String::new()
                },
                needed + 1
            )));
        }
        Ok(LmBatches { tokens, batch, context, sampling, seed })
    }

    /// Sequences of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens of a sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The way through the tokens.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// All tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Windows of an epoch in [`Sampling::Shuffled`], whatever the epoch's cuts are.
    fn windows(&self) -> usize {
        ((self.tokens.len() - self.context) / self.context).max(1)
    }

    /// Batches of a pass over the data.
    pub fn batches_per_epoch(&self) -> u64 {
        let n = match self.sampling {
            Sampling::Random => (self.tokens.len() - 1) / (self.batch * self.context),
            Sampling::Shuffled => self.windows() / self.batch,
            Sampling::Lanes => (self.tokens.len() - 1) / self.batch / self.context,
        };
        n.max(1) as u64
    }

    /// Where row `row` of the batch at `at` starts.
    fn start(&self, at: Cursor, row: usize) -> usize {
        let place = at.index * self.batch as u64 + row as u64;
        match self.sampling {
            Sampling::Random => {
                let seed = Rng::new(self.seed ^ CROPS, at.epoch).bits();
                Rng::new(seed, place).below(self.tokens.len() - self.context)
            }
            Sampling::Shuffled => {
                let windows = self.windows() as u64;
                let order = Permutation::new(windows, self.seed ^ ORDER, at.epoch);
                let slack = self.tokens.len() - 1 - windows as usize * self.context;
                let cut =
                    Rng::new(self.seed ^ CUTS, at.epoch).below(slack.min(self.context - 1) + 1);
                cut + order.at(place % windows) as usize * self.context
            }
            Sampling::Lanes => {
                let lane = (self.tokens.len() - 1) / self.batch;
                row * lane + at.index as usize * self.context
            }
        }
    }

    /// The batch at `at`: inputs and targets, both `[B, T]` `u32`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn get(&self, at: Cursor) -> Result<(Tensor, Tensor)> {
        let shape = [self.batch, self.context];
        let mut inputs = Tensor::empty(shape, DType::U32)?;
        let mut targets = Tensor::empty(shape, DType::U32)?;
        let rows = inputs.make_mut::<u32>()?.chunks_mut(self.context);
        let both = rows.zip(targets.make_mut::<u32>()?.chunks_mut(self.context));
        for (row, (input, target)) in both.enumerate() {
            let start = self.start(at, row);
            self.tokens.copy_to(start, input)?;
            self.tokens.copy_to(start + 1, target)?;
        }
        Ok((inputs, targets))
    }
}

/// The windows of an evaluation: one after the other, none left out, the last one shorter. Together
/// they predict each token but the first exactly once.
#[derive(Clone, Debug)]
pub struct EvalWindows {
    tokens: Tokens,
    batch: usize,
    context: usize,
}

impl EvalWindows {
    /// Windows of `context` tokens, `batch` at a time.
    ///
    /// # Errors
    /// [`Error::Data`] when there is nothing to predict.
    pub fn new(tokens: Tokens, batch: usize, context: usize) -> Result<EvalWindows> {
        if tokens.len() < 2 {
            return Err(Error::Data(format!(
                "the validation text has {} token(s); at least 2 are needed",
                tokens.len()
            )));
        }
        Ok(EvalWindows { tokens, batch: batch.max(1), context: context.max(1) })
    }

    /// All tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Tokens that are predicted.
    pub fn targets(&self) -> u64 {
        self.tokens.len() as u64 - 1
    }

    /// Windows of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How many batches there are.
    pub fn batches(&self) -> usize {
        let targets = self.tokens.len() - 1;
        let full = targets / self.context;
        full.div_ceil(self.batch) + usize::from(!targets.is_multiple_of(self.context))
    }

    /// Batch `i`: inputs and targets `[b, t]`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn get(&self, i: usize) -> Result<(Tensor, Tensor)> {
        let targets = self.tokens.len() - 1;
        let full = targets / self.context;
        let first = i * self.batch;
        let (rows, width) = match full.saturating_sub(first) {
            0 => (1, targets % self.context),
            left => (left.min(self.batch), self.context),
        };
        let start = if width == self.context { first * self.context } else { full * self.context };
        let mut inputs = Tensor::empty([rows, width], DType::U32)?;
        let mut expected = Tensor::empty([rows, width], DType::U32)?;
        self.tokens.copy_to(start, inputs.make_mut()?)?;
        self.tokens.copy_to(start + 1, expected.make_mut()?)?;
        Ok((inputs, expected))
    }
}

/// Lanes of equal length that are read in parallel, a state carried along each.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// The first token.
    start: usize,
    /// Targets of a lane.
    len: usize,
    /// How many lanes.
    pub rows: usize,
    /// Batches until all are read.
    pub batches: usize,
}

impl EvalWindows {
    /// The text as lanes: as many as a batch has, and one more for the few tokens that are left over.
    pub fn lanes(&self) -> Vec<Lanes> {
        let targets = self.tokens.len() - 1;
        let rows = self.batch.min(targets / self.context).max(1);
        let len = targets / rows;
        let lanes = |start, len: usize, rows| Lanes {
            start,
            len,
            rows,
            batches: len.div_ceil(self.context),
        };
        let mut all = vec![lanes(0, len, rows)];
        if rows * len < targets {
            all.push(lanes(rows * len, targets - rows * len, 1));
        }
        all
    }

    /// Batch `i` of some lanes: inputs and targets `[rows, t]`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn lane_batch(&self, lanes: &Lanes, i: usize) -> Result<(Tensor, Tensor)> {
        let from = i * self.context;
        let width = self.context.min(lanes.len - from);
        let mut inputs = Tensor::empty([lanes.rows, width], DType::U32)?;
        let mut expected = Tensor::empty([lanes.rows, width], DType::U32)?;
        let rows = inputs.make_mut::<u32>()?.chunks_mut(width);
        for (row, (x, y)) in rows.zip(expected.make_mut::<u32>()?.chunks_mut(width)).enumerate() {
            let start = lanes.start + row * lanes.len + from;
            self.tokens.copy_to(start, x)?;
            self.tokens.copy_to(start + 1, y)?;
        }
        Ok((inputs, expected))
    }
}

/// One sequence for a task on whole sequences or their tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids, not empty.
    pub ids: Vec<u32>,
    /// Token types, as long as `ids`.
    pub token_type_ids: Vec<u32>,
}

/// Sequences of different lengths side by side.
#[derive(Clone, Debug)]
pub struct Padded {
    /// `[B, T]`, padding filled with the padding id.
    pub ids: Tensor,
    /// `[B, T]`.
    pub token_type_ids: Tensor,
    /// `[B, T]`, 1 where there is padding.
    pub padding_mask: Tensor,
    /// The length of each row.
    pub lengths: Vec<usize>,
}

impl Padded {
    /// Puts sequences into one rectangle as wide as the longest.
    ///
    /// # Errors
    /// When there is no sequence, or one is empty.
    pub fn new<'a>(
        rows: impl Iterator<Item = &'a Sequence> + Clone,
        pad_id: u32,
    ) -> Result<Padded> {
        let lengths: Vec<usize> = rows.clone().map(|row| row.ids.len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::Data("a batch holds an empty sequence".into()));
        }
        let width = lengths.iter().copied().max().unwrap_or(0);
        let shape = [lengths.len(), width];
        let mut ids = Tensor::full(shape, f64::from(pad_id), DType::U32)?;
        let mut token_type_ids = Tensor::zeros(shape, DType::U32)?;
        let mut padding_mask = Tensor::zeros(shape, DType::U32)?;
        let out = ids.make_mut::<u32>()?.chunks_mut(width);
        for (out, row) in out.zip(rows.clone()) {
            out[..row.ids.len()].copy_from_slice(&row.ids);
        }
        for (out, row) in token_type_ids.make_mut::<u32>()?.chunks_mut(width).zip(rows) {
            let n = row.token_type_ids.len().min(width);
            out[..n].copy_from_slice(&row.token_type_ids[..n]);
        }
        for (out, &n) in padding_mask.make_mut::<u32>()?.chunks_mut(width).zip(&lengths) {
            out[n..].fill(1);
        }
        Ok(Padded { ids, token_type_ids, padding_mask, lengths })
    }
}

impl Padded {
    /// As a model takes it.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            ids: &self.ids,
            token_type_ids: Some(&self.token_type_ids),
            padding_mask: Some(&self.padding_mask),
            lengths: Some(&self.lengths),
        }
    }
}

/// The batches of one epoch over sequences: shuffled, yet each batch of similar lengths.
///
/// All indices are shuffled and cut into pools of 50 batches; each pool is sorted by length and cut
/// into batches; the batches are shuffled. Every sequence appears exactly once.
pub fn bucketed(lengths: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let seed = Rng::new(seed ^ ORDER, epoch).bits();
    let mut order = shuffled(lengths.len(), seed);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for pool in order.chunks_mut(50 * batch) {
        pool.sort_by_key(|&i| lengths[i]); // stable: the shuffle decides among equals
        batches.extend(pool.chunks(batch).map(<[usize]>::to_vec));
    }
    let places = shuffled(batches.len(), seed ^ CUTS);
    places.into_iter().map(|i| std::mem::take(&mut batches[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(n: usize) -> Tokens {
        Tokens::from_vec((0..n as u32).collect(), n, 0).unwrap()
    }

    #[test]
    fn a_permutation_is_one_at_every_size() {
        for n in [1u64, 2, 3, 5, 16, 17, 100, 1000] {
            let order = Permutation::new(n, 7, 3);
            let mut all: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
            if n == 1000 {
                assert_ne!(all, (0..n).collect::<Vec<_>>());
                assert_ne!(all[0], Permutation::new(n, 7, 4).at(0));
            }
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n}");
        }
    }

    #[test]
    fn targets_are_inputs_moved_by_one() {
        for sampling in [Sampling::Random, Sampling::Shuffled, Sampling::Lanes] {
            let batches = LmBatches::new(tokens(101), 3, 8, sampling, 5).unwrap();
            for index in 0..batches.batches_per_epoch() {
                let at = Cursor { epoch: 2, index };
                let (x, y) = batches.get(at).unwrap();
                let (x, y) = (x.to_vec::<u32>().unwrap(), y.to_vec::<u32>().unwrap());
                assert!(x.iter().zip(&y).all(|(x, y)| x + 1 == *y), "{sampling:?}");
                assert_eq!(x, batches.get(at).unwrap().0.to_vec::<u32>().unwrap());
            }
        }
    }

    #[test]
    fn shuffled_windows_do_not_overlap_and_lanes_go_on() {
        let batches = LmBatches::new(tokens(101), 3, 8, Sampling::Shuffled, 5).unwrap();
        let mut seen = vec![0; 101];
        for index in 0..batches.batches_per_epoch() {
            let (x, _) = batches.get(Cursor { epoch: 1, index }).unwrap();
            for id in x.to_vec::<u32>().unwrap() {
                seen[id as usize] += 1;
            }
        }
        assert!(seen.iter().all(|&n| n <= 1));
        assert!(seen.iter().sum::<i32>() >= 72);

        let lanes = LmBatches::new(tokens(101), 3, 8, Sampling::Lanes, 5).unwrap();
        let first = lanes.get(Cursor::default()).unwrap().1.to_vec::<u32>().unwrap();
        let second = lanes.get(Cursor { epoch: 0, index: 1 }).unwrap().0.to_vec::<u32>().unwrap();
        assert_eq!((first[7], first[15]), (second[0], second[8]));
    }

    #[test]
    fn every_token_but_the_first_is_evaluated_once() {
        for (n, batch, context) in [(101, 3, 8), (97, 4, 8), (2, 4, 8), (9, 1, 8), (10, 2, 4)] {
            let windows = EvalWindows::new(tokens(n), batch, context).unwrap();
            let mut all = Vec::new();
            for i in 0..windows.batches() {
                all.extend(windows.get(i).unwrap().1.to_vec::<u32>().unwrap());
            }
            assert_eq!(all, (1..n as u32).collect::<Vec<_>>(), "{n} {batch} {context}");
            let mut all = Vec::new();
            for lanes in windows.lanes() {
                for i in 0..lanes.batches {
                    all.extend(windows.lane_batch(&lanes, i).unwrap().1.to_vec::<u32>().unwrap());
                }
            }
            all.sort_unstable();
            assert_eq!(all, (1..n as u32).collect::<Vec<_>>(), "lanes {n} {batch} {context}");
        }
        assert!(EvalWindows::new(tokens(1), 1, 8).is_err());
    }

    #[test]
    fn short_texts_are_refused() {
        assert!(LmBatches::new(tokens(8), 1, 8, Sampling::Random, 0).is_err());
        assert!(LmBatches::new(tokens(9), 1, 8, Sampling::Random, 0).is_ok());
        let error = LmBatches::new(tokens(20), 3, 8, Sampling::Lanes, 0).unwrap_err().to_string();
        assert!(error.contains("25 are needed"), "{error}");
    }

    #[test]
    fn buckets_hold_everything_once_in_similar_lengths() {
        let lengths: Vec<usize> = (0..1003).map(|i| 1 + i * 7 % 60).collect();
        let batches = bucketed(&lengths, 8, 1, 0);
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..1003).collect::<Vec<_>>());
        let spread = |batch: &Vec<usize>| {
            let all = batch.iter().map(|&i| lengths[i]);
            all.clone().max().unwrap() - all.min().unwrap()
        };
        let mean = batches.iter().map(spread).sum::<usize>() as f64 / batches.len() as f64;
        assert!(mean < 6.0, "{mean}");
        assert_ne!(batches, bucketed(&lengths, 8, 1, 1));
        assert_eq!(batches, bucketed(&lengths, 8, 1, 0));
    }

    #[test]
    fn padding_is_marked() {
        let rows = [
            Sequence { ids: vec![5, 6], token_type_ids: vec![0, 1] },
            Sequence { ids: vec![7], token_type_ids: vec![0] },
        ];
        let padded = Padded::new(rows.iter(), 9).unwrap();
        assert_eq!(padded.ids.to_vec::<u32>().unwrap(), [5, 6, 7, 9]);
        assert_eq!(padded.token_type_ids.to_vec::<u32>().unwrap(), [0, 1, 0, 0]);
        assert_eq!(padded.padding_mask.to_vec::<u32>().unwrap(), [0, 0, 0, 1]);
        assert_eq!(padded.lengths, [2, 1]);
    }
}
