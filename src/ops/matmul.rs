//! Matrix product.
//!
//! `C = A B`, `C[…, i, j] = Σₖ A[…, i, k] B[…, k, j]`; leading axes broadcast. Backward:
//!
//! ```text
//! dA = dC Bᵀ        [m, n] · [n, k]
//! dB = Aᵀ dC        [k, m] · [m, n]
//! ```
//!
//! Transposed and other strided matrices are read where they lie, bf16 as bf16: products of it are summed in f32 and
//! rounded once. A matrix `B` shared by a whole batch
//! makes one tall product of it: `[…, m, k] · [k, n] = […·m, k] · [k, n]`.

use super::entry::{Entry, ErrorCase, Input, Sample};
use super::{grads, precision_for, readable, same_dtype};
use crate::autograd::record;
use crate::cpu::gemm::{self, Factor};
use crate::error::{Error, Result};
use crate::tensor::{DType, Dims, Tensor, broadcast_shapes, kernel, kernel_on};

/// A stack of matrices: `[batch, rows, cols]` with the strides of each axis.
struct Stack {
    tensor: Tensor,
    strides: [usize; 3],
}

impl Stack {
    /// `x` broadcast to the batch axes `batch`; copied only if its batch axes do not merge into one.
    fn new(x: &Tensor, batch: &[usize]) -> Result<Stack> {
        let matrix = &x.shape()[x.rank() - 2..];
        let full: Dims = batch.iter().chain(matrix).copied().collect();
        let count: usize = batch.iter().product();
        let merged = [count, matrix[0], matrix[1]];
        let wide = x.with_layout(x.layout().expand(&full));
        let (tensor, layout) = match wide.layout().reshape(&merged) {
            Some(layout) => (wide, layout),
            None => {
                let copy = wide.copy()?;
                let layout = copy.layout().reshape(&merged).expect("a copy is contiguous");
                (copy, layout)
            }
        };
        let strides = [layout.strides[0], layout.strides[1], layout.strides[2]];
        Ok(Stack { tensor: tensor.with_layout(layout), strides })
    }
}

/// The error for two inputs that have no product.
#[track_caller]
fn refuse(a: &Tensor, b: &Tensor, why: &str) -> Error {
    Error::op("matmul", format!("{:?} × {:?}: {why}", a.shape(), b.shape()))
}

/// The product without history, in the type of `a` or that which it is summed in.
#[track_caller]
fn product(a: &Tensor, b: &Tensor, batch: &[usize]) -> Result<Tensor> {
    let (m, k, n) = (a.shape()[a.rank() - 2], a.shape()[a.rank() - 1], b.shape()[b.rank() - 1]);
    let shape: Dims = batch.iter().copied().chain([m, n]).collect();
    let (a, b) = (&readable(a)?, &readable(b)?);
    let sums = a.dtype().summed_in();
    if b.rank() == 2
        && let Some(tall) = a.layout().reshape(&[a.numel() / k.max(1), k])
        && k > 0
    {
        let rows = tall.shape[0];
        let a_strides = (tall.strides[0], tall.strides[1]);
        let mut c = a.new_empty(&shape)?;
        kernel_on!("matmul", a.device(), sums, T => gemm::gemm_to::<T>(
            precision_for(a), c.slice_mut(),
            Factor { data: a.strided_ref(), row_stride: a_strides.0, col_stride: a_strides.1 },
            Factor { data: b.strided_ref(), row_stride: b.strides()[0], col_stride: b.strides()[1] },
            rows, n, k, gemm::Epilogue::None
        ));
        return Ok(c);
    }
    let count: usize = batch.iter().product();
    let mut c = Tensor::empty_on(&shape, sums, a.device())?;
    let (a, b) = (Stack::new(a, batch)?, Stack::new(b, batch)?);
    kernel!("matmul", c, T => gemm::gemm_batched::<T>(
        c.slice_mut(), m * n, n,
        Factor { data: a.tensor.strided_ref(), row_stride: a.strides[1], col_stride: a.strides[2] }, a.strides[0],
        Factor { data: b.tensor.strided_ref(), row_stride: b.strides[1], col_stride: b.strides[2] }, b.strides[0],
        count, m, n, k, false
    ));
    Ok(c)
}

/// The two last axes swapped, without history.
fn transposed(x: &Tensor) -> Tensor {
    x.with_layout(x.layout().transpose(x.rank() - 2, x.rank() - 1))
}

