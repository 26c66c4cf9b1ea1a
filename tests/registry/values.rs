//! Values against the reference, in every dtype and layout; gradients in `f32` and 16 bits against `f64`.

use crate::layouts::{Layout, lay_out};
use crate::reference::{Array, reference};
use crate::samples::{big, constants, small};
use crate::{Failures, array, arrays, entries};
use handloom::ops::registry::{Entry, Sample};
use handloom::{DType, Tensor};

/// Whether `y` is `expected`, within `relative` of its own size plus `absolute`.
pub fn close(y: &Array, expected: &Array, relative: f64, absolute: f64) -> Result<(), String> {
    if y.shape != expected.shape {
        return Err(format!("shape {:?}, expected {:?}", y.shape, expected.shape));
    }
    for (i, (&a, &b)) in y.data.iter().zip(&expected.data).enumerate() {
        let right =
            (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= relative * b.abs() + absolute;
        if !right {
            let off = (a - b).abs();
            return Err(format!(
                "[{i}] of {:?} is {a:e}, expected {b:e} (off by {off:e})",
                y.shape
            ));
        }
    }
    Ok(())
}

/// The largest magnitude among finite values.
pub fn largest(x: &Array) -> f64 {
    x.data.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

/// Operations that refuse 16-bit inputs: their kernels keep a state that would lose its bits.
const NO_HALVES: [&str; 3] = ["rnn_sequence", "lstm_sequence", "gru_sequence"];

fn check_values(
    entry: &Entry,
    sample: &Sample,
    dtype: DType,
    layout: Layout,
) -> Result<(), String> {
    let Some(inputs) = lay_out(&sample.tensors(dtype, 1).unwrap(), layout) else { return Ok(()) };
    let outputs = match (entry.run)(&inputs, &sample.attrs) {
        Ok(_) if dtype.is_half() && NO_HALVES.contains(&entry.name) => {
            return Err("takes 16-bit inputs now: take it off the list".into());
        }
        Ok(outputs) => outputs,
        Err(error) if dtype.is_half() && NO_HALVES.contains(&entry.name) => {
            let message = error.to_string();
            let helpful = message.contains("convert with to_dtype");
            return if helpful { Ok(()) } else { Err(message) };
        }
        Err(error) => return Err(error.to_string()),
    };
    let expected = reference(entry.name, &arrays(&inputs), &sample.attrs);
    if outputs.len() != expected.len() {
        return Err(format!("{} outputs, expected {}", outputs.len(), expected.len()));
    }
    for (y, expected) in outputs.iter().zip(&expected) {
        let size = largest(expected);
        // One rounding at the end for 16 bits; f64 kernels aim at gradient checks, not at the last bit.
        let (relative, absolute) = match dtype {
            DType::F64 => (0.0, 1e-12 * size),
            DType::F32 => (0.0, entry.tolerance * size),
            DType::BF16 => (f64::powi(2.0, -8), entry.tolerance * size),
            _ => (f64::powi(2.0, -11), entry.tolerance * size + f64::powi(2.0, -25)),
        };
        close(&array(y), expected, relative, absolute)?;
    }
    Ok(())
}

#[test]
fn values_are_those_of_the_reference_in_every_dtype_and_layout() {
    let mut failures = Failures::default();
    for entry in entries() {
        for sample in small(&entry) {
            for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
                for layout in Layout::ALL {
                    let what = || format!("{} {dtype} {layout:?} {:?}", entry.name, sample);
                    failures.check(what, check_values(&entry, &sample, dtype, layout));
                }
            }
        }
    }
    failures.report();
}

#[test]
fn long_inputs_have_the_values_of_the_reference_to_the_last_element() {
    let mut failures = Failures::default();
    for mut entry in entries() {
        entry.tolerance *= 5.0; // longer sums
        for sample in big(entry.name) {
            for layout in [Layout::Contiguous, Layout::Transposed] {
                let what = || format!("{} {layout:?} {:?}", entry.name, sample.attrs);
                failures.check(what, check_values(&entry, &sample, DType::F32, layout));
            }
        }
    }
    failures.report();
}

/// Numbers that look random, the same in every run.
pub fn noise(shape: &[usize], dtype: DType) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f64> = (0..n).map(|i| ((i * 7919 + 13) % 1009) as f64 / 504.5 - 1.0).collect();
    // On a grid of 1/128, so that every dtype holds the same values.
    let data: Vec<f64> = data.iter().map(|x| (x * 128.0).round() / 128.0).collect();
    Tensor::from_slice(&data, shape).unwrap().to_dtype(dtype).unwrap()
}

