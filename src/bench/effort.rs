//! How much time a measurement may take.

/// How long to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Seconds of samples a row.
    pub seconds: f64,
    /// Samples at least, however long they take.
    pub samples: usize,
    /// How often each roof is measured.
    pub repeats: usize,
    /// Whether results are compared with their references first.
    pub checked: bool,
}

impl Effort {
    /// What the bench takes: half a second a row.
    pub fn full() -> Effort {
        Effort { seconds: 0.5, samples: 7, repeats: 5, checked: true }
    }

    /// `--quick`.
    pub fn quick() -> Effort {
        Effort { seconds: 0.05, samples: 5, repeats: 3, checked: true }
    }

    /// Just enough to run every line once: for tests.
    pub fn tiny() -> Effort {
        Effort { seconds: 0.0, samples: 3, repeats: 1, checked: true }
    }
}
