//! Printing a tensor so that a person can read it.

use std::fmt;

use super::{DType, Tensor};

/// At most this many elements of an axis are shown; the middle of a longer one is "…".
const SHOWN: usize = 6;

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.to_f64_vec().map_err(|_| fmt::Error)?;
        let style = Style::of(&values, self.dtype());
        let cells: Vec<String> = values.iter().map(|&v| style.write(v)).collect();
        let width = cells.iter().map(String::len).max().unwrap_or(0);
        write_axis(f, &cells, self.shape(), width, 1)?;
        write!(f, "  {} {:?}", self.dtype(), self.shape())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})\n{self}", self.dtype(), self.shape())
    }
}

/// One number format for the whole tensor, so that columns line up.
enum Style {
    Integer,
    Fixed,
    Scientific,
}

impl Style {
    fn of(values: &[f64], dtype: DType) -> Style {
        if dtype == DType::U32 {
            return Style::Integer;
        }
        let sizes = values.iter().filter(|v| v.is_finite() && **v != 0.0).map(|v| v.abs());
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for size in sizes {
            least = least.min(size);
            most = most.max(size);
        }
        if most >= 1e5 || (most > 0.0 && most < 1e-3) || most / least > 1e6 {
            Style::Scientific
        } else {
            Style::Fixed
        }
    }

    fn write(&self, value: f64) -> String {
        match self {
            Style::Integer => format!("{value}"),
            Style::Fixed => format!("{value:.4}"),
            Style::Scientific => format!("{value:.4e}"),
        }
    }
}

fn write_axis(
    f: &mut fmt::Formatter<'_>,
    cells: &[String],
    shape: &[usize],
    width: usize,
    indent: usize,
) -> fmt::Result {
    let [size, inner @ ..] = shape else {
        return write!(f, "{}", cells.first().map_or("", String::as_str));
    };
    let stride = inner.iter().product::<usize>();
    f.write_str("[")?;
    for i in 0..*size {
        let skipped = *size > 2 * SHOWN && (SHOWN..*size - SHOWN).contains(&i);
        if skipped && i > SHOWN {
            continue;
        }
        if i > 0 {
            if inner.is_empty() {
                f.write_str(", ")?;
            } else {
                // A new line for each row, an empty one between matrices.
                write!(f, ",{}{}", "\n".repeat(inner.len()), " ".repeat(indent))?;
            }
        }
        if skipped {
            f.write_str("…")?;
        } else if inner.is_empty() {
            write!(f, "{:>width$}", cells[i])?;
        } else {
            write_axis(f, &cells[i * stride..][..stride], inner, width, indent + 1)?;
        }
    }
    f.write_str("]")
}
