//! The same bits on any number of threads and on any instruction set.

use crate::samples::{big, small};
use crate::values::gradients;
use crate::{Failures, entries};
use handloom::cpu::simd::{Level, at_level, available_levels, level};
use handloom::ops::registry::{Entry, Sample};
use handloom::{DType, Tensor};

/// The bits of all outputs and all gradients of a call.
fn bits(entry: &Entry, sample: &Sample, dtype: DType) -> Result<Vec<Vec<u64>>, String> {
    let inputs = sample.tensors(dtype, 8).map_err(|e| e.to_string())?;
    let mut all = (entry.run)(&inputs, &sample.attrs).map_err(|e| e.to_string())?;
    if entry.differentiable {
        all.extend(gradients(entry, &inputs, sample)?);
    }
    // Every NaN counts as the same: instruction sets differ in its payload.
    let of = |x: &Tensor| -> Vec<u64> {
        let values = x.to_f64_vec().expect("a tensor can be read");
        values.iter().map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
    };
    Ok(all.iter().map(of).collect())
}

/// Whether `got` begins as `expected` does: the small calls at its end are made on one thread only.
fn same(expected: &[Vec<u64>], got: &[Vec<u64>]) -> Result<(), String> {
    for (i, (expected, got)) in expected.iter().zip(got).enumerate() {
        if let Some(j) = expected.iter().zip(got).position(|(a, b)| a != b) {
            let (a, b) = (f64::from_bits(expected[j]), f64::from_bits(got[j]));
            return Err(format!("result {i} [{j}]: {a:e} became {b:e}"));
        }
        if expected.len() != got.len() {
            return Err(format!("result {i} changed its size"));
        }
    }
    Ok(())
}

/// The bits of several calls.
fn all_bits(entry: &Entry, samples: &[Sample], dtype: DType) -> Result<Vec<Vec<u64>>, String> {
    let each = samples.iter().map(|sample| bits(entry, sample, dtype));
    Ok(each.collect::<Result<Vec<_>, String>>()?.concat())
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    let pools: Vec<(usize, rayon::ThreadPool)> = [1, 2, 3, 4, 8]
        .map(|n| (n, rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()))
        .into();
    let best = level();
    let mut failures = Failures::default();
    for entry in entries() {
        // Large calls are cut into pieces. Small ones never leave their thread, but most of their
        // elements lie in tails, where instruction sets differ most.
        let (large, little) = (big(entry.name), small(&entry));
        let run = |isa: Level, n: usize, pool: &rayon::ThreadPool| {
            let bits = |inputs| at_level(isa, || all_bits(&entry, inputs, DType::F32));
            let mut all = pool.install(|| bits(&large))?;
            if n == 1 {
                all.extend(bits(&little)?);
            }
            Ok(all)
        };
        let single: Result<_, String> = run(best, 1, &pools[0].1);
        failures.check(|| entry.name.into(), single.as_ref().map(|_| ()).map_err(String::clone));
        let Ok(single) = single else { continue };
        for isa in available_levels() {
            for (n, pool) in &pools {
                // All thread counts on the best set, two on the others.
                if isa != best && !matches!(n, 1 | 3) {
                    continue;
                }
                let what = || format!("{} on {n} threads, {}", entry.name, isa.name());
                failures.check(what, run(isa, *n, pool).and_then(|got| same(&single, &got)));
            }
        }
    }
    failures.report();
}

#[test]
fn double_precision_does_not_depend_on_threads_either() {
    let pools = [1, 3, 8].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    let mut failures = Failures::default();
    for entry in entries() {
        let samples = big(entry.name);
        let [one, three, eight] =
            pools.each_ref().map(|pool| pool.install(|| all_bits(&entry, &samples, DType::F64)));
        let result = one.and_then(|one| {
            same(&one, &three?)?;
            same(&one, &eight?)
        });
        failures.check(|| entry.name.into(), result);
    }
    failures.report();
}
