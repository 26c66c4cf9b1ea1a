//! Launches of `kernels/sgd.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cpu::sgd::Sgd;
use crate::cuda::SliceMut;
use crate::cuda::launch::{Arg, Grid, args, changing_numbers, launch};

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

/// What the kernel takes of a rule: eight words.
fn numbers(rule: &Sgd) -> Numbers {
    Numbers {
        lr: rule.lr as f32,
        momentum: rule.momentum as f32,
        fresh: (1.0 - rule.dampening) as f32,
        weight_decay: rule.weight_decay as f32,
        grad_scale: rule.grad_scale as f32,
        nesterov: u32::from(rule.nesterov),
        first: u32::from(rule.step == 1),
        zero_grad: u32::from(rule.zero_grad),
    }
}

/// The words of a rule, for an update that was recorded.
pub fn words(rule: &Sgd) -> [u32; 8] {
    bytemuck::cast(numbers(rule))
}

/// As [`Sgd::update`]; no buffer where momentum is 0.
pub fn update<T>(rule: &Sgd, p: SliceMut<T>, g: SliceMut<T>, buffer: Option<SliceMut<T>>) {
    let numbers = numbers(rule);
    let (numbers, changing) = (Arg::Bytes(bytemuck::bytes_of(&numbers)), changing_numbers(p.gpu));
    let (buffer, n) = (buffer.as_ref(), p.len());
    launch("sgd_update", Grid::each(n), args![&p, &g, buffer, numbers, changing, n]);
}
