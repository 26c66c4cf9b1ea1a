//! Optimisers over the parameters of a module.
//!
//! The update of a parameter is one fused kernel: it reads weight, gradient and moments, applies the
//! clipping factor on the way, and writes weight and moments ([`crate::cpu::adamw`],
//! [`crate::cpu::sgd`]). Moments live in pooled tensors that are made when a parameter first gets a
//! gradient, so frozen weights cost nothing and a layer that is unfrozen later starts its own count of
//! steps, as in PyTorch.
//!
//! Decay shrinks matrices only (rank 2 and up): a decayed bias or gain has nothing to say against it
//! but that it should be 0 (or 1), and is not.

use std::collections::HashMap;

use crate::cpu::adamw::{self, AdamW};
use crate::cpu::norm;
use crate::cpu::sgd::{self, Sgd};
use crate::error::{Error, Result};
use crate::nn::{Module, Parameter};
use crate::tensor::{DType, Device, Tensor, kernel};

/// The rule of the update and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// How much of the last direction is kept.
        momentum: f64,
        /// Whether the gradient is taken where the momentum leads.
        nesterov: bool,
    },
}

impl Algorithm {
    /// The names of its moments, as in PyTorch's state dictionaries.
    fn moments(self) -> &'static [&'static str] {
        match self {
            Algorithm::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Algorithm::Sgd { momentum: 0.0, .. } => &[],
            Algorithm::Sgd { .. } => &["momentum_buffer"],
        }
    }

    /// Bytes of moments for one parameter of four bytes.
    pub fn bytes_per_parameter(self) -> u64 {
        4 * self.moments().len() as u64
    }
}

/// What is particular to one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Multiplies the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// One parameter's name, group, count of updates and moments.
struct Slot {
    name: String,
    group: Group,
    step: u64,
    moments: Vec<Tensor>,
}

/// An optimiser and its state.
pub struct Optimizer {
    algorithm: Algorithm,
    slots: Vec<Slot>,
}

impl Optimizer {
    /// An optimiser for the parameters of `module`. `weight_decay` goes to matrices; `lr_scale` gives the
    /// factor of the learning rate for a parameter's name.
    pub fn new(
        algorithm: Algorithm,
        module: &dyn Module,
        weight_decay: f64,
        lr_scale: impl Fn(&str) -> f64,
    ) -> Optimizer {
        let mut slots = Vec::new();
        module.for_each_parameter(&mut |name: &str, parameter: &Parameter| {
            let decay = if parameter.shape().len() >= 2 { weight_decay } else { 0.0 };
            slots.push(Slot {
                name: name.to_owned(),
                group: Group { lr_scale: lr_scale(name), weight_decay: decay },
                step: 0,
                moments: Vec::new(),
            });
        });
        Optimizer { algorithm, slots }
    }

