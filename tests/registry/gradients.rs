//! The full Jacobian of every differentiable operation, under every layout of its inputs and of the
//! gradient that comes in.

use crate::layouts::{Layout, broadcast_axis, lay_out};
use crate::samples::{constants, small};
use crate::values::gradients;
use crate::{Failures, array, entries};
use handloom::autograd::{GradcheckOptions, gradcheck, no_grad};
use handloom::ops::registry::{Entry, Sample};
use handloom::{DType, Result as Outcome, Tensor, ops};

/// The inputs of a call, cut into those that have derivatives and those that stay as they are.
struct Call<'a> {
    entry: &'a Entry,
    sample: &'a Sample,
    inputs: Vec<Tensor>,
    moving: Vec<usize>,
}

impl<'a> Call<'a> {
    fn new(entry: &'a Entry, sample: &'a Sample, inputs: Vec<Tensor>) -> Call<'a> {
        let moves =
            |&i: &usize| inputs[i].dtype().is_float() && !constants(entry.name).contains(&i);
        let moving = (0..inputs.len()).filter(moves).collect();
        Call { entry, sample, inputs, moving }
    }

    /// The operation as a function of the inputs that have derivatives.
    fn run(&self, moved: &[Tensor]) -> Outcome<Vec<Tensor>> {
        let mut all = self.inputs.clone();
        for (&i, x) in self.moving.iter().zip(moved) {
            all[i] = x.clone();
        }
        (self.entry.run)(&all, &self.sample.attrs)
    }

    fn moving(&self) -> Vec<Tensor> {
        self.moving.iter().map(|&i| self.inputs[i].clone()).collect()
    }

    fn check(
        &self,
        at: &[Tensor],
        around: impl Fn(&[Tensor]) -> Outcome<Vec<Tensor>>,
    ) -> Result<(), String> {
        gradcheck(around, at, &GradcheckOptions::default()).map_err(|e| e.to_string())
    }
}

fn for_each_call(mut f: impl FnMut(&Entry, &Sample)) {
    for entry in entries().iter().filter(|e| e.differentiable) {
        for sample in small(entry) {
            f(entry, &sample);
        }
    }
}

#[test]
fn jacobians_are_right_under_every_layout_of_the_inputs() {
    let mut failures = Failures::default();
    for_each_call(|entry, sample| {
        let plain = sample.tensors(DType::F64, 2).unwrap();
        for layout in Layout::ALL.into_iter().filter(|&l| l != Layout::Broadcast) {
            let Some(inputs) = lay_out(&plain, layout) else { continue };
            let call = Call::new(entry, sample, inputs);
            let what = || format!("{} {layout:?} {:?}", entry.name, sample);
            failures.check(what, call.check(&call.moving(), |x| call.run(x)));
        }
    });
    failures.report();
}

#[test]
fn jacobians_are_right_for_broadcast_inputs() {
    let mut failures = Failures::default();
    for_each_call(|entry, sample| {
        let call = Call::new(entry, sample, sample.tensors(DType::F64, 3).unwrap());
        let full = call.moving();
        if full.iter().all(|x| broadcast_axis(x).is_none()) {
            return;
        }
        // One index of the axis moves all its repetitions, so the repetition is part of the function.
        let narrow = |x: &Tensor| match broadcast_axis(x) {
            Some(axis) => x.narrow(axis as isize, 0, 1).unwrap().contiguous().unwrap(),
            None => x.clone(),
        };
        let thin: Vec<Tensor> = full.iter().map(narrow).collect();
        let repeated = |x: &[Tensor]| {
            let wide: Outcome<Vec<Tensor>> =
                x.iter().zip(&full).map(|(x, full)| x.expand(full.shape())).collect();
            call.run(&wide?)
        };
        failures.check(|| format!("{} {sample:?}", entry.name), call.check(&thin, repeated));
    });
    failures.report();
}

/// What stands behind the operation in the graph, so that the gradient comes in oddly laid out.
type Behind = fn(&Tensor) -> Outcome<Tensor>;

/// Every second element of a longer buffer.
fn beside_zeros(y: &Tensor) -> Outcome<Tensor> {
    let y = y.unsqueeze(-1)?;
    ops::cat(&[&y, &y.detach().mul_scalar(0.0)?], -1)
}

/// The axes in the opposite order in memory.
fn turned(y: &Tensor) -> Outcome<Tensor> {
    let axes: Vec<isize> = (0..y.rank() as isize).rev().collect();
    y.permute(&axes)
}

/// One number repeated with stride 0.
fn summed(y: &Tensor) -> Outcome<Tensor> {
    y.sum_all()
}

/// Two gradients, one of them repeated, that meet and are added.
fn twice(y: &Tensor) -> Outcome<Tensor> {
    turned(y)?.add(&y.sum_all()?)
}

