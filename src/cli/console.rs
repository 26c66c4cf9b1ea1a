//! What a run looks like while it runs: a header, a live line, rows that stay, an end block.
//!
//! On a terminal one line is drawn again and again, and evaluations and samples stay above it. In a
//! pipe there is no carriage return: complete `key=value` lines, every few seconds, with the same
//! figures. With `--quiet` there is nothing. All of it goes to stderr.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::terminal::{self, To, bold, cyan, dim, green, note};
use super::{format, machine, svg};
use crate::cpu::gemm::Precision;
use crate::train::observer::{
    Ending, EvalRecord, Figures, Header, Observer, Saved, StepRecord, TrainReport,
};

/// How often a line in a pipe is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// How often the live line is drawn.
const LIVE_EVERY: Duration = Duration::from_millis(100);
/// Losses behind the sparkline: the curve is thinned when there are twice as many.
const CURVE: usize = 256;

/// The observer behind every training command.
pub struct Console {
    live: bool,
    /// Off: one row a run, nothing else. For series of short runs.
    rows: bool,
    /// Commands to type next, for the end block.
    next: Vec<String>,
    drawn: bool,
    last_line: Option<Instant>,
    peak: Option<f64>,
    header: Header,
    unit: &'static str,
    losses: Vec<f64>,
    /// Steps behind one entry of `losses`.
    stride: u64,
    validation: Option<(&'static str, f64)>,
    work: Option<(String, Instant)>,
    /// The last step seen, and whether its line has been written.
    step: Option<(StepRecord, bool)>,
}

impl Console {
    /// A console for one run; `next` are the commands that the end block proposes.
    pub fn new(next: Vec<String>) -> Console {
        Console {
            live: terminal::live() && !terminal::quiet(),
            rows: true,
            next,
            drawn: false,
            last_line: None,
            peak: None,
            header: Header::default(),
            unit: "tok",
            losses: Vec::new(),
            stride: 1,
            validation: None,
            work: None,
            step: None,
        }
    }

    /// A console that gives each run one row, for series of short runs.
    pub fn compact() -> Console {
        Console { rows: false, ..Console::new(Vec::new()) }
    }

    /// A line that stays.
    pub fn row(&mut self, text: impl std::fmt::Display) {
        self.clear();
        note(text);
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            terminal::note_piece("\r\x1b[2K");
        }
    }

    fn draw(&mut self, text: &str) {
        let text = format::cut(text, terminal::width().saturating_sub(1));
        terminal::note_piece(&format!("\r\x1b[2K{text}"));
        self.drawn = true;
    }

    /// Whether it is time for a line again.
    fn due(&mut self, every: Duration) -> bool {
        let due = self.last_line.is_none_or(|last| last.elapsed() >= every);
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }

    fn peak_share(&self, record: &StepRecord) -> String {
        match self.peak {
            Some(peak) if record.flops_per_s > 0.0 => {
                format!("{:.0}%", 100.0 * record.flops_per_s / peak)
            }
            _ => "n/a".into(),
        }
    }

    fn live_line(&self, r: &StepRecord) -> String {
        let mut parts = vec![match self.header.total_steps {
            Some(total) => format!("step {}/{total} {:.0}%", r.step, 100.0 * r.progress),
            None => format!("step {} {:.0}%", r.step, 100.0 * r.progress),
        }];
        parts.push(format!("loss {:.4}", r.loss));
        if let Some((name, value)) = self.validation {
            parts.push(format!("{} {value:.4}", name.trim_end_matches("_loss")));
        }
        parts.push(format!("lr {}", format::rate(r.learning_rate)));
        parts.push(format!("gnorm {:.2}", r.grad_norm));
        if r.tokens_per_s > 0.0 {
            parts.push(format!("{} {}/s", format::short(r.tokens_per_s), self.unit));
        }
        parts.push(format!("{} peak", self.peak_share(r)));
        if let Some(eta) = r.eta_s {
            parts.push(format!("ETA {}", format::duration(eta)));
        }
        let line = parts.join(" | ");
        // The curve takes what is left of the line.
        let room = terminal::width().saturating_sub(format::columns(&line) + 4);
        if room < 4 {
            return line;
        }
        format!("{line} | {}", format::sparkline(&self.losses, room.min(24)))
    }

