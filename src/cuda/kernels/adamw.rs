//! Launches of `kernels/adamw.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cpu::adamw::AdamW;
use crate::cuda::SliceMut;
use crate::cuda::launch::{Arg, Grid, args, changing_numbers, launch};

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

/// What the kernel takes of a rule: eight words.
fn numbers(rule: &AdamW) -> Numbers {
    let [keep, rate, root] = rule.factors();
    Numbers {
        keep: keep as f32,
        rate: rate as f32,
        root: root as f32,
        beta1: rule.beta1 as f32,
        beta2: rule.beta2 as f32,
        eps: rule.eps as f32,
        grad_scale: rule.grad_scale as f32,
        zero_grad: u32::from(rule.zero_grad),
    }
}

/// The words of a rule, for an update that was recorded.
pub fn words(rule: &AdamW) -> [u32; 8] {
    bytemuck::cast(numbers(rule))
}

/// As [`AdamW::update`].
pub fn update<T>(rule: &AdamW, p: SliceMut<T>, g: SliceMut<T>, m: SliceMut<T>, v: SliceMut<T>) {
    let numbers = numbers(rule);
    let (numbers, changing) = (Arg::Bytes(bytemuck::bytes_of(&numbers)), changing_numbers(p.gpu));
    let (n, grid) = (p.len(), Grid::each(p.len()));
    launch("adamw_update", grid, args![&p, &g, &m, &v, numbers, changing, n]);
}
