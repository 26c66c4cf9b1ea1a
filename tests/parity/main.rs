//! Parity with PyTorch: whole layers, and ten training steps of three models, on fixtures written by
//! `fixtures/make_parity.py`. No Python is needed here.

mod layers;
mod training;

use handloom::nn::Module;
use handloom::{DType, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The tensors of a file, by name. Whole numbers become `u32`.
fn read(name: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let four = |f: fn([u8; 4]) -> f64| -> Vec<f64> {
            view.data().chunks_exact(4).map(|b| f(b.try_into().unwrap())).collect()
        };
        let (values, dtype) = match view.dtype() {
            Dtype::F32 => (four(|b| f32::from_le_bytes(b) as f64), DType::F32),
            Dtype::I32 => (four(|b| i32::from_le_bytes(b) as f64), DType::U32),
            Dtype::F64 => {
                let eight = view.data().chunks_exact(8);
                (eight.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(), DType::F64)
            }
            other => panic!("{name} is {other:?}"),
        };
        let tensor = Tensor::from_slice(&values, view.shape()).unwrap().to_dtype(dtype).unwrap();
        (name, tensor)
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// The tensors whose names begin with `prefix`, without it.
fn under(all: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeMap<String, Tensor> {
    let rest =
        |(name, x): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), x.clone()));
    all.iter().filter_map(rest).collect()
}

/// ‖got − expected‖ / ‖expected‖ over all elements.
fn relative_l2(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.shape(), expected.shape());
    let (got, expected) = (got.to_f64_vec().unwrap(), expected.to_f64_vec().unwrap());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(&expected).map(|(a, b)| a - b));
    off / norm(&mut expected.iter().copied()).max(1e-30)
}

/// Puts weights into a module under the names PyTorch gives them; every one must fit.
fn load(module: &dyn Module, weights: &BTreeMap<String, Tensor>) {
    let list: Vec<(String, Tensor)> = weights.iter().map(|(n, x)| (n.clone(), x.clone())).collect();
    module.load_state_dict(&list, true).unwrap();
}