    fn plain_line(&self, r: &StepRecord) -> String {
        let mut line = format!("step={}", r.step);
        let mut add = |key: &str, value: String| line += &format!(" {key}={value}");
        if let Some(total) = self.header.total_steps {
            add("of", total.to_string());
        }
        add("loss", format!("{:.4}", r.loss));
        if let Some((name, value)) = self.validation {
            add(name, format!("{value:.4}"));
        }
        add("learning_rate", format::rate(r.learning_rate));
        add("grad_norm", format!("{:.3}", r.grad_norm));
        if r.tokens_per_s > 0.0 {
            add(&format!("{}_per_s", self.unit_name()), format!("{:.0}", r.tokens_per_s));
        }
        add("peak", self.peak_share(r));
        if let Some(eta) = r.eta_s {
            add("eta", format::duration(eta));
        }
        line
    }

    fn unit_name(&self) -> &'static str {
        if self.unit == "tok" { "tokens" } else { "examples" }
    }

    /// Writes the line of the last step in a pipe, if it has not been written.
    fn catch_up(&mut self) {
        if let (false, Some((record, false))) = (self.live, self.step) {
            note(self.plain_line(&record));
            self.step = Some((record, true));
        }
    }

    fn label(&self, name: &str, text: impl std::fmt::Display) {
        note(format_args!("  {} {text}", dim(To::Stderr, format_args!("{name:<11}"))));
    }
}

