//! Training gives the same weights to the bit at any number of threads and on every instruction set.
//!
//! One test alone in its process: the instruction set is forced for the whole process.

#[path = "common/training.rs"]
mod training;

use handloom::cpu::simd::{at_level, available_levels};
use handloom::train::Trainer;
use handloom::train::config::TrainerConfig;
use training::{Kind, Size, Ticker, bits, config, task};

/// Large enough that kernels go parallel.
const SIZE: Size =
    Size { width: 64, layers: 2, context: 48, batch: 12, vocab: 96, tokens: 4000, dropout: 0.1 };

/// The weights after ten steps of pretraining, or some of the others.
fn train(kind: Kind, threads: usize) -> Vec<(String, Vec<u32>)> {
    let steps = if matches!(kind, Kind::Gpt | Kind::Lstm) { 10 } else { 4 };
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = task(kind, SIZE);
    let config = TrainerConfig {
        threads,
        gradient_accumulation_steps: 1,
        batch_size: SIZE.batch,
        eval_steps: 3,
        ..config(steps)
    };
    Trainer::new(&config, task.as_mut(), &mut control).unwrap().run().unwrap();
    bits(task.module())
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_bit() {
    for kind in [Kind::Gpt, Kind::Lstm, Kind::Bert, Kind::Classify] {
        let expected = train(kind, 1);
        let mut tried = Vec::new();
        let same = |got: Vec<(String, Vec<u32>)>, what: &str| {
            for ((name, a), (_, b)) in expected.iter().zip(&got) {
                let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 0, "{kind:?}, {what}: {differing} of {} in {name}", a.len());
            }
        };
        for threads in [2, 3, 4, 8] {
            same(train(kind, threads), &format!("{threads} threads"));
        }
        for level in available_levels() {
            same(at_level(level, || train(kind, 2)), level.name());
            tried.push(level.name());
        }
        println!("{kind:?}: 1, 2, 3, 4, 8 threads and {tried:?} agree");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert!(tried.contains(&"avx2"), "avx2 is there and must be tried");
        }
    }
}
