//! What a registry entry is made of: an operation, how to call it, on what, and what it must refuse.

use std::collections::BTreeMap;

use crate::cpu::philox::Key;
use crate::error::Result;
use crate::tensor::{DType, Dims, IntoShape, Tensor};

/// One operation.
pub struct Entry {
    /// The name of the operation and of its record on the tape.
    pub name: &'static str,
    /// Calls it on inputs and attributes.
    pub run: fn(&[Tensor], &Attrs) -> Result<Vec<Tensor>>,
    /// Inputs to try, small enough for a full Jacobian.
    pub samples: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
    /// Inputs it must refuse.
    pub errors: fn() -> Vec<ErrorCase>,
    /// Whether it has a derivative.
    pub differentiable: bool,
    /// The error allowed in `f32` against `f64`, relative to the largest value of the output.
    pub tolerance: f64,
}

/// One call: inputs and attributes.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What to make the input tensors from.
    pub inputs: Vec<Input>,
    /// Everything that is not a tensor.
    pub attrs: Attrs,
}

/// How to make one input tensor.
#[derive(Clone, Debug)]
pub enum Input {
    /// Real numbers spread over a range.
    Float {
        /// The shape.
        shape: Dims,
        /// The lower end.
        low: f64,
        /// The upper end.
        high: f64,
    },
    /// `u32` ids below a bound.
    Ids {
        /// The shape.
        shape: Dims,
        /// All ids are less than this.
        below: u32,
    },
    /// These very `u32` values.
    Exactly {
        /// The shape.
        shape: Dims,
        /// Row-major.
        values: Vec<u32>,
    },
}

/// Named numbers, flags and lists.
#[derive(Clone, Debug, Default)]
pub struct Attrs(pub BTreeMap<&'static str, Attr>);

/// One attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A real number.
    Float(f64),
    /// Whole numbers: axes, shapes, sizes.
    Ints(Vec<i64>),
    /// A flag.
    Bool(bool),
}

/// Inputs that an operation must refuse, and words that its message must hold.
pub struct ErrorCase {
    /// What is wrong with the inputs.
    pub what: &'static str,
    /// A part of the message expected.
    pub expect: &'static str,
    /// Makes the inputs.
    pub inputs: fn() -> Vec<Result<Tensor>>,
    /// The attributes of the call.
    pub attrs: Attrs,
}

impl Entry {
    /// An entry with nothing but a name and a way to call it.
    pub fn new(name: &'static str, run: fn(&[Tensor], &Attrs) -> Result<Vec<Tensor>>) -> Entry {
        Entry {
            name,
            run,
            samples: Box::new(Vec::new),
            errors: Vec::new,
            differentiable: true,
            tolerance: 1e-6,
        }
    }

    /// Sets the samples.
    pub fn samples(mut self, samples: impl Fn() -> Vec<Sample> + Send + Sync + 'static) -> Entry {
        self.samples = Box::new(samples);
        self
    }

    /// Sets the inputs that must be refused.
    pub fn errors(mut self, errors: fn() -> Vec<ErrorCase>) -> Entry {
        self.errors = errors;
        self
    }

    /// Sets the `f32` tolerance.
    pub fn tolerance(mut self, tolerance: f64) -> Entry {
        self.tolerance = tolerance;
        self
    }

    /// Marks an operation that has no derivative.
    pub fn not_differentiable(mut self) -> Entry {
        self.differentiable = false;
        self
    }
}

impl Sample {
    /// A call without attributes.
    pub fn of(inputs: impl IntoIterator<Item = Input>) -> Sample {
        Sample { inputs: inputs.into_iter().collect(), attrs: Attrs::default() }
    }

    /// One call for each shape.
    pub fn shapes(shapes: &[&[usize]], inputs: impl Fn(&[usize]) -> Vec<Input>) -> Vec<Sample> {
        shapes.iter().map(|shape| Sample::of(inputs(shape))).collect()
    }

    /// Adds a number.
    pub fn float(mut self, name: &'static str, value: f64) -> Sample {
        self.attrs.0.insert(name, Attr::Float(value));
        self
    }

