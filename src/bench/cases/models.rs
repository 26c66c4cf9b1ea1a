//! Whole models: training steps, and reading and writing text.

use smallvec::smallvec;

use super::super::{Case, Cost, Work, reference};
use super::{computed, ids, precisions};
use crate::autograd::{matmul_precision, no_grad};
use crate::cpu::gemm::Precision;
use crate::error::Result;
use crate::models::{Gpt, GptConfig, Inputs, LanguageModel};
use crate::nn::{Module, Parameter};
use crate::tensor::{DType, Tensor};
use crate::train::optim::{Algorithm, Optimizer};

/// A GPT and its batch.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    vocab: usize,
    context: usize,
    layers: usize,
    heads: usize,
    width: usize,
    batch: usize,
}

const SIZES: [Size; 5] = [
    size("micro", [17, 16, 1, 2, 32, 2]),
    // nanoGPT's README recipe for a CPU.
    size("char-cpu", [65, 64, 4, 4, 128, 12]),
    // Its baby GPT, the batch cut from 64 to 16.
    size("char-gpu", [65, 256, 6, 6, 384, 16]),
    size("bpe-small", [4096, 256, 6, 6, 384, 8]),
    // llm.c's demo on the CPU.
    size("gpt2-124m", [50257, 64, 12, 12, 768, 4]),
];

const fn size(name: &'static str, sizes: [usize; 6]) -> Size {
    let [vocab, context, layers, heads, width, batch] = sizes;
    Size { name, vocab, context, layers, heads, width, batch }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |group, op, dtype, size: Size, make: fn(Size) -> Result<Work>| {
        let case = Case::new(group, op, size.name, dtype, move || make(size));
        if size.name == "micro" { case.quick() } else { case }
    };
    let mut list = Vec::new();
    for precision in precisions() {
        for &size in &SIZES {
            let make = move || train_step(size, precision);
            let case = computed(precision, |dtype| {
                Case::new("train", "train_step", size.name, dtype, make)
            });
            list.push(if size.name == "micro" { case.quick() } else { case });
        }
    }
    for size in
        SIZES.iter().copied().filter(|s| ["micro", "char-cpu", "gpt2-124m"].contains(&s.name))
    {
        list.push(case("decode", "prefill", DType::F32, size, prefill));
        list.push(case("decode", "decode", DType::F32, size, |size| decode(size, DType::F32)));
        list.push(case("decode", "decode", DType::BF16, size, |size| decode(size, DType::BF16)));
    }
    list
}

impl Size {
    fn model(&self) -> Result<Gpt> {
        let config = GptConfig {
            vocab_size: self.vocab,
            n_positions: self.context,
            n_embd: self.width,
            n_layer: self.layers,
            n_head: self.heads,
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            ..GptConfig::default()
        };
        Gpt::new(&config, 1)
    }

    /// The same model in `f64`, of weights stored as `dtype`.
    fn reference(&self, dtype: DType) -> Result<Gpt> {
        let model = self.model()?;
        model.store_weights(dtype)?;
        let mut result = Ok(());
        model.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            if result.is_ok() {
                result = parameter.convert(DType::F64);
            }
        });
        result.map(|()| model)
    }

    /// Floating-point operations of a forward pass over `rows` texts: each weight once a token, and
    /// half of T² scores.
    fn flops(&self, parameters: usize, rows: usize) -> f64 {
        let tokens = (rows * self.context) as f64;
        2.0 * parameters as f64 * tokens
            + 2.0 * (self.layers * self.context * self.width) as f64 * tokens
    }
}

