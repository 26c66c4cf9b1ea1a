//! Language modelling line by line: each line is an example by itself.
//!
//! ```text
//! next token      start a n n a end      predicts   a n n a end
//! masked tokens   [CLS] a day [SEP]      with gaps to fill
//! ```
//!
//! Where a stream of text ([`lm`](super::lm)) cuts windows from anywhere, no line here sees another.
//! Short lines are filled up to the longest of their batch, and the loss is the mean over what is
//! predicted, ends included and padding left out: for a file of names the nats a character of
//! Karpathy's makemore.

use super::lm::{Sampler, lm_figures};
use super::masking::{MASK, Masking};
use super::{Loss, Metric, Task};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{LanguageModel, ModelConfig, Purpose, estimate_memory};
use crate::nn::Module;
use crate::ops::CrossEntropy;
use crate::tensor::{DType, Tensor};
use crate::text::hash::hash_bytes;
use crate::text::rng::{Rng, shuffled};
use crate::train::data::{Cursor, Padded, Sequence};
use crate::train::observer::{Figures, Header};
use crate::train::pretrained::{self, Extras};

/// Lines as token ids, each with its start and its end.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The lines.
    pub rows: Vec<Sequence>,
    /// Lines that were cut to what the model reads.
    pub truncated: u64,
    /// Bytes of text, line ends included.
    pub bytes: u64,
}

impl Lines {
    /// How many lines.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// How the lines of one model are read: what it fills short rows with, and how it makes gaps.
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// Lines of a batch.
    pub batch_size: usize,
    /// The id that fills short rows.
    pub pad_id: u32,
    /// For encoders; without a frame, for a line has its own.
    pub masking: Option<Masking>,
    /// The share of the target's mass that goes to all tokens alike.
    pub label_smoothing: f64,
    /// The seed of the order and the gaps.
    pub seed: u64,
}

/// What it takes to train a language model on lines.
pub struct LinesTask {
    model: Box<dyn LanguageModel>,
    train: Lines,
    valid: Option<Lines>,
    options: LineOptions,
    /// The order of one epoch, made when the epoch begins.
    order: Option<(u64, Vec<usize>)>,
    sampler: Option<Sampler>,
    extras: Extras,
}

impl LinesTask {
    /// Trains `model` on `train` and evaluates on `valid`.
    ///
    /// # Errors
    /// When there is no line, or masking and model do not go together.
    pub fn new(
        mut model: Box<dyn LanguageModel>,
        train: Lines,
        valid: Option<Lines>,
        options: LineOptions,
    ) -> Result<LinesTask> {
        if train.is_empty() {
            return Err(Error::Data("there is no line to train on".into()));
        }
        if matches!(model.config(), ModelConfig::Bert(_)) != options.masking.is_some() {
            return Err(Error::Usage(
                "an encoder (bert) is pretrained by masked tokens, all others by the next token"
                    .into(),
            ));
        }
        model.prepare_for(Purpose::LanguageModel);
        let valid = valid.filter(|valid| !valid.is_empty());
        let (order, sampler, extras) = (None, None, Extras::default());
        Ok(LinesTask { model, train, valid, options, order, sampler, extras })
    }

    /// Shows what the model writes after each evaluation.
    pub fn with_sampler(mut self, sampler: Sampler) -> LinesTask {
        self.sampler = Some(sampler);
        self
    }

    /// Adds files (the tokenizer) to every folder the model is saved in.
    pub fn with_extras(mut self, extras: Extras) -> LinesTask {
        self.extras = extras;
        self
    }
}

