//! A wrong call is an `Err` that says which operation, what is wrong and where, and never a panic.

use crate::samples::{constants, small};
use crate::{Failures, entries};
use handloom::ops::registry::{Attr, Attrs, Entry};
use handloom::ops::{self, Attention, CrossEntropy, Key, Nonlinearity};
use handloom::{DType, Error, Result as Outcome, Tensor};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Operations made of another one report under its name.
fn reports_as(name: &str) -> &str {
    match name {
        "stack" => "cat",
        "select" => "narrow",
        "masked_fill" => "where",
        "mean" => "sum",
        "argmax" => "max",
        other => other,
    }
}

#[test]
fn wrong_inputs_are_refused_with_name_reason_and_place() {
    let mut failures = Failures::default();
    for entry in entries() {
        for case in (entry.errors)() {
            let inputs: Vec<Tensor> = (case.inputs)().into_iter().map(Outcome::unwrap).collect();
            let result = catch_unwind(AssertUnwindSafe(|| (entry.run)(&inputs, &case.attrs)));
            let verdict = match result {
                Err(_) => Err("panics".to_string()),
                Ok(Ok(_)) => Err("is accepted".into()),
                Ok(Err(error)) => {
                    let message = error.to_string();
                    let names = [entry.name, reports_as(entry.name)];
                    if !names.iter().any(|name| message.starts_with(&format!("{name}: "))) {
                        Err(format!("does not begin with the operation: {message}"))
                    } else if !message.contains(case.expect) {
                        Err(format!("expected {:?} in: {message}", case.expect))
                    } else if !message.contains(".rs:") {
                        Err(format!("names no source line: {message}"))
                    } else {
                        Ok(())
                    }
                }
            };
            failures.check(|| format!("{}, {}", entry.name, case.what), verdict);
        }
    }
    failures.report();
}

