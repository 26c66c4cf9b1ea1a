//! GPT-2's architecture (Radford et al. 2019): a pre-norm decoder with a tied head.
//!
//! ```text
//! x = wte[ids] + wpe[0..T]                                   [B, T, C]
//! for each block:
//!     x = x + c_proj(attention(c_attn(ln_1(x))))             c_attn: C → 3C, causal, fused
//!     x = x + c_proj(gelu(c_fc(ln_2(x))))                    c_fc: C → 4C
//! logits = ln_f(x) wteᵀ                                      [B, T, V]
//! ```
//!
//! First values are those of GPT-2 and nanoGPT: weights normal with deviation 0.02, biases 0, and
//! the two projections onto the residual stream smaller by √(2 · layers), so that the stream's
//! variance does not grow with depth.

use super::{
    GptConfig, Inputs, LanguageModel, Memory, ModelConfig, Purpose, State, at_positions,
    check_context, store,
};
use crate::autograd::{Scope, no_grad};
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Dropout, Embedding, Init, KvCache, LayerNorm, Linear, Module, Visitor,
};
use crate::ops::{self, Attention, CrossEntropy};
use crate::tensor::{DType, Tensor};

/// Causal self-attention on a fused projection.
struct SelfAttention {
    c_attn: Linear,
    c_proj: Linear,
    heads: usize,
    attn_dropout: Dropout,
    resid_dropout: Dropout,
    scope: Scope,
}

impl SelfAttention {
    fn new(at: &Init, c: &GptConfig) -> Result<SelfAttention> {
        let (width, std) = (c.n_embd, c.initializer_range);
        Ok(SelfAttention {
            c_attn: Linear::normal(&at.at("c_attn"), width, 3 * width, true, std)?,
            c_proj: Linear::normal(&at.at("c_proj"), width, width, true, residual_std(c))?,
            heads: c.n_head,
            attn_dropout: Dropout::new(&at.at("attn_dropout"), c.attn_pdrop)?,
            resid_dropout: Dropout::new(&at.at("resid_dropout"), c.resid_pdrop)?,
            scope: at.scope(),
        })
    }

    /// `residual` + what attention makes of x.
    fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        mask: Option<&Tensor>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let options = Attention {
            causal: true,
            key_padding_mask: mask.cloned(),
            scale: None,
            dropout: self.attn_dropout.active(),
        };
        let qkv = self.c_attn.forward(x)?; // [B, T, 3C]
        let y = match cache {
            None => ops::self_attention_qkv(&qkv, self.heads, &options)?, // [B, T, C]
            Some(cache) => {
                let c = qkv.shape()[2] / 3;
                let part = |i: usize| qkv.narrow(-1, i * c, c);
                let (keys, values) = cache.append(&part(1)?, &part(2)?)?;
                let (q, k, v) = (self.split(&part(0)?)?, self.split(&keys)?, self.split(&values)?);
                let y = ops::scaled_dot_product_attention(&q, &k, &v, &options)?; // [B, H, T, D]
                y.transpose(1, 2)?.flatten(2, 3)? // [B, T, C]
            }
        };
        self.c_proj.forward_add(&y, &self.resid_dropout, residual)
    }

    /// `[B, T, C]` → a view `[B, H, T, D]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let [b, t, c] = [x.shape()[0], x.shape()[1], x.shape()[2]];
        x.reshape([b, t, self.heads, c / self.heads])?.transpose(1, 2)
    }
}

impl Module for SelfAttention {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("c_attn", &self.c_attn);
        v.module("c_proj", &self.c_proj);
    }
}

/// Deviation of the first weights of what is added to the residual stream, twice a block.
fn residual_std(c: &GptConfig) -> f64 {
    c.initializer_range / (2.0 * c.n_layer as f64).sqrt()
}

/// The feed-forward layer.
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
    activation: Activation,
    dropout: Dropout,
    scope: Scope,
}

