//! Training on the GPU beside training on the CPU.

use handloom::Device;
use handloom::autograd::training;
use handloom::train::data::Cursor;
use handloom::train::optim::{Algorithm, Optimizer};

use crate::common::{Kind, TINY, task};

/// The losses of 20 steps, then the validation loss.
fn losses(kind: Kind, algorithm: Algorithm, device: Device) -> Vec<f64> {
    crate::at_precision(device, || run(kind, algorithm, device))
}

fn run(kind: Kind, algorithm: Algorithm, device: Device) -> Vec<f64> {
    let mut task = task(kind, TINY);
    task.module().to_device(device).unwrap();
    let mut optimizer = Optimizer::new(algorithm, task.module(), 0.1, |_| 1.0);
    let (mut cursor, mut all) = (Cursor::default(), Vec::new());
    for step in 0..20 {
        task.begin_step();
        let loss = training(7, step, || task.loss(cursor)).unwrap().loss;
        all.push(loss.item().unwrap());
        loss.backward().unwrap();
        drop(loss);
        let norm = Optimizer::gradient_norm(task.module()).unwrap();
        let clip = Optimizer::clip_factor(norm, 1.0);
        optimizer.step(task.module(), 3e-3, clip).unwrap();
        cursor = cursor.next(task.batches_per_epoch());
    }
    let figures = task.evaluate(&mut |_, _| {}).unwrap().expect("there is validation data");
    all.extend(figures.0.iter().map(|(_, value)| *value));
    all
}

fn compare(kind: Kind, algorithm: Algorithm) {
    handloom::cuda::poison_fresh_buffers(true);
    let (cpu, gpu) =
        (losses(kind, algorithm, Device::Cpu), losses(kind, algorithm, Device::Cuda(0)));
    assert_eq!(cpu.len(), gpu.len());
    for (step, (a, b)) in cpu.iter().zip(&gpu).enumerate() {
        let allowed = if crate::tensor_cores() { 2e-2 } else { 1e-4 };
        assert!(
            (a - b).abs() < allowed * a.abs().max(1.0),
            "{kind:?} step {step}: CPU {a}, GPU {b}"
        );
    }
    let again = losses(kind, algorithm, Device::Cuda(0));
    assert_eq!(gpu, again, "{kind:?}: the same bits at every run");
}

const ADAMW: Algorithm = Algorithm::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 };

#[test]
#[ignore = "computes on cuda:0"]
fn a_gpt_learns_as_on_the_cpu() {
    compare(Kind::Gpt, ADAMW);
}

#[test]
#[ignore = "computes on cuda:0"]
fn an_lstm_learns_as_on_the_cpu() {
    compare(Kind::Lstm, ADAMW);
}

#[test]
#[ignore = "computes on cuda:0"]
fn a_classifier_learns_as_on_the_cpu() {
    compare(Kind::Classify, Algorithm::Sgd { momentum: 0.9, nesterov: true });
}
