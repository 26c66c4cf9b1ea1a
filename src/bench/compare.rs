//! Faster or slower than an earlier run?
//!
//! # The idea
//!
//! Two runs of one program differ by some percent because the machine does: its clock, its
//! neighbours. So each sample is followed by a *yardstick*, a piece of fixed work of the kind that
//! binds the kernel (multiply-adds in registers, or a copy within the level of memory that it reads), and
//! both times are kept. What is compared is time over yardstick, sample by sample, so that whatever
//! slows both does not count. The file of the earlier run holds all of that.
//!
//! The ratio of the medians is drawn again 1,000 times from the samples (Efron's bootstrap, 1979, here in
//! blocks of neighbours, which are alike), and the verdict follows from where 98 % of the draws lie:
//!
//! | verdict | all within |
//! |---|---|
//! | `SAME` | ± 5 % |
//! | `FAST` | below − 5 % |
//! | `SLOW` | above + 5 % |
//! | `UNSURE` | none of these |
//!
//! A row that comes out `SLOW` is measured a second time at the end; only one that is `SLOW` twice is a
//! regression.

use std::fmt;
use std::path::Path;

use super::measure::{Row, median, quantile};
use crate::error::{Error, Result};

/// A change of less than this is none.
pub const MARGIN: f64 = 0.05;

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the margin.
    Same,
    /// Takes less time.
    Fast,
    /// Takes more time.
    Slow,
    /// The samples are too few or too far apart.
    Unsure,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "SAME",
            Verdict::Fast => "FAST",
            Verdict::Slow => "SLOW",
            Verdict::Unsure => "UNSURE",
        })
    }
}

/// New time over old time, and what to make of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The ratio of the medians.
    pub ratio: f64,
    /// Below this lie 1 % of the draws.
    pub low: f64,
    /// Above this lie 1 % of the draws.
    pub high: f64,
    /// The conclusion.
    pub verdict: Verdict,
}

/// Compares two rows of one key.
pub fn compare(new: &Row, old: &Row) -> Comparison {
    let (new_times, old_times) = normalised(new, old);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let draws: Vec<f64> = (0..1000)
        .map(|_| {
            let (new, old) = (random.resample(&new_times), random.resample(&old_times));
            median(&new) / median(&old)
        })
        .collect();
    let (low, high) = (quantile(&draws, 0.01), quantile(&draws, 0.99));
    let verdict = if new_times.len() < 5 || old_times.len() < 5 {
        Verdict::Unsure
    } else if low > 1.0 + MARGIN {
        Verdict::Slow
    } else if high < 1.0 - MARGIN {
        Verdict::Fast
    } else if low > 1.0 - MARGIN && high < 1.0 + MARGIN {
        Verdict::Same
    } else {
        Verdict::Unsure
    };
    Comparison { ratio: median(&new_times) / median(&old_times), low, high, verdict }
}

/// Times over yardsticks, where both rows have the same kind of yardstick; else the times.
fn normalised(new: &Row, old: &Row) -> (Vec<f64>, Vec<f64>) {
    let complete = |row: &Row| row.yardstick.len() == row.samples.len();
    let over = |row: &Row| row.samples.iter().zip(&row.yardstick).map(|(t, y)| t / y).collect();
    if new.bound == old.bound && complete(new) && complete(old) {
        (over(new), over(old))
    } else {
        (new.samples.clone(), old.samples.clone())
    }
}

/// Numbers for the bootstrap (xorshift, Marsaglia 2003): the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// As many values as there are, in blocks of neighbours.
    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        let n = values.len();
        let block = (n / 12).max(1);
        let mut drawn = Vec::with_capacity(n + block);
        while drawn.len() < n {
            let start = self.below(n);
            drawn.extend((0..block).map(|i| values[(start + i) % n]));
        }
        drawn.truncate(n);
        drawn
    }
}

