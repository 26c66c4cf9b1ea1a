//! The roofs of a machine and its kernels as points below them, as one SVG file.
//!
//! Two panels with logarithmic axes. Left the roofline: GFLOP/s over floating-point operations a byte, a
//! slope for each level of the memory and a ceiling for multiply-adds. Right, for kernels that only move
//! bytes, GB/s over the bytes they touch, under the bandwidth that the caches allow.

use std::fmt::Write;

use super::svg::escape;
use crate::bench::measure::Row;
use crate::bench::roof::{Kind, Roofs};
use crate::cpu::gemm::Precision;
use crate::cpu::simd::level;

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 520.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 52.0;

/// One panel: where it lies and what its axes span.
struct Panel {
    left: f64,
    right: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Panel {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |v: f64, (low, high): (f64, f64)| {
            (v.clamp(low, high) / low).log10() / (high / low).log10()
        };
        (
            self.left + share(x, self.x) * (self.right - self.left),
            HEIGHT - BOTTOM - share(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    /// Lines at powers of ten (of `step` on the x axis), with what `name` calls them.
    fn grid(&self, svg: &mut String, step: f64, name: impl Fn(f64) -> String) {
        let mut x = self.x.0;
        while x <= self.x.1 * 1.001 {
            let (at, top) = self.at(x, self.y.1);
            let _ = writeln!(
                svg,
                r#"<line class="g" x1="{at:.1}" x2="{at:.1}" y1="{top:.1}" y2="{:.1}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
                name(x)
            );
            x *= step;
        }
        let mut y = self.y.0;
        while y <= self.y.1 * 1.001 {
            let (left, at) = self.at(self.x.0, y);
            let _ = writeln!(
                svg,
                r#"<line class="g" x1="{left:.1}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                self.right,
                left - 6.0,
                at + 4.0,
                plain(y)
            );
            y *= 10.0;
        }
    }

    fn line(&self, svg: &mut String, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = (points.iter())
            .map(|&(x, y)| self.at(x, y))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(svg, r#"<polyline class="{class}" points="{}"/>"#, points.join(" "));
    }

    fn words(&self, svg: &mut String, x: f64, y: f64, words: &str) {
        let (x, y) = self.at(x, y);
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
            x + 4.0,
            y - 5.0,
            escape(words)
        );
    }

    /// A point that says what it is when the pointer rests on it, and where it is `named` always.
    fn point(&self, svg: &mut String, x: f64, y: f64, named: bool, row: &Row) {
        let (x, y) = self.at(x, y);
        let share = row.roof_percent.map(|p| format!(", {p:.0} % of {}", row.bound));
        let speed = match (row.gflops, row.gbs) {
            (Some(gflops), _) => format!("{gflops:.1} GFLOP/s"),
            (_, gbs) => format!("{:.1} GB/s", gbs.unwrap_or_default()),
        };
        let class = if row.dtype == "bf16" { "p b" } else { "p" };
        let _ = writeln!(
            svg,
            r#"<g class="{class}"><title>{}: {speed}{}</title><circle cx="{x:.1}" cy="{y:.1}" r="4"/><text x="{:.1}" y="{:.1}">{}</text></g>"#,
            escape(&row.name()),
            share.unwrap_or_default(),
            x + 6.0,
            y + 4.0,
            if named { format!("{} {}", row.op, row.shape) } else { String::new() }
        );
    }
}

/// Names stand beside the points of so many rows at most.
const NAMED: usize = 24;

/// The power of ten at or below (`up`: at or above) x.
fn decade(x: f64, up: bool) -> f64 {
    let power = x.max(1e-12).log10();
    10f64.powf(if up { power.ceil() } else { power.floor() })
}

fn plain(x: f64) -> String {
    if x >= 1.0 { format!("{x:.0}") } else { format!("{x}") }
}

/// Bytes in powers of two.
fn bytes(x: f64) -> String {
    match x {
        x if x >= 1073741824.0 => format!("{:.0}G", x / 1073741824.0),
        x if x >= 1048576.0 => format!("{:.0}M", x / 1048576.0),
        x => format!("{:.0}K", x / 1024.0),
    }
}

/// Draws the roofs on all threads and `rows`.
pub fn draw(cpu: &str, roofs: &Roofs, rows: &[Row]) -> String {
    let threads = rows.first().map_or(1, |row| row.threads);
    let peak = roofs.peak(Precision::Highest, threads) / 1e9;
    let peak_bf16 = roofs.peak(Precision::Medium, threads) / 1e9;
    let copy = |place| roofs.find(Kind::Copy, place, threads).map(|roof| roof.rate / 1e9);
    let slowest = roofs.places().filter_map(copy).fold(f64::INFINITY, f64::min);
    let fastest = roofs.places().filter_map(copy).fold(1.0, f64::max);
    let computing = || rows.iter().filter_map(|row| Some((row, row.intensity?, row.gflops?)));
    let moving = || rows.iter().filter_map(|row| Some((row, row.gbs?)));

    let top = peak.max(peak_bf16);

    let title = format!("{cpu}, {}, {threads} threads", level().name());
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t">
<title id="t">Roofline of {0}</title>
<style>
text {{ font: 11px system-ui, sans-serif; fill: #333; }}
.t {{ font-weight: 600; font-size: 14px; }}
.g {{ stroke: #8884; }}
.r {{ fill: none; stroke: #555; stroke-width: 1.5; }} .f {{ stroke: #d55e00; stroke-width: 2; }}
.p circle {{ fill: #0072b2; }} .b circle {{ fill: #009e73; }} .p text {{ font-size: 9px; }}
@media (prefers-color-scheme: dark) {{ svg {{ background: #181818; }} text {{ fill: #ccc; }} .r {{ stroke: #aaa; }} .p circle {{ fill: #56b4e9; }} }}
</style>
<text class="t" x="56" y="22">{0}</text>
<text x="56" y="42">GFLOP/s over operations a byte (blue f32, green bf16)</text>
<text x="636" y="42">GB/s over bytes touched</text>
"##,
        escape(&title)
    );

    let highest = computing().map(|(_, x, _)| x).fold(100.0, f64::max);
    let lowest = computing().map(|(_, _, y)| y).fold(1.0, f64::min);
    let left = Panel {
        left: 56.0,
        right: 580.0,
        x: (0.1, decade(highest, true)),
        y: (decade(lowest.min(0.1 * slowest), false), decade(top, true)),
    };
    left.grid(&mut svg, 10.0, plain);
    for place in roofs.places() {
        let Some(rate) = copy(place) else { continue };
        // From the left edge, or from the floor, up to the ceiling.
        let start = left.x.0.max(left.y.0 / rate);
        left.line(&mut svg, "r", &[(start, start * rate), (top / rate, top)]);
        left.words(&mut svg, start, start * rate, &format!("{place} {rate:.0} GB/s"));
    }
    left.line(&mut svg, "r f", &[(peak / fastest, peak), (left.x.1, peak)]);
    left.words(&mut svg, left.x.1 / 30.0, peak, &format!("f32 multiply-adds {peak:.0} GFLOP/s"));
    if peak_bf16 > peak {
        left.line(&mut svg, "r f", &[(peak_bf16 / fastest, peak_bf16), (left.x.1, peak_bf16)]);
        left.words(&mut svg, left.x.1 / 30.0, peak_bf16, &format!("bf16 {peak_bf16:.0} GFLOP/s"));
    }

    let (least, most) = (16384.0f64, 1073741824.0f64);
    let curve: Vec<(f64, f64)> = (0..=160)
        .map(|i| least * (most / least).powf(i as f64 / 160.0))
        .map(|footprint| (footprint, roofs.copies(footprint) / 1e9))
        .collect();
    let highest = curve.iter().map(|p| p.1).fold(1.0, f64::max);
    let bottom = moving().map(|(_, y)| y).fold(slowest, f64::min);
    let right = Panel {
        left: 636.0,
        right: WIDTH - 20.0,
        x: (least, most),
        y: (decade(bottom, false), decade(highest, true)),
    };
    right.grid(&mut svg, 8.0, bytes);
    right.line(&mut svg, "r f", &curve);
    right.words(&mut svg, curve[8].0, curve[8].1, "copies, at most");

    let named = rows.len() <= NAMED;
    for row in rows {
        match (row.intensity, row.gflops, row.gbs) {
            (Some(x), Some(y), _) => left.point(&mut svg, x, y, named, row),
            (_, _, Some(y)) => right.point(&mut svg, row.footprint, y, named, row),
            _ => {}
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::effort::Effort;
    use crate::bench::{cases, measure};
    use crate::train::control::in_pool;

    #[test]
    fn every_row_becomes_a_point() {
        in_pool(1, || {
            let mut roofs = Roofs::measure(Effort::tiny());
            roofs.spread = 1.0;
            let chosen = ["gemm_nn", "gelu_fwdbwd"];
            let quick = cases::all().into_iter().filter(|c| c.quick && chosen.contains(&c.op));
            let rows: Vec<Row> =
                quick.map(|case| measure(&case, &roofs, Effort::tiny()).unwrap()).collect();
            let svg = draw("a <loom>", &roofs, &rows);
            assert_eq!(svg.matches("<circle").count(), rows.len());
            assert!(svg.contains("a &lt;loom&gt;") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        })
        .unwrap();
    }
}
