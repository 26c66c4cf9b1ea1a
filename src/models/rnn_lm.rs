//! Recurrent language models: embedding, `torch.nn.RNN`, `LSTM` or `GRU`, linear head.
//!
//! ```text
//! x = encoder[ids]                    [B, T, E]
//! y = rnn(x)                          [B, T, H]     dropout before, between and after the layers
//! logits = y W_decᵀ + b_dec           [B, T, V]     W_dec is the embedding table where tied (Press, Wolf 2017)
//! ```
//!
//! Parameter names are those of PyTorch's word language model example: `encoder.weight`,
//! `rnn.weight_ih_l0` …, `decoder.weight`, `decoder.bias`; first values too: encoder and decoder
//! uniform in ±0.1, the decoder's bias 0.

use super::{Inputs, LanguageModel, Memory, ModelConfig, Purpose, RnnConfig, State, at_positions};
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::nn::{
    Dropout, Embedding, Init, Module, Parameter, Recurrent, RecurrentOptions, RecurrentState,
    Visitor,
};
use crate::ops::{self, CrossEntropy};
use crate::tensor::{DType, Tensor};

/// The largest first value of encoder and decoder.
const INIT_RANGE: f64 = 0.1;

/// A recurrent language model.
pub struct RnnLm {
    config: ModelConfig,
    sizes: RnnConfig,
    encoder: Embedding,
    token_types: Option<Embedding>,
    rnn: Recurrent,
    /// Where it is not tied.
    decoder_weight: Option<Parameter>,
    decoder_bias: Option<Parameter>,
    input_dropout: Dropout,
    output_dropout: Dropout,
    scope: Scope,
    head_scope: Scope,
}

impl RnnLm {
    /// A model with first values that are a pure function of `seed`.
    ///
    /// # Errors
    /// When the sizes do not make a model or memory cannot be had.
    pub fn new(config: &RnnConfig, seed: u64) -> Result<RnnLm> {
        let whole = ModelConfig::Rnn(config.clone());
        whole.validate()?;
        let (c, root) = (config, Init::new(seed));
        let (encoder, decoder) = (root.at("encoder"), root.at("decoder"));
        let options = RecurrentOptions {
            num_layers: c.num_layers,
            dropout: c.dropout,
            bidirectional: c.bidirectional,
            ..Default::default()
        };
        let kind = c.recurrent_kind();
        let weight = || {
            Parameter::new(decoder.uniform(
                "weight",
                [c.vocab_size, c.output_size()],
                INIT_RANGE,
            )?)
        };
        let types = || {
            let at = root.at("token_types");
            Embedding::uniform(&at, c.type_vocab_size, c.embedding_size, INIT_RANGE)
        };
        Ok(RnnLm {
            encoder: Embedding::uniform(&encoder, c.vocab_size, c.embedding_size, INIT_RANGE)?,
            token_types: (c.type_vocab_size > 0).then(types).transpose()?,
            rnn: Recurrent::new(&root.at("rnn"), kind, c.embedding_size, c.hidden_size, &options)?,
            decoder_weight: (!c.tie_word_embeddings).then(weight).transpose()?,
            decoder_bias: Some(Parameter::new(Tensor::zeros(c.vocab_size, DType::F32)?)?),
            input_dropout: Dropout::new(&root.at("drop.input"), c.dropout)?,
            output_dropout: Dropout::new(&root.at("drop.output"), c.dropout)?,
            scope: root.scope(),
            head_scope: decoder.scope(),
            sizes: config.clone(),
            config: whole,
        })
    }

    /// Outputs `[B, T, H]` (a view of `[T, B, H]`, the layout of the recurrence) and the state
    /// after them.
    fn run(
        &self,
        ids: &Tensor,
        types: Option<&Tensor>,
        state: Option<&RecurrentState>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, RecurrentState)> {
        let _scope = self.scope.enter();
        // Turning the ids around is cheaper than turning their vectors around.
        let mut x = self.encoder.forward(&ids.transpose(0, 1)?)?; // [T, B, E]
        match (types, &self.token_types) {
            (Some(types), Some(table)) => x = x.add(&table.forward(&types.transpose(0, 1)?)?)?,
            (Some(_), None) => {
                return Err(Error::op(
                    "rnn",
                    "token types were given, but the model has type_vocab_size 0",
                ));
            }
            (None, Some(table)) => x = x.add(&table.rows(0, 1)?)?, // all of type 0
            (None, None) => {}
        }
        let x = self.input_dropout.forward(&x)?;
        let (y, state) = self.rnn.forward_time_major(&x, state, lengths)?;
        Ok((self.output_dropout.forward(&y)?.transpose(0, 1)?, state))
    }

    /// Weight and bias of the output layer.
    fn decoder(&self) -> Result<(Tensor, Tensor)> {
        self.refuse_both_directions()?;
        let Some(bias) = &self.decoder_bias else {
            return Err(Error::op(
                "rnn",
                "the head that predicts tokens was taken out for a classifier",
            ));
        };
        let weight = self.decoder_weight.as_ref().unwrap_or(&self.encoder.weight);
        Ok((weight.tensor(), bias.tensor()))
    }

