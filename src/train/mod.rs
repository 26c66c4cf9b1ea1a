//! From data to trained models: optimisers, schedules, batches, the loop, checkpoints, metrics, text.
//!
//! # The idea
//!
//! A run is a pure function of its configuration and its data. The batch at `(epoch, index)`, the
//! dropout mask of a layer at a step and the initial weights follow from the seed alone, so a
//! checkpoint needs no generator state: weights, moments, a step and a cursor say everything, and a
//! run that was stopped anywhere goes on to the same bits.
//!
//! The [`Trainer`](trainer::Trainer) knows no task. A [`Task`](tasks::Task) gives it a loss for a cursor,
//! an evaluation and a module to train; language modelling, classification and tagging are some of them.
//! What happens is told to an [`Observer`].
//!
//! # Reading order
//!
//! [`schedule`], [`optim`], [`data`], [`tasks`] and [`trainer`] are the loop; [`fsx`] and [`checkpoint`]
//! keep it safe; [`metrics`], [`sampling`] and [`generate`] look at the result. [`pretrain`],
//! [`finetune`], [`evaluate`] and [`predict`] tie a command's configuration to all of that:
//!
//! | call | gives |
//! |---|---|
//! | [`pretrain::run`]`(&PretrainConfig, &mut Control)` | `PretrainReport` |
//! | [`pretrain::resume`]`(dir, changes, &mut Control)` | `PretrainReport` |
//! | [`finetune::run`]`(&FinetuneConfig, &mut Control)` | `FinetuneReport` |
//! | [`finetune::resume`]`(dir, changes, &mut Control)` | `FinetuneReport` |
//! | [`evaluate::run`]`(&EvaluateConfig, &mut Control)` | `Evaluation` |
//! | [`predict::Predictor::open`]`(dir)`, `.predict(texts)` | `Vec<Prediction>` |
//! | [`fill_mask::FillMask::open`]`(dir)`, `.fill(text)` | `Vec<Gap>` |
//! | [`predict_tags::TagPredictor::open`]`(dir, …)`, `.predict(texts, …)` | `Vec<TaggedText>` |
//! | [`generate::Writer::open`]`(dir)`, `.write(prompt, options, on_text)` | `Generation` |

pub mod adapters;
pub mod average;
mod beam;
pub mod checkpoint;
pub mod config;
pub mod control;
pub mod data;
pub mod fsx;
pub mod generate;
pub mod memory;
pub mod metrics;
mod nonfinite;
pub mod observer;
pub mod optim;
pub mod pretrained;
pub mod report;
pub mod sampling;
pub mod schedule;
pub mod spans;
mod spikes;
mod state_file;
pub mod strategy;
pub mod tasks;
pub mod trainer;

#[cfg(feature = "cli")]
mod corpus;
#[cfg(feature = "cli")]
pub mod evaluate;
#[cfg(feature = "cli")]
pub mod fill_mask;
#[cfg(feature = "cli")]
pub mod finetune;
#[cfg(feature = "cli")]
pub mod labelled;
#[cfg(feature = "cli")]
pub mod predict;
#[cfg(feature = "cli")]
pub mod predict_tags;
#[cfg(feature = "cli")]
pub mod pretrain;
#[cfg(feature = "cli")]
pub mod tagging;

pub use control::Control;
pub use observer::Observer;
pub use trainer::Trainer;
