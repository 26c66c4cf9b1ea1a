//! Figures of merit: pure functions from predictions to numbers.
//!
//! For class c with true positives `tp`, false positives `fp` and false negatives `fn`,
//! `precision = tp/(tp+fp)`, `recall = tp/(tp+fn)`, `F1 = 2 tp/(2 tp+fp+fn)`; each is 0 where its
//! denominator is. Macro F1 is the plain mean over the classes that occur (in the gold labels or in the
//! predictions), micro F1 pools the counts; with one label a row it equals accuracy.
//! For language models, with `ℓ` the mean loss in nats a token: `perplexity = exp ℓ`, and
//! `bits per byte = total loss / (ln 2 · bytes of source text)`, which compares across tokenisers.

use serde::{Deserialize, Serialize};

/// Counts of (gold, predicted) pairs, `[C, C]`, gold in the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// One class of a report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// tp / (tp + fp).
    pub precision: f64,
    /// tp / (tp + fn).
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Rows of this class in the gold labels.
    pub support: u64,
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl Confusion {
    /// An empty table for `classes` classes.
    pub fn new(classes: usize) -> Confusion {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one row. Indices beyond the classes are a bug of the caller and panic.
    pub fn add(&mut self, gold: usize, predicted: usize) {
        assert!(gold < self.classes && predicted < self.classes, "a class beyond {}", self.classes);
        self.counts[gold * self.classes + predicted] += 1;
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many rows of class `gold` were predicted as `predicted`.
    pub fn count(&self, gold: usize, predicted: usize) -> u64 {
        self.counts[gold * self.classes + predicted]
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn correct(&self) -> u64 {
        (0..self.classes).map(|c| self.count(c, c)).sum()
    }

    fn support(&self, c: usize) -> u64 {
        (0..self.classes).map(|p| self.count(c, p)).sum()
    }

    fn predicted(&self, c: usize) -> u64 {
        (0..self.classes).map(|g| self.count(g, c)).sum()
    }

    /// The share of rows on the diagonal.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct(), self.total())
    }

    /// Precision, recall, F1 and support of class `c`.
    pub fn class(&self, c: usize) -> ClassScore {
        let (tp, support, predicted) = (self.count(c, c), self.support(c), self.predicted(c));
        ClassScore {
            precision: ratio(tp, predicted),
            recall: ratio(tp, support),
            f1: ratio(2 * tp, support + predicted),
            support,
        }
    }

    /// The mean F1 of the classes that occur.
    pub fn macro_f1(&self) -> f64 {
        let there = |&c: &usize| self.support(c) + self.predicted(c) > 0;
        let (sum, n) = (0..self.classes)
            .filter(there)
            .fold((0.0, 0u32), |(sum, n), c| (sum + self.class(c).f1, n + 1));
        if n == 0 { 0.0 } else { sum / n as f64 }
    }

    /// F1 of the pooled counts.
    pub fn micro_f1(&self) -> f64 {
        // Each wrong row is one false positive and one false negative.
        let (tp, wrong) = (self.correct(), self.total() - self.correct());
        ratio(2 * tp, 2 * tp + 2 * wrong)
    }
}

/// exp of the mean loss in nats a token.
pub fn perplexity(mean_loss: f64) -> f64 {
    libm::exp(mean_loss)
}

/// Bits that the model needs for one byte of source text, from the summed loss in nats.
pub fn bits_per_byte(total_loss: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| total_loss / (std::f64::consts::LN_2 * bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_by_hand() {
        // gold      0 0 0 1 1 2
        // predicted 0 0 1 1 2 2
        let mut table = Confusion::new(4);
        for (gold, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)] {
            table.add(gold, predicted);
        }
        assert_eq!(table.total(), 6);
        assert_eq!(table.accuracy(), 4.0 / 6.0);
        assert_eq!(table.micro_f1(), table.accuracy());
        let (a, b, c) = (table.class(0), table.class(1), table.class(2));
        assert_eq!((a.precision, a.recall, a.f1, a.support), (1.0, 2.0 / 3.0, 0.8, 3));
        assert_eq!((b.precision, b.recall, b.f1, b.support), (0.5, 0.5, 0.5, 2));
        assert_eq!((c.precision, c.recall, c.f1, c.support), (0.5, 1.0, 2.0 / 3.0, 1));
        // Class 3 never occurs and does not drag the mean down.
        assert!((table.macro_f1() - (0.8 + 0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-15);
        assert_eq!(table.class(3).f1, 0.0);
    }

    #[test]
    fn empty_and_one_sided_tables() {
        assert_eq!(Confusion::new(0).accuracy(), 0.0);
        assert_eq!(Confusion::new(3).macro_f1(), 0.0);
        let mut table = Confusion::new(2);
        table.add(0, 1);
        assert_eq!((table.accuracy(), table.macro_f1(), table.micro_f1()), (0.0, 0.0, 0.0));
    }

    #[test]
    fn language_model_figures() {
        assert!((perplexity(2.0) - 7.38905609893065).abs() < 1e-12);
        // 8 tokens of ln 2 nats each over 4 bytes: 2 bits a byte.
        assert_eq!(bits_per_byte(8.0 * std::f64::consts::LN_2, 4), Some(2.0));
        assert_eq!(bits_per_byte(1.0, 0), None);
    }
}
