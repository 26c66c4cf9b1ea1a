//! Language modelling: the next token, or masked tokens.
//!
//! A decoder or a recurrent network learns `p(token t+1 | tokens ≤ t)`. An encoder learns to fill gaps: 15 %
//! of the tokens are chosen anew in every epoch; of these 80 % become `[MASK]`, 10 % another token and
//! 10 % stay as they are (Devlin et al. 2019); the loss is on the chosen ones alone, and only for them are
//! logits computed.
//!
//! Along lanes ([`Sampling::Lanes`]) a recurrent state is carried from batch to batch; gradients stop at
//! the border (truncated back-propagation through time).

use super::{Loss, Metric, Task};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{Inputs, LanguageModel, ModelConfig, State};
use crate::nn::Module;
use crate::ops::{CrossEntropy, cross_entropy};
use crate::tensor::{DType, Tensor};
use crate::text::rng::Rng;
use crate::text::Tokens;
use crate::train::data::{Cursor, EvalWindows, LmBatches, Sampling};
use crate::train::metrics;
use crate::train::observer::{Figures, Header};
use crate::train::pretrained::Extras;

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

/// What a sample is made with while the model learns.
pub type Sampler = Box<dyn FnMut(&dyn LanguageModel) -> Result<String> + Send>;

/// What it takes to train a language model.
pub struct LmTask {
    model: Box<dyn LanguageModel>,
    train: LmBatches,
    valid: Option<EvalWindows>,
    valid_bytes: u64,
    label_smoothing: f64,
    masking: Option<Masking>,
    seed: u64,
    /// The recurrent state after the last batch, and before the step that runs.
    state: Option<State>,
    before: Option<State>,
    sampler: Option<Sampler>,
    extras: Extras,
}

const MASK: u64 = 0x4D41_534B;

impl LmTask {
    /// Trains `model` on `train` and evaluates on `valid` (windows of the same length). `masking` is for
    /// encoders, and they need it.
    ///
    /// # Errors
    /// [`Error::Usage`] when model, sampling and masking do not go together.
    pub fn new(
        model: Box<dyn LanguageModel>,
        train: LmBatches,
        valid: Option<Tokens>,
        masking: Option<Masking>,
        label_smoothing: f64,
        seed: u64,
    ) -> Result<LmTask> {
        let is_bert = matches!(model.config(), ModelConfig::Bert(_));
        if is_bert != masking.is_some() {
            return Err(Error::Usage(
                "an encoder (bert) is pretrained by masked tokens, all others by the next token".into(),
            ));
        }
        let lanes = train.sampling() == Sampling::Lanes;
        if lanes && !matches!(model.config(), ModelConfig::Rnn(_)) {
            return Err(Error::Usage(
                "--sampling lanes carries a recurrent state; use it with rnn, lstm or gru".into(),
            ));
        }
        let framed = masking.as_ref().is_some_and(|m| m.frame.is_some());
        let window = train.context() + if framed { 2 } else { 0 };
        let longest = model.config().context_length();
        if !matches!(model.config(), ModelConfig::Rnn(_)) && window > longest {
            return Err(Error::Usage(format!(
                "--context-length {window}: the model has positions for {longest} tokens only"
            )));
        }
        if train.tokens().vocab_size() > model.config().vocab_size() {
            return Err(Error::Data(format!(
                "the text was tokenised with {} ids, the model knows {}",
                train.tokens().vocab_size(),
                model.config().vocab_size()
            )));
        }
        // What the loss does not reach is not trained: an encoder's pooler.
        if is_bert {
            model.set_requires_grad(false, &mut |name| name.contains("pooler."));
        }
        let valid_bytes = valid.as_ref().map_or(0, Tokens::source_bytes);
        let valid = match valid {
            Some(tokens) => Some(EvalWindows::new(tokens, train.batch().max(16), train.context())?),
            None => None,
        };
        Ok(LmTask {
            model,
            train,
            valid,
            valid_bytes,
            label_smoothing,
            masking,
            seed,
            state: None,
            before: None,
            sampler: None,
            extras: Extras::default(),
        })
    }

    /// Shows what the model writes after each evaluation.
    pub fn with_sampler(mut self, sampler: Sampler) -> LmTask {
        self.sampler = Some(sampler);
        self
    }

    /// Adds files (the tokenizer) to every folder the model is saved in.
    pub fn with_extras(mut self, extras: Extras) -> LmTask {
        self.extras = extras;
        self
    }

