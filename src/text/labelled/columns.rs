//! Which column is the text and which the label.

use super::ReadOptions;
use crate::error::{Error, Result};

/// Names that label columns have in the wild, the best first.
const LABELS: &[&str] = &[
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "topic",
    "gold_label",
    "cat",
    "polarity",
    "intent",
    "y",
];
/// Names that text columns have in the wild, the best first.
const TEXTS: &[&str] = &[
    "text",
    "sentence",
    "review",
    "content",
    "document",
    "question",
    "description",
    "comment",
    "message",
    "body",
    "title",
    "x",
];
/// Pairs of text columns.
const PAIRS: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
];

/// The columns that were chosen, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub text: usize,
    pub pair: Option<usize>,
    pub label: Option<usize>,
}

impl Columns {
    /// Refuses one column for two things.
    fn apart(self, file: &str) -> Result<Columns> {
        let twice = self.label == Some(self.text)
            || self.pair == Some(self.text)
            || (self.pair.is_some() && self.pair == self.label);
        if twice {
            return Err(Error::Usage(format!(
                "{file}: --text-column, --text-pair-column and --label-column must name different columns"
            )));
        }
        Ok(self)
    }

    /// What was chosen, for the log.
    pub(super) fn describe(&self, header: Option<&[String]>, width: usize) -> String {
        let name = |column: usize| match header {
            Some(names) => format!("'{}'", names[column]),
            None => format!("column {}", column + 1),
        };
        let mut parts = vec![format!("text: {}", name(self.text))];
        parts.extend(self.pair.map(|c| format!("text pair: {}", name(c))));
        parts.extend(self.label.map(|c| format!("label: {}", name(c))));
        let head = if header.is_some() { "with a header" } else { "without a header" };
        format!("{} ({width} columns, {head})", parts.join(", "))
    }
}

/// Whether the first row names the columns: one of the asked or well-known names stands in it.
pub(super) fn is_header(first: &[String], options: &ReadOptions) -> bool {
    options.header.unwrap_or_else(|| {
        let asked = [&options.text_column, &options.text_pair_column, &options.label_column];
        first.iter().any(|cell| {
            let cell = cell.trim().to_lowercase();
            asked.iter().any(|name| {
                name.as_ref()
                    .is_some_and(|n| n.to_lowercase() == cell && n.parse::<usize>().is_err())
            }) || LABELS.contains(&cell.as_str())
                || TEXTS.contains(&cell.as_str())
                || PAIRS.iter().any(|pair| pair.0 == cell || pair.1 == cell)
        })
    })
}

/// The column that an option asks for, by name or by number from 1.
fn asked(
    file: &str,
    flag: &str,
    wanted: &Option<String>,
    names: Option<&[String]>,
    width: usize,
) -> Result<Option<usize>> {
    let Some(wanted) = wanted else { return Ok(None) };
    let names = names.unwrap_or(&[]);
    let same = |name: &String| name.trim().eq_ignore_ascii_case(wanted.trim());
    if let Some(column) = names.iter().position(same) {
        return Ok(Some(column));
    }
    match wanted.parse::<usize>() {
        Ok(number) if (1..=width).contains(&number) => Ok(Some(number - 1)),
        _ if names.is_empty() => Err(Error::Usage(format!(
            "{flag} {wanted}: {file} has no header; give a number from 1 to {width}"
        ))),
        _ => Err(Error::Usage(format!(
            "{flag} {wanted}: {file} has no such column; it has {}",
            names.join(", ")
        ))),
    }
}

/// Chooses the columns of a table with a header: by option, by name, or as the one that is left.
pub(super) fn by_name(
    file: &str,
    names: &[String],
    options: &ReadOptions,
    labelled: bool,
) -> Result<Columns> {
    let width = names.len();
    let find = |name: &str| names.iter().position(|n| n.trim().eq_ignore_ascii_case(name));
    let ask = |flag, wanted| asked(file, flag, wanted, Some(names), width);
    let mut text = ask("--text-column", &options.text_column)?;
    let mut pair = ask("--text-pair-column", &options.text_pair_column)?;
    let mut label = ask("--label-column", &options.label_column)?;
    if label.is_none() {
        label = LABELS.iter().find_map(|name| find(name)).filter(|&l| text != Some(l));
    }
    if text.is_none() && pair.is_none() {
        let both = PAIRS.iter().find_map(|(a, b)| Some((find(a)?, find(b)?)));
        if let Some((a, b)) = both.filter(|&(a, b)| label != Some(a) && label != Some(b)) {
            (text, pair) = (Some(a), Some(b));
        }
    }
    let free = |c: &usize| Some(*c) != label && Some(*c) != pair;
    let text = text
        .or_else(|| TEXTS.iter().find_map(|name| find(name)).filter(free))
        .or_else(|| only((0..width).filter(free)));
    let Some(text) = text else {
        return Err(Error::Usage(format!(
            "{file}: which column is the text? Pass --text-column with one of {}",
            names.join(", ")
        )));
    };
    if label.is_none() && labelled {
        label = only((0..width).filter(|&c| c != text && Some(c) != pair));
    }
    if label.is_none() && labelled {
        return Err(Error::Usage(format!(
            "{file}: which column is the label? Pass --label-column with one of {}",
            names.join(", ")
        )));
    }
    Columns { text, pair, label }.apart(file)
}

fn only(mut columns: impl Iterator<Item = usize>) -> Option<usize> {
    columns.next().filter(|_| columns.next().is_none())
}

/// Chooses the columns of a table without a header by what is in them: the label is the column with
/// the fewest different values, the text the longest of the others.
pub(super) fn by_content(
    file: &str,
    rows: &[&[String]],
    options: &ReadOptions,
    labelled: bool,
) -> Result<Columns> {
    let width = rows.first().map_or(0, |row| row.len());
    let ask = |flag, wanted| asked(file, flag, wanted, None, width);
    let text = ask("--text-column", &options.text_column)?;
    let pair = ask("--text-pair-column", &options.text_pair_column)?;
    let mut label = ask("--label-column", &options.label_column)?;
    if labelled && width < 2 {
        return Err(Error::Data(format!(
            "{file}: line 1: one column; a label file needs a text and a label on every line"
        )));
    }
    let cells = |c: usize| rows.iter().map(move |row| row.get(c).map_or("", |cell| cell.as_str()));
    let bytes = |c: usize| cells(c).map(str::len).sum::<usize>();
    let values = |c: usize| cells(c).collect::<std::collections::HashSet<_>>().len();
    // With labels not asked for, a second column is one only if it repeats itself.
    if label.is_none() && width > 1 {
        label = (0..width)
            .filter(|&c| Some(c) != text && Some(c) != pair)
            .min_by_key(|&c| (values(c), bytes(c)))
            .filter(|&c| labelled || values(c) * 4 <= rows.len());
    }
    let text = text.or_else(|| {
        (0..width).filter(|&c| Some(c) != label && Some(c) != pair).max_by_key(|&c| bytes(c))
    });
    match text {
        Some(text) => Columns { text, pair, label }.apart(file),
        None => Err(Error::Usage(format!("{file}: no column is left for the text"))),
    }
}
