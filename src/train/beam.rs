//! Beam search: the likeliest text, as far as a few texts kept in parallel can find it.
//!
//! Each of B beams is a text with the sum of its log-probabilities. Every step considers all next tokens of
//! all beams and keeps the B best; a beam that ends is set aside with its score divided by
//! `lengthᵖ`. The search is over when B texts are set aside or the length is reached. Deterministic; ties
//! go to the earlier beam and the smaller token.

use crate::autograd::no_grad;
use crate::error::Result;
use crate::models::LanguageModel;
use crate::tensor::Tensor;

use super::sampling::{Finish, GenerateOptions, check_writes, penalise};

struct Beam {
    ids: Vec<u32>,
    log_probability: f64,
}

impl Beam {
    fn score(&self, options: &GenerateOptions) -> f64 {
        self.log_probability / libm::pow(self.ids.len().max(1) as f64, options.length_penalty)
    }
}

/// The best text after `prompt`, without the end-of-text token.
pub(super) fn search(
    model: &dyn LanguageModel,
    prompt: &[u32],
    options: &GenerateOptions,
    eos: Option<u32>,
) -> Result<(Vec<u32>, Finish)> {
    check_writes(model)?;
    let width = options.num_beams;
    let mut beams = vec![Beam { ids: Vec::new(), log_probability: 0.0 }];
    let mut ended: Vec<Beam> = Vec::new();
    let (mut state, mut logits) = read(model, prompt, &beams)?;
    while beams[0].ids.len() < options.max_new_tokens {
        let vocab = logits.len() / beams.len();
        // The candidates: (log-probability, beam, token).
        let mut all: Vec<(f64, usize, u32)> = Vec::new();
        for (b, beam) in beams.iter().enumerate() {
            let row = &mut logits[b * vocab..][..vocab];
            let history: Vec<u32> = prompt.iter().chain(&beam.ids).copied().collect();
            penalise(row, &history, options.repetition_penalty);
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| libm::exp(f64::from(x - largest))).sum();
            let lse = f64::from(largest) + libm::log(sum);
            let tokens = row.iter().enumerate().filter(|(_, x)| !x.is_nan());
            all.extend(
                tokens.map(|(id, x)| (beam.log_probability + f64::from(*x) - lse, b, id as u32)),
            );
        }
        all.sort_unstable_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        let (mut next, mut rows) = (Vec::new(), Vec::new());
        for (log_probability, b, id) in all {
            if next.len() == width {
                break;
            }
            let mut ids = beams[b].ids.clone();
            if Some(id) == eos {
                ended.push(Beam { ids, log_probability });
                continue;
            }
            ids.push(id);
            next.push(Beam { ids, log_probability });
            rows.push(b as u32);
        }
        if next.is_empty() || ended.len() >= width {
            break;
        }
        let full = state.room() == Some(0);
        beams = next;
        if beams[0].ids.len() == options.max_new_tokens {
            break;
        }
        if full || rows.len() != logits.len() / vocab {
            // The context is full, or the number of beams has changed: read all of it anew.
            (state, logits) = read(model, prompt, &beams)?;
        } else {
            state.reorder(&Tensor::from_slice(&rows, rows.len())?)?;
            let last: Vec<u32> = beams.iter().filter_map(|beam| beam.ids.last().copied()).collect();
            let input = Tensor::from_slice(&last, [last.len(), 1])?;
            logits = no_grad(|| model.next_logits(&input, &mut state))?.to_vec::<f32>()?;
        }
    }
    let running = beams.into_iter().map(|beam| (beam, Finish::Length));
    let all = ended.into_iter().map(|beam| (beam, Finish::EndOfText)).chain(running);
    let best = all.reduce(|a, b| if b.0.score(options) > a.0.score(options) { b } else { a });
    Ok(best.map_or((Vec::new(), Finish::Length), |(beam, finish)| (beam.ids, finish)))
}

/// Reads prompt and beams from the start, or the last half of the context where they do not fit.
fn read(
    model: &dyn LanguageModel,
    prompt: &[u32],
    beams: &[Beam],
) -> Result<(crate::models::State, Vec<f32>)> {
    let mut state = model.new_state(beams.len())?;
    let length = prompt.len() + beams[0].ids.len();
    let keep = match state.room() {
        Some(context) if length >= context => (context / 2).max(1),
        _ => length,
    };
    let mut all: Vec<u32> = Vec::with_capacity(beams.len() * keep);
    for beam in beams {
        all.extend(prompt.iter().chain(&beam.ids).skip(length - keep));
    }
    let input = Tensor::from_slice(&all, [beams.len(), keep])?;
    let logits = no_grad(|| model.next_logits(&input, &mut state))?.to_vec::<f32>()?;
    Ok((state, logits))
}
