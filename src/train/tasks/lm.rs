//! Language modelling: the next token, or masked tokens.
//!
//! A decoder or a recurrent network learns `p(token t+1 | tokens ≤ t)`. An encoder learns to fill gaps: 15 %
//! of the tokens are chosen anew in every epoch; of these 80 % become `[MASK]`, 10 % another token and
//! 10 % stay as they are (Devlin et al. 2019); the loss is on the chosen ones alone, and only for them are
//! logits computed.
//!
//! Along lanes ([`Sampling::Lanes`]) a recurrent state is carried from batch to batch; gradients stop at
//! the border (truncated back-propagation through time).

use super::masking::{MASK, Masking};
use super::{Loss, Metric, Task};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{Inputs, LanguageModel, ModelConfig, Purpose, State, estimate_memory};
use crate::nn::Module;
use crate::ops::CrossEntropy;
use crate::tensor::Tensor;
use crate::text::Tokens;
use crate::text::hash::hash_bytes;
use crate::text::rng::Rng;
use crate::train::data::{Cursor, EvalWindows, LmBatches, Sampling};
use crate::train::metrics;
use crate::train::observer::{Figures, Header};
use crate::train::pretrained::{self, Extras};

/// What a sample is made with while the model learns.
pub type Sampler = Box<dyn FnMut(&dyn LanguageModel) -> Result<String> + Send + Sync>;

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
    /// Of the training data, see [`fingerprint`].
    fingerprint: u64,
}

