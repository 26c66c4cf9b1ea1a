//! The affine layer: `y = x Wᵀ + b`.

use std::sync::OnceLock;

use super::lora::{Lora, LoraOptions};
use super::{Activation, Dropout, Init, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// `torch.nn.Linear`: weight `[out_features, in_features]`, bias `[out_features]`.
pub struct Linear {
    /// `[out_features, in_features]`
    pub weight: Parameter,
    /// `[out_features]`
    pub bias: Option<Parameter>,
    lora: OnceLock<Lora>,
    scope: Scope,
}

impl Linear {
    /// A layer with PyTorch's first values: both uniform in ±1/√in_features.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(at: &Init, in_features: usize, out_features: usize, bias: bool) -> Result<Linear> {
        let bound = if in_features == 0 { 0.0 } else { 1.0 / (in_features as f64).sqrt() };
        let weight = at.uniform("weight", [out_features, in_features], bound)?;
        let bias = bias.then(|| at.uniform("bias", out_features, bound)).transpose()?;
        Linear::from_values(at, weight, bias)
    }

    /// A layer as GPT-2 and BERT start it: weight normal with deviation `std`, bias 0.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn normal(
        at: &Init,
        in_features: usize,
        out_features: usize,
        bias: bool,
        std: f64,
    ) -> Result<Linear> {
        let weight = at.normal("weight", [out_features, in_features], std)?;
        let bias = bias.then(|| Tensor::zeros(out_features, DType::F32)).transpose()?;
        Linear::from_values(at, weight, bias)
    }

    /// A layer with given values.
    ///
    /// # Errors
    /// When the weight is not a matrix or the bias does not fit it.
    pub fn from_values(at: &Init, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let &[out, _] = weight.shape() else {
            return Err(Error::op(
                "Linear",
                format!("weight {:?} is not a matrix", weight.shape()),
            ));
        };
        if let Some(bias) = &bias
            && bias.shape() != [out]
        {
            return Err(Error::op("Linear", format!("bias {:?}, expected [{out}]", bias.shape())));
        }
        let bias = bias.map(Parameter::new).transpose()?;
        let lora = OnceLock::new();
        Ok(Linear { weight: Parameter::new(weight)?, bias, lora, scope: at.scope() })
    }

    /// Puts an adapter beside the weight; `at` is the layer's place. The weight is not frozen by it.
    ///
    /// # Errors
    /// When there is one already, or as [`Lora::new`].
    pub fn adapt(&self, at: &Init, options: &LoraOptions) -> Result<()> {
        let lora = Lora::new(at, self.in_features(), self.out_features(), options)?;
        let there = || Error::op("adapt", format!("{} has an adapter already", at.name()));
        self.lora.set(lora).map_err(|_| there())
    }

    /// The adapter beside the weight.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.get()
    }

    /// x `[…, in_features]` → `[…, out_features]`.
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let bias = self.bias.as_ref().map(Parameter::tensor);
        let y = ops::linear(x, &self.weight.tensor(), bias.as_ref())?;
        match self.lora.get() {
            None => Ok(y),
            Some(lora) => y.add(&lora.forward(x)?),
        }
    }

    /// `residual + dropout(output)`: the end of a branch that comes back to a residual stream.
    ///
    /// # Errors
    /// When x has another width or the residual another shape than the output.
    #[track_caller]
    pub fn forward_add(&self, x: &Tensor, dropout: &Dropout, residual: &Tensor) -> Result<Tensor> {
        if dropout.active().is_some() || self.lora.get().is_some() {
            return residual.add(&dropout.forward(&self.forward(x)?)?);
        }
        let _scope = self.scope.enter();
        let bias = self.bias.as_ref().map(Parameter::tensor);
        ops::linear_add(x, &self.weight.tensor(), bias.as_ref(), residual)
    }

    /// `activation(output)`: the first half of a feed-forward layer.
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward_then(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.then(x, activation, None)
    }

    /// As [`Linear::forward_then`], for outputs that only another linear layer reads: in bf16 where products would round
    /// them to that anyway (medium precision in tiles).
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn forward_then_for_products(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.then(x, activation, Some(ops::kept_for_products(x)))
    }

    /// `activation(output)`, in `dtype` if that is given and the activation is a GELU that can follow at once.
    #[track_caller]
    fn then(&self, x: &Tensor, activation: Activation, dtype: Option<DType>) -> Result<Tensor> {
        let Some(tanh) = self.gelu(activation) else {
            return activation.forward(&self.forward(x)?);
        };
        let _scope = self.scope.enter();
        let (weight, bias) = (self.weight.tensor(), self.bias.as_ref().map(Parameter::tensor));
        match dtype {
            None => ops::linear_gelu(x, &weight, bias.as_ref(), tanh),
            Some(dtype) => ops::linear_gelu_to(x, &weight, bias.as_ref(), tanh, dtype),
        }
    }

    /// Which GELU `activation` is, `tanh` or not, if it is one and can follow at once.
    fn gelu(&self, activation: Activation) -> Option<bool> {
        match activation {
            _ if self.lora.get().is_some() => None,
            Activation::Gelu => Some(false),
            Activation::GeluTanh => Some(true),
            _ => None,
        }
    }

    /// The width that goes in.
    pub fn in_features(&self) -> usize {
        self.weight.shape()[1]
    }

    /// The width that comes out.
    pub fn out_features(&self) -> usize {
        self.weight.shape()[0]
    }
}

