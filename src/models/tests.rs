//! What models promise: batches, padding, states and heads change how a number is computed, not
//! which.

use super::*;
use crate::autograd::trace;
use crate::ops::Key;

const VOCAB: usize = 50;

fn small(model: &str) -> ModelConfig {
    let mut config = ModelConfig::preset(model, "nano", VOCAB, Some(16), Some(0.0)).unwrap();
    match &mut config {
        ModelConfig::Gpt(c) => (c.n_embd, c.n_head, c.n_layer) = (16, 2, 2),
        ModelConfig::Bert(c) => (c.hidden_size, c.intermediate_size) = (16, 32),
        ModelConfig::Rnn(c) => (c.hidden_size, c.embedding_size, c.num_layers) = (16, 16, 2),
    }
    config
}

fn ids(b: usize, t: usize, stream: u64) -> Tensor {
    let x = Tensor::rand([b, t], DType::F64, Key { seed: 5, stream, step: 0 }).unwrap();
    x.mul_scalar(VOCAB as f64).unwrap().to_dtype(DType::U32).unwrap()
}

#[track_caller]
fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f64_vec().unwrap(), b.to_f64_vec().unwrap());
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "at {i}: {x} and {y}");
    }
}

#[test]
fn a_fresh_model_knows_nothing_and_every_parameter_has_a_gradient() {
    for model in ["gpt", "bert", "rnn", "lstm", "gru"] {
        let model = build(&small(model), 3).unwrap();
        let loss = model.loss(&ids(4, 12, 1), &ids(4, 12, 2)).unwrap();
        let guess = (VOCAB as f64).ln();
        assert!((loss.item().unwrap() - guess).abs() < 0.1, "{} is not ln V", loss.item().unwrap());
        loss.backward().unwrap();
        for (name, p) in model.named_parameters() {
            assert_eq!(p.grad().is_some(), p.requires_grad(), "{name}");
            assert_eq!(p.requires_grad(), !name.starts_with("bert.pooler"), "{name}");
        }
    }
}

#[test]
fn first_weights_depend_on_the_seed_alone_and_have_the_papers_spread() {
    let config = ModelConfig::preset("gpt", "nano", 500, None, None).unwrap();
    let (a, b, c) =
        (build(&config, 1).unwrap(), build(&config, 1).unwrap(), build(&config, 2).unwrap());
    let spread = |x: &Tensor| {
        let v = x.to_f64_vec().unwrap();
        (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64).sqrt()
    };
    for (((name, x), (_, y)), (_, z)) in
        a.state_dict().iter().zip(b.state_dict()).zip(c.state_dict())
    {
        assert_eq!(x.to_f64_vec().unwrap(), y.to_f64_vec().unwrap());
        if x.rank() == 1 {
            let start = if name.contains("ln_") && name.ends_with("weight") { 1.0 } else { 0.0 };
            assert!(x.to_f64_vec().unwrap().iter().all(|&v| v == start), "{name}");
            continue;
        }
        assert_ne!(x.to_f64_vec().unwrap(), z.to_f64_vec().unwrap());
        let expected = if name.ends_with("c_proj.weight") { 0.02 / 8f64.sqrt() } else { 0.02 };
        assert!((spread(x) / expected - 1.0).abs() < 0.05, "{name}: {}", spread(x));
    }
}

#[test]
fn reading_on_from_a_state_is_reading_at_once() {
    for model in ["gpt", "rnn", "lstm", "gru"] {
        let model = build(&small(model), 3).unwrap();
        let ids = ids(2, 9, 1);
        let whole = model.hidden(&Inputs::new(&ids)).unwrap();
        let mut state = model.new_state(2).unwrap();
        for (start, n) in [(0, 4), (4, 1), (5, 1), (6, 3)] {
            let y = model.hidden_with_state(&ids.narrow(1, start, n).unwrap(), &mut state).unwrap();
            assert_close(&y, &whole.narrow(1, start, n).unwrap(), 1e-5);
            assert_eq!(state.len(), start + n);
        }
        let mut state = model.new_state(2).unwrap();
        let next = model.next_logits(&ids, &mut state).unwrap();
        let all = model.logits(&whole).unwrap();
        assert_close(&next, &all.select(1, 8).unwrap(), 1e-5);

        // Beams: row 0 goes on twice.
        state.reorder(&Tensor::zeros(2, DType::U32).unwrap()).unwrap();
        let more = Tensor::full([2, 1], 7.0, DType::U32).unwrap();
        let y = model.next_logits(&more, &mut state).unwrap().to_f64_vec().unwrap();
        assert_eq!(y[..VOCAB], y[VOCAB..]);
    }
    assert_eq!(build(&small("bert"), 3).unwrap().new_state(1).err().unwrap().exit_code(), 2);
}