impl LmTask {
    /// Trains `model` on `train` and evaluates on `valid` (windows of the same length). `masking` is for
    /// encoders, and they need it.
    ///
    /// # Errors
    /// [`Error::Usage`] when model, sampling and masking do not go together.
    pub fn new(
        mut model: Box<dyn LanguageModel>,
        train: LmBatches,
        valid: Option<Tokens>,
        masking: Option<Masking>,
        label_smoothing: f64,
        seed: u64,
    ) -> Result<LmTask> {
        let is_bert = matches!(model.config(), ModelConfig::Bert(_));
        if is_bert != masking.is_some() {
            return Err(Error::Usage(
                "an encoder (bert) is pretrained by masked tokens, all others by the next token"
                    .into(),
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
        model.prepare_for(Purpose::LanguageModel);
        let valid_bytes = valid.as_ref().map_or(0, Tokens::source_bytes);
        let valid = match valid {
            Some(tokens) => Some(EvalWindows::new(tokens, train.batch().max(16), train.context())?),
            None => None,
        };
        Ok(LmTask {
            fingerprint: fingerprint(&train)?,
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
}

/// A hash of up to 64 K ids from all over the text, and of how the text is cut.
fn fingerprint(train: &LmBatches) -> Result<u64> {
    let tokens = train.tokens();
    let shape = [tokens.len(), train.batch(), train.context()];
    let mut all: Vec<u8> = shape.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
    let stride = (tokens.len() >> 16).max(1);
    let mut id = [0u32];
    for at in (0..tokens.len()).step_by(stride) {
        tokens.copy_to(at, &mut id)?;
        all.extend_from_slice(&id[0].to_le_bytes());
    }
    Ok(hash_bytes(&all))
}

/// The loss over masked windows of `ids`, and over how many tokens it is the mean. Logits are computed for the
/// masked places alone.
fn masked_loss(
    model: &dyn LanguageModel,
    masking: &Masking,
    ids: &Tensor,
    smoothing: f64,
    seed: u64,
    first: u64,
) -> Result<(Tensor, u64)> {
    let gaps = masking.apply(ids, model.config().vocab_size(), seed, first)?;
    let hidden = model.hidden(&Inputs::new(&gaps.ids))?;
    let width = hidden.size(-1)?;
    let rows = hidden.reshape([hidden.numel() / width, width])?;
    let options = CrossEntropy { label_smoothing: smoothing, ..CrossEntropy::default() };
    let count = gaps.targets.numel() as u64;
    let masked = rows.index_select(0, &gaps.places)?;
    Ok((model.head_loss(&masked, &gaps.targets, &options)?, count))
}

/// Evaluates a model on all windows: the summed loss in nats and the number of targets. A recurrent model
/// reads lanes and carries its state (`carry`); an encoder fills the gaps that `masking` makes, the same ones
/// every time.
///
/// # Errors
/// When the forward pass fails.
pub fn evaluate(
    model: &dyn LanguageModel,
    windows: &EvalWindows,
    carry: bool,
    masking: Option<&Masking>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(f64, u64)> {
    let options = CrossEntropy::default();
    let (mut sum, mut count, mut seen) = (0.0, 0, 0);
    let mut add = |loss: Tensor, n: u64, read: usize| -> Result<()> {
        sum += loss.item()? * n as f64;
        count += n;
        seen += read as u64;
        progress(seen, windows.targets());
        Ok(())
    };
    no_grad(|| -> Result<()> {
        if carry {
            for lanes in windows.lanes() {
                let mut state = model.new_state(lanes.rows)?;
                for i in 0..lanes.batches {
                    let (inputs, targets) = windows.lane_batch(&lanes, i)?;
                    let hidden = model.hidden_with_state(&inputs, &mut state)?;
                    let n = targets.numel();
                    add(model.head_loss(&hidden, &targets, &options)?, n as u64, n)?;
                }
            }
            return Ok(());
        }
        for i in 0..windows.batches() {
            let (inputs, targets) = windows.get(i)?;
            let read = targets.numel();
            match masking {
                Some(masking) => {
                    let first = (i * windows.batch()) as u64;
                    let (loss, n) = masked_loss(model, masking, &inputs, 0.0, MASK, first)?;
                    add(loss, n, read)?;
                }
                None => {
                    let hidden = model.hidden(&Inputs::new(&inputs))?;
                    add(model.head_loss(&hidden, &targets, &options)?, read as u64, read)?;
                }
            }
        }
        Ok(())
    })?;
    Ok((sum, count))
}

/// The figures of a language model from its summed loss in nats over `count` targets.
pub fn lm_figures(sum: f64, count: u64, bytes: Option<u64>) -> Figures {
    let mean = sum / count as f64;
    let mut figures = Figures(vec![("val_loss", mean), ("perplexity", metrics::perplexity(mean))]);
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
        if let Some(masking) = &self.masking {
            let seed = Rng::new(self.seed ^ MASK, at.epoch).bits();
            let first = at.index * self.train.batch() as u64;
            let smoothing = self.label_smoothing;
            let (loss, count) =
                masked_loss(self.model.as_ref(), masking, &inputs, smoothing, seed, first)?;
            let tokens = inputs.numel() as u64;
            return Ok(Loss { loss, count, tokens });
        }
        self.loss_of(at, &[inputs, targets])
    }

    fn batch(&self, at: Cursor) -> Result<Option<[Tensor; 2]>> {
        // How many tokens are masked differs from batch to batch.
        match self.masking {
            Some(_) => Ok(None),
            None => self.train.get(at).map(|(inputs, targets)| Some([inputs, targets])),
        }
    }

    fn loss_of(&mut self, at: Cursor, [inputs, targets]: &[Tensor; 2]) -> Result<Loss> {
        let tokens = inputs.numel() as u64;
        let hidden = if self.carries() {
            let mut state = match self.state.take() {
                Some(state) if at.index > 0 => state,
                _ => self.model.new_state(self.train.batch())?,
            };
            let hidden = self.model.hidden_with_state(inputs, &mut state)?;
            self.state = Some(state);
            hidden
        } else {
            self.model.hidden(&Inputs::new(inputs))?
        };
        let options =
            CrossEntropy { label_smoothing: self.label_smoothing, ..CrossEntropy::default() };
        let loss = self.model.head_loss(&hidden, targets, &options)?;
        Ok(Loss { loss, count: tokens, tokens })
    }

    fn begin_step(&mut self) {
        self.before = self.state.clone();
    }

    fn abandon_step(&mut self) {
        self.state = self.before.take();
    }

    fn carried(&self) -> Vec<(String, Tensor)> {
        self.state.as_ref().map_or(Vec::new(), State::tensors)
    }

    fn restore_carried(&mut self, carried: &[(String, Tensor)]) -> Result<()> {
        self.state = None;
        if self.carries() && !carried.is_empty() {
            let mut state = self.model.new_state(self.train.batch())?;
            // A file has its own order; the state wants its own.
            let mut ordered = state.tensors();
            for (name, tensor) in &mut ordered {
                if let Some((_, saved)) = carried.iter().find(|(n, _)| n == name) {
                    *tensor = saved.clone();
                }
            }
            state.restore(&ordered, self.train.context())?;
            self.state = Some(state);
        }
        Ok(())
    }

    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        let Some(windows) = &self.valid else { return Ok(None) };
        let (model, carry) = (self.model.as_ref(), self.carries());
        let (sum, count) = evaluate(model, windows, carry, self.masking.as_ref(), progress)?;
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

    fn fingerprint(&self) -> u64 {
        self.fingerprint
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
        let (batch, context) = (self.train.batch(), self.train.context());
        header.memory.activations =
            estimate_memory(self.model.config(), batch, context).activations;
    }

    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.extras.write(write)?;
        pretrained::write_model(&self.model, self.model.config(), write)
    }

    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        pretrained::read_weights(&self.model, self.model.config(), read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::build;
    use crate::ops::cross_entropy;

    fn task(model: &str) -> LmTask {
        let config = ModelConfig::preset(model, "nano", 20, Some(6), None).unwrap();
        let ids: Vec<u32> = (0..50u32).map(|i| i * 7 % 20).collect();
        let tokens = Tokens::from_vec(ids, 20, 0).unwrap();
        let batches = LmBatches::new(tokens.clone(), 2, 6, Sampling::Lanes, 1).unwrap();
        LmTask::new(build(&config, 3).unwrap(), batches, Some(tokens), None, 0.0, 1).unwrap()
    }

    /// Truncated back-propagation: what the second batch predicts follows from the first, its gradient
    /// does not reach back.
    #[test]
    fn a_state_goes_along_the_lanes_and_gradients_stop_at_the_border() {
        for model in ["lstm", "gru", "rnn"] {
            let mut task = task(model);
            let at = |index| Cursor { epoch: 0, index };
            let loss = |task: &mut LmTask, index| task.loss(at(index)).unwrap().loss;
            loss(&mut task, 0);
            let second = loss(&mut task, 1);

            // The same 12 tokens of both lanes in one go: the mean over both halves.
            let lane = |start: usize| {
                let mut ids = vec![0; 13];
                task.train.tokens().copy_to(start, &mut ids).unwrap();
                ids
            };
            let ids = [lane(0), lane(24)].concat();
            let ids = Tensor::from_slice(&ids, [2, 13]).unwrap();
            let hidden = task.model.hidden(&Inputs::new(&ids.narrow(1, 0, 12).unwrap())).unwrap();
            let logits = task.model.logits(&hidden.narrow(1, 6, 6).unwrap()).unwrap();
            let targets = ids.narrow(1, 7, 6).unwrap();
            let whole = cross_entropy(&logits, &targets, &CrossEntropy::default()).unwrap();
            let (a, b) = (second.item().unwrap(), whole.item().unwrap());
            assert!((a - b).abs() < 1e-5, "{model}: {a} carried, {b} in one go");

            let gradient = |loss: Tensor, task: &LmTask| {
                task.model.zero_grad();
                loss.backward().unwrap();
                let mut all = Vec::new();
                task.model.for_each_parameter(&mut |name, p| {
                    if name == "rnn.weight_hh_l0" {
                        all = p.grad().unwrap().to_vec::<f32>().unwrap();
                    }
                });
                all
            };
            let (stopped, full) = (gradient(second, &task), gradient(whole, &task));
            assert_ne!(stopped, full, "{model}: the gradient went through the border");

            // A new pass begins without a state.
            let (first, again) = (loss(&mut task, 0), loss(&mut task, 0));
            assert_eq!(first.item().unwrap(), again.item().unwrap());
        }
    }

    #[test]
    fn an_evaluation_that_carries_its_state_reads_the_text_as_one() {
        let mut task = task("lstm");
        let figures = task.evaluate(&mut |_, _| {}).unwrap().unwrap();
        let tokens = task.train.tokens().clone();
        let windows = EvalWindows::new(tokens.clone(), 1, 6).unwrap();
        let (sum, n) = evaluate(task.model(), &windows, true, None, &mut |_, _| {}).unwrap();
        let mut ids = vec![0; 50];
        tokens.copy_to(0, &mut ids).unwrap();
        let ids = Tensor::from_slice(&ids, [1, 50]).unwrap();
        let whole = task
            .model()
            .loss(&ids.narrow(1, 0, 49).unwrap(), &ids.narrow(1, 1, 49).unwrap())
            .unwrap();
        assert_eq!(n, 49);
        assert!((sum / 49.0 - whole.item().unwrap()).abs() < 1e-5);
        // In several lanes only the first tokens of a lane lack what came before.
        assert!((figures.get("val_loss").unwrap() - sum / 49.0).abs() < 0.5);
    }
}
