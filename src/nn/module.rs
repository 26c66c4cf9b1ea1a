//! Parameters, modules, and how a stranger finds every weight of a model by name.
//!
//! A layer is a struct with [`Parameter`] fields and a `forward` of its own signature. What all
//! layers share is [`Module::visit`]: it shows each parameter under its name, in a fixed order.
//! Counting, saving, loading, freezing and optimising are loops over that one function. A parameter
//! can be read, replaced and updated through a shared reference, so there is no second, mutable
//! walk.
//!
//! ```
//! use handloom::nn::{Init, Linear, Module};
//! # fn main() -> handloom::Result<()> {
//! let layer = Linear::new(&Init::new(0).at("head"), 4, 2, true)?;
//! let names: Vec<String> = layer.named_parameters().into_iter().map(|(name, _)| name).collect();
//! assert_eq!(names, ["weight", "bias"]);
//! assert_eq!(layer.num_parameters(), 10);
//! # Ok(()) }
//! ```

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use super::Linear;
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Dims, Tensor, Tracked};

/// A trainable (or frozen) weight.
///
/// The value lives behind a lock of its own, next to the leaf that collects its gradient. The leaf
/// is made once and stays: handing the parameter to an operation allocates nothing.
pub struct Parameter {
    value: Mutex<Tensor>,
    leaf: Tracked,
    trainable: AtomicBool,
}

impl Parameter {
    /// A parameter that starts as a handle on `value`.
    ///
    /// # Errors
    /// For `u32`, which has no gradient.
    #[track_caller]
    pub fn new(value: Tensor) -> Result<Parameter> {
        let leaf = value.requires_grad_()?;
        let leaf = leaf.history().expect("requires_grad_ makes a leaf").clone();
        Ok(Parameter { value: Mutex::new(value.detach()), leaf, trainable: AtomicBool::new(true) })
    }

    fn value(&self) -> MutexGuard<'_, Tensor> {
        self.value.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// The value as the leaf of the tape, whether frozen or not.
    fn tracked(&self) -> Tensor {
        self.value().clone().with_history(self.leaf.clone())
    }

    /// The value as operations want it: a leaf of the tape, or plain data where the parameter is
    /// frozen. A cheap handle; do not keep it across [`Parameter::update`], which would have to
    /// copy.
    pub fn tensor(&self) -> Tensor {
        if self.requires_grad() { self.tracked() } else { self.value().clone() }
    }

    /// The value without history.
    pub fn data(&self) -> Tensor {
        self.value().clone()
    }

    /// The shape.
    pub fn shape(&self) -> Dims {
        Dims::from_slice(self.value().shape())
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.value().numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.value().dtype()
    }

    /// Where the value lives.
    pub fn device(&self) -> Device {
        self.value().device()
    }

    /// Moves the value to `device`; the gradient collected so far is dropped.
    ///
    /// # Errors
    /// When the device is not there or is full.
    pub fn to_device(&self, device: Device) -> Result<()> {
        if device != self.device() {
            self.set_grad(None);
            let mut mine = self.value();
            *mine = mine.moved(device)?;
        }
        Ok(())
    }

    /// Whether training changes this parameter.
    pub fn requires_grad(&self) -> bool {
        self.trainable.load(Relaxed)
    }

    /// Freezes (`false`) or thaws (`true`) the parameter. Freezing lets go of its gradient.
    pub fn set_requires_grad(&self, on: bool) {
        self.trainable.store(on, Relaxed);
        if !on {
            self.set_grad(None);
        }
    }

    /// The gradient collected so far.
    pub fn grad(&self) -> Option<Tensor> {
        self.tracked().grad()
    }

    /// Takes the gradient out, leaving none.
    pub fn take_grad(&self) -> Option<Tensor> {
        self.tracked().take_grad()
    }

    /// Puts `grad` in the place of the gradient.
    pub fn set_grad(&self, grad: Option<Tensor>) {
        self.tracked().set_grad(grad);
    }

    /// Replaces the value by a copy of `value`, converted to this parameter's dtype.
    ///
    /// # Errors
    /// When the shapes differ: the message names both.
    #[track_caller]
    pub fn load(&self, value: &Tensor) -> Result<()> {
        let mut mine = self.value();
        if mine.shape() != value.shape() {
            return Err(Error::op(
                "load",
                format!(
                    "a value of shape {:?} for a parameter of {:?}",
                    value.shape(),
                    mine.shape()
                ),
            ));
        }
        let dtype = mine.dtype();
        // A copy even where the dtype fits: the caller's tensor stays the caller's.
        let value = value.moved(mine.device())?;
        *mine = if value.dtype() == dtype { value.copy()? } else { value.cast(dtype)? };
        Ok(())
    }

