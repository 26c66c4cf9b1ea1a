//! What the trainer does when things go wrong or end early.

#[path = "common/training.rs"]
mod training;

use std::sync::Arc;

use handloom::nn::{Init, Linear};
use handloom::train::Trainer;
use handloom::train::checkpoint::RunFolder;
use handloom::train::config::{OnNonfinite, OptimizerKind, TrainerConfig};
use handloom::train::data::Cursor;
use handloom::train::observer::Ending;
use training::{Fast, Faulty, Kind, Size, TINY, Ticker, bits, config, folder, task};

/// The task whose batch 3 of epoch 0, in step 2, is not a number.
fn faulty() -> Faulty {
    Faulty::new(task(Kind::Gpt, TINY), Cursor { epoch: 0, index: 3 })
}

#[test]
fn numbers_that_are_not_finite_never_reach_weights_or_moments() {
    for kind in [Kind::Gpt, Kind::Lstm] {
        a_bad_step_changes_nothing(kind);
    }
}

fn a_bad_step_changes_nothing(kind: Kind) {
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = Faulty::new(task(kind, TINY), Cursor { epoch: 0, index: 3 });
    let config = TrainerConfig { on_nonfinite: OnNonfinite::Skip, ..config(30) };
    let mut trainer = Trainer::new(&config, &mut task, &mut control).unwrap();
    assert!(!trainer.step().unwrap().skipped);
    let before = bits(trainer.task().module());
    let carried = |trainer: &Trainer<'_, '_>| -> Vec<Vec<f32>> {
        trainer.task().carried().into_iter().map(|(_, x)| x.to_vec().unwrap()).collect()
    };
    let carried_before = carried(&trainer);
    assert_eq!(carried_before.is_empty(), kind == Kind::Gpt);
    let moments = |trainer: &Trainer<'_, '_>| -> Vec<Vec<f32>> {
        let all = trainer.optimizer().state_dict().into_iter();
        all.map(|(_, x)| x.to_vec().unwrap()).collect()
    };
    let (moments_before, steps_before) = (moments(&trainer), trainer.optimizer().steps());
    assert!(trainer.step().unwrap().skipped);
    assert_eq!(bits(trainer.task().module()), before);
    assert_eq!(moments(&trainer), moments_before);
    assert_eq!(carried(&trainer), carried_before);
    assert_eq!(trainer.optimizer().steps(), steps_before);
    assert_eq!((trainer.state().step, trainer.state().skipped), (2, 1));
    assert!(!trainer.step().unwrap().skipped);
    assert_ne!(bits(trainer.task().module()), before);
}

