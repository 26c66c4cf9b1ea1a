//! The numbers of a run are always the same: on another machine, in another year, in another batch.
//!
//! `tests/fixtures/golden.json` holds the losses of twenty steps of each kind of run, and a hash of the weights
//! after them. They hold wherever f32 is computed, with fused multiply-adds in hardware or in software. A change
//! that is meant to change them writes them anew: `HANDLOOM_WRITE_GOLDEN=1 cargo test --test repeats`.

#[path = "common/training.rs"]
mod training;

use handloom::autograd::no_grad;
use handloom::models::{self, Inputs, ModelConfig};
use handloom::text::hash::hash_bytes;
use handloom::train::Trainer;
use handloom::{DType, Tensor};
use serde_json::{Map, Value, json};
use training::{Kind, Size, TINY, Ticker, bits, config, task};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden.json");

/// Losses and weights of twenty steps.
fn twenty_steps(kind: Kind) -> Value {
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = task(kind, Size { width: 32, context: 16, tokens: 900, ..TINY });
    let mut losses = Vec::new();
    {
        let mut trainer = Trainer::new(&config(20), task.as_mut(), &mut control).unwrap();
        for _ in 0..20 {
            losses.push(trainer.step().unwrap().loss);
        }
    }
    let weights: Vec<u8> = bits(task.module())
        .into_iter()
        .flat_map(|(_, bits)| bits)
        .flat_map(u32::to_le_bytes)
        .collect();
    json!({"losses": losses, "weights": format!("{:016x}", hash_bytes(&weights))})
}

#[test]
fn twenty_steps_of_each_kind_give_the_committed_losses() {
    let kinds = [Kind::Gpt, Kind::Bert, Kind::Lstm, Kind::Classify];
    let now: Map<String, Value> = kinds
        .iter()
        .map(|&kind| (format!("{kind:?}").to_lowercase(), twenty_steps(kind)))
        .collect();
    if std::env::var_os("HANDLOOM_WRITE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, format!("{:#}\n", Value::from(now.clone()))).unwrap();
    }
    let golden: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(GOLDEN).unwrap()).unwrap();
    assert!(golden.keys().eq(now.keys()));
    for (kind, run) in &golden {
        let (before, after) = (run["losses"].as_array().unwrap(), now[kind]["losses"].as_array());
        for (step, (a, b)) in before.iter().zip(after.unwrap()).enumerate() {
            assert_eq!(a, b, "{kind}: the loss of step {}", step + 1);
        }
        assert_eq!(run["weights"], now[kind]["weights"], "{kind}: the weights after 20 steps");
    }
}

/// Some ids of `rows` × `len`.
fn ids(rows: usize, len: usize) -> Vec<u32> {
    (0..rows * len).map(|i| ((i * i + 7 * i + i / 5) % 50) as u32).collect()
}

/// The scores of each row, as bits.
fn scores(model: &dyn models::LanguageModel, ids: &[u32], rows: usize) -> Vec<Vec<u32>> {
    let ids = Tensor::from_slice(ids, [rows, ids.len() / rows]).unwrap();
    let logits = no_grad(|| {
        let hidden = model.hidden(&Inputs::new(&ids)).unwrap();
        model.logits(&hidden).unwrap()
    });
    assert_eq!(logits.dtype(), DType::F32);
    let all = logits.to_vec::<f32>().unwrap();
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect();
    all.chunks(all.len() / rows).map(bits).collect()
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    for name in ["gpt", "bert", "rnn", "lstm", "gru"] {
        let config = ModelConfig::preset(name, "nano", 50, Some(24), Some(0.0)).unwrap();
        let model = models::build(&config, 3).unwrap();
        for (rows, len) in [(2, 24), (3, 1), (5, 24), (16, 7), (33, 20)] {
            let ids = ids(rows, len);
            let together = scores(model.as_ref(), &ids, rows);
            for (row, (ids, expected)) in ids.chunks(len).zip(&together).enumerate() {
                let alone = &scores(model.as_ref(), ids, 1)[0];
                let differing = alone.iter().zip(expected).filter(|(a, b)| a != b).count();
                assert_eq!(
                    differing,
                    0,
                    "{name}: row {row} of {rows} × {len} has other scores alone, {differing} of {}",
                    alone.len()
                );
            }
        }
    }
}
