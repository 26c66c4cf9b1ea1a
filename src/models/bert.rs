//! BERT's architecture (Devlin et al. 2018): a post-norm encoder that reads in both directions.
//!
//! ```text
//! x = LN(word[ids] + position[0..T] + token_type[types])           [B, T, C]
//! for each layer:
//!     x = LN(x + dense(attention(query(x), key(x), value(x))))
//!     x = LN(x + dense(gelu(dense(x))))
//! pooled = tanh(dense(x[first token]))                             [B, C]
//! logits = LN(gelu(dense(x))) wordᵀ + bias                         [B, T, V]
//! ```
//!
//! Names are Hugging Face's, `bert.…` and `cls.predictions.…`. Pretraining is by masked tokens
//! alone; it has no gradient for the pooler, which stays frozen until a classifier wants it.

use super::{BertConfig, Inputs, LanguageModel, ModelConfig, Purpose, State, check_context};
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Dropout, Embedding, Init, LayerNorm, Linear, Module, Parameter, Visitor,
};
use crate::ops::{self, Attention, CrossEntropy};
use crate::tensor::{DType, Device, Tensor};

/// A linear layer, dropout, the residual sum and its norm: the end of both sub-layers.
struct Output {
    dense: Linear,
    norm: LayerNorm,
    dropout: Dropout,
    scope: Scope,
}

impl Output {
    fn new(at: &Init, inputs: usize, c: &BertConfig) -> Result<Output> {
        let (width, std) = (c.hidden_size, c.initializer_range);
        Ok(Output {
            dense: Linear::normal(&at.at("dense"), inputs, width, true, std)?,
            norm: LayerNorm::new(&at.at("LayerNorm"), width, c.layer_norm_eps, true)?,
            dropout: Dropout::new(&at.at("dropout"), c.hidden_dropout_prob)?,
            scope: at.scope(),
        })
    }

    fn forward(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        self.norm.forward(&self.dense.forward_add(y, &self.dropout, x)?)
    }
}

impl Module for Output {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("dense", &self.dense);
        v.module("LayerNorm", &self.norm);
    }
}

struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    dropout: Dropout,
    scope: Scope,
}

impl SelfAttention {
    fn new(at: &Init, c: &BertConfig) -> Result<SelfAttention> {
        let (width, std) = (c.hidden_size, c.initializer_range);
        let linear = |name| Linear::normal(&at.at(name), width, width, true, std);
        Ok(SelfAttention {
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            heads: c.num_attention_heads,
            dropout: Dropout::new(&at.at("dropout"), c.attention_probs_dropout_prob)?,
            scope: at.scope(),
        })
    }

    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let [b, t, c] = [x.shape()[0], x.shape()[1], x.shape()[2]];
        let split = |y: Tensor| y.reshape([b, t, self.heads, c / self.heads])?.transpose(1, 2);
        let q = split(self.query.forward(x)?)?; // [B, H, T, D]
        let k = split(self.key.forward(x)?)?;
        let v = split(self.value.forward(x)?)?;
        let options = Attention {
            causal: false,
            key_padding_mask: mask.cloned(),
            scale: None,
            dropout: self.dropout.active(),
        };
        let y = ops::scaled_dot_product_attention(&q, &k, &v, &options)?;
        y.transpose(1, 2)?.flatten(2, 3) // [B, T, C]
    }
}

impl Module for SelfAttention {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("query", &self.query);
        v.module("key", &self.key);
        v.module("value", &self.value);
    }
}

struct Layer {
    attention: SelfAttention,
    attention_output: Output,
    intermediate: Linear,
    activation: Activation,
    output: Output,
    scope: Scope,
}

impl Layer {
    fn new(at: &Init, c: &BertConfig) -> Result<Layer> {
        let (width, inner, std) = (c.hidden_size, c.intermediate_size, c.initializer_range);
        Ok(Layer {
            attention: SelfAttention::new(&at.at("attention.self"), c)?,
            attention_output: Output::new(&at.at("attention.output"), width, c)?,
            intermediate: Linear::normal(&at.at("intermediate.dense"), width, inner, true, std)?,
            activation: Activation::from_name(&c.hidden_act)?,
            output: Output::new(&at.at("output"), inner, c)?,
            scope: at.scope(),
        })
    }

    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let x = self.attention_output.forward(&self.attention.forward(x, mask)?, x)?;
        let hidden = self.intermediate.forward_then_for_products(&x, self.activation)?;
        self.output.forward(&hidden, &x)
    }
}