impl Observer for Console {
    fn header(&mut self, header: &Header) {
        self.clear();
        self.header = header.clone();
        (self.losses, self.stride, self.validation, self.step) = (Vec::new(), 1, None, None);
        if header.batch.contains("example") {
            self.unit = "ex";
        }
        if terminal::quiet() || !self.rows {
            return;
        }
        // Twenty milliseconds, spent once: after it every step can say how much of this machine it uses.
        let setting = |key: &str| header.config.get(key).and_then(Value::as_str).unwrap_or("");
        let precision = match (setting("precision"), setting("matmul_precision")) {
            ("bf16", _) | (_, "medium") => Precision::Medium,
            (_, "high") => Precision::High,
            _ => Precision::Highest,
        };
        self.peak = match setting("device").starts_with("cuda") {
            true => None,
            false => machine::peak_flops(Duration::from_millis(20), precision),
        };
        note(bold(To::Stderr, &header.title));
        if !header.model.is_null() {
            self.label("model", model_words(&header.model));
        }
        let frozen = header.parameters - header.trainable.min(header.parameters);
        let frozen = if frozen > 0 {
            format!(", {} frozen", format::grouped(frozen as u64))
        } else {
            String::new()
        };
        let total = format::grouped(header.parameters as u64);
        self.label("parameters", format!("{total}{frozen}: {}", modules(&header.by_module)));
        if header.flops_per_token > 0 {
            let flops = format::short(header.flops_per_token as f64);
            self.label("compute", format!("{flops}FLOP a token, forward and backward"));
        }
        let m = &header.memory;
        if m.total() > 0 {
            self.label(
                "memory",
                format!(
                    "about {}: weights {}, gradients {}, optimizer {}, activations {}",
                    format::bytes(m.total()),
                    format::bytes(m.weights),
                    format::bytes(m.gradients),
                    format::bytes(m.optimizer),
                    format::bytes(m.activations)
                ),
            );
        }
        let data: Vec<String> = header
            .data
            .iter()
            .filter(|(name, _)| name != "vocabulary")
            .map(|(name, n)| format!("{} {name}", format::grouped(*n)))
            .collect();
        if !data.is_empty() {
            self.label("data", data.join(", "));
        }
        let length = match (header.total_steps, header.budget_s) {
            (_, Some(budget)) => format!("{} by the clock", format::duration(budget)),
            (Some(steps), None) => format!("{} steps", format::grouped(steps)),
            (None, None) => "until stopped".into(),
        };
        let seed =
            header.config.get("seed").map(|seed| format!(", seed {seed}")).unwrap_or_default();
        self.label("run", format!("{length} of {}{seed}", header.batch));
        let peak =
            self.peak.map_or("peak n/a".into(), |p| format!("peak {}FLOP/s", format::short(p)));
        let threads = match header.threads {
            1 => "1 thread".to_owned(),
            n => format!("{n} threads"),
        };
        self.label("machine", format!("{}, {}, {threads}, {peak}", machine::cpu(), header.isa));
        let settings: Vec<String> = header
            .config
            .iter()
            .filter(|(_, value)| {
                let empty = value.as_array().is_some_and(Vec::is_empty);
                !value.is_null() && !empty && **value != ""
            })
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key}={text}"),
                value => format!("{key}={value}"),
            })
            .collect();
        for (i, line) in
            wrap(&settings, terminal::width().saturating_sub(16).max(40)).iter().enumerate()
        {
            self.label(if i == 0 { "settings" } else { "" }, dim(To::Stderr, line));
        }
        if let Some(step) = header.resumed_from {
            self.label("resumes", format!("after step {}", format::grouped(step)));
        }
        if let Some(out) = &header.out {
            self.label("folder", out.display());
        }
    }

    fn progress(&mut self, what: &str, done: u64, total: u64) {
        if !self.rows {
            return;
        }
        if self.work.as_ref().is_none_or(|(name, _)| name != what) {
            self.work = Some((what.to_owned(), Instant::now()));
            self.last_line = Some(Instant::now());
        }
        let Some((_, start)) = &self.work else { return };
        let spent = start.elapsed().as_secs_f64();
        let share = if total > 0 { done as f64 / total as f64 } else { 0.0 };
        let eta = if share > 0.0 { spent / share - spent } else { f64::INFINITY };
        let finished = total > 0 && done >= total;
        if finished {
            self.work = None;
            self.clear();
        } else if self.due(if self.live { LIVE_EVERY } else { PLAIN_EVERY }) {
            let text = match (self.live, total) {
                (true, 0) => format!("{what}: {}", format::grouped(done)),
                (true, _) => {
                    format!("{what}: {:.0}%, ETA {}", 100.0 * share, format::duration(eta))
                }
                (false, 0) => format!("{}={done}", what.replace(' ', "_")),
                (false, _) => {
                    let name = what.replace(' ', "_");
                    format!("{name}={:.0}% eta={}", 100.0 * share, format::duration(eta))
                }
            };
            if self.live { self.draw(&text) } else { note(text) }
        }
    }

    fn step(&mut self, record: &StepRecord) {
        if record.step.is_multiple_of(self.stride) {
            self.losses.push(record.loss);
            if self.losses.len() == 2 * CURVE {
                self.losses = self.losses.chunks(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
                self.stride *= 2;
            }
        }
        if terminal::quiet() {
            return;
        }
        self.step = Some((*record, false));
        if self.live {
            if self.due(LIVE_EVERY) {
                let line = self.live_line(record);
                self.draw(&line);
            }
        } else if self.rows && (record.step == 1 || self.due(PLAIN_EVERY)) {
            self.catch_up();
        }
    }

    fn eval(&mut self, record: &EvalRecord) {
        let value = record.figures.get("val_loss").map(|v| ("val_loss", v));
        self.validation =
            value.or_else(|| record.figures.get(record.metric).map(|v| (record.metric, v)));
        if terminal::quiet() || !self.rows {
            return;
        }
        self.catch_up();
        let figures = figure_words(&record.figures, self.live);
        if self.live {
            let best = match (record.best, record.without_progress) {
                (true, _) => green(To::Stderr, "best so far"),
                (false, n) => dim(To::Stderr, format_args!("not better for {n} evaluations")),
            };
            let took = dim(To::Stderr, format::took(record.seconds));
            self.row(format_args!("step {:<6} {figures}  {best}  {took}", record.step));
        } else {
            let best = if record.best { " best=true" } else { "" };
            self.row(format_args!(
                "eval step={} {figures}{best} seconds={:.2}",
                record.step, record.seconds
            ));
        }
    }

    fn sample(&mut self, step: u64, text: &str) {
        if !self.rows {
            return;
        }
        if self.live {
            self.row(dim(To::Stderr, format_args!("step {step:<6} it writes:")));
            for line in text.trim_end().lines().take(8) {
                let line: String =
                    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                self.row(format_args!(
                    "    {}",
                    format::cut(&line, terminal::width().saturating_sub(5))
                ));
            }
        } else {
            self.row(format_args!(
                "sample step={step} text={}",
                Value::from(format::one_line(text))
            ));
        }
    }

    fn saved(&mut self, step: u64, what: Saved, path: &Path) {
        if self.rows && !self.live && what == Saved::Checkpoint {
            self.catch_up();
            self.row(format_args!("saved step={step} path={}", path.display()));
        }
    }

    fn warning(&mut self, message: &str) {
        self.clear();
        terminal::warning(message);
    }

    fn finished(&mut self, report: &TrainReport) {
        if let Some(out) = &report.out {
            draw_curve(out, &self.header.title);
        }
        if !self.rows {
            let name = report.out.as_ref().and_then(|out| out.file_name()).unwrap_or_default();
            self.row(format_args!(
                "  {} {} steps in {}",
                format::pad(&name.to_string_lossy(), 20, false),
                report.steps,
                format::took(report.elapsed_s)
            ));
            return;
        }
        self.catch_up();
        self.clear();
        let early =
            if report.ending == Ending::EarlyStopping { " (no progress any more)" } else { "" };
        note(bold(
            To::Stderr,
            format_args!(
                "done: {} steps{early}, {} {} in {}",
                format::grouped(report.steps),
                format::grouped(report.tokens),
                self.unit_name(),
                format::took(report.elapsed_s),
            ),
        ));
        if let Some((step, value)) = report.best {
            self.label(
                "best",
                format!("{} {value:.4} at step {}", report.metric, format::grouped(step)),
            );
        }
        if let Some(last) = &report.last {
            self.label("last", figure_words(last, true));
        }
        if report.skipped > 0 {
            self.label(
                "skipped",
                format!("{} steps whose numbers were not finite", report.skipped),
            );
        }
        if let Some(out) = &report.out {
            self.label("files", files(out));
        }
        for (i, command) in self.next.iter().enumerate() {
            self.label(if i == 0 { "next" } else { "" }, cyan(To::Stderr, command));
        }
    }
}

