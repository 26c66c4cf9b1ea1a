//! The nonlinearity of a feed-forward layer, chosen by name.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// An elementwise nonlinearity, with the names that PyTorch and Hugging Face use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0), PyTorch's default in its Transformer layers.
    #[default]
    Relu,
    /// x Φ(x) with the exact Φ: BERT's `gelu`.
    Gelu,
    /// x Φ(x) with Φ by tanh: GPT-2's `gelu_new`.
    GeluTanh,
    /// x σ(x).
    Silu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// The activation that a configuration calls `name`.
    ///
    /// # Errors
    /// For a name that is not known; never a silent default.
    pub fn from_name(name: &str) -> Result<Activation> {
        Ok(match name {
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            other => {
                return Err(Error::Data(format!(
                    "the activation `{other}` is not known; known are relu, gelu, gelu_new, silu, tanh"
                )));
            }
        })
    }

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::Silu => "silu",
            Activation::Tanh => "tanh",
        }
    }

    /// Applies it to each element.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Relu => x.relu(),
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::Silu => x.silu(),
            Activation::Tanh => x.tanh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round_and_strangers_are_refused() {
        for a in ["relu", "gelu", "gelu_new", "silu", "tanh"] {
            assert_eq!(Activation::from_name(a).unwrap().name(), a);
        }
        assert!(Activation::from_name("quick_gelu").is_err());
    }
}