/// Weights in bf16 are the same numbers, read from half as many bytes.
#[test]
fn weights_in_bf16_are_weights_rounded_to_it() {
    let stored = build(&small("gpt"), 3).unwrap();
    stored.store_weights(DType::BF16).unwrap();
    let rounded = build(&small("gpt"), 3).unwrap();
    let mut halves = 0;
    for ((name, short), (_, long)) in
        stored.named_parameters().into_iter().zip(rounded.named_parameters())
    {
        let product_reads = short.shape().len() == 2 && !name.contains("wpe");
        assert_eq!(short.dtype() == DType::BF16, product_reads, "{name}");
        assert_eq!(short.requires_grad(), !product_reads, "{name}");
        halves += product_reads as usize;
        long.load(&short.data().to_dtype(DType::F32).unwrap()).unwrap();
    }
    assert_eq!(halves, 1 + 2 * 4);
    let ids = ids(2, 9, 1);
    let logits = |model: &dyn LanguageModel| {
        let mut state = model.new_state(2).unwrap();
        let read = model.hidden_with_state(&ids.narrow(1, 0, 8).unwrap(), &mut state);
        assert_eq!(read.unwrap().dtype(), DType::F32);
        let next = model.next_logits(&ids.narrow(1, 8, 1).unwrap(), &mut state).unwrap();
        let all = model.logits(&model.hidden(&Inputs::new(&ids)).unwrap()).unwrap();
        let loss = model.loss(&ids, &ids).unwrap();
        [next, all, loss].map(|x| x.to_vec::<f32>().unwrap())
    };
    let ([next, all, loss], [other_next, other_all, other_loss]) =
        (logits(stored.as_ref()), logits(rounded.as_ref()));
    assert!(next == other_next && all == other_all);
    assert!((loss[0] - other_loss[0]).abs() < 1e-6);
    assert!(stored.store_weights(DType::F16).is_err());
    let message = build(&small("lstm"), 3).unwrap().store_weights(DType::BF16).unwrap_err();
    assert!(message.to_string().contains("f32"), "{message}");
}

#[test]
fn a_context_has_an_end() {
    let model = build(&small("gpt"), 3).unwrap();
    let mut state = model.new_state(1).unwrap();
    assert_eq!(state.room(), Some(16));
    model.hidden_with_state(&ids(1, 16, 1), &mut state).unwrap();
    assert_eq!(state.room(), Some(0));
    let message = model.hidden_with_state(&ids(1, 1, 1), &mut state).unwrap_err().to_string();
    assert!(message.contains("17 tokens do not fit into a context of 16"), "{message}");
    assert!(model.hidden(&Inputs::new(&ids(1, 17, 1))).is_err());
    let beyond = Tensor::full([1, 2], VOCAB as f64, DType::U32).unwrap();
    assert!(model.loss(&beyond, &beyond).is_err());
}

#[test]
fn truncated_backpropagation_stops_at_the_state_and_a_state_can_be_saved() {
    let model = build(&small("lstm"), 3).unwrap();
    let ids = ids(2, 8, 1);
    let mut state = model.new_state(2).unwrap();
    model.hidden_with_state(&ids.narrow(1, 0, 4).unwrap(), &mut state).unwrap();
    let saved = state.tensors();
    assert!(saved.iter().all(|(_, x)| !x.requires_grad()));
    let y = model.hidden_with_state(&ids.narrow(1, 4, 4).unwrap(), &mut state).unwrap();
    assert!(y.requires_grad());
    let mut again = model.new_state(2).unwrap();
    again.restore(&saved, 4).unwrap();
    let z = model.hidden_with_state(&ids.narrow(1, 4, 4).unwrap(), &mut again).unwrap();
    assert_eq!(y.to_f64_vec().unwrap(), z.to_f64_vec().unwrap());
    assert_eq!(again.len(), 8);
    assert!(model.new_state(3).unwrap().restore(&saved, 4).is_err());
}

