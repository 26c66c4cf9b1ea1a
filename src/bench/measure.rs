//! Samples, and what is said about them.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::effort::Effort;
use super::roof::{Limit, Yardstick};
use super::{Case, Cost};
use crate::cpu::simd::level;

/// Samples of one kernel; work of less than this is repeated within a sample.
const SAMPLE: f64 = 2e-3;
/// More samples than this say nothing more.
const MOST: usize = 400;

/// Times of one kernel, each with the time of a yardstick right after it.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Seconds of one run.
    pub seconds: Vec<f64>,
    /// Seconds of the yardstick that followed.
    pub yardstick: Vec<f64>,
}

impl Samples {
    /// Runs `f` until the effort is spent. The first runs, which warm up caches and pools, are not
    /// counted.
    pub fn take(effort: Effort, yardstick: &mut Yardstick, mut f: impl FnMut()) -> Samples {
        f();
        let start = Instant::now();
        f();
        let once = start.elapsed().as_secs_f64();
        let inner =
            if effort.seconds > 0.0 { (SAMPLE / once.max(1e-8)) as usize } else { 1 }.max(1);
        let mut samples = Samples::default();
        let start = Instant::now();
        while samples.seconds.len() < effort.samples
            || (start.elapsed().as_secs_f64() < effort.seconds && samples.seconds.len() < MOST)
        {
            let sample = Instant::now();
            for _ in 0..inner {
                f();
            }
            samples.seconds.push(sample.elapsed().as_secs_f64() / inner as f64);
            samples.yardstick.push(yardstick.pass());
        }
        samples
    }
}

/// The value below which a share `q` of `values` lies.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// One line of the result: what `--json` prints and `--compare` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The operation.
    pub op: String,
    /// Its shape.
    pub shape: String,
    /// What it computes on: a dtype, or `high`.
    pub dtype: String,
    /// Threads it could use.
    pub threads: usize,
    /// Seconds of a run: half of the samples took less.
    pub median_s: f64,
    /// A tenth of the samples took less.
    pub p10_s: f64,
    /// A tenth of the samples took more.
    pub p90_s: f64,
    /// 10⁹ floating-point operations a second.
    pub gflops: Option<f64>,
    /// 10⁹ bytes a second.
    pub gbs: Option<f64>,
    /// Tokens a second.
    pub tokens_per_s: Option<f64>,
    /// The least time the roof allows, in percent of the median; null where the roofs vary too much.
    pub roof_percent: Option<f64>,
    /// Which roof that is: `FMA`, `L1`, `L2`, `L3` or `DRAM`.
    pub bound: String,
    /// Floating-point operations for each byte.
    pub intensity: Option<f64>,
    /// Bytes that are touched at all.
    pub footprint: f64,
    /// The largest difference from the f64 reference, relative to the largest value; null where it was
    /// not compared.
    pub max_error: Option<f64>,
    /// The instruction set.
    pub isa: String,
    /// The processor's name.
    #[serde(default)]
    pub cpu: String,
    /// Seconds of each sample.
    pub samples: Vec<f64>,
    /// Seconds of the yardstick after each sample.
    pub yardstick: Vec<f64>,
}

impl Row {
    pub(super) fn new(
        case: &Case,
        threads: usize,
        cost: &Cost,
        samples: &Samples,
        limit: &Limit,
        error: Option<f64>,
    ) -> Row {
        let median_s = median(&samples.seconds);
        let rate = |amount: f64, unit: f64| (amount > 0.0).then_some(amount / median_s / unit);
        let bytes = cost.reads + cost.writes;
        Row {
            op: case.op.into(),
            shape: case.shape.clone(),
            dtype: case.numbers().into(),
            threads,
            median_s,
            p10_s: quantile(&samples.seconds, 0.1),
            p90_s: quantile(&samples.seconds, 0.9),
            gflops: rate(cost.flops, 1e9),
            // Where arithmetic is counted, bytes are only there to find the binding roof.
            gbs: if cost.flops > 0.0 && limit.computes { None } else { rate(bytes, 1e9) },
            tokens_per_s: rate(cost.tokens, 1.0),
            roof_percent: limit.trusted.then_some(100.0 * limit.seconds / median_s),
            bound: limit.bound.clone(),
            intensity: (cost.flops > 0.0 && bytes > 0.0).then_some(cost.flops / bytes),
            footprint: cost.footprint,
            max_error: error,
            isa: level().name().into(),
            cpu: String::new(),
            samples: samples.seconds.clone(),
            yardstick: samples.yardstick.clone(),
        }
    }

    /// Operation, shape, dtype and threads: what makes two rows of two runs the same row.
    pub fn key(&self) -> (&str, &str, &str, usize) {
        (&self.op, &self.shape, &self.dtype, self.threads)
    }

    /// Operation, shape and dtype in words.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.op, self.shape, self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        let values = [3.0, 1.0, 2.0, 5.0, 4.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 1.0), 5.0);
        assert_eq!(quantile(&values, 0.125), 1.5);
        assert!(median(&[]).is_nan());
    }
}
