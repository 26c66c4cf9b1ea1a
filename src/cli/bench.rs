//! `handloom bench`: the machine's roofs, every kernel beside them, ladders, comparisons.

use std::path::{Path, PathBuf};

use super::format::{pad, short};
use super::terminal::{self, To, bold, dim, green, note, out, red};
use super::values::count;
use super::{machine, roofline};
use crate::bench::compare::{self, Comparison, Verdict};
use crate::bench::effort::Effort;
use crate::bench::ladder;
use crate::bench::measure::Row;
use crate::bench::roof::{Kind, NOISE, Roofs};
use crate::bench::{Case, cases, measure};
use crate::cpu::simd::{available_levels, level};
use crate::train::control::in_pool;
use crate::{Error, Result};

/// Measure the machine's roofs and every kernel against them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom bench                                  everything, some two minutes
  handloom bench --quick                          small shapes only, seconds
  handloom bench --only gemm,attention --threads 1
  handloom bench --only layernorm,train_step --svg roofline.svg
  handloom bench --ladder gemm                    from three loops to the kernel, rung by rung
  handloom bench --json > before.jsonl            then change something, and
  handloom bench --compare before.jsonl           exits with 4 where something became slower

Groups: gemm, rowops, optim, attention, rnn, train, decode. Each result is compared with an f64
reference before it is timed. HANDLOOM_ISA=avx2 measures another instruction set.")]
pub struct Bench {
    /// Groups, or operations by the beginning of their name
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these shapes, as rows write them: 512x512x512, char-cpu
    #[arg(long, value_name = "SHAPES", value_delimiter = ',')]
    shapes: Vec<String>,
    /// Only rows that compute on these: f32, high (where there is AMX), bf16
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    dtypes: Vec<String>,
    /// Small shapes and few samples
    #[arg(long)]
    quick: bool,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
    /// One operation from its formula to its kernel: gemm, attention, layer_norm, softmax, lstm
    #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "shapes", "dtypes", "compare", "svg", "json", "unchecked"])]
    ladder: Option<String>,
    /// Compare with the rows of an earlier --json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Draw the roofs and a point for each row
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Leave the roofs out: times alone, sooner
    #[arg(long, conflicts_with = "svg")]
    no_roofs: bool,
    /// Do not compare results with their references: for profilers and memory figures
    #[arg(long)]
    unchecked: bool,
    /// Print one JSON object a row
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        // What is wrong with the flags is said before two minutes of measuring.
        let selected = select(&self.only, &self.shapes, &self.dtypes, self.quick)?;
        if let Some(name) = &self.ladder {
            ladder::check(name)?;
        }
        let folder = self.svg.as_deref().and_then(Path::parent).filter(|f| *f != Path::new(""));
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let missing = std::io::ErrorKind::NotFound.into();
            return Err(Error::io(folder, "write into the folder", missing));
        }
        if !machine::RELEASE {
            terminal::warning("this is a debug build; its times mean nothing (use --release)");
        }
        in_pool(self.threads.unwrap_or(0), || self.measure(&selected))?
    }

    fn measure(&self, selected: &[Case]) -> Result<()> {
        let threads = rayon::current_num_threads();
        let earlier = self.compare.as_deref().map(|path| Earlier::read(path, selected, threads));
        let earlier = earlier.transpose()?;
        let effort = if self.quick { Effort::quick() } else { Effort::full() };
        let effort = Effort { checked: !self.unchecked, ..effort };
        let roofs = self.roofs(effort, threads);
        if let Some(name) = &self.ladder {
            return climb(name, self.quick, &roofs, effort, threads);
        }
        if !self.json {
            out("");
            out(dim(To::Stdout, head(earlier.is_some())));
        }
        let one = |case: &Case| -> Result<(Row, Option<Comparison>)> {
            let row = Row { cpu: machine::cpu(), ..measure(case, &roofs, effort)? };
            let comparison = earlier.as_ref().and_then(|earlier| earlier.compare(&row));
            Ok((row, comparison))
        };
        let mut all = Vec::new();
        for case in selected {
            let (row, comparison) = one(case)?;
            self.print(&row, comparison.as_ref());
            all.push((row, comparison));
        }
        for (case, (row, comparison)) in selected.iter().zip(&mut all) {
            // What came out slower is looked at again. Slow once and not slow once: nobody knows.
            if let Some(Comparison { verdict: verdict @ Verdict::Slow, .. }) = comparison {
                let (second, again) = one(case)?;
                if again.is_some_and(|again| again.verdict != Verdict::Slow) {
                    *verdict = Verdict::Unsure;
                }
                *row = second;
                self.print(row, comparison.as_ref());
            }
        }
        if let Some(path) = &self.svg {
            let rows: Vec<Row> = all.iter().map(|(row, _)| row.clone()).collect();
            let drawing = roofline::draw(&machine::cpu(), &roofs, &rows);
            std::fs::write(path, drawing).map_err(|e| Error::io(path, "write", e))?;
            note(format_args!("drawn: {}", path.display()));
        }
        earlier.map_or(Ok(()), |earlier| earlier.conclude(&all))
    }

    /// Measures the roofs and prints them.
    fn roofs(&self, effort: Effort, threads: usize) -> Roofs {
        if self.no_roofs {
            return Roofs::unmeasured();
        }
        note(dim(To::Stderr, "measuring the roofs of this machine …"));
        let roofs = Roofs::measure(effort);
        if self.json {
            roofs.list.iter().for_each(|roof| out(roof.json()));
        } else {
            print_roofs(&roofs, threads);
        }
        if !roofs.steady() {
            note(format_args!(
                "roofs vary by {:.0} % between measurements, more than {:.0} %: the machine is not quiet, so \
                 nothing is said in percent of them",
                100.0 * roofs.spread,
                100.0 * NOISE
            ));
        }
        roofs
    }

    fn print(&self, row: &Row, comparison: Option<&Comparison>) {
        if self.json {
            let mut value = serde_json::to_value(row).expect("a row is JSON");
            if let Some(c) = comparison {
                value["ratio"] = c.ratio.into();
                value["verdict"] = c.verdict.to_string().into();
            }
            return out(value);
        }
        let mut line = row_line(row);
        if self.compare.is_some() {
            line += "  ";
            line += &match comparison {
                None => dim(To::Stdout, "new"),
                Some(c) => {
                    let verdict = match c.verdict {
                        Verdict::Slow => red(To::Stdout, c.verdict),
                        Verdict::Fast => green(To::Stdout, c.verdict),
                        _ => c.verdict.to_string(),
                    };
                    format!("x{:.2} [{:.2}-{:.2}] {verdict}", c.ratio, c.low, c.high)
                }
            };
        }
        out(line);
    }
}