#[test]
fn padding_changes_nothing() {
    let (b, t, lengths) = (3, 8, [8usize, 3, 5]);
    let mut both_ways = small("lstm");
    if let ModelConfig::Rnn(c) = &mut both_ways {
        (c.bidirectional, c.tie_word_embeddings) = (true, false);
    }
    let configs = ["gpt", "bert", "rnn", "gru"].map(small);
    for config in configs.into_iter().chain([both_ways]) {
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let model = SequenceClassifier::new(build(&config, 3).unwrap(), labels, 4).unwrap();
        let ids = ids(b, t, 1);
        let mask: Vec<u32> =
            lengths.iter().flat_map(|&n| (0..t).map(move |at| u32::from(at >= n))).collect();
        let mask = Tensor::from_slice(&mask, [b, t]).unwrap();
        let by_mask = Inputs { padding_mask: Some(&mask), ..Inputs::new(&ids) };
        let by_lengths = Inputs { lengths: Some(&lengths), ..Inputs::new(&ids) };
        let y = model.logits(&by_mask).unwrap();
        assert_close(&model.logits(&by_lengths).unwrap(), &y, 1e-6);
        for (row, &n) in lengths.iter().enumerate() {
            let alone = ids.narrow(0, row, 1).unwrap().narrow(1, 0, n).unwrap();
            let one = model.logits(&Inputs::new(&alone)).unwrap();
            assert_close(&y.narrow(0, row, 1).unwrap(), &one, 1e-5);
        }
    }
}

#[test]
fn a_masked_loss_is_that_of_all_positions_with_most_ignored() {
    let model = build(&small("bert"), 3).unwrap();
    let ids = ids(2, 6, 1);
    let mut targets = vec![CrossEntropy::IGNORE; 12];
    (targets[1], targets[7], targets[11]) = (3, 4, 5);
    let targets = Tensor::from_slice(&targets, [2, 6]).unwrap();
    let hidden = model.hidden(&Inputs::new(&ids)).unwrap();
    let all =
        ops::cross_entropy(&model.logits(&hidden).unwrap(), &targets, &CrossEntropy::default());
    assert_close(&model.loss(&ids, &targets).unwrap(), &all.unwrap(), 1e-6);
}

#[test]
fn classifiers_have_hugging_faces_names_and_train_all_they_have() {
    let labels = || ["a", "b", "c"].map(str::to_owned).to_vec();
    for (model, head) in
        [("gpt", "score.weight"), ("bert", "classifier.weight"), ("gru", "classifier.weight")]
    {
        let text = SequenceClassifier::new(build(&small(model), 1).unwrap(), labels(), 2).unwrap();
        let targets = Tensor::from_slice(&[0u32, 2], 2).unwrap();
        let ids = ids(2, 5, 1);
        let loss = text.loss(&Inputs::new(&ids), &targets, &CrossEntropy::default()).unwrap();
        loss.backward().unwrap();
        let named = text.named_parameters();
        assert!(named.iter().any(|(name, _)| name == head));
        assert!(!named.iter().any(|(name, _)| name == "score.bias"));
        for (name, p) in named {
            assert!(p.grad().is_some(), "{model}: {name} has no gradient");
        }
        let tagger = TokenClassifier::new(build(&small(model), 1).unwrap(), labels(), 2).unwrap();
        let loss = tagger.loss(
            &Inputs::new(&ids),
            &Tensor::full([2, 5], 1.0, DType::U32).unwrap(),
            &CrossEntropy::default(),
        );
        loss.unwrap().backward().unwrap();
        for (name, p) in tagger.named_parameters() {
            assert!(p.grad().is_some(), "{model}: {name} has no gradient");
        }
    }
    let body = || build(&small("gpt"), 1).unwrap();
    assert!(SequenceClassifier::new(body(), vec![], 1).is_err());
    assert!(TokenClassifier::new(body(), vec!["x".into(), "x".into()], 1).is_err());
}

