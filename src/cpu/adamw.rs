//! AdamW (Loshchilov and Hutter 2019): one pass over parameter, gradient and both moments.
//!
//! With gradient g (already scaled, see [`AdamW::grad_scale`]) at step t = 1, 2, …:
//!
//! ```text
//! m = m + (1 − β₁)(g − m)                      v = β₂ v + (1 − β₂) g²
//! p = (1 − lr·λ) p − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//!
//! which is `torch.optim.AdamW`. A pass of its own reads p, g, m, v and writes p, m, v: 28 bytes a
//! parameter, the speed of memory. Moments below the smallest normal `f32` become 0: the momentum of
//! a parameter that gets no gradient any more (an unused word) decays towards there and would then
//! slow each step down many times over, since processors compute with denormal numbers in microcode.

use super::rows::{each, load, store};
use super::simd::{Kernel, Real, Vector, for_pieces};
use super::threads::CHUNK;

/// The numbers of one AdamW step, PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The share lr · `weight_decay` of each parameter is taken off it.
    pub weight_decay: f64,
    /// Which step this is, from 1.
    pub step: u64,
    /// Each gradient is multiplied by this first: clipping and loss scaling. 1 changes nothing.
    pub grad_scale: f64,
    /// Whether gradients are set to 0 once they are used.
    pub zero_grad: bool,
}

impl Default for AdamW {
    /// PyTorch's defaults, at step 1.
    fn default() -> Self {
        AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            step: 1,
            grad_scale: 1.0,
            zero_grad: false,
        }
    }
}

impl AdamW {
    /// One step over parameters `p`, gradients `g` and moments `m` and `v` (0 before the first step),
    /// all of one length.
    pub fn update<T: Real>(&self, p: &mut [T], g: &mut [T], m: &mut [T], v: &mut [T]) {
        let n = p.len();
        assert!(
            g.len() == n && m.len() == n && v.len() == n,
            "AdamW: {n} parameters, {} gradients, {} and {} moments",
            g.len(),
            m.len(),
            v.len()
        );
        let [keep, rate, root] = self.factors();
        let outputs = [(p, CHUNK), (g, CHUNK), (m, CHUNK), (v, CHUNK)];
        for_pieces(outputs, n.div_ceil(CHUNK), 4 * n, |_, [p, g, m, v]| {
            T::dispatch(Update { p, g, m, v, keep, rate, root, options: self });
        });
    }
}

impl AdamW {
    /// 1 − lr·λ, lr / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ).
    pub(crate) fn factors(&self) -> [f64; 3] {
        let correction = |beta: f64| 1.0 - power(beta, self.step);
        [
            1.0 - self.lr * self.weight_decay,
            self.lr / correction(self.beta1),
            1.0 / correction(self.beta2).sqrt(),
        ]
    }
}

/// [`AdamW::update`] as a function.
pub fn update<T: Real>(rule: &AdamW, p: &mut [T], g: &mut [T], m: &mut [T], v: &mut [T]) {
    rule.update(p, g, m, v);
}

/// xⁿ by repeated squaring: the same bits on every platform.
fn power(mut x: f64, mut n: u64) -> f64 {
    let mut out = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            out *= x;
        }
        x *= x;
        n >>= 1;
    }
    out
}

struct Update<'a, T> {
    p: &'a mut [T],
    g: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
    /// 1 − lr·λ
    keep: f64,
    /// lr / (1 − β₁ᵗ)
    rate: f64,
    /// 1 / √(1 − β₂ᵗ)
    root: f64,
    options: &'a AdamW,
}

impl<T: Real> Kernel<T> for Update<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let (keep, rate, root) =
            (V::constant(self.keep), V::constant(self.rate), V::constant(self.root));
        let scale = V::constant(self.options.grad_scale);
        let (one_less_beta1, beta2, one_less_beta2) = (
            V::constant(1.0 - self.options.beta1),
            V::constant(self.options.beta2),
            V::constant(1.0 - self.options.beta2),
        );
        let eps = V::constant(self.options.eps);
        let zero_grad = self.options.zero_grad;
        each(
            self.p.len(),
            #[inline(always)]
            |at, n| {
                let g = load::<V>(self.g, at, n).mul(scale);
                let m: V = load(self.m, at, n);
                let m = flush(g.sub(m).mul_add(one_less_beta1, m));
                let v: V = load(self.v, at, n);
                let v = flush(g.mul(g).mul_add(one_less_beta2, v.mul(beta2)));
                let divisor = v.sqrt().mul_add(root, eps);
                let p = load::<V>(self.p, at, n).mul(keep);
                let p = m.div(divisor).neg_mul_add(rate, p);
                store(p, self.p, at, n);
                store(m, self.m, at, n);
                store(v, self.v, at, n);
                if zero_grad {
                    store(V::zero(), self.g, at, n);
                }
            },
        );
    }
}

