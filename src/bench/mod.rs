//! How fast each kernel is, beside what this machine could do.
//!
//! # The idea
//!
//! A time alone says nothing. So the machine is measured first ([`roof`]): multiply-adds a second, and
//! bytes a second from each level of the memory. A kernel that must do F floating-point operations and
//! move B bytes cannot take less than
//!
//! ```text
//! max( F / peak , B / bandwidth )          (Williams, Waterman and Patterson 2009)
//! ```
//!
//! and its figure is the share of that which it reaches. A point above the roof means that the work
//! was counted wrongly or not done, and is an error.
//!
//! A fast wrong answer is worth nothing: each kernel is first compared with a reference in `f64`
//! ([`reference`]) and only then timed.
//!
//! # Reading order
//!
//! [`Case`] and [`Work`]: what is measured. [`cases`]: the list, one line each. [`measure`]: samples
//! and what is said about them. [`roof`]. [`compare`]: faster or slower than an earlier run.
//! [`ladder`]: the way from three loops to the kernel that is used, rung by rung.

pub mod cases;
pub mod compare;
pub mod effort;
pub mod ladder;
pub mod measure;
pub mod reference;
pub mod roof;

use smallvec::SmallVec;

use crate::cpu::gemm::Precision;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, release_free_memory};

use effort::Effort;
use measure::{Row, Samples};
use roof::Roofs;

/// What a piece of work has to do at the very least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two. 0 where they do not matter.
    pub flops: f64,
    /// Bytes read, each operand once a pass.
    pub reads: f64,
    /// Bytes written.
    pub writes: f64,
    /// Bytes of memory that are touched at all, which decides the level they come from.
    pub footprint: f64,
    /// Tokens, for training steps and text.
    pub tokens: f64,
}

impl Cost {
    /// Work whose speed is told in floating-point operations: F of them on `bytes` of operands.
    pub fn flops(flops: f64, reads: f64, writes: f64) -> Cost {
        Cost { flops, reads, writes, footprint: reads + writes, tokens: 0.0 }
    }

    /// Work whose speed is told in bytes: passes that read and write, over `footprint` bytes.
    pub fn bytes(reads: f64, writes: f64, footprint: f64) -> Cost {
        Cost { flops: 0.0, reads, writes, footprint, tokens: 0.0 }
    }

    /// The same with a number of tokens.
    pub fn tokens(self, tokens: usize) -> Cost {
        Cost { tokens: tokens as f64, ..self }
    }
}

/// What a run of some work gives back, to be compared with a reference.
pub type Outputs = SmallVec<[Tensor; 8]>;

/// Inputs in place, ready to be run again and again.
pub struct Work {
    cost: Cost,
    tolerance: f64,
    run: Box<dyn FnMut() -> Result<Outputs>>,
    error: Option<Distance>,
}

/// How far the outputs are from what they should be.
type Distance = Box<dyn FnOnce(&Outputs) -> Result<f64>>;

impl Work {
    /// `run` does the work once; `error` says how far the outputs of its first run are from what they
    /// should be, relative to the largest value, which must not be more than `tolerance`.
    pub fn new(
        cost: Cost,
        tolerance: f64,
        run: impl FnMut() -> Result<Outputs> + 'static,
        error: impl FnOnce(&Outputs) -> Result<f64> + 'static,
    ) -> Work {
        Work { cost, tolerance, run: Box::new(run), error: Some(Box::new(error)) }
    }

    /// What it has to do.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Does it once, outputs and all.
    ///
    /// # Errors
    /// As the operations inside.
    pub fn run(&mut self) -> Result<()> {
        (self.run)().map(drop)
    }

    /// Does it for the first time and compares: how far it is off. Later calls say 0.
    ///
    /// # Errors
    /// [`Error::Failed`] when the outputs are further from the reference than they may be.
    pub fn check(&mut self, name: &str) -> Result<f64> {
        let outputs = (self.run)()?;
        let error = self.error.take().map_or(Ok(0.0), |error| error(&outputs))?;
        if error.is_nan() || error > self.tolerance {
            return Err(Error::Failed(format!(
                "{name}: the result is wrong: it differs from the f64 reference by {error:.1e} of the \
                 largest value, {:.0e} is allowed; a wrong kernel is not timed",
                self.tolerance
            )));
        }
        Ok(error)
    }
}

/// One line of the list: a name, and how to make its work.
pub struct Case {
    /// What `--only` selects: `gemm`, `attention`, …
    pub group: &'static str,
    /// The operation, as it is called in rows.
    pub op: &'static str,
    /// The shape, as it is written in rows.
    pub shape: String,
    /// What it computes on.
    pub dtype: DType,
    /// How exactly its products are computed, which decides the roof.
    pub precision: Precision,
    /// Whether `--quick` measures it too.
    pub quick: bool,
    make: Box<dyn Fn() -> Result<Work> + Send + Sync>,
}

