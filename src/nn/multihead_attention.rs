//! Multi-head attention (Vaswani et al. 2017), `torch.nn.MultiheadAttention`.
//!
//! ```text
//! q, k, v = x_q W_qᵀ + b_q,  x_k W_kᵀ + b_k,  x_v W_vᵀ + b_v        the three W are rows of in_proj_weight
//! head h  = softmax(q_h k_hᵀ / √D) v_h                              D = embed_dim / num_heads
//! y       = [head 1, …, head H] W_oᵀ + b_o
//! ```
//!
//! Three ways lead through it, with one result: attention of a sequence to itself runs on the fused
//! projection, attention to another sequence on two projections, and where the weights are asked
//! for, or dropped from, they are written out as a matrix.

use super::{Dropout, Init, KvCache, Linear, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::ops::{self, Attention};
use crate::tensor::{DType, Tensor};

/// What [`MultiheadAttention::new`] wants to know; defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct MultiheadAttentionOptions {
    /// Dropout on the attention weights.
    pub dropout: f64,
    /// Whether the projections have biases.
    pub bias: bool,
    /// Tensors are `[B, T, C]`; else `[T, B, C]`.
    pub batch_first: bool,
}

impl Default for MultiheadAttentionOptions {
    fn default() -> Self {
        MultiheadAttentionOptions { dropout: 0.0, bias: true, batch_first: false }
    }
}

/// What one call of [`MultiheadAttention::forward`] wants.
#[derive(Default)]
pub struct AttentionCall<'a> {
    /// Position i sees keys up to i only (with a cache: up to its place in the whole sequence).
    pub causal: bool,
    /// `[B, Tk]`, `u32`: keys marked 1 are seen by nobody.
    pub key_padding_mask: Option<&'a Tensor>,
    /// Whether to return the attention weights, after dropout.
    pub need_weights: bool,
    /// Weights are returned for each head, not as the mean over the heads.
    pub per_head_weights: bool,
    /// Earlier keys and values; those of this call are appended to it.
    pub cache: Option<&'a mut KvCache>,
}

/// `torch.nn.MultiheadAttention` for queries, keys and values of one width.
pub struct MultiheadAttention {
    /// `[3·E, E]`: the projections of queries, keys and values below each other.
    pub in_proj_weight: Parameter,
    /// `[3·E]`
    pub in_proj_bias: Option<Parameter>,
    /// `[E, E]`
    pub out_proj: Linear,
    num_heads: usize,
    batch_first: bool,
    dropout: Dropout,
    scope: Scope,
}

impl MultiheadAttention {
    /// A layer with PyTorch's first values: `in_proj_weight` Xavier-uniform, `out_proj.weight`
    /// uniform in ±1/√E, biases 0.
    ///
    /// # Errors
    /// When the heads do not divide the width or dropout is not a probability.
    pub fn new(
        at: &Init,
        embed_dim: usize,
        num_heads: usize,
        options: &MultiheadAttentionOptions,
    ) -> Result<MultiheadAttention> {
        if num_heads == 0 || embed_dim == 0 || !embed_dim.is_multiple_of(num_heads) {
            return Err(Error::Usage(format!(
                "{num_heads} attention heads do not divide the width {embed_dim}; choose a width that is a \
                 multiple of the number of heads"
            )));
        }
        let bound = (6.0 / (4 * embed_dim) as f64).sqrt();
        let zeros = |n: usize| options.bias.then(|| Tensor::zeros(n, DType::F32)).transpose();
        let inner = at.at("out_proj");
        let out =
            inner.uniform("weight", [embed_dim, embed_dim], 1.0 / (embed_dim as f64).sqrt())?;
        Ok(MultiheadAttention {
            in_proj_weight: Parameter::new(at.uniform(
                "in_proj_weight",
                [3 * embed_dim, embed_dim],
                bound,
            )?)?,
            in_proj_bias: zeros(3 * embed_dim)?.map(Parameter::new).transpose()?,
            out_proj: Linear::from_values(&inner, out, zeros(embed_dim)?)?,
            num_heads,
            batch_first: options.batch_first,
            dropout: Dropout::new(&at.at("dropout"), options.dropout)?,
            scope: at.scope(),
        })
    }

