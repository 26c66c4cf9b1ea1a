//! Models: whole networks, their sizes, their heads, and the folders they live in.
//!
//! # The idea
//!
//! A language model is a *body* that turns token ids into hidden states and a *head* that turns
//! hidden states into scores of tokens. [`LanguageModel`] keeps the two apart: generation asks the
//! head for the last position only, a classifier puts another head on the same body. Three bodies
//! stand behind the trait: [`gpt`], [`bert`] and the recurrent [`rnn_lm`]. [`build`] makes any of
//! them from a [`ModelConfig`].
//!
//! # Reading order
//!
//! [`config`] and [`sizes`]: what there is. [`gpt`], [`bert`], [`rnn_lm`]: the bodies. [`labels`]: what
//! models that give labels share; [`heads`]: those on a body; [`word_encoder`]: those on words. [`on_disk`]: names, layout
//! and `config.json`; [`folder`]: Hugging Face's folders, read and written; [`peft`]: adapters. [`tutorial`]: the
//! two models of the tutorial.

pub mod bert;
pub mod config;
pub mod folder;
pub mod gpt;
pub mod heads;
pub mod labels;
pub mod on_disk;
pub mod peft;
pub mod rnn_lm;
pub mod safetensors;
pub mod sizes;
pub mod tagger;
pub mod tutorial;
pub mod word_classifier;
pub mod word_encoder;
pub mod word_tagger;

pub use bert::Bert;
pub use config::{BertConfig, GptConfig, ModelConfig, RnnConfig, RnnKind};
pub use folder::{Pretrained, from_pretrained, load_pretrained, save_pretrained};
pub use gpt::Gpt;
pub use heads::{SequenceClassifier, TokenClassifier};
pub use labels::{Classifier, LabelModel, Sentence};
pub use rnn_lm::RnnLm;
pub use sizes::{MemoryEstimate, estimate_memory, parameters_by_module};
pub use tagger::Tagger;
pub use tutorial::{RnnModel, TransformerModel};
pub use word_classifier::WordClassifier;
pub use word_encoder::{WordEncoder, WordEncoderConfig};
pub use word_tagger::{WordTagger, WordTaggerConfig};

use crate::error::{Error, Result};
use crate::nn::{KvCache, Module, Parameter, RecurrentState, StateDict};
use crate::ops::{self, CrossEntropy};
use crate::tensor::{DType, Device, Tensor};

/// A batch of texts as token ids. Rows are filled up to one length.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[B, T]`, `u32`.
    pub ids: &'a Tensor,
    /// `[B, T]`, `u32`: segments of a pair, or a flag on some tokens; all 0 where `None`.
    pub token_type_ids: Option<&'a Tensor>,
    /// `[B, T]`, `u32`: 1 where a row is filled up, the opposite of Hugging Face's
    /// `attention_mask`.
    pub padding_mask: Option<&'a Tensor>,
    /// How many tokens of each row count; the rest is filled up. May stand beside `padding_mask` or
    /// instead of it.
    pub lengths: Option<&'a [usize]>,
}

