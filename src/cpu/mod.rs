//! CPU kernels: slices and strides in, slices out; they know no tensor.
//!
//! # The idea
//!
//! Every kernel is written once, over a vector of sixteen lanes ([`simd::Vector`]). On AVX-512 that is
//! one register, on AVX2 two, on NEON four, elsewhere an array. Because the lanes are always
//! sixteen and every multiply-add is fused, a kernel gives the same bits on each of them: a sum over a
//! row has the same sixteen partial sums and the same tree everywhere.
//!
//! Work is cut into chunks whose size depends on the shape alone, never on how many threads there are
//! ([`threads`]), and sums that cross chunks are added in the order of the chunks. So the bits do not
//! depend on the number of threads either.
//!
//! # Reading order
//!
//! [`simd`] (the vector, its instruction sets, `exp` and friends), [`threads`], then any kernel:
//! it has the name of the operation in [`crate::ops`] that calls it.

pub mod adamw;
pub mod attention;
pub mod bce_with_logits;
pub mod binary;
pub mod crf;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gemm;
pub mod gru;
pub mod index;
pub mod layer_norm;
pub mod linear;
pub mod lstm;
pub mod norm;
pub mod philox;
pub mod reduce;
pub mod rms_norm;
pub mod rnn;
pub mod roof;
pub mod sgd;
pub mod simd;
pub mod softmax;
pub mod strided;
pub mod threads;
pub mod unary;

mod crew;
mod recurrent;
mod rows;
mod scratch;
mod walk;
