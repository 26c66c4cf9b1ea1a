//! Learning merges: the heart of byte-pair encoding (Sennrich, Haddow and Birch 2016).
//!
//! Start from words written as single symbols. Again and again, take the pair of neighbours that
//! occurs most often and give it a symbol of its own, until the vocabulary is full.
//!
//! ```text
//! l o w   l o w e r   l o n g      most frequent pair: (l, o)   →  lo
//! lo w    lo w e r    lo n g       most frequent pair: (lo, w)  →  low
//! low     low e r     lo n g       …
//! ```
//!
//! The counts of all pairs are kept up to date instead of counted again: a merge changes only the
//! words that hold the pair, and in them only the neighbours. A heap yields the largest count; its
//! entries may be stale, so each is checked against the true count when it comes up.
//!
//! The result is a pure function of the words and their counts: ties go to the pair with the smaller
//! ids, hash tables are looked up but never walked, and no step depends on the number of threads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, hash_map::Entry};
use std::hash::{BuildHasherDefault, Hasher};

use crate::text::Progress;
use crate::text::rng::mix;

type Pair = (u32, u32);

/// Hashes a pair of ids. The standard hasher resists attackers and is several times slower.
#[derive(Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = mix(self.0 << 32 ^ self.0 >> 32 ^ u64::from(n));
    }
}

type PairMap<V> = HashMap<Pair, V, BuildHasherDefault<PairHasher>>;

/// A word of the corpus: its symbols and how often it occurs.
pub(super) struct Word {
    pub symbols: Vec<u32>,
    pub count: u64,
}

/// What [`learn`] found.
pub(super) struct Learned {
    /// Every piece of the vocabulary; the index is the id. The given alphabet comes first.
    pub pieces: Vec<String>,
    /// The merges in the order in which they were learned.
    pub merges: Vec<Pair>,
}

/// The counts of all pairs and the words in which they may be found.
#[derive(Default)]
struct Pairs {
    counts: PairMap<i64>,
    /// Word numbers, with repetitions; a word may have lost the pair since.
    places: PairMap<Vec<u32>>,
    heap: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Pairs {
    fn add(&mut self, pair: Pair, count: i64, word: u32) {
        *self.counts.entry(pair).or_default() += count;
        let places = self.places.entry(pair).or_default();
        if places.last() != Some(&word) {
            places.push(word);
        }
    }

    fn remove(&mut self, pair: Pair, count: i64) {
        *self.counts.entry(pair).or_default() -= count;
    }

    fn count(&self, pair: Pair) -> i64 {
        self.counts.get(&pair).copied().unwrap_or(0)
    }

    /// The most frequent pair, the smallest ids among equals.
    fn best(&mut self) -> Option<(Pair, i64)> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let now = self.count(pair);
            if now == count {
                return Some((pair, count));
            }
            if now > 0 {
                self.heap.push((now, Reverse(pair)));
            }
        }
        None
    }
}

/// Learns merges until there are `vocab_size` pieces or no pair occurs `min_frequency` times.
///
/// `alphabet` holds the pieces that the words' symbols index; `join` builds the text of a merged
/// piece out of its halves.
pub(super) fn learn(
    alphabet: Vec<String>,
    mut words: Vec<Word>,
    vocab_size: usize,
    min_frequency: u64,
    join: impl Fn(&str, &str) -> String,
    progress: &mut dyn FnMut(Progress),
) -> Learned {
    let mut pairs = Pairs::default();
    for (number, word) in words.iter().enumerate() {
        for two in word.symbols.windows(2) {
            pairs.add((two[0], two[1]), word.count as i64, number as u32);
        }
    }
    pairs.heap = pairs.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();

    let mut ids: HashMap<String, u32> =
        alphabet.iter().enumerate().map(|(id, piece)| (piece.clone(), id as u32)).collect();
    let mut learned = Learned { pieces: alphabet, merges: Vec::new() };
    let mut grown = Vec::new();
    while learned.pieces.len() < vocab_size {
        let Some((pair, count)) = pairs.best() else { break };
        if count < min_frequency.max(1) as i64 {
            break;
        }
        let text = join(&learned.pieces[pair.0 as usize], &learned.pieces[pair.1 as usize]);
        // "ab" + "c" and "a" + "bc" are one piece with two merges.
        let merged = match ids.entry(text) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                let id = learned.pieces.len() as u32;
                learned.pieces.push(free.key().clone());
                *free.insert(id)
            }
        };
        learned.merges.push(pair);
        let places = pairs.places.remove(&pair).unwrap_or_default();
        grown.clear();
        for number in places {
            merge_word(&mut words[number as usize], number, pair, merged, &mut pairs, &mut grown);
        }
        grown.sort_unstable();
        grown.dedup();
        for &pair in &grown {
            let count = pairs.count(pair);
            if count > 0 {
                pairs.heap.push((count, Reverse(pair)));
            }
        }
        if learned.merges.len().is_multiple_of(256) {
            let (done, total) = (learned.pieces.len() as u64, vocab_size as u64);
            progress(Progress { stage: "learn merges", done, total });
        }
    }
    let total = learned.pieces.len() as u64;
    progress(Progress { stage: "learn merges", done: total, total });
    learned
}