impl Module for Layer {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("attention.self", &self.attention);
        v.module("attention.output", &self.attention_output);
        v.module("intermediate.dense", &self.intermediate);
        v.module("output", &self.output);
    }
}

/// The head that predicts masked tokens; its output layer is the word table.
struct MaskedHead {
    dense: Linear,
    norm: LayerNorm,
    bias: Parameter,
    activation: Activation,
    scope: Scope,
}

impl MaskedHead {
    fn new(at: &Init, c: &BertConfig) -> Result<MaskedHead> {
        let (width, std) = (c.hidden_size, c.initializer_range);
        Ok(MaskedHead {
            dense: Linear::normal(&at.at("transform.dense"), width, width, true, std)?,
            norm: LayerNorm::new(&at.at("transform.LayerNorm"), width, c.layer_norm_eps, true)?,
            bias: Parameter::new(Tensor::zeros(c.vocab_size, DType::F32)?)?,
            activation: Activation::from_name(&c.hidden_act)?,
            scope: at.scope(),
        })
    }

    /// What the output layer reads.
    fn transform(&self, hidden: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.dense.forward_then(hidden, self.activation)?)
    }
}

impl Module for MaskedHead {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("bias", &self.bias);
        v.module("transform.dense", &self.dense);
        v.module("transform.LayerNorm", &self.norm);
    }
}

/// An encoder with BERT's architecture and Hugging Face's parameter names.
pub struct Bert {
    config: ModelConfig,
    sizes: BertConfig,
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    dropout: Dropout,
    layers: Vec<Layer>,
    pooler: Option<Linear>,
    head: Option<MaskedHead>,
    scope: Scope,
}

impl Bert {
    /// A model with first values that are a pure function of `seed`: weights normal with deviation
    /// `initializer_range`, biases and the padding token's vector 0.
    ///
    /// # Errors
    /// When the sizes do not make a model or memory cannot be had.
    pub fn new(config: &BertConfig, seed: u64) -> Result<Bert> {
        let whole = ModelConfig::Bert(config.clone());
        whole.validate()?;
        let (c, std) = (config, config.initializer_range);
        let root = Init::new(seed);
        let (at, cls) = (root.at("bert"), root.at("cls.predictions"));
        let inner = at.at("embeddings");
        let words = inner.at("word_embeddings");
        let mut table = words.normal("weight", [c.vocab_size, c.hidden_size], std)?;
        table.make_mut::<f32>()?[c.pad_token_id * c.hidden_size..][..c.hidden_size].fill(0.0);
        let table_of =
            |name: &str, rows| Embedding::normal(&inner.at(name), rows, c.hidden_size, std);
        let layer = |i| Layer::new(&at.at(format_args!("encoder.layer.{i}")), c);
        let pooler =
            Linear::normal(&at.at("pooler.dense"), c.hidden_size, c.hidden_size, true, std)?;
        let mut bert = Bert {
            words: Embedding::from_values(&words, table)?,
            positions: table_of("position_embeddings", c.max_position_embeddings)?,
            types: table_of("token_type_embeddings", c.type_vocab_size)?,
            norm: LayerNorm::new(&inner.at("LayerNorm"), c.hidden_size, c.layer_norm_eps, true)?,
            dropout: Dropout::new(&inner.at("dropout"), c.hidden_dropout_prob)?,
            layers: (0..c.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            pooler: Some(pooler),
            head: Some(MaskedHead::new(&cls, c)?),
            scope: at.scope(),
            sizes: config.clone(),
            config: whole,
        };
        bert.prepare_for(Purpose::LanguageModel);
        Ok(bert)
    }

    fn embed(&self, inputs: &Inputs<'_>, t: usize) -> Result<Tensor> {
        let x = self.words.forward(inputs.ids)?; // [B, T, C]
        let types = match inputs.token_type_ids {
            Some(types) => self.types.forward(types)?,
            None => self.types.rows(0, 1)?, // all of type 0
        };
        let x = x.add(&types)?.add(&self.positions.rows(0, t)?)?;
        self.dropout.forward(&self.norm.forward(&x)?)
    }

    fn masked_head(&self) -> Result<&MaskedHead> {
        self.head.as_ref().ok_or_else(|| {
            Error::op("bert", "the head that predicts tokens was taken out for a classifier")
        })
    }
}

impl Module for Bert {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("bert.embeddings.word_embeddings", &self.words);
        v.module("bert.embeddings.position_embeddings", &self.positions);
        v.module("bert.embeddings.token_type_embeddings", &self.types);
        v.module("bert.embeddings.LayerNorm", &self.norm);
        v.list("bert.encoder.layer", &self.layers);
        if let Some(pooler) = &self.pooler {
            v.module("bert.pooler.dense", pooler);
        }
        if let Some(head) = &self.head {
            v.module("cls.predictions", head);
        }
    }
}

