//! Values and gradients against PyTorch's, from `fixtures/ops.json` (written by `fixtures/make_ops.py`;
//! no Python is needed here).

use handloom::ops::registry::{self, Attr, Attrs, Entry};
use handloom::{DType, Tensor};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Operations without a counterpart in PyTorch that gives the same numbers, and why.
const OURS_ALONE: [(&str, &str); 1] = [("dropout", "its random numbers are its own")];

fn load() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ops.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    file["cases"].as_array_mut().unwrap().drain(..).collect()
}

/// `{"shape": …, "values": …}` in `dtype`, or `{"shape": …, "ids": …}`.
fn tensor(value: &Value, dtype: DType) -> Tensor {
    let number = |v: &Value| v.as_f64().unwrap();
    let shape: Vec<usize> =
        value["shape"].as_array().unwrap().iter().map(|n| number(n) as usize).collect();
    match value.get("ids") {
        Some(ids) => {
            let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|n| number(n) as u32).collect();
            Tensor::from_slice(&ids, &shape).unwrap()
        }
        None => {
            let values: Vec<f64> = value["values"].as_array().unwrap().iter().map(number).collect();
            Tensor::from_slice(&values, &shape).unwrap().to_dtype(dtype).unwrap()
        }
    }
}

fn attrs(value: &Value) -> Attrs {
    let attr = |v: &Value| match v {
        Value::Bool(flag) => Attr::Bool(*flag),
        Value::Array(list) => Attr::Ints(list.iter().map(|n| n.as_i64().unwrap()).collect()),
        number => Attr::Float(number.as_f64().unwrap()),
    };
    let pairs = value.as_object().unwrap().iter();
    Attrs(pairs.map(|(name, v)| (&*name.clone().leak(), attr(v))).collect())
}

/// Whether `got` is `expected`, within `tolerance` of its largest element.
fn compare(got: &Tensor, expected: &Value, tolerance: f64) -> Result<(), String> {
    let expected = tensor(expected, DType::F64);
    if got.shape() != expected.shape() {
        return Err(format!("shape {:?}, PyTorch's {:?}", got.shape(), expected.shape()));
    }
    let (got, expected) = (got.to_f64_vec().unwrap(), expected.to_f64_vec().unwrap());
    let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
        if (a - b).abs() > tolerance * largest.max(1e-3) || a.is_nan() {
            return Err(format!("[{i}] is {a:e}, PyTorch's {b:e}"));
        }
    }
    Ok(())
}

fn check(entry: &Entry, case: &Value, dtype: DType) -> Result<(), String> {
    // The file holds 13 digits.
    let tolerance = if dtype == DType::F64 { 1e-11 } else { 5.0 * entry.tolerance };
    let list = |name: &str| case[name].as_array().unwrap();
    let mut inputs: Vec<Tensor> = list("inputs").iter().map(|x| tensor(x, dtype)).collect();
    for (x, grad) in inputs.iter_mut().zip(list("grads")) {
        if !grad.is_null() {
            *x = x.requires_grad_().unwrap();
        }
    }
    let outputs = (entry.run)(&inputs, &attrs(&case["attrs"])).map_err(|e| e.to_string())?;
    if outputs.len() != list("outputs").len() {
        return Err(format!("{} outputs, PyTorch's {}", outputs.len(), list("outputs").len()));
    }
    let mut total = Tensor::scalar(0.0, dtype).unwrap();
    for ((y, expected), dy) in outputs.iter().zip(list("outputs")).zip(list("dys")) {
        compare(y, expected, tolerance)?;
        if !dy.is_null() {
            let dy = tensor(dy, y.dtype());
            let term = y.mul(&dy).unwrap().sum_all().unwrap();
            total = total.add(&term.to_dtype(dtype).unwrap()).unwrap();
        }
    }
    if total.requires_grad() {
        total.backward().map_err(|e| e.to_string())?;
    }
    for (i, (x, grad)) in inputs.iter().zip(list("grads")).enumerate() {
        if !grad.is_null() {
            let got = x.grad().ok_or(format!("input {i} received no gradient"))?;
            compare(&got, grad, 2.0 * tolerance)
                .map_err(|why| format!("gradient of input {i}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn operations_agree_with_pytorch() {
    let entries = registry::all();
    let mut failures = Vec::new();
    let mut covered = BTreeSet::new();
    for (number, case) in load().iter().enumerate() {
        let name = case["op"].as_str().unwrap();
        let entry = entries.iter().find(|e| e.name == name).expect("an entry for each fixture");
        covered.insert(entry.name);
        for dtype in [DType::F64, DType::F32] {
            if let Err(why) = check(entry, case, dtype) {
                failures.push(format!("case {number}, {name} {dtype} {}: {why}", case["attrs"]));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    let alone = |name: &&str| OURS_ALONE.iter().any(|(n, _)| n == name);
    let missing: Vec<_> =
        entries.iter().map(|e| e.name).filter(|n| !covered.contains(n) && !alone(n)).collect();
    assert!(missing.is_empty(), "add these to fixtures/make_ops.py: {missing:?}");
}
