//! Numbers for people.

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `41234.0` as `41.2k`, `3.1e12` as `3.10T`: three significant digits and a decimal unit.
pub fn short(x: f64) -> String {
    let (value, unit) = match x.abs() {
        a if a >= 1e12 => (x / 1e12, "T"),
        a if a >= 1e9 => (x / 1e9, "G"),
        a if a >= 1e6 => (x / 1e6, "M"),
        a if a >= 1e3 => (x / 1e3, "k"),
        _ => (x, ""),
    };
    match value.abs() {
        a if a >= 99.95 || (unit.is_empty() && value == value.trunc()) => {
            format!("{value:.0}{unit}")
        }
        a if a >= 9.995 => format!("{value:.1}{unit}"),
        _ => format!("{value:.2}{unit}"),
    }
}

/// Bytes as `3.2 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Seconds as `9s`, `3m12s`, `2h05m`, `3d04h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86400, s / 3600 % 24),
    }
}

/// Seconds as `0.42 s` below ten, else as [`duration`].
pub fn took(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1}s") } else { duration(seconds) }
}

/// A learning rate: `0.001`, `3.00e-5`.
pub fn rate(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-2 { format!("{x:.2e}") } else { format!("{x:.4}") }
}

/// The columns that `text` takes on a terminal: Chinese, Japanese and Korean characters and
/// full-width forms take two.
pub fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

fn char_columns(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text` filled up with spaces to `width` columns, on the right; on the left when `right`.
pub fn pad(text: &str, width: usize, right: bool) -> String {
    let fill = " ".repeat(width.saturating_sub(columns(text)));
    if right { fill + text } else { text.to_owned() + &fill }
}

/// `text` cut to `width` columns, with an ellipsis where something is missing.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        if used + char_columns(c) + 1 > width {
            break;
        }
        used += char_columns(c);
        out.push(c);
    }
    out + "…"
}

/// Text on one line, control characters as blanks: for samples in a log.
pub fn one_line(text: &str) -> String {
    text.replace('\n', "⏎").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A curve of at most `width` blocks, the last values at the right: `█▆▄▃▂▁`.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    if values.is_empty() || width == 0 {
        return String::new();
    }
    // One block for each run of values: their mean.
    let blocks = width.min(values.len());
    let means: Vec<f64> = (0..blocks)
        .map(|i| {
            let run = &values[i * values.len() / blocks..(i + 1) * values.len() / blocks];
            run.iter().sum::<f64>() / run.len() as f64
        })
        .collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = if high > low { 7.0 / (high - low) } else { 0.0 };
    means.iter().map(|m| BLOCKS[((m - low) * scale).round() as usize]).collect()
}

/// Rows under a head as an aligned text table; columns from `numbers` on stand to the right.
pub fn table(head: &[&str], rows: &[Vec<String>], numbers: usize) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| columns(h)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    let line = |cells: Vec<&str>| {
        let cells: Vec<String> =
            cells.iter().enumerate().map(|(i, cell)| pad(cell, widths[i], i >= numbers)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut out = vec![line(head.to_vec())];
    out.push(widths.iter().map(|w| "─".repeat(*w)).collect::<Vec<_>>().join("  "));
    out.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_003_854), "1,003,854");
        assert_eq!(short(41_234.0), "41.2k");
        assert_eq!(short(999.0), "999");
        assert_eq!(short(2.71499), "2.71");
        assert_eq!(short(5_170_000.0), "5.17M");
        assert_eq!(bytes(12), "12 bytes");
        assert_eq!(bytes(3 * 1024 * 1024 + 200 * 1024), "3.2 MiB");
        assert_eq!(duration(192.4), "3m12s");
        assert_eq!(duration(7500.0), "2h05m");
        assert_eq!(duration(f64::INFINITY), "?");
        assert_eq!(rate(0.001), "1.00e-3");
        assert_eq!(rate(0.05), "0.0500");
    }

    #[test]
    fn columns_count_chinese_double() {
        assert_eq!(columns("ab织布"), 6);
        assert_eq!(cut("织布机在唱", 5), "织布…");
        assert_eq!(pad("织", 4, true), "  织");
        assert_eq!(cut("short", 9), "short");
    }

    #[test]
    fn sparklines_fall() {
        assert_eq!(sparkline(&[4.0, 3.0, 2.0, 1.0], 8), "█▆▃▁");
        assert_eq!(sparkline(&[1.0; 5], 3), "▁▁▁");
        assert_eq!(sparkline(&[], 3), "");
        assert_eq!(sparkline(&[f64::NAN, 2.0], 3), "▁");
    }

    #[test]
    fn tables_stand_in_line() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["织布".into(), "100".into()]];
        assert_eq!(table(&["who", "n"], &rows, 1), "who     n\n────  ───\na       1\n织布  100");
    }
}
