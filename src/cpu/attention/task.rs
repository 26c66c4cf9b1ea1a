//! What a task of either direction works on.

use super::dropout::Dropout;
use super::{Input, Options, Shape};
use crate::cpu::gemm::Tiles;

/// A task of forward: some queries of one head.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    pub(super) at: (usize, usize),
    pub(super) queries: (usize, usize),
    /// Keys that any of the queries sees.
    pub(super) keys: usize,
    /// d, filled up to whole vectors.
    pub(super) width: usize,
    pub(super) inputs: [Input<'a, T>; 3],
    pub(super) dropout: Option<Dropout>,
    pub(super) shape: &'a Shape,
    pub(super) options: &'a Options<'a>,
}

/// A task of backward: some queries and some keys of one head.
#[derive(Clone, Copy)]
pub(super) struct Task<'a, T> {
    pub(super) at: (usize, usize),
    pub(super) queries: (usize, usize),
    pub(super) keys: (usize, usize),
    /// d, filled up to whole vectors.
    pub(super) width: usize,
    /// q, k, v, dO, O.
    pub(super) inputs: [Input<'a, T>; 5],
    pub(super) lse: &'a [T],
    pub(super) dropout: Option<Dropout>,
    pub(super) tiles: Option<Tiles>,
    pub(super) shape: &'a Shape,
    pub(super) options: &'a Options<'a>,
}