impl Case {
    /// A case; `make` builds its inputs.
    pub fn new(
        group: &'static str,
        op: &'static str,
        shape: impl Into<String>,
        dtype: DType,
        make: impl Fn() -> Result<Work> + Send + Sync + 'static,
    ) -> Case {
        let precision = if dtype == DType::BF16 { Precision::Medium } else { Precision::Highest };
        let (shape, make) = (shape.into(), Box::new(make));
        Case { group, op, shape, dtype, precision, quick: false, make }
    }

    /// Measured with `--quick` too: small and soon done.
    pub fn quick(self) -> Case {
        Case { quick: true, ..self }
    }

    /// The same with products of f32 as [`Precision::High`] computes them.
    pub fn high(self) -> Case {
        Case { precision: Precision::High, ..self }
    }

    /// What it computes on, as it is written in rows: a dtype, or `high`.
    pub fn numbers(&self) -> &'static str {
        if self.precision == Precision::High { "high" } else { self.dtype.name() }
    }

    /// Its inputs, ready to run.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn make(&self) -> Result<Work> {
        (self.make)()
    }

    /// Operation, shape and dtype in one.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op, self.shape, self.numbers())
    }
}

/// Checks one case (unless the effort says otherwise) and times it on the threads of the pool this is called in.
///
/// # Errors
/// When the result is wrong, or the speed is above the roof, which is impossible: then the work was
/// counted wrongly or not done.
pub fn measure(case: &Case, roofs: &Roofs, effort: Effort) -> Result<Row> {
    let threads = rayon::current_num_threads();
    let name = case.name();
    let mut work = case.make()?;
    let error = effort.checked.then(|| work.check(&name)).transpose()?;
    let limit = roofs.limit(&work.cost, case.precision, threads);
    let mut yardstick = roofs.yardstick(&limit);
    let mut failure = None;
    let samples = Samples::take(effort, &mut yardstick, || {
        if let Err(error) = (work.run)() {
            failure = Some(error);
        }
    });
    let cost = work.cost;
    drop(work);
    release_free_memory();
    if let Some(error) = failure {
        return Err(error);
    }
    let row = Row::new(case, threads, &cost, &samples, &limit, error);
    match row.roof_percent {
        Some(percent) if percent > 100.0 * (1.0 + roof::NOISE) => Err(Error::Failed(format!(
            "{name}: {percent:.0} % of the roof is impossible ({:.1} µs, at least {:.1} µs by {}): the \
             work was counted wrongly, or not done",
            row.median_s * 1e6,
            limit.seconds * 1e6,
            limit.bound
        ))),
        _ => Ok(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::control::in_pool;

    fn work(flops: f64, off: f64) -> Work {
        let x = Tensor::ones([4], DType::F32).unwrap();
        Work::new(
            Cost::flops(flops, 16.0, 16.0),
            1e-6,
            move || Ok(smallvec::smallvec![x.mul_scalar(2.0 + off)?]),
            |y| reference::distance(&y[0], &Tensor::full([4], 2.0, DType::F64)?),
        )
    }

    fn roofs() -> Roofs {
        in_pool(1, || Roofs::measure(Effort::tiny())).unwrap()
    }

    fn try_measure(case: &Case, roofs: &Roofs) -> Result<Row> {
        in_pool(1, || measure(case, roofs, Effort::tiny()))?
    }

    fn case(flops: f64, off: f64) -> Case {
        Case::new("test", "double", "4", DType::F32, move || Ok(work(flops, off)))
    }

    #[test]
    fn a_wrong_kernel_is_not_timed() {
        let roofs = roofs();
        let row = try_measure(&case(4.0, 0.0), &roofs).unwrap();
        assert!(row.median_s > 0.0 && row.p10_s <= row.median_s && row.median_s <= row.p90_s);
        assert!(row.max_error.unwrap() <= 1e-6);
        let error = try_measure(&case(4.0, 1e-3), &roofs).unwrap_err().to_string();
        assert!(error.contains("double 4 f32: the result is wrong"), "{error}");
    }

    #[test]
    fn a_point_above_the_roof_is_an_error() {
        let mut roofs = roofs();
        roofs.spread = 0.0;
        let error = try_measure(&case(1e15, 0.0), &roofs).unwrap_err().to_string();
        assert!(error.contains("is impossible"), "{error}");
        // Where the roof itself is not to be trusted nothing is said about shares of it.
        roofs.spread = 0.5;
        assert_eq!(try_measure(&case(1e15, 0.0), &roofs).unwrap().roof_percent, None);
    }
}
