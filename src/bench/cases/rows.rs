//! Kernels that go over rows: norms, softmax, activations, losses, embeddings, the optimiser.

use smallvec::smallvec;

use super::super::{Case, Cost, Work, reference};
use super::{ids, normal, take_grads, tolerance};
use crate::autograd::no_grad;
use crate::cpu::adamw::AdamW;
use crate::cpu::threads::{CHUNK, for_chunks};
use crate::error::Result;
use crate::ops::{self, CrossEntropy};
use crate::tensor::{DType, Tensor};

const F32: DType = DType::F32;

pub(super) fn cases() -> Vec<Case> {
    let case =
        |op, shape: &str, make: fn() -> Result<Work>| Case::new("rowops", op, shape, F32, make);
    vec![
        case("layernorm_fwd", "2048x768", || layer_norm(2048, 768, false)),
        case("layernorm_fwdbwd", "2048x768", || layer_norm(2048, 768, true)),
        case("layernorm_fwdbwd", "64x128", || layer_norm(64, 128, true)).quick(),
        case("softmax_fwd", "2048x768", || softmax(2048, 768)),
        case("softmax_fwd", "64x128", || softmax(64, 128)).quick(),
        case("gelu_fwd", "2048x768", || gelu(2048, 768, false)),
        case("gelu_fwdbwd", "2048x768", || gelu(2048, 768, true)),
        case("gelu_fwdbwd", "64x128", || gelu(64, 128, true)).quick(),
        case("relu_fwd", "2048x768", || relu(2048, 768)),
        case("add", "2048x768", || add(2048, 768)),
        case("cross_entropy_fwdbwd", "1024x8192", || cross_entropy(1024, 8192)),
        case("cross_entropy_fwdbwd", "64x256", || cross_entropy(64, 256)).quick(),
        case("embedding_fwdbwd", "2048x4096x384", || embedding(2048, 4096, 384)),
        case("embedding_fwdbwd", "64x100x32", || embedding(64, 100, 32)).quick(),
        case("copy", "64MiB", || copy(64 << 20)),
        Case::new("optim", "adamw_fused", "16x768x768", F32, || adamw(16, 768 * 768)),
        Case::new("optim", "adamw_fused", "1x64x64", F32, || adamw(1, 64 * 64)).quick(),
    ]
}

/// A case over tensors of one size: how many are read, how many written, how many there are.
fn passes(rows: usize, cols: usize, reads: usize, writes: usize, arrays: usize) -> Cost {
    let size = 4.0 * (rows * cols) as f64;
    Cost::bytes(reads as f64 * size, writes as f64 * size, arrays as f64 * size)
}

/// Forward, and with `backward` also the gradients of x, w and b.
fn layer_norm(rows: usize, cols: usize, backward: bool) -> Result<Work> {
    const EPS: f64 = 1e-5;
    let x = normal(&[rows, cols], F32, 1)?;
    let dy = normal(&[rows, cols], F32, 2)?;
    let (w, b) = (normal(&[cols], F32, 3)?.add_scalar(1.0)?, normal(&[cols], F32, 4)?);
    let of = [x.clone(), w.clone(), b.clone()];
    if !backward {
        return Ok(Work::new(
            passes(rows, cols, 1, 1, 2),
            tolerance(F32),
            move || no_grad(|| Ok(smallvec![ops::layer_norm(&x, Some(&w), Some(&b), EPS)?])),
            move |y| {
                let [x, w, b] = [0, 1, 2].map(|i| of[i].to_dtype(DType::F64));
                reference::distance(&y[0], &reference::layer_norm(&x?, &w?, &b?, EPS)?)
            },
        ));
    }
    let leaves = [x.requires_grad_()?, w.requires_grad_()?, b.requires_grad_()?];
    let gradient = dy.clone();
    Ok(Work::new(
        passes(rows, cols, 3, 2, 4),
        tolerance(F32),
        move || {
            let y = ops::layer_norm(&leaves[0], Some(&leaves[1]), Some(&leaves[2]), EPS)?;
            y.backward_with(dy.clone())?;
            Ok(take_grads(&leaves))
        },
        move |got| {
            let leaves = reference::leaves(&of.each_ref())?;
            let y = reference::layer_norm(&leaves[0], &leaves[1], &leaves[2], EPS)?;
            reference::distances(got, &reference::gradients(&y, &gradient, &leaves)?)
        },
    ))
}