impl Mlp {
    fn new(at: &Init, c: &GptConfig) -> Result<Mlp> {
        let (width, inner) = (c.n_embd, c.inner());
        Ok(Mlp {
            c_fc: Linear::normal(&at.at("c_fc"), width, inner, true, c.initializer_range)?,
            c_proj: Linear::normal(&at.at("c_proj"), inner, width, true, residual_std(c))?,
            activation: Activation::from_name(&c.activation_function)?,
            dropout: Dropout::new(&at.at("dropout"), c.resid_pdrop)?,
            scope: at.scope(),
        })
    }

    /// `residual` + what the layer makes of x.
    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let hidden = self.c_fc.forward_then_for_products(x, self.activation)?; // [B, T, 4C]
        self.c_proj.forward_add(&hidden, &self.dropout, residual)
    }
}

impl Module for Mlp {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("c_fc", &self.c_fc);
        v.module("c_proj", &self.c_proj);
    }
}

struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    mlp: Mlp,
    scope: Scope,
}

impl Block {
    fn new(at: &Init, c: &GptConfig) -> Result<Block> {
        let norm = |name| LayerNorm::new(&at.at(name), c.n_embd, c.layer_norm_epsilon, true);
        Ok(Block {
            ln_1: norm("ln_1")?,
            attn: SelfAttention::new(&at.at("attn"), c)?,
            ln_2: norm("ln_2")?,
            mlp: Mlp::new(&at.at("mlp"), c)?,
            scope: at.scope(),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let x = self.attn.forward(&self.ln_1.forward_for_products(x)?, x, mask, cache)?;
        self.mlp.forward(&self.ln_2.forward_for_products(&x)?, &x)
    }
}

impl Module for Block {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("ln_1", &self.ln_1);
        v.module("attn", &self.attn);
        v.module("ln_2", &self.ln_2);
        v.module("mlp", &self.mlp);
    }
}

/// A decoder with GPT-2's architecture and parameter names.
pub struct Gpt {
    config: ModelConfig,
    sizes: GptConfig,
    wte: Embedding,
    wpe: Embedding,
    drop: Dropout,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    /// A head of its own where the embedding table is not tied.
    lm_head: Option<Linear>,
    scope: Scope,
    head_scope: Scope,
}

impl Gpt {
    /// A model with first values that are a pure function of `seed`.
    ///
    /// # Errors
    /// When the sizes do not make a model or memory cannot be had.
    pub fn new(config: &GptConfig, seed: u64) -> Result<Gpt> {
        let whole = ModelConfig::Gpt(config.clone());
        whole.validate()?;
        let root = Init::new(seed);
        let at = root.at("transformer");
        let (c, std) = (config, config.initializer_range);
        let block = |i| Block::new(&at.at(format_args!("h.{i}")), c);
        let head = || Linear::normal(&root.at("lm_head"), c.n_embd, c.vocab_size, false, std);
        Ok(Gpt {
            wte: Embedding::normal(&at.at("wte"), c.vocab_size, c.n_embd, std)?,
            wpe: Embedding::normal(&at.at("wpe"), c.n_positions, c.n_embd, std)?,
            drop: Dropout::new(&at.at("drop"), c.embd_pdrop)?,
            blocks: (0..c.n_layer).map(block).collect::<Result<_>>()?,
            ln_f: LayerNorm::new(&at.at("ln_f"), c.n_embd, c.layer_norm_epsilon, true)?,
            lm_head: (!c.tie_word_embeddings).then(head).transpose()?,
            scope: at.scope(),
            head_scope: root.at("lm_head").scope(),
            sizes: config.clone(),
            config: whole,
        })
    }

