//! Every operation of the registry under everything that can be asked of an operation.
//!
//! | file | question |
//! |---|---|
//! | `names` | has every operation an entry, samples, errors, a big sample? |
//! | `values` | are the values those of the reference, in every dtype and layout? |
//! | `gradients` | is the whole Jacobian right, whatever the layout of inputs and gradient? |
//! | `bits` | are values and gradients the same bits on any number of threads and any instruction set? |
//! | `special` | what becomes of NaN, infinities, −0 and denormal numbers? |
//! | `errors` | does a wrong call give an error with name, reason and source line, and never a panic? |
//!
//! Fresh buffers are filled with NaN throughout, so a kernel that reads what it has not written is
//! found out here.

#[path = "../reference/mod.rs"]
mod reference;

mod bits;
mod errors;
mod gradients;
mod layouts;
mod names;
mod samples;
mod special;
mod values;

use handloom::Tensor;
use handloom::ops::registry::{self, Entry};
use reference::Array;

/// All entries; from here on fresh memory is NaN.
fn entries() -> Vec<Entry> {
    handloom::tensor::poison_fresh_buffers(true);
    registry::all()
}

/// A tensor as the reference reads it.
fn array(x: &Tensor) -> Array {
    Array::new(x.shape(), x.to_f64_vec().expect("a tensor can be read"))
}

fn arrays(all: &[Tensor]) -> Vec<Array> {
    all.iter().map(array).collect()
}

/// A failed expectation of one operation; they are collected so that one run shows all of them.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn check(&mut self, what: impl FnOnce() -> String, result: Result<(), String>) {
        if let Err(why) = result {
            self.0.push(format!("{}: {why}", what()));
        }
    }

    #[track_caller]
    fn report(self) {
        // The first three of each operation.
        let mut shown = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for failure in &self.0 {
            let operation = failure.split([' ', ',']).next().unwrap_or_default();
            shown.entry(operation).or_default().push(failure);
        }
        let shown: Vec<&str> =
            shown.values().flat_map(|all| &all[..all.len().min(3)]).copied().collect();
        assert!(self.0.is_empty(), "{} failures, among them:\n{}", self.0.len(), shown.join("\n"));
    }
}

/// Runs a function of one tensor and sends the gradient 1 back through each element.
fn gradient_of(entry: &Entry, leaf: &Tensor) {
    let y = (entry.run)(std::slice::from_ref(leaf), &Default::default()).unwrap();
    y[0].sum_all().unwrap().backward().unwrap();
}