/// The mean loss over some lines and over how many targets it is. `first` numbers the rows for the gaps.
fn loss(
    model: &dyn LanguageModel,
    rows: &[&Sequence],
    options: &LineOptions,
    smoothing: f64,
    (seed, first): (u64, u64),
) -> Result<(Tensor, u64)> {
    let entropy = CrossEntropy { label_smoothing: smoothing, ..CrossEntropy::default() };
    let padded = Padded::new(rows.iter().copied(), options.pad_id)?;
    let mut inputs = padded.inputs();
    inputs.token_type_ids = None;
    if let Some(masking) = &options.masking {
        // [CLS], [SEP] and the padding are special tokens, which are never chosen.
        let gaps = masking.apply(&padded.ids, model.config().vocab_size(), seed, first)?;
        inputs.ids = &gaps.ids;
        let hidden = model.hidden(&inputs)?;
        let width = hidden.size(-1)?;
        let flat = hidden.reshape([hidden.numel() / width, width])?;
        let masked = flat.index_select(0, &gaps.places)?;
        let n = gaps.targets.numel() as u64;
        return Ok((model.head_loss(&masked, &gaps.targets, &entropy)?, n));
    }
    // Inputs are all but the last token of each row, targets all but the first.
    let (b, t) = (rows.len(), padded.ids.shape()[1] - 1);
    let mut shown = Tensor::full([b, t], f64::from(options.pad_id), DType::U32)?;
    let mut targets = Tensor::full([b, t], f64::from(CrossEntropy::IGNORE), DType::U32)?;
    let both = shown.make_mut::<u32>()?.chunks_mut(t).zip(targets.make_mut::<u32>()?.chunks_mut(t));
    let mut count = 0;
    for ((shown, target), row) in both.zip(rows) {
        let n = row.ids.len() - 1;
        shown[..n].copy_from_slice(&row.ids[..n]);
        target[..n].copy_from_slice(&row.ids[1..]);
        count += n as u64;
    }
    // What comes after the end of a row is never seen by what comes before it: no mask is needed.
    let hidden = model.hidden(&crate::models::Inputs::new(&shown))?;
    Ok((model.head_loss(&hidden, &targets, &entropy)?, count))
}

/// Evaluates a model on lines: the summed loss in nats and the number of targets. Lines of one length
/// go together; an encoder fills the same gaps every time.
///
/// # Errors
/// When the forward pass fails.
pub fn evaluate(
    model: &dyn LanguageModel,
    lines: &Lines,
    options: &LineOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(f64, u64)> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|&i| lines.rows[i].ids.len());
    let (mut sum, mut count, mut done) = (0.0, 0, 0);
    for chunk in order.chunks(options.batch_size.max(32)) {
        let rows: Vec<&Sequence> = chunk.iter().map(|&i| &lines.rows[i]).collect();
        let (loss, n) = no_grad(|| loss(model, &rows, options, 0.0, (MASK, done)))?;
        sum += loss.item()? * n as f64;
        count += n;
        done += chunk.len() as u64;
        progress(done, lines.len() as u64);
    }
    Ok((sum, count))
}

impl Task for LinesTask {
    fn module(&self) -> &dyn Module {
        &self.model
    }

    fn batches_per_epoch(&self) -> u64 {
        self.train.len().div_ceil(self.options.batch_size) as u64
    }

    fn loss(&mut self, at: Cursor) -> Result<Loss> {
        let (seed, n) = (self.options.seed, self.train.len());
        if self.order.as_ref().is_none_or(|(epoch, _)| *epoch != at.epoch) {
            self.order = Some((at.epoch, shuffled(n, Rng::new(seed, at.epoch).bits())));
        }
        let Some((_, order)) = &self.order else { unreachable!("just made") };
        let first = at.index as usize * self.options.batch_size;
        let chosen = &order[first..n.min(first + self.options.batch_size)];
        let rows: Vec<&Sequence> = chosen.iter().map(|&i| &self.train.rows[i]).collect();
        let gaps = (Rng::new(seed ^ MASK, at.epoch).bits(), first as u64);
        let smoothing = self.options.label_smoothing;
        let (loss, count) = loss(self.model.as_ref(), &rows, &self.options, smoothing, gaps)?;
        let tokens = rows.iter().map(|row| row.ids.len() as u64).sum();
        Ok(Loss { loss, count, tokens })
    }

    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        let Some(valid) = &self.valid else { return Ok(None) };
        let (sum, count) = evaluate(self.model.as_ref(), valid, &self.options, progress)?;
        let bytes = self.options.masking.is_none().then_some(valid.bytes);
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
        let mean = mean_length(&self.train);
        self.model.forward_flops(1, mean) / mean as u64
    }

    fn fingerprint(&self) -> u64 {
        let ids = self.train.rows.iter().flat_map(|row| &row.ids);
        let mut all: Vec<u8> = (self.options.batch_size as u64).to_le_bytes().to_vec();
        ids.for_each(|id| all.extend_from_slice(&id.to_le_bytes()));
        hash_bytes(&all)
    }

    fn describe(&self, header: &mut Header) {
        let objective = if self.options.masking.is_some() { "masked tokens" } else { "next token" };
        header.title =
            format!("pretrain {} ({objective}, line by line)", self.model.config().kind());
        header.model = serde_json::to_value(self.model.config()).unwrap_or_default();
        header.data.push(("train lines".into(), self.train.len() as u64));
        if let Some(valid) = &self.valid {
            header.data.push(("validation lines".into(), valid.len() as u64));
        }
        if self.train.truncated > 0 {
            header.data.push(("lines cut to the context".into(), self.train.truncated));
        }
        header.data.push(("vocabulary".into(), self.model.config().vocab_size() as u64));
        let mean = mean_length(&self.train);
        header.memory.activations =
            estimate_memory(self.model.config(), self.options.batch_size, mean).activations;
    }

    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.extras.write(write)?;
        pretrained::write_model(&self.model, self.model.config(), write)
    }

    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        pretrained::read_weights(&self.model, self.model.config(), read)
    }
}

