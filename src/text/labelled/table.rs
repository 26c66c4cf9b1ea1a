//! Files as rows of cells, whatever the layout.

use std::collections::HashSet;

use serde_json::Value;

use super::columns::{self, Columns};
use super::{Format, Raw, ReadOptions};
use crate::error::{Error, Result};

/// A row and the line it begins on.
type Line = (u64, Vec<String>);

/// Reads all rows; also says which columns were taken. `labelled`: whether a label is needed.
pub(super) fn read(
    file: &str,
    text: &str,
    options: &ReadOptions,
    labelled: bool,
) -> Result<(Vec<Raw>, String)> {
    let format = match options.format {
        Format::Auto => guess(file, text, labelled)?,
        given => given,
    };
    match format {
        Format::Jsonl => jsonl(file, text, options, labelled),
        Format::LabelText => label_text(file, text),
        Format::Csv => table(file, csv(file, text)?, options, labelled),
        Format::Tsv => table(file, tsv(text), options, labelled),
        Format::Conll | Format::Auto => Err(Error::Usage(format!(
            "{file}: words and tags in columns are for --task ner or srl; this task reads csv, tsv, \
             jsonl or label_text"
        ))),
    }
}

/// The format by the file's ending, else by its first lines.
fn guess(file: &str, text: &str, labelled: bool) -> Result<Format> {
    match file.rsplit('.').next().map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => return Ok(Format::Csv),
        Some("tsv") => return Ok(Format::Tsv),
        Some("jsonl" | "json" | "ndjson") => return Ok(Format::Jsonl),
        _ => {}
    }
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).take(1000).collect();
    let all = |test: &dyn Fn(&str) -> bool| !lines.is_empty() && lines.iter().all(|l| test(l));
    if all(&|line| line.starts_with('{')) {
        return Ok(Format::Jsonl);
    }
    if all(&|line| line.contains('\t')) || !labelled {
        return Ok(Format::Tsv);
    }
    let firsts: HashSet<&str> = lines.iter().filter_map(|l| Some(l.split_once(' ')?.0)).collect();
    if all(&|line| line.contains(' ')) && firsts.len() * 2 <= lines.len().max(3) {
        return Ok(Format::LabelText);
    }
    Err(Error::Usage(format!(
        "{file}: the layout is not clear; pass --format csv, tsv, jsonl or label_text"
    )))
}

/// Tab-separated lines. Quotes are ordinary characters, as in GLUE's files.
fn tsv(text: &str) -> Vec<Line> {
    text.lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty())
        .map(|(line, number)| (number, line.split('\t').map(String::from).collect()))
        .collect()
}

#[cfg(feature = "cli")]
fn csv(file: &str, text: &str) -> Result<Vec<Line>> {
    let first = text.lines().next().unwrap_or("");
    let delimiter = [',', '\t', ';'].into_iter().find(|&d| first.contains(d)).unwrap_or(',');
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter as u8)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    let mut last = 0;
    for record in reader.records() {
        let record = record.map_err(|e| Error::Data(format!("{file}: not valid CSV: {e}")))?;
        let place = record.position();
        let line = place.map_or(0, csv::Position::line);
        last = place.map_or(0, |p| p.byte() as usize);
        rows.push((line, record.iter().map(String::from).collect()));
    }
    // A quote that is never closed swallows the rest of the file into one field.
    let tail = text.get(last..).unwrap_or("").trim_start_matches(['\r', '\n']);
    let quoted = tail.starts_with('"') || tail.contains(&format!("{delimiter}\"")[..]);
    if quoted && tail.matches('"').count() % 2 == 1 {
        let line = rows.last().map_or(1, |row: &Line| row.0);
        return Err(Error::Data(format!(
            "{file}: line {line}: a quote is opened and never closed"
        )));
    }
    Ok(rows)
}

#[cfg(not(feature = "cli"))]
fn csv(file: &str, _text: &str) -> Result<Vec<Line>> {
    Err(Error::Usage(format!(
        "{file}: this build reads no CSV (feature \"cli\"); use TSV or JSONL"
    )))
}

