//! The table of token vectors.

use super::{Init, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::Result;
use crate::ops;
use crate::tensor::Tensor;

/// `torch.nn.Embedding`: weight `[num_embeddings, embedding_dim]`, one row an id.
pub struct Embedding {
    /// `[num_embeddings, embedding_dim]`
    pub weight: Parameter,
    scope: Scope,
}

impl Embedding {
    /// A table with PyTorch's first values: standard normal.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(at: &Init, num_embeddings: usize, embedding_dim: usize) -> Result<Embedding> {
        Embedding::normal(at, num_embeddings, embedding_dim, 1.0)
    }

    /// A table that starts normal with deviation `std`.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn normal(
        at: &Init,
        num_embeddings: usize,
        embedding_dim: usize,
        std: f64,
    ) -> Result<Embedding> {
        Embedding::from_values(at, at.normal("weight", [num_embeddings, embedding_dim], std)?)
    }

    /// A table that starts uniform in ±bound.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn uniform(
        at: &Init,
        num_embeddings: usize,
        embedding_dim: usize,
        bound: f64,
    ) -> Result<Embedding> {
        Embedding::from_values(at, at.uniform("weight", [num_embeddings, embedding_dim], bound)?)
    }

    /// A table with given values `[num_embeddings, embedding_dim]`.
    ///
    /// # Errors
    /// For `u32` values.
    pub fn from_values(at: &Init, weight: Tensor) -> Result<Embedding> {
        Ok(Embedding { weight: Parameter::new(weight)?, scope: at.scope() })
    }

    /// ids `[…]` (`u32`) → `[…, embedding_dim]`.
    ///
    /// # Errors
    /// When an id is not below `num_embeddings`.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let _scope = self.scope.enter();
        ops::embedding(&self.weight.tensor(), ids)
    }

    /// The rows `start..start + len` as they stand, `[len, embedding_dim]`: positions need no list
    /// of ids.
    ///
    /// # Errors
    /// When the range leaves the table.
    #[track_caller]
    pub fn rows(&self, start: usize, len: usize) -> Result<Tensor> {
        let _scope = self.scope.enter();
        self.weight.tensor().narrow(0, start, len)
    }

    /// The table as the output layer of a tied model: x `[…, embedding_dim]` → `[…,
    /// num_embeddings]`.
    ///
    /// # Errors
    /// When x has another width.
    #[track_caller]
    pub fn as_head(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        ops::linear(x, &self.weight.tensor(), bias)
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        v.parameter("weight", &self.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn rows_come_out_and_their_gradients_go_back() {
        let table = Embedding::new(&Init::new(1).at("e"), 5, 3).unwrap();
        let ids = Tensor::from_slice(&[4u32, 0, 4], [3]).unwrap();
        let y = table.forward(&ids).unwrap();
        let all = table.weight.data().to_vec::<f32>().unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [&all[12..15], &all[0..3], &all[12..15]].concat());
        y.sum_all().unwrap().backward().unwrap();
        let grad = table.weight.take_grad().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(grad, [[1.0f32; 3], [0.0; 3], [0.0; 3], [0.0; 3], [2.0; 3]].concat());
        table.rows(1, 2).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = table.weight.take_grad().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(grad, [[0.0f32; 3], [1.0; 3], [1.0; 3], [0.0; 3], [0.0; 3]].concat());
    }

    #[test]
    fn an_id_beyond_the_table_is_refused() {
        let table = Embedding::new(&Init::new(1).at("e"), 5, 3).unwrap();
        let ids = Tensor::full(2, 5.0, DType::U32).unwrap();
        assert!(table.forward(&ids).unwrap_err().to_string().contains("not below 5"));
    }
}
