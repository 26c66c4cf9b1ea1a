//! Every operation, forward and backward, on small inputs at every instruction set there is.
//!
//! The test for slow machines: Miri, emulators of other processors, sanitizers. It sees every kernel with
//! its tails, and says which instruction sets really ran: a machine that has none of them would pass silently.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

use super::registry::{self, Attrs, Entry, Input};
use crate::cpu::adamw::AdamW;
use crate::cpu::norm;
use crate::cpu::philox::{self, Key};
use crate::cpu::sgd::Sgd;
use crate::cpu::simd::{Level, at_every_level};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The values as bits, every NaN alike.
fn add_bits(bits: &mut Vec<u32>, x: &Tensor) {
    match x.dtype() {
        DType::U32 => bits.extend(x.to_vec::<u32>().unwrap()),
        _ => {
            let values = x.detach().cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
            bits.extend(values.iter().map(|x| if x.is_nan() { 1 } else { x.to_bits() }));
        }
    }
}

/// Outputs and gradients of one call; the inputs whose numbers are in `moving` get gradients.
fn call(entry: &Entry, inputs: &[Tensor], attrs: &Attrs, moving: &[usize]) -> Result<Vec<u32>> {
    let mut inputs = inputs.to_vec();
    for &i in moving {
        inputs[i] = inputs[i].requires_grad_()?;
    }
    let outputs = (entry.run)(&inputs, attrs)?;
    let mut bits = Vec::new();
    let mut total: Option<Tensor> = None;
    for output in &outputs {
        add_bits(&mut bits, output);
        if output.dtype().is_float() && !moving.is_empty() {
            let sum = output.sum_all()?.to_dtype(DType::F32)?;
            total = Some(match total {
                Some(total) => total.add(&sum)?,
                None => sum,
            });
        }
    }
    if let Some(total) = total {
        total.backward()?;
        moving.iter().filter_map(|&i| inputs[i].grad()).for_each(|dx| add_bits(&mut bits, &dx));
    }
    Ok(bits)
}

/// One call to make: where it comes from and its inputs.
struct Case {
    entry: Rc<Entry>,
    attrs: Attrs,
    inputs: Vec<Tensor>,
    number: usize,
}

/// The inputs of a sample, made in the plainest way: `Sample::tensors` goes through six kernels.
fn tensor(input: &Input) -> Tensor {
    let fraction = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f64 / (1u64 << 32) as f64;
    let floats = |count: usize, low: f64, high: f64| -> Vec<f32> {
        (0..count).map(|i| (low + (high - low) * fraction(i + 1)) as f32).collect()
    };
    let all = |shape: &[usize]| shape.iter().product();
    match input {
        Input::Float { shape, low, high } => {
            Tensor::from_slice(&floats(all(shape), *low, *high), shape)
        }
        Input::Ids { shape, below } => {
            let ids: Vec<u32> = floats(all(shape), 0.0, *below as f64 - 0.5)
                .into_iter()
                .map(|x| (x as u32).min(*below - 1))
                .collect();
            Tensor::from_slice(&ids, shape)
        }
        Input::Exactly { shape, values } => Tensor::from_slice(values, shape),
    }
    .unwrap()
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for entry in registry::all().into_iter().map(Rc::new) {
        for (number, sample) in (entry.samples)().into_iter().enumerate() {
            let inputs = sample.inputs.iter().map(tensor).collect();
            all.push(Case { entry: entry.clone(), attrs: sample.attrs, inputs, number });
        }
    }
    all
}

/// Outputs and gradients of one case.
fn run(case: &Case) -> Vec<u32> {
    let Case { entry, attrs, inputs, number } = case;
    let floats: Vec<usize> = match entry.differentiable {
        true => (0..inputs.len()).filter(|&i| inputs[i].dtype().is_float()).collect(),
        false => Vec::new(),
    };
    // Weights of classes and their like have no gradient: then the first input alone.
    call(entry, inputs, attrs, &floats)
        .or_else(|_| call(entry, inputs, attrs, &floats[..floats.len().min(1)]))
        .unwrap_or_else(|e| panic!("{} {number} {attrs:?}: {e}", entry.name))
}

/// The kernels that no operation calls: random numbers, the norm of a gradient, the optimisers; with rows
/// of whole vectors and with a tail.
fn the_rest() -> Vec<u32> {
    let mut all = Vec::new();
    for n in [1, 15, 16, 17, 33] {
        let key = |stream: u64| Key { seed: 1, stream, step: 0 };
        let x = |stream: u64| {
            let mut x = vec![0.0f32; n];
            philox::uniform(&mut x, key(stream));
            x
        };
        let (mut p, mut g, mut m, mut v) = (x(1), x(2), x(3), x(4));
        AdamW { step: 3, ..AdamW::default() }.update(&mut p, &mut g, &mut m, &mut v);
        let (mut q, mut normal) = (x(5), x(6));
        Sgd { momentum: 0.9, nesterov: true, ..Sgd::default() }.update(&mut q, &mut g, &mut m);
        philox::normal(&mut normal, key(7));
        let sums = vec![norm::sum_of_squares(&g) as f32, norm::all_finite(&v) as u32 as f32];
        all.extend([p, m, v, q, normal, sums].concat());
    }
    all.iter().map(|x| x.to_bits()).collect()
}

/// Miri takes a second for what takes others a microsecond. There the portable kernels, which have no
/// intrinsics, get one sample in six of each operation, AVX2 every other one, AVX-512 and NEON all.
fn one_in(level: Level) -> usize {
    match level {
        _ if !cfg!(miri) => 1,
        Level::Portable => 6,
        Level::Avx2 => 2,
        Level::Avx512 | Level::Neon | Level::Amx => 1,
    }
}

#[test]
fn every_operation_gives_the_same_bits_at_every_level() {
    let cases = cases();
    let mut names = Vec::new();
    let mut first: HashMap<usize, Vec<u32>> = HashMap::new();
    at_every_level(|level| {
        let start = Instant::now();
        let (mut calls, mut numbers) = (0, 0);
        let mut compare = |what: &str, at: usize, bits: Vec<u32>| {
            (calls, numbers) = (calls + 1, numbers + bits.len());
            let first = first.entry(at).or_insert_with(|| bits.clone());
            assert!(*first == bits, "{what} gives other bits on {}", level.name());
        };
        let mut operations = HashSet::new();
        for (at, case) in cases.iter().enumerate() {
            if case.number % one_in(level) == 0 {
                let start = Instant::now();
                compare(case.entry.name, at, run(case));
                operations.insert(case.entry.name);
                if cfg!(miri) && start.elapsed().as_secs() > 4 {
                    println!("  {} {}: {:.0?}", case.entry.name, case.number, start.elapsed());
                }
            }
        }
        compare("what no operation calls", cases.len(), the_rest());
        println!(
            "{}: {} operations, {calls} calls, {numbers} numbers, {:.0} s",
            level.name(),
            operations.len(),
            start.elapsed().as_secs_f64()
        );
        assert_eq!(operations.len(), registry::all().len());
        names.push(level.name());
    });
    // Where the caller knows what must be there.
    if let Ok(expected) = std::env::var("HANDLOOM_EXPECT_ISA") {
        assert_eq!(names.join(","), expected, "the instruction sets that ran");
    }
}