impl Tensor {
    /// The matrix product `[…, m, k] · […, k, n] = […, m, n]`; leading axes broadcast. A vector on
    /// the left counts as a row, on the right as a column, and its axis disappears.
    ///
    /// # Errors
    /// When the inner sizes differ, leading axes do not broadcast, dtypes differ, for scalars and
    /// for `u32`.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (self, other);
        same_dtype("matmul", a, b)?;
        match (a.rank(), b.rank()) {
            (0, _) | (_, 0) => return Err(refuse(a, b, "a scalar is not a matrix; use mul")),
            (1, _) if b.rank() > 1 => return a.unsqueeze(0)?.matmul(b)?.squeeze(-2),
            (_, 1) if a.rank() > 1 => return a.matmul(&b.unsqueeze(1)?)?.squeeze(-1),
            (1, 1) => return a.unsqueeze(0)?.matmul(&b.unsqueeze(1)?)?.reshape(()),
            _ => {}
        }
        let (k, b_rows) = (a.shape()[a.rank() - 1], b.shape()[b.rank() - 2]);
        if k != b_rows {
            let hint = if k == b.shape()[b.rank() - 1] {
                "; did you mean the transpose of the second?"
            } else {
                ""
            };
            return Err(refuse(a, b, &format!("inner sizes {k} and {b_rows} differ{hint}")));
        }
        let (a_batch, b_batch) = (&a.shape()[..a.rank() - 2], &b.shape()[..b.rank() - 2]);
        let Some(batch) = broadcast_shapes(a_batch, b_batch) else {
            return Err(refuse(a, b, "the leading axes do not broadcast"));
        };
        let c = product(a, b, &batch)?;
        record("matmul", &[a, b])
            .save(&[a, b])
            .flops(2 * (c.numel() * k) as u64)
            .backward(|mut ctx, dc| {
                let (a, b) = (ctx.take(0)?, ctx.take(1)?);
                let batch = &dc.shape()[..dc.rank() - 2];
                let da = match ctx.needs[0] {
                    true => Some(
                        product(&dc, &transposed(&b), batch)?.sum_to(a.shape())?.cast(a.dtype())?,
                    ),
                    false => None,
                };
                let db = match ctx.needs[1] {
                    // One B for the whole batch: fold the batch into the summed axis.
                    true if b.rank() == 2 && a.rank() > 2 => {
                        let rows = dc.numel() / dc.shape()[dc.rank() - 1].max(1);
                        let tall_a = a.reshape([rows, a.shape()[a.rank() - 1]])?;
                        let tall_dc = dc.reshape([rows, dc.shape()[dc.rank() - 1]])?;
                        Some(product(&transposed(&tall_a), &tall_dc, &[])?.cast(b.dtype())?)
                    }
                    true => Some(
                        product(&transposed(&a), &dc, batch)?.sum_to(b.shape())?.cast(b.dtype())?,
                    ),
                    false => None,
                };
                grads([da, db])
            })
            .output(c.cast(a.dtype())?)
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let shapes: [[&[usize]; 2]; 11] = [
        [&[2, 3], &[3, 4]],
        [&[5, 2, 3], &[3, 4]],
        [&[5, 2, 3], &[5, 3, 4]],
        [&[2, 1, 2, 3], &[4, 3, 2]],
        [&[3], &[3]],
        [&[3], &[2, 3, 2]],
        [&[2, 2, 3], &[3]],
        [&[0, 3], &[3, 2]],
        [&[2, 0], &[0, 3]],
        [&[3, 2, 0], &[0, 2]],
        [&[1, 17], &[17, 1]],
    ];
    vec![
        Entry::new("matmul", |x, _| Ok(vec![x[0].matmul(&x[1])?]))
            .samples(move || {
                shapes
                    .map(|[a, b]| {
                        Sample::of([Input::float(a, -1.0, 1.0), Input::float(b, -1.0, 1.0)])
                    })
                    .into()
            })
            .errors(|| {
                vec![
                    ErrorCase::new("inner sizes", "inner sizes 3 and 2 differ", || {
                        vec![Tensor::zeros([2, 3], DType::F32), Tensor::zeros([2, 3], DType::F32)]
                    }),
                    ErrorCase::new("leading axes", "leading axes do not broadcast", || {
                        vec![
                            Tensor::zeros([2, 2, 3], DType::F32),
                            Tensor::zeros([3, 3, 2], DType::F32),
                        ]
                    }),
                    ErrorCase::new("a scalar", "scalar", || {
                        vec![Tensor::zeros((), DType::F32), Tensor::zeros([3, 2], DType::F32)]
                    }),
                    ErrorCase::new("ids", "u32", || {
                        vec![Tensor::zeros([2, 2], DType::U32), Tensor::zeros([2, 2], DType::U32)]
                    }),
                ]
            }),
    ]
}
