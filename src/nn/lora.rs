//! Low-rank adaptation: a small trainable product beside a frozen weight (Hu et al. 2021).
//!
//! ```text
//! y = x Wᵀ + b + (α / r) · (dropout(x) Aᵀ) Bᵀ        A [r, in], B [out, r]
//! ```
//!
//! W and b stand still, A and B learn. B starts at 0, so that the layer starts as what it was; A
//! starts as a linear layer does (uniform in ±1/√in). A rank of 8 beside a square weight of 768 is
//! 2 % of its numbers, and so are gradient and moments. When all is learned, `W + (α / r) B A` is a
//! plain weight again: [`merged_state_dict`].
//!
//! An adapter is a part of its [`Linear`](super::Linear): the walk over parameters shows it as
//! `lora_A.weight` and `lora_B.weight` below the layer's name, which are PEFT's names.

use std::collections::HashMap;

use super::{Dropout, Init, Module, Parameter, StateDict, Visitor};
use crate::autograd::{Scope, no_grad};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// The size and strength of adapters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraOptions {
    /// r, the rank of B A.
    pub r: usize,
    /// α: the product counts α / r.
    pub alpha: f64,
    /// Dropout on what goes into A.
    pub dropout: f64,
}

impl Default for LoraOptions {
    fn default() -> LoraOptions {
        LoraOptions { r: 8, alpha: 8.0, dropout: 0.0 }
    }
}

/// The adapter of one linear layer.
pub struct Lora {
    /// A, `[r, in]`
    pub a: Parameter,
    /// B, `[out, r]`
    pub b: Parameter,
    scale: f64,
    dropout: Dropout,
    scope: Scope,
}

impl Lora {
    /// An adapter for a layer from `inputs` to `outputs` that changes nothing yet.
    ///
    /// # Errors
    /// When the options make no sense or memory cannot be had.
    pub fn new(at: &Init, inputs: usize, outputs: usize, options: &LoraOptions) -> Result<Lora> {
        let LoraOptions { r, alpha, dropout } = *options;
        if r == 0 || !alpha.is_finite() || alpha <= 0.0 {
            return Err(Error::Usage(format!(
                "--lora-r {r} --lora-alpha {alpha}: a rank of 1 or more and a number above 0 are needed"
            )));
        }
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        Ok(Lora {
            a: Parameter::new(at.at("lora_A").uniform("weight", [r, inputs], bound)?)?,
            b: Parameter::new(Tensor::zeros([outputs, r], DType::F32)?)?,
            scale: alpha / r as f64,
            dropout: Dropout::new(&at.at("lora_dropout"), dropout)?,
            scope: at.at("lora").scope(),
        })
    }

    /// What the adapter adds to the layer's output: x `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// When x has another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let down = ops::linear(&self.dropout.forward(x)?, &self.a.tensor(), None)?; // […, r]
        ops::linear(&down, &self.b.tensor(), None)?.mul_scalar(self.scale)
    }

    /// What the adapter adds to the layer's weight: `(α / r) B A`, `[out, in]`, without history.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn delta(&self) -> Result<Tensor> {
        no_grad(|| self.b.data().matmul(&self.a.data())?.mul_scalar(self.scale))
    }

    /// Shows A and B under the names of PEFT.
    pub(super) fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("lora_A.weight", &self.a);
        v.parameter("lora_B.weight", &self.b);
    }
}

