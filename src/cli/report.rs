//! Evaluations for people: figures, tables, remarks.

use super::format::{self, pad, table};
use crate::train::report::{Cell, Report};

/// Figures, one a line.
pub fn figures(figures: &[(String, f64)]) -> String {
    let width = figures.iter().map(|f| f.0.len()).max().unwrap_or(0);
    let lines =
        figures.iter().map(|(name, value)| format!("{}  {value:.4}", pad(name, width, false)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Figures, tables and remarks with an empty line between them.
pub fn report(report: &Report) -> String {
    let mut parts = vec![figures(&report.figures)];
    for each in &report.tables {
        // A wide table is one of classes by classes: narrower columns.
        let widest = if each.head.len() > 6 { 12 } else { 30 };
        let head: Vec<String> = each
            .head
            .iter()
            .enumerate()
            .map(|(i, name)| if i == 0 { name.clone() } else { format::cut(name, widest) })
            .collect();
        let cell = |cell: &Cell| match cell {
            Cell::Count(n) => format::grouped(*n),
            Cell::Number(x) => format!("{x:.4}"),
            Cell::Text(text) => format::cut(text, widest),
        };
        let rows: Vec<Vec<String>> =
            each.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        parts.push(table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows, 1));
    }
    parts.extend(report.remarks.iter().cloned());
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use crate::train::metrics::Confusion;
    use crate::train::tasks::classify::ClassificationReport;

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
        let text = super::report(&report.report());
        assert!(text.starts_with("loss      0.5000\naccuracy  0.6000\n"), "{text}");
        assert!(text.contains("差评      1.0000  0.6667  0.8000     3"), "{text}");
        assert!(text.contains("gold \\ predicted"), "{text}");
        assert!(text.contains("1 rows have a label"), "{text}");
    }
}
