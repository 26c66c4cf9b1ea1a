//! What layers promise: ways that should lead to the same numbers do.

use super::*;
use crate::autograd::{GradcheckOptions, gradcheck, no_grad, training};
use crate::ops::Key;
use crate::tensor::{DType, Tensor};

fn randn(shape: impl crate::tensor::IntoShape, stream: u64) -> Tensor {
    Tensor::randn(shape, DType::F32, Key { seed: 77, stream, step: 0 }).unwrap()
}

#[track_caller]
fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f64_vec().unwrap(), b.to_f64_vec().unwrap());
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "at {i}: {x} and {y}");
    }
}

const KINDS: [RecurrentKind; 4] =
    [RecurrentKind::RnnTanh, RecurrentKind::RnnRelu, RecurrentKind::Lstm, RecurrentKind::Gru];

fn recurrent(kind: RecurrentKind, options: &RecurrentOptions) -> Recurrent {
    Recurrent::new(&Init::new(11).at("rnn"), kind, 3, 5, options).unwrap()
}

/// The weighted sum of outputs and final states, so that each element has a gradient of its own.
fn mixed(y: &Tensor, state: &RecurrentState) -> Tensor {
    let weigh = |x: &Tensor, stream| x.mul(&randn(x.shape(), stream)).unwrap().sum_all().unwrap();
    let sum = weigh(y, 5).add(&weigh(&state.h, 6)).unwrap();
    state.c.as_ref().map_or(sum.clone(), |c| sum.add(&weigh(c, 7)).unwrap())
}

#[test]
fn recurrent_names_and_shapes_are_pytorchs() {
    let options = RecurrentOptions { num_layers: 2, bidirectional: true, ..Default::default() };
    let layer = recurrent(RecurrentKind::Lstm, &options);
    let shown: Vec<String> = layer
        .named_parameters()
        .iter()
        .map(|(name, p)| format!("{name} {:?}", p.shape().as_slice()))
        .collect();
    let expected = [
        "weight_ih_l0 [20, 3]",
        "weight_hh_l0 [20, 5]",
        "bias_ih_l0 [20]",
        "bias_hh_l0 [20]",
        "weight_ih_l0_reverse [20, 3]",
        "weight_hh_l0_reverse [20, 5]",
        "bias_ih_l0_reverse [20]",
        "bias_hh_l0_reverse [20]",
        "weight_ih_l1 [20, 10]",
    ];
    assert_eq!(shown[..9], expected);
    assert_eq!(shown.len(), 16);
    let bound = 1.0 / 5f32.sqrt();
    layer.for_each_parameter(&mut |_, p| {
        assert!(p.data().to_vec::<f32>().unwrap().iter().all(|w| w.abs() <= bound));
    });
}

#[test]
fn a_padded_row_gives_what_it_gives_alone() {
    let (lengths, t) = ([4usize, 1, 6, 3], 6);
    for kind in KINDS {
        for bidirectional in [false, true] {
            let options = RecurrentOptions { num_layers: 2, bidirectional, ..Default::default() };
            let layer = recurrent(kind, &options);
            let x = randn([t, 4, 3], 1).requires_grad_().unwrap();
            let places = layer.zero_state(4).unwrap();
            let state = RecurrentState {
                h: randn(places.h.shape(), 2),
                c: places.c.as_ref().map(|c| randn(c.shape(), 3)),
            };
            let (y, last) = layer.forward(&x, Some(&state), Some(&lengths)).unwrap();
            mixed(&y, &last).backward().unwrap();
            let together: Vec<Tensor> =
                layer.named_parameters().iter().map(|(_, p)| p.take_grad().unwrap()).collect();
            let dx = x.take_grad().unwrap();

            // The same, row by row; padding gets zeros by hand.
            let mut loss = Tensor::zeros((), DType::F32).unwrap();
            for (row, &n) in lengths.iter().enumerate() {
                let alone = |s: &Tensor| s.narrow(1, row, 1).unwrap();
                let one = RecurrentState { h: alone(&state.h), c: state.c.as_ref().map(alone) };
                let steps = alone(&x).narrow(0, 0, n).unwrap();
                let (y1, last1) = layer.forward(&steps, Some(&one), None).unwrap();
                assert_close(&alone(&y).narrow(0, 0, n).unwrap(), &y1, 1e-6);
                let past = alone(&y).narrow(0, n, t - n).unwrap();
                assert!(
                    past.to_f64_vec().unwrap().iter().all(|&v| v == 0.0),
                    "outputs past the end are 0"
                );
                assert_close(&alone(&last.h), &last1.h, 1e-6);
                if let (Some(c), Some(c1)) = (&last.c, &last1.c) {
                    assert_close(&alone(c), c1, 1e-6);
                }
                let weigh = |x: &Tensor, whole: &Tensor, stream, n: Option<usize>| {
                    let w = alone(&randn(whole.shape(), stream));
                    let w = n.map_or(w.clone(), |n| w.narrow(0, 0, n).unwrap());
                    x.mul(&w).unwrap().sum_all().unwrap()
                };
                loss = loss.add(&weigh(&y1, &y, 5, Some(n))).unwrap();
                loss = loss.add(&weigh(&last1.h, &last.h, 6, None)).unwrap();
                if let (Some(c), Some(c1)) = (&last.c, &last1.c) {
                    loss = loss.add(&weigh(c1, c, 7, None)).unwrap();
                }
            }
            loss.backward().unwrap();
            assert_close(&dx, &x.take_grad().unwrap(), 1e-5);
            for ((name, p), grad) in layer.named_parameters().iter().zip(&together) {
                let alone = p.take_grad().unwrap_or_else(|| panic!("{name} has no gradient"));
                assert_close(grad, &alone, 1e-5);
            }
        }
    }
}

