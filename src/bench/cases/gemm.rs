//! Matrix products: square, the shapes of models, one row.

use smallvec::smallvec;

use super::super::{Case, Cost, Work, reference};
use super::{computed, normal, precisions, tolerance};
use crate::autograd::{matmul_precision, no_grad};
use crate::cpu::gemm::Precision;
use crate::error::Result;
use crate::tensor::DType;

/// m, n, k: C is `[m, n]`.
const NN: [[usize; 3]; 14] = [
    [64, 64, 64],
    [128, 128, 128],
    [256, 256, 256],
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [768, 384, 128],
    [512, 2304, 768],
    [512, 3072, 768],
    [512, 768, 3072],
    [256, 50257, 768],
    [1, 768, 768],
    [1, 3072, 768],
    [8, 768, 768],
];
const TRANSPOSED: [[usize; 3]; 2] = [[512, 768, 3072], [1024, 1024, 1024]];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for precision in precisions() {
        for shape in NN {
            let case = product("gemm_nn", shape, (false, false), precision);
            list.push(if shape[0] * shape[1] <= 256 * 256 && shape[2] <= 256 {
                case.quick()
            } else {
                case
            });
        }
        for shape in TRANSPOSED {
            list.push(product("gemm_nt", shape, (false, true), precision));
            list.push(product("gemm_tn", shape, (true, false), precision));
        }
    }
    list
}

fn product(
    op: &'static str,
    shape: [usize; 3],
    transposed: (bool, bool),
    precision: Precision,
) -> Case {
    let [m, n, k] = shape;
    computed(precision, |dtype| {
        Case::new("gemm", op, format!("{m}x{n}x{k}"), dtype, move || {
            work(shape, transposed, precision, dtype)
        })
    })
}

/// `C = A B`; a transposed operand lies in memory the other way round and is read through a view. In bf16 all three
/// matrices are stored as bf16.
fn work(
    [m, n, k]: [usize; 3],
    (ta, tb): (bool, bool),
    precision: Precision,
    dtype: DType,
) -> Result<Work> {
    let a = normal(&if ta { [k, m] } else { [m, k] }, dtype, 1)?;
    let b = normal(&if tb { [n, k] } else { [k, n] }, dtype, 2)?;
    let a = if ta { a.t()? } else { a };
    let b = if tb { b.t()? } else { b };
    let element = dtype.size() as f64;
    let (reads, writes) = (element * (m * k + k * n) as f64, element * (m * n) as f64);
    let operands = (a.clone(), b.clone());
    Ok(Work::new(
        Cost::flops(2.0 * (m * n * k) as f64, reads, writes),
        tolerance(dtype),
        move || no_grad(|| matmul_precision(precision, || Ok(smallvec![a.matmul(&b)?]))),
        move |c| {
            let (a, b) =
                (operands.0.contiguous()?.to_f64_vec()?, operands.1.contiguous()?.to_f64_vec()?);
            let c = c[0].to_f64_vec()?;
            Ok(reference::product_distance(&c, (m, n, k), |i, p| a[i * k + p], |p, j| b[p * n + j]))
        },
    ))
}
