//! Layer normalisation and root-mean-square normalisation over the last axis.

use super::{Init, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::Result;
use crate::ops;
use crate::tensor::{DType, Tensor};

/// `torch.nn.LayerNorm` over the last axis: `y = (x − μ)/√(σ² + ε) · weight + bias`.
pub struct LayerNorm {
    /// `[C]`, starts at 1
    pub weight: Parameter,
    /// `[C]`, starts at 0
    pub bias: Option<Parameter>,
    eps: f64,
    scope: Scope,
}

impl LayerNorm {
    /// A layer for rows of `width` elements. PyTorch's ε is 1e-5.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(at: &Init, width: usize, eps: f64, bias: bool) -> Result<LayerNorm> {
        let weight = Parameter::new(Tensor::ones(width, DType::F32)?)?;
        let bias =
            bias.then(|| Tensor::zeros(width, DType::F32).and_then(Parameter::new)).transpose()?;
        Ok(LayerNorm { weight, bias, eps, scope: at.scope() })
    }

    /// x `[…, C]` → `[…, C]`.
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let bias = self.bias.as_ref().map(Parameter::tensor);
        ops::layer_norm(x, Some(&self.weight.tensor()), bias.as_ref(), self.eps)
    }

    /// As [`LayerNorm::forward`], for outputs that only linear layers read: in bf16 where products would round them
    /// to that anyway (medium precision in tiles).
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward_for_products(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let (weight, dtype) = (self.weight.tensor(), ops::kept_for_products(x));
        let bias = self.bias.as_ref().map(Parameter::tensor);
        ops::layer_norm_to(x, Some(&weight), bias.as_ref(), self.eps, dtype)
    }
}

impl Module for LayerNorm {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("weight", &self.weight);
        v.option("bias", &self.bias);
    }
}

/// `torch.nn.RMSNorm` over the last axis: `y = x/√(mean(x²) + ε) · weight`.
pub struct RmsNorm {
    /// `[C]`, starts at 1
    pub weight: Parameter,
    eps: f64,
    scope: Scope,
}

impl RmsNorm {
    /// PyTorch's ε where none is given: the distance from 1 to the next `f32`.
    pub const EPS: f64 = f32::EPSILON as f64;

    /// A layer for rows of `width` elements.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(at: &Init, width: usize, eps: f64) -> Result<RmsNorm> {
        let weight = Parameter::new(Tensor::ones(width, DType::F32)?)?;
        Ok(RmsNorm { weight, eps, scope: at.scope() })
    }

    /// x `[…, C]` → `[…, C]`.
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        ops::rms_norm(x, Some(&self.weight.tensor()), self.eps)
    }
}

impl Module for RmsNorm {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("weight", &self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normalised() {
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 6.0], [1, 4]).unwrap();
        let y = LayerNorm::new(&Init::new(0), 4, 0.0, true).unwrap().forward(&x).unwrap();
        let y = y.to_f64_vec().unwrap();
        let sd = 3.5f64.sqrt();
        for (y, x) in y.iter().zip([1.0, 2.0, 3.0, 6.0]) {
            assert!((y - (x - 3.0) / sd).abs() < 1e-6);
        }
        let y =
            RmsNorm::new(&Init::new(0), 4, 0.0).unwrap().forward(&x).unwrap().to_f64_vec().unwrap();
        for (y, x) in y.iter().zip([1.0, 2.0, 3.0, 6.0]) {
            assert!((y - x / 12.5f64.sqrt()).abs() < 1e-6);
        }
    }
}