    /// Converts the value to another float type; the gradient collected so far is dropped.
    ///
    /// # Errors
    /// For `u32`.
    #[track_caller]
    pub fn convert(&self, dtype: DType) -> Result<()> {
        if !dtype.is_float() {
            return Err(Error::op("convert", "a parameter cannot hold u32: it has a gradient"));
        }
        self.set_grad(None);
        let mut mine = self.value();
        *mine = mine.cast(dtype)?;
        Ok(())
    }

    /// Changes the value in place, wherever it lives, without a copy while nobody else holds it. `f` must not
    /// touch this parameter.
    ///
    /// # Errors
    /// Those of `f`, and when memory for a copy cannot be had.
    pub(crate) fn change<R>(&self, f: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        let mut mine = self.value();
        mine.own()?;
        f(&mut mine)
    }

    /// Changes the `f32` value in place, without a copy while nobody else holds it. `f` must not
    /// touch this parameter.
    ///
    /// # Errors
    /// When the parameter is not `f32` in main memory, or memory for a copy cannot be had.
    pub fn update<R>(&self, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
        Ok(f(self.value().make_mut::<f32>()?))
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let frozen = if self.requires_grad() { "" } else { ", frozen" };
        write!(f, "Parameter({:?}, {}{frozen})", self.shape().as_slice(), self.dtype())
    }
}

/// Walks through a module and shows each parameter to a callback under its full dotted name. The
/// name is built in one string that grows and shrinks with the walk.
pub struct Visitor<'a, 'f> {
    path: String,
    show: &'f mut dyn FnMut(&str, Shown<'a>),
}

/// What a walk comes by.
enum Shown<'a> {
    Parameter(&'a Parameter),
    Linear(&'a Linear),
}

impl<'a> Visitor<'a, '_> {
    /// Runs `f` with `name` added to the path.
    fn within(&mut self, name: impl Display, f: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        // Writing into a String cannot fail.
        let _ = write!(self.path, "{name}");
        f(self);
        self.path.truncate(before);
    }

    /// Shows a parameter.
    pub fn parameter(&mut self, name: impl Display, parameter: &'a Parameter) {
        self.within(name, |v| (v.show)(&v.path, Shown::Parameter(parameter)));
    }

    /// Says that the place itself is a linear layer, which may take an adapter.
    pub(super) fn linear(&mut self, layer: &'a Linear) {
        (self.show)(&self.path, Shown::Linear(layer));
    }

    /// Shows a parameter that may not be there.
    pub fn option(&mut self, name: impl Display, parameter: &'a Option<Parameter>) {
        if let Some(parameter) = parameter {
            self.parameter(name, parameter);
        }
    }

    /// Goes into a sub-module. A name may have dots.
    pub fn module(&mut self, name: impl Display, module: &'a (impl Module + ?Sized)) {
        self.within(name, |v| module.visit(v));
    }

    /// Goes into a list of modules called `name.0`, `name.1`, …
    pub fn list(&mut self, name: impl Display, modules: &'a [impl Module]) {
        self.within(name, |v| {
            for (i, module) in modules.iter().enumerate() {
                v.module(i, module);
            }
        });
    }
}

/// Names and values of all parameters.
pub type StateDict = Vec<(String, Tensor)>;

/// What [`Module::load_state_dict`] could not match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that the values do not have; they keep what they held.
    pub missing: Vec<String>,
    /// Values that no parameter has a use for.
    pub unexpected: Vec<String>,
}

impl LoadReport {
    /// Whether every name had its partner.
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

thread_local! {
    // The path of the last walk, kept for the next so that a walk allocates nothing.
    static PATH: Cell<String> = const { Cell::new(String::new()) };
}

/// A layer or a model: something with named parameters.
pub trait Module: Send + Sync {
    /// Shows each parameter and sub-module to the visitor, in a fixed order, under the names that
    /// PyTorch or Hugging Face give them.
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>);