    /// Adds whole numbers.
    pub fn ints(mut self, name: &'static str, values: &[i64]) -> Sample {
        self.attrs.0.insert(name, Attr::Ints(values.to_vec()));
        self
    }

    /// Adds a flag.
    pub fn flag(mut self, name: &'static str, value: bool) -> Sample {
        self.attrs.0.insert(name, Attr::Bool(value));
        self
    }

    /// The input tensors in `dtype` (for the real-valued ones), a pure function of `seed`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn tensors(&self, dtype: DType, seed: u64) -> Result<Vec<Tensor>> {
        let tensor = |(i, input): (usize, &Input)| {
            let key = Key { seed, stream: i as u64, step: 0 };
            match input {
                Input::Float { shape, low, high } => {
                    // Rounded through f32 so that every dtype sees the same values.
                    let x = Tensor::rand(shape, DType::F32, key)?.cast(DType::F64)?;
                    x.mul_scalar(high - low)?.add_scalar(*low)?.cast(DType::F32)?.cast(dtype)
                }
                Input::Ids { shape, below } => {
                    let x = Tensor::rand(shape, DType::F64, key)?.mul_scalar(*below as f64)?;
                    x.cast(DType::U32)
                }
                Input::Exactly { shape, values } => Tensor::from_slice(values, shape),
            }
        };
        self.inputs.iter().enumerate().map(tensor).collect()
    }
}

impl Input {
    /// Real numbers in a range.
    pub fn float(shape: impl IntoShape, low: f64, high: f64) -> Input {
        Input::Float { shape: shape.into_shape(), low, high }
    }

    /// Ids below a bound.
    pub fn ids(shape: impl IntoShape, below: u32) -> Input {
        Input::Ids { shape: shape.into_shape(), below }
    }

    /// These ids.
    pub fn exactly(shape: impl IntoShape, values: &[u32]) -> Input {
        Input::Exactly { shape: shape.into_shape(), values: values.to_vec() }
    }
}

impl Attrs {
    /// The number `name`; 0 where it is absent.
    pub fn float(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Attr::Float(value)) => *value,
            _ => 0.0,
        }
    }

    /// The whole numbers `name`; none where it is absent.
    pub fn ints(&self, name: &str) -> &[i64] {
        match self.0.get(name) {
            Some(Attr::Ints(values)) => values,
            _ => &[],
        }
    }

    /// The whole number `name`; 0 where it is absent.
    pub fn int(&self, name: &str) -> i64 {
        self.ints(name).first().copied().unwrap_or(0)
    }

    /// The whole number `name` as an axis.
    pub fn dim(&self, name: &str) -> isize {
        self.int(name) as isize
    }

    /// Whole numbers as a shape.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.ints(name).iter().map(|&n| n as usize).collect()
    }

    /// Whole numbers as axes.
    pub fn dims(&self, name: &str) -> Vec<isize> {
        self.ints(name).iter().map(|&n| n as isize).collect()
    }

    /// The flag `name`; false where it is absent.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Attr::Bool(true)))
    }

    /// Whether `name` is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl ErrorCase {
    /// A call without attributes that must fail with `expect` in its message.
    pub fn new(
        what: &'static str,
        expect: &'static str,
        inputs: fn() -> Vec<Result<Tensor>>,
    ) -> ErrorCase {
        ErrorCase { what, expect, inputs, attrs: Attrs::default() }
    }

    /// Adds whole numbers.
    pub fn ints(mut self, name: &'static str, values: &[i64]) -> ErrorCase {
        self.attrs.0.insert(name, Attr::Ints(values.to_vec()));
        self
    }

    /// Adds a number.
    pub fn float(mut self, name: &'static str, value: f64) -> ErrorCase {
        self.attrs.0.insert(name, Attr::Float(value));
        self
    }

    /// Adds a flag.
    pub fn flag(mut self, name: &'static str, value: bool) -> ErrorCase {
        self.attrs.0.insert(name, Attr::Bool(value));
        self
    }
}