/// What is in a run folder, the folder first.
fn files(out: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !name.starts_with('.') && !name.ends_with(".lock")
        })
        .map(|entry| {
            let folder = entry.file_type().is_ok_and(|t| t.is_dir());
            format!("{}{}", entry.file_name().to_string_lossy(), if folder { "/" } else { "" })
        })
        .collect();
    names.sort();
    format!("{}: {}", out.display(), names.join(" "))
}

/// Draws `loss.svg` from the `metrics.jsonl` of a run folder. A curve that cannot be written is a
/// warning: the run itself is whole.
pub fn draw_curve(out: &Path, title: &str) {
    let Ok(log) = std::fs::read_to_string(out.join("metrics.jsonl")) else { return };
    let (mut loss, mut validation) = (Vec::new(), Vec::new());
    // A torn last line, from a run that was killed, is passed over.
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(step) = line["step"].as_f64() else { continue };
        loss.extend(line["loss"].as_f64().map(|y| (step, y)));
        validation.extend(line["val_loss"].as_f64().map(|y| (step, y)));
    }
    let mut curves =
        vec![svg::Curve { name: "training loss", points: &loss, faint: !validation.is_empty() }];
    if !validation.is_empty() {
        curves.push(svg::Curve { name: "validation loss", points: &validation, faint: false });
    }
    let text = svg::loss_curve(title, &curves);
    let (path, part) = (out.join("loss.svg"), out.join("loss.svg.part"));
    if let Err(error) = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)) {
        terminal::warning(format_args!("{}: cannot write the loss curve: {error}", path.display()));
    }
}

/// Figures in a line: `val_loss 1.8790  perplexity 6.55`, or `val_loss=1.8790 perplexity=6.55`.
fn figure_words(figures: &Figures, spaced: bool) -> String {
    let (between, after) = if spaced { (" ", "  ") } else { ("=", " ") };
    let words: Vec<String> = figures
        .0
        .iter()
        .map(|(name, value)| format!("{name}{between}{}", figure(*value)))
        .collect();
    words.join(after)
}

fn figure(value: f64) -> String {
    if value.abs() < 1000.0 { format!("{value:.4}") } else { format!("{value:.1}") }
}

/// Parameters by module; runs of equal blocks in one piece: `transformer.h.0–3 4 × 198,272`.
fn modules(by_module: &[(String, usize)]) -> String {
    let mut words = Vec::new();
    let mut rest = by_module;
    while let Some((name, n)) = rest.first() {
        let prefix = name.rsplit_once('.').filter(|(_, index)| index.parse::<usize>().is_ok());
        let same = match prefix {
            Some((stem, _)) => rest
                .iter()
                .take_while(|(other, m)| {
                    m == n && other.rsplit_once('.').is_some_and(|(s, _)| s == stem)
                })
                .count(),
            None => 1,
        };
        let n = format::grouped(*n as u64);
        if same > 1 {
            let last = rest[same - 1].0.rsplit_once('.').map_or("", |(_, index)| index);
            words.push(format!("{name}–{last} {same} × {n}"));
        } else {
            words.push(format!("{name} {n}"));
        }
        rest = &rest[same.max(1)..];
    }
    words.join(", ")
}

