//! Where a layer is and what it starts from.
//!
//! A layer is made with an [`Init`]: the seed of the whole model and the layer's dotted name. First
//! values are a pure function of the two, so a model starts from the same weights however it is put
//! together, and adding a layer changes no other layer. The name is also the layer's
//! [`Scope`], under which its operations appear in a trace, and the stream of its dropout.

use std::fmt::Display;

use crate::autograd::{Scope, no_grad};
use crate::error::Result;
use crate::ops::Key;
use crate::tensor::{DType, IntoShape, Tensor};

/// The seed and the dotted name from which a layer is made.
#[derive(Clone, Debug)]
pub struct Init {
    seed: u64,
    name: String,
}

/// A number for a name: 64-bit FNV-1a, the same on every machine and in every version.
pub fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Init {
    /// The root of a model that starts from `seed`.
    pub fn new(seed: u64) -> Init {
        Init { seed, name: String::new() }
    }

    /// The place called `name` below this one.
    pub fn at(&self, name: impl Display) -> Init {
        let name = match self.name.as_str() {
            "" => name.to_string(),
            parent => format!("{parent}.{name}"),
        };
        Init { seed: self.seed, name }
    }

    /// The full dotted name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The seed of the model.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The scope of the layer, for the trace.
    pub fn scope(&self) -> Scope {
        Scope::new(&self.name)
    }

    fn key(&self, parameter: &str) -> Key {
        Key { seed: self.seed, stream: stream_of(self.at(parameter).name()), step: 0 }
    }

    /// First values of `parameter`, uniform in [−bound, bound).
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn uniform(&self, parameter: &str, shape: impl IntoShape, bound: f64) -> Result<Tensor> {
        let x = Tensor::rand(shape, DType::F32, self.key(parameter))?;
        no_grad(|| x.mul_scalar(2.0 * bound)?.add_scalar(-bound))
    }

    /// First values of `parameter`, normal with mean 0 and deviation `std`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn normal(&self, parameter: &str, shape: impl IntoShape, std: f64) -> Result<Tensor> {
        let x = Tensor::randn(shape, DType::F32, self.key(parameter))?;
        no_grad(|| x.mul_scalar(std))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_a_pure_function_of_seed_and_name() {
        let draw = |seed: u64, at: &str| {
            Init::new(seed).at(at).normal("weight", [3, 5], 0.02).unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(draw(1, "h.0"), draw(1, "h.0"));
        assert_ne!(draw(1, "h.0"), draw(1, "h.1"));
        assert_ne!(draw(1, "h.0"), draw(2, "h.0"));
    }

    #[test]
    fn moments_are_as_asked() {
        let init = Init::new(5);
        let n = 40_000;
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let x = init.normal("w", n, 0.5).unwrap().to_f64_vec().unwrap();
        assert!(mean(&x).abs() < 0.02);
        let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
        assert!((mean(&squares) - 0.25).abs() < 0.01);
        let u = init.uniform("u", n, 0.3).unwrap().to_f64_vec().unwrap();
        assert!(mean(&u).abs() < 0.01 && u.iter().all(|x| (-0.3..=0.3).contains(x)));
        let squares: Vec<f64> = u.iter().map(|x| x * x).collect();
        assert!((mean(&squares) - 0.03).abs() < 0.002);
    }

    #[test]
    fn names_join_with_dots() {
        assert_eq!(Init::new(0).at("a").at(format_args!("h.{}", 3)).name(), "a.h.3");
    }
}
