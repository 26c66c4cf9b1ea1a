//! What is measured: one list for `handloom bench`, for `cargo bench` and for the peers.
//!
//! Names, shapes and counts of work are those of `benches/peers/torch_rows.py`, so that rows of both
//! sides can be laid beside each other.
//!
//! # A kernel of your own
//!
//! takes one function that makes its [`Work`](super::Work) and one line in a list; `docs/bench.md` walks through it.

mod attention;
mod gemm;
mod models;
mod recurrent;
mod rows;

use super::Case;
use crate::cpu::gemm::Precision;
use crate::cpu::simd::{Level, level};
use crate::error::Result;
use crate::ops::Key;
use crate::tensor::{DType, Tensor};

/// Every case there is, in the order in which they are measured.
pub fn all() -> Vec<Case> {
    [gemm::cases(), rows::cases(), attention::cases(), recurrent::cases(), models::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// The names that `--only` takes, each once, in the order of the list.
pub fn groups() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for case in all() {
        if !names.contains(&case.group) {
            names.push(case.group);
        }
    }
    names
}

/// The ways to compute products of f32 that are of their own here: `high` differs from `highest` only on AMX.
fn precisions() -> impl Iterator<Item = Precision> {
    let all = [Precision::Highest, Precision::High, Precision::Medium];
    all.into_iter().filter(|&p| p != Precision::High || level() == Level::Amx)
}

/// The case that `make` gives for the dtype that goes with `precision`.
fn computed(precision: Precision, make: impl FnOnce(DType) -> Case) -> Case {
    match precision {
        Precision::Highest => make(DType::F32),
        Precision::High => make(DType::F32).high(),
        Precision::Medium => make(DType::BF16),
    }
}

/// Normal numbers, the same in every run; rounded to `dtype`.
fn normal(shape: &[usize], dtype: DType, stream: u64) -> Result<Tensor> {
    Tensor::randn(shape, DType::F32, Key { seed: 42, stream, step: 0 })?.to_dtype(dtype)
}

/// Ids below `below`, the same in every run.
fn ids(shape: &[usize], below: usize, stream: u64) -> Result<Tensor> {
    let x = Tensor::rand(shape, DType::F64, Key { seed: 42, stream, step: 0 })?;
    x.mul_scalar(below as f64)?.to_dtype(DType::U32)
}

/// What rounding may do to a result on `dtype`, relative to the largest value: the kernels stay far
/// below it, a wrong index does not.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::BF16 { 2e-2 } else { 1e-4 }
}

/// The gradients of some leaves, taken away from them.
fn take_grads(leaves: &[Tensor]) -> super::Outputs {
    leaves.iter().filter_map(Tensor::take_grad).collect()
}

#[cfg(test)]
mod tests {
    use super::super::effort::Effort;
    use super::super::roof::Roofs;
    use super::*;
    use crate::train::control::in_pool;

    #[test]
    fn no_two_cases_have_one_name() {
        let mut names: Vec<String> = all().iter().map(Case::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count > 60, "{count}");
        assert!(groups().contains(&"gemm") && groups().contains(&"train"));
    }

    #[test]
    fn every_quick_case_is_right() {
        in_pool(1, || {
            let mut roofs = Roofs::measure(Effort::tiny());
            roofs.spread = 1.0; // a busy machine must not fail a test of numbers
            for case in all().iter().filter(|case| case.quick) {
                super::super::measure(case, &roofs, Effort::tiny()).unwrap();
            }
        })
        .unwrap();
    }
}
