//! Learning-rate schedules: pure functions of how far the run is.
//!
//! A run is measured in steps or, with a wall-clock budget, in seconds. Either way the schedule sees
//! its *progress* p, which runs from 0 at the end of the warm-up to 1 at the end of the run:
//!
//! ```text
//! linear                     f(p) = 1 − p
//! cosine                     f(p) = ½ (1 + cos πp)
//! wsd (warm-up-stable-decay) f(p) = 1 up to p = 0.8, then linearly to 0
//! slanted_triangular         up to 1 over the first tenth of the run, then linearly to 1/32
//! lr = min + (peak − min) · f(p)
//! ```
//!
//! During the warm-up of W steps, step i (from 0) has `lr = peak · (i + 1) / (W + 1)`. With a budget the
//! warm-up counts steps and multiplies what the clock says.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The peak all along (after the warm-up).
    Constant,
    /// A straight line to the minimum.
    Linear,
    /// Half a cosine to the minimum (Loshchilov and Hutter 2017).
    Cosine,
    /// Constant for four fifths of the run, then a straight line to the minimum (Hu et al. 2024).
    Wsd,
    /// ULMFiT's: a short rise, a long fall (Howard and Ruder 2018); it has its own warm-up.
    SlantedTriangular,
}

/// Where the stable part of [`Scheduler::Wsd`] ends.
const WSD_STABLE: f64 = 0.8;
/// The share of the run in which [`Scheduler::SlantedTriangular`] rises.
const SLANTED_CUT: f64 = 0.1;
/// How much smaller the least rate of [`Scheduler::SlantedTriangular`] is than the peak.
const SLANTED_RATIO: f64 = 32.0;

impl Scheduler {
    /// f(p): the share of the way from the minimum to the peak.
    fn factor(self, p: f64) -> f64 {
        let p = p.clamp(0.0, 1.0);
        match self {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => 1.0 - p,
            Scheduler::Cosine => 0.5 * (1.0 + libm::cos(PI * p)),
            Scheduler::Wsd => 1.0 - (p - WSD_STABLE).max(0.0) / (1.0 - WSD_STABLE),
            Scheduler::SlantedTriangular => {
                let height = match p < SLANTED_CUT {
                    true => p / SLANTED_CUT,
                    false => 1.0 - (p - SLANTED_CUT) / (1.0 - SLANTED_CUT),
                };
                (1.0 + height * (SLANTED_RATIO - 1.0)) / SLANTED_RATIO
            }
        }
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Horizon {
    /// This many optimiser steps.
    Steps(u64),
    /// This many seconds.
    Seconds(f64),
}

impl Horizon {
    /// The share of the run that is done, in [0, 1], after `step` steps and `elapsed` seconds.
    pub fn progress(self, step: u64, elapsed: f64) -> f64 {
        let share = match self {
            Horizon::Steps(all) => step as f64 / all.max(1) as f64,
            Horizon::Seconds(all) => elapsed / all,
        };
        share.clamp(0.0, 1.0)
    }

    /// Whether the run is over.
    pub fn is_over(self, step: u64, elapsed: f64) -> bool {
        match self {
            Horizon::Steps(all) => step >= all,
            Horizon::Seconds(all) => elapsed >= all,
        }
    }
}

/// A complete schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub scheduler: Scheduler,
    /// The highest learning rate.
    pub peak: f64,
    /// The learning rate at the end.
    pub min: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// With a budget: the share of it that is warm-up, on top of `warmup_steps`.
    pub warmup_share: f64,
    /// The length of the run.
    pub horizon: Horizon,
}

impl Schedule {
    /// The learning rate of step `step` (the first is 0), which starts `elapsed` seconds into the run.
    pub fn learning_rate(&self, step: u64, elapsed: f64) -> f64 {
        let warm = match step < self.warmup_steps {
            true => (step + 1) as f64 / (self.warmup_steps + 1) as f64,
            false => 1.0,
        };
        let span = self.peak - self.min;
        match self.horizon {
            Horizon::Steps(_) if step < self.warmup_steps => self.peak * warm,
            Horizon::Steps(all) => {
                let left = all.saturating_sub(self.warmup_steps).max(1);
                let p = (step - self.warmup_steps) as f64 / left as f64;
                self.min + span * self.scheduler.factor(p)
            }
            Horizon::Seconds(all) => {
                let p = elapsed / all;
                let rise = if p < self.warmup_share { p / self.warmup_share } else { 1.0 };
                warm * rise * (self.min + span * self.scheduler.factor(p))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(scheduler: Scheduler) -> Schedule {
        Schedule {
            scheduler,
            peak: 1e-3,
            min: 1e-4,
            warmup_steps: 100,
            warmup_share: 0.0,
            horizon: Horizon::Steps(2100),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn nanogpt_cosine() {
        let s = schedule(Scheduler::Cosine);
        assert!(near(s.learning_rate(0, 0.0), 1e-3 / 101.0));
        assert!(near(s.learning_rate(99, 0.0), 1e-3 * 100.0 / 101.0));
        assert!(near(s.learning_rate(100, 0.0), 1e-3));
        assert!(near(s.learning_rate(1100, 0.0), 5.5e-4));
        assert!(near(s.learning_rate(2100, 0.0), 1e-4));
        assert!(near(s.learning_rate(9999, 0.0), 1e-4));
    }

    #[test]
    fn other_shapes() {
        assert!(near(schedule(Scheduler::Linear).learning_rate(600, 0.0), 1e-3 - 0.25 * 9e-4));
        assert!(near(schedule(Scheduler::Constant).learning_rate(2000, 0.0), 1e-3));
        let wsd = schedule(Scheduler::Wsd);
        assert!(near(wsd.learning_rate(1699, 0.0), 1e-3));
        assert!(near(wsd.learning_rate(1900, 0.0), 5.5e-4));
        let slanted = Schedule {
            warmup_steps: 0,
            warmup_share: 0.0,
            min: 0.0,
            peak: 1.0,
            horizon: Horizon::Steps(100),
            scheduler: Scheduler::SlantedTriangular,
        };
        assert!(near(slanted.learning_rate(0, 0.0), 1.0 / 32.0));
        assert!(near(slanted.learning_rate(10, 0.0), 1.0));
        assert!(near(slanted.learning_rate(100, 0.0), 1.0 / 32.0));
    }

    #[test]
    fn a_budget_follows_the_clock_and_warms_up_by_steps() {
        let s = Schedule { horizon: Horizon::Seconds(60.0), ..schedule(Scheduler::Linear) };
        assert!(near(s.learning_rate(500, 30.0), 5.5e-4));
        assert!(near(s.learning_rate(0, 0.0), 1e-3 / 101.0));
        assert!(s.horizon.is_over(3, 60.0) && !s.horizon.is_over(3, 59.9));
        assert_eq!(s.horizon.progress(0, 15.0), 0.25);
    }
}