/// 0 for what is smaller than the smallest normal `f32`; NaN stays.
#[inline(always)]
pub(crate) fn flush<V: Vector>(x: V) -> V {
    V::select(x.abs().lt(V::constant(f32::MIN_POSITIVE as f64)), V::zero(), x)
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{close, narrow, numbers, same_bits};
    use super::*;

    /// The formula as `torch.optim.AdamW` writes it, element by element.
    fn plain(o: &AdamW, p: &mut [f64], g: &[f64], m: &mut [f64], v: &mut [f64]) {
        let (bc1, bc2) = (1.0 - o.beta1.powi(o.step as i32), 1.0 - o.beta2.powi(o.step as i32));
        for i in 0..p.len() {
            let g = g[i] * o.grad_scale;
            p[i] *= 1.0 - o.lr * o.weight_decay;
            m[i] = o.beta1 * m[i] + (1.0 - o.beta1) * g;
            v[i] = o.beta2 * v[i] + (1.0 - o.beta2) * g * g;
            p[i] -= o.lr / bc1 * m[i] / (v[i].sqrt() / bc2.sqrt() + o.eps);
        }
    }

    #[test]
    fn ten_steps_follow_the_formula_at_every_length() {
        for n in (0..40).chain([40_000]) {
            let mut p = numbers(n, 1.0, 1);
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            let (mut p64, mut m64, mut v64) = (p.clone(), m.clone(), v.clone());
            let (mut p32, mut m32, mut v32) = (narrow(&p), narrow(&m), narrow(&v));
            for step in 1..=10 {
                let o = AdamW {
                    lr: 1e-2,
                    grad_scale: 0.7,
                    step,
                    zero_grad: step > 5,
                    ..AdamW::default()
                };
                let g = numbers(n, 0.1, step + 10);
                plain(&o, &mut p, &g, &mut m, &mut v);
                let (mut g64, mut g32) = (g.clone(), narrow(&g));
                o.update(&mut p64, &mut g64, &mut m64, &mut v64);
                o.update(&mut p32, &mut g32, &mut m32, &mut v32);
                assert_eq!(g32.iter().all(|&g| g == 0.0), step > 5 || n == 0);
            }
            close(&p64, &p, 1e-13);
            close(&v64, &v, 1e-13);
            close(&p32, &p, 3e-6);
            close(&m32, &m, 1e-7);
            close(&v32, &v, 1e-8);
        }
    }

    #[test]
    fn moments_never_become_denormal() {
        let (mut p, mut g) = (vec![1.0f32; 20], vec![0.0f32; 20]);
        let (mut m, mut v) = (vec![2e-38f32; 20], vec![1.2e-38f32; 20]);
        for step in 1..100 {
            AdamW { step, ..AdamW::default() }.update(&mut p, &mut g, &mut m, &mut v);
            assert!(m.iter().chain(&v).all(|x| *x == 0.0 || x.is_normal()));
        }
        assert_eq!((m[0], v[0]), (0.0, 0.0));
        g[3] = f32::NAN;
        AdamW::default().update(&mut p, &mut g, &mut m, &mut v);
        assert!(p[3].is_nan() && m[3].is_nan() && p[2].is_finite());
    }

    #[test]
    fn threads_and_instruction_sets_do_not_change_bits() {
        let n = 100_003;
        let [p, g, m] = [1, 2, 3].map(|seed| narrow(&numbers(n, 1.0, seed)));
        same_bits(|| {
            let (mut p, mut g, mut m, mut v) = (p.clone(), g.clone(), m.clone(), vec![0.5; n]);
            AdamW::default().update(&mut p, &mut g, &mut m, &mut v);
            [p, m, v].concat()
        });
    }
}
