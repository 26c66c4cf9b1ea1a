//! The registry: for each operation how to call it, what to call it with and what it must refuse.
//!
//! Tests loop over [`all`]: values against references written apart from this crate, gradients
//! against finite differences under many layouts, bits over threads and instruction sets, errors for
//! wrong inputs. An operation without an entry fails the tests.

pub use super::entry::{Attr, Attrs, Entry, ErrorCase, Input, Sample};

/// Every operation there is.
pub fn all() -> Vec<Entry> {
    [
        super::unary::entries(),
        super::binary::entries(),
        super::where_::entries(),
        super::reduce::entries(),
        super::view::entries(),
        super::cat::entries(),
        super::cast::entries(),
        super::matmul::entries(),
        super::linear::entries(),
        super::softmax::entries(),
        super::cross_entropy::entries(),
        super::linear_cross_entropy::entries(),
        super::binary_cross_entropy::entries(),
        super::crf::entries(),
        super::layer_norm::entries(),
        super::rms_norm::entries(),
        super::embedding::entries(),
        super::index::entries(),
        super::dropout::entries(),
        super::scaled_dot_product_attention::entries(),
        super::rnn::entries(),
        super::lstm::entries(),
        super::gru::entries(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