/// The gradients of every differentiable input when each real-valued output receives [`noise`].
pub fn gradients(entry: &Entry, inputs: &[Tensor], sample: &Sample) -> Result<Vec<Tensor>, String> {
    let mut leaves = inputs.to_vec();
    let mut asked = Vec::new();
    for (i, leaf) in leaves.iter_mut().enumerate() {
        if leaf.dtype().is_float() && !constants(entry.name).contains(&i) {
            *leaf = leaf.requires_grad_().unwrap();
            asked.push(i);
        }
    }
    let outputs = (entry.run)(&leaves, &sample.attrs).map_err(|e| e.to_string())?;
    // All outputs in one sum, as a model would use them.
    let mut total: Option<Tensor> = None;
    for y in outputs.iter().filter(|y| y.requires_grad()) {
        let term = y.mul(&noise(y.shape(), y.dtype())).and_then(|t| t.sum_all());
        let term = term.map_err(|e| e.to_string())?;
        total = Some(match total {
            None => term,
            Some(so_far) => so_far.add(&term).map_err(|e| e.to_string())?,
        });
    }
    total.ok_or("no output is tracked")?.backward().map_err(|e| e.to_string())?;
    asked
        .into_iter()
        .map(|i| {
            let grad = leaves[i].grad().ok_or(format!("input {i} received no gradient"))?;
            let (x, got) = (&leaves[i], (grad.shape(), grad.dtype()));
            if got == (x.shape(), x.dtype()) {
                Ok(grad)
            } else {
                Err(format!("input {i} is {} {:?}, its gradient {got:?}", x.dtype(), x.shape()))
            }
        })
        .collect()
}

fn check_gradients(
    entry: &Entry,
    sample: &Sample,
    dtype: DType,
    layout: Layout,
    tolerance: f64,
) -> Result<(), String> {
    let Some(inputs) = lay_out(&sample.tensors(dtype, 1).unwrap(), layout) else { return Ok(()) };
    // The same values in double precision.
    let widen = |x: &Tensor| match x.dtype().is_float() {
        true => x.contiguous()?.to_dtype(DType::F64),
        false => Ok(x.clone()),
    };
    let wide: Vec<Tensor> = inputs.iter().map(|x| widen(x).unwrap()).collect();
    let expected = gradients(entry, &wide, sample)?;
    let got = gradients(entry, &inputs, sample)?;
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let (got, expected) = (array(got), array(expected));
        let allowed = tolerance * largest(&expected).max(1e-3);
        close(&got, &expected, 0.0, allowed)
            .map_err(|why| format!("gradient of input {i}: {why}"))?;
    }
    Ok(())
}

#[test]
fn gradients_in_f32_and_16_bits_are_those_of_f64() {
    let mut failures = Failures::default();
    for entry in entries().into_iter().filter(|e| e.differentiable) {
        for sample in small(&entry) {
            for (dtype, tolerance) in
                [(DType::F32, 10.0 * entry.tolerance), (DType::BF16, 0.02), (DType::F16, 0.003)]
            {
                if dtype.is_half() && NO_HALVES.contains(&entry.name) {
                    continue;
                }
                for layout in [Layout::Contiguous, Layout::Transposed, Layout::Narrowed] {
                    let what = || format!("{} {dtype} {layout:?} {:?}", entry.name, sample);
                    failures
                        .check(what, check_gradients(&entry, &sample, dtype, layout, tolerance));
                }
            }
        }
    }
    failures.report();
}

#[test]
fn long_inputs_have_the_gradients_of_f64_to_the_last_element() {
    let mut failures = Failures::default();
    for entry in entries().into_iter().filter(|e| e.differentiable) {
        for sample in big(entry.name) {
            let what = || format!("{} {:?}", entry.name, sample.attrs);
            let tolerance = 20.0 * entry.tolerance;
            let result =
                check_gradients(&entry, &sample, DType::F32, Layout::Contiguous, tolerance);
            failures.check(what, result);
        }
    }
    failures.report();
}
