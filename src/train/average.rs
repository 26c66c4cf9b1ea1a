//! A moving average of the weights (Polyak and Juditsky 1992).
//!
//! ```text
//! a ← a + (1 − d) (w − a)        after each step; d = min(decay, (1 + step) / (10 + step))
//! ```
//!
//! The steps of stochastic descent circle around a minimum; their average lies nearer to it. Training goes on
//! with `w`; evaluations, and the model that is kept as the best, are those of `a`. The smaller d of the first
//! steps lets the average forget where it began.

use std::collections::HashMap;

use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::nn::{Module, Parameter};
use crate::tensor::{DType, Tensor};

/// The average of all parameters of a module, in their order.
pub struct WeightAverage {
    decay: f64,
    weights: Vec<(String, Tensor)>,
}

impl WeightAverage {
    /// Begins with the weights as they are.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(module: &dyn Module, decay: f64) -> Result<WeightAverage> {
        let weights = module.state_dict().into_iter().map(|(name, w)| Ok((name, w.copy()?)));
        Ok(WeightAverage { decay, weights: weights.collect::<Result<_>>()? })
    }

    /// Takes in the weights after step `step`, counted from 1.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn update(&mut self, module: &dyn Module, step: u64) -> Result<()> {
        let step = step as f64;
        let d = self.decay.min((1.0 + step) / (10.0 + step));
        self.with(module, &mut |average, parameter| {
            let new = parameter.data().mul_scalar(1.0 - d)?;
            *average = average.mul_scalar(d)?.add(&new)?;
            Ok(())
        })
    }

    /// Exchanges average and weights; done twice, all is as before.
    ///
    /// # Errors
    /// When the module is not the one this average was made for.
    pub fn exchange(&mut self, module: &dyn Module) -> Result<()> {
        self.with(module, &mut |average, parameter| {
            parameter.change(|weights| {
                std::mem::swap(weights, average);
                Ok(())
            })
        })
    }

    /// The averages by name.
    pub fn state_dict(&self) -> &[(String, Tensor)] {
        &self.weights
    }

    /// Takes over what [`WeightAverage::state_dict`] gave.
    ///
    /// # Errors
    /// [`Error::Data`] where an average is missing or of another shape.
    pub fn load_state_dict(&mut self, mut state: HashMap<String, Tensor>) -> Result<()> {
        for (name, average) in &mut self.weights {
            *average = match state.remove(name) {
                Some(saved) if saved.shape() == average.shape() && saved.dtype() == DType::F32 => {
                    saved.moved(average.device())?
                }
                _ => {
                    return Err(Error::Data(format!(
                        "the average of {name} in the checkpoint is missing or does not fit"
                    )));
                }
            };
        }
        Ok(())
    }

    /// Calls `f` with each average and its parameter.
    fn with(
        &mut self,
        module: &dyn Module,
        f: &mut dyn FnMut(&mut Tensor, &Parameter) -> Result<()>,
    ) -> Result<()> {
        let mut averages = self.weights.iter_mut();
        let mut result = Ok(());
        no_grad(|| {
            module.for_each_parameter(&mut |name: &str, parameter: &Parameter| {
                if result.is_ok() {
                    result = match averages.next() {
                        Some((known, average)) if known == name => f(average, parameter),
                        _ => {
                            Err(Error::Failed(format!("average: the module has changed at {name}")))
                        }
                    };
                }
            });
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, Linear};

    #[test]
    fn the_average_follows_and_changes_places() {
        let layer = Linear::new(&Init::new(1), 2, 1, false).unwrap();
        let set = |x: f32| layer.weight.update(|w| w.fill(x)).unwrap();
        let get = || layer.weight.data().to_vec::<f32>().unwrap()[0];
        set(1.0);
        let mut average = WeightAverage::new(&layer, 0.5).unwrap();
        set(3.0);
        average.update(&layer, 1).unwrap(); // d = 2/11
        average.exchange(&layer).unwrap();
        assert!((get() - (2.0 / 11.0 + 3.0 * 9.0 / 11.0)).abs() < 1e-6, "{}", get());
        average.exchange(&layer).unwrap();
        assert_eq!(get(), 3.0);
        average.update(&layer, 1000).unwrap(); // d = 0.5
        let state: HashMap<_, _> = average.state_dict().iter().cloned().collect();
        let mut other = WeightAverage::new(&layer, 0.5).unwrap();
        other.load_state_dict(state).unwrap();
        other.exchange(&layer).unwrap();
        assert!((get() - (0.5 * (29.0 / 11.0) + 1.5)).abs() < 1e-6, "{}", get());
        assert!(other.load_state_dict(HashMap::new()).is_err());
    }
}
