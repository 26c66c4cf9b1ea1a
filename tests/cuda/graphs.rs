//! Steps that are recorded once and launched whole, beside plain ones: the same bits.

use handloom::cuda::{Arena, Graph, launches, poison_fresh_buffers, record_steps};
use handloom::train::config::{OnNonfinite, OptimizerKind, TrainerConfig};
use handloom::train::{Control, Trainer};
use handloom::{DType, Device, Tensor};

use crate::common::{Kind, Size, TINY, Ticker, bits, config, task};

const GPU: Device = Device::Cuda(0);
const STEPS: u64 = 14;

/// Losses and norms of each step as bits, then all weights; and how many steps were recorded ones.
fn run(
    kind: Kind,
    size: Size,
    config: &TrainerConfig,
    recorded: bool,
) -> (Vec<u64>, Vec<u32>, usize) {
    record_steps(recorded);
    let before = launches();
    let mut task = task(kind, size);
    let mut ticker = Ticker::new(None);
    let mut control: Control = ticker.control();
    let mut trainer = Trainer::new(config, task.as_mut(), &mut control).unwrap();
    let mut figures = Vec::new();
    for _ in 0..STEPS {
        let record = trainer.step().unwrap();
        figures.extend([record.loss.to_bits(), record.grad_norm.to_bits(), record.tokens]);
    }
    drop(trainer);
    let weights = bits(task.module()).into_iter().flat_map(|(_, bits)| bits).collect();
    record_steps(false);
    (figures, weights, (launches() - before) / 2)
}

/// Whether both ways agree to the bit, and at least `least` steps were recorded ones.
fn compare(kind: Kind, size: Size, config: TrainerConfig, least: usize) -> Vec<u64> {
    poison_fresh_buffers(true);
    let config = TrainerConfig { device: GPU, ..config };
    let plain = run(kind, size, &config, false);
    let recorded = run(kind, size, &config, true);
    assert_eq!(plain.2, 0);
    assert!(recorded.2 >= least, "{kind:?}: {} steps were recorded", recorded.2);
    assert_eq!(plain.0, recorded.0, "{kind:?}: losses and norms");
    assert!(plain.1 == recorded.1, "{kind:?}: weights");
    plain.0
}

#[test]
#[ignore = "computes on cuda:0"]
fn a_gpt_with_dropout_and_accumulation() {
    compare(Kind::Gpt, TINY, config(STEPS), STEPS as usize - 2);
}

/// The first step of an epoch, where the state begins anew, is a plain one.
#[test]
#[ignore = "computes on cuda:0"]
fn an_lstm_with_a_carried_state() {
    let config = TrainerConfig { gradient_accumulation_steps: 1, ..config(STEPS) };
    compare(Kind::Lstm, Size { layers: 1, ..TINY }, config, STEPS as usize / 2);
}

/// Batches with other lengths each time are never recorded.
#[test]
#[ignore = "computes on cuda:0"]
fn ragged_batches_stay_plain() {
    let config = TrainerConfig { device: GPU, ..config(STEPS) };
    assert_eq!(run(Kind::Classify, TINY, &config, true).2, 0);
    assert_eq!(run(Kind::Bert, TINY, &config, true).2, 0);
}

/// Momentum far too large: the numbers leave the range of f32 in a step that was recorded.
#[test]
#[ignore = "computes on cuda:0"]
fn numbers_that_are_not_finite_are_found_and_skipped() {
    let config = TrainerConfig {
        optimizer: OptimizerKind::Sgd,
        learning_rate: 1e5,
        warmup_steps: 0.0,
        max_grad_norm: 0.0,
        weight_decay: 1.0,
        gradient_accumulation_steps: 1,
        on_nonfinite: OnNonfinite::Skip,
        ..config(STEPS)
    };
    let figures = compare(Kind::Lstm, Size { layers: 1, ..TINY }, config, 3);
    let skipped = figures.iter().filter(|&&bits| f64::from_bits(bits).is_nan()).count();
    assert!(skipped > 0, "every step was finite");
}

#[test]
#[ignore = "computes on cuda:0"]
fn what_cannot_be_recorded_is_refused() {
    let x = Tensor::ones(10, DType::F32).unwrap().to_device(GPU).unwrap();
    let arena = Arena::new(0).unwrap();
    let refused = |f: &dyn Fn() -> handloom::Result<f64>| {
        Graph::record(&arena, 0, f).map(|_| ()).unwrap_err().to_string()
    };
    let read = refused(&|| x.sum_all()?.item());
    // The arena has had no rehearsal: it would have to take memory from the driver.
    assert!(read.contains("not permitted when stream is capturing"), "{read}");
    arena.rehearse(|| x.sum_all().unwrap().item().unwrap());
    let read = refused(&|| x.sum_all()?.item());
    assert!(read.contains("reading a number cannot be part of a recorded step"), "{read}");
    let copy = refused(&|| {
        Tensor::ones(3, DType::F32)?.to_device(GPU)?;
        Ok(0.0)
    });
    assert!(copy.contains("a copy from main memory cannot be part"), "{copy}");
    // And the device goes on.
    assert_eq!(x.sum_all().unwrap().item().unwrap(), 10.0);
    let (mut graph, sum) = Graph::record(&arena, 0, || x.sum_all()).unwrap();
    graph.launch(0, &[]).unwrap();
    assert_eq!(sum.item().unwrap(), 10.0);
    assert!(graph.launch(0, &[[0; 8]]).unwrap_err().to_string().contains("1 numbers do not fit"));
}