/// The source line in the message is the caller's, wherever inside an operation the fault was found.
#[test]
fn the_line_named_is_the_callers() {
    let f = |shape: &[usize]| Tensor::zeros(shape, DType::F32).unwrap();
    let half = |shape: &[usize]| Tensor::zeros(shape, DType::BF16).unwrap();
    let u = |shape: &[usize]| Tensor::zeros(shape, DType::U32).unwrap();
    let past = Tensor::full(2, 99.0, DType::U32).unwrap();
    let causal = Attention { causal: true, ..Default::default() };
    let mask = |m: Tensor| Attention { key_padding_mask: Some(m), ..Default::default() };
    let p = |p: f64| Attention { dropout: Some((p, key())), ..Default::default() };
    let smoothed = CrossEntropy { label_smoothing: 2.0, ..Default::default() };
    let weighted = CrossEntropy { weight: Some(f(&[7])), ..Default::default() };
    let defaults = CrossEntropy::default();
    fn key() -> Key {
        Key { seed: 1, stream: 1, step: 1 }
    }
    let (m, v, s) = (f(&[2, 3]), f(&[3]), f(&[]));
    let q = f(&[1, 1, 3, 2]);
    let k = f(&[1, 1, 2, 2]);
    let tanh = Nonlinearity::Tanh;
    let calls: Vec<(&str, Outcome<Tensor>)> = vec![
        ("neg", u(&[2]).neg()),
        ("exp", u(&[2]).exp()),
        ("powf", u(&[2]).powf(2.0)),
        ("add_scalar", u(&[2]).add_scalar(2.0)),
        ("mul_scalar", u(&[2]).mul_scalar(2.0)),
        ("add", m.add(&f(&[2]))),
        ("sub", m.sub(&u(&[2]))),
        ("mul", half(&[2]).mul(&half(&[3]))),
        ("where", ops::where_(&m, &m, &m)),
        ("where", ops::where_(&u(&[2]), &m, &m)),
        ("where", ops::where_(&u(&[2]), &half(&[3]), &half(&[3]))),
        ("masked_fill", m.masked_fill(&u(&[2]), 0.0)),
        ("sum", m.sum(&[2], false)),
        ("sum", m.sum(&[0, 0], false)),
        ("sum", half(&[2]).sum(&[4], false)),
        ("mean", m.mean(&[2], false)),
        ("mean_all", u(&[2]).mean_all()),
        ("max", m.max(2, false).map(|(y, _)| y)),
        ("max", f(&[2, 0]).max(1, false).map(|(y, _)| y)),
        ("argmax", m.argmax(5)),
        ("softmax", m.softmax(2)),
        ("softmax", u(&[2, 2]).softmax(0)),
        ("softmax", s.softmax(0)),
        ("log_softmax", m.log_softmax(2)),
        ("log_softmax", u(&[2, 2]).log_softmax(0)),
        ("reshape", m.reshape([4])),
        ("flatten", m.flatten(1, 0)),
        ("flatten", m.flatten(3, 0)),
        ("transpose", m.transpose(0, 3)),
        ("t", v.t()),
        ("permute", m.permute(&[0, 0])),
        ("permute", m.permute(&[0, 9])),
        ("narrow", m.narrow(0, 2, 2)),
        ("narrow", m.narrow(4, 0, 1)),
        ("slice", m.slice(0, 0, 2, 0)),
        ("select", m.select(0, 7)),
        ("select", m.select(3, 0)),
        ("expand", m.expand([3, 3])),
        ("squeeze", m.squeeze(0)),
        ("unsqueeze", m.unsqueeze(4)),
        ("split", m.split(0, 0).map(|mut y| y.remove(0))),
        ("split", m.split(1, 3).map(|mut y| y.remove(0))),
        ("chunk", m.chunk(0, 0).map(|mut y| y.remove(0))),
        ("chunk", m.chunk(1, 5).map(|mut y| y.remove(0))),
        ("cat", ops::cat(&[], 0)),
        ("cat", ops::cat(&[&m, &v], 0)),
        ("cat", ops::cat(&[&m], 2)),
        ("stack", ops::stack(&[&m, &v], 0)),
        ("stack", ops::stack(&[&m], 9)),
        ("matmul", m.matmul(&m)),
        ("matmul", s.matmul(&m)),
        ("matmul", half(&[2, 3]).matmul(&half(&[2, 3]))),
        ("matmul", v.matmul(&m)),
        ("matmul", f(&[2, 2, 2]).matmul(&f(&[3, 2, 2]))),
        ("linear", ops::linear(&m, &f(&[5, 4]), None)),
        ("linear", ops::linear(&half(&[2, 3]), &half(&[5, 4]), None)),
        ("linear", ops::linear(&m, &f(&[5, 3]), Some(&v))),
        ("linear_add", ops::linear_add(&m, &f(&[5, 4]), None, &m)),
        ("linear_add", ops::linear_add(&m, &f(&[5, 3]), Some(&v), &f(&[2, 5]))),
        ("linear_add", ops::linear_add(&m, &f(&[5, 3]), None, &half(&[2, 5]))),
        ("linear_add", ops::linear_add(&half(&[2, 3]), &half(&[5, 3]), None, &half(&[5]))),
        ("linear_gelu", ops::linear_gelu(&m, &f(&[5, 4]), None, true)),
        ("linear_gelu", ops::linear_gelu(&half(&[2, 3]), &half(&[5, 4]), None, true)),
        ("cross_entropy", ops::cross_entropy(&m, &u(&[3]), &defaults)),
        ("cross_entropy", ops::cross_entropy(&m, &past, &defaults)),
        ("cross_entropy", ops::cross_entropy(&half(&[2, 3]), &past, &defaults)),
        ("cross_entropy", ops::cross_entropy(&m, &u(&[2]), &smoothed)),
        ("cross_entropy", ops::cross_entropy(&m, &u(&[2]), &weighted)),
        ("cross_entropy", ops::cross_entropy(&s, &u(&[]), &defaults)),
        ("binary_cross_entropy_with_logits", ops::binary_cross_entropy_with_logits(&m, &v, None)),
        ("layer_norm", ops::layer_norm(&m, Some(&f(&[2])), None, 1e-5)),
        ("layer_norm", ops::layer_norm(&s, None, None, 1e-5)),
        ("layer_norm", ops::layer_norm(&half(&[2, 3]), Some(&v), None, 1e-5)),
        ("rms_norm", ops::rms_norm(&m, Some(&f(&[2])), 1e-5)),
        ("rms_norm", ops::rms_norm(&u(&[2, 3]), None, 1e-5)),
        ("embedding", ops::embedding(&m, &past)),
        ("embedding", ops::embedding(&m, &v)),
        ("index_select", m.index_select(0, &past)),
        ("index_select", m.index_select(0, &u(&[1, 1]))),
        ("gather", m.gather(0, &u(&[2, 4]))),
        ("gather", v.gather(0, &past)),
        ("scatter_add", v.scatter_add(0, &past, &f(&[2]))),
        ("scatter_add", v.scatter_add(0, &u(&[2]), &f(&[3]))),
        ("dropout", ops::dropout(&m, -0.1, key())),
        ("dropout", ops::dropout(&u(&[2]), 0.1, key())),
        ("scaled_dot_product_attention", ops::scaled_dot_product_attention(&m, &m, &m, &causal)),
        ("scaled_dot_product_attention", ops::scaled_dot_product_attention(&q, &k, &k, &causal)),
        ("scaled_dot_product_attention", ops::scaled_dot_product_attention(&q, &k, &q, &causal)),
        (
            "scaled_dot_product_attention",
            ops::scaled_dot_product_attention(&k, &k, &k, &mask(m.clone())),
        ),
        (
            "scaled_dot_product_attention",
            ops::scaled_dot_product_attention(&k, &k, &k, &mask(u(&[3]))),
        ),
        ("scaled_dot_product_attention", ops::scaled_dot_product_attention(&k, &k, &k, &p(7.0))),
        ("self_attention_qkv", ops::self_attention_qkv(&f(&[1, 2, 10]), 2, &causal)),
        ("self_attention_qkv", ops::self_attention_qkv(&f(&[1, 2, 10]), 0, &causal)),
        ("self_attention_qkv", ops::self_attention_qkv(&m, 1, &causal)),
        ("self_attention_qkv", ops::self_attention_qkv(&f(&[1, 2, 12]), 2, &p(f64::NAN))),
        ("rnn_sequence", ops::rnn_sequence(&m, &m, None, &m, tanh, false).map(|y| y.0)),
        (
            "rnn_sequence",
            ops::rnn_sequence(&f(&[2, 1, 3]), &f(&[3, 3]), None, &f(&[2, 3]), tanh, false)
                .map(|y| y.0),
        ),
        (
            "lstm_sequence",
            ops::lstm_sequence(&f(&[2, 1, 3]), &f(&[4, 1]), None, &f(&[1, 1]), &f(&[1, 1]), false)
                .map(|y| y.0),
        ),
        (
            "gru_sequence",
            ops::gru_sequence(&f(&[2, 1, 3]), &f(&[3, 1]), Some(&v), &m, false).map(|y| y.0),
        ),
        ("backward", m.backward().map(|_| m.clone())),
        ("from_slice", Tensor::from_slice(&[1f32], [2])),
        ("requires_grad_", u(&[2]).requires_grad_()),
    ];
    let mut failures = Failures::default();
    for (i, (name, result)) in calls.into_iter().enumerate() {
        let verdict = match result {
            Ok(_) => Err("is accepted".to_string()),
            Err(Error::Op { location, .. }) if location.file() == file!() => Ok(()),
            Err(error) => Err(format!("does not name the caller's line: {error}")),
        };
        failures.check(|| format!("call {i}, {name}"), verdict);
    }
    failures.report();
}