    /// Token and position vectors of ids `[B, T]` whose first is number `start` of its row.
    fn embed(&self, ids: &Tensor, types: Option<&Tensor>, start: usize) -> Result<Tensor> {
        let &[_, t] = ids.shape() else {
            return Err(Error::op("gpt", format!("ids {:?} are not [B, T]", ids.shape())));
        };
        check_context("gpt", start + t, self.sizes.n_positions)?;
        // The table may be stored in bf16; what goes through the model is not.
        let vectors = |ids| self.wte.forward(ids)?.to_dtype(self.wpe.weight.dtype());
        let mut x = vectors(ids)?; // [B, T, C]
        if let Some(types) = types {
            x = x.add(&vectors(types)?)?; // GPT-2 keeps token types in the token table
        }
        self.drop.forward(&x.add(&self.wpe.rows(start, t)?)?)
    }
}

impl Module for Gpt {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("transformer.wte", &self.wte);
        v.module("transformer.wpe", &self.wpe);
        v.list("transformer.h", &self.blocks);
        v.module("transformer.ln_f", &self.ln_f);
        if let Some(head) = &self.lm_head {
            v.module("lm_head", head);
        }
    }
}

impl LanguageModel for Gpt {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn hidden(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        inputs.size()?;
        let _scope = self.scope.enter();
        let mut x = self.embed(inputs.ids, inputs.token_type_ids, 0)?;
        // Padding at the end is never seen by what comes before it; only a mask can say that it is
        // elsewhere.
        for block in &self.blocks {
            x = block.forward(&x, inputs.padding_mask, None)?;
        }
        self.ln_f.forward(&x)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let _scope = self.head_scope.enter();
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.wte.as_head(hidden, None),
        }
    }

    fn head_loss(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        let _scope = self.head_scope.enter();
        let head = self.lm_head.as_ref().map_or(&self.wte.weight, |head| &head.weight);
        ops::linear_cross_entropy(hidden, &head.tensor(), None, targets, options)
    }

    fn new_state(&self, batch: usize) -> Result<State> {
        let c = &self.sizes;
        let dtype = self.wpe.weight.dtype();
        let cache = |_| KvCache::new(batch, c.n_positions, c.n_embd, dtype);
        Ok(State {
            memory: Memory::Keys((0..c.n_layer).map(cache).collect::<Result<_>>()?),
            seen: 0,
        })
    }

    fn hidden_with_state(&self, ids: &Tensor, state: &mut State) -> Result<Tensor> {
        let Memory::Keys(caches) = &mut state.memory else {
            return Err(Error::op("gpt", "the state belongs to a recurrent model"));
        };
        if caches.len() != self.blocks.len() {
            return Err(Error::op(
                "gpt",
                "the state belongs to a model with another number of layers",
            ));
        }
        no_grad(|| {
            let _scope = self.scope.enter();
            let mut x = self.embed(ids, None, state.seen)?;
            for (block, cache) in self.blocks.iter().zip(caches) {
                x = block.forward(&x, None, Some(cache))?;
            }
            state.seen += ids.shape()[1];
            self.ln_f.forward(&x)
        })
    }

    fn pooled(&self, inputs: &Inputs<'_>, hidden: &Tensor) -> Result<Tensor> {
        let (b, t) = inputs.size()?;
        match inputs.ends()? {
            Some(ends) => at_positions(hidden, ends.into_iter().map(|end| end - 1)),
            None if t == 0 => Err(Error::op("gpt", format!("{b} texts without a token"))),
            None => hidden.select(1, t - 1),
        }
    }

    fn pooled_width(&self) -> usize {
        self.sizes.n_embd
    }

    fn prepare_for(&mut self, purpose: Purpose) {
        if purpose != Purpose::LanguageModel {
            self.lm_head = None;
        }
    }

    fn store_weights(&self, dtype: DType) -> Result<()> {
        store(self, Some(&self.wte.weight), dtype)
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        let n = |x: usize| x as u64;
        let c = &self.sizes;
        let (tokens, d) = (n(batch) * n(t), n(c.n_embd));
        // A block multiplies by 3C² + C² + 2·C·inner weights and looks at T/2 keys and values on
        // average.
        let block = 2 * (4 * d * d + 2 * d * n(c.inner())) + 2 * n(t) * d;
        tokens * (n(c.n_layer) * block + 2 * d * n(c.vocab_size))
    }
}