impl LanguageModel for Bert {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn hidden(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        let (_, t) = inputs.size()?;
        check_context("bert", t, self.sizes.max_position_embeddings)?;
        let _scope = self.scope.enter();
        let mask = inputs.mask(self.words.weight.device())?;
        let mut x = self.embed(inputs, t)?;
        for layer in &self.layers {
            x = layer.forward(&x, mask.as_ref())?;
        }
        Ok(x)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let head = self.masked_head()?;
        let _scope = head.scope.enter();
        self.words.as_head(&head.transform(hidden)?, Some(&head.bias.tensor()))
    }

    fn head_loss(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        let head = self.masked_head()?;
        let _scope = head.scope.enter();
        let (x, w) = (head.transform(hidden)?, self.words.weight.tensor());
        ops::linear_cross_entropy(&x, &w, Some(&head.bias.tensor()), targets, options)
    }

    /// Runs the head on the masked positions only, a seventh of all.
    fn loss_with(
        &self,
        inputs: &Inputs<'_>,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        let (b, t) = inputs.size()?;
        if targets.shape() != [b, t] {
            return Err(Error::op(
                "bert",
                format!("targets {:?}, expected [{b}, {t}] as the ids", targets.shape()),
            ));
        }
        let targets = targets.to_device(Device::Cpu)?.contiguous()?;
        let counts = |target: &u32| *target != options.ignore_index;
        let all = targets.as_slice::<u32>()?;
        let mut places = Tensor::empty(all.iter().filter(|t| counts(t)).count(), DType::U32)?;
        let masked = all.iter().enumerate().filter(|(_, target)| counts(target));
        for (place, (at, _)) in places.make_mut::<u32>()?.iter_mut().zip(masked) {
            *place = at as u32;
        }
        let hidden = self.hidden(inputs)?.reshape([b * t, self.sizes.hidden_size])?;
        let targets = targets.reshape(b * t)?.index_select(0, &places)?;
        self.head_loss(&hidden.index_select(0, &places)?, &targets, options)
    }

    fn new_state(&self, _: usize) -> Result<State> {
        Err(Error::Usage(
            "a bert reads in both directions and cannot write text from left to right; use a gpt or a \
             recurrent model"
                .into(),
        ))
    }

    fn hidden_with_state(&self, _: &Tensor, _: &mut State) -> Result<Tensor> {
        Err(Error::op("bert", "a bert has no state"))
    }

    fn pooled(&self, _: &Inputs<'_>, hidden: &Tensor) -> Result<Tensor> {
        let Some(pooler) = &self.pooler else {
            return Err(Error::op("bert", "the pooler was taken out for tagging"));
        };
        pooler.forward(&hidden.select(1, 0)?)?.tanh()
    }

    fn pooled_width(&self) -> usize {
        self.sizes.hidden_size
    }

    fn prepare_for(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::LanguageModel => {}
            Purpose::SequenceClassification => self.head = None,
            Purpose::TokenClassification => (self.head, self.pooler) = (None, None),
        }
        if let Some(pooler) = &self.pooler {
            pooler.for_each_parameter(&mut |_, p| {
                p.set_requires_grad(purpose == Purpose::SequenceClassification);
            });
        }
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        let n = |x: usize| x as u64;
        let c = &self.sizes;
        let (tokens, d) = (n(batch) * n(t), n(c.hidden_size));
        let layer = 2 * (4 * d * d + 2 * d * n(c.intermediate_size)) + 4 * n(t) * d;
        let head = self.head.as_ref().map_or(0, |_| 2 * d * (d + n(c.vocab_size)));
        tokens * (n(c.num_hidden_layers) * layer + head)
    }
}
