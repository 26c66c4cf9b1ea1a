//! Launches of `kernels/adamw.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cpu::adamw::AdamW;
use crate::cuda::SliceMut;
use crate::cuda::gpu::{Arg, Grid, args, launch};

/// The `AdamW` of `kernels/adamw.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Numbers {
    keep: f32,
    rate: f32,
    root: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    grad_scale: f32,
    zero_grad: u32,
}

/// As [`AdamW::update`].
pub fn update<T>(rule: &AdamW, p: SliceMut<T>, g: SliceMut<T>, m: SliceMut<T>, v: SliceMut<T>) {
    let [keep, rate, root] = rule.factors();
    let numbers = Numbers {
        keep: keep as f32,
        rate: rate as f32,
        root: root as f32,
        beta1: rule.beta1 as f32,
        beta2: rule.beta2 as f32,
        eps: rule.eps as f32,
        grad_scale: rule.grad_scale as f32,
        zero_grad: u32::from(rule.zero_grad),
    };
    let numbers = Arg::Bytes(bytemuck::bytes_of(&numbers));
    launch("adamw_update", Grid::each(p.len()), args![&p, &g, &m, &v, numbers, p.len()]);
}