/// An earlier run.
struct Earlier<'a> {
    path: &'a Path,
    rows: Vec<Row>,
}

impl Earlier<'_> {
    /// Reads it, and makes sure that something can be compared.
    fn read<'a>(path: &'a Path, selected: &[Case], threads: usize) -> Result<Earlier<'a>> {
        let rows = compare::read(path)?;
        compare::same_machine(path, &rows, &machine::cpu(), level().name())?;
        let measured = |row: &Row| {
            let same =
                |c: &Case| c.op == row.op && c.shape == row.shape && c.numbers() == row.dtype;
            row.threads == threads && selected.iter().any(same)
        };
        if rows.iter().any(measured) {
            return Ok(Earlier { path, rows });
        }
        Err(Error::Data(format!(
            "{}: none of its rows is measured now: its first is {} on {} threads, this is a run on \
             {threads}",
            path.display(),
            rows[0].name(),
            rows[0].threads
        )))
    }

    fn compare(&self, row: &Row) -> Option<Comparison> {
        let old = self.rows.iter().find(|old| old.key() == row.key())?;
        Some(compare::compare(row, old))
    }

    /// How many rows came out how; an error where one became slower.
    fn conclude(&self, all: &[(Row, Option<Comparison>)]) -> Result<()> {
        let with = |verdict| {
            let fits = move |c: &&Option<Comparison>| c.is_some_and(|c| c.verdict == verdict);
            all.iter().map(|(_, comparison)| comparison).filter(fits).count()
        };
        let path = self.path.display();
        note(format_args!(
            "beside {path}: {} SAME, {} FAST, {} SLOW, {} UNSURE",
            with(Verdict::Same),
            with(Verdict::Fast),
            with(Verdict::Slow),
            with(Verdict::Unsure)
        ));
        let slow = all.iter().filter_map(|(row, comparison)| {
            let slow = comparison.filter(|c| c.verdict == Verdict::Slow)?;
            Some(format!("{} ({:.2} times the time)", row.name(), slow.ratio))
        });
        let slow: Vec<String> = slow.collect();
        if slow.is_empty() {
            return Ok(());
        }
        Err(Error::Regression(format!(
            "slower than {path} in two measurements: {}",
            slow.join(", ")
        )))
    }
}

