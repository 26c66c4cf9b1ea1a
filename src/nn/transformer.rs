//! The Transformer's blocks, `torch.nn.TransformerEncoderLayer` and `TransformerDecoderLayer`.
//!
//! ```text
//! post-norm (2017):   x = LN(x + attention(x))       x = LN(x + feed-forward(x))
//! pre-norm:           x = x + attention(LN(x))       x = x + feed-forward(LN(x))
//! ```
//!
//! The decoder layer has a third sub-layer in the middle, attention to a memory. Feed-forward is
//! `linear2(dropout(activation(linear1(x))))`; each sub-layer ends in a dropout of its own.

use super::{
    Activation, AttentionCall, Dropout, Init, KvCache, LayerNorm, Linear, Module,
    MultiheadAttention, MultiheadAttentionOptions, Visitor,
};
use crate::autograd::Scope;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The sizes and choices of a Transformer layer; defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct TransformerLayerOptions {
    /// Width of the feed-forward layer.
    pub dim_feedforward: usize,
    /// Dropout after each sub-layer, inside the feed-forward layer and on attention weights.
    pub dropout: f64,
    /// The feed-forward layer's nonlinearity.
    pub activation: Activation,
    /// ε of the norms.
    pub layer_norm_eps: f64,
    /// Tensors are `[B, T, C]`; else `[T, B, C]`.
    pub batch_first: bool,
    /// Norms come before the sub-layers, not after.
    pub norm_first: bool,
    /// Whether linear layers and norms have biases.
    pub bias: bool,
}

impl Default for TransformerLayerOptions {
    fn default() -> Self {
        TransformerLayerOptions {
            dim_feedforward: 2048,
            dropout: 0.1,
            activation: Activation::Relu,
            layer_norm_eps: 1e-5,
            batch_first: false,
            norm_first: false,
            bias: true,
        }
    }
}

impl TransformerLayerOptions {
    fn attention(&self) -> MultiheadAttentionOptions {
        MultiheadAttentionOptions {
            dropout: self.dropout,
            bias: self.bias,
            batch_first: self.batch_first,
        }
    }
}

/// The feed-forward sub-layer, shared by both kinds of layer. Its parameters belong to the layer:
/// `linear1`, `linear2`.
struct FeedForward {
    linear1: Linear,
    linear2: Linear,
    activation: Activation,
    dropout: Dropout,
}

impl FeedForward {
    fn new(at: &Init, d_model: usize, options: &TransformerLayerOptions) -> Result<FeedForward> {
        let hidden = options.dim_feedforward;
        Ok(FeedForward {
            linear1: Linear::new(&at.at("linear1"), d_model, hidden, options.bias)?,
            linear2: Linear::new(&at.at("linear2"), hidden, d_model, options.bias)?,
            activation: options.activation,
            dropout: Dropout::new(&at.at("dropout"), options.dropout)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.dropout.active().is_some() {
            let hidden = self.linear1.forward_then(x, self.activation)?;
            return self.linear2.forward(&self.dropout.forward(&hidden)?);
        }
        self.linear2.forward(&self.linear1.forward_then_for_products(x, self.activation)?)
    }

    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("linear1", &self.linear1);
        v.module("linear2", &self.linear2);
    }
}

/// One sub-layer with its residual connection: `norm` and `dropout` around `f`.
fn residual(
    x: &Tensor,
    norm: &LayerNorm,
    dropout: &Dropout,
    norm_first: bool,
    f: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if norm_first {
        return x.add(&dropout.forward(&f(&norm.forward(x)?)?)?);
    }
    norm.forward(&x.add(&dropout.forward(&f(x)?)?)?)
}

/// `torch.nn.TransformerEncoderLayer`: self-attention, then feed-forward.
pub struct TransformerEncoderLayer {
    /// Attention of the sequence to itself.
    pub self_attn: MultiheadAttention,
    feed_forward: FeedForward,
    norm1: LayerNorm,
    norm2: LayerNorm,
    dropout1: Dropout,
    dropout2: Dropout,
    norm_first: bool,
    scope: Scope,
}

impl TransformerEncoderLayer {
    /// A layer of width `d_model` with `nhead` heads and PyTorch's first values.
    ///
    /// # Errors
    /// When the heads do not divide the width or dropout is not a probability.
    pub fn new(
        at: &Init,
        d_model: usize,
        nhead: usize,
        options: &TransformerLayerOptions,
    ) -> Result<TransformerEncoderLayer> {
        let norm =
            |name| LayerNorm::new(&at.at(name), d_model, options.layer_norm_eps, options.bias);
        let dropout = |name| Dropout::new(&at.at(name), options.dropout);
        Ok(TransformerEncoderLayer {
            self_attn: MultiheadAttention::new(
                &at.at("self_attn"),
                d_model,
                nhead,
                &options.attention(),
            )?,
            feed_forward: FeedForward::new(at, d_model, options)?,
            norm1: norm("norm1")?,
            norm2: norm("norm2")?,
            dropout1: dropout("dropout1")?,
            dropout2: dropout("dropout2")?,
            norm_first: options.norm_first,
            scope: at.scope(),
        })
    }