#[test]
fn a_carried_state_joins_two_halves() {
    for kind in KINDS {
        let options = RecurrentOptions { num_layers: 2, batch_first: true, ..Default::default() };
        let layer = recurrent(kind, &options);
        let x = randn([2, 7, 3], 4);
        let (whole, end) = layer.forward(&x, None, None).unwrap();
        let (first, middle) = layer.forward(&x.narrow(1, 0, 3).unwrap(), None, None).unwrap();
        let (second, last) =
            layer.forward(&x.narrow(1, 3, 4).unwrap(), Some(&middle), None).unwrap();
        assert_close(&crate::ops::cat(&[&first, &second], 1).unwrap(), &whole, 1e-6);
        assert_close(&last.h, &end.h, 1e-6);
        let swapped =
            RecurrentState { h: last.h.clone(), c: last.c.as_ref().xor(Some(&last.h)).cloned() };
        assert!(layer.forward(&x, Some(&swapped), None).is_err(), "a state of another kind");
    }
    let layer = recurrent(RecurrentKind::Gru, &RecurrentOptions::default());
    let x = randn([4, 2, 3], 4);
    for lengths in [&[4usize, 0][..], &[5, 1], &[4]] {
        assert!(layer.forward(&x, None, Some(lengths)).is_err(), "{lengths:?}");
    }
}

fn attention(options: &MultiheadAttentionOptions) -> MultiheadAttention {
    let layer = MultiheadAttention::new(&Init::new(21).at("mha"), 8, 2, options).unwrap();
    // Biases start at 0, which would hide a mistake.
    let bias = layer.in_proj_bias.as_ref().unwrap();
    bias.load(&randn(24, 8)).unwrap();
    layer
}

#[test]
fn three_ways_through_attention_are_one() {
    let layer = attention(&MultiheadAttentionOptions { batch_first: true, ..Default::default() });
    let x = randn([2, 5, 8], 9).requires_grad_().unwrap();
    let copy = x.clone();
    let mask = Tensor::from_slice(&[0u32, 0, 0, 0, 0, 0, 0, 1, 0, 1], [2, 5]).unwrap();
    for (causal, mask) in [(false, None), (true, None), (false, Some(&mask)), (true, Some(&mask))] {
        let call = |need_weights| AttentionCall {
            causal,
            key_padding_mask: mask,
            need_weights,
            per_head_weights: true,
            ..Default::default()
        };
        let probe = randn([2, 5, 8], 10);
        let run = |key: &Tensor, need_weights| {
            let (y, weights) = layer.forward(&x, key, key, call(need_weights)).unwrap();
            y.mul(&probe).unwrap().sum_all().unwrap().backward().unwrap();
            let dw = layer.in_proj_weight.take_grad().unwrap();
            (y, weights, x.take_grad().unwrap(), dw)
        };
        let (y, none, dx, dw) = run(&x, false);
        assert!(none.is_none());
        for (key, need_weights) in [(&copy, false), (&x, true), (&copy, true)] {
            let (y2, weights, dx2, dw2) = run(key, need_weights);
            assert_close(&y2, &y, 1e-5);
            assert_close(&dx2, &dx, 1e-5);
            assert_close(&dw2, &dw, 1e-5);
            let Some(weights) = weights else { continue };
            assert_eq!(weights.shape(), [2, 2, 5, 5]);
            let sums = weights.sum(&[-1], false).unwrap();
            assert_close(&sums, &Tensor::ones([2, 2, 5], DType::F32).unwrap(), 1e-6);
            let w = weights.to_f64_vec().unwrap();
            let at = |b: usize, h: usize, i: usize, j: usize| w[((b * 2 + h) * 5 + i) * 5 + j];
            if causal {
                assert_eq!(at(0, 1, 1, 2), 0.0);
            }
            if mask.is_some() {
                assert_eq!(at(1, 0, 4, 2), 0.0);
            }
        }
    }
}

#[test]
fn time_first_is_batch_first_turned_around() {
    let layer = attention(&MultiheadAttentionOptions::default());
    let turned = attention(&MultiheadAttentionOptions { batch_first: true, ..Default::default() });
    let (q, m) = (randn([3, 2, 8], 1), randn([6, 2, 8], 2));
    let (y, w) = layer
        .forward(&q, &m, &m, AttentionCall { need_weights: true, ..Default::default() })
        .unwrap();
    let t = |x: &Tensor| x.transpose(0, 1).unwrap();
    let m_turned = t(&m);
    let (y2, _) = turned.forward(&t(&q), &m_turned, &m_turned, AttentionCall::default()).unwrap();
    assert_close(&t(&y), &y2, 1e-6);
    assert_eq!(w.unwrap().shape(), [2, 3, 6]);
}