#[test]
fn flops_from_sizes_are_those_of_the_trace() {
    let products = [
        "linear",
        "linear_add",
        "linear_gelu",
        "self_attention_qkv",
        "scaled_dot_product_attention",
        "rnn_sequence",
        "lstm_sequence",
        "gru_sequence",
    ];
    for model in ["gpt", "bert", "rnn", "lstm", "gru"] {
        let model = build(&small(model), 3).unwrap();
        let ids = ids(3, 16, 1);
        let (_, trace) =
            trace(|| model.logits(&model.hidden(&Inputs::new(&ids)).unwrap()).unwrap());
        let traced: u64 =
            trace.entries.iter().filter(|e| products.contains(&e.name)).map(|e| e.flops).sum();
        assert_eq!(model.forward_flops(3, 16), traced, "{}", model.config().kind());
        assert!(trace.entries.iter().any(|e| !e.scope.is_empty()));
    }
}

#[test]
fn token_types_reach_the_models_that_have_them() {
    let mut config = small("lstm");
    if let ModelConfig::Rnn(c) = &mut config {
        c.type_vocab_size = 2;
    }
    let ids = ids(2, 5, 1);
    let types = Tensor::from_slice(&[0u32, 1, 0, 0, 1, 0, 0, 1, 1, 0], [2, 5]).unwrap();
    for config in [small("gpt"), small("bert"), config] {
        let model = build(&config, 3).unwrap();
        let plain = model.hidden(&Inputs::new(&ids)).unwrap();
        let flagged = Inputs { token_type_ids: Some(&types), ..Inputs::new(&ids) };
        let flagged = model.hidden(&flagged).unwrap();
        assert_ne!(plain.to_f64_vec().unwrap(), flagged.to_f64_vec().unwrap());
    }
    let wrong = Inputs { token_type_ids: Some(&types), ..Inputs::new(&ids) };
    assert!(build(&small("lstm"), 3).unwrap().hidden(&wrong).is_err());
}

#[test]
fn the_tutorials_models_run_and_learn() {
    let rnn = RnnModel::new(3, 8, 2, 1).unwrap();
    let x = Tensor::rand([4, 6, 3], DType::F32, Key { seed: 1, stream: 1, step: 0 }).unwrap();
    let targets = Tensor::from_slice(&[0u32, 1, 1, 0], 4).unwrap();
    let loss =
        ops::cross_entropy(&rnn.forward(&x).unwrap(), &targets, &CrossEntropy::default()).unwrap();
    loss.backward().unwrap();
    assert!(rnn.named_parameters().iter().all(|(_, p)| p.grad().is_some()));

    let model = TransformerModel::new(VOCAB, 2, 2, 16, 0.1, 12, 1).unwrap();
    let (sequence, pooled) = model.forward(&ids(3, 10, 1), None, None).unwrap();
    assert_eq!((sequence.shape(), pooled.shape()), (&[3, 10, 16][..], &[3, 16][..]));
    pooled.sum_all().unwrap().backward().unwrap();
    for (name, p) in model.named_parameters() {
        assert!(p.grad().is_some(), "{name}");
    }
    assert!(model.forward(&ids(1, 13, 1), None, None).is_err());
    assert!(TransformerModel::new(VOCAB, 3, 1, 16, 0.1, 12, 1).is_err());
}

/// Two sentences of one and three words for a body, and for a word tagger of two columns.
fn sentences(model: &str) -> Vec<Sentence> {
    let words = model == "word";
    let sentence = |n: usize| Sentence {
        words: n,
        ids: (0..2 * n as u32).map(|i| i * 7 % 20).collect(),
        token_type_ids: vec![0; 2 * n],
        first: (0..n as u32).map(|i| 2 * i).collect(),
        characters: if words { (1..=n as u32).map(|i| (0..i).collect()).collect() } else { vec![] },
        rare: Vec::new(),
    };
    vec![sentence(1), sentence(3)]
}

fn tagger(model: &str, crf: bool) -> Box<dyn Tagger> {
    let labels = ["O", "B-A", "I-A"].map(String::from).to_vec();
    if model != "word" {
        let tagger = TokenClassifier::new(build(&small(model), 1).unwrap(), labels, 2).unwrap();
        return Box::new(if crf { tagger.with_crf(3).unwrap() } else { tagger });
    }
    let config = WordTaggerConfig { encoder: word_sizes(), crf };
    Box::new(WordTagger::new(&config, labels, 1).unwrap())
}

fn word_sizes() -> WordEncoderConfig {
    let table = |name: &str, width| word_encoder::TableSize { name: name.into(), rows: 20, width };
    WordEncoderConfig {
        cell: "lstm".into(),
        tables: vec![table("word", 8), table("shape", 4)],
        columns: vec![0, 1],
        char_vocab_size: 9,
        char_embedding_size: 5,
        char_filters: 6,
        hidden_size: 7,
        num_layers: 2,
        dropout: 0.0,
    }
}

