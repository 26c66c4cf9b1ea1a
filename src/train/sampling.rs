//! From logits to the next token.
//!
//! In this order, each step on what the one before left:
//!
//! ```text
//! repetition penalty r   xᵢ ← xᵢ / r if xᵢ > 0 else xᵢ · r, for every token i already there (Keskar 2019)
//! temperature τ          x ← x / τ; τ = 0 means: take the largest
//! top-k                  keep the k largest
//! top-p                  keep the fewest whose probabilities reach p (Holtzman 2020)
//! min-p                  keep those with at least p times the largest probability (Nguyen 2024)
//! ```
//!
//! then one draw. The draw of token n under a seed is a pure function of both (Philox), so the same seed
//! writes the same text. Ties go to the smaller id.

use serde::{Deserialize, Serialize};

use crate::cpu::philox::{Key, Stream};
use crate::error::{Error, Result};
use crate::models::{LanguageModel, ModelConfig};

/// Refuses models that cannot write.
pub(super) fn check_writes(model: &dyn LanguageModel) -> Result<()> {
    match model.config() {
        ModelConfig::Bert(_) => Err(Error::Usage(
            "a bert reads in both directions and cannot write text; use a gpt, rnn, lstm or gru"
                .into(),
        )),
        ModelConfig::Rnn(config) if config.bidirectional => {
            Err(Error::Usage("a bidirectional recurrent model cannot write text".into()))
        }
        _ => Ok(()),
    }
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// `max_new_tokens` are written.
    Length,
    /// The model wrote the end-of-text token.
    EndOfText,
    /// A stop text came up.
    Stop,
}

/// How text is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Tokens to write at most.
    pub max_new_tokens: usize,
    /// Below 1 the likely becomes likelier; 0 is greedy.
    pub temperature: f64,
    /// Only the k likeliest tokens; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 means all.
    pub top_p: f64,
    /// Only tokens with this share of the largest probability; 0 means all.
    pub min_p: f64,
    /// Above 1 what has been said becomes unlikelier; 1 changes nothing.
    pub repetition_penalty: f64,
    /// Texts at which the writing ends. They are not part of the result.
    pub stop: Vec<String>,
    /// The seed of the draws.
    pub seed: u64,
    /// Beams of a beam search; 1 means none. Beam search does not draw.
    pub num_beams: usize,
    /// Beam search divides the log-probability of a text by its length to this power.
    pub length_penalty: f64,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 200,
            temperature: 0.8,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 42,
            num_beams: 1,
            length_penalty: 1.0,
        }
    }
}

impl GenerateOptions {
    /// Refuses numbers that make no sense, each by the name of its flag.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first such number.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "must be 0 or more"),
            (
                "top-p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "must be above 0, at most 1",
            ),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "must be between 0 and 1"),
            (
                "repetition-penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "must be above 0; 1 changes nothing",
            ),
            ("length-penalty", self.length_penalty, true, "must be a finite number"),
            ("num-beams", self.num_beams as f64, self.num_beams >= 1, "must be at least 1"),
        ];
        for (flag, value, fine, wanted) in checks {
            if !(value.is_finite() && fine) {
                return Err(Error::Usage(format!("--{flag} {value}: {wanted}")));
            }
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Usage("--stop: an empty text would stop everything".into()));
        }
        Ok(())
    }
}

/// Lowers the logits of the tokens in `history`, each once.
pub fn penalise(logits: &mut [f32], history: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let mut seen: Vec<u32> = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(x) = logits.get_mut(id as usize) {
            *x = if *x > 0.0 {
                (f64::from(*x) / penalty) as f32
            } else {
                (f64::from(*x) * penalty) as f32
            };
        }
    }
}

/// The largest logit's token.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] || logits[best].is_nan() {
            best = i;
        }
    }
    best as u32
}

