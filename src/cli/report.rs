//! Evaluations for people: figures, classes, confusion.

use super::format::{self, pad, table};
use crate::train::observer::Figures;
use crate::train::tasks::classify::ClassificationReport;

/// Figures, one a line.
pub fn figures(figures: &Figures) -> String {
    let width = figures.0.iter().map(|f| f.0.len()).max().unwrap_or(0);
    let lines =
        figures.0.iter().map(|(name, value)| format!("{}  {value:.4}", pad(name, width, false)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Classes beyond which the confusion matrix says nothing to the eye.
const MATRIX: usize = 12;

/// Figures, the table of classes, the confusion matrix (gold in the rows).
pub fn classification(report: &ClassificationReport) -> String {
    let mut parts = vec![figures(&report.figures("loss"))];
    let classes: Vec<Vec<String>> = report
        .labels
        .iter()
        .enumerate()
        .map(|(c, label)| {
            let score = report.confusion.class(c);
            let number = |x: f64| format!("{x:.4}");
            let figures = [number(score.precision), number(score.recall), number(score.f1)];
            std::iter::once(format::cut(label, 30))
                .chain(figures)
                .chain([format::grouped(score.support)])
                .collect()
        })
        .collect();
    parts.push(table(&["class", "precision", "recall", "f1", "rows"], &classes, 1));
    let n = report.labels.len();
    if n <= MATRIX {
        let names: Vec<String> = report.labels.iter().map(|label| format::cut(label, 12)).collect();
        let mut head = vec!["gold \\ predicted"];
        head.extend(names.iter().map(String::as_str));
        let rows: Vec<Vec<String>> = (0..n)
            .map(|gold| {
                let counts = (0..n).map(|p| format::grouped(report.confusion.count(gold, p)));
                std::iter::once(names[gold].clone()).chain(counts).collect()
            })
            .collect();
        parts.push(table(&head, &rows, 1));
    }
    if report.unseen > 0 {
        parts.push(format!(
            "{} rows have a label that the model does not know; they count as wrong",
            format::grouped(report.unseen)
        ));
    }
    if report.truncated > 0 {
        parts.push(format!(
            "{} texts were cut to the longest input",
            format::grouped(report.truncated)
        ));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::Confusion;

    #[test]
    fn a_report_has_figures_classes_and_confusion() {
        let mut confusion = Confusion::new(2);
        for (gold, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1)] {
            confusion.add(gold, predicted);
        }
        let report = ClassificationReport {
            loss: 0.5,
            labels: vec!["差评".into(), "好评".into()],
            confusion,
            unseen: 1,
            truncated: 0,
        };
        let text = classification(&report);
        assert!(text.starts_with("loss      0.5000\naccuracy  0.6000\n"), "{text}");
        assert!(text.contains("差评      1.0000  0.6667  0.8000     3"), "{text}");
        assert!(text.contains("1 rows have a label"), "{text}");
    }
}