#[test]
fn taggers_learn_with_every_parameter_and_padding_changes_nothing() {
    for (model, crf) in
        [("gpt", false), ("bert", true), ("lstm", true), ("word", false), ("word", true)]
    {
        let tagger = tagger(model, crf);
        let all = sentences(model);
        let rows: Vec<&Sentence> = all.iter().collect();
        let emissions = tagger.emissions(&rows).unwrap();
        assert_eq!(emissions.shape(), [2, 3, 3]);
        let alone = tagger.emissions(&rows[..1]).unwrap();
        assert_close(&emissions.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap(), &alone, 1e-5);

        let tags: [&[u32]; 2] = [&[1], &[0, 1, 2]];
        let losses = tagger::losses(&*tagger, &emissions, &rows, &tags, 0.0).unwrap();
        assert_eq!(losses.shape(), [2]);
        let first = tagger::losses(&*tagger, &alone, &rows[..1], &tags[..1], 0.0).unwrap();
        assert_close(&losses.narrow(0, 0, 1).unwrap(), &first, 1e-5);
        losses.sum_all().unwrap().backward().unwrap();
        for (name, p) in tagger.named_parameters() {
            assert!(p.grad().is_some(), "{model}: {name} has no gradient");
        }
        let paths = tagger::decode(&*tagger, &emissions, &rows).unwrap();
        assert_eq!(paths.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3]);
        for path in paths {
            assert!(path[0] != 2 && path.windows(2).all(|pair| pair != [0, 2]), "{path:?}");
        }
        assert!(tagger.emissions(&[&Sentence::default()]).is_err());
    }
}

#[test]
fn taggers_come_back_from_their_folders() {
    for (model, crf) in [("bert", true), ("bert", false), ("word", true)] {
        let folder = std::env::temp_dir()
            .join(format!("handloom-tagger-{model}-{crf}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let saved = tagger(model, crf);
        let config = saved.config_json(&serde_json::Map::new());
        std::fs::write(folder.join(on_disk::CONFIG), config).unwrap();
        std::fs::write(folder.join(safetensors::WEIGHTS), saved.weights().unwrap()).unwrap();
        let back = folder::open_tagger(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((back.labels(), back.crf().is_some()), (saved.labels(), crf));
        let all = sentences(model);
        let rows: Vec<&Sentence> = all.iter().collect();
        let scores = |t: &dyn Tagger| t.emissions(&rows).unwrap().to_f64_vec().unwrap();
        assert_eq!(scores(&*back), scores(&*saved));
    }
}

#[test]
fn a_classifier_of_words_learns_with_every_parameter_and_comes_back_from_its_folder() {
    let labels = ["good", "bad"].map(String::from).to_vec();
    let model = WordClassifier::new(&word_sizes(), labels, 1).unwrap();
    let all = sentences("word");
    let rows: Vec<&Sentence> = all.iter().collect();
    let scores = model.scores(&rows).unwrap();
    assert_eq!(scores.shape(), [2, 2]);
    let alone = model.scores(&rows[..1]).unwrap();
    assert_close(&scores.narrow(0, 0, 1).unwrap(), &alone, 1e-5);
    scores.sum_all().unwrap().backward().unwrap();
    for (name, p) in model.named_parameters() {
        assert!(p.grad().is_some(), "{name} has no gradient");
    }
    let folder = std::env::temp_dir().join(format!("handloom-words-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = model.config_json(&serde_json::Map::new());
    std::fs::write(folder.join(on_disk::CONFIG), &config).unwrap();
    std::fs::write(folder.join(safetensors::WEIGHTS), model.weights().unwrap()).unwrap();
    let back = folder::open_classifier(&folder).unwrap();
    let damaged = config.replace("\"hidden_size\": 7", "\"hidden_size\": 70000");
    std::fs::write(folder.join(on_disk::CONFIG), damaged).unwrap();
    let refused = folder::open_classifier(&folder).err().expect("a damaged size").to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(refused.contains("larger model"), "{refused}");
    let again = back.scores(&rows).unwrap();
    assert_eq!(again.to_f64_vec().unwrap(), scores.to_f64_vec().unwrap());
}