/// Chooses the columns and takes them out of each row.
fn table(
    file: &str,
    mut rows: Vec<Line>,
    options: &ReadOptions,
    labelled: bool,
) -> Result<(Vec<Raw>, String)> {
    let Some((_, first)) = rows.first() else {
        return Err(Error::Data(format!("{file}: there are no rows in it")));
    };
    let names = columns::is_header(first, options).then(|| rows.remove(0).1);
    let width = names.as_ref().or(rows.first().map(|row| &row.1)).map_or(0, Vec::len);
    for (line, cells) in &rows {
        if cells.len() != width {
            return Err(Error::Data(format!(
                "{file}: line {line}: {} columns, but the first line has {width}",
                cells.len()
            )));
        }
    }
    let chosen = match &names {
        Some(names) => columns::by_name(file, names, options, labelled)?,
        None => {
            let cells: Vec<&[String]> = rows.iter().map(|row| row.1.as_slice()).collect();
            columns::by_content(file, &cells, options, labelled)?
        }
    };
    let described = chosen.describe(names.as_deref(), width);
    let raw = rows.into_iter().map(|(line, cells)| pick(file, line, cells, &chosen, labelled));
    Ok((raw.collect::<Result<_>>()?, described))
}

fn pick(
    file: &str,
    line: u64,
    mut cells: Vec<String>,
    columns: &Columns,
    labelled: bool,
) -> Result<Raw> {
    let label = columns.label.map(|c| cells[c].trim().to_string()).unwrap_or_default();
    if label.is_empty() && labelled {
        return Err(Error::Data(format!("{file}: line {line}: the label is empty")));
    }
    let mut take = |column: usize| std::mem::take(&mut cells[column]);
    let text = take(columns.text);
    Ok(Raw { text, text_pair: columns.pair.map(take), label, line })
}

/// `3 Who was Galileo ?`
fn label_text(file: &str, text: &str) -> Result<(Vec<Raw>, String)> {
    let rows = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let raw = rows.map(|(row, line)| match row.split_once([' ', '\t']) {
        Some((label, text)) if !label.is_empty() => {
            Ok(Raw { text: text.into(), text_pair: None, label: label.into(), line })
        }
        _ => Err(Error::Data(format!("{file}: line {line}: expected a label, a space and a text"))),
    });
    Ok((raw.collect::<Result<_>>()?, "the label, then the text".into()))
}

/// One object a line. The columns are its keys; the first line decides which are taken.
fn jsonl(
    file: &str,
    text: &str,
    options: &ReadOptions,
    labelled: bool,
) -> Result<(Vec<Raw>, String)> {
    let mut chosen: Option<(Vec<String>, Columns)> = None;
    let mut raw = Vec::new();
    for (row, line) in text.lines().zip(1..).filter(|(row, _)| !row.trim().is_empty()) {
        let wrong = |why: String| Error::Data(format!("{file}: line {line}: {why}"));
        let Value::Object(object) = crate::json::parse(row.as_bytes()).map_err(wrong)? else {
            return Err(wrong("not a JSON object".into()));
        };
        if chosen.is_none() {
            let names: Vec<String> = object.keys().cloned().collect();
            let columns = columns::by_name(file, &names, options, labelled)?;
            chosen = Some((names, columns));
        }
        let Some((names, columns)) = &chosen else { continue };
        let cell = |column: usize| match object.get(&names[column]) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            Some(_) => Err(wrong(format!("\"{}\" is neither text nor number", names[column]))),
            None => Err(wrong(format!("there is no \"{}\"", names[column]))),
        };
        let label = columns.label.map(cell).transpose()?.unwrap_or_default().trim().to_string();
        if label.is_empty() && labelled {
            return Err(wrong("the label is empty".into()));
        }
        let (text, text_pair) = (cell(columns.text)?, columns.pair.map(cell).transpose()?);
        raw.push(Raw { text, text_pair, label, line });
    }
    let described = chosen.map(|(names, columns)| columns.describe(Some(&names), names.len()));
    Ok((raw, described.unwrap_or_default()))
}
