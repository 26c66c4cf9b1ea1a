//! The loss curve of a run as one SVG file: no script, no font to load, light and dark.

use std::fmt::Write;

use super::format;

/// A named curve; `y` in nats, x in training steps.
pub struct Curve<'a> {
    /// What the legend says.
    pub name: &'a str,
    /// (step, loss), in the order of the steps.
    pub points: &'a [(f64, f64)],
    /// Drawn thin and pale, under the others.
    pub faint: bool,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 44.0;

/// Draws `curves` under `title`. Points that are not finite are left out.
pub fn loss_curve(title: &str, curves: &[Curve]) -> String {
    let finite = || {
        curves
            .iter()
            .flat_map(|curve| curve.points.iter().copied())
            .filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let max_x = finite().map(|p| p.0).fold(1.0, f64::max);
    let low = finite().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = finite().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high.max(low + 1e-6)) };
    let step_y = nice_step((high - low) / 5.0);
    let (low, high) = ((low / step_y).floor() * step_y, (high / step_y).ceil() * step_y);
    let at_x = |x: f64| LEFT + x / max_x * (WIDTH - LEFT - RIGHT);
    let at_y = |y: f64| HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM);

    let mut svg = String::new();
    let _ = write!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t">
<title id="t">{}</title>
<style>
text {{ font: 12px system-ui, sans-serif; fill: #333; }}
.title {{ font-weight: 600; font-size: 14px; }}
.grid {{ stroke: #8884; }}
.c {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.c0 {{ stroke: #0072b2; }} .c1 {{ stroke: #d55e00; }} .c2 {{ stroke: #009e73; }}
.faint {{ stroke-width: 1; opacity: 0.45; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #ccc; }} svg {{ background: #181818; }} .c0 {{ stroke: #56b4e9; }} }}
</style>
<text class="title" x="{LEFT}" y="20">{}</text>
"##,
        escape(title),
        escape(title),
    );
    let mut y = low;
    while y <= high + step_y * 0.5 {
        let _ = writeln!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{:.1}" y2="{:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            at_y(y),
            at_y(y),
            LEFT - 6.0,
            at_y(y) + 4.0,
            tick(y, step_y),
        );
        y += step_y;
    }
    let step_x = nice_step(max_x / 6.0).max(1.0);
    let mut x = 0.0;
    while x <= max_x {
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            at_x(x),
            HEIGHT - BOTTOM + 18.0,
            format::grouped(x as u64),
        );
        x += step_x;
    }
    let _ = writeln!(
        svg,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">step</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0
    );
    let mut legend = LEFT;
    for (i, curve) in curves.iter().enumerate() {
        let faint = if curve.faint { " faint" } else { "" };
        let points: Vec<String> = thin(curve.points, 1500)
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|&(x, y)| format!("{:.1},{:.1}", at_x(x), at_y(y)))
            .collect();
        let class = i % 3;
        let _ =
            writeln!(svg, r#"<polyline class="c c{class}{faint}" points="{}"/>"#, points.join(" "));
        let _ = writeln!(
            svg,
            r#"<line class="c c{class}{faint}" x1="{legend}" x2="{}" y1="33" y2="33"/><text x="{}" y="37">{}</text>"#,
            legend + 18.0,
            legend + 24.0,
            escape(curve.name),
        );
        legend += 40.0 + 8.0 * format::columns(curve.name) as f64;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Every k-th point so that no more than `most` are left; the last one always.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(most).max(1);
    let mut kept: Vec<_> = points.iter().copied().step_by(every).collect();
    if let (Some(last), false) =
        (points.last(), points.is_empty() || (points.len() - 1).is_multiple_of(every))
    {
        kept.push(*last);
    }
    kept
}

/// The next of 1, 2, 5, 10, 20, … that is at least `x`.
fn nice_step(x: f64) -> f64 {
    let power = 10f64.powf(x.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|s| *s >= x * 0.999)
        .unwrap_or(power * 10.0)
}

fn tick(y: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{y:.decimals$}")
}

/// Text for XML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_inside_its_frame() {
        let loss: Vec<(f64, f64)> =
            (0..5000).map(|i| (i as f64, 4.0 / (1.0 + i as f64 * 1e-3))).collect();
        let curves = [
            Curve { name: "training", points: &loss, faint: true },
            Curve {
                name: "验证 <validation>",
                points: &[(0.0, 4.1), (4999.0, f64::NAN)],
                faint: false,
            },
        ];
        let svg = loss_curve("a & b", &curves);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;validation&gt;"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        for pair in svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap().split(' ') {
            let (x, y) = pair.split_once(',').unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{pair}");
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y.parse().unwrap()), "{pair}");
        }
    }

    #[test]
    fn an_empty_run_still_gives_a_file() {
        let svg = loss_curve("nothing", &[Curve { name: "training", points: &[], faint: false }]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
