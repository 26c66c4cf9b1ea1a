//! Ways to fine-tune, each proved by what it does to the weights, the rates or the answers.

#![cfg(feature = "cli")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use handloom::models::safetensors::read_folder;
use handloom::models::{Inputs, SequenceClassifier, from_pretrained};
use handloom::nn::StateDict;
use handloom::text::Tokenizer;
use handloom::train::adapters::LoraConfig;
use handloom::train::config::{OptimizerKind, TrainerConfig};
use handloom::train::evaluate::{self, EvaluateConfig, Evaluation};
use handloom::train::finetune::{self, Arm, FinetuneConfig, FinetuneReport};
use handloom::train::predict::Predictor;
use handloom::train::pretrain::{self, ModelShape, PretrainConfig};
use handloom::train::schedule::Scheduler;
use handloom::train::{Control, Observer};
use handloom::{Error, Result, Tensor};

/// Keeps the warnings and nothing else.
#[derive(Default)]
struct Ears(Vec<String>);

impl Observer for Ears {
    fn warning(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

/// A folder of its own for a test, empty.
fn folder(name: &str) -> PathBuf {
    let path =
        std::env::temp_dir().join(format!("handloom-strategies-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    std::fs::write(dir.join(name), text).unwrap();
    dir.join(name)
}

fn shape() -> ModelShape {
    ModelShape {
        num_hidden_layers: Some(3),
        num_attention_heads: Some(2),
        hidden_size: Some(16),
        dropout: Some(0.0),
        context_length: Some(24),
        ..ModelShape::default()
    }
}

/// A pretrained gpt of three layers, made once for all tests.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = folder("base");
        let text = "the weaver sat at the loom and the shuttle ran from hand to hand. ".repeat(40);
        let config = PretrainConfig {
            train: vec![file(&dir, "text.txt", &text)],
            shape: shape(),
            out: dir.join("run"),
            sample_length: 0,
            trainer: TrainerConfig {
                max_steps: Some(20),
                eval_steps: 0,
                threads: 1,
                ..TrainerConfig::pretraining()
            },
            ..PretrainConfig::default()
        };
        pretrain::run(&config, &mut Control::new(&mut Ears::default())).unwrap();
        dir.join("run")
    })
}

/// 24 rows of two classes that differ in a word, the first class three times as often.
fn labels(dir: &Path) -> PathBuf {
    let mut csv = String::from("label,text\n");
    for i in 0..24 {
        let (label, word) = if i % 4 == 0 { ("bad", "sat") } else { ("good", "ran") };
        csv += &format!("{label},the hand {word} {}\n", "at ".repeat(i % 5));
    }
    file(dir, "labels.csv", &csv)
}

/// A fine-tuning of `steps` steps with plain gradient descent at a constant rate.
fn config(dir: &Path, steps: u64) -> FinetuneConfig {
    FinetuneConfig {
        from: Some(base().to_owned()),
        train: vec![labels(dir)],
        validation_fraction: 0.25,
        out: dir.join("run"),
        trainer: TrainerConfig {
            max_steps: Some(steps),
            batch_size: 6,
            optimizer: OptimizerKind::Sgd,
            momentum: 0.0,
            learning_rate: 0.1,
            lr_scheduler: Scheduler::Constant,
            warmup_steps: 0.0,
            weight_decay: 0.0,
            max_grad_norm: 0.0,
            eval_steps: 0,
            logging_steps: 1,
            threads: 1,
            ..TrainerConfig::finetuning()
        },
        ..FinetuneConfig::default()
    }
}

fn run(config: &FinetuneConfig) -> FinetuneReport {
    finetune::run(config, &mut Control::new(&mut Ears::default())).unwrap()
}

fn refused(config: &FinetuneConfig) -> String {
    let result: Result<_> = finetune::run(config, &mut Control::new(&mut Ears::default()));
    match result {
        Err(error @ Error::Usage(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn weights(dir: &Path) -> HashMap<String, Vec<f32>> {
    let tensors: StateDict = read_folder(dir).unwrap();
    tensors.into_iter().map(|(name, t)| (name, t.to_vec::<f32>().unwrap())).collect()
}

/// What fine-tuning added to each weight of the body.
fn changes(run: &Path) -> HashMap<String, Vec<f32>> {
    let (before, after) = (weights(&base().join("best")), weights(&run.join("best")));
    let change = |(name, after): (String, Vec<f32>)| {
        let before = before.get(&name)?;
        Some((name, after.iter().zip(before).map(|(a, b)| a - b).collect()))
    };
    after.into_iter().filter_map(change).collect()
}

fn moved(changes: &HashMap<String, Vec<f32>>, part: &str) -> bool {
    let mut those = changes.iter().filter(|(name, _)| name.contains(part)).peekable();
    assert!(those.peek().is_some(), "no weight is called {part}");
    those.any(|(_, change)| change.iter().any(|x| *x != 0.0))
}

#[test]
fn frozen_layers_stand_still() {
    let dir = folder("freeze");
    let frozen =
        FinetuneConfig { freeze: vec!["embeddings".into(), "0-1".into()], ..config(&dir, 4) };
    run(&frozen);
    let changes = changes(&frozen.out);
    for part in ["wte", "wpe", "h.0.", "h.1."] {
        assert!(!moved(&changes, part), "{part} has moved");
    }
    assert!(moved(&changes, "h.2.") && moved(&changes, "ln_f"));
    let wrong = FinetuneConfig { freeze: vec!["7".into()], out: dir.join("x"), ..config(&dir, 1) };
    assert!(refused(&wrong).contains("--freeze 7 names no weight"));
}

#[test]
fn layers_thaw_one_an_epoch_from_the_top() {
    let dir = folder("gradual");
    // 18 rows in batches of 6: three steps an epoch.
    for (epochs, still, learns) in [
        (1, vec!["wte", "h.0.", "h.1.", "h.2.", "ln_f"], vec![]),
        (2, vec!["wte", "h.0.", "h.1."], vec!["h.2.", "ln_f"]),
        (3, vec!["wte", "h.0."], vec!["h.1.", "h.2."]),
        (5, vec![], vec!["wte", "h.0.", "h.1.", "h.2."]),
    ] {
        let one = FinetuneConfig {
            gradual_unfreezing: true,
            out: dir.join(format!("run{epochs}")),
            ..config(&dir, 3 * epochs)
        };
        run(&one);
        let changes = changes(&one.out);
        still.iter().for_each(|part| assert!(!moved(&changes, part), "{epochs}: {part}"));
        learns.iter().for_each(|part| assert!(moved(&changes, part), "{epochs}: {part}"));
    }
}

#[test]
fn each_layer_learns_at_its_rate() {
    let dir = folder("decay");
    let plain = config(&dir, 1);
    let decayed =
        FinetuneConfig { layerwise_lr_decay: 0.5, out: dir.join("decayed"), ..plain.clone() };
    run(&plain);
    run(&decayed);
    let (a, b) = (changes(&plain.out), changes(&decayed.out));
    // One step of gradient descent from the same weights: only the rate differs.
    for (part, depth) in [("wte", 0), ("h.0.", 1), ("h.1.", 2), ("h.2.", 3), ("ln_f", 3)] {
        let ratio = 0.5f32.powi(4 - depth);
        let norm = |changes: &HashMap<String, Vec<f32>>| {
            let all = changes.iter().filter(|(name, _)| name.contains(part));
            all.flat_map(|(_, change)| change).map(|x| x * x).sum::<f32>().sqrt()
        };
        let found = norm(&b) / norm(&a);
        assert!((found - ratio).abs() < 0.02 * ratio, "{part}: {found}, expected {ratio}");
    }
}

#[test]
fn the_slanted_triangle_rises_for_a_tenth_and_falls_to_a_32nd() {
    let dir = folder("slanted");
    let mut config = config(&dir, 40);
    config.trainer.lr_scheduler = Scheduler::SlantedTriangular;
    config.trainer.warmup_steps = 0.1; // the default; the triangle has its own
    run(&config);
    let log = std::fs::read_to_string(config.out.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let rates: Vec<f64> = lines.filter_map(|line| line["learning_rate"].as_f64()).collect();
    assert_eq!(rates.len(), 40);
    assert!((rates[0] - 0.1 / 32.0).abs() < 1e-12, "{}", rates[0]);
    assert!((rates[4] - 0.1).abs() < 1e-12, "the peak is at a tenth: {rates:?}");
    assert!(rates[..5].windows(2).all(|two| two[0] < two[1]));
    assert!(rates[4..].windows(2).all(|two| two[0] > two[1]));
    assert!(rates[39] < 0.1 * 0.07, "{}", rates[39]);
}

/// The probability that the model in `run` gives to the class `label` of a text.
fn probability(run: &Path, label: &str, text: &str) -> f64 {
    let predictor = Predictor::open(run, None).unwrap();
    let predictions = predictor.predict(&[(text.to_owned(), None)]).unwrap();
    predictions[0].scores.iter().find(|(name, _)| name == label).unwrap().1
}

#[test]
fn balanced_weights_let_a_rare_class_count_as_much() {
    let dir = folder("weights");
    // The text says nothing, so the model can learn the shares of the classes only.
    let label = |i: usize| if i.is_multiple_of(10) { "rare" } else { "often" };
    let rows: String = (0..40).map(|i| format!("the hand sat\t{}\n", label(i))).collect();
    let train = vec![file(&dir, "same.tsv", &format!("text\tlabel\n{rows}"))];
    let plain = FinetuneConfig {
        train,
        validation_fraction: 0.0,
        freeze: vec!["body".into()],
        ..config(&dir, 150)
    };
    let mut plain = plain;
    plain.trainer.batch_size = 40;
    let balanced = FinetuneConfig {
        class_weights: "balanced".into(),
        out: dir.join("balanced"),
        ..plain.clone()
    };
    run(&plain);
    run(&balanced);
    let of = |run: &Path| probability(run, "rare", "the hand sat");
    assert!((of(&plain.out) - 0.1).abs() < 0.02, "{}", of(&plain.out));
    assert!((of(&balanced.out) - 0.5).abs() < 0.02, "{}", of(&balanced.out));
    let wrong = FinetuneConfig { class_weights: "some".into(), ..balanced };
    assert!(refused(&wrong).contains("--class-weights some"));
}

#[test]
fn a_run_without_progress_ends_early() {
    let dir = folder("early");
    let mut config = config(&dir, 100);
    config.trainer.learning_rate = 0.0;
    config.trainer.eval_steps = 2;
    config.trainer.early_stopping_patience = 3;
    assert_eq!(run(&config).runs[0].steps, 8);
}

#[test]
fn a_limit_takes_as_many_of_each_class() {
    let dir = folder("limit");
    let limited = FinetuneConfig { limit: Some(8), ..config(&dir, 2) };
    let mut limited = limited;
    limited.trainer.batch_size = 8;
    // Weights of a balanced set are 1: the weighted run is the plain one only if the eight rows are
    // four and four.
    let weighted = FinetuneConfig {
        class_weights: "balanced".into(),
        out: dir.join("weighted"),
        ..limited.clone()
    };
    run(&limited);
    run(&weighted);
    assert_eq!(weights(&limited.out.join("best")), weights(&weighted.out.join("best")));
    let wrong = FinetuneConfig { limit: Some(1), out: dir.join("x"), ..limited };
    assert!(refused(&wrong).contains("--limit 1"));
}

#[test]
fn a_comparison_pairs_the_arms_seed_by_seed() {
    let dir = folder("compare");
    let compared = FinetuneConfig {
        compare_scratch: true,
        seeds: 3,
        test: vec![labels(&dir)],
        ..config(&dir, 3)
    };
    let report = run(&compared);
    let arms: Vec<(Arm, u64)> = report.runs.iter().map(|run| (run.arm, run.seed)).collect();
    let all = |arm| [42, 43, 44].map(|seed| (arm, seed));
    assert_eq!(arms, [all(Arm::Pretrained), all(Arm::Scratch)].concat());
    let value = |arm, seed| {
        report.runs.iter().find(|r| (r.arm, r.seed) == (arm, seed)).and_then(|r| r.value()).unwrap()
    };
    let mut expected =
        [42, 43, 44].map(|seed| value(Arm::Pretrained, seed) - value(Arm::Scratch, seed));
    expected.sort_by(f64::total_cmp);
    assert_eq!(report.differences(), expected);
    // The whole series again is the same series.
    let again = FinetuneConfig { out: dir.join("again"), ..compared };
    assert_eq!(run(&again).differences(), expected);
}

#[test]
fn language_modelling_goes_on_with_the_texts_of_label_files() {
    let dir = folder("lm");
    let lm = FinetuneConfig { task: "lm".into(), ..config(&dir, 30) };
    let report = run(&lm);
    assert_eq!(report.runs[0].metric, "val_loss");
    let best = report.runs[0].best.unwrap().1;
    // The tokenizer is the pretrained one, and the model is a language model that knows the texts better.
    let tokenizer =
        |run: &Path| Tokenizer::from_file(run.join("best/tokenizer.json")).unwrap().hash();
    assert_eq!(tokenizer(&lm.out), tokenizer(base()));
    from_pretrained(lm.out.join("best")).unwrap();
    let loss = |run: &Path| {
        let config = EvaluateConfig {
            from: run.to_owned(),
            data: vec![labels(&dir)],
            threads: 1,
            ..EvaluateConfig::default()
        };
        match evaluate::run(&config, &mut Control::new(&mut Ears::default())).unwrap() {
            Evaluation::LanguageModel { figures, .. } => figures.get("val_loss").unwrap(),
            _ => panic!("not a language model"),
        }
    };
    assert!(loss(&lm.out) < loss(base()) - 0.1, "{} {}", loss(&lm.out), loss(base()));
    assert!(best < loss(base()), "{best}");
    // And from there to a classifier: the third step.
    let third = FinetuneConfig {
        from: Some(lm.out.clone()),
        out: dir.join("classifier"),
        ..config(&dir, 2)
    };
    assert_eq!(run(&third).runs[0].metric, "accuracy");
}

fn lora(r: usize, target: &[&str]) -> LoraConfig {
    LoraConfig {
        lora_r: Some(r),
        lora_target: target.iter().map(|t| t.to_string()).collect(),
        ..LoraConfig::default()
    }
}

#[test]
fn adapters_learn_while_the_base_stands_still() {
    let dir = folder("lora");
    let adapted = FinetuneConfig { lora: lora(2, &["c_attn"]), ..config(&dir, 6) };
    run(&adapted);
    // The merged folder: what has no adapter is the base's to the bit.
    let best = adapted.out.join("best");
    let changes = changes(&adapted.out);
    for part in ["wte", "wpe", "ln_", "c_fc", "c_proj", "c_attn.bias"] {
        assert!(!moved(&changes, part), "{part} has moved");
    }
    assert!(moved(&changes, "c_attn.weight"));

    // The adapter's folder holds A, B and the head, and opens as base + adapter: the same model.
    let adapter = weights_of(&best.join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter.len(), 3 * 2 + 1);
    let name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight";
    assert_eq!(adapter[name].len(), 2 * 16);
    let ids = Tensor::from_slice(&[1u32, 4, 2, 7], [1, 4]).unwrap();
    let logits = |dir: &Path| {
        let model = SequenceClassifier::from_pretrained(dir).unwrap();
        assert_eq!(model.labels, ["bad", "good"]);
        model.logits(&Inputs::new(&ids)).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(logits(&best), logits(&best.join("adapter")));

    // A resumed run is the run that was not stopped, to the bit.
    let first = FinetuneConfig { out: dir.join("first"), ..adapted.clone() };
    let mut first = first;
    first.trainer.max_steps = Some(3);
    run(&first);
    std::fs::remove_file(first.out.join("result.json")).unwrap();
    let more = serde_json::json!({"max_steps": 6});
    let mut ears = Ears::default();
    let more = more.as_object().unwrap();
    finetune::resume(&first.out, more, &mut Control::new(&mut ears)).unwrap();
    let last = |run: &Path| weights(&run.join("checkpoints/step-000006"));
    assert_eq!(last(&first.out), last(&adapted.out));
}

fn weights_of(file: &Path) -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = handloom::models::safetensors::from_bytes(&bytes, "adapter").unwrap();
    tensors.into_iter().map(|(name, t)| (name, t.to_vec::<f32>().unwrap())).collect()
}

#[test]
fn adapters_go_with_language_modelling_and_not_with_everything() {
    let dir = folder("lora-lm");
    let lm =
        FinetuneConfig { task: "lm".into(), lora: lora(2, &["all-linear"]), ..config(&dir, 4) };
    run(&lm);
    let changes = changes(&lm.out);
    assert!(!moved(&changes, "wte") && moved(&changes, "c_fc.weight"));
    let config_file =
        std::fs::read_to_string(lm.out.join("best/adapter/adapter_config.json")).unwrap();
    assert!(config_file.contains("CAUSAL_LM"), "{config_file}");
    from_pretrained(lm.out.join("best/adapter")).unwrap();

    let wrong = |config: FinetuneConfig| refused(&FinetuneConfig { out: dir.join("x"), ..config });
    let both = FinetuneConfig { lora: lora(2, &[]), gradual_unfreezing: true, ..config(&dir, 1) };
    assert!(wrong(both).contains("--gradual-unfreezing"));
    let scratch = FinetuneConfig {
        lora: lora(2, &[]),
        from: None,
        scratch: Some("nano".into()),
        ..config(&dir, 1)
    };
    assert!(wrong(scratch).contains("--from"));
    let strange = FinetuneConfig { lora: lora(2, &["query"]), ..config(&dir, 1) };
    assert!(wrong(strange).contains("--lora-target query"));
}

#[test]
fn traps_of_label_files_are_told_of() {
    let dir = folder("traps");
    // Latin-1, a quoted line break, sorted by class, one text of the test set in the training set, one
    // label that training has not seen, one text longer than what is read.
    let mut train = b"text,label\n".to_vec();
    for i in 0..24 {
        let row =
            if i < 12 { format!("\"bad\nday {i}\",0\n") } else { format!("good day {i},1\n") };
        train.extend(row.bytes());
    }
    train.extend(b"caf\xE9,1\n");
    let train_file = dir.join("train.csv");
    std::fs::write(&train_file, &train).unwrap();
    let long = "good ".repeat(30);
    let test = format!("text,label\n\"bad\nday 3\",0\nnew,1\nodd,2\n{long},1\n");
    let traps = FinetuneConfig {
        train: vec![train_file],
        test: vec![file(&dir, "test.csv", &test)],
        validation_fraction: 0.2,
        max_length: Some(12),
        ..config(&dir, 2)
    };
    let result = finetune::run(&traps, &mut Control::new(&mut Ears::default()));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("line 38") && error.contains("--encoding latin1"), "{error}");

    let mut traps = traps;
    traps.columns.encoding = Some("latin1".into());
    let mut ears = Ears::default();
    let report = finetune::run(&traps, &mut Control::new(&mut ears)).unwrap();
    let said = ears.0.join("\n");
    assert!(said.contains("1 text(s) of the test set also occur in the training set"), "{said}");
    assert!(said.contains("1 row(s) have a label that the training set has not (2)"), "{said}");
    let json = serde_json::to_value(&report).unwrap();
    let test = json["runs"][0]["test"].to_string();
    assert!(test.contains("\"unseen_labels\":1") && test.contains("\"truncated\":1"), "{test}");
    assert!(test.contains("\"rows\":4"), "the row with the unseen label counts: {test}");
}

/// The words themselves, without a tokenizer or a body: learned, tested, evaluated and predicted with.
#[test]
fn a_classifier_of_words_needs_no_pretraining() {
    let dir = folder("words");
    let set = labels(&dir);
    let config = FinetuneConfig {
        from: None,
        scratch: Some("nano".into()),
        model: "lstm".into(),
        tokenizer: Some("word".into()),
        shape: ModelShape { hidden_size: Some(8), dropout: Some(0.0), ..ModelShape::default() },
        test: vec![set.clone()],
        trainer: TrainerConfig {
            learning_rate: 1e-2,
            optimizer: OptimizerKind::AdamW,
            ..config(&dir, 40).trainer
        },
        ..config(&dir, 40)
    };
    let report = run(&config);
    let test = report.runs[0].test.as_ref().expect("a test set was given");
    assert!(test.value() > 0.95, "{test:?}");
    assert!(probability(&config.out, "bad", "the hand sat at") > 0.8);
    let mut ears = Ears::default();
    let evaluation = evaluate::run(
        &EvaluateConfig {
            from: config.out.clone(),
            data: vec![set],
            threads: 1,
            ..EvaluateConfig::default()
        },
        &mut Control::new(&mut ears),
    );
    let Evaluation::Labelled(again) = evaluation.unwrap() else { panic!("it is a classifier") };
    assert_eq!(again.value(), test.value());
    let refusal = refused(&FinetuneConfig { model: "bert".into(), ..config.clone() });
    assert!(refusal.contains("--model lstm"), "{refusal}");
    let word_and_base =
        FinetuneConfig { scratch: None, from: Some(base().into()), ..config.clone() };
    let refusal = refused(&word_and_base);
    assert!(refusal.contains("--scratch"), "{refusal}");

    // On to other labels and new words: what was learned stays, with a new head.
    let more = "text\tlabel\nthe hand ran\tno\nthe fingers sat\tyes\nthe hand sat\tyes\nthe toes ran\tno\n";
    let on = FinetuneConfig {
        scratch: None,
        tokenizer: None,
        from: Some(config.out.clone()),
        train: vec![file(&dir, "more.tsv", more)],
        validation_fraction: 0.0,
        test: Vec::new(),
        out: dir.join("on"),
        ..config
    };
    let mut on = on;
    on.trainer.max_steps = Some(1);
    on.trainer.learning_rate = 1e-6;
    run(&on);
    let table = |run: &Path| weights(&run.join("best"))["word_embedding.weight"].clone();
    let (before, after) = (table(&dir.join("run")), table(&on.out));
    assert!(before.len() < after.len());
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4));
}
