//! Model folders that transformers and torch have saved give the scores that they gave there.
//!
//! `tests/interchange.py` made the folders in `fixtures/interchange` and says how to make them
//! again: GPT-2 whole, in shards, bare and with a head of its own; BERT with norms called `gamma`
//! and `beta`; classifiers of both; the three recurrent layers from `torch.nn`.

use std::path::{Path, PathBuf};

use handloom::models::{Inputs, SequenceClassifier, TokenClassifier, from_pretrained};
use handloom::{Result, Tensor};

#[derive(serde::Deserialize)]
struct Expected {
    task: String,
    ids: Vec<Vec<u32>>,
    padding: Vec<Vec<u32>>,
    token_types: Option<Vec<Vec<u32>>>,
    shape: Vec<usize>,
    logits: Vec<f64>,
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/interchange");
    let entries = std::fs::read_dir(root).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn matrix(rows: &[Vec<u32>]) -> Tensor {
    Tensor::from_slice(&rows.concat(), [rows.len(), rows[0].len()]).unwrap()
}

fn scores(folder: &Path, expected: &Expected) -> Result<Tensor> {
    let (ids, padding) = (matrix(&expected.ids), matrix(&expected.padding));
    let types = expected.token_types.as_deref().map(matrix);
    let inputs = Inputs {
        token_type_ids: types.as_ref(),
        padding_mask: Some(&padding),
        ..Inputs::new(&ids)
    };
    match expected.task.as_str() {
        "classify" => {
            let model = SequenceClassifier::from_pretrained(folder)?;
            assert_eq!(model.labels, ["no", "yes", "也许"]);
            model.logits(&inputs)
        }
        "tag" => TokenClassifier::from_pretrained(folder)?.logits(&inputs),
        _ => {
            let (_, model) = from_pretrained(folder)?;
            model.logits(&model.hidden(&inputs)?)
        }
    }
}

#[test]
fn folders_of_transformers_and_torch_give_their_scores() {
    let folders = folders();
    assert!(folders.len() >= 10, "only {} folders", folders.len());
    for folder in folders {
        let text = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_slice(&text).unwrap();
        let scores =
            scores(&folder, &expected).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert_eq!(scores.shape(), expected.shape, "{}", folder.display());
        // A score for each text, or for each token; scores at padding mean nothing.
        let per_token = expected.shape.len() == 3;
        let counts: Vec<bool> = match per_token {
            true => expected.padding.concat().iter().map(|&p| p == 0).collect(),
            false => vec![true; expected.shape[0]],
        };
        let width = *expected.shape.last().unwrap();
        let ours = scores.to_f64_vec().unwrap();
        for (row, (a, b)) in ours.chunks(width).zip(expected.logits.chunks(width)).enumerate() {
            for (x, y) in a.iter().zip(b).filter(|_| counts[row]) {
                assert!((x - y).abs() <= 2e-5, "{}, row {row}: {x} and {y}", folder.display());
            }
        }
    }
}