    /// Calls `f` with the name of each parameter and the parameter, without allocating once warm.
    fn for_each_parameter<'a>(&'a self, f: &mut dyn FnMut(&str, &'a Parameter)) {
        let mut path = PATH.take();
        path.clear();
        let show: &mut dyn FnMut(&str, Shown<'a>) = &mut |name, shown| {
            if let Shown::Parameter(parameter) = shown {
                f(name, parameter);
            }
        };
        let mut visitor = Visitor { path, show };
        self.visit(&mut visitor);
        PATH.set(visitor.path);
    }

    /// Calls `f` with the name of each linear layer and the layer.
    fn for_each_linear<'a>(&'a self, f: &mut dyn FnMut(&str, &'a Linear)) {
        let show: &mut dyn FnMut(&str, Shown<'a>) = &mut |name, shown| {
            if let Shown::Linear(layer) = shown {
                f(name, layer);
            }
        };
        self.visit(&mut Visitor { path: String::new(), show });
    }

    /// All parameters with their names.
    fn named_parameters(&self) -> Vec<(String, &Parameter)> {
        let mut list = Vec::new();
        self.for_each_parameter(&mut |name, p| list.push((name.to_owned(), p)));
        list
    }

    /// The number of elements of all parameters.
    fn num_parameters(&self) -> usize {
        let mut n = 0;
        self.for_each_parameter(&mut |_, p| n += p.numel());
        n
    }

    /// The number of elements of the parameters that are not frozen.
    fn num_trainable_parameters(&self) -> usize {
        let mut n = 0;
        self.for_each_parameter(&mut |_, p| n += if p.requires_grad() { p.numel() } else { 0 });
        n
    }

    /// Lets go of all gradients.
    fn zero_grad(&self) {
        self.for_each_parameter(&mut |_, p| p.set_grad(None));
    }

    /// Freezes or thaws the parameters whose name `which` accepts; says how many those were.
    fn set_requires_grad(&self, on: bool, which: &mut dyn FnMut(&str) -> bool) -> usize {
        let mut n = 0;
        self.for_each_parameter(&mut |name, p| {
            if which(name) {
                p.set_requires_grad(on);
                n += 1;
            }
        });
        n
    }

    /// Converts every parameter to `dtype`, as for a gradient check in `f64`.
    ///
    /// # Errors
    /// For `u32`.
    fn convert(&self, dtype: DType) -> Result<()> {
        let mut result = Ok(());
        self.for_each_parameter(&mut |_, p| {
            if result.is_ok() {
                result = p.convert(dtype);
            }
        });
        result
    }

    /// Moves every parameter to `device`.
    ///
    /// # Errors
    /// When the device is not there or is full.
    fn to_device(&self, device: Device) -> Result<()> {
        let mut result = Ok(());
        self.for_each_parameter(&mut |_, p| {
            if result.is_ok() {
                result = p.to_device(device);
            }
        });
        result
    }

    /// Names and values, as handles that stay what they are when training goes on.
    fn state_dict(&self) -> StateDict {
        let mut list = StateDict::new();
        self.for_each_parameter(&mut |name, p| list.push((name.to_owned(), p.data())));
        list
    }

    /// Sets the parameters from named values. Either everything that matches is loaded or, on an
    /// error, nothing is.
    ///
    /// # Errors
    /// When a shape differs, a name occurs twice, or, where `strict`, a name has no partner. The
    /// message lists all of it.
    fn load_state_dict(&self, values: &[(String, Tensor)], strict: bool) -> Result<LoadReport> {
        let mut by_name: HashMap<&str, &Tensor> = HashMap::with_capacity(values.len());
        let mut complaints = Vec::new();
        for (name, value) in values {
            if by_name.insert(name, value).is_some() {
                complaints.push(format!("`{name}` occurs twice"));
            }
        }
        let mut report = LoadReport::default();
        let mut pairs: Vec<(&Parameter, &Tensor)> = Vec::new();
        self.for_each_parameter(&mut |name, p| match by_name.remove(name) {
            None => report.missing.push(name.to_owned()),
            Some(value) if value.shape() != p.shape().as_slice() => complaints.push(format!(
                "`{name}` has shape {:?}, the model wants {:?}",
                value.shape(),
                p.shape().as_slice()
            )),
            Some(value) => pairs.push((p, value)),
        });
        report.unexpected = values
            .iter()
            .map(|(name, _)| name)
            .filter(|n| by_name.contains_key(n.as_str()))
            .cloned()
            .collect();
        if strict && !report.missing.is_empty() {
            complaints.push(format!("missing: {}", listed(&report.missing)));
        }
        if strict && !report.unexpected.is_empty() {
            complaints.push(format!("not part of this model: {}", listed(&report.unexpected)));
        }
        if !complaints.is_empty() {
            return Err(Error::Data(format!(
                "the weights do not fit the model: {}",
                complaints.join("; ")
            )));
        }
        for (parameter, value) in pairs {
            parameter.load(value)?;
        }
        Ok(report)
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        (**self).visit(v);
    }
}