/// The fields of a `config.json` that say what the model is.
fn model_words(model: &Value) -> String {
    const FIELDS: [(&str, &[&str]); 6] = [
        ("layers", &["n_layer", "num_hidden_layers", "num_layers"]),
        ("heads", &["n_head", "num_attention_heads"]),
        ("width", &["n_embd", "hidden_size"]),
        ("context", &["n_positions", "max_position_embeddings", "context_length"]),
        ("vocabulary", &["vocab_size"]),
        ("inner", &["n_inner", "intermediate_size"]),
    ];
    let kind = model["model_type"].as_str().or(model["mode"].as_str()).unwrap_or("model");
    let mut words = vec![kind.to_owned()];
    for (word, keys) in FIELDS {
        if let Some(n) = keys.iter().find_map(|key| model[*key].as_u64()) {
            words.push(format!("{word} {}", format::grouped(n)));
        }
    }
    words.join(", ")
}

/// Words in lines of at most `width` columns.
fn wrap(words: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if format::columns(line) + 1 + format::columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}

/// Running text in lines of at most `width` columns, broken at blanks, or anywhere in Chinese.
pub fn wrap_text(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let mut rest = word;
        loop {
            let line = lines.last_mut().expect("one line at least");
            if format::columns(line) + format::columns(rest.trim_end()) <= width {
                line.push_str(rest);
                break;
            }
            // A word longer than a line, as Chinese text is: fill the line up.
            let free = width.saturating_sub(format::columns(line));
            let mut at = 0;
            if format::columns(rest) > width / 2 {
                let mut used = 0;
                for c in rest.chars() {
                    used += format::columns(c.encode_utf8(&mut [0; 4]));
                    if used > free {
                        break;
                    }
                    at += c.len_utf8();
                }
            }
            line.push_str(&rest[..at]);
            rest = &rest[at..];
            lines.push(String::new());
        }
    }
    lines
}

/// A path or text as one word of a shell.
pub fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    let text = text.as_ref().to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:=,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_together() {
        let names = ["transformer.wte", "transformer.h.0", "transformer.h.1", "transformer.ln_f"];
        let all: Vec<_> =
            names.iter().zip([8320, 200, 200, 256]).map(|(n, c)| (n.to_string(), c)).collect();
        assert_eq!(
            modules(&all),
            "transformer.wte 8,320, transformer.h.0–1 2 × 200, transformer.ln_f 256"
        );
        assert_eq!(modules(&[]), "");
    }

    #[test]
    fn text_is_wrapped() {
        assert_eq!(wrap_text("the loom sang all night", 9), ["the loom ", "sang all ", "night"]);
        assert_eq!(wrap_text("织布机在唱歌", 8), ["织布机在", "唱歌"]);
        assert_eq!(wrap_text("", 8), [""]);
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("runs/a-b"), "runs/a-b");
        assert_eq!(quoted("my run"), "'my run'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("红楼梦.txt"), "红楼梦.txt");
    }

    #[test]
    fn lines_carry_all_figures() {
        let mut console = Console::new(Vec::new());
        console.header.total_steps = Some(2000);
        console.validation = Some(("val_loss", 2.1377));
        console.peak = Some(2e11);
        let record = StepRecord {
            step: 1200,
            progress: 0.6,
            loss: 2.1043,
            learning_rate: 2.9e-4,
            grad_norm: 0.84,
            tokens_per_s: 41_234.0,
            flops_per_s: 1.22e11,
            eta_s: Some(192.0),
            ..StepRecord::default()
        };
        assert_eq!(
            console.plain_line(&record),
            "step=1200 of=2000 loss=2.1043 val_loss=2.1377 learning_rate=2.90e-4 grad_norm=0.840 \
             tokens_per_s=41234 peak=61% eta=3m12s"
        );
        console.losses = vec![4.0, 3.0, 2.0, 1.0];
        let line = console.live_line(&record);
        let start = "step 1200/2000 60% | loss 2.1043 | val 2.1377 | lr 2.90e-4 | gnorm 0.84 | 41.2k tok/s | \
                     61% peak | ETA 3m12s";
        assert!(line.starts_with(start), "{line}");
    }
}