    /// The width E.
    pub fn embed_dim(&self) -> usize {
        self.out_proj.out_features()
    }

    /// The number of heads H.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// Attention of `query` `[B, Tq, E]` to `key` and `value` `[B, Tk, E]` (or time first, see the
    /// options): the result of the query's shape and, where asked for, the weights, `[B, Tq, Tk]`
    /// (the mean over the heads) or `[B, H, Tq, Tk]`. Passing one tensor three times is
    /// self-attention.
    ///
    /// # Errors
    /// When shapes do not fit; with a cache, as [`KvCache::append`].
    #[track_caller]
    pub fn forward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        call: AttentionCall<'_>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let _scope = self.scope.enter();
        for (what, x) in [("query", query), ("key", key), ("value", value)] {
            if x.rank() != 3 || x.shape()[2] != self.embed_dim() {
                return Err(Error::op(
                    "MultiheadAttention",
                    format!(
                        "{what} has shape {:?}, expected [B, T, {}]",
                        x.shape(),
                        self.embed_dim()
                    ),
                ));
            }
        }
        let (one_source, one_memory) = (std::ptr::eq(query, key), std::ptr::eq(key, value));
        let batch_first =
            |x: &Tensor| if self.batch_first { Ok(x.clone()) } else { x.transpose(0, 1) };
        let q = batch_first(query)?;
        let (y, weights) = if one_source && one_memory {
            self.attend_self(&q, call)?
        } else {
            let k = batch_first(key)?;
            let v = if one_memory { None } else { Some(batch_first(value)?) };
            let (k, v) = self.project_memory(&k, v.as_ref())?;
            self.attend(&self.project(&q, 0, 1)?, &k, &v, call)?
        };
        let y = self.out_proj.forward(&y)?;
        Ok((if self.batch_first { y } else { y.transpose(0, 1)? }, weights))
    }

    /// Self-attention of `x` without weights: the short form.
    ///
    /// # Errors
    /// As [`MultiheadAttention::forward`].
    #[track_caller]
    pub fn forward_self(&self, x: &Tensor, call: AttentionCall<'_>) -> Result<Tensor> {
        Ok(self.forward(x, x, x, call)?.0)
    }

    /// Keys and values of a memory `[B, Tk, E]` that many calls will look at, each `[B, Tk, E]`.
    ///
    /// # Errors
    /// When the width does not fit.
    #[track_caller]
    pub fn project_memory(&self, key: &Tensor, value: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        match value {
            Some(value) => Ok((self.project(key, 1, 1)?, self.project(value, 2, 1)?)),
            None => {
                let both = self.project(key, 1, 2)?;
                let e = self.embed_dim();
                Ok((both.narrow(-1, 0, e)?, both.narrow(-1, e, e)?))
            }
        }
    }

    /// Attention of `query` (batch first) to keys and values that
    /// [`MultiheadAttention::project_memory`] made.
    ///
    /// # Errors
    /// When shapes do not fit.
    #[track_caller]
    pub fn forward_projected(
        &self,
        query: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        call: AttentionCall<'_>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let _scope = self.scope.enter();
        let (y, weights) = self.attend(&self.project(query, 0, 1)?, keys, values, call)?;
        Ok((self.out_proj.forward(&y)?, weights))
    }

    /// `parts` of the three projections from number `first` on.
    fn project(&self, x: &Tensor, first: usize, parts: usize) -> Result<Tensor> {
        let e = self.embed_dim();
        let (weight, bias) =
            (self.in_proj_weight.tensor(), self.in_proj_bias.as_ref().map(Parameter::tensor));
        if parts == 3 {
            return ops::linear(x, &weight, bias.as_ref());
        }
        let bias = bias.map(|b| b.narrow(0, first * e, parts * e)).transpose()?;
        ops::linear(x, &weight.narrow(0, first * e, parts * e)?, bias.as_ref())
    }

    fn attend_self(&self, x: &Tensor, call: AttentionCall<'_>) -> Result<(Tensor, Option<Tensor>)> {
        let qkv = self.project(x, 0, 3)?;
        if call.cache.is_none() && !call.need_weights {
            let options = self.options(&call);
            return Ok((ops::self_attention_qkv(&qkv, self.num_heads, &options)?, None));
        }
        let e = self.embed_dim();
        let (q, k, v) = (qkv.narrow(-1, 0, e)?, qkv.narrow(-1, e, e)?, qkv.narrow(-1, 2 * e, e)?);
        self.attend(&q, &k, &v, call)
    }

    fn options(&self, call: &AttentionCall<'_>) -> Attention {
        Attention {
            causal: call.causal,
            key_padding_mask: call.key_padding_mask.cloned(),
            scale: None,
            dropout: self.dropout.active(),
        }
    }

    /// q `[B, Tq, E]`, k and v `[B, Tk, E]`, all projected → `[B, Tq, E]` before the output
    /// projection.
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mut call: AttentionCall<'_>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let cached = call.cache.take().map(|cache| cache.append(k, v)).transpose()?;
        let (k, v) = cached.as_ref().map_or((k, v), |(k, v)| (k, v));
        let (q, k, v) = (self.split_heads(q)?, self.split_heads(k)?, self.split_heads(v)?);
        let (y, weights) = if call.need_weights {
            let weights = self.weights(&q, &k, &call)?;
            let y = weights.matmul(&v)?;
            (y, Some(if call.per_head_weights { weights } else { weights.mean(&[1], false)? }))
        } else {
            (ops::scaled_dot_product_attention(&q, &k, &v, &self.options(&call))?, None)
        };
        Ok((y.transpose(1, 2)?.flatten(2, 3)?, weights))
    }

    /// `[B, T, E]` → a view `[B, H, T, D]`.
    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        let &[b, t, e] = x.shape() else {
            return Err(Error::op(
                "MultiheadAttention",
                format!("{:?} is not [B, T, E]", x.shape()),
            ));
        };
        x.reshape([b, t, self.num_heads, e / self.num_heads])?.transpose(1, 2)
    }

    /// The weights written out, `[B, H, Tq, Tk]`. Where a query may see no key they are 0, as in
    /// the fused kernel.
    fn weights(&self, q: &Tensor, k: &Tensor, call: &AttentionCall<'_>) -> Result<Tensor> {
        let (b, tq, tk, d) = (q.shape()[0], q.shape()[2], k.shape()[2], q.shape()[3]);
        let scores = q.matmul(&k.transpose(2, 3)?)?.mul_scalar(1.0 / (d as f64).sqrt())?;
        let hidden = hidden_keys(call, b, tq, tk)?;
        let weights = match &hidden {
            Some(hidden) => {
                scores.masked_fill(hidden, -1e30)?.softmax(-1)?.masked_fill(hidden, 0.0)?
            }
            None => scores.softmax(-1)?,
        };
        match self.dropout.active() {
            Some((p, key)) => ops::dropout(&weights, p, key),
            None => Ok(weights),
        }
    }
}