/// Names for a message: the first dozen, then how many more.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, Linear};

    struct Two {
        first: Linear,
        rest: Vec<Linear>,
    }

    impl Module for Two {
        fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
            v.module("first", &self.first);
            v.list("rest", &self.rest);
        }
    }

    fn two(seed: u64) -> Two {
        let init = Init::new(seed);
        Two {
            first: Linear::new(&init.at("first"), 3, 2, true).unwrap(),
            rest: (0..2)
                .map(|i| Linear::new(&init.at(format_args!("rest.{i}")), 2, 2, false).unwrap())
                .collect(),
        }
    }

    #[test]
    fn names_are_dotted_paths_in_order() {
        let names: Vec<String> = two(0).named_parameters().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["first.weight", "first.bias", "rest.0.weight", "rest.1.weight"]);
        assert_eq!(two(0).num_parameters(), 6 + 2 + 4 + 4);
    }

    #[test]
    fn a_state_dict_goes_round_and_does_not_follow_updates() {
        let (a, b) = (two(1), two(2));
        let saved = a.state_dict();
        a.for_each_parameter(&mut |_, p| p.update(|w| w.fill(7.0)).unwrap());
        assert!(b.load_state_dict(&saved, true).unwrap().is_exact());
        let c = two(1);
        for ((_, x), (_, y)) in b.state_dict().iter().zip(c.state_dict()) {
            assert_eq!(x.to_vec::<f32>().unwrap(), y.to_vec::<f32>().unwrap());
        }
    }

    #[test]
    fn wrong_weights_are_all_listed_and_nothing_is_loaded() {
        let model = two(3);
        let before = model.state_dict();
        let mut values = two(4).state_dict();
        values[0].1 = Tensor::zeros([5, 5], DType::F32).unwrap();
        values[2].0 = "stranger".into();
        let message = model.load_state_dict(&values, true).unwrap_err().to_string();
        for part in ["`first.weight` has shape [5, 5]", "missing: rest.0.weight", "stranger"] {
            assert!(message.contains(part), "{message}");
        }
        for ((_, x), (_, y)) in before.iter().zip(model.state_dict()) {
            assert_eq!(x.to_vec::<f32>().unwrap(), y.to_vec::<f32>().unwrap());
        }
        values.remove(0);
        let report = model.load_state_dict(&values, false).unwrap();
        assert_eq!(report.missing, ["first.weight", "rest.0.weight"]);
        assert_eq!(report.unexpected, ["stranger"]);
        values.push(values[0].clone());
        assert!(model.load_state_dict(&values, false).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn gradients_collect_in_the_parameter_and_freezing_stops_them() {
        let p = Parameter::new(Tensor::ones(2, DType::F32).unwrap()).unwrap();
        let square = |p: &Parameter| p.tensor().mul(&p.tensor()).unwrap().sum_all().unwrap();
        square(&p).backward().unwrap();
        assert_eq!(p.grad().unwrap().to_vec::<f32>().unwrap(), [2.0, 2.0]);
        p.update(|w| w.fill(3.0)).unwrap();
        square(&p).backward().unwrap();
        assert_eq!(p.take_grad().unwrap().to_vec::<f32>().unwrap(), [8.0, 8.0]);
        assert!(p.grad().is_none());
        p.set_requires_grad(false);
        assert!(!square(&p).requires_grad());
    }

    #[test]
    fn an_update_writes_in_place_while_nobody_else_holds_the_value() {
        let p = Parameter::new(Tensor::ones(64, DType::F32).unwrap()).unwrap();
        let address = |p: &Parameter| p.update(|w| w.as_ptr() as usize).unwrap();
        let first = address(&p);
        p.tensor().sum_all().unwrap().backward().unwrap();
        assert_eq!(address(&p), first);
        let held = p.tensor();
        assert_ne!(address(&p), first, "whoever holds the old value keeps it");
        assert_eq!(held.to_vec::<f32>().unwrap(), [1.0; 64]);
    }
}