/// What rows compute on; `high` only where there is AMX.
const NUMBERS: [&str; 3] = ["f32", "high", "bf16"];

/// The cases that `only`, `shapes` and `dtypes` name; an empty list names all.
fn select(only: &[String], shapes: &[String], dtypes: &[String], quick: bool) -> Result<Vec<Case>> {
    let fits = |case: &Case, word: &str| case.group == word || case.op.starts_with(word);
    let all = cases::all();
    for word in only {
        if word.is_empty() || !all.iter().any(|case| fits(case, word)) {
            return Err(Error::Usage(format!(
                "--only {word}: no group and no operation begins like this; groups are {}",
                cases::groups().join(", ")
            )));
        }
    }
    if let Some(shape) = shapes.iter().find(|&shape| all.iter().all(|c| c.shape != *shape)) {
        return Err(Error::Usage(format!("--shapes {shape}: no row has this shape")));
    }
    if let Some(name) = dtypes.iter().find(|name| !NUMBERS.contains(&name.as_str())) {
        return Err(Error::Usage(format!("--dtypes {name}: there are {}", NUMBERS.join(", "))));
    }
    let wanted = |case: &Case| {
        (only.is_empty() || only.iter().any(|word| fits(case, word)))
            && (shapes.is_empty() || shapes.contains(&case.shape))
            && (dtypes.is_empty() || dtypes.iter().any(|name| case.numbers() == name))
    };
    let selected: Vec<Case> =
        all.into_iter().filter(|case| wanted(case) && (case.quick || !quick)).collect();
    if selected.is_empty() {
        let quick = if quick { " among the small ones; leave --quick out" } else { "" };
        return Err(Error::Usage(format!("--only, --shapes and --dtypes leave no row{quick}")));
    }
    Ok(selected)
}

/// Columns of a row: name, shape, dtype, then numbers.
const WIDTHS: [usize; 9] = [23, 15, 5, 9, 17, 13, 7, 9, 7];

fn columns(cells: [String; 9]) -> String {
    let cells = cells.iter().zip(WIDTHS).enumerate();
    let cells: Vec<String> = cells.map(|(i, (cell, w))| pad(cell, w, i >= 3)).collect();
    cells.join(" ").trim_end().to_owned()
}

fn head(comparing: bool) -> String {
    let names =
        ["operation", "shape", "dtype", "median", "p10-p90", "speed", "tok/s", "of roof", "error"];
    let line = columns(names.map(str::to_owned));
    if comparing { line + "  time beside before" } else { line }
}

fn row_line(row: &Row) -> String {
    let unit = if row.p90_s < 1e-3 { (1e6, "us") } else { (1e3, "ms") };
    let time = |seconds: f64| three(seconds * unit.0);
    let speed = match (row.gflops, row.gbs) {
        (Some(gflops), _) => format!("{} GFLOP/s", three(gflops)),
        (None, Some(gbs)) => format!("{} GB/s", three(gbs)),
        _ => String::new(),
    };
    let share = match row.roof_percent {
        Some(percent) => format!("{percent:.0}% {}", row.bound),
        None => row.bound.clone(),
    };
    columns([
        row.op.clone(),
        row.shape.clone(),
        row.dtype.clone(),
        format!("{} {}", time(row.median_s), unit.1),
        format!("{}-{} {}", time(row.p10_s), time(row.p90_s), unit.1),
        speed,
        row.tokens_per_s.map(short).unwrap_or_default(),
        share,
        row.max_error.map(|error| format!("{error:.0e}")).unwrap_or_default(),
    ])
}

/// Three figures: `0.123`, `1.23`, `12.3`, `123`.
fn three(x: f64) -> String {
    match x {
        x if x >= 99.95 => format!("{x:.0}"),
        x if x >= 9.995 => format!("{x:.1}"),
        x if x >= 0.9995 => format!("{x:.2}"),
        x => format!("{x:.3}"),
    }
}