    /// The rule of the update.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Refuses a module of which some trainable parameter has no gradient: a layer that is not part of
    /// the loss is nearly always a mistake, and would silently not be trained.
    ///
    /// # Errors
    /// [`Error::Failed`] that names every such parameter.
    pub fn check_gradients(module: &dyn Module) -> Result<()> {
        let mut without = Vec::new();
        module.for_each_parameter(&mut |name: &str, parameter: &Parameter| {
            if parameter.requires_grad() && parameter.grad().is_none() {
                without.push(name.to_owned());
            }
        });
        if without.is_empty() {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "{} trainable parameter(s) got no gradient at the first step: {}; they are not part of the \
             loss, so freeze them or use them",
            without.len(),
            without.join(", ")
        )))
    }

    /// The global norm √Σ g² over all gradients, summed parameter by parameter in their order.
    ///
    /// # Errors
    /// When a gradient is not `f32`.
    pub fn gradient_norm(module: &dyn Module) -> Result<f64> {
        let mut sum = 0.0f64;
        let mut result = Ok(());
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            if let Some(grad) = parameter.grad()
                && grad.device() == Device::Cpu
                && result.is_ok()
            {
                match grad.as_slice::<f32>() {
                    Ok(grad) => sum += norm::sum_of_squares::<f32>(grad),
                    Err(error) => result = Err(error),
                }
            }
        });
        result?;
        #[cfg(feature = "cuda")]
        if let Some(sums) = Optimizer::squares_on_gpu(module)? {
            // All sums first, then one wait for them.
            sum += sums.to_vec::<f64>()?.iter().sum::<f64>();
        }
        Ok(sum.sqrt())
    }

    /// Σ g² of each gradient on a GPU, `[gradients]`, `f64`.
    #[cfg(feature = "cuda")]
    pub(crate) fn squares_on_gpu(module: &dyn Module) -> Result<Option<Tensor>> {
        let mut grads = Vec::new();
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            grads.extend(parameter.grad().filter(|grad| grad.device() != Device::Cpu));
        });
        let Some(first) = grads.first() else { return Ok(None) };
        let mut sums = Tensor::empty_on(grads.len(), DType::F64, first.device())?;
        for (i, grad) in grads.iter().enumerate() {
            let x = grad.slice_ref();
            crate::cuda::kernels::norm::sum_of_squares(sums.slice_mut_from(i), x);
        }
        Ok(Some(sums))
    }

    /// The factor that brings a gradient of norm `norm` down to `max_norm`; 1 where it is below, or
    /// where `max_norm` is 0.
    pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
        if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
    }

    /// Updates every parameter that has a gradient, and takes the gradient away. Gradients are
    /// multiplied by `grad_scale` first.
    ///
    /// # Errors
    /// When the module is not the one this optimiser was made for, or a tensor cannot be had.
    pub fn step(&mut self, module: &dyn Module, lr: f64, grad_scale: f64) -> Result<()> {
        let algorithm = self.algorithm;
        let mut slots = self.slots.iter_mut();
        let mut result = Ok(());
        module.for_each_parameter(&mut |name: &str, parameter: &Parameter| {
            if result.is_ok() {
                result = match slots.next() {
                    Some(slot) if slot.name == name => {
                        slot.update(algorithm, parameter, lr, grad_scale)
                    }
                    _ => Err(Error::Failed(format!("optimiser: the module has changed at {name}"))),
                };
            }
        });
        result
    }

    /// The moments by name, `transformer.wte.weight.exp_avg`, in the order of the parameters.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for slot in &self.slots {
            for (moment, kind) in slot.moments.iter().zip(self.algorithm.moments()) {
                all.push((format!("{}.{kind}", slot.name), moment.clone()));
            }
        }
        all
    }

    /// How many updates each parameter has had, in their order.
    pub fn steps(&self) -> Vec<u64> {
        self.slots.iter().map(|slot| slot.step).collect()
    }

    /// Takes over what [`Optimizer::state_dict`] and [`Optimizer::steps`] gave.
    ///
    /// # Errors
    /// [`Error::Data`] where a moment is missing, surplus or of another shape.
    pub fn load_state_dict(
        &mut self,
        module: &dyn Module,
        mut state: HashMap<String, Tensor>,
        steps: &[u64],
    ) -> Result<()> {
        if steps.len() != self.slots.len() {
            return Err(Error::Data(format!(
                "the optimiser state is for {} parameters, the model has {}",
                steps.len(),
                self.slots.len()
            )));
        }
        let kinds = self.algorithm.moments();
        let mut slots = self.slots.iter_mut().zip(steps);
        let mut result = Ok(());
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            let Some((slot, &step)) = slots.next() else { return };
            slot.step = step;
            slot.moments.clear();
            if step == 0 || result.is_err() {
                return;
            }
            for kind in kinds {
                let key = format!("{}.{kind}", slot.name);
                match state.remove(&key) {
                    Some(value)
                        if value.shape() == parameter.shape().as_slice()
                            && value.dtype() == DType::F32 =>
                    {
                        match value.moved(parameter.device()) {
                            Ok(value) => slot.moments.push(value),
                            Err(error) => result = Err(error),
                        }
                    }
                    Some(value) => {
                        result = Err(Error::Data(format!(
                            "optimiser state {key}: {} {:?}, expected f32 {:?}",
                            value.dtype(),
                            value.shape(),
                            parameter.shape().as_slice()
                        )));
                    }
                    None => result = Err(Error::Data(format!("optimiser state {key} is missing"))),
                }
            }
        });
        result?;
        match state.keys().min() {
            Some(key) => Err(Error::Data(format!("optimiser state {key} belongs to no parameter"))),
            None => Ok(()),
        }
    }
}