    /// The model.
    pub fn model(&self) -> &dyn LanguageModel {
        self.model.as_ref()
    }

    /// Gives the model back.
    pub fn into_model(self) -> Box<dyn LanguageModel> {
        self.model
    }

    fn carries(&self) -> bool {
        self.train.sampling() == Sampling::Lanes
    }

    /// The loss over masked windows; `targets` are the ids themselves. Gives loss and count.
    fn masked_loss(
        &self,
        masking: &Masking,
        ids: &Tensor,
        smoothing: f64,
        seed: u64,
        first: u64,
    ) -> Result<(Tensor, u64)> {
        let window = masking.apply(ids, self.model.config().vocab_size(), seed, first)?;
        let hidden = self.model.hidden(&Inputs::new(&window.ids))?;
        let width = hidden.size(-1)?;
        let rows = hidden.reshape([hidden.numel() / width, width])?;
        let logits = self.model.logits(&rows.index_select(0, &window.places)?)?;
        let options = CrossEntropy { label_smoothing: smoothing, ..CrossEntropy::default() };
        let count = window.targets.numel() as u64;
        Ok((cross_entropy(&logits, &window.targets, &options)?, count))
    }

    /// Mean losses of one evaluation batch after the other, each with its count of targets.
    fn each_eval_batch(
        &self,
        windows: &EvalWindows,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(f64, u64)> {
        let options = CrossEntropy::default();
        let (mut sum, mut count) = (0.0, 0);
        let mut add = |loss: Tensor, n: u64| -> Result<()> {
            sum += loss.item()? * n as f64;
            count += n;
            progress(count, windows.targets());
            Ok(())
        };
        if self.carries() {
            for chunk in windows.lanes() {
                let mut state = self.model.new_state(chunk.rows)?;
                for i in 0..chunk.batches {
                    let (inputs, targets) = windows.lane_batch(&chunk, i)?;
                    let hidden = self.model.hidden_with_state(&inputs, &mut state)?;
                    let logits = self.model.logits(&hidden)?;
                    add(cross_entropy(&logits, &targets, &options)?, targets.numel() as u64)?;
                }
            }
            return Ok((sum, count));
        }
        for i in 0..windows.batches() {
            let (inputs, targets) = windows.get(i)?;
            match &self.masking {
                // The same places in every evaluation: the seed of the masks is fixed.
                Some(masking) => {
                    let first = (i * windows.batch()) as u64;
                    let (loss, n) = self.masked_loss(masking, &inputs, 0.0, MASK, first)?;
                    add(loss, n)?;
                }
                None => {
                    let logits = self.model.logits(&self.model.hidden(&Inputs::new(&inputs))?)?;
                    add(cross_entropy(&logits, &targets, &options)?, targets.numel() as u64)?;
                }
            }
        }
        Ok((sum, count))
    }
}

/// The figures of a language model from its summed loss in nats over `count` targets.
pub fn lm_figures(sum: f64, count: u64, bytes: Option<u64>) -> Figures {
    let mean = sum / count as f64;
    let mut figures =
        Figures(vec![("val_loss", mean), ("perplexity", metrics::perplexity(mean))]);
    if let Some(bits) = bytes.and_then(|bytes| metrics::bits_per_byte(sum, bytes)) {
        figures.0.push(("bits_per_byte", bits));
    }
    figures
}

impl Task for LmTask {
    fn module(&self) -> &dyn Module {
        // The trait object of the model is a module; the box forwards to it.
        &self.model
    }

    fn batches_per_epoch(&self) -> u64 {
        self.train.batches_per_epoch()
    }

    fn loss(&mut self, at: Cursor) -> Result<Loss> {
        let (inputs, targets) = self.train.get(at)?;
        let tokens = inputs.numel() as u64;
        if let Some(masking) = &self.masking {
            let seed = Rng::new(self.seed ^ MASK, at.epoch).bits();
            let first = at.index * self.train.batch() as u64;
            let (loss, count) =
                self.masked_loss(masking, &inputs, self.label_smoothing, seed, first)?;
            return Ok(Loss { loss, count, tokens });
        }
        let hidden = if self.carries() {
            let mut state = match self.state.take() {
                Some(state) if at.index > 0 => state,
                _ => self.model.new_state(self.train.batch())?,
            };
            let hidden = self.model.hidden_with_state(&inputs, &mut state)?;
            self.state = Some(state.detach());
            hidden
        } else {
            self.model.hidden(&Inputs::new(&inputs))?
        };
        let options =
            CrossEntropy { label_smoothing: self.label_smoothing, ..CrossEntropy::default() };
        let logits = self.model.logits(&hidden)?;
        drop(hidden);
        let loss = cross_entropy(&logits, &targets, &options)?;
        Ok(Loss { loss, count: tokens, tokens })
    }