/// The tokens that may be drawn with their probabilities, the likeliest first.
pub fn distribution(logits: &[f32], options: &GenerateOptions) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .filter(|(_, x)| !x.is_nan())
        .map(|(i, &x)| (i as u32, f64::from(x) / options.temperature))
        .collect();
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.top_k > 0 {
        all.truncate(options.top_k);
    }
    let Some(&(_, largest)) = all.first() else { return all };
    for (_, x) in &mut all {
        *x = libm::exp(*x - largest);
    }
    let total: f64 = all.iter().map(|(_, w)| w).sum();
    if options.top_p < 1.0 {
        let mut reached = 0.0;
        let needed = options.top_p * total;
        let keep = all.iter().position(|(_, w)| {
            reached += w;
            reached >= needed
        });
        all.truncate(keep.map_or(all.len(), |last| last + 1));
    }
    // The largest weight is 1.
    let keep = all.partition_point(|(_, w)| *w >= options.min_p);
    all.truncate(keep.max(1));
    let total: f64 = all.iter().map(|(_, w)| w).sum();
    for (_, w) in &mut all {
        *w /= total;
    }
    all
}

/// The next token after `history`; `n` is how many tokens have been written. Changes `logits`.
pub fn choose(logits: &mut [f32], history: &[u32], options: &GenerateOptions, n: u64) -> u32 {
    penalise(logits, history, options.repetition_penalty);
    if options.temperature == 0.0 {
        return argmax(logits);
    }
    let candidates = distribution(logits, options);
    let mut left = uniform(options.seed, n);
    for &(id, p) in &candidates {
        left -= p;
        if left < 0.0 {
            return id;
        }
    }
    candidates.last().map_or(0, |c| c.0)
}

const GENERATE: u64 = 0x4745_4E45;

/// A number in [0, 1) that is a pure function of its arguments.
fn uniform(seed: u64, n: u64) -> f64 {
    let words = Stream::new(Key { seed, stream: GENERATE, step: n }).block(0);
    let bits = u64::from(words[0]) << 32 | u64::from(words[1]);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> GenerateOptions {
        GenerateOptions { temperature: 1.0, ..GenerateOptions::default() }
    }

    // Probabilities 0.1, 0.4, 0.2, 0.3.
    fn logits() -> Vec<f32> {
        [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect()
    }

    fn ids(options: &GenerateOptions) -> Vec<u32> {
        distribution(&logits(), options).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn filters_keep_what_they_say() {
        assert_eq!(ids(&options()), [1, 3, 2, 0]);
        assert_eq!(ids(&GenerateOptions { top_k: 2, ..options() }), [1, 3]);
        assert_eq!(ids(&GenerateOptions { top_p: 0.69, ..options() }), [1, 3]);
        assert_eq!(ids(&GenerateOptions { top_p: 0.75, ..options() }), [1, 3, 2]);
        assert_eq!(ids(&GenerateOptions { top_p: 1e-9, ..options() }), [1]);
        assert_eq!(ids(&GenerateOptions { min_p: 0.45, ..options() }), [1, 3, 2]);
        let kept = distribution(&logits(), &GenerateOptions { top_k: 2, ..options() });
        assert!((kept[0].1 - 4.0 / 7.0).abs() < 1e-6);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let mut counts = [0u32; 4];
        for n in 0..20_000 {
            counts[choose(&mut logits(), &[], &options(), n) as usize] += 1;
        }
        for (count, p) in counts.iter().zip([0.1, 0.4, 0.2, 0.3]) {
            assert!((f64::from(*count) / 20_000.0 - p).abs() < 0.015, "{counts:?}");
        }
        let draw = |seed| -> Vec<u32> {
            let options = GenerateOptions { seed, ..options() };
            (0..50).map(|n| choose(&mut logits(), &[], &options, n)).collect()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn penalty_greedy_and_ties() {
        let mut x = vec![2.0, -1.0, 3.0];
        penalise(&mut x, &[2, 1, 2], 2.0);
        assert_eq!(x, [2.0, -2.0, 1.5]);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, 3.0, 4.0]), 2);
        let greedy = GenerateOptions { temperature: 0.0, ..options() };
        assert_eq!(choose(&mut logits(), &[], &greedy, 0), 1);
        assert!(distribution(&[f32::NAN], &options()).is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_flag() {
        let refused = |options: GenerateOptions| options.validate().unwrap_err().to_string();
        assert!(
            refused(GenerateOptions { temperature: f64::NAN, ..options() }).contains("temperature")
        );
        assert!(refused(GenerateOptions { top_p: 0.0, ..options() }).contains("top-p"));
        assert!(refused(GenerateOptions { num_beams: 0, ..options() }).contains("num-beams"));
        assert!(options().validate().is_ok());
    }
}
