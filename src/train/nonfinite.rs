//! Finding where a number went wrong.
//!
//! A loss that is NaN says nothing about its cause. The forward pass is a pure function of weights,
//! batch and training position, so it can run once more under [`crate::autograd::trace()`], and the first
//! operation whose output is not finite is the one to look at.

use super::data::Cursor;
use super::tasks::Task;
use crate::autograd::{trace, training};
use crate::cpu::norm;
use crate::error::Result;
use crate::nn::Module;
use crate::tensor::{DType, Device, Tensor};

fn is_finite(x: &Tensor) -> Result<bool> {
    let x = x.to_device(Device::Cpu)?;
    Ok(match x.dtype() {
        DType::U32 => true,
        DType::F32 => norm::all_finite::<f32>(x.packed()?.slice_ref()),
        _ => norm::all_finite::<f64>(x.cast(DType::F64)?.slice_ref()),
    })
}

/// The first parameter whose gradient is not finite, as a sentence.
pub(super) fn first_gradient(module: &dyn Module) -> Result<String> {
    let mut found = None;
    let mut result = Ok(());
    module.for_each_parameter(&mut |name, parameter| {
        if found.is_none()
            && let Some(grad) = parameter.grad()
        {
            match is_finite(&grad) {
                Ok(true) => {}
                Ok(false) => found = Some(name.to_owned()),
                Err(error) => result = Err(error),
            }
        }
    });
    result?;
    Ok(match found {
        Some(name) => format!("the gradient of {name} is not finite"),
        None => "the gradient norm overflows".into(),
    })
}

/// The first operation of the forward pass whose output is not finite, as half a sentence.
pub(super) fn first_operation(
    task: &mut dyn Task,
    seed: u64,
    position: u64,
    cursor: Cursor,
) -> Result<String> {
    let mut bad = None;
    let mut result = Ok(());
    task.module().for_each_parameter(&mut |name, parameter| {
        if bad.is_none() {
            match is_finite(&parameter.data()) {
                Ok(true) => {}
                Ok(false) => bad = Some(name.to_owned()),
                Err(error) => result = Err(error),
            }
        }
    });
    result?;
    if let Some(name) = bad {
        return Ok(format!("the weights of {name} are not finite"));
    }
    let (_, trace) = trace(|| training(seed, position, || task.loss(cursor)));
    for entry in &trace.entries {
        for value in &entry.values {
            if !is_finite(value)? {
                let scope = if entry.scope.is_empty() { "outside any layer" } else { entry.scope };
                return Ok(format!(
                    "first seen in the output {:?} of {} ({scope}, {}:{})",
                    value.shape(),
                    entry.name,
                    entry.location.file(),
                    entry.location.line()
                ));
            }
        }
    }
    Ok("every operation of the forward pass is finite, so it arose going back".into())
}
