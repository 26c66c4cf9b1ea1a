//! A linear layer and the cross-entropy of its outputs in one, for layers with as many outputs as a
//! vocabulary has words.
//!
//! `loss = cross_entropy(x Wᵀ + b, targets)` with x `[…, C]`, W `[V, C]`, b `[V]`. The logits `[N, V]` would
//! be the largest tensor of a language model by far, and nobody needs them twice. So a chunk of the rows
//! goes all the way before the next begins:
//!
//! ```text
//! logits = x Wᵀ + b            [n, V]
//! loss  += Σ (lse − logits[t])
//! logits = (softmax − target) / count        written over them: dlogits
//! dx     = dlogits W           dW += dlogitsᵀ x           db += Σ rows of dlogits
//! ```
//!
//! The gradients are made on the way forward, where somebody will want them; the way back only multiplies
//! them by the gradient of the loss, most often 1. Chunks are a multiple of the block length of a product
//! long, so the bits are those of the two operations one after the other (where all products are of f32: small ones are,
//! whatever the precision). The idea: Liger Kernel (Hsu et al. 2024);
//! Wijmans et al. 2024, "Cut your losses in large-vocabulary language models".

use super::cross_entropy::{CrossEntropy, Reduction, check_targets, cross_entropy, total};
use super::entry::{Entry, ErrorCase, Input, Sample};
use super::linear::linear;
use super::{expect_shape, expect_u32, grads, rows_and_cols, same_dtype, same_dtype_or_bf16};
use crate::autograd::{Mode, record};
use crate::cpu::gemm::{self, Epilogue, KC, Mat};
use crate::cpu::reduce::{self, Reduce};
use crate::cpu::{binary, cross_entropy as kernel};
use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor, for_float};

/// Elements of a chunk's logits, about: 32 MiB.
const CHUNK: usize = 1 << 23;

/// A row-major matrix, read as it is.
fn plain<T>(data: &[T], cols: usize) -> Mat<'_, T> {
    Mat { data, row_stride: cols, col_stride: 1 }
}

/// A row-major matrix with `cols` columns, read as its transpose.
fn flipped<T>(data: &[T], cols: usize) -> Mat<'_, T> {
    Mat { data, row_stride: 1, col_stride: cols }
}

/// Rows of a chunk: a function of the shape alone. W is read once a chunk, so there are at least
/// [`KC`] rows.
fn chunk_rows(rows: usize, vocab: usize) -> usize {
    let most = (CHUNK / vocab.max(1)).max(KC);
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1).next_multiple_of(KC)
}

