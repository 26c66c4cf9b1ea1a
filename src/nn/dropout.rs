//! Dropout as a layer.
//!
//! Which elements fall is a pure function of the seed and step of the training loop
//! ([`training`](crate::autograd::training)) and of the layer's name, so any step can be run again,
//! and two layers never share a mask. Outside of training nothing falls.

use super::{Init, init::stream_of};
use crate::autograd::{Scope, training_position};
use crate::error::{Error, Result};
use crate::ops::{self, Key};
use crate::tensor::Tensor;

/// `torch.nn.Dropout`: in training each element is 0 with probability p, else scaled by 1/(1 − p).
///
/// A layer that runs twice in one step drops the same elements both times.
#[derive(Clone, Debug)]
pub struct Dropout {
    p: f64,
    stream: u64,
    scope: Scope,
}

impl Dropout {
    /// A layer that drops with probability `p`.
    ///
    /// # Errors
    /// When p is not in [0, 1).
    pub fn new(at: &Init, p: f64) -> Result<Dropout> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Usage(format!(
                "dropout {p} is not a probability from 0 to below 1"
            )));
        }
        Ok(Dropout { p, stream: stream_of(at.name()), scope: at.scope() })
    }

    /// The probability.
    pub fn p(&self) -> f64 {
        self.p
    }

    /// Probability and key while training, for operations that drop inside; `None` where nothing
    /// falls.
    pub fn active(&self) -> Option<(f64, Key)> {
        let (seed, step) = training_position().filter(|_| self.p > 0.0)?;
        Some((self.p, Key { seed, stream: self.stream, step }))
    }

    /// x of any shape.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some((p, key)) = self.active() else { return Ok(x.clone()) };
        let _scope = self.scope.enter();
        ops::dropout(x, p, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::training;
    use crate::tensor::DType;

    #[test]
    fn masks_depend_on_seed_layer_and_step_alone() {
        let x = Tensor::ones(1000, DType::F32).unwrap();
        let layer = |name: &str| Dropout::new(&Init::new(9).at(name), 0.25).unwrap();
        let run = |name: &str, seed, step| {
            training(seed, step, || layer(name).forward(&x)).unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(layer("a").forward(&x).unwrap().to_vec::<f32>().unwrap(), [1.0; 1000]);
        let y = run("a", 1, 2);
        assert_eq!(y, run("a", 1, 2));
        assert_ne!(y, run("b", 1, 2));
        assert_ne!(y, run("a", 2, 2));
        assert_ne!(y, run("a", 1, 3));
        let fallen = y.iter().filter(|y| **y == 0.0).count();
        assert!((180..320).contains(&fallen), "{fallen} of 1000 fell");
        assert!(
            Dropout::new(&Init::new(0), 1.0).is_err()
                && Dropout::new(&Init::new(0), f64::NAN).is_err()
        );
    }
}
