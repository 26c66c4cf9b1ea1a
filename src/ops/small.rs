//! Every operation, forward and backward, on small inputs at every instruction set there is.
//!
//! The test for slow machines: Miri, emulators of other processors, sanitizers. It sees every kernel with
//! its tails, and says which instruction sets really ran: a machine that has none of them would pass silently.

use super::registry::{self, Attrs, Entry};
use crate::autograd::no_grad;
use crate::cpu::adamw::AdamW;
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

/// Everything once; how many calls, and all bits.
fn everything() -> (usize, Vec<u32>) {
    let (mut calls, mut bits) = (0, Vec::new());
    for entry in registry::all() {
        let start = std::time::Instant::now();
        let before = calls;
        for sample in (entry.samples)() {
            let inputs = sample.tensors(DType::F32, 7).unwrap();
            let floats: Vec<usize> = match entry.differentiable {
                true => (0..inputs.len()).filter(|&i| inputs[i].dtype().is_float()).collect(),
                false => Vec::new(),
            };
            // Weights of classes and their like have no gradient: then the first input alone.
            let all = call(&entry, &inputs, &sample.attrs, &floats);
            let got = all
                .or_else(|_| call(&entry, &inputs, &sample.attrs, &floats[..floats.len().min(1)]));
            bits.extend(got.unwrap_or_else(|e| panic!("{} {sample:?}: {e}", entry.name)));
            calls += 1;
        }
        if cfg!(miri) {
            println!("  {}: {} calls in {:.1?}", entry.name, calls - before, start.elapsed());
        }
    }
    no_grad(|| {
        for n in [1, 15, 16, 17, 33] {
            let x = |seed: u32| -> Vec<f32> {
                (0..n as u32).map(|i| ((i * 37 + seed * 11) % 64) as f32 / 64.0).collect()
            };
            let (mut p, mut g, mut m, mut v) = (x(1), x(2), x(3), x(4));
            AdamW { step: 3, ..AdamW::default() }.update(&mut p, &mut g, &mut m, &mut v);
            bits.extend([p, m, v].concat().iter().map(|x| x.to_bits()));
            calls += 1;
        }
    });
    (calls, bits)
}

#[test]
fn every_operation_gives_the_same_bits_at_every_level() {
    let mut names = Vec::new();
    let mut first: Option<Vec<u32>> = None;
    at_every_level(|level| {
        let (calls, bits) = everything();
        println!("{}: {calls} calls, {} numbers", level.name(), bits.len());
        match &first {
            None => first = Some(bits),
            Some(first) => assert!(*first == bits, "{} gives other bits", level.name()),
        }
        names.push(Level::name(level));
    });
    // Where the caller knows what must be there.
    if let Ok(expected) = std::env::var("HANDLOOM_EXPECT_ISA") {
        assert_eq!(names.join(","), expected, "the instruction sets that ran");
    }
}
