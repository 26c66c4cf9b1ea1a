//! The way from the formula to the kernel that is used, one idea a rung.
//!
//! Each rung is a few lines that compute the same numbers: first as one would write them down, then
//! with one idea more each time. All are checked against `f64` before they are timed. Read a ladder from
//! the first rung on, and run it beside: `handloom bench --ladder gemm`.
//!
//! The first rungs are compiled for any processor of the architecture, like all Rust code. A rung that
//! is "compiled for this machine" goes through [`dispatch`](crate::cpu::simd::Real::dispatch), which hands the
//! very same loops to the compiler with all instructions allowed that this machine has.

mod attention;
mod gemm;
mod layer_norm;
mod lstm;
mod softmax;

use super::effort::Effort;
use super::measure::{Samples, median};
use super::roof::{Limit, Roofs};
use super::{Cost, reference};
use crate::cpu::gemm::Precision;
use crate::error::{Error, Result};
use crate::ops::Key;
use crate::tensor::{DType, Tensor};
use crate::train::control::in_pool;

/// One way to compute it.
struct Rung {
    /// `v1 naive`.
    name: &'static str,
    /// What is new.
    idea: &'static str,
    /// Whether it uses all threads rather than one.
    threaded: bool,
    /// Writes the result.
    run: Run,
}

type Run = Box<dyn FnMut(&mut [f32]) -> Result<()> + Send>;

impl Rung {
    fn new(
        name: &'static str,
        idea: &'static str,
        mut run: impl FnMut(&mut [f32]) + Send + 'static,
    ) -> Rung {
        Rung::falling(name, idea, move |out| {
            run(out);
            Ok(())
        })
    }

    /// A rung that can fail.
    fn falling(
        name: &'static str,
        idea: &'static str,
        run: impl FnMut(&mut [f32]) -> Result<()> + Send + 'static,
    ) -> Rung {
        Rung { name, idea, threaded: false, run: Box::new(run) }
    }

    fn threaded(self) -> Rung {
        Rung { threaded: true, ..self }
    }
}

/// A problem and the ways to compute it.
pub struct Ladder {
    /// The problem in words, with its sizes.
    pub problem: String,
    cost: Cost,
    /// The right answer.
    want: Vec<f64>,
    tolerance: f64,
    rungs: Vec<Rung>,
}

/// What a rung reached.
#[derive(Clone, Debug)]
pub struct Step {
    /// `v1 naive`.
    pub name: &'static str,
    /// What is new.
    pub idea: &'static str,
    /// Threads it ran on.
    pub threads: usize,
    /// Seconds of a run, the median.
    pub seconds: f64,
    /// Floating-point operations or bytes a second.
    pub rate: f64,
    /// How many times as fast as the first rung.
    pub times: f64,
    /// The share of the roof of its threads, in percent; `None` where roofs vary too much.
    pub roof_percent: Option<f64>,
    /// The largest difference from the f64 reference, relative to the largest value.
    pub max_error: f64,
}

/// The ladders there are.
pub const NAMES: [&str; 5] = ["gemm", "attention", "layer_norm", "softmax", "lstm"];

/// The ladder called `name`; smaller where `quick`.
///
/// # Errors
/// [`Error::Usage`] for a name that is none, and when memory cannot be had.
pub fn ladder(name: &str, quick: bool) -> Result<Ladder> {
    match name {
        "gemm" => gemm::ladder(if quick { 96 } else { 1024 }),
        "attention" => attention::ladder(if quick { 64 } else { 1024 }, 64),
        "layer_norm" => layer_norm::ladder(if quick { 64 } else { 2048 }, 768),
        "softmax" => softmax::ladder(if quick { 64 } else { 2048 }, 768),
        "lstm" => lstm::ladder(if quick { [4, 4, 32, 32] } else { [32, 64, 128, 128] }),
        _ => Err(unknown(name)),
    }
}

/// Refuses a name that [`ladder`] does not know.
///
/// # Errors
/// [`Error::Usage`] that lists those it knows.
pub fn check(name: &str) -> Result<()> {
    if NAMES.contains(&name) { Ok(()) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> Error {
    Error::Usage(format!("there is no ladder '{name}'; there are {}", NAMES.join(", ")))
}

impl Ladder {
    /// Whether it is told in floating-point operations rather than bytes.
    pub fn computes(&self) -> bool {
        self.cost.flops > 0.0
    }

    /// Checks and times each rung, the single ones on one thread, and tells `each` as they are done.
    ///
    /// # Errors
    /// When a rung computes something else.
    pub fn climb(
        self,
        roofs: &Roofs,
        effort: Effort,
        threads: usize,
        mut each: impl FnMut(&Step),
    ) -> Result<()> {
        let mut first = None;
        let (want, cost) = (self.want, self.cost);
        for mut rung in self.rungs {
            let threads = if rung.threaded { threads } else { 1 };
            let limit: Limit = roofs.limit(&cost, Precision::Highest, threads);
            let (error, samples) = in_pool(threads, || -> Result<_> {
                let mut out = vec![f32::NAN; want.len()];
                (rung.run)(&mut out)?;
                let off: Vec<f64> = out.iter().zip(&want).map(|(a, b)| *a as f64 - b).collect();
                let error = reference::largest(&off) / reference::largest(&want);
                if error.is_nan() || error > self.tolerance {
                    return Err(Error::Failed(format!(
                        "{}: the result is wrong: it differs from the f64 reference by {error:.1e} of \
                         the largest value; a wrong rung is not timed",
                        rung.name
                    )));
                }
                let mut failure = Ok(());
                let mut yardstick = roofs.yardstick(&limit);
                let samples = Samples::take(effort, &mut yardstick, || {
                    if let Err(error) = (rung.run)(&mut out) {
                        failure = Err(error);
                    }
                });
                failure.map(|()| (error, samples))
            })??;
            let seconds = median(&samples.seconds);
            let first = *first.get_or_insert(seconds);
            let amount = if cost.flops > 0.0 { cost.flops } else { cost.reads + cost.writes };
            each(&Step {
                name: rung.name,
                idea: rung.idea,
                threads,
                seconds,
                rate: amount / seconds,
                times: first / seconds,
                roof_percent: limit.trusted.then_some(100.0 * limit.seconds / seconds),
                max_error: error,
            });
        }
        Ok(())
    }
}

/// Normal numbers, the same in every run.
fn normal(n: usize, stream: u64) -> Result<Vec<f32>> {
    Tensor::randn(n, DType::F32, Key { seed: 42, stream, step: 0 })?.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_is_right() {
        let roofs = in_pool(2, || Roofs::measure(Effort::tiny())).unwrap();
        for name in NAMES {
            let mut rungs = 0;
            ladder(name, true).unwrap().climb(&roofs, Effort::tiny(), 2, |_| rungs += 1).unwrap();
            assert!(rungs >= 5, "{name}");
        }
        assert!(ladder("loom", true).err().unwrap().to_string().contains("gemm, attention"));
    }
}
