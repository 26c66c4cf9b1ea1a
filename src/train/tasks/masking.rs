//! Gaps for an encoder to fill (Devlin et al. 2019).
//!
//! Of the tokens that are no special tokens a share is chosen, anew for each row and epoch. Of the chosen
//! 80 % become `[MASK]`, 10 % some other token, and 10 % stay as they are, so that the encoder can never
//! be sure that what it sees is true. With whole-word masking the choice falls on words.

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};
use crate::text::rng::Rng;

/// Keeps the random choices of masking apart from others under one seed.
pub(super) const MASK: u64 = 0x4D41_534B;

/// How tokens are hidden from an encoder.
#[derive(Clone, Debug)]
pub struct Masking {
    /// The share of tokens that is chosen.
    pub probability: f64,
    /// The id of `[MASK]`.
    pub mask_id: u32,
    /// The ids that start and end a window, `[CLS]` and `[SEP]`.
    pub frame: Option<(u32, u32)>,
    /// For each id of the vocabulary, whether it is special and never chosen.
    pub special: Vec<bool>,
    /// For each id, whether it goes on with the word before it (`##ing`): then whole words are chosen.
    pub continues: Option<Vec<bool>>,
}

/// A batch with gaps.
pub(super) struct Gaps {
    /// `[B, T]`, with gaps.
    pub(super) ids: Tensor,
    /// The gaps, as places in the batch seen as one row; `[N]`.
    pub(super) places: Tensor,
    /// What stood there; `[N]`.
    pub(super) targets: Tensor,
}

impl Masking {
    /// Hides tokens of `ids` `[B, T]`. Row r draws from stream `first + r` of `seed`. Each row gets at
    /// least one gap if it has a token that may be hidden.
    pub(super) fn apply(
        &self,
        ids: &Tensor,
        vocab_size: usize,
        seed: u64,
        first: u64,
    ) -> Result<Gaps> {
        let width = ids.size(-1)?;
        let extra = if self.frame.is_some() { 2 } else { 0 };
        let rows = ids.numel() / width;
        let mut shown = Tensor::empty([rows, width + extra], DType::U32)?;
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        let source = ids.as_slice::<u32>()?.chunks(width);
        let out = shown.make_mut::<u32>()?.chunks_mut(width + extra);
        for (r, (source, out)) in source.zip(out).enumerate() {
            let inner = match self.frame {
                Some((start, end)) => {
                    (out[0], out[width + 1]) = (start, end);
                    &mut out[1..=width]
                }
                None => out,
            };
            inner.copy_from_slice(source);
            let mut rng = Rng::new(seed, first + r as u64);
            let base = r * (width + extra) + extra / 2;
            for i in self.choose(source, &mut rng) {
                places.push((base + i) as u32);
                targets.push(source[i]);
                let draw = rng.below(10);
                if draw < 8 {
                    inner[i] = self.mask_id;
                } else if draw == 8 {
                    inner[i] = rng.below(vocab_size) as u32;
                }
            }
        }
        if places.is_empty() {
            return Err(Error::Data(
                "a batch holds nothing but special tokens; there is nothing to mask".into(),
            ));
        }
        Ok(Gaps {
            ids: shown,
            places: Tensor::from_slice(&places, places.len())?,
            targets: Tensor::from_slice(&targets, targets.len())?,
        })
    }

    /// The places of one row to hide, in order.
    fn choose(&self, row: &[u32], rng: &mut Rng) -> Vec<usize> {
        let is_special = |id: u32| self.special.get(id as usize).copied().unwrap_or(false);
        let threshold = (self.probability * (1u64 << 32) as f64) as usize;
        // The words: the first place of each, and how long it is.
        let mut words: Vec<(usize, usize)> = Vec::new();
        for (i, &id) in row.iter().enumerate() {
            let continues = self
                .continues
                .as_ref()
                .is_some_and(|list| list.get(id as usize).copied().unwrap_or(false));
            match words.last_mut() {
                Some((start, len)) if continues && *start + *len == i => *len += 1,
                _ if is_special(id) => {}
                _ => words.push((i, 1)),
            }
        }
        let chosen: Vec<(usize, usize)> =
            words.iter().copied().filter(|_| rng.below(1 << 32) < threshold).collect();
        let chosen = match (chosen.is_empty(), words.is_empty()) {
            (true, false) => vec![words[rng.below(words.len())]],
            _ => chosen,
        };
        chosen.into_iter().flat_map(|(start, len)| start..start + len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_follow_the_recipe() {
        let mut special = vec![false; 1000];
        special[0] = true;
        let masking = Masking {
            probability: 0.15,
            mask_id: 4,
            frame: Some((1, 2)),
            special,
            continues: None,
        };
        let mut source: Vec<u32> = (0..20_000).map(|i| 10 + i % 900).collect();
        source[7] = 0;
        let ids = Tensor::from_slice(&source, [200, 100]).unwrap();
        let gaps = masking.apply(&ids, 1000, 3, 0).unwrap();
        let shown = gaps.ids.to_vec::<u32>().unwrap();
        let places = gaps.places.to_vec::<u32>().unwrap();
        let targets = gaps.targets.to_vec::<u32>().unwrap();
        assert_eq!(gaps.ids.shape(), [200, 102]);
        assert!(shown.chunks(102).all(|row| row[0] == 1 && row[101] == 2));
        assert!(!targets.contains(&0), "special tokens stay");
        let share = places.len() as f64 / 20_000.0;
        assert!((share - 0.15).abs() < 0.01, "{share}");
        let masked = places.iter().filter(|&&p| shown[p as usize] == 4).count();
        let kept = places.iter().zip(&targets).filter(|&(&p, &t)| shown[p as usize] == t).count();
        assert!((masked as f64 / places.len() as f64 - 0.8).abs() < 0.03);
        assert!((kept as f64 / places.len() as f64 - 0.1).abs() < 0.03);
        // Another seed, other gaps; the same seed, the same.
        let again = masking.apply(&ids, 1000, 3, 0).unwrap().places.to_vec::<u32>().unwrap();
        assert_eq!(again, places);
        assert_ne!(
            masking.apply(&ids, 1000, 4, 0).unwrap().places.to_vec::<u32>().unwrap(),
            places
        );
    }

    #[test]
    fn whole_words_fall_together() {
        let mut continues = vec![false; 10];
        continues[9] = true;
        let masking = Masking {
            probability: 0.3,
            mask_id: 1,
            frame: None,
            special: vec![false; 10],
            continues: Some(continues),
        };
        let row = [5, 9, 9, 6, 7, 9];
        for seed in 0..50 {
            let chosen = masking.choose(&row, &mut Rng::new(seed, 0));
            assert!(!chosen.is_empty());
            for group in [[0, 1, 2].as_slice(), &[4, 5]] {
                let n = group.iter().filter(|&i| chosen.contains(i)).count();
                assert!(n == 0 || n == group.len(), "{chosen:?}");
            }
        }
    }
}