/// Runs a call, and the way back if it is accepted. Everything but a panic is right.
fn survive(entry: &Entry, inputs: &[Tensor], attrs: &Attrs) -> Result<(), String> {
    let run = || -> Outcome<()> {
        let mut leaves = inputs.to_vec();
        for (i, x) in leaves.iter_mut().enumerate() {
            if x.dtype().is_float() && !constants(entry.name).contains(&i) {
                *x = x.requires_grad_()?;
            }
        }
        for y in (entry.run)(&leaves, attrs)? {
            // Not those that an absurd expansion has made absurdly large.
            let sane = y
                .shape()
                .iter()
                .try_fold(1usize, |n, &m| n.checked_mul(m))
                .is_some_and(|n| n < 1 << 20);
            if y.requires_grad() && sane {
                y.backward_with(Tensor::ones(y.shape(), y.dtype())?)?;
            }
        }
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Err(error)) if error.to_string().is_empty() => Err("an error without words".into()),
        Ok(_) => Ok(()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()));
            Err(format!("panics: {}", text.unwrap_or_default()))
        }
    }
}

/// An input in other forms: another dtype, rank, size, layout.
fn variants(x: &Tensor) -> Vec<Tensor> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32] {
        all.push(x.to_dtype(dtype).unwrap());
    }
    all.push(Tensor::zeros((), x.dtype()).unwrap());
    all.push(x.unsqueeze(0).unwrap());
    all.push(x.unsqueeze(-1).unwrap());
    all.push(Tensor::ones([1, 1, 1, 1, 1, 1, 1, 1], x.dtype()).unwrap());
    all.push(Tensor::zeros([2, 0, 3], x.dtype()).unwrap());
    for axis in 0..x.rank() {
        let size = x.shape()[axis];
        for other in [0, 1, size + 1, size.saturating_sub(1)] {
            let mut shape = x.shape().to_vec();
            shape[axis] = other;
            all.push(Tensor::full(shape, 1.0, x.dtype()).unwrap());
        }
        let mut shape = x.shape().to_vec();
        shape.remove(axis);
        all.push(Tensor::full(shape, 1.0, x.dtype()).unwrap());
    }
    if x.dtype() == DType::U32 {
        for id in [1e3, 4294967295.0, 4294967196.0] {
            all.push(Tensor::full(x.shape(), id, DType::U32).unwrap());
        }
    } else {
        for value in [f64::NAN, f64::INFINITY, 1e38] {
            all.push(Tensor::full(x.shape(), value, x.dtype()).unwrap());
        }
    }
    all
}

