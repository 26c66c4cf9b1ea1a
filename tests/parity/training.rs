//! Ten AdamW steps in `f32` from PyTorch's first weights on PyTorch's batches: each step's loss, and every
//! gradient of the first step.

use super::{load, read, relative_l2, under};
use handloom::models::{GptConfig, ModelConfig, RnnConfig, RnnKind, TransformerModel, build};
use handloom::nn::Module;
use handloom::ops::{CrossEntropy, cross_entropy};
use handloom::train::optim::{Algorithm, Optimizer};
use handloom::{Result, Tensor};
use std::collections::BTreeMap;

type Named = BTreeMap<String, Tensor>;

/// As in `make_parity.py`.
const VOCAB: usize = 23;
const LENGTH: usize = 10;
const LEARNING_RATE: f64 = 1e-2;
const DECAY: f64 = 0.1;
const ADAMW: Algorithm = Algorithm::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 };

/// Trains `model` as `make_parity.py` trained `name` and compares. `from_torch` turns a weight or gradient of
/// PyTorch's into the model's layout.
fn check(
    name: &str,
    model: &dyn Module,
    from_torch: impl Fn(&str, Tensor) -> Tensor,
    loss: impl Fn(&Named) -> Result<Tensor>,
) {
    let file = read(&format!("train_{name}.safetensors"));
    let convert = |all: Named| -> Named {
        all.into_iter().map(|(n, x)| (n.clone(), from_torch(&n, x))).collect()
    };
    load(model, &convert(under(&file, "weight.")));
    let grads = convert(under(&file, "grad."));
    let batches = under(&file, "batch.");
    let losses = file["losses"].to_f64_vec().unwrap();
    let mut optimizer = Optimizer::new(ADAMW, model, DECAY, |_| 1.0);
    assert_eq!(losses.len(), 10);
    for (step, expected) in losses.iter().enumerate() {
        let batch: Named =
            batches.iter().map(|(n, x)| (n.clone(), x.select(0, step).unwrap())).collect();
        let loss = loss(&batch).unwrap();
        let got = loss.item().unwrap();
        let off = (got - expected).abs() / expected;
        assert!(off < 1e-5, "{name} step {step}: loss {got}, PyTorch's {expected}");
        loss.backward().unwrap();
        if step == 0 {
            let mut seen = 0;
            model.for_each_parameter(&mut |parameter, p| {
                let grad =
                    p.grad().unwrap_or_else(|| panic!("{name}: {parameter} has no gradient"));
                let off = relative_l2(&grad, &grads[parameter]);
                assert!(off < 1e-5, "{name}: gradient of {parameter} is off by {off:e}");
                seen += 1;
            });
            assert_eq!(seen, grads.len(), "{name}: parameters");
        }
        optimizer.step(model, LEARNING_RATE, 1.0).unwrap();
    }
    assert!(losses[9] < losses[0], "there was something to learn");
}

/// Ids and the ids that follow them.
fn next_token(batch: &Named) -> Result<(Tensor, Tensor)> {
    let ids = &batch["ids"];
    Ok((ids.narrow(1, 0, LENGTH)?.contiguous()?, ids.narrow(1, 1, LENGTH)?.contiguous()?))
}

#[test]
fn gpt_trains_as_in_hugging_face() {
    let config = GptConfig {
        vocab_size: VOCAB,
        n_positions: 12,
        n_embd: 16,
        n_layer: 2,
        n_head: 2,
        resid_pdrop: 0.0,
        embd_pdrop: 0.0,
        attn_pdrop: 0.0,
        ..Default::default()
    };
    let model = build(&ModelConfig::Gpt(config), 0).unwrap();
    // GPT-2's projections are stored as [in, out].
    let from_torch = |name: &str, x: Tensor| {
        let conv1d = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
        if conv1d.iter().any(|end| name.ends_with(end)) {
            x.t().unwrap().contiguous().unwrap()
        } else {
            x
        }
    };
    check("gpt", &model, from_torch, |batch| {
        let (ids, targets) = next_token(batch)?;
        model.loss(&ids, &targets)
    });
}

#[test]
fn lstm_trains_as_in_pytorch() {
    let config = RnnConfig {
        kind: RnnKind::Lstm,
        vocab_size: VOCAB,
        embedding_size: 12,
        hidden_size: 14,
        num_layers: 2,
        dropout: 0.0,
        tie_word_embeddings: false,
        ..Default::default()
    };
    let model = build(&ModelConfig::Rnn(config), 0).unwrap();
    check(
        "lstm",
        &model,
        |_, x| x,
        |batch| {
            let (ids, targets) = next_token(batch)?;
            model.loss(&ids, &targets)
        },
    );
}

#[test]
fn transformer_model_trains_as_in_pytorch() {
    let model = TransformerModel::new(VOCAB, 2, 2, 16, 0.0, LENGTH, 0).unwrap();
    check(
        "transformer",
        &model,
        |_, x| x,
        |batch| {
            let (_, pooled) =
                model.forward(&batch["ids"], Some(&batch["types"]), Some(&batch["padding"]))?;
            cross_entropy(&pooled, &batch["labels"], &CrossEntropy::default())
        },
    );
}
