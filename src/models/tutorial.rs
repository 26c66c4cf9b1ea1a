//! The two models that an introduction to sequence models begins with.
//!
//! [`RnnModel`]: a recurrent network reads a sequence, a linear layer looks at its last step.
//! [`TransformerModel`]: token, position and token-type vectors go through encoder layers, a pooler
//! looks at the first position. Both are a few lines over [`crate::nn`]; read them first.

use crate::error::{Error, Result};
use crate::nn::{
    Dropout, Embedding, Init, Linear, Module, Recurrent, RecurrentKind, RecurrentOptions,
    TransformerEncoder, TransformerLayerOptions, Visitor,
};
use crate::tensor::Tensor;

/// `torch.nn.RNN` (batch first, tanh) and a linear layer on its last step. Parameters: `rnn.*`,
/// `fc.*`.
pub struct RnnModel {
    rnn: Recurrent,
    fc: Linear,
}

impl RnnModel {
    /// A model with PyTorch's first values for `seed`.
    ///
    /// # Errors
    /// For sizes of 0.
    pub fn new(
        input_size: usize,
        hidden_size: usize,
        output_size: usize,
        seed: u64,
    ) -> Result<RnnModel> {
        let at = Init::new(seed);
        let options = RecurrentOptions { batch_first: true, ..Default::default() };
        Ok(RnnModel {
            rnn: Recurrent::new(
                &at.at("rnn"),
                RecurrentKind::RnnTanh,
                input_size,
                hidden_size,
                &options,
            )?,
            fc: Linear::new(&at.at("fc"), hidden_size, output_size, true)?,
        })
    }

    /// x `[B, T, input_size]` → `[B, output_size]`.
    ///
    /// # Errors
    /// When the width does not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, state) = self.rnn.forward(x, None, None)?;
        self.fc.forward(&state.h.select(0, 0)?)
    }
}

impl Module for RnnModel {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("rnn", &self.rnn);
        v.module("fc", &self.fc);
    }
}

/// A small BERT built from PyTorch's own layers. Parameters: `token_embedding`,
/// `position_embedding`, `token_type_embedding`, `encoder.layers.N.*` as in
/// `torch.nn.TransformerEncoder`, `pooler`.
pub struct TransformerModel {
    token_embedding: Embedding,
    position_embedding: Embedding,
    token_type_embedding: Embedding,
    dropout: Dropout,
    encoder: TransformerEncoder,
    pooler: Linear,
    max_len: usize,
}

impl TransformerModel {
    /// How many token types there are.
    pub const TOKEN_TYPES: usize = 2;

    /// A model of `num_layers` PyTorch encoder layers (post-norm, ReLU, feed-forward 4 · `dim`) for
    /// a vocabulary of `ntoken` and texts of up to `max_len` tokens, with PyTorch's first values
    /// for `seed`.
    ///
    /// # Errors
    /// When the heads do not divide the width, dropout is no probability or a size is 0.
    pub fn new(
        ntoken: usize,
        nhead: usize,
        num_layers: usize,
        dim: usize,
        dropout: f64,
        max_len: usize,
        seed: u64,
    ) -> Result<TransformerModel> {
        if [ntoken, num_layers, dim, max_len].contains(&0) {
            return Err(Error::Usage(
                "ntoken, num_layers, dim and max_len must be at least 1 each".into(),
            ));
        }
        let at = Init::new(seed);
        let options = TransformerLayerOptions {
            dim_feedforward: 4 * dim,
            dropout,
            batch_first: true,
            ..Default::default()
        };
        let types = Self::TOKEN_TYPES;
        Ok(TransformerModel {
            token_embedding: Embedding::new(&at.at("token_embedding"), ntoken, dim)?,
            position_embedding: Embedding::new(&at.at("position_embedding"), max_len, dim)?,
            token_type_embedding: Embedding::new(&at.at("token_type_embedding"), types, dim)?,
            dropout: Dropout::new(&at.at("dropout"), dropout)?,
            encoder: TransformerEncoder::new(
                &at.at("encoder"),
                dim,
                nhead,
                num_layers,
                &options,
                false,
            )?,
            pooler: Linear::new(&at.at("pooler"), dim, dim, true)?,
            max_len,
        })
    }

    /// ids `[B, T]` (`u32`) → the sequence `[B, T, dim]` and the pooled first position `[B, dim]`,
    /// in (−1, 1). `padding_mask` is `[B, T]` (`u32`, 1 = padding).
    ///
    /// # Errors
    /// When T is more than `max_len` or an id is not below `ntoken`.
    #[track_caller]
    pub fn forward(
        &self,
        ids: &Tensor,
        token_type_ids: Option<&Tensor>,
        padding_mask: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let &[_, t] = ids.shape() else {
            return Err(Error::op(
                "TransformerModel",
                format!("ids {:?} are not [B, T]", ids.shape()),
            ));
        };
        super::check_context("TransformerModel", t, self.max_len)?;
        let types = match token_type_ids {
            Some(types) => self.token_type_embedding.forward(types)?,
            None => self.token_type_embedding.rows(0, 1)?,
        };
        let x = self.token_embedding.forward(ids)?; // [B, T, C]
        let x = x.add(&self.position_embedding.rows(0, t)?)?.add(&types)?;
        let x = self.encoder.forward(&self.dropout.forward(&x)?, padding_mask, false)?;
        let pooled = self.pooler.forward(&x.select(1, 0)?)?.tanh()?;
        Ok((x, pooled))
    }
}

impl Module for TransformerModel {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.module("token_embedding", &self.token_embedding);
        v.module("position_embedding", &self.position_embedding);
        v.module("token_type_embedding", &self.token_type_embedding);
        v.module("encoder", &self.encoder);
        v.module("pooler", &self.pooler);
    }
}
