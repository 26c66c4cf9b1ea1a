//! Layers, with the names, arguments and first values that PyTorch gives them.
//!
//! # The idea
//!
//! A layer holds [`Parameter`]s and has a `forward`; it shows its parameters through [`Module`]. It
//! is made at a place, an [`Init`], whose dotted name decides three things: its first values (with
//! the seed of the model), what a trace calls it, and its dropout's random numbers.
//!
//! # Reading order
//!
//! [`module`]: parameters and how they are found. [`init`]: names and first values. Then the
//! layers: [`linear`] with its adapter [`lora`], [`embedding`], [`norm`], [`dropout`], [`rnn`], [`multihead_attention`] with
//! its [`kv_cache`], [`transformer`].

pub mod activation;
pub mod crf;
pub mod dropout;
pub mod embedding;
pub mod init;
pub mod kv_cache;
pub mod linear;
pub mod lora;
pub mod module;
pub mod multihead_attention;
pub mod norm;
pub mod rnn;
pub mod transformer;

pub use activation::Activation;
pub use crf::Crf;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use init::Init;
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use lora::{Lora, LoraOptions};
pub use module::{LoadReport, Module, Parameter, StateDict, Visitor};
pub use multihead_attention::{AttentionCall, MultiheadAttention, MultiheadAttentionOptions};
pub use norm::{LayerNorm, RmsNorm};
pub use rnn::{Gru, Lstm, Recurrent, RecurrentKind, RecurrentOptions, RecurrentState, Rnn};
pub use transformer::{
    DecoderLayerCache, DecoderMasks, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer, TransformerLayerOptions,
};

#[cfg(test)]
mod tests;