fn softmax(rows: usize, cols: usize) -> Result<Work> {
    let x = normal(&[rows, cols], F32, 1)?;
    let of = x.clone();
    Ok(Work::new(
        passes(rows, cols, 1, 1, 2),
        tolerance(F32),
        move || no_grad(|| Ok(smallvec![x.softmax(-1)?])),
        move |y| reference::distance(&y[0], &reference::softmax(&of.to_dtype(DType::F64)?)?),
    ))
}

/// GELU by tanh, as GPT-2 has it.
fn gelu(rows: usize, cols: usize, backward: bool) -> Result<Work> {
    let x = normal(&[rows, cols], F32, 1)?;
    let dy = normal(&[rows, cols], F32, 2)?;
    let of = x.clone();
    if !backward {
        return Ok(Work::new(
            passes(rows, cols, 1, 1, 2),
            tolerance(F32),
            move || no_grad(|| Ok(smallvec![x.gelu_tanh()?])),
            move |y| reference::distance(&y[0], &reference::gelu_tanh(&of.to_dtype(DType::F64)?)?),
        ));
    }
    let leaves = [x.requires_grad_()?];
    let gradient = dy.clone();
    Ok(Work::new(
        passes(rows, cols, 3, 2, 4),
        tolerance(F32),
        move || {
            leaves[0].gelu_tanh()?.backward_with(dy.clone())?;
            Ok(take_grads(&leaves))
        },
        move |got| {
            let leaves = reference::leaves(&[&of])?;
            let y = reference::gelu_tanh(&leaves[0])?;
            reference::distances(got, &reference::gradients(&y, &gradient, &leaves)?)
        },
    ))
}

/// max(x, 0)
fn relu(rows: usize, cols: usize) -> Result<Work> {
    let x = normal(&[rows, cols], F32, 1)?;
    let of = x.clone();
    Ok(Work::new(
        passes(rows, cols, 1, 1, 2), // read once, written once, two arrays
        tolerance(F32),
        move || no_grad(|| Ok(smallvec![x.relu()?])),
        move |y| {
            let want: Vec<f64> = of.to_f64_vec()?.into_iter().map(|x| x.max(0.0)).collect();
            reference::distance(&y[0], &Tensor::from_slice(&want, [rows, cols])?)
        },
    ))
}

fn add(rows: usize, cols: usize) -> Result<Work> {
    let (x, y) = (normal(&[rows, cols], F32, 1)?, normal(&[rows, cols], F32, 2)?);
    let of = (x.clone(), y.clone());
    Ok(Work::new(
        passes(rows, cols, 2, 1, 3),
        tolerance(F32),
        move || no_grad(|| Ok(smallvec![x.add(&y)?])),
        move |sum| {
            let want = of.0.to_dtype(DType::F64)?.add(&of.1.to_dtype(DType::F64)?)?;
            reference::distance(&sum[0], &want)
        },
    ))
}

/// The mean loss over rows and the gradient of the logits.
fn cross_entropy(rows: usize, classes: usize) -> Result<Work> {
    let logits = normal(&[rows, classes], F32, 1)?;
    let targets = ids(&[rows], classes, 2)?;
    let of = (logits.clone(), targets.clone());
    let leaves = [logits.requires_grad_()?];
    Ok(Work::new(
        passes(rows, classes, 2, 1, 2),
        tolerance(F32),
        move || {
            ops::cross_entropy(&leaves[0], &targets, &CrossEntropy::default())?.backward()?;
            Ok(take_grads(&leaves))
        },
        move |got| {
            let leaves = reference::leaves(&[&of.0])?;
            let loss = reference::cross_entropy(&leaves[0], &of.1)?;
            let want = reference::gradients(&loss, &Tensor::ones((), F32)?, &leaves)?;
            reference::distances(got, &want)
        },
    ))
}

