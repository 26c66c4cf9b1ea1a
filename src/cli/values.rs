//! What a flag's value must be, said once: clap prints the sentence after the flag's name.

use crate::DType;

/// A finite number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

/// A finite number of 0 or more.
pub fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number of 0 or more")
}

/// A number in [0, 1).
pub fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "a number from 0 up to, but not, 1")
}

/// A number in (0, 1].
pub fn share(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0 and up to 1")
}

fn number(text: &str, fits: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(x) if x.is_finite() && fits(x) => Ok(x),
        _ => Err(format!("must be {what}")),
    }
}

/// A whole number of 1 or more.
pub fn count(text: &str) -> Result<usize, String> {
    whole(text, 1)
}

/// A whole number of 0 or more.
pub fn count_or_zero(text: &str) -> Result<usize, String> {
    whole(text, 0)
}

fn whole(text: &str, least: usize) -> Result<usize, String> {
    // 1e5 and 10_000 are numbers too.
    let plain = text.trim().replace('_', "");
    let n = plain.parse::<usize>().ok().or_else(|| {
        let x = plain.parse::<f64>().ok()?;
        (x.fract() == 0.0 && (0.0..1e15).contains(&x)).then_some(x as usize)
    });
    match n {
        Some(n) if n >= least => Ok(n),
        _ => Err(format!("must be a whole number of {least} or more")),
    }
}

/// How weights can be stored.
pub fn dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        _ => Err("must be f32 or bf16".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_with_a_sentence() {
        for text in ["nan", "inf", "-1", "0", "fast", ""] {
            assert_eq!(positive(text), Err("must be a number above 0".into()), "{text}");
        }
        assert_eq!(positive("3e-4"), Ok(3e-4));
        assert_eq!(not_negative("0"), Ok(0.0));
        assert!(fraction("1").is_err() && fraction("0").is_ok());
        assert!(share("1").is_ok() && share("0").is_err());
        assert_eq!(count("1e5"), Ok(100_000));
        assert_eq!(count("10_000"), Ok(10_000));
        assert!(count("0").is_err() && count_or_zero("0").is_ok() && count("1.5").is_err());
        assert!(count("-3").is_err() && count("1e99").is_err());
    }
}