/// The cross-entropy of `x Wᵀ + b` and `targets` `[…]` (`u32`), in nats: x `[…, C]`, weight `[V, C]`, bias
/// `[V]`. Options that give no single number or weigh classes are computed by the two operations,
/// and so is everything on a GPU.
///
/// # Errors
/// When shapes do not fit, dtypes differ, a target is neither below V nor ignored, or smoothing leaves
/// [0, 1].
#[track_caller]
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    targets: &Tensor,
    options: &CrossEntropy,
) -> Result<Tensor> {
    const OP: &str = "linear_cross_entropy";
    let &[vocab, width] = weight.shape() else {
        return Err(Error::op(OP, format!("weight {:?} is not a matrix", weight.shape())));
    };
    if x.rank() == 0 || x.shape()[x.rank() - 1] != width {
        return Err(Error::op(
            OP,
            format!(
                "x has shape {:?}; a weight of shape [{vocab}, {width}] takes […, {width}]",
                x.shape()
            ),
        ));
    }
    same_dtype_or_bf16(OP, x, weight)?;
    if let Some(bias) = bias {
        same_dtype(OP, x, bias)?;
        expect_shape(OP, "bias", bias, &[vocab])?;
    }
    expect_u32(OP, "targets", targets)?;
    expect_shape(OP, "targets", targets, &x.shape()[..x.rank() - 1])?;
    let smoothing = options.label_smoothing;
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::op(OP, format!("label smoothing {smoothing} is not in [0, 1]")));
    }
    let one_number = options.reduction != Reduction::None && options.weight.is_none();
    if !one_number || weight.dtype().is_half() || x.device() != Device::Cpu {
        return cross_entropy(&linear(x, weight, bias)?, targets, options);
    }
    let (rows, _) = rows_and_cols(x.shape());
    let (dtype, Mode { grad, precision, .. }) = (x.dtype(), Mode::current());
    let (x_packed, w, t) = (x.packed()?, weight.packed()?, targets.packed()?);
    let b = bias.map(Tensor::packed).transpose()?;
    let ignore = options.ignore_index;
    check_targets(OP, &t, vocab, ignore)?;
    let counting = t.slice_ref::<&[u32]>().iter().filter(|&&id| id != ignore).count();
    let scale = match options.reduction {
        Reduction::Mean => 1.0 / counting as f64,
        _ => 1.0,
    };
    let fresh = |wanted: Option<&Tensor>| {
        let wanted = wanted.filter(|x| grad && x.requires_grad());
        wanted.map(|x| Tensor::empty(x.shape(), dtype)).transpose()
    };
    let (mut dx, mut dw, mut db) = (fresh(Some(x))?, fresh(Some(weight))?, fresh(bias)?);
    let backward = dx.is_some() || dw.is_some() || db.is_some();
    let mut losses = Tensor::empty(rows, dtype)?;
    let chunk = chunk_rows(rows, vocab);
    let some = chunk.min(rows);
    let mut logits = Tensor::empty([some, vocab], dtype)?;
    let (mut lse, mut counted) = (Tensor::empty(some, dtype)?, Tensor::empty(some, dtype)?);
    let scales = Tensor::full(some, scale, dtype)?;
    let mut part = db.as_ref().map(|_| Tensor::empty(vocab, dtype)).transpose()?;
    for_float!("linear_cross_entropy", dtype, T => {
        let (x, w): (&[T], &[T]) = (x_packed.slice_ref(), w.slice_ref());
        let (t, losses): (&[u32], &mut [T]) = (t.slice_ref(), losses.slice_mut());
        let (logits, scales): (&mut [T], &[T]) = (logits.slice_mut(), scales.slice_ref());
        let (lse, counted): (&mut [T], &mut [T]) = (lse.slice_mut(), counted.slice_mut());
        let epilogue = b.as_ref().map_or(Epilogue::None, |b| Epilogue::Bias(b.slice_ref()));
        let options =
            kernel::Options { ignore_index: ignore, label_smoothing: smoothing, class_weights: None };
        let none = Epilogue::None;
        // At least once, so that no rows give gradients of 0.
        for from in (0..rows.max(1)).step_by(chunk) {
            let n = chunk.min(rows - from);
            let (rows, add) = (from * width..(from + n) * width, from > 0);
            let (x, t) = (plain(&x[rows.clone()], width), &t[from..from + n]);
            let (logits, lse, counted) = (&mut logits[..n * vocab], &mut lse[..n], &mut counted[..n]);
            let wt = flipped(w, width);
            gemm::gemm_at::<T>(precision, logits, vocab, x, wt, n, vocab, width, false, epilogue);
            let losses = &mut losses[from..from + n];
            kernel::forward::<T>(losses, counted, lse, logits, t, n, vocab, &options);
            if !backward {
                continue;
            }
            kernel::backward_in_place::<T>(logits, lse, t, n, vocab, &scales[..n], &options);
            if let Some(dx) = &mut dx {
                let (dx, d): (&mut [T], _) = (dx.slice_mut(), plain(&*logits, vocab));
                let (dx, w) = (&mut dx[rows], plain(w, width));
                gemm::gemm_at::<T>(precision, dx, width, d, w, n, width, vocab, false, none);
            }
            if let Some(dw) = &mut dw {
                let d = flipped(&*logits, vocab);
                gemm::gemm_at::<T>(precision, dw.slice_mut(), width, d, x, vocab, width, n, add, none);
            }
            if let (Some(db), Some(part)) = (&mut db, &mut part) {
                let (db, part): (&mut [T], &mut [T]) = (db.slice_mut(), part.slice_mut());
                reduce::forward::<T>(Reduce::Sum, part, None, logits, 1, n, vocab);
                if add {
                    binary::add_assign::<T>(db, part);
                } else {
                    db.copy_from_slice(part);
                }
            }
        }
    });
    let loss = total(&losses)?.mul_scalar(scale)?;
    let mut inputs: smallvec::SmallVec<[&Tensor; 3]> = smallvec::smallvec![x, weight];
    inputs.extend(bias);
    let products = 1 + dx.is_some() as usize + dw.is_some() as usize;
    let mut recorder = record(OP, &inputs).flops((2 * products * rows * vocab * width) as u64);
    for gradient in [dx, dw, db] {
        recorder = recorder.save_option(gradient.as_ref());
    }
    recorder
        .backward(|mut ctx, dy| {
            let factor = dy.item()?;
            let scaled = |gradient: Option<Tensor>| match gradient {
                Some(gradient) if factor != 1.0 => gradient.mul_scalar(factor).map(Some),
                gradient => Ok(gradient),
            };
            let all = [ctx.take_option(0), ctx.take_option(1), ctx.take_option(2)];
            let [dx, dw, db] = all.map(scaled);
            grads([dx?, dw?, db?])
        })
        .output(loss)
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        Entry::new("linear_cross_entropy", |x, a| {
            let ignore = a.has("ignore_index").then(|| a.int("ignore_index") as u32);
            let sum = a.int("reduction") == 1;
            let options = CrossEntropy {
                ignore_index: ignore.unwrap_or(CrossEntropy::IGNORE),
                label_smoothing: a.float("label_smoothing"),
                reduction: if sum { Reduction::Sum } else { Reduction::Mean },
                weight: None,
            };
            Ok(vec![linear_cross_entropy(&x[0], &x[2], x.get(3), &x[1], &options)?])
        })
        .samples(|| {
            let float = |shape: &[usize]| Input::float(shape, -1.5, 1.5);
            let base = Sample::of([float(&[5, 3]), Input::ids(5, 4), float(&[4, 3]), float(&[4])]);
            vec![
                base.clone(),
                base.clone().ints("reduction", &[1]).float("label_smoothing", 0.1),
                base.ints("ignore_index", &[2]).float("label_smoothing", 0.2),
                Sample::of([float(&[2, 3, 2]), Input::ids([2, 3], 5), float(&[5, 2])]),
                Sample::of([float(&[1]), Input::exactly((), &[0]), float(&[1, 1]), float(&[1])]),
            ]
        })
        .errors(|| {
            vec![
                ErrorCase::new("a target too large", "target 3 is not below 3", || {
                    vec![
                        Tensor::zeros([1, 2], DType::F32),
                        Tensor::full(1, 3.0, DType::U32),
                        Tensor::zeros([3, 2], DType::F32),
                    ]
                }),
                ErrorCase::new("targets of another shape", "expected [2]", || {
                    vec![
                        Tensor::zeros([2, 2], DType::F32),
                        Tensor::zeros(3, DType::U32),
                        Tensor::zeros([3, 2], DType::F32),
                    ]
                }),
                ErrorCase::new("inner size", "takes […, 4]", || {
                    vec![
                        Tensor::zeros([2, 2], DType::F32),
                        Tensor::zeros(2, DType::U32),
                        Tensor::zeros([3, 4], DType::F32),
                    ]
                }),
                ErrorCase::new("smoothing above 1", "not in [0, 1]", || {
                    vec![
                        Tensor::zeros([2, 2], DType::F32),
                        Tensor::zeros(2, DType::U32),
                        Tensor::zeros([3, 2], DType::F32),
                    ]
                })
                .float("label_smoothing", 1.5),
            ]
        })
        .tolerance(2e-6),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::philox::Key;

    /// Several chunks, the last one short; with and without rows that do not count.
    #[test]
    fn chunks_give_the_bits_of_the_two_operations() {
        let (rows, width, vocab) = (700, 20, 33_000);
        assert!(chunk_rows(rows, vocab) < rows);
        let random = |shape: &[usize], stream| {
            let x = Tensor::randn(shape, DType::F32, Key { seed: 1, stream, step: 0 }).unwrap();
            x.requires_grad_().unwrap()
        };
        let ids: Vec<u32> =
            (0..rows as u32).map(|i| if i % 7 == 0 { 5 } else { i * 47 % 33_000 }).collect();
        let targets = Tensor::from_slice(&ids, rows).unwrap();
        for options in [
            CrossEntropy::default(),
            CrossEntropy { ignore_index: 5, label_smoothing: 0.1, ..CrossEntropy::default() },
        ] {
            let run = |fused: bool| {
                let (x, w, b) =
                    (random(&[rows, width], 1), random(&[vocab, width], 2), random(&[vocab], 3));
                let loss = if fused {
                    linear_cross_entropy(&x, &w, Some(&b), &targets, &options)
                } else {
                    cross_entropy(&linear(&x, &w, Some(&b)).unwrap(), &targets, &options)
                };
                let loss = loss.unwrap();
                loss.backward().unwrap();
                let grad = |x: &Tensor| x.grad().unwrap().to_vec::<f32>().unwrap();
                (loss.item().unwrap(), grad(&x), grad(&w), grad(&b))
            };
            let (ours, theirs) = (run(true), run(false));
            assert_eq!(ours.0, theirs.0);
            assert!(ours.1 == theirs.1, "dx");
            assert!(ours.2 == theirs.2, "dW");
            let worst =
                ours.3.iter().zip(&theirs.3).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-7, "db differs by {worst}");
        }
    }
}