/// `[B, 1, Tq, Tk]` (`u32`), 1 where a query does not see a key; `None` where everybody sees
/// everything.
fn hidden_keys(call: &AttentionCall<'_>, b: usize, tq: usize, tk: usize) -> Result<Option<Tensor>> {
    if !call.causal && call.key_padding_mask.is_none() {
        return Ok(None);
    }
    if call.causal && tq > tk {
        return Err(Error::op(
            "MultiheadAttention",
            format!("causal with {tq} queries for {tk} keys"),
        ));
    }
    let padding = match call.key_padding_mask {
        Some(mask) if mask.shape() != [b, tk] => {
            return Err(Error::op(
                "MultiheadAttention",
                format!("key_padding_mask has shape {:?}, expected [{b}, {tk}]", mask.shape()),
            ));
        }
        Some(mask) => mask.to_vec::<u32>()?,
        None => vec![0; b * tk],
    };
    let mut hidden = Vec::with_capacity(b * tq * tk);
    for padding in padding.chunks(tk.max(1)) {
        for i in 0..tq {
            let last = if call.causal { tk - tq + i } else { tk };
            hidden.extend(padding.iter().enumerate().map(|(j, &p)| u32::from(p != 0 || j > last)));
        }
    }
    Ok(Some(Tensor::from_slice(&hidden, [b, 1, tq, tk])?))
}

impl Module for MultiheadAttention {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("in_proj_weight", &self.in_proj_weight);
        v.option("in_proj_bias", &self.in_proj_bias);
        v.module("out_proj", &self.out_proj);
    }
}