impl<'a> Inputs<'a> {
    /// Rows without padding.
    pub fn new(ids: &'a Tensor) -> Inputs<'a> {
        Inputs { ids, token_type_ids: None, padding_mask: None, lengths: None }
    }

    /// B and T.
    ///
    /// # Errors
    /// When the parts do not have one shape.
    #[track_caller]
    pub fn size(&self) -> Result<(usize, usize)> {
        let &[b, t] = self.ids.shape() else {
            return Err(Error::op("Inputs", format!("ids {:?} are not [B, T]", self.ids.shape())));
        };
        let others = [("token_type_ids", self.token_type_ids), ("padding_mask", self.padding_mask)];
        for (what, other) in others {
            if let Some(other) = other
                && (other.shape() != [b, t] || other.dtype() != DType::U32)
            {
                return Err(Error::op(
                    "Inputs",
                    format!(
                        "{what} is {} {:?}, expected u32 [{b}, {t}]",
                        other.dtype(),
                        other.shape()
                    ),
                ));
            }
        }
        if let Some(lengths) = self.lengths
            && (lengths.len() != b || lengths.iter().any(|&n| n == 0 || n > t))
        {
            return Err(Error::op(
                "Inputs",
                format!("lengths {lengths:?} are not {b} numbers from 1 to {t}, one for each row"),
            ));
        }
        Ok((b, t))
    }

    /// Where each row ends: one past its last token that is not padding. `None` where all rows are
    /// full.
    ///
    /// # Errors
    /// For a row of padding only.
    pub(crate) fn ends(&self) -> Result<Option<Vec<usize>>> {
        let (_, t) = self.size()?;
        let ends: Vec<usize> = match (self.lengths, self.padding_mask) {
            (Some(lengths), _) => lengths.to_vec(),
            (None, Some(mask)) => {
                let mask = mask.to_vec::<u32>()?;
                let end = |row: &[u32]| row.iter().rposition(|&m| m == 0).map_or(0, |at| at + 1);
                mask.chunks(t.max(1)).map(end).collect()
            }
            (None, None) => return Ok(None),
        };
        if ends.contains(&0) {
            return Err(Error::op("Inputs", "a row has nothing but padding"));
        }
        Ok(ends.iter().any(|&end| end != t).then_some(ends))
    }

    /// The mask for attention: `padding_mask`, or one made from `lengths`; `None` where all rows
    /// are full. It lies on `device`.
    pub(crate) fn mask(&self, device: Device) -> Result<Option<Tensor>> {
        let (b, t) = self.size()?;
        match (self.padding_mask, self.lengths) {
            (Some(mask), _) => mask.to_device(device).map(Some),
            (None, Some(lengths)) if lengths.iter().any(|&n| n < t) => {
                let row = |&n: &usize| (0..t).map(move |at| u32::from(at >= n));
                let mask: Vec<u32> = lengths.iter().flat_map(row).collect();
                Tensor::from_slice(&mask, [b, t])?.to_device(device).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Stores the weights of a model's linear layers and a `table` that is one of them as `dtype`; in bf16 they are frozen.
fn store(model: &(impl Module + ?Sized), table: Option<&Parameter>, dtype: DType) -> Result<()> {
    if ![DType::F32, DType::BF16].contains(&dtype) {
        return Err(Error::op(
            "store_weights",
            format!("weights are stored as f32 or bf16, not as {dtype}"),
        ));
    }
    let mut weights: Vec<&Parameter> = table.into_iter().collect();
    model.for_each_linear(&mut |_, layer| weights.push(&layer.weight));
    weights.into_iter().try_for_each(|weight| {
        if dtype == DType::BF16 {
            weight.set_requires_grad(false);
        }
        weight.convert(dtype)
    })
}

/// What a model is going to be used for. A part that the use has no gradient for would stay as it
/// is for ever, so it is taken out or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Predicting tokens: the pooler of a BERT is frozen.
    LanguageModel,
    /// One label a text: the head over the vocabulary goes.
    SequenceClassification,
    /// One label a token: the head over the vocabulary and the pooler go.
    TokenClassification,
}

/// A network that reads token ids and predicts tokens.
pub trait LanguageModel: Module {
    /// The sizes it was made from.
    fn config(&self) -> &ModelConfig;

    /// Hidden states `[B, T, C]` after the last norm.
    ///
    /// # Errors
    /// When shapes do not fit, an id is beyond the vocabulary or T is beyond the context.
    fn hidden(&self, inputs: &Inputs<'_>) -> Result<Tensor>;

    /// Scores `[…, V]` of all tokens for hidden states `[…, C]`. Give it the positions you need,
    /// not all of them.
    ///
    /// # Errors
    /// When the width does not fit or the head was taken out.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// The state before the first token of `batch` rows.
    ///
    /// # Errors
    /// For a model that reads in both directions.
    fn new_state(&self, batch: usize) -> Result<State>;

    /// Hidden states `[B, T, C]` of the next T tokens after those that `state` has seen; `state`
    /// then has seen them too. No gradient flows into earlier calls. A gpt runs without a tape
    /// here; a recurrent model records these T steps (truncated backpropagation through time).
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`], and when a gpt's context is full.
    fn hidden_with_state(&self, ids: &Tensor, state: &mut State) -> Result<Tensor>;

    /// One vector a row, `[B, P]`, for classifying the text: the last token (gpt), the pooler on
    /// the first (bert), the last, the largest and the mean side by side (recurrent; Howard and
    /// Ruder 2018).
    ///
    /// # Errors
    /// When shapes do not fit, or a row has nothing but padding.
    fn pooled(&self, inputs: &Inputs<'_>, hidden: &Tensor) -> Result<Tensor>;

    /// P, the width of [`LanguageModel::pooled`].
    fn pooled_width(&self) -> usize;

    /// Takes out or freezes what `purpose` has no use for.
    fn prepare_for(&mut self, purpose: Purpose);

    /// Stores the matrices that products read as `dtype`: in bf16, which freezes them, they take half the memory, and on
    /// a CPU a token is written in little more than half the time. What goes through the model stays in the type it has.
    ///
    /// # Errors
    /// For a type that products do not read, and for a model whose kernels read f32 alone.
    fn store_weights(&self, dtype: DType) -> Result<()> {
        store(self, None, dtype)
    }

    /// Floating-point operations of the matrix products of one forward pass with all logits (a
    /// multiply-add counts as two). A training step takes about three times that.
    fn forward_flops(&self, batch: usize, t: usize) -> u64;

    /// The loss in nats of predicting `targets` `[B, T]` (`u32`; [`CrossEntropy::IGNORE`] does not
    /// count), mean over those that count.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.loss_with(&Inputs::new(ids), targets, &CrossEntropy::default())
    }

    /// [`LanguageModel::loss`] with padding, label smoothing or another reduction.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    fn loss_with(
        &self,
        inputs: &Inputs<'_>,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        self.head_loss(&self.hidden(inputs)?, targets, options)
    }

    /// The loss of predicting `targets` `[…]` from hidden states `[…, C]`: the cross-entropy of
    /// [`LanguageModel::logits`], of which no more than some rows exist at a time.
    ///
    /// # Errors
    /// As [`LanguageModel::logits`], and when a target is beyond the vocabulary.
    fn head_loss(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        ops::cross_entropy(&self.logits(hidden)?, targets, options)
    }

    /// Scores `[B, V]` of the token after the last of each row: what generation needs, without
    /// those of all other positions.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden_with_state`].
    fn next_logits(&self, ids: &Tensor, state: &mut State) -> Result<Tensor> {
        let hidden = self.hidden_with_state(ids, state)?;
        let t = hidden.shape()[1];
        if t == 0 {
            return Err(Error::op("next_logits", "there is no token to predict from"));
        }
        self.logits(&hidden.select(1, t - 1)?)
    }
}

/// The language model that `config` describes, with first values that are a pure function of
/// `seed`.
///
/// # Errors
/// When the sizes do not make a model or memory cannot be had.
pub fn build(config: &ModelConfig, seed: u64) -> Result<Box<dyn LanguageModel>> {
    config.validate()?;
    Ok(match config {
        ModelConfig::Gpt(c) => Box::new(Gpt::new(c, seed)?),
        ModelConfig::Bert(c) => Box::new(Bert::new(c, seed)?),
        ModelConfig::Rnn(c) => Box::new(RnnLm::new(c, seed)?),
    })
}

/// What a model remembers of the tokens it has read.
#[derive(Clone)]
pub struct State {
    memory: Memory,
    seen: usize,
}

// A box would be an allocation in each step of a recurrent model.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
enum Memory {
    /// Keys and values, one cache a layer.
    Keys(Vec<KvCache>),
    /// The hidden state of recurrent layers.
    Recurrent(RecurrentState),
}

impl State {
    /// How many tokens of each row have been read.
    pub fn len(&self) -> usize {
        self.seen
    }

    /// Whether nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// How many more tokens fit; `None` where there is no limit.
    pub fn room(&self) -> Option<usize> {
        match &self.memory {
            Memory::Keys(caches) => caches.first().map(|c| c.capacity() - c.len()),
            Memory::Recurrent(_) => None,
        }
    }

    /// Row i becomes what row `rows[i]` (`u32`) was: beams that go on from other beams.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        match &mut self.memory {
            Memory::Keys(caches) => caches.iter_mut().try_for_each(|cache| cache.reorder(rows)),
            Memory::Recurrent(state) => {
                *state = state.reorder(rows)?;
                Ok(())
            }
        }
    }

    /// The tensors of a recurrent state, for a checkpoint: `h` and, of an LSTM, `c`. Empty for a
    /// gpt.
    pub fn tensors(&self) -> StateDict {
        match &self.memory {
            Memory::Keys(_) => StateDict::new(),
            Memory::Recurrent(state) => {
                let c = state.c.iter().map(|c| ("c".to_owned(), c.detach()));
                std::iter::once(("h".to_owned(), state.h.detach())).chain(c).collect()
            }
        }
    }

    /// Puts back what [`State::tensors`] gave, after `seen` tokens.
    ///
    /// # Errors
    /// When names or shapes are not those of this state.
    pub fn restore(&mut self, tensors: &[(String, Tensor)], seen: usize) -> Result<()> {
        let mine = self.tensors();
        let fits = mine.len() == tensors.len()
            && mine.iter().zip(tensors).all(|((a, x), (b, y))| a == b && x.shape() == y.shape());
        if !fits {
            return Err(Error::Data(
                "the saved state is not one of this model and batch size".into(),
            ));
        }
        if let (Memory::Recurrent(state), Some((_, h))) = (&mut self.memory, tensors.first()) {
            let device = state.h.device();
            let c = tensors.get(1).map(|(_, c)| c.moved(device)).transpose()?;
            *state = RecurrentState { h: h.moved(device)?, c };
        }
        self.seen = seen;
        Ok(())
    }
}

/// The vectors of x `[B, T, C]` at one position of each row, `[B, C]`.
pub(crate) fn at_positions(x: &Tensor, positions: impl Iterator<Item = usize>) -> Result<Tensor> {
    let &[b, t, c] = x.shape() else {
        return Err(Error::op(
            "pooled",
            format!("hidden states {:?} are not [B, T, C]", x.shape()),
        ));
    };
    let rows: Vec<u32> = positions.enumerate().map(|(row, at)| (row * t + at) as u32).collect();
    x.reshape([b * t, c])?.index_select(0, &Tensor::from_slice(&rows, b)?)
}

/// Refuses a text that is longer than the model's positions.
#[track_caller]
pub(crate) fn check_context(model: &'static str, end: usize, context: usize) -> Result<()> {
    if end <= context {
        return Ok(());
    }
    Err(Error::op(model, format!("{end} tokens do not fit into a context of {context}")))
}

#[cfg(test)]
mod tests;
