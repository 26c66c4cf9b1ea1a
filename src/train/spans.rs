//! Scores of spans: a span counts when its type and both of its ends are right.
//!
//! The figures are those of the package `seqeval` in its default mode (the rules of `conlleval`), formula by
//! formula, so that they agree to the last digit: a span begins at `B-`, and at an `I-` that no span of its type
//! reaches; `P = tp / predicted`, `R = tp / gold`, `F1 = 2PR / (P + R)`, 0 where a denominator is 0; micro
//! figures pool the counts, macro figures are plain means over all types that occur in either.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text::conll::spans;

/// How often a type was found, predicted and there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanCounts {
    /// Spans that are right.
    pub correct: u64,
    /// Spans that were predicted.
    pub predicted: u64,
    /// Spans that are there.
    pub gold: u64,
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl SpanCounts {
    /// The share of predicted spans that is right.
    pub fn precision(&self) -> f64 {
        ratio(self.correct, self.predicted)
    }

    /// The share of spans that was found.
    pub fn recall(&self) -> f64 {
        ratio(self.correct, self.gold)
    }

    /// The harmonic mean of the two.
    pub fn f1(&self) -> f64 {
        let (p, r) = (self.precision(), self.recall());
        if p + r == 0.0 { 0.0 } else { 2.0 * p * r / (p + r) }
    }
}

/// Spans of many sentences, type by type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanScores {
    /// The counts of each type, in the order of the alphabet.
    pub types: BTreeMap<String, SpanCounts>,
}

impl SpanScores {
    /// Counts one sentence. Spans of the types in `without` do not count.
    pub fn add<A: AsRef<str>, B: AsRef<str>>(&mut self, gold: &[A], found: &[B], without: &[&str]) {
        let counted = |all: Vec<(String, usize, usize)>| -> Vec<(String, usize, usize)> {
            all.into_iter().filter(|span| !without.contains(&span.0.as_str())).collect()
        };
        let (gold, found) = (counted(spans(gold)), counted(spans(found)));
        for span in &gold {
            self.of(&span.0).gold += 1;
        }
        for span in &found {
            let counts = self.of(&span.0);
            counts.predicted += 1;
            counts.correct += u64::from(gold.contains(span));
        }
    }

    fn of(&mut self, kind: &str) -> &mut SpanCounts {
        if !self.types.contains_key(kind) {
            self.types.insert(kind.to_owned(), SpanCounts::default());
        }
        self.types.get_mut(kind).expect("just put there")
    }

    /// All types together.
    pub fn micro(&self) -> SpanCounts {
        self.types.values().fold(SpanCounts::default(), |sum, one| SpanCounts {
            correct: sum.correct + one.correct,
            predicted: sum.predicted + one.predicted,
            gold: sum.gold + one.gold,
        })
    }

    /// The mean of a figure over the types.
    pub fn mean(&self, figure: impl Fn(&SpanCounts) -> f64) -> f64 {
        let n = self.types.len();
        if n == 0 { 0.0 } else { self.types.values().map(figure).sum::<f64>() / n as f64 }
    }

    /// The mean of the types' F1.
    pub fn macro_f1(&self) -> f64 {
        self.mean(SpanCounts::f1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases, legal and illegal, that `tests/fixtures/seqeval/make.py` had the package score.
    #[test]
    fn the_figures_are_those_of_seqeval_to_the_last_digit() {
        let text = include_str!("../../tests/fixtures/seqeval/cases.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert!(cases.len() > 40);
        for case in &cases {
            let rows = |key: &str| -> Vec<Vec<String>> {
                serde_json::from_value(case[key].clone()).unwrap()
            };
            let mut scores = SpanScores::default();
            for (gold, found) in rows("gold").iter().zip(rows("found")) {
                scores.add(gold, &found, &[]);
            }
            let all = scores.micro();
            let ours = [all.precision(), all.recall(), all.f1()];
            let theirs = ["precision", "recall", "f1"].map(|key| case[key].as_f64().unwrap());
            assert_eq!(ours, theirs, "{case}");
            let mean = case["macro_f1"].as_f64().unwrap();
            assert!((scores.macro_f1() - mean).abs() <= f64::EPSILON, "{case}");
            let types = case["types"].as_object().unwrap();
            assert_eq!(types.len(), scores.types.len(), "{case}");
            for (name, counts) in &scores.types {
                let theirs = &types[name];
                let ours = [counts.precision(), counts.recall(), counts.f1()];
                let keys = ["precision", "recall", "f1-score"];
                assert_eq!(ours, keys.map(|key| theirs[key].as_f64().unwrap()), "{name}: {case}");
                assert_eq!(counts.gold, theirs["support"].as_u64().unwrap());
            }
        }
    }

    #[test]
    fn a_span_needs_type_and_both_ends() {
        let mut scores = SpanScores::default();
        let gold = ["B-A", "I-A", "O", "B-B", "B-V"];
        scores.add(&gold, &["B-A", "O", "O", "I-B", "B-V"], &["V"]);
        assert_eq!(scores.types["A"], SpanCounts { correct: 0, predicted: 1, gold: 1 });
        assert_eq!(scores.types["B"], SpanCounts { correct: 1, predicted: 1, gold: 1 });
        assert_eq!((scores.micro().f1(), scores.macro_f1()), (0.5, 0.5));
        assert_eq!(SpanScores::default().micro().f1(), 0.0);
    }
}