#[test]
fn stop_names_step_batch_and_operation_and_saves() {
    let dir = folder("trainer-stop");
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = faulty();
    let run = RunFolder::create(&dir.join("run"), Arc::new(Fast)).unwrap();
    let trainer = Trainer::new(&config(30), &mut task, &mut control).unwrap();
    let error = trainer.with_run(run, Default::default(), "").run().unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 5);
    for part in ["step 2", "batch 3 of epoch 0", "NaN", "mul_scalar", "training.rs:"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    assert!(dir.join("run/checkpoints/step-000001").is_dir());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn rollback_goes_on_from_the_checkpoint_with_other_data() {
    let dir = folder("trainer-rollback");
    let mut ticker = Ticker::new(None);
    let state = {
        let mut control = ticker.control();
        let mut task = Faulty::new(task(Kind::Gpt, TINY), Cursor { epoch: 1, index: 6 });
        let config =
            TrainerConfig { on_nonfinite: OnNonfinite::Rollback, save_steps: 3, ..config(12) };
        let run = RunFolder::create(&dir.join("run"), Arc::new(Fast)).unwrap();
        let trainer = Trainer::new(&config, &mut task, &mut control).unwrap();
        let mut trainer = trainer.with_run(run, Default::default(), "");
        trainer.run().unwrap();
        trainer.state().clone()
    };
    assert_eq!((state.step, state.rollbacks, state.skipped), (12, 1, 1));
    assert!(ticker.warnings.iter().any(|w| w == "rolled back to step 6"), "{:?}", ticker.warnings);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn skip_and_rollback_tell_where_too_and_give_up_in_the_end() {
    // Every batch of epoch 1 on is bad: ten skips in a row end the run, with the weights untouched.
    let mut ticker = Ticker::new(None);
    let mut task = Faulty::new(task(Kind::Gpt, TINY), Cursor { epoch: 1, index: 0 });
    task.for_ever = true;
    {
        let mut control = ticker.control();
        let config = TrainerConfig { on_nonfinite: OnNonfinite::Skip, ..config(40) };
        let error = Trainer::new(&config, &mut task, &mut control).unwrap().run().unwrap_err();
        assert_eq!(error.exit_code(), 5);
        for part in ["10 steps in a row", "step 14", "mul_scalar", "training.rs:"] {
            assert!(error.to_string().contains(part), "no '{part}' in: {error}");
        }
    }
    assert!(bits(&task).iter().all(|(_, w)| w.iter().all(|&w| f32::from_bits(w).is_finite())));
    assert_eq!(ticker.warnings.len(), 10);
    for warning in &ticker.warnings {
        assert!(warning.contains("mul_scalar") && warning.contains("skipped"), "{warning}");
    }
    // Rolled back three times, and then no more.
    let dir = folder("trainer-rollbacks");
    let mut ticker = Ticker::new(None);
    {
        let mut control = ticker.control();
        let config =
            TrainerConfig { on_nonfinite: OnNonfinite::Rollback, save_steps: 1, ..config(40) };
        let run = RunFolder::create(&dir.join("run"), Arc::new(Fast)).unwrap();
        let trainer = Trainer::new(&config, &mut task, &mut control).unwrap();
        let error = trainer.with_run(run, Default::default(), "").run().unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("rolled back 3 times"), "{error}");
    }
    let back = ticker.warnings.iter().filter(|w| w.starts_with("rolled back to step")).count();
    assert_eq!(back, 3, "{:?}", ticker.warnings);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_gradient_that_is_not_finite_is_caught_with_its_parameter() {
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = faulty();
    task.backward_only = true;
    let mut trainer = Trainer::new(&config(30), &mut task, &mut control).unwrap();
    trainer.step().unwrap();
    let before = bits(trainer.task().module());
    let text = trainer.step().unwrap_err().to_string();
    for part in ["step 2", "the gradient of", "every operation of the forward pass is finite"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    assert_eq!(bits(trainer.task().module()), before);
}

#[test]
fn a_jump_of_the_loss_is_told() {
    let mut ticker = Ticker::new(None);
    {
        let mut control = ticker.control();
        let mut task = Faulty::new(task(Kind::Gpt, TINY), Cursor { epoch: 37, index: 1 });
        task.factor = 1e4;
        let config = TrainerConfig { eval_steps: 0, ..config(160) };
        Trainer::new(&config, &mut task, &mut control).unwrap().run().unwrap();
    }
    let told = |name: &str| ticker.warnings.iter().filter(|w| w.contains(name)).count();
    assert_eq!((told("the loss jumped"), told("the gradient norm jumped")), (1, 1));
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = faulty();
    task.unused = Some(Linear::new(&Init::new(0).at("unused"), 2, 2, true).unwrap());
    let mut trainer = Trainer::new(&config(30), &mut task, &mut control).unwrap();
    let text = trainer.step().unwrap_err().to_string();
    assert!(text.contains("unused.weight, unused.bias"), "{text}");
}

#[test]
fn early_stopping_counts_evaluations_without_progress() {
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = task(Kind::Gpt, TINY);
    // A learning rate of 0: nothing ever improves.
    let config = TrainerConfig {
        learning_rate: 0.0,
        min_learning_rate: 0.0,
        eval_steps: 2,
        early_stopping_patience: 3,
        ..config(100)
    };
    let report = Trainer::new(&config, task.as_mut(), &mut control).unwrap().run().unwrap();
    assert_eq!((report.ending, report.steps), (Ending::EarlyStopping, 8));
    assert_eq!(report.best.map(|(step, _)| step), Some(2));
}

#[test]
fn a_budget_ends_by_the_clock_and_the_rate_follows_it() {
    // The clock of the test advances a second a step.
    let mut ticker = Ticker::new(None);
    let mut control = ticker.control();
    let mut task = task(Kind::Lstm, TINY);
    let config = TrainerConfig {
        budget: Some(20.0),
        warmup_steps: 0.0,
        min_learning_rate: 0.0,
        lr_scheduler: handloom::train::schedule::Scheduler::Linear,
        ..config(5)
    };
    let mut trainer = Trainer::new(&config, task.as_mut(), &mut control).unwrap();
    let first = trainer.step().unwrap();
    let second = trainer.step().unwrap();
    assert!((first.learning_rate - 1e-2).abs() < 1e-12);
    assert!((second.learning_rate - 1e-2 * 0.95).abs() < 1e-12);
    let report = trainer.run().unwrap();
    assert_eq!((report.steps, report.elapsed_s), (20, 20.0));
}

#[test]
fn training_lowers_the_loss_with_both_optimisers() {
    let cases = [
        (OptimizerKind::AdamW, Kind::Gpt, 1e-2),
        (OptimizerKind::AdamW, Kind::Lstm, 1e-2),
        (OptimizerKind::Sgd, Kind::Gpt, 1e-1),
    ];
    for (optimizer, kind, learning_rate) in cases {
        let mut ticker = Ticker::new(None);
        let mut control = ticker.control();
        let mut task = task(kind, Size { tokens: 3000, dropout: 0.0, ..TINY });
        let config = TrainerConfig {
            optimizer,
            learning_rate,
            nesterov: true,
            weight_decay: 0.0,
            eval_steps: 0,
            ..config(300)
        };
        let before = task.evaluate(&mut |_, _| {}).unwrap().unwrap().get("val_loss").unwrap();
        let report = Trainer::new(&config, task.as_mut(), &mut control).unwrap().run().unwrap();
        let after = report.best.unwrap().1;
        assert!(after < before - 0.5, "{optimizer:?} {kind:?}: {before} to {after}");
    }
}
