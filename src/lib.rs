//! Handloom: a tensor engine woven by hand.
//!
//! # The map, in reading order
//!
//! | room | what it is for |
//! |---|---|
//! | [`error`] | one error type; every message says what, where, why and what to do |
//! | [`cpu`] | CPU kernels: slices and strides in, slices out; they know no tensor |
//! | `cuda` | the same kernels on a GPU, under the feature `cuda` |
//! | [`tensor`] | [`Tensor`]: buffer, shape, strides, dtype, device; the buffer pool; views |
//! | [`autograd`] | the tape, `backward`, `no_grad`, `recompute`, the trace, `gradcheck` |
//! | [`ops`] | one file an operation: formula, shapes, forward, backward, registry entry |
//! | [`nn`] | layers: linear, embedding, norms, dropout, RNN/LSTM/GRU, attention, blocks |
//! | [`models`] | gpt, encoder, RNN language models, the tutorial's two models, their heads |
//! | [`text`] | tokenisers, token files, labelled data, the storyworld |
//! | [`train`] | optimisers, schedules, the trainer, checkpoints, metrics |
//! | [`bench`] | roofs of the machine, kernels measured against them, teaching ladders |
//! | [`cli`] | one file a subcommand |
//!
//! A room imports only from the rooms above it in this table (`text` stands beside `nn`).
#![deny(missing_docs)]

pub mod autograd;
#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod error;
mod json;
pub mod models;
pub mod nn;
pub mod ops;
pub mod tensor;
pub mod text;
pub mod train;

pub use error::{Error, Result};
pub use tensor::{DType, Device, Tensor};

/// The README's example is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