    /// x `[B, T, C]` → `[B, T, C]`. `padding_mask` is `[B, T]` (`u32`, 1 = nobody looks here).
    ///
    /// # Errors
    /// When shapes do not fit.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        padding_mask: Option<&Tensor>,
        causal: bool,
    ) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let x = residual(x, &self.norm1, &self.dropout1, self.norm_first, |x| {
            let call =
                AttentionCall { causal, key_padding_mask: padding_mask, ..Default::default() };
            self.self_attn.forward_self(x, call)
        })?;
        residual(&x, &self.norm2, &self.dropout2, self.norm_first, |x| self.feed_forward.forward(x))
    }
}

impl Module for TransformerEncoderLayer {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("self_attn", &self.self_attn);
        self.feed_forward.visit(v);
        v.module("norm1", &self.norm1);
        v.module("norm2", &self.norm2);
    }
}

/// What a [`TransformerDecoderLayer`] remembers between the steps of a generation.
pub struct DecoderLayerCache {
    /// Keys and values of the positions decoded so far.
    pub self_attn: KvCache,
    memory: Option<(Tensor, Tensor)>,
}

impl DecoderLayerCache {
    /// An empty cache for `batch` rows of up to `capacity` positions of width `d_model`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(batch: usize, capacity: usize, d_model: usize) -> Result<DecoderLayerCache> {
        Ok(DecoderLayerCache {
            self_attn: KvCache::new(batch, capacity, d_model, DType::F32)?,
            memory: None,
        })
    }
}

/// `torch.nn.TransformerDecoderLayer`: causal self-attention, attention to a memory, feed-forward.
pub struct TransformerDecoderLayer {
    /// Causal attention of the sequence to itself.
    pub self_attn: MultiheadAttention,
    /// Attention to the memory.
    pub multihead_attn: MultiheadAttention,
    feed_forward: FeedForward,
    norm1: LayerNorm,
    norm2: LayerNorm,
    norm3: LayerNorm,
    dropout1: Dropout,
    dropout2: Dropout,
    dropout3: Dropout,
    norm_first: bool,
    batch_first: bool,
    scope: Scope,
}

/// The masks of a decoder layer.
#[derive(Clone, Copy, Default)]
pub struct DecoderMasks<'a> {
    /// `[B, T]` (`u32`, 1 = padding) for the sequence itself.
    pub padding: Option<&'a Tensor>,
    /// `[B, Tm]` (`u32`, 1 = padding) for the memory.
    pub memory_padding: Option<&'a Tensor>,
    /// Position i sees positions up to i only. Set it for a language model.
    pub causal: bool,
}

impl TransformerDecoderLayer {
    /// A layer of width `d_model` with `nhead` heads and PyTorch's first values.
    ///
    /// # Errors
    /// When the heads do not divide the width or dropout is not a probability.
    pub fn new(
        at: &Init,
        d_model: usize,
        nhead: usize,
        options: &TransformerLayerOptions,
    ) -> Result<TransformerDecoderLayer> {
        let norm =
            |name| LayerNorm::new(&at.at(name), d_model, options.layer_norm_eps, options.bias);
        let dropout = |name| Dropout::new(&at.at(name), options.dropout);
        let attention =
            |name| MultiheadAttention::new(&at.at(name), d_model, nhead, &options.attention());
        Ok(TransformerDecoderLayer {
            self_attn: attention("self_attn")?,
            multihead_attn: attention("multihead_attn")?,
            feed_forward: FeedForward::new(at, d_model, options)?,
            norm1: norm("norm1")?,
            norm2: norm("norm2")?,
            norm3: norm("norm3")?,
            dropout1: dropout("dropout1")?,
            dropout2: dropout("dropout2")?,
            dropout3: dropout("dropout3")?,
            norm_first: options.norm_first,
            batch_first: options.batch_first,
            scope: at.scope(),
        })
    }

