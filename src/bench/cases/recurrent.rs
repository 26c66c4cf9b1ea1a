//! RNN, LSTM and GRU layers, forward and with all gradients.

use super::super::{Case, Cost, Outputs, Work, reference};
use super::{normal, take_grads, tolerance};
use crate::error::Result;
use crate::nn::{Init, Module, Parameter, Recurrent, RecurrentKind, RecurrentOptions};
use crate::tensor::{DType, Tensor};

/// B, T, I, H.
const SHAPES: [[usize; 4]; 3] = [[4, 8, 16, 16], [32, 64, 128, 128], [32, 35, 512, 512]];

pub(super) fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for (op, kind) in [
        ("rnn_fwdbwd", RecurrentKind::RnnTanh),
        ("lstm_fwdbwd", RecurrentKind::Lstm),
        ("gru_fwdbwd", RecurrentKind::Gru),
    ] {
        for shape in SHAPES {
            let [b, t, i, h] = shape;
            let name = format!("B{b}T{t}I{i}H{h}");
            let case = Case::new("rnn", op, name, DType::F32, move || work(kind, shape));
            list.push(if h <= 16 { case.quick() } else { case });
        }
    }
    list
}

fn work(kind: RecurrentKind, [b, t, i, h]: [usize; 4]) -> Result<Work> {
    let options = RecurrentOptions { batch_first: true, ..RecurrentOptions::default() };
    let layer = Recurrent::new(&Init::new(7), kind, i, h, &options)?;
    let x = normal(&[b, t, i], DType::F32, 1)?;
    let dy = normal(&[b, t, h], DType::F32, 2)?;
    let gates = kind.gates();
    let weights: Vec<Tensor> = layer.state_dict().into_iter().map(|(_, tensor)| tensor).collect();
    let of = (x.clone(), dy.clone());
    let x = x.requires_grad_()?;
    // Forward's products with W and U, and twice as much on the way back.
    let flops = 3.0 * 2.0 * (b * t * gates * h * (i + h)) as f64;
    let bytes = |n: usize| 4.0 * n as f64;
    // Weights once a pass; x, y and the gates there and back.
    let reads = bytes(2 * gates * h * (i + h) + 2 * b * t * (i + h + gates * h));
    let writes = bytes(gates * h * (i + h) + b * t * (i + h + 2 * gates * h));
    Ok(Work::new(
        Cost::flops(flops, reads, writes).tokens(b * t),
        tolerance(DType::F32),
        move || {
            layer.forward(&x, None, None)?.0.backward_with(dy.clone())?;
            let mut outputs: Outputs = take_grads(std::slice::from_ref(&x));
            layer.for_each_parameter(&mut |_: &str, p: &Parameter| outputs.extend(p.take_grad()));
            Ok(outputs)
        },
        move |got| {
            let all: Vec<&Tensor> = std::iter::once(&of.0).chain(&weights).collect();
            let leaves = reference::leaves(&all)?;
            let y = reference::Recurrence { gates, weights: &leaves[1..] }.run(&leaves[0])?;
            reference::distances(got, &reference::gradients(&y, &of.1, &leaves)?)
        },
    ))
}
