//! What a model came to on data with gold labels, in the one form that all tasks share.
//!
//! A task counts in its own way and then says it in figures, tables and remarks. Whoever compares runs,
//! prints or saves needs to know no task.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The outcome of a test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The name of the figure that runs are compared by.
    pub metric: String,
    /// Figures by name, the most telling first.
    pub figures: Vec<(String, f64)>,
    /// Tables for people.
    pub tables: Vec<Table>,
    /// Sentences on what was cut, unknown or left out.
    pub remarks: Vec<String>,
    /// Everything, for `--json`.
    pub json: Map<String, Value>,
}

/// A table for people: the first column holds names, the others numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What the columns are called.
    pub head: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell of a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A count.
    Count(u64),
    /// A share or another real number.
    Number(f64),
    /// A name.
    Text(String),
}

impl Report {
    /// The figure called `name`.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }

    /// The figure that runs are compared by; 0 where a damaged file lacks it.
    pub fn value(&self) -> f64 {
        self.figure(&self.metric).unwrap_or(0.0)
    }
}