/// Forward, backward, clipping and AdamW, with products as `precision` says.
fn train_step(size: Size, precision: Precision) -> Result<Work> {
    let tolerance = if precision == Precision::Medium { 2e-2 } else { 1e-4 };
    let model = size.model()?;
    let n = model.num_parameters();
    let adamw = Algorithm::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let mut optimizer = Optimizer::new(adamw, &model, 0.01, |_| 1.0);
    let batch = |stream| ids(&[size.batch, size.context], size.vocab, stream);
    let (inputs, targets) = (batch(1)?, batch(2)?);
    let of = (inputs.clone(), targets.clone());
    let weights = 4.0 * n as f64;
    // What the optimiser must move; the matrices of forward and backward hide behind arithmetic.
    let cost = Cost::flops(3.0 * size.flops(n, size.batch), 4.0 * weights, 3.0 * weights);
    Ok(Work::new(
        cost.tokens(size.batch * size.context),
        tolerance,
        move || {
            let loss = matmul_precision(precision, || -> Result<Tensor> {
                let loss = model.loss(&inputs, &targets)?;
                loss.backward()?;
                Ok(loss)
            })?;
            let norm = Optimizer::gradient_norm(&model)?;
            optimizer.step(&model, 1e-3, Optimizer::clip_factor(norm, 1.0))?;
            Ok(smallvec![loss.detach(), Tensor::scalar(norm, DType::F64)?])
        },
        move |got| {
            // Loss and norm of all gradients together, of the same model in f64.
            let model = size.reference(DType::F32)?;
            let loss = model.loss(&of.0, &of.1)?;
            loss.backward()?;
            let mut squares = 0.0;
            let mut result = Ok(());
            model.for_each_parameter(&mut |_: &str, parameter: &Parameter| match parameter
                .take_grad()
                .map(|grad| grad.to_f64_vec())
                .transpose()
            {
                Ok(grad) => squares += grad.iter().flatten().map(|g| g * g).sum::<f64>(),
                Err(error) => result = Err(error),
            });
            result?;
            let norm = Tensor::scalar(squares.sqrt(), DType::F64)?;
            reference::distances(got, &[loss.detach(), norm])
        },
    ))
}

/// Reads one text: the logits of all its positions.
fn prefill(size: Size) -> Result<Work> {
    let model = size.model()?;
    let n = model.num_parameters();
    let text = ids(&[1, size.context], size.vocab, 1)?;
    let of = text.clone();
    let logits = 4.0 * (size.context * size.vocab) as f64;
    Ok(Work::new(
        Cost::flops(size.flops(n, 1), 4.0 * n as f64, logits).tokens(size.context),
        1e-4,
        move || no_grad(|| Ok(smallvec![model.logits(&model.hidden(&Inputs::new(&text))?)?])),
        move |got| {
            let model = size.reference(DType::F32)?;
            no_grad(|| {
                reference::distance(&got[0], &model.logits(&model.hidden(&Inputs::new(&of))?)?)
            })
        },
    ))
}

/// Writes one token after those before it, with the cache of keys and values. Every weight, stored as `dtype`, is read
/// once for it, so memory sets the pace.
fn decode(size: Size, dtype: DType) -> Result<Work> {
    let model = size.model()?;
    model.store_weights(dtype)?;
    let n = model.num_parameters();
    let text = ids(&[1, size.context / 2 + 1], size.vocab, 1)?;
    let prompt = text.narrow(1, 0, size.context / 2)?.contiguous()?;
    let token = text.narrow(1, size.context / 2, 1)?.contiguous()?;
    let mut state = model.new_state(1)?;
    model.hidden_with_state(&prompt, &mut state)?;
    let start = state.clone();
    let weights = (dtype.size() * (n - size.width * size.context)) as f64;
    Ok(Work::new(
        Cost::bytes(weights, 4.0 * size.vocab as f64, weights).tokens(1),
        1e-4,
        move || {
            if state.room() == Some(0) {
                state = start.clone();
            }
            Ok(smallvec![no_grad(|| model.next_logits(&token, &mut state))?])
        },
        move |got| {
            let model = size.reference(dtype)?;
            let mut state = model.new_state(1)?;
            no_grad(|| reference::distance(&got[0], &model.next_logits(&text, &mut state)?))
        },
    ))
}
