//! Every operation of the registry, on the GPU and on the CPU.

use handloom::ops::registry::{self, Entry, Sample};
use handloom::{DType, Device, Tensor};

use crate::samples::{big, constants, small};

const GPU: Device = Device::Cuda(0);

/// How an input lies on the GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Contiguous,
    /// The axes in the opposite order in memory.
    Transposed,
    /// Rows with a gap after each.
    Narrowed,
}

fn lay_out(x: &Tensor, layout: Layout) -> Tensor {
    let axes: Vec<isize> = (0..x.rank() as isize).rev().collect();
    match layout {
        Layout::Transposed => {
            x.permute(&axes).unwrap().contiguous().unwrap().permute(&axes).unwrap()
        }
        Layout::Narrowed if x.rank() > 0 => {
            let n = x.shape()[x.rank() - 1];
            handloom::ops::cat(&[x, x], -1).unwrap().narrow(-1, n, n).unwrap()
        }
        _ => x.clone(),
    }
}

fn noise(shape: &[usize], dtype: DType, device: Device) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..n).map(|i| (((i * 7919 + 13) % 1009) as f32 / 4.0).round() / 128.0 - 1.0).collect();
    Tensor::from_slice(&data, shape).unwrap().to_dtype(dtype).unwrap().to_device(device).unwrap()
}

/// Values and gradients, as numbers.
fn results(entry: &Entry, sample: &Sample, inputs: &[Tensor]) -> Result<Vec<Vec<f64>>, String> {
    let mut leaves = inputs.to_vec();
    let mut asked = Vec::new();
    if entry.differentiable {
        for (i, leaf) in leaves.iter_mut().enumerate() {
            if leaf.dtype().is_float() && !constants(entry.name).contains(&i) {
                *leaf = leaf.requires_grad_().map_err(|e| e.to_string())?;
                asked.push(i);
            }
        }
    }
    let run = || -> handloom::Result<Vec<Vec<f64>>> {
        let outputs = (entry.run)(&leaves, &sample.attrs)?;
        let mut total: Option<Tensor> = None;
        for y in outputs.iter().filter(|y| y.requires_grad()) {
            let term = y.mul(&noise(y.shape(), y.dtype(), y.device()))?.sum_all()?;
            total = Some(match total {
                None => term,
                Some(so_far) => so_far.add(&term)?,
            });
        }
        let mut all = Vec::new();
        for y in &outputs {
            all.push(y.to_f64_vec()?);
        }
        if let Some(total) = total {
            total.backward()?;
            for &i in &asked {
                let grad = leaves[i].grad().expect("a gradient");
                assert_eq!(grad.device(), inputs[i].device());
                all.push(grad.to_f64_vec()?);
            }
        }
        Ok(all)
    };
    crate::at_precision(inputs.first().map_or(Device::Cpu, Tensor::device), run)
        .map_err(|e| e.to_string())
}

/// To compare `to_device` itself would move the values back.
fn here(entry: &Entry) -> bool {
    entry.name != "to_device"
}

fn check(entry: &Entry, sample: &Sample, dtype: DType, layout: Layout) -> Result<(), String> {
    let inputs = sample.tensors(dtype, 1).unwrap();
    let expected = results(entry, sample, &inputs);
    let there: Vec<Tensor> =
        inputs.iter().map(|x| lay_out(&x.to_device(GPU).unwrap(), layout)).collect();
    let got = results(entry, sample, &there);
    let (expected, got) = match (expected, got) {
        (Ok(expected), Ok(got)) => (expected, got),
        (Err(_), Err(_)) => return Ok(()), // what a dtype cannot do it cannot do anywhere
        (Err(why), Ok(_)) => return Err(format!("the CPU refuses it: {why}")),
        (Ok(_), Err(why)) if why.contains("does not compute in f64") => return Ok(()),
        (Ok(_), Err(why)) => return Err(format!("the GPU refuses it: {why}")),
    };
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        // Small gradients are differences of larger numbers, which bf16 has rounded.
        let least = if crate::tensor_cores() { 0.1 } else { 1e-3 };
        let size = expected.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(least, f64::max);
        let rough = dtype.is_half() || crate::tensor_cores();
        let allowed = if rough { 1e-2 } else { 2e-5 } * size;
        for (at, (&a, &b)) in got.iter().zip(expected).enumerate() {
            let right = (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= allowed;
            if !right {
                return Err(format!("result {i} at {at} is {a:e}, the CPU has {b:e}"));
            }
        }
        if got.len() != expected.len() {
            return Err(format!("result {i} has {} numbers, not {}", got.len(), expected.len()));
        }
    }
    Ok(())
}

fn check_all(samples: fn(&Entry) -> Vec<Sample>, dtypes: &[DType], layouts: &[Layout]) {
    handloom::cuda::poison_fresh_buffers(true);
    let mut failures = Vec::new();
    for entry in registry::all().iter().filter(|entry| here(entry)) {
        for (i, sample) in samples(entry).iter().enumerate() {
            for &dtype in dtypes {
                for &layout in layouts {
                    if let Err(why) = check(entry, sample, dtype, layout) {
                        failures.push(format!("{} {i} {dtype} {layout:?}: {why}", entry.name));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
#[ignore = "computes on cuda:0"]
fn operations_give_what_the_cpu_gives() {
    let layouts = [Layout::Contiguous, Layout::Transposed, Layout::Narrowed];
    let dtypes = [DType::F32, DType::BF16, DType::F16];
    // Under sanitizers one of each is enough: the others differ in copies before and after.
    let quick = std::env::var_os("HANDLOOM_TEST_QUICK").is_some();
    let (layouts, dtypes) =
        if quick { (&layouts[..1], &dtypes[..1]) } else { (&layouts[..], &dtypes[..]) };
    check_all(small, dtypes, layouts);
}

#[test]
#[ignore = "computes on cuda:0"]
fn large_products_give_what_the_cpu_gives() {
    let samples = |entry: &Entry| match entry.name {
        "matmul" | "linear" | "scaled_dot_product_attention" | "self_attention_qkv" => {
            big(entry.name)
        }
        _ => Vec::new(),
    };
    check_all(samples, &[DType::F32], &[Layout::Contiguous, Layout::Transposed]);
}

#[test]
#[ignore = "computes on cuda:0"]
fn large_operations_give_what_the_cpu_gives() {
    check_all(|entry| big(entry.name), &[DType::F32], &[Layout::Contiguous]);
}