fn mean_length(lines: &Lines) -> usize {
    let all: usize = lines.rows.iter().map(|row| row.ids.len()).sum();
    (all / lines.len().max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Inputs, build};
    use crate::ops::cross_entropy;

    fn lines(rows: &[&[u32]]) -> Lines {
        let row = |ids: &&[u32]| Sequence { ids: ids.to_vec(), token_type_ids: vec![0; ids.len()] };
        Lines { rows: rows.iter().map(row).collect(), truncated: 0, bytes: 0 }
    }

    fn options(masking: Option<Masking>) -> LineOptions {
        LineOptions { batch_size: 3, pad_id: 0, masking, label_smoothing: 0.0, seed: 5 }
    }

    /// The loss is the mean over all targets of all lines, as if each line were read alone.
    #[test]
    fn the_loss_is_that_of_each_line_alone() {
        let all = lines(&[&[1, 5, 6, 1], &[1, 7, 1], &[1, 8, 9, 4, 2, 1], &[1, 1]]);
        for model in ["gpt", "gru", "lstm", "rnn"] {
            let config = ModelConfig::preset(model, "nano", 12, Some(8), None).unwrap();
            let model = build(&config, 3).unwrap();
            let (mut sum, mut n) = (0.0, 0);
            for row in &all.rows {
                let ids = Tensor::from_slice(&row.ids, [1, row.ids.len()]).unwrap();
                let t = row.ids.len() - 1;
                let hidden = model.hidden(&Inputs::new(&ids.narrow(1, 0, t).unwrap())).unwrap();
                let logits = model.logits(&hidden).unwrap();
                let targets = ids.narrow(1, 1, t).unwrap();
                let loss = cross_entropy(&logits, &targets, &CrossEntropy::default()).unwrap();
                sum += loss.item().unwrap() * t as f64;
                n += t as u64;
            }
            let mut told = 0;
            let (found, count) =
                evaluate(model.as_ref(), &all, &options(None), &mut |done, _| told = done).unwrap();
            assert_eq!((count, told), (n, 4));
            assert!((found - sum).abs() < 1e-4, "{found} {sum}");
        }
    }

    #[test]
    fn every_line_is_trained_on_once_an_epoch() {
        let config = ModelConfig::preset("gpt", "nano", 12, Some(8), None).unwrap();
        let rows: Vec<Vec<u32>> = (2..9).map(|id| vec![1, id, 1]).collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let model = build(&config, 3).unwrap();
        let mut task = LinesTask::new(model, lines(&rows), None, options(None)).unwrap();
        assert_eq!(task.batches_per_epoch(), 3);
        let count: u64 =
            (0..3).map(|index| task.loss(Cursor { epoch: 1, index }).unwrap().count).sum();
        assert_eq!(count, 14);
        let (_, order) = task.order.clone().unwrap();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        task.loss(Cursor { epoch: 2, index: 0 }).unwrap();
        assert_ne!(task.order.unwrap().1, order);
    }

    #[test]
    fn gaps_of_an_encoder_fall_on_text_alone() {
        let mut special = vec![false; 12];
        special[..4].fill(true);
        let masking =
            Masking { probability: 0.5, mask_id: 3, frame: None, special, continues: None };
        let config = ModelConfig::preset("bert", "nano", 12, Some(8), None).unwrap();
        let model = build(&config, 3).unwrap();
        let all = lines(&[&[1, 5, 6, 7, 8, 2], &[1, 7, 2]]);
        let found =
            evaluate(model.as_ref(), &all, &options(Some(masking)), &mut |_, _| {}).unwrap();
        assert!(found.1 >= 2 && found.1 <= 5, "{found:?}");
        assert!((found.0 / found.1 as f64 - (12f64).ln()).abs() < 0.5, "{found:?}");
        let model = build(&config, 3).unwrap();
        assert!(LinesTask::new(model, all, None, options(None)).is_err());
    }
}
