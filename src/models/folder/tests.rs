use std::path::PathBuf;

use serde_json::json;

use super::super::on_disk::weights_from_bytes;
use super::super::safetensors::{INDEX, to_bytes};
use super::*;
use crate::models::Inputs;
use crate::tensor::DType;

/// A folder of its own for one test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("handloom-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    /// Rewrites the weight file with other names or tensors.
    fn change_weights(&self, change: impl FnOnce(StateDict) -> StateDict) {
        let tensors = read_folder(&self.0).unwrap();
        self.write(WEIGHTS, to_bytes(&change(tensors)).unwrap());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(model: &str) -> ModelConfig {
    ModelConfig::preset(model, "nano", 40, Some(8), Some(0.0)).unwrap()
}

fn save(folder: &Folder, model: &str) -> Box<dyn LanguageModel> {
    let config = config(model);
    let model = build(&config, 9).unwrap();
    save_pretrained(&folder.0, model.as_ref(), &config, &Map::new()).unwrap();
    model
}

fn logits(model: &dyn LanguageModel) -> Vec<f64> {
    let ids = Tensor::from_slice(&[1u32, 5, 39, 0, 7, 7], [2, 3]).unwrap();
    let hidden = model.hidden(&Inputs::new(&ids)).unwrap();
    model.logits(&hidden).unwrap().to_f64_vec().unwrap()
}

fn refusal(folder: &Folder) -> String {
    let error = from_pretrained(&folder.0).err().expect("the folder should be refused");
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn every_model_comes_back_with_the_same_logits() {
    for name in ["gpt", "bert", "rnn", "lstm", "gru"] {
        let folder = Folder::new(&format!("round-{name}"));
        let model = save(&folder, name);
        let (read, back) = from_pretrained(&folder.0).unwrap();
        assert_eq!(read, config(name));
        assert_eq!(logits(back.as_ref()), logits(model.as_ref()));
        let bytes = weights_to_bytes(model.as_ref(), &read).unwrap();
        let other = build(&read, 1).unwrap();
        weights_from_bytes(&bytes, "checkpoint", other.as_ref(), &read).unwrap();
        assert_eq!(logits(other.as_ref()), logits(model.as_ref()));
    }
}

#[test]
fn gpt2s_products_lie_transposed_on_disk() {
    let folder = Folder::new("conv1d");
    save(&folder, "gpt");
    let on_disk = read_folder(&folder.0).unwrap();
    let shape = |name: &str| {
        let name = format!("transformer.h.0.{name}.weight");
        on_disk.iter().find(|(n, _)| *n == name).unwrap().1.shape().to_vec()
    };
    assert_eq!(shape("attn.c_attn"), [128, 384]);
    assert_eq!(shape("mlp.c_fc"), [128, 512]);
    assert_eq!(shape("mlp.c_proj"), [512, 128]);
    assert!(
        !on_disk.iter().any(|(name, _)| name == "lm_head.weight"),
        "tied tensors are stored once"
    );
}

#[test]
fn old_and_bare_names_are_understood() {
    let folder = Folder::new("names");
    let model = save(&folder, "gpt");
    folder.change_weights(|tensors| {
        let mut tensors: StateDict = tensors
            .into_iter()
            .map(|(name, x)| (name.trim_start_matches("transformer.").to_owned(), x))
            .collect();
        tensors.push(("h.0.attn.bias".into(), Tensor::ones([1, 1, 8, 8], DType::F32).unwrap()));
        tensors.push(("h.0.attn.masked_bias".into(), Tensor::scalar(-1e4, DType::F32).unwrap()));
        tensors.push(("lm_head.weight".into(), Tensor::zeros([40, 128], DType::F32).unwrap()));
        tensors
    });
    assert_eq!(logits(from_pretrained(&folder.0).unwrap().1.as_ref()), logits(model.as_ref()));

    let folder = Folder::new("gamma");
    let model = save(&folder, "bert");
    folder.change_weights(|tensors| {
        let rename = |name: String| match name.strip_suffix("LayerNorm.weight") {
            Some(front) => format!("{front}LayerNorm.gamma"),
            None => match name.strip_suffix("LayerNorm.bias") {
                Some(front) => format!("{front}LayerNorm.beta"),
                None => name,
            },
        };
        let mut tensors: StateDict =
            tensors.into_iter().map(|(name, x)| (rename(name), x)).collect();
        let seq =
            ("cls.seq_relationship.weight".into(), Tensor::zeros([2, 64], DType::F32).unwrap());
        tensors.push(seq);
        tensors
    });
    assert_eq!(logits(from_pretrained(&folder.0).unwrap().1.as_ref()), logits(model.as_ref()));
    let loaded = load_pretrained(&folder.0, 0).unwrap();
    assert_eq!(loaded.unused, ["cls.seq_relationship.weight"]);
}

#[test]
fn half_precision_files_are_widened() {
    let folder = Folder::new("half");
    let model = save(&folder, "lstm");
    folder.change_weights(|tensors| {
        tensors.into_iter().map(|(name, x)| (name, x.to_dtype(DType::BF16).unwrap())).collect()
    });
    let back = logits(from_pretrained(&folder.0).unwrap().1.as_ref());
    let largest =
        back.iter().zip(logits(model.as_ref())).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest > 0.0 && largest < 0.01, "{largest}");
}

#[test]
fn a_body_without_a_head_is_loaded_on_request_only() {
    let folder = Folder::new("body");
    save(&folder, "bert");
    folder.change_weights(|tensors| {
        tensors.into_iter().filter(|(name, _)| name.starts_with("bert.e")).collect()
    });
    assert!(refusal(&folder).contains("it lacks cls.predictions"), "{}", refusal(&folder));
    let loaded = load_pretrained(&folder.0, 4).unwrap();
    assert!(loaded.fresh.iter().any(|name| name == "bert.pooler.dense.weight"));
    assert_eq!(loaded.non_finite, 0);
}

#[test]
fn shards_are_put_together_and_watched() {
    let folder = Folder::new("shards");
    let model = save(&folder, "gpt");
    let tensors = read_folder(&folder.0).unwrap();
    std::fs::remove_file(folder.0.join(WEIGHTS)).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    folder.write(files[0], to_bytes(first).unwrap());
    folder.write(files[1], to_bytes(second).unwrap());
    let index = |second_file: &str| {
        let half = |list: &[(String, Tensor)], file: &str| {
            list.iter().map(|(name, _)| (name.clone(), file.into())).collect::<Map<String, Value>>()
        };
        let mut map = half(first, files[0]);
        map.extend(half(second, second_file));
        json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()
    };
    folder.write(INDEX, index(files[1]));
    assert_eq!(logits(from_pretrained(&folder.0).unwrap().1.as_ref()), logits(model.as_ref()));
    for outside in ["../model.safetensors", "/etc/passwd", "a\\b", "..", "", "c:x"] {
        folder.write(INDEX, index(outside));
        assert!(refusal(&folder).contains("not a file name of this folder"));
    }
    folder.write(INDEX, index(files[0]));
    assert!(refusal(&folder).contains("should be in"));
    folder.write(INDEX, index("missing.safetensors"));
    assert!(refusal(&folder).contains("missing.safetensors: cannot read"));
    folder.write(INDEX, "{}");
    assert!(refusal(&folder).contains("not a list of shards"));
}

#[test]
fn what_does_not_fit_is_listed() {
    let folder = Folder::new("misfit");
    save(&folder, "gpt");
    let good = std::fs::read(folder.0.join(WEIGHTS)).unwrap();
    folder.change_weights(|mut tensors| {
        tensors.retain(|(name, _)| name != "transformer.h.1.ln_1.bias");
        let stranger = tensors[0].1.clone();
        tensors.push(("transformer.h.9.ln_1.bias".into(), stranger));
        tensors
    });
    let message = refusal(&folder);
    assert!(message.contains("missing: transformer.h.1.ln_1.bias"), "{message}");
    assert!(message.contains("not part of this model: transformer.h.9.ln_1.bias"), "{message}");

    folder.write(WEIGHTS, &good);
    let mut json = config("gpt").to_json();
    json.insert("n_embd".into(), 64.into());
    folder.write(CONFIG, Value::Object(json.clone()).to_string());
    assert!(
        refusal(&folder)
            .contains("`transformer.wte.weight` has shape [40, 128], the model wants [40, 64]")
    );
    json.insert("n_embd".into(), 65536.into());
    folder.write(CONFIG, Value::Object(json).to_string());
    assert!(
        refusal(&folder).contains("describes a model of"),
        "refused before memory is asked for"
    );

    folder.write(CONFIG, "{\"model_type\": \"gpt2\", ");
    assert!(refusal(&folder).contains("not JSON"));
    folder.write(CONFIG, "[]");
    assert!(refusal(&folder).contains("config.json"));
    std::fs::remove_file(folder.0.join(CONFIG)).unwrap();
    assert!(refusal(&folder).contains("config.json: cannot read"));

    let folder = Folder::new("weightless");
    save(&folder, "gpt");
    std::fs::remove_file(folder.0.join(WEIGHTS)).unwrap();
    folder.write("pytorch_model.bin", "x");
    assert!(refusal(&folder).contains("pytorch_model.bin"));
}

#[test]
fn infinite_weights_are_counted() {
    let folder = Folder::new("infinite");
    save(&folder, "gru");
    folder.change_weights(|mut tensors| {
        let data = tensors[0].1.make_mut::<f32>().unwrap();
        (data[0], data[1]) = (f32::NAN, f32::INFINITY);
        tensors
    });
    assert_eq!(load_pretrained(&folder.0, 0).unwrap().non_finite, 2);
}

#[test]
fn classifiers_come_back_with_labels_and_logits() {
    let ids = Tensor::from_slice(&[1u32, 5, 39, 0, 7, 7], [2, 3]).unwrap();
    let labels = || ["bad", "好"].map(str::to_owned).to_vec();
    for name in ["gpt", "bert", "lstm"] {
        let folder = Folder::new(&format!("classifier-{name}"));
        let text = SequenceClassifier::new(build(&config(name), 3).unwrap(), labels(), 5).unwrap();
        text.save_pretrained(&folder.0, &Map::new()).unwrap();
        let back = SequenceClassifier::from_pretrained(&folder.0).unwrap();
        assert_eq!(back.labels, labels());
        let run =
            |c: &SequenceClassifier| c.logits(&Inputs::new(&ids)).unwrap().to_f64_vec().unwrap();
        assert_eq!(run(&back), run(&text));
        if name == "gpt" {
            // Its head is the embedding table, so nothing is missing.
            assert!(from_pretrained(&folder.0).is_ok());
        } else {
            assert!(refusal(&folder).contains("not a language model"));
        }

        let tagger = TokenClassifier::new(build(&config(name), 3).unwrap(), labels(), 5).unwrap();
        tagger.save_pretrained(&folder.0, &Map::new()).unwrap();
        let back = TokenClassifier::from_pretrained(&folder.0).unwrap();
        let run = |c: &TokenClassifier| c.logits(&Inputs::new(&ids)).unwrap().to_f64_vec().unwrap();
        assert_eq!(run(&back), run(&tagger));
    }
    let folder = Folder::new("no-classifier");
    save(&folder, "bert");
    assert!(
        SequenceClassifier::from_pretrained(&folder.0)
            .err()
            .unwrap()
            .to_string()
            .contains("id2label")
    );
    let extra = json!({"id2label": {"0": "a", "2": "b"}});
    let model = build(&config("bert"), 1).unwrap();
    save_pretrained(&folder.0, model.as_ref(), &config("bert"), extra.as_object().unwrap())
        .unwrap();
    assert!(load_pretrained(&folder.0, 0).err().unwrap().to_string().contains("id2label"));
}