/// An attribute in other forms, of the same number of values.
fn attr_variants(name: &str, attr: &Attr) -> Vec<Attr> {
    match attr {
        Attr::Float(_) => {
            [f64::NAN, f64::INFINITY, -1.0, 0.0, 1.0, 1.5, 1e300].map(Attr::Float).into()
        }
        Attr::Bool(flag) => vec![Attr::Bool(!flag)],
        // An index into the three kinds of reduction, which in the interface is an enum.
        Attr::Ints(_) if name == "reduction" => vec![],
        Attr::Ints(values) => {
            let odd = [i64::MIN, -100, -2, -1, 0, 1, 2, 3, 100, 1 << 40, i64::MAX];
            let mut all: Vec<Attr> =
                odd.iter().map(|&n| Attr::Ints(vec![n; values.len()])).collect();
            for place in 0..values.len() {
                for &n in &odd {
                    let mut changed = values.clone();
                    changed[place] = n;
                    all.push(Attr::Ints(changed));
                }
            }
            all
        }
    }
}

thread_local! {
    /// Whether panics of this thread are caught and counted, so that printing them is noise.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Makes panics of threads that are [`QUIET`] silent, and leaves those of all other tests alone.
fn silence_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
}

#[test]
fn no_wrong_call_panics() {
    let mut failures = Failures::default();
    QUIET.set(true);
    silence_expected_panics();
    for entry in entries() {
        for sample in small(&entry) {
            let inputs = sample.tensors(DType::F32, 9).unwrap();
            for i in 0..inputs.len() {
                for variant in variants(&inputs[i]) {
                    let mut changed = inputs.clone();
                    changed[i] = variant.clone();
                    let what = || {
                        let shapes: Vec<_> =
                            changed.iter().map(|x| (x.dtype().name(), x.shape())).collect();
                        format!("{} of {shapes:?} {:?}", entry.name, sample.attrs)
                    };
                    failures.check(what, survive(&entry, &changed, &sample.attrs));
                    // All inputs of one dtype, so that the check of dtypes does not end it.
                    let dtype = variant.dtype();
                    let alike: Vec<Tensor> =
                        changed.iter().map(|x| x.to_dtype(dtype).unwrap()).collect();
                    let what = || {
                        let shapes: Vec<_> = alike.iter().map(Tensor::shape).collect();
                        format!("{} of {dtype} {shapes:?} {:?}", entry.name, sample.attrs)
                    };
                    failures.check(what, survive(&entry, &alike, &sample.attrs));
                }
                let mut swapped = inputs.clone();
                swapped.swap(0, i);
                let what = || format!("{} with inputs 0 and {i} swapped", entry.name);
                failures.check(what, survive(&entry, &swapped, &sample.attrs));
            }
            for (name, attr) in &sample.attrs.0 {
                for variant in attr_variants(name, attr) {
                    let mut attrs = sample.attrs.clone();
                    attrs.0.insert(name, variant);
                    let what = || {
                        let shapes: Vec<_> = inputs.iter().map(Tensor::shape).collect();
                        format!("{} of {shapes:?} {attrs:?}", entry.name)
                    };
                    failures.check(what, survive(&entry, &inputs, &attrs));
                }
            }
        }
    }
    QUIET.set(false);
    failures.report();
}
