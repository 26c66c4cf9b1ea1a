//! A conditional random field on top of a tagger: how well one tag follows another.

use super::{Init, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::Result;
use crate::ops::{self, CrfTables};
use crate::tensor::Tensor;

/// The tables of a linear-chain CRF over K tags, with the names of the package `pytorch-crf`.
pub struct Crf {
    /// `[K, K]`: from the row's tag to the column's.
    pub transitions: Parameter,
    /// `[K]`: for the first tag.
    pub start_transitions: Parameter,
    /// `[K]`: for the last tag.
    pub end_transitions: Parameter,
    scope: Scope,
}

impl Crf {
    /// Tables that start uniform in ±0.1.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(at: &Init, tags: usize) -> Result<Crf> {
        let vector = |name| Parameter::new(at.uniform(name, tags, 0.1)?);
        Ok(Crf {
            transitions: Parameter::new(at.uniform("transitions", [tags, tags], 0.1)?)?,
            start_transitions: vector("start_transitions")?,
            end_transitions: vector("end_transitions")?,
            scope: at.scope(),
        })
    }

    /// The loss of each row, `[B]`; see [`ops::crf`].
    ///
    /// # Errors
    /// As [`ops::crf`].
    pub fn loss(&self, emissions: &Tensor, tags: &Tensor, lengths: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        let (a, s, f) = (
            self.transitions.tensor(),
            self.start_transitions.tensor(),
            self.end_transitions.tensor(),
        );
        let tables = CrfTables { transitions: &a, start: &s, end: &f };
        ops::crf(emissions, &tables, tags, lengths)
    }
}

impl Module for Crf {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("start_transitions", &self.start_transitions);
        v.parameter("end_transitions", &self.end_transitions);
        v.parameter("transitions", &self.transitions);
    }
}