impl Module for Linear {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.linear(self);
        v.parameter("weight", &self.weight);
        v.option("bias", &self.bias);
        if let Some(lora) = self.lora.get() {
            lora.visit(v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::matmul_precision;
    use crate::cpu::gemm::Precision;
    use crate::ops::Key;

    /// W in bf16 beside an x in f32, and all in bf16: the numbers of f32, rounded at the end.
    #[test]
    fn bf16_is_read_as_it_is() {
        let key = |stream| Key { seed: 7, stream, step: 0 };
        let randn = |shape: [usize; 2], stream| {
            Tensor::randn(shape, DType::F32, key(stream)).unwrap().to_dtype(DType::BF16).unwrap()
        };
        let (x, w, dy) = (randn([40, 70], 1), randn([50, 70], 2), randn([40, 50], 3));
        let b = randn([1, 50], 4).reshape(50).unwrap();
        let run = |of_x: DType, of_w: DType| {
            let leaf = |t: &Tensor, dtype| t.to_dtype(dtype).unwrap().requires_grad_().unwrap();
            let (x, w, b) = (leaf(&x, of_x), leaf(&w, of_w), leaf(&b, of_x));
            let y = ops::linear(&x, &w, Some(&b)).unwrap();
            y.mul(&dy.to_dtype(of_x).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
            let grads = [&x, &w, &b].map(|t| t.grad().unwrap());
            assert_eq!(grads.each_ref().map(Tensor::dtype), [of_x, of_w, of_x]);
            let [dx, dw, db] = grads;
            [y, dx, dw, db].map(|t| t.to_f64_vec().unwrap())
        };
        let rounded = |x: &[f64]| x.iter().map(|&x| half::bf16::from_f64(x).to_f64()).collect();
        let plain = run(DType::F32, DType::F32);
        let [y, dx, dw, db] = run(DType::F32, DType::BF16);
        let short: Vec<f64> = rounded(&plain[2]);
        assert_eq!([&y, &dx, &dw, &db], [&plain[0], &plain[1], &short, &plain[3]]);
        // Sums in another order, where the machine multiplies bf16 itself, may round the other way.
        for (short, plain) in run(DType::BF16, DType::BF16).iter().zip(&plain) {
            for (x, y) in short.iter().zip(plain) {
                assert!((x - y).abs() <= y.abs() / 250.0 + 1e-4, "{x} for {y}");
            }
        }
        // x in bf16 beside a W in f32: outputs, and the gradients of W and b, are f32.
        let leaf = |t: &Tensor, dtype| t.to_dtype(dtype).unwrap().requires_grad_().unwrap();
        let mixed = [leaf(&x, DType::BF16), leaf(&w, DType::F32), leaf(&b, DType::F32)];
        let y = ops::linear(&mixed[0], &mixed[1], Some(&mixed[2])).unwrap();
        assert_eq!(y.dtype(), DType::F32);
        y.mul(&dy.to_dtype(DType::F32).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = mixed.each_ref().map(|leaf| leaf.grad().unwrap());
        assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::BF16, DType::F32, DType::F32]);
        for (got, want) in [&y, &grads[0], &grads[1], &grads[2]].into_iter().zip(&plain) {
            for (x, y) in got.to_f64_vec().unwrap().iter().zip(want) {
                assert!((x - y).abs() <= y.abs() / 250.0 + 1e-4, "{x} for {y}");
            }
        }
        let message = ops::linear(&x, &w.to_dtype(DType::F16).unwrap(), None).unwrap_err();
        assert!(message.to_string().contains("do not mix"), "{message}");
    }

    /// A block whose activations between products are bf16 is the block in f32 to within bf16, forward and backward.
    #[test]
    fn what_products_read_may_be_kept_in_bf16() {
        let key = |stream| Key { seed: 9, stream, step: 0 };
        let leaf = |shape: &[usize], stream| {
            let x = Tensor::randn(shape, DType::F32, key(stream)).unwrap();
            x.mul_scalar(0.5).unwrap().detach().requires_grad_().unwrap()
        };
        let run = |dtype: DType| {
            let x = leaf(&[40, 24], 1);
            let (weight, shift) = (leaf(&[24], 2), leaf(&[24], 3));
            let (w1, b1) = (leaf(&[48, 24], 4), leaf(&[48], 5));
            let (w2, b2) = (leaf(&[24, 48], 6), leaf(&[24], 7));
            let normed = ops::layer_norm_to(&x, Some(&weight), Some(&shift), 1e-5, dtype).unwrap();
            let hidden = ops::linear_gelu_to(&normed, &w1, Some(&b1), true, dtype).unwrap();
            let y = ops::linear_add(&hidden, &w2, Some(&b2), &x).unwrap();
            assert_eq!([&normed, &hidden, &y].map(Tensor::dtype), [dtype, dtype, DType::F32]);
            y.mul(&y).unwrap().sum_all().unwrap().backward().unwrap();
            let leaves = [&x, &weight, &shift, &w1, &b1, &w2, &b2];
            let grads = leaves.map(|leaf| leaf.grad().unwrap());
            assert!(grads.iter().all(|grad| grad.dtype() == DType::F32));
            let values = std::iter::once(&y).chain(&grads);
            values.map(|t| t.to_f64_vec().unwrap()).collect::<Vec<_>>()
        };
        let (plain, short) = (run(DType::F32), run(DType::BF16));
        for (i, (plain, short)) in plain.iter().zip(&short).enumerate() {
            let size = plain.iter().map(|x| x * x).sum::<f64>().sqrt();
            let error = plain.iter().zip(short).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            assert!(error < 0.01 * size && error > 0.0, "{i}: {error} of {size}");
        }
        // Nothing changes where it is not asked for, nor where products would not round.
        let x = leaf(&[64, 8], 1);
        assert_eq!(ops::kept_for_products(&x), DType::F32);
        let in_tiles = crate::cpu::gemm::multiplies_in_tiles(64);
        let kept = matmul_precision(Precision::Medium, || ops::kept_for_products(&x));
        assert_eq!(kept == DType::BF16, in_tiles);
    }

    #[test]
    fn forward_is_the_affine_map_and_gradients_arrive() {
        let w = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]).unwrap();
        let b = Tensor::from_slice(&[0.5f32, -0.5], 2).unwrap();
        let layer = Linear::from_values(&Init::new(0), w, Some(b)).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 0.0, -1.0], [1, 3]).unwrap();
        let y = layer.forward(&x).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [-1.5, -2.5]);
        y.sum_all().unwrap().backward().unwrap();
        let dw = layer.weight.grad().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(dw, [1.0, 0.0, -1.0, 1.0, 0.0, -1.0]);
        assert_eq!(
            layer.bias.as_ref().unwrap().grad().unwrap().to_vec::<f32>().unwrap(),
            [1.0, 1.0]
        );
    }

    #[test]
    fn first_values_stay_within_pytorchs_bound() {
        let layer = Linear::new(&Init::new(3).at("x"), 16, 64, true).unwrap();
        let w = layer.weight.data().to_vec::<f32>().unwrap();
        let most = w.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(most <= 0.25 && most > 0.24, "{most}");
        assert!(layer.forward(&Tensor::zeros([2, 15], DType::F32).unwrap()).is_err());
    }
}
