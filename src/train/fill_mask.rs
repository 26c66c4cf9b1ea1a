//! What a masked language model puts into gaps: `a [MASK] day`.

use std::path::Path;

use serde::Serialize;

use super::pretrained;
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{Inputs, LanguageModel, ModelConfig, folder};
use crate::tensor::Tensor;
use crate::text::Tokenizer;

/// One gap and what may stand in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// Pieces with their probabilities, the likeliest first.
    pub candidates: Vec<(String, f64)>,
    /// The text with the likeliest piece in the gap; other gaps stay.
    pub text: String,
}

/// A masked language model opened to fill gaps.
pub struct FillMask {
    model: Box<dyn LanguageModel>,
    tokenizer: Tokenizer,
    /// How many candidates a gap gets.
    pub candidates: usize,
}

/// Whether `path` holds a language model and no classifier: what is asked of it then is not a label.
///
/// # Errors
/// When there is no model.
pub fn fills(path: &Path) -> Result<bool> {
    let json = folder::read_json(pretrained::model_dir(path)?)?;
    Ok(!json.contains_key("id2label"))
}

impl FillMask {
    /// Opens a model folder, or the best model of a run folder.
    ///
    /// # Errors
    /// When there is no such model, or it does not fill gaps.
    pub fn open(path: &Path) -> Result<FillMask> {
        let (model, tokenizer) = pretrained::open_language_model(path)?;
        if !matches!(model.config(), ModelConfig::Bert(_)) {
            return Err(Error::Data(format!(
                "{}: a {} is no classifier: it predicts what comes next, not labels; write with it by \
                 `handloom generate`, or make a classifier of it by `handloom finetune`",
                path.display(),
                model.config().kind()
            )));
        }
        if tokenizer.mask_id().is_none() {
            return Err(Error::Data(format!("{}: the tokenizer has no [MASK]", path.display())));
        }
        Ok(FillMask { model, tokenizer, candidates: 5 })
    }

    /// Moves the model to `device`.
    ///
    /// # Errors
    /// When the device is not there or is full.
    pub fn to_device(&self, device: crate::Device) -> Result<()> {
        self.model.to_device(device)
    }

    /// Fills each `[MASK]` of the text, each as if the others stayed open.
    ///
    /// # Errors
    /// When the text has no gap or is longer than the model reads.
    pub fn fill(&self, text: &str) -> Result<Vec<Gap>> {
        let mask = self.tokenizer.mask_id().unwrap_or_default();
        let longest = self.model.config().context_length();
        let encoded = self.tokenizer.encode_pair(text, None, longest)?;
        let ids = encoded.ids;
        let places: Vec<u32> =
            ids.iter().zip(0..).filter(|(id, _)| **id == mask).map(|(_, at)| at).collect();
        if places.is_empty() {
            let name = self.tokenizer.id_to_token(mask).unwrap_or_default();
            return Err(Error::Usage(format!(
                "`{text}` has no gap{}; write {name} where the model should fill one in",
                if encoded.truncated > 0 { " within what the model reads" } else { "" }
            )));
        }
        let logits = no_grad(|| {
            let input = Tensor::from_slice(&ids, [1, ids.len()])?;
            let hidden = self.model.hidden(&Inputs::new(&input))?.select(0, 0)?;
            let rows = hidden.index_select(0, &Tensor::from_slice(&places, places.len())?)?;
            self.model.logits(&rows)?.softmax(-1)
        })?;
        let special = self.tokenizer.special_ids();
        let vocab = self.model.config().vocab_size();
        let all = logits.to_f64_vec()?;
        places
            .iter()
            .zip(all.chunks(vocab))
            .map(|(&at, row)| self.gap(&ids, at, row, &special))
            .collect()
    }

    fn gap(&self, ids: &[u32], at: u32, row: &[f64], special: &[bool]) -> Result<Gap> {
        let known = special.len().min(row.len());
        let mut order: Vec<usize> = (0..known).filter(|&id| !special[id]).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.truncate(self.candidates.max(1));
        let piece = |id: usize| self.tokenizer.id_to_token(id as u32).unwrap_or_default();
        let mut filled = ids.to_vec();
        if let Some(&best) = order.first() {
            filled[at as usize] = best as u32;
        }
        // The frame of [CLS] and [SEP] is not part of the text; gaps that stay open are.
        let (cls, sep) = (self.tokenizer.cls_id(), self.tokenizer.sep_id());
        filled.retain(|&id| Some(id) != cls && Some(id) != sep);
        let candidates = order.iter().map(|&id| (piece(id), row[id])).collect();
        Ok(Gap { candidates, text: self.tokenizer.decode(&filled)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::build;
    use crate::text::TokenizerKind;

    fn open(words: &str) -> FillMask {
        let kind = TokenizerKind::WordPiece { vocab_size: 60 };
        let tokenizer = Tokenizer::train(kind, [words.to_owned()], |_| {}).unwrap();
        let vocab = tokenizer.vocab_size();
        let config = ModelConfig::preset("bert", "nano", vocab, Some(16), None).unwrap();
        FillMask { model: build(&config, 2).unwrap(), tokenizer, candidates: 3 }
    }

    #[test]
    fn each_gap_gets_its_likeliest_pieces() {
        let filler = open("a fine day a dull day 好天");
        let gaps = filler.fill("a [MASK] day [MASK]").unwrap();
        assert_eq!(gaps.len(), 2);
        for gap in &gaps {
            assert_eq!(gap.candidates.len(), 3);
            assert!(gap.candidates.windows(2).all(|two| two[0].1 >= two[1].1));
            assert!(gap.candidates.iter().all(|(piece, _)| !piece.starts_with('[')), "{gap:?}");
            assert_eq!(gap.text.matches("[MASK]").count(), 1, "{}", gap.text);
            assert!(gap.text.starts_with('a') && !gap.text.contains("[CLS]"), "{}", gap.text);
        }
        let error = filler.fill("a fine day").unwrap_err().to_string();
        assert!(error.contains("has no gap; write [MASK]"), "{error}");
    }
}