impl Slot {
    fn update(
        &mut self,
        algorithm: Algorithm,
        parameter: &Parameter,
        lr: f64,
        grad_scale: f64,
    ) -> Result<()> {
        if !parameter.requires_grad() {
            return Ok(());
        }
        let Some(mut grad) = parameter.take_grad() else { return Ok(()) };
        if self.moments.is_empty() {
            for _ in algorithm.moments() {
                self.moments.push(grad.new_full(parameter.shape(), 0.0)?);
            }
        }
        grad.own()?;
        self.moments.iter_mut().try_for_each(Tensor::own)?;
        let rule = self.next_rule(algorithm, lr, grad_scale);
        self.step += 1;
        match rule {
            Rule::AdamW(rule) => {
                let [m, v] = self.moments.as_mut_slice() else { return Ok(()) };
                parameter.change(|p| {
                    kernel!("adamw", p, T => adamw::update::<T>(
                        &rule, p.slice_mut(), grad.slice_mut(), m.slice_mut(), v.slice_mut()
                    ));
                    Ok(())
                })
            }
            Rule::Sgd(rule) => {
                let mut buffer = self.moments.first_mut();
                parameter.change(|p| {
                    kernel!("sgd", p, T => sgd::update::<T>(
                        &rule, p.slice_mut(), grad.slice_mut(), buffer.as_mut().map(|b| b.slice_mut())
                    ));
                    Ok(())
                })
            }
        }
    }

    /// The rule of the next update.
    fn next_rule(&self, algorithm: Algorithm, lr: f64, grad_scale: f64) -> Rule {
        let (lr, weight_decay) = (lr * self.group.lr_scale, self.group.weight_decay);
        let step = self.step + 1;
        match algorithm {
            Algorithm::AdamW { beta1, beta2, eps } => Rule::AdamW(AdamW {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                step,
                grad_scale,
                zero_grad: false,
            }),
            Algorithm::Sgd { momentum, nesterov } => Rule::Sgd(Sgd {
                lr,
                momentum,
                dampening: 0.0,
                weight_decay,
                nesterov,
                step,
                grad_scale,
                zero_grad: false,
            }),
        }
    }
}

/// The update of one parameter in one step.
enum Rule {
    AdamW(AdamW),
    Sgd(Sgd),
}

#[cfg(feature = "cuda")]
impl Optimizer {
    /// Where values and moments of all that is trained lie on the GPU, if an update recorded there would
    /// do what [`Optimizer::step`] does: moments are made, and nobody else holds a value.
    pub(crate) fn places(&mut self, module: &dyn Module) -> Option<Vec<u64>> {
        let moments = self.algorithm.moments().len();
        let mut places = Some(Vec::new());
        let mut slots = self.slots.iter_mut();
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            let Some(slot) = slots.next().filter(|_| parameter.requires_grad()) else { return };
            let mut all = places.take().filter(|_| slot.moments.len() == moments && slot.step > 0);
            let mut add = |x: &Tensor| match x.whole_buffer() {
                Some(buffer) if x.is_owned() => {
                    all.iter_mut().for_each(|a| a.push(buffer.address()))
                }
                _ => all = None,
            };
            slot.moments.iter().for_each(&mut add);
            let _ = parameter.change(|value| {
                add(value);
                Ok(())
            });
            places = all;
        });
        places
    }

    /// Counts an update of all that is trained.
    pub(crate) fn count(&mut self, module: &dyn Module) {
        let mut slots = self.slots.iter_mut();
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            if let Some(slot) = slots.next().filter(|_| parameter.requires_grad()) {
                slot.step += 1;
            }
        });
    }

    /// The numbers of the next update of all that is trained, for one that was recorded.
    pub(crate) fn numbers(&self, module: &dyn Module, lr: f64, scale: f64) -> Vec<[u32; 8]> {
        use crate::cuda::kernels;
        let (algorithm, mut all) = (self.algorithm, Vec::new());
        let mut slots = self.slots.iter();
        module.for_each_parameter(&mut |_: &str, parameter: &Parameter| {
            if let Some(slot) = slots.next().filter(|_| parameter.requires_grad()) {
                all.push(match slot.next_rule(algorithm, lr, scale) {
                    Rule::AdamW(rule) => kernels::adamw::words(&rule),
                    Rule::Sgd(rule) => kernels::sgd::words(&rule),
                });
            }
        });
        all
    }
}