fn print_roofs(roofs: &Roofs, threads: usize) {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.as_deref().and_then(|text| text.split(' ').next());
    out(format_args!(
        "{}: {}, {threads} thread{}{}",
        bold(To::Stdout, machine::cpu()),
        level().name(),
        if threads == 1 { "" } else { "s" },
        load.map(|load| format!(", load average {load}")).unwrap_or_default()
    ));
    let counts: Vec<usize> = if threads == 1 { vec![1] } else { vec![1, threads] };
    let line = |name: &str, unit: &str, cells: &dyn Fn(usize) -> Option<String>| {
        let cells: Vec<String> = (counts.iter())
            .filter_map(|&n| {
                Some(format!("{}, {n} thread{}", cells(n)?, if n == 1 { "" } else { "s" }))
            })
            .collect();
        if !cells.is_empty() {
            out(format_args!("  {name:<22} {} {}", cells.join("   "), dim(To::Stdout, unit)));
        }
    };
    let rate = |kind, place: &str, n| roofs.find(kind, place, n).map(|roof| three(roof.rate / 1e9));
    for isa in available_levels() {
        let used = if isa == level() { " (used)" } else { "" };
        line(&format!("f32 FMA {}{used}", isa.name()), "GFLOP/s", &|n| {
            rate(Kind::Fma, isa.name(), n)
        });
    }
    for place in ["avx512", "amx"] {
        line(&format!("bf16 dot {place}"), "GFLOP/s", &|n| rate(Kind::DotBf16, place, n));
    }
    for place in roofs.places() {
        line(&format!("{place} read / copy / write"), "GB/s", &|n| {
            let kinds = [Kind::Read, Kind::Copy, Kind::Write];
            let rates: Option<Vec<String>> =
                kinds.iter().map(|&kind| rate(kind, place, n)).collect();
            Some(rates?.join(" / "))
        });
    }
}

/// Prints a ladder as its rungs are done.
fn climb(name: &str, quick: bool, roofs: &Roofs, effort: Effort, threads: usize) -> Result<()> {
    let ladder = ladder::ladder(name, quick)?;
    let (scale, unit) = if ladder.computes() { (1e9, "GFLOP/s") } else { (1e9, "GB/s") };
    out("");
    out(bold(To::Stdout, &ladder.problem));
    let line = |cells: [&str; 7]| {
        let widths = [29, 9, 7, 8, 8, 7, 0];
        let cells = cells.iter().zip(widths).enumerate();
        let cells: Vec<String> =
            cells.map(|(i, (cell, w))| pad(cell, w, (1..6).contains(&i))).collect();
        cells.join(" ")
    };
    out(dim(
        To::Stdout,
        line(["rung", "median", unit, "x first", "of roof", "error", "what is new"]),
    ));
    ladder.climb(roofs, effort, threads, |step| {
        out(line([
            step.name,
            &format!("{} ms", three(step.seconds * 1e3)),
            &three(step.rate / scale),
            &format!("{:.1}", step.times),
            &step.roof_percent.map(|p| format!("{p:.0}%")).unwrap_or_default(),
            &format!("{:.0e}", step.max_error),
            step.idea,
        ]));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_takes_groups_and_beginnings() {
        let names = |only: &[&str], quick| {
            let only: Vec<String> = only.iter().map(|w| w.to_string()).collect();
            select(&only, &[], &[], quick).map(|list| list.iter().map(|c| c.op).collect::<Vec<_>>())
        };
        assert!(names(&["gemm"], false).unwrap().iter().all(|op| op.starts_with("gemm_")));
        assert_eq!(names(&["softmax", "copy"], false).unwrap().len(), 3);
        assert!(names(&[], true).unwrap().len() < names(&[], false).unwrap().len());
        let error = names(&["loom"], false).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("gemm, rowops"), "{error}");
        assert!(names(&["copy"], true).unwrap_err().to_string().contains("--quick"));
    }

    #[test]
    fn three_figures() {
        let all = [0.0123, 0.5, 1.234, 12.34, 123.4, 1234.0].map(three);
        assert_eq!(all, ["0.012", "0.500", "1.23", "12.3", "123", "1234"]);
    }
}
