//! Launches of `kernels/sgd.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cpu::sgd::Sgd;
use crate::cuda::SliceMut;
use crate::cuda::gpu::{Arg, Grid, args, launch};

/// The `Sgd` of `kernels/sgd.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbers {
    lr: f32,
    momentum: f32,
    fresh: f32,
    weight_decay: f32,
    grad_scale: f32,
    nesterov: u32,
    first: u32,
    zero_grad: u32,
}

/// As [`Sgd::update`]; no buffer where momentum is 0.
pub fn update<T>(rule: &Sgd, p: SliceMut<T>, g: SliceMut<T>, buffer: Option<SliceMut<T>>) {
    let numbers = Numbers {
        lr: rule.lr as f32,
        momentum: rule.momentum as f32,
        fresh: (1.0 - rule.dampening) as f32,
        weight_decay: rule.weight_decay as f32,
        grad_scale: rule.grad_scale as f32,
        nesterov: u32::from(rule.nesterov),
        first: u32::from(rule.step == 1),
        zero_grad: u32::from(rule.zero_grad),
    };
    let numbers = Arg::Bytes(bytemuck::bytes_of(&numbers));
    let buffer = buffer.as_ref();
    launch("sgd_update", Grid::each(p.len()), args![&p, &g, buffer, numbers, p.len()]);
}