#[test]
fn a_cache_gives_what_the_whole_sequence_gives() {
    let layer = attention(&MultiheadAttentionOptions { batch_first: true, ..Default::default() });
    let x = randn([2, 6, 8], 3);
    no_grad(|| {
        let causal = || AttentionCall { causal: true, ..Default::default() };
        let whole = layer.forward_self(&x, causal()).unwrap();
        let mut cache = KvCache::new(2, 6, 8, DType::F32).unwrap();
        for (start, n) in [(0, 3), (3, 1), (4, 2)] {
            let part = x.narrow(1, start, n).unwrap();
            let call = AttentionCall { cache: Some(&mut cache), ..causal() };
            let y = layer.forward_self(&part, call).unwrap();
            assert_close(&y, &whole.narrow(1, start, n).unwrap(), 1e-5);
        }
    });
}

#[test]
fn heads_must_divide_the_width() {
    for heads in [0, 3] {
        let made = MultiheadAttention::new(&Init::new(0), 8, heads, &Default::default());
        assert_eq!(made.err().unwrap().exit_code(), 2);
    }
}

#[test]
fn transformer_layers_differentiate_rightly() {
    for norm_first in [false, true] {
        let options = TransformerLayerOptions {
            dim_feedforward: 6,
            activation: Activation::Gelu,
            batch_first: true,
            norm_first,
            ..Default::default()
        };
        let encoder = TransformerEncoderLayer::new(&Init::new(4).at("e"), 4, 2, &options).unwrap();
        let decoder = TransformerDecoderLayer::new(&Init::new(4).at("d"), 4, 2, &options).unwrap();
        encoder.convert(DType::F64).unwrap();
        decoder.convert(DType::F64).unwrap();
        let wide = |shape: [usize; 3], stream| randn(shape, stream).to_dtype(DType::F64).unwrap();
        let inputs = [wide([2, 3, 4], 1), wide([2, 2, 4], 2)];
        let run = |x: &[Tensor]| {
            let memory = encoder.forward(&x[0], None, false)?;
            let masks = DecoderMasks { causal: true, ..Default::default() };
            Ok(vec![decoder.forward(&x[1], &memory, masks)?])
        };
        gradcheck(run, &inputs, &GradcheckOptions::default()).unwrap();
    }
}

#[test]
fn a_decoder_step_by_step_is_the_decoder_at_once() {
    for (norm_first, batch_first) in [(true, true), (false, false)] {
        let options = TransformerLayerOptions {
            dim_feedforward: 16,
            batch_first,
            norm_first,
            ..Default::default()
        };
        let layer = TransformerDecoderLayer::new(&Init::new(6).at("d"), 8, 2, &options).unwrap();
        let turn = |x: Tensor| if batch_first { x } else { x.transpose(0, 1).unwrap() };
        let (x, memory) = (turn(randn([2, 5, 8], 1)), turn(randn([2, 4, 8], 2)));
        let padding = Tensor::from_slice(&[0u32, 0, 0, 1, 0, 0, 1, 1], [2, 4]).unwrap();
        let masks = DecoderMasks { causal: true, memory_padding: Some(&padding), padding: None };
        let whole = layer.forward(&x, &memory, masks).unwrap();
        let mut cache = DecoderLayerCache::new(2, 5, 8).unwrap();
        let time = if batch_first { 1 } else { 0 };
        no_grad(|| {
            for at in 0..5 {
                let step = x.narrow(time, at, 1).unwrap();
                let y = layer.forward_cached(&step, &memory, Some(&padding), &mut cache).unwrap();
                assert_close(&y, &whole.narrow(time, at, 1).unwrap(), 1e-5);
            }
        });
    }
}

#[test]
fn dropout_in_a_layer_is_a_function_of_the_step() {
    let options =
        TransformerLayerOptions { dim_feedforward: 16, batch_first: true, ..Default::default() };
    let layer = TransformerEncoderLayer::new(&Init::new(6).at("e"), 8, 2, &options).unwrap();
    let x = randn([2, 5, 8], 1);
    let run =
        |step| training(3, step, || layer.forward(&x, None, false)).unwrap().to_f64_vec().unwrap();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert_ne!(run(1), layer.forward(&x, None, false).unwrap().to_f64_vec().unwrap());
    let names: Vec<String> = layer.named_parameters().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "self_attn.in_proj_weight",
        "self_attn.in_proj_bias",
        "self_attn.out_proj.weight",
        "self_attn.out_proj.bias",
        "linear1.weight",
        "linear1.bias",
        "linear2.weight",
        "linear2.bias",
        "norm1.weight",
        "norm1.bias",
        "norm2.weight",
        "norm2.bias",
    ];
    assert_eq!(names, expected);
}