/// Replaces every `pair` in a word by `merged`, from the left, and corrects the neighbours' counts.
fn merge_word(
    word: &mut Word,
    number: u32,
    pair: Pair,
    merged: u32,
    pairs: &mut Pairs,
    grown: &mut Vec<Pair>,
) {
    let count = word.count as i64;
    let symbols = &mut word.symbols;
    let (mut read, mut write) = (0, 0);
    while read < symbols.len() {
        if read + 1 < symbols.len() && (symbols[read], symbols[read + 1]) == pair {
            pairs.remove(pair, count);
            if write > 0 {
                let before = symbols[write - 1];
                pairs.remove((before, pair.0), count);
                pairs.add((before, merged), count, number);
                grown.push((before, merged));
            }
            if let Some(&after) = symbols.get(read + 2) {
                pairs.remove((pair.1, after), count);
                pairs.add((merged, after), count, number);
                grown.push((merged, after));
            }
            symbols[write] = merged;
            read += 2;
        } else {
            symbols[write] = symbols[read];
            read += 1;
        }
        write += 1;
    }
    symbols.truncate(write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::rng::Rng;

    /// The same algorithm without any book-keeping: count all pairs afresh for every merge.
    fn learn_slowly(alphabet: &[String], words: &mut [Word], size: usize, min: u64) -> Learned {
        let mut learned = Learned { pieces: alphabet.to_vec(), merges: Vec::new() };
        while learned.pieces.len() < size {
            let mut counts = std::collections::BTreeMap::new();
            for word in words.iter() {
                for two in word.symbols.windows(2) {
                    *counts.entry((two[0], two[1])).or_insert(0) += word.count;
                }
            }
            let best = counts.iter().max_by_key(|&(&pair, &count)| (count, Reverse(pair)));
            let Some((&pair, _)) = best.filter(|b| *b.1 >= min.max(1)) else { break };
            let text = [pair.0, pair.1].map(|id| learned.pieces[id as usize].clone()).concat();
            let merged = learned.pieces.iter().position(|p| *p == text).unwrap_or_else(|| {
                learned.pieces.push(text);
                learned.pieces.len() - 1
            }) as u32;
            learned.merges.push(pair);
            for word in words.iter_mut() {
                let mut symbols = Vec::new();
                let mut i = 0;
                while i < word.symbols.len() {
                    if word.symbols[i..].starts_with(&[pair.0, pair.1]) {
                        symbols.push(merged);
                        i += 2;
                    } else {
                        symbols.push(word.symbols[i]);
                        i += 1;
                    }
                }
                word.symbols = symbols;
            }
        }
        learned
    }

    #[test]
    fn the_kept_counts_equal_fresh_ones() {
        let alphabet: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        for seed in 0..60 {
            let mut rng = Rng::new(seed, 0);
            let make = |rng: &mut Rng| -> Vec<Word> {
                (0..30)
                    .map(|_| Word {
                        symbols: (0..1 + rng.below(12)).map(|_| rng.below(3) as u32).collect(),
                        count: 1 + rng.below(4) as u64,
                    })
                    .collect()
            };
            let (words, mut again) = (make(&mut rng.clone()), make(&mut rng));
            let fast = learn(
                alphabet.clone(),
                words,
                40,
                2,
                |a, b| format!("{a}{b}"),
                &mut crate::text::quiet,
            );
            let slow = learn_slowly(&alphabet, &mut again, 40, 2);
            assert_eq!(fast.merges, slow.merges, "seed {seed}");
            assert_eq!(fast.pieces, slow.pieces, "seed {seed}");
        }
    }
}
