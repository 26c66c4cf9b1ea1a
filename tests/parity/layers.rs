//! Layers: outputs, gradients of weights and of inputs.

use super::{load, read, relative_l2, under};
use handloom::nn::{
    Activation, AttentionCall, DecoderMasks, Gru, Init, Lstm, Module, MultiheadAttention,
    MultiheadAttentionOptions, RecurrentOptions, Rnn, TransformerDecoderLayer,
    TransformerEncoderLayer, TransformerLayerOptions,
};
use handloom::ops::Nonlinearity;
use handloom::{DType, Result, Tensor};
use std::collections::BTreeMap;

type Named = BTreeMap<String, Tensor>;

/// Runs a layer on the inputs of `name` in the fixture and compares all that comes out and back.
fn check<M: Module>(
    name: &str,
    layer: &M,
    forward: impl Fn(&Named) -> Result<Vec<(&'static str, Tensor)>>,
) {
    let all = under(&read("layers.safetensors"), &format!("{name}/"));
    assert!(!all.is_empty(), "{name} is not in the fixture");
    let to = |x: &Tensor, dtype: DType| {
        if x.dtype().is_float() { x.to_dtype(dtype).unwrap() } else { x.clone() }
    };
    // In double precision only the rounding of the fixture is left, in f32 that of the arithmetic.
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 2e-7)] {
        load(layer, &under(&all, "weight."));
        layer.for_each_parameter(&mut |_, p| p.convert(dtype).unwrap());
        let leaf = |(n, x): (String, Tensor)| {
            let x = to(&x, dtype);
            (n, if x.dtype().is_float() { x.requires_grad_().unwrap() } else { x })
        };
        let inputs: Named = under(&all, "input.").into_iter().map(leaf).collect();
        let outputs = forward(&inputs).unwrap();
        let expected = under(&all, "output.");
        assert_eq!(outputs.len(), expected.len(), "{name}: outputs");
        let mut total = Tensor::scalar(0.0, dtype).unwrap();
        for (what, y) in &outputs {
            let off = relative_l2(y, &expected[*what]);
            assert!(off < tolerance, "{name} {dtype}: {what} is off by {off:e}");
            let dy = to(&all[&format!("dy.{what}")], dtype);
            total = total.add(&y.mul(&dy).unwrap().sum_all().unwrap()).unwrap();
        }
        total.backward().unwrap();
        let mut seen = 0;
        let expected = under(&all, "grad.");
        layer.for_each_parameter(&mut |parameter, p| {
            let grad =
                p.take_grad().unwrap_or_else(|| panic!("{name}: {parameter} has no gradient"));
            let off = relative_l2(&grad, &expected[parameter]);
            assert!(
                off < 2.0 * tolerance,
                "{name} {dtype}: gradient of {parameter} is off by {off:e}"
            );
            seen += 1;
        });
        assert_eq!(seen, expected.len(), "{name}: parameters");
        for (input, expected) in under(&all, "dinput.") {
            let off = relative_l2(&inputs[&input].grad().unwrap(), &expected);
            assert!(off < 2.0 * tolerance, "{name} {dtype}: gradient of {input} is off by {off:e}");
        }
    }
}

#[test]
fn recurrent_layers() {
    let options = RecurrentOptions { num_layers: 2, bidirectional: true, ..Default::default() };
    let at = Init::new(0);
    let rnn = Rnn::new(&at, 3, 4, Nonlinearity::Tanh, &options).unwrap();
    check("rnn", &rnn, |x| {
        let (y, h_n) = rnn.forward(&x["x"], Some(&x["h0"]), None)?;
        Ok(vec![("y", y), ("h_n", h_n)])
    });
    let gru = Gru::new(&at, 3, 4, &options).unwrap();
    check("gru", &gru, |x| {
        let (y, h_n) = gru.forward(&x["x"], Some(&x["h0"]), None)?;
        Ok(vec![("y", y), ("h_n", h_n)])
    });
    let lstm = Lstm::new(&at, 3, 4, &options).unwrap();
    check("lstm", &lstm, |x| {
        let (y, (h_n, c_n)) = lstm.forward(&x["x"], Some((&x["h0"], &x["c0"])), None)?;
        Ok(vec![("y", y), ("h_n", h_n), ("c_n", c_n)])
    });
}

fn attention(bias: bool) -> MultiheadAttention {
    let options = MultiheadAttentionOptions { bias, batch_first: true, ..Default::default() };
    MultiheadAttention::new(&Init::new(0), 8, 2, &options).unwrap()
}

#[test]
fn attention_of_a_sequence_to_itself() {
    let layer = attention(true);
    check("attention_self", &layer, |x| {
        Ok(vec![("y", layer.forward_self(&x["x"], AttentionCall::default())?)])
    });
    let unbiased = attention(false);
    check("attention_causal", &unbiased, |x| {
        let call = AttentionCall { causal: true, ..Default::default() };
        Ok(vec![("y", unbiased.forward_self(&x["x"], call)?)])
    });
}

#[test]
fn attention_with_its_weights() {
    let layer = attention(true);
    let outputs = |(y, weights): (Tensor, Option<Tensor>)| {
        vec![("y", y), ("weights", weights.expect("they were asked for"))]
    };
    check("attention_padded_weights", &layer, |x| {
        let padding = Some(&x["padding"]);
        let call =
            AttentionCall { key_padding_mask: padding, need_weights: true, ..Default::default() };
        let x = &x["x"];
        Ok(outputs(layer.forward(x, x, x, call)?))
    });
    check("attention_causal_head_weights", &layer, |x| {
        let call = AttentionCall {
            causal: true,
            need_weights: true,
            per_head_weights: true,
            ..Default::default()
        };
        let x = &x["x"];
        Ok(outputs(layer.forward(x, x, x, call)?))
    });
    check("attention_cross", &layer, |x| {
        let padding = Some(&x["padding"]);
        let call =
            AttentionCall { key_padding_mask: padding, need_weights: true, ..Default::default() };
        Ok(outputs(layer.forward(&x["x"], &x["memory"], &x["memory"], call)?))
    });
}

#[test]
fn transformer_layers_before_and_after_the_norm() {
    for (order, norm_first) in [("post", false), ("pre", true)] {
        let options = TransformerLayerOptions {
            dim_feedforward: 12,
            dropout: 0.0,
            batch_first: true,
            norm_first,
            activation: Activation::Gelu,
            ..Default::default()
        };
        let at = Init::new(0);
        let encoder = TransformerEncoderLayer::new(&at, 8, 2, &options).unwrap();
        check(&format!("encoder_{order}"), &encoder, |x| {
            Ok(vec![("y", encoder.forward(&x["x"], Some(&x["padding"]), false)?)])
        });
        let options = TransformerLayerOptions { activation: Activation::Relu, ..options };
        let decoder = TransformerDecoderLayer::new(&at, 8, 2, &options).unwrap();
        check(&format!("decoder_{order}"), &decoder, |x| {
            let masks = DecoderMasks {
                causal: true,
                memory_padding: Some(&x["padding"]),
                ..Default::default()
            };
            Ok(vec![("y", decoder.forward(&x["x"], &x["memory"], masks)?)])
        });
    }
}