    fn refuse_both_directions(&self) -> Result<()> {
        if !self.sizes.bidirectional {
            return Ok(());
        }
        Err(Error::Usage(
            "a bidirectional model has read the token it should predict; set bidirectional = false"
                .into(),
        ))
    }
}

impl Module for RnnLm {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("encoder", &self.encoder);
        if let Some(types) = &self.token_types {
            v.module("token_types", types);
        }
        v.module("rnn", &self.rnn);
        v.option("decoder.weight", &self.decoder_weight);
        v.option("decoder.bias", &self.decoder_bias);
    }
}

impl LanguageModel for RnnLm {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn hidden(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        inputs.size()?;
        // Reading forward only, what comes after the end of a row changes nothing before it.
        let ends = if self.sizes.bidirectional { inputs.ends()? } else { None };
        Ok(self.run(inputs.ids, inputs.token_type_ids, None, ends.as_deref())?.0)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.decoder()?;
        let _scope = self.head_scope.enter();
        ops::linear(hidden, &weight, Some(&bias))
    }

    fn head_loss(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        let (weight, bias) = self.decoder()?;
        let _scope = self.head_scope.enter();
        ops::linear_cross_entropy(hidden, &weight, Some(&bias), targets, options)
    }

    fn new_state(&self, batch: usize) -> Result<State> {
        self.refuse_both_directions()?;
        Ok(State { memory: Memory::Recurrent(self.rnn.zero_state(batch)?), seen: 0 })
    }

    fn hidden_with_state(&self, ids: &Tensor, state: &mut State) -> Result<Tensor> {
        Inputs::new(ids).size()?;
        let Memory::Recurrent(before) = &state.memory else {
            return Err(Error::op("rnn", "the state belongs to a gpt"));
        };
        let (y, after) = self.run(ids, None, Some(before), None)?;
        state.memory = Memory::Recurrent(after.detach());
        state.seen += ids.shape()[1];
        Ok(y)
    }

    fn pooled(&self, inputs: &Inputs<'_>, hidden: &Tensor) -> Result<Tensor> {
        let (b, t) = inputs.size()?;
        if t == 0 {
            return Err(Error::op("rnn", format!("{b} texts without a token")));
        }
        let h = self.sizes.hidden_size;
        let ends = inputs.ends()?;
        let ends = || (0..b).map(|row| ends.as_ref().map_or(t, |ends| ends[row]));
        // The reverse direction ends at the first token.
        let last = match self.sizes.bidirectional {
            false => at_positions(hidden, ends().map(|end| end - 1))?,
            true => {
                let forward = at_positions(&hidden.narrow(-1, 0, h)?, ends().map(|end| end - 1))?;
                ops::cat(&[&forward, &hidden.narrow(-1, h, h)?.select(1, 0)?], -1)?
            }
        };
        if ends().all(|end| end == t) {
            let (largest, _) = hidden.max(1, false)?;
            return ops::cat(&[&last, &largest, &hidden.mean(&[1], false)?], -1);
        }
        let past: Vec<u32> =
            ends().flat_map(|end| (0..t).map(move |at| u32::from(at >= end))).collect();
        let past = Tensor::from_slice(&past, [b, t, 1])?;
        let share: Vec<f64> = ends().map(|end| 1.0 / end as f64).collect();
        let share = Tensor::from_slice(&share, [b, 1])?.to_dtype(hidden.dtype())?;
        let share = share.to_device(hidden.device())?;
        let (largest, _) = hidden.masked_fill(&past, -1e30)?.max(1, false)?;
        let mean = hidden.masked_fill(&past, 0.0)?.sum(&[1], false)?.mul(&share)?;
        ops::cat(&[&last, &largest, &mean], -1)
    }

    fn pooled_width(&self) -> usize {
        3 * self.sizes.output_size()
    }

    fn prepare_for(&mut self, purpose: Purpose) {
        if purpose != Purpose::LanguageModel {
            (self.decoder_weight, self.decoder_bias) = (None, None);
        }
    }

    fn store_weights(&self, dtype: DType) -> Result<()> {
        match dtype {
            DType::F32 => Ok(()),
            _ => Err(Error::op("store_weights", "a recurrent model keeps its weights in f32")),
        }
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        let n = |x: usize| x as u64;
        let c = &self.sizes;
        let (h, ways) = (n(c.hidden_size), if c.bidirectional { 2 } else { 1 });
        let layer = |inputs: u64| 2 * ways * n(c.recurrent_kind().gates()) * h * (inputs + h);
        let layers = layer(n(c.embedding_size)) + (n(c.num_layers) - 1) * layer(ways * h);
        n(batch) * n(t) * (layers + 2 * ways * h * n(c.vocab_size))
    }
}
