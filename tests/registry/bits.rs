//! The same bits on any number of threads and on any instruction set.

use crate::samples::{big, small};
use crate::values::gradients;
use crate::{Failures, entries};
use handloom::cpu::simd::{available_levels, force_level, level};
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
    if expected.len() == got.len() { Ok(()) } else { Err("another number of results".into()) }
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    let pools: Vec<(usize, rayon::ThreadPool)> = [1, 2, 3, 4, 8]
        .map(|n| (n, rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()))
        .into();
    let before = level();
    let mut failures = Failures::default();
    for entry in entries() {
        let mut samples = big(entry.name);
        // Tails of small sizes, too: there the instruction sets differ most.
        samples.extend(small(&entry));
        for sample in &samples {
            let single = pools[0].1.install(|| bits(&entry, sample, DType::F32));
            let single = match single {
                Ok(bits) => bits,
                Err(why) => {
                    failures.check(|| format!("{} {sample:?}", entry.name), Err(why));
                    continue;
                }
            };
            for isa in available_levels() {
                assert!(force_level(isa));
                for (n, pool) in &pools {
                    // All thread counts on the best set, the extremes on the others.
                    if isa != before && !matches!(n, 1 | 3) {
                        continue;
                    }
                    let got = pool.install(|| bits(&entry, sample, DType::F32));
                    let what =
                        || format!("{} {n} threads {} {:?}", entry.name, isa.name(), sample.attrs);
                    failures.check(what, got.and_then(|got| same(&single, &got)));
                }
            }
            force_level(before);
        }
    }
    failures.report();
}

#[test]
fn double_precision_does_not_depend_on_threads_either() {
    let pools = [1, 3, 8].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    let mut failures = Failures::default();
    for entry in entries() {
        for sample in big(entry.name) {
            let [one, three, eight] =
                pools.each_ref().map(|pool| pool.install(|| bits(&entry, &sample, DType::F64)));
            let what = || format!("{} {:?}", entry.name, sample.attrs);
            let result = one.and_then(|one| {
                same(&one, &three?)?;
                same(&one, &eight?)
            });
            failures.check(what, result);
        }
    }
    failures.report();
}
