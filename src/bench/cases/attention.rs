//! Causal attention, forward and with the gradients of q, k and v.

use smallvec::smallvec;

use super::super::{Case, Cost, Work, reference};
use super::{normal, take_grads, tolerance};
use crate::autograd::no_grad;
use crate::error::Result;
use crate::ops::{Attention, scaled_dot_product_attention};
use crate::tensor::{DType, Tensor};

/// B, H, T, D.
const SHAPES: [[usize; 4]; 5] =
    [[2, 2, 32, 16], [8, 4, 64, 32], [4, 6, 256, 64], [4, 12, 1024, 64], [1, 12, 4096, 64]];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for shape in SHAPES {
            let [b, h, t, d] = shape;
            let name = format!("B{b}H{h}T{t}D{d}");
            for (op, backward) in
                [("attention_causal_fwd", false), ("attention_causal_fwdbwd", true)]
            {
                let case =
                    Case::new("attention", op, &*name, dtype, move || work(shape, dtype, backward));
                list.push(if t <= 64 && dtype == DType::F32 { case.quick() } else { case });
            }
        }
    }
    list
}

fn work(shape: [usize; 4], dtype: DType, backward: bool) -> Result<Work> {
    let [b, h, t, d] = shape;
    let input = |stream| normal(&shape, dtype, stream);
    let (inputs, dy) = ([input(1)?, input(2)?, input(3)?], input(4)?);
    // Half of the scores are hidden; backward has five products for forward's two.
    let forward = 4.0 * (b * h * t * t * d) as f64 / 2.0;
    let size = (dtype.size() * b * h * t * d) as f64;
    let options = Attention { causal: true, ..Attention::default() };
    // One head is enough to see a wrong formula, the last one to see a wrong address.
    let head = move |x: &Tensor| x.select(0, b - 1)?.select(0, h - 1)?.contiguous();
    let of = [head(&inputs[0])?, head(&inputs[1])?, head(&inputs[2])?];
    if !backward {
        return Ok(Work::new(
            Cost::flops(forward, 3.0 * size, size),
            tolerance(dtype),
            move || {
                let [q, k, v] = &inputs;
                no_grad(|| Ok(smallvec![scaled_dot_product_attention(q, k, v, &options)?]))
            },
            move |got| {
                let [q, k, v] = [0, 1, 2].map(|i| of[i].to_dtype(DType::F64));
                reference::distance(&head(&got[0])?, &reference::causal_attention(&q?, &k?, &v?)?)
            },
        ));
    }
    let gradient = head(&dy)?;
    let [q, k, v] = inputs;
    let leaves = [q.requires_grad_()?, k.requires_grad_()?, v.requires_grad_()?];
    Ok(Work::new(
        Cost::flops(3.5 * forward, 8.0 * size, 4.0 * size),
        tolerance(dtype),
        move || {
            let [q, k, v] = &leaves;
            scaled_dot_product_attention(q, k, v, &options)?.backward_with(dy.clone())?;
            Ok(take_grads(&leaves))
        },
        move |got| {
            let leaves = reference::leaves(&of.each_ref())?;
            let y = reference::causal_attention(&leaves[0], &leaves[1], &leaves[2])?;
            let got = got.iter().map(head).collect::<Result<Vec<_>>>()?;
            reference::distances(&got, &reference::gradients(&y, &gradient, &leaves)?)
        },
    ))
}