    fn begin_step(&mut self) {
        self.before = self.state.clone();
    }

    fn abandon_step(&mut self) {
        self.state = self.before.take();
    }

    fn carried(&self) -> Vec<(String, Tensor)> {
        self.state.as_ref().map_or(Vec::new(), State::named_tensors)
    }

    fn restore_carried(&mut self, carried: &[(String, Tensor)]) -> Result<()> {
        self.state = None;
        if self.carries() && !carried.is_empty() {
            let mut state = self.model.new_state(self.train.batch())?;
            state.load_named(carried)?;
            self.state = Some(state);
        }
        Ok(())
    }

    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        let Some(windows) = &self.valid else { return Ok(None) };
        let (sum, count) = no_grad(|| self.each_eval_batch(windows, progress))?;
        let bytes = self.masking.is_none().then_some(self.valid_bytes);
        Ok(Some(lm_figures(sum, count, bytes)))
    }

    fn metric(&self) -> Metric {
        Metric { name: "val_loss", greater_is_better: false }
    }

    fn sample(&mut self) -> Result<Option<String>> {
        match &mut self.sampler {
            Some(sampler) => sampler(self.model.as_ref()).map(Some),
            None => Ok(None),
        }
    }

    fn forward_flops_per_token(&self) -> u64 {
        let (batch, context) = (self.train.batch(), self.train.context());
        self.model.forward_flops(batch, context) / (batch * context).max(1) as u64
    }

    fn describe(&self, header: &mut Header) {
        let objective = if self.masking.is_some() { "masked tokens" } else { "next token" };
        header.title = format!("pretrain {} ({objective})", self.model.config().kind());
        header.model = serde_json::to_value(self.model.config()).unwrap_or_default();
        let train = self.train.tokens();
        header.data.push(("train tokens".into(), train.len() as u64));
        if train.source_bytes() > 0 {
            header.data.push(("train bytes".into(), train.source_bytes()));
        }
        if let Some(valid) = &self.valid {
            header.data.push(("validation tokens".into(), valid.tokens().len() as u64));
        }
        header.data.push(("vocabulary".into(), self.model.config().vocab_size() as u64));
        header.batch = format!("{} of {} tokens", header.batch, self.train.context());
        let (batch, context) = (self.train.batch() as u64, self.train.context() as u64);
        header.memory.activations = activation_bytes(self.model.config(), batch, context);
    }

    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.extras.write(write)?;
        crate::train::pretrained::write_model(self.model(), self.model.config(), write)
    }

    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        crate::train::pretrained::read_model(&self.model, self.model.config(), read)
    }
}

/// What the forward pass keeps, in bytes: some 16 vectors a layer and token for a Transformer, some 8 for
/// a recurrent layer, and the logits twice. Rough, for the header.
pub fn activation_bytes(config: &ModelConfig, batch: u64, context: u64) -> u64 {
    let vectors = if matches!(config, ModelConfig::Rnn(_)) { 8 } else { 16 };
    let per_token =
        vectors * (config.num_layers() * config.hidden_size()) as u64 + 2 * config.vocab_size() as u64;
    4 * batch * context * per_token
}

/// A batch with gaps.
struct Gaps {
    /// `[B, T]`, with gaps.
    ids: Tensor,
    /// The gaps, as places in the batch seen as one row; `[N]`.
    places: Tensor,
    /// What stood there; `[N]`.
    targets: Tensor,
}

impl Masking {
    /// Hides tokens of `ids` `[B, T]`. Row r draws from stream `first + r` of `seed`. Each row gets at
    /// least one gap if it has a token that may be hidden.
    fn apply(&self, ids: &Tensor, vocab_size: usize, seed: u64, first: u64) -> Result<Gaps> {
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
        assert_ne!(masking.apply(&ids, 1000, 4, 0).unwrap().places.to_vec::<u32>().unwrap(), places);
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