    /// x `[B, T, C]`, memory `[B, Tm, C]` → `[B, T, C]`.
    ///
    /// # Errors
    /// When shapes do not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, memory: &Tensor, masks: DecoderMasks<'_>) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let x = residual(x, &self.norm1, &self.dropout1, self.norm_first, |x| {
            let call = AttentionCall {
                causal: masks.causal,
                key_padding_mask: masks.padding,
                ..Default::default()
            };
            self.self_attn.forward_self(x, call)
        })?;
        let x = residual(&x, &self.norm2, &self.dropout2, self.norm_first, |x| {
            let call =
                AttentionCall { key_padding_mask: masks.memory_padding, ..Default::default() };
            Ok(self.multihead_attn.forward(x, memory, memory, call)?.0)
        })?;
        residual(&x, &self.norm3, &self.dropout3, self.norm_first, |x| self.feed_forward.forward(x))
    }

    /// The next positions of a sequence whose earlier ones are in `cache`: x holds the new ones
    /// only, the memory is projected the first time. Causal. Run it under
    /// [`no_grad`](crate::autograd::no_grad).
    ///
    /// # Errors
    /// When shapes do not fit or the cache is full.
    #[track_caller]
    pub fn forward_cached(
        &self,
        x: &Tensor,
        memory: &Tensor,
        memory_padding: Option<&Tensor>,
        cache: &mut DecoderLayerCache,
    ) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let DecoderLayerCache { self_attn, memory: projected } = cache;
        let x = residual(x, &self.norm1, &self.dropout1, self.norm_first, |x| {
            let call = AttentionCall { causal: true, cache: Some(self_attn), ..Default::default() };
            self.self_attn.forward_self(x, call)
        })?;
        let (keys, values) = match projected {
            Some(both) => both,
            None => {
                let memory =
                    if self.batch_first { memory.clone() } else { memory.transpose(0, 1)? };
                projected.insert(self.multihead_attn.project_memory(&memory, None)?)
            }
        };
        let x = residual(&x, &self.norm2, &self.dropout2, self.norm_first, |x| {
            let call = AttentionCall { key_padding_mask: memory_padding, ..Default::default() };
            let x = if self.batch_first { x.clone() } else { x.transpose(0, 1)? };
            let (y, _) = self.multihead_attn.forward_projected(&x, keys, values, call)?;
            if self.batch_first { Ok(y) } else { y.transpose(0, 1) }
        })?;
        residual(&x, &self.norm3, &self.dropout3, self.norm_first, |x| self.feed_forward.forward(x))
    }
}

impl Module for TransformerDecoderLayer {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("self_attn", &self.self_attn);
        v.module("multihead_attn", &self.multihead_attn);
        self.feed_forward.visit(v);
        v.module("norm1", &self.norm1);
        v.module("norm2", &self.norm2);
        v.module("norm3", &self.norm3);
    }
}

/// `torch.nn.TransformerEncoder`: layers called `layers.0`, `layers.1`, …, and a last norm if
/// wanted.
pub struct TransformerEncoder {
    /// The layers, first to last.
    pub layers: Vec<TransformerEncoderLayer>,
    norm: Option<LayerNorm>,
}

impl TransformerEncoder {
    /// A stack of `num_layers` layers; `final_norm` adds a norm at the end, as pre-norm layers want
    /// it.
    ///
    /// # Errors
    /// As [`TransformerEncoderLayer::new`].
    pub fn new(
        at: &Init,
        d_model: usize,
        nhead: usize,
        num_layers: usize,
        options: &TransformerLayerOptions,
        final_norm: bool,
    ) -> Result<TransformerEncoder> {
        let layer = |i| {
            TransformerEncoderLayer::new(
                &at.at(format_args!("layers.{i}")),
                d_model,
                nhead,
                options,
            )
        };
        let norm = || LayerNorm::new(&at.at("norm"), d_model, options.layer_norm_eps, options.bias);
        Ok(TransformerEncoder {
            layers: (0..num_layers).map(layer).collect::<Result<_>>()?,
            norm: final_norm.then(norm).transpose()?,
        })
    }

    /// x `[B, T, C]` → `[B, T, C]`.
    ///
    /// # Errors
    /// When shapes do not fit.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        padding_mask: Option<&Tensor>,
        causal: bool,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, padding_mask, causal)?;
        }
        self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

impl Module for TransformerEncoder {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.list("layers", &self.layers);
        if let Some(norm) = &self.norm {
            v.module("norm", norm);
        }
    }
}