/// Whether a parameter of this name belongs to an adapter.
pub fn is_lora(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

/// The state dict of the same module without adapters: each one's product is added to the weight
/// that it stands beside. Without adapters it is the plain state dict.
///
/// # Errors
/// When memory cannot be had.
pub fn merged_state_dict(module: &dyn Module) -> Result<StateDict> {
    let mut adapters: HashMap<String, &Lora> = HashMap::new();
    module.for_each_linear(&mut |name, layer| {
        if let Some(lora) = layer.lora() {
            adapters.insert(format!("{name}.weight"), lora);
        }
    });
    let mut list = module.state_dict();
    if adapters.is_empty() {
        return Ok(list);
    }
    list.retain(|(name, _)| !is_lora(name));
    for (name, weight) in &mut list {
        if let Some(lora) = adapters.get(name) {
            *weight = no_grad(|| weight.add(&lora.delta()?))?;
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;

    fn spread(parameter: &Parameter, stream: u64) {
        let key = ops::Key { seed: 9, stream, step: 0 };
        parameter.load(&Tensor::randn(parameter.shape(), DType::F32, key).unwrap()).unwrap();
    }

    fn layer(dropout: f64) -> Linear {
        let at = Init::new(4).at("layer");
        let layer = Linear::new(&at, 6, 5, true).unwrap();
        layer.adapt(&at, &LoraOptions { r: 2, alpha: 8.0, dropout }).unwrap();
        layer
    }

    fn x() -> Tensor {
        Tensor::randn([3, 6], DType::F32, ops::Key { seed: 1, stream: 1, step: 1 }).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_vec::<f32>().unwrap()
    }

    #[test]
    fn it_starts_as_nothing_and_merges_into_the_weight() {
        let plain = Linear::new(&Init::new(4).at("layer"), 6, 5, true).unwrap();
        let adapted = layer(0.0);
        assert_eq!(
            values(&adapted.forward(&x()).unwrap()),
            values(&plain.forward(&x()).unwrap()),
            "B is 0"
        );
        let lora = adapted.lora().unwrap();
        let a = values(&lora.a.data());
        let most = a.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(most <= 1.0 / 6f32.sqrt() && most > 0.2, "{most}");

        spread(&lora.b, 3);
        let names: Vec<String> = adapted.state_dict().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["weight", "bias", "lora_A.weight", "lora_B.weight"]);
        let merged = Linear::new(&Init::new(0), 6, 5, true).unwrap();
        struct Outer<'a>(&'a Linear);
        impl Module for Outer<'_> {
            fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
                v.module("inner", self.0);
            }
        }
        let state = merged_state_dict(&Outer(&adapted)).unwrap();
        Outer(&merged).load_state_dict(&state, true).unwrap();
        let (a, b) = (adapted.forward(&x()).unwrap(), merged.forward(&x()).unwrap());
        assert_ne!(values(&a), values(&plain.forward(&x()).unwrap()));
        for (a, b) in values(&a).iter().zip(values(&b)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn gradients_are_those_of_the_formula() {
        let layer = layer(0.0);
        let lora = layer.lora().unwrap();
        spread(&lora.b, 5);
        layer.weight.set_requires_grad(false);
        layer.convert(DType::F64).unwrap();
        let x = x().to_dtype(DType::F64).unwrap();
        let f = |inputs: &[Tensor]| {
            // y = 4 (x Aᵀ) Bᵀ, squared so that each output has another gradient.
            let down = ops::linear(&x, &inputs[0], None)?;
            let y = ops::linear(&down, &inputs[1], None)?.mul_scalar(4.0)?;
            let whole =
                ops::linear(&x, &layer.weight.data(), Some(&layer.bias.as_ref().unwrap().data()))?;
            let y = whole.add(&y)?;
            y.mul(&y)?.sum_all()
        };
        let inputs = [lora.a.data(), lora.b.data()].map(|t| t.requires_grad_().unwrap());
        let expected = f(&inputs).unwrap();
        expected.backward().unwrap();
        let y = layer.forward(&x).unwrap();
        let loss = y.mul(&y).unwrap().sum_all().unwrap();
        assert_eq!(loss.item().unwrap(), expected.item().unwrap());
        loss.backward().unwrap();
        for (parameter, input) in [&lora.a, &lora.b].into_iter().zip(&inputs) {
            let (a, b) = (parameter.grad().unwrap(), input.grad().unwrap());
            for (a, b) in a.to_f64_vec().unwrap().iter().zip(b.to_f64_vec().unwrap()) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
        }
        assert!(layer.weight.grad().is_none());
    }

    #[test]
    fn dropout_falls_on_the_adapter_alone_and_only_in_training() {
        let layer = layer(0.5);
        spread(&layer.lora().unwrap().b, 7);
        let rest = layer.forward(&x()).unwrap();
        let trained = crate::autograd::training(1, 1, || layer.forward(&x())).unwrap();
        assert_ne!(values(&rest), values(&trained));
        layer.lora().unwrap().b.update(|b| b.fill(0.0)).unwrap();
        let without = crate::autograd::training(1, 1, || layer.forward(&x())).unwrap();
        assert_eq!(values(&without), values(&layer.forward(&x()).unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        let at = Init::new(0);
        for options in [
            LoraOptions { r: 0, ..Default::default() },
            LoraOptions { alpha: f64::NAN, ..Default::default() },
            LoraOptions { dropout: 1.0, ..Default::default() },
        ] {
            assert!(Lora::new(&at, 4, 4, &options).is_err());
        }
    }
}