/// The rows of a file that `--json` wrote; roofs are passed over.
///
/// # Errors
/// [`Error::Io`] and [`Error::Data`] when it cannot be read or has no rows with samples.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |what: String| {
            Error::Data(format!(
                "{}, line {}: {what}; expected what `handloom bench --json` prints",
                path.display(),
                at + 1
            ))
        };
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|e| bad(format!("not JSON ({e})")))?;
        if value["op"].as_str().is_some_and(|op| op.starts_with("roof_")) {
            continue;
        }
        let row: Row = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        let timed = |times: &[f64]| times.iter().all(|&t| t.is_finite() && t > 0.0);
        if row.samples.is_empty() || !timed(&row.samples) || !timed(&row.yardstick) {
            return Err(bad(format!("{} has no times in `samples`", row.name())));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Error::Data(format!(
            "{}: there is no row in it; expected what `handloom bench --json` prints",
            path.display()
        )));
    }
    Ok(rows)
}

/// Refuses rows of another machine, whose times mean nothing here.
///
/// # Errors
/// [`Error::Data`] that names both.
pub fn same_machine(path: &Path, rows: &[Row], cpu: &str, isa: &str) -> Result<()> {
    match rows.iter().find(|row| row.cpu != cpu || row.isa != isa) {
        Some(row) => Err(Error::Data(format!(
            "{}: measured on {} with {}, this is {cpu} with {isa}; times of two machines do not \
             compare",
            path.display(),
            row.cpu,
            row.isa
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: Vec<f64>, yardstick: Vec<f64>) -> Row {
        Row {
            op: "gemm_nn".into(),
            shape: "64x64x64".into(),
            dtype: "f32".into(),
            threads: 1,
            median_s: median(&samples),
            p10_s: 0.0,
            p90_s: 0.0,
            gflops: None,
            gbs: None,
            tokens_per_s: None,
            roof_percent: None,
            bound: "FMA".into(),
            intensity: None,
            footprint: 1.0,
            max_error: None,
            isa: "portable".into(),
            cpu: "a loom".into(),
            samples,
            yardstick,
        }
    }

    /// Times around `middle` with some noise, on a machine that slows down by `drift` on the way.
    fn times(middle: f64, noise: f64, drift: f64) -> Row {
        let mut random = Random(77);
        let slow = |i: usize| 1.0 + drift * i as f64 / 60.0;
        let mut wobble = || 1.0 + noise * (random.below(1000) as f64 / 500.0 - 1.0);
        let samples = (0..60).map(|i| middle * slow(i) * wobble()).collect();
        row(samples, (0..60).map(|i| 0.1 * slow(i)).collect())
    }

    #[test]
    fn verdicts() {
        let old = times(1.0, 0.02, 0.0);
        let verdict = |new: &Row| compare(new, &old).verdict;
        assert_eq!(verdict(&times(1.01, 0.02, 0.0)), Verdict::Same);
        assert_eq!(verdict(&times(0.8, 0.02, 0.0)), Verdict::Fast);
        assert_eq!(verdict(&times(1.2, 0.02, 0.0)), Verdict::Slow);
        assert_eq!(verdict(&times(1.06, 0.6, 0.0)), Verdict::Unsure);
        // Half as fast a machine is no slower a kernel.
        assert_eq!(verdict(&times(1.01, 0.02, 1.0)), Verdict::Same);
        assert_eq!(verdict(&row(vec![2.0; 3], vec![1.0; 3])), Verdict::Unsure);
        let ratio = compare(&times(1.2, 0.0, 0.0), &times(1.0, 0.0, 0.0)).ratio;
        assert!((ratio - 1.2).abs() < 1e-12);
    }

    #[test]
    fn a_file_comes_back_and_a_bad_one_is_refused() {
        let path = std::env::temp_dir().join(format!("handloom-compare-{}", std::process::id()));
        let rows = [times(1.0, 0.1, 0.0), times(2.0, 0.1, 0.0)];
        let lines: Vec<String> = rows.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        let roof = r#"{"op":"roof_fma","shape":"avx2"}"#;
        std::fs::write(&path, format!("{roof}\n{}\n", lines.join("\n"))).unwrap();
        assert_eq!(read(&path).unwrap(), rows);
        assert!(same_machine(&path, &rows, "a loom", "portable").is_ok());
        let error = same_machine(&path, &rows, "a loom", "avx2").unwrap_err().to_string();
        assert!(error.contains("a loom with portable, this is a loom with avx2"), "{error}");
        for (content, word) in [
            ("", "no row"),
            ("{", "line 1: not JSON"),
            (r#"{"op":"x"}"#, "missing field"),
            (&lines[0].replace("\"samples\":[", "\"samples\":[0.0,"), "no times"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("cannot read"));
    }
}
