//! Watching for spikes: a loss or a gradient norm far above what it was of late.
//!
//! A run that diverges says so in its gradient norm some steps before its loss, and in its loss some hundred
//! steps before a person looks. Each figure is compared with the last 128 by its z-score,
//!
//! ```text
//! z = (x − mean) / deviation        of the window before x
//! ```
//!
//! and a warning is due above 6, once in a window. The window is not part of a checkpoint: it decides nothing,
//! and fills again after a resume.

/// Steps that a figure is compared with.
const WINDOW: usize = 128;
/// The z-score above which a figure is a spike.
const SPIKE: f64 = 6.0;

/// The last values of one figure.
pub(super) struct Window {
    values: [f64; WINDOW],
    seen: usize,
    /// `seen` at the last warning.
    warned: Option<usize>,
}

impl Window {
    pub(super) const fn new() -> Window {
        Window { values: [0.0; WINDOW], seen: 0, warned: None }
    }

    /// Adds a value; its z-score and the mean before it, where that is worth a warning.
    pub(super) fn add(&mut self, x: f64) -> Option<(f64, f64)> {
        let n = WINDOW as f64;
        let mean = self.values.iter().sum::<f64>() / n;
        let variance = self.values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let z = (x - mean) / variance.sqrt();
        let full = self.seen >= WINDOW;
        let quiet = self.warned.is_none_or(|at| self.seen - at >= WINDOW);
        self.values[self.seen % WINDOW] = x;
        self.seen += 1;
        // Where all values are alike, any other is infinitely far; a tenth of the mean must be passed too.
        let spike = full && quiet && z > SPIKE && x - mean > 0.1 * mean.abs();
        spike.then(|| {
            self.warned = Some(self.seen);
            (z, mean)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_told_once_in_a_window() {
        let mut window = Window::new();
        // No warning before the window is full, and none for ordinary noise or a falling loss.
        for step in 0..300 {
            let noise = f64::from(step * 7 % 13) / 13.0 - 0.5;
            assert_eq!(window.add(3.0 - f64::from(step) * 0.001 + noise), None, "{step}");
        }
        let (z, mean) = window.add(9.0).unwrap();
        assert!(z > 20.0 && (2.6..2.9).contains(&mean), "{z} {mean}");
        for _ in 0..WINDOW {
            assert_eq!(window.add(5.0), None);
        }
        let (_, mean) = window.add(9.0).unwrap();
        assert!((mean - 5.0).abs() < 1e-9);
    }

    #[test]
    fn values_that_are_all_alike_are_no_trap() {
        let mut window = Window::new();
        for _ in 0..WINDOW {
            assert_eq!(window.add(0.25), None);
        }
        assert_eq!(window.add(0.26), None, "far by its z-score, but not by itself");
        assert!(window.add(1.0).is_some());
    }
}