#[test]
fn jacobians_are_right_under_every_layout_of_the_incoming_gradient() {
    let behind: [(&str, Behind); 4] = [
        ("stepped", beside_zeros),
        ("transposed", turned),
        ("expanded", summed),
        ("of two users", twice),
    ];
    let mut failures = Failures::default();
    for_each_call(|entry, sample| {
        let call = Call::new(entry, sample, sample.tensors(DType::F64, 4).unwrap());
        for (name, behind) in behind {
            let function = |x: &[Tensor]| {
                let outputs = call.run(x)?;
                outputs.iter().filter(|y| y.dtype().is_float()).map(behind).collect()
            };
            let what = || format!("{} {name} gradient {:?}", entry.name, sample);
            failures.check(what, call.check(&call.moving(), function));
        }
    });
    failures.report();
}

#[test]
fn an_input_used_twice_gets_the_sum_of_both_gradients() {
    let mut failures = Failures::default();
    for_each_call(|entry, sample| {
        let call = Call::new(entry, sample, sample.tensors(DType::F64, 5).unwrap());
        // Two calls on the same leaves: y(x) + 3 y(x).
        let both = |x: &[Tensor]| {
            let (first, second) = (call.run(x)?, call.run(x)?);
            let pairs = first.iter().zip(&second).filter(|(y, _)| y.dtype().is_float());
            pairs.map(|(y, again)| y.add(&again.mul_scalar(3.0)?)).collect()
        };
        let what = || format!("{} called twice {:?}", entry.name, sample);
        failures.check(what, call.check(&call.moving(), both));

        // One leaf as every input that has its shape.
        let moving = call.moving();
        let Some(first) = moving.first() else { return };
        let alike: Vec<bool> = moving.iter().map(|x| x.shape() == first.shape()).collect();
        if alike.iter().filter(|&&same| same).count() > 1 {
            let shared = |x: &[Tensor]| {
                let mut all = moving.clone();
                for (place, _) in all.iter_mut().zip(&alike).filter(|(_, same)| **same) {
                    *place = x[0].clone();
                }
                call.run(&all)
            };
            let what = || format!("{} one leaf for several inputs {:?}", entry.name, sample);
            failures.check(what, call.check(&moving[..1], shared));
        }
    });
    failures.report();
}

#[test]
fn inputs_that_want_no_gradient_change_nothing_for_those_that_do() {
    let mut failures = Failures::default();
    for_each_call(|entry, sample| {
        let call = Call::new(entry, sample, sample.tensors(DType::F64, 6).unwrap());
        let all = match gradients(entry, &call.inputs, sample) {
            Ok(all) => all,
            Err(why) => return failures.check(|| entry.name.into(), Err(why)),
        };
        for (n, &i) in call.moving.iter().enumerate() {
            let leaf = call.inputs[i].requires_grad_().unwrap();
            let mut inputs = call.inputs.clone();
            inputs[i] = leaf.clone();
            let alone = || -> Outcome<Tensor> {
                let outputs = (entry.run)(&inputs, &sample.attrs)?;
                let mut total = Tensor::scalar(0.0, DType::F64)?;
                for y in outputs.iter().filter(|y| y.requires_grad()) {
                    let dy = crate::values::noise(y.shape(), DType::F64);
                    total = total.add(&y.mul(&dy)?.sum_all()?)?;
                }
                total.backward()?;
                Ok(leaf.grad().expect("the only leaf"))
            };
            let what = || format!("{} only input {i} {:?}", entry.name, sample);
            let result = match alone() {
                Ok(grad) if array(&grad) == array(&all[n]) => Ok(()),
                Ok(grad) => {
                    Err(format!("{:?}, with the others {:?}", array(&grad), array(&all[n])))
                }
                Err(error) => Err(error.to_string()),
            };
            failures.check(what, result);
        }
    });
    failures.report();
}

#[test]
fn nothing_is_recorded_without_need() {
    for_each_call(|entry, sample| {
        let mut inputs = sample.tensors(DType::F64, 7).unwrap();
        for y in (entry.run)(&inputs, &sample.attrs).unwrap() {
            assert!(!y.requires_grad(), "{} tracks untracked inputs", entry.name);
        }
        for i in 0..inputs.len() {
            if inputs[i].dtype().is_float() && !constants(entry.name).contains(&i) {
                inputs[i] = inputs[i].requires_grad_().unwrap();
            }
        }
        let outputs = (entry.run)(&inputs, &sample.attrs).unwrap();
        assert!(outputs[0].requires_grad(), "{} loses the gradient", entry.name);
        for y in no_grad(|| (entry.run)(&inputs, &sample.attrs)).unwrap() {
            assert!(!y.requires_grad() || y.shares_storage(&inputs[0]), "{} records", entry.name);
        }
    });
}
