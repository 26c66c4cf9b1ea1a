//! Stochastic gradient descent with momentum (Polyak 1964; Nesterov 1983), in one pass.
//!
//! ```text
//! g = scale · g + λ p
//! b = g at the first step, else μ b + (1 − τ) g          (momentum buffer, where μ ≠ 0)
//! p = p − lr · (g + μ b   with nesterov, b   without, g   where μ = 0)
//! ```
//!
//! which is `torch.optim.SGD` with weight decay λ, momentum μ and dampening τ.

use super::adamw::flush;
use super::rows::{each, load, store};
use super::simd::{Kernel, Real, Vector, for_pieces};
use super::threads::CHUNK;

/// The numbers of one SGD step, PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f64,
    /// μ; 0 needs no momentum buffer.
    pub momentum: f64,
    /// τ, how much of a new gradient the momentum leaves out.
    pub dampening: f64,
    /// λ, added to the gradient as λ p.
    pub weight_decay: f64,
    /// Whether to look ahead along the momentum.
    pub nesterov: bool,
    /// Which step this is, from 1: the first fills the momentum buffer.
    pub step: u64,
    /// Each gradient is multiplied by this first: clipping and loss scaling. 1 changes nothing.
    pub grad_scale: f64,
    /// Whether gradients are set to 0 once they are used.
    pub zero_grad: bool,
}

impl Default for Sgd {
    /// PyTorch's defaults, at step 1.
    fn default() -> Self {
        Sgd {
            lr: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
            step: 1,
            grad_scale: 1.0,
            zero_grad: false,
        }
    }
}

impl Sgd {
    /// One step over parameters `p`, gradients `g` and the momentum `buffer`, all of one length;
    /// `buffer` is empty where momentum is 0.
    pub fn update<T: Real>(&self, p: &mut [T], g: &mut [T], buffer: &mut [T]) {
        let n = p.len();
        let with_buffer = self.momentum != 0.0;
        assert!(
            g.len() == n && buffer.len() == if with_buffer { n } else { 0 },
            "SGD: {n} parameters, {} gradients, a momentum buffer of {}",
            g.len(),
            buffer.len()
        );
        let outputs = [(p, CHUNK), (g, CHUNK), (buffer, CHUNK)];
        for_pieces(outputs, n.div_ceil(CHUNK), 3 * n, |_, [p, g, buffer]| {
            T::dispatch(Update { p, g, buffer, options: self });
        });
    }
}

/// [`Sgd::update`] as a function; no buffer where momentum is 0.
pub fn update<T: Real>(rule: &Sgd, p: &mut [T], g: &mut [T], buffer: Option<&mut [T]>) {
    rule.update(p, g, buffer.unwrap_or_default());
}

struct Update<'a, T> {
    p: &'a mut [T],
    g: &'a mut [T],
    buffer: &'a mut [T],
    options: &'a Sgd,
}

impl<T: Real> Kernel<T> for Update<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let o = *self.options;
        let (rate, scale, decay) =
            (V::constant(o.lr), V::constant(o.grad_scale), V::constant(o.weight_decay));
        let (momentum, fresh) = (V::constant(o.momentum), V::constant(1.0 - o.dampening));
        each(
            self.p.len(),
            #[inline(always)]
            |at, n| {
                let p: V = load(self.p, at, n);
                let g = p.mul_add(decay, load::<V>(self.g, at, n).mul(scale));
                let step = if o.momentum == 0.0 {
                    g
                } else {
                    let b = if o.step <= 1 {
                        g
                    } else {
                        flush(load::<V>(self.buffer, at, n).mul_add(momentum, g.mul(fresh)))
                    };
                    store(b, self.buffer, at, n);
                    if o.nesterov { b.mul_add(momentum, g) } else { b }
                };
                store(step.neg_mul_add(rate, p), self.p, at, n);
                if o.zero_grad {
                    store(V::zero(), self.g, at, n);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    fn plain(o: &Sgd, p: &mut [f64], g: &[f64], b: &mut [f64]) {
        for i in 0..p.len() {
            let mut g = g[i] * o.grad_scale + o.weight_decay * p[i];
            if o.momentum != 0.0 {
                b[i] = if o.step == 1 { g } else { o.momentum * b[i] + (1.0 - o.dampening) * g };
                g = if o.nesterov { g + o.momentum * b[i] } else { b[i] };
            }
            p[i] -= o.lr * g;
        }
    }

    #[test]
    fn steps_follow_the_formula_at_every_length() {
        let kinds = [
            Sgd { lr: 0.1, ..Sgd::default() },
            Sgd { lr: 0.1, weight_decay: 0.1, momentum: 0.9, grad_scale: 0.5, ..Sgd::default() },
            Sgd { lr: 0.1, momentum: 0.9, dampening: 0.3, ..Sgd::default() },
            Sgd { lr: 0.1, momentum: 0.8, nesterov: true, zero_grad: true, ..Sgd::default() },
        ];
        for kind in kinds {
            for n in (0..40).chain([40_000]) {
                let mut p = numbers(n, 1.0, 1);
                let mut b = vec![0.0; if kind.momentum == 0.0 { 0 } else { n }];
                let (mut p64, mut b64, mut p32, mut b32) =
                    (p.clone(), b.clone(), narrow(&p), narrow(&b));
                for step in 1..=5 {
                    let o = Sgd { step, ..kind };
                    let g = numbers(n, 1.0, step + 10);
                    plain(&o, &mut p, &g, &mut b);
                    o.update(&mut p64, &mut g.clone(), &mut b64);
                    let mut g32 = narrow(&g);
                    o.update(&mut p32, &mut g32, &mut b32);
                    assert_eq!(g32.iter().all(|&g| g == 0.0), kind.zero_grad || n == 0);
                }
                close(&p64, &p, 1e-13);
                close(&p32, &p, 2e-6);
                close(&b32, &b, 2e-6);
            }
        }
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let n = 100_003;
        let [p, g, b] = [1, 2, 3].map(|seed| narrow(&numbers(n, 1.0, seed)));
        same_bits(|| {
            let (mut p, mut g, mut b) = (p.clone(), g.clone(), b.clone());
            Sgd { momentum: 0.9, step: 2, ..Sgd::default() }.update(&mut p, &mut g, &mut b);
            [p, b].concat()
        });
    }
}