/// Looks `tokens` rows up in a table and adds their gradients into a new one.
fn embedding(tokens: usize, vocab: usize, width: usize) -> Result<Work> {
    let table = normal(&[vocab, width], F32, 1)?;
    let dy = normal(&[tokens, width], F32, 2)?;
    let ids = ids(&[tokens], vocab, 3)?;
    let of = (dy.clone(), ids.clone());
    let leaves = [table.requires_grad_()?];
    let rows = 4.0 * (tokens * width) as f64;
    let tables = 4.0 * (vocab * width) as f64;
    Ok(Work::new(
        Cost::bytes(2.0 * rows, rows + tables, 3.0 * rows + tables),
        tolerance(F32),
        move || {
            ops::embedding(&leaves[0], &ids)?.backward_with(dy.clone())?;
            Ok(take_grads(&leaves))
        },
        move |got| {
            let (dy, ids) = (of.0.to_f64_vec()?, of.1.to_vec::<u32>()?);
            let mut want = vec![0.0; vocab * width];
            for (dy, &id) in dy.chunks(width).zip(&ids) {
                let row = &mut want[id as usize * width..][..width];
                row.iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
            }
            reference::distance(&got[0], &Tensor::from_slice(&want, [vocab, width])?)
        },
    ))
}

/// A copy from one buffer into another that is there already.
fn copy(bytes: usize) -> Result<Work> {
    let src = normal(&[bytes / 4], F32, 1)?;
    let mut dst = Tensor::zeros(bytes / 4, F32)?;
    let of = src.clone();
    Ok(Work::new(
        Cost::bytes(bytes as f64, bytes as f64, 2.0 * bytes as f64),
        0.0,
        move || {
            let (to, from) = (dst.make_mut::<f32>()?, src.as_slice::<f32>()?);
            for_chunks(to, CHUNK, from.len(), |i, to| {
                to.copy_from_slice(&from[i * CHUNK..][..to.len()]);
            });
            Ok(smallvec![dst.clone()])
        },
        move |got| reference::distance(&got[0], &of.to_dtype(DType::F64)?),
    ))
}

/// One step over `count` parameters of `size` elements.
fn adamw(count: usize, size: usize) -> Result<Work> {
    let array = |stream: u64| -> Result<Vec<Tensor>> {
        (0..count as u64).map(|i| normal(&[size], F32, stream * 100 + i)).collect()
    };
    let (mut p, mut g) = (array(1)?, array(2)?);
    let zeros = || (0..count).map(|_| Tensor::zeros(size, F32)).collect::<Result<Vec<_>>>();
    let (mut m, mut v) = (zeros()?, zeros()?);
    let (p0, g0) = (p[0].to_f64_vec()?, g[0].to_f64_vec()?);
    let mut rule = AdamW { step: 0, ..AdamW::default() };
    let bytes = 4.0 * (count * size) as f64;
    Ok(Work::new(
        Cost::bytes(4.0 * bytes, 3.0 * bytes, 4.0 * bytes),
        tolerance(F32),
        move || {
            rule.step += 1;
            let arrays = p.iter_mut().zip(&mut g).zip(m.iter_mut().zip(&mut v));
            for ((p, g), (m, v)) in arrays {
                rule.update::<f32>(p.make_mut()?, g.make_mut()?, m.make_mut()?, v.make_mut()?);
            }
            Ok(smallvec![p[0].clone()])
        },
        move |got| {
            // After the first step the moments, corrected, are g and g².
            let rule = AdamW::default();
            let step = |(p, g): (&f64, &f64)| {
                p * (1.0 - rule.lr * rule.weight_decay) - rule.lr * g / (g.abs() + rule.eps)
            };
            let want: Vec<f64> = p0.iter().zip(&g0).map(step).collect();
            reference::distance(&got[0], &Tensor::from_slice(&want, size)?)
        },
    ))
}
