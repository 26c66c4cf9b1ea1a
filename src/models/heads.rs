//! Classifiers: another head on the body of a language model.
//!
//! Names and shapes are Hugging Face's: a GPT-2 classifies texts by `score.weight` (no bias) on the
//! last token, a BERT by `classifier.{weight,bias}` on the pooler; both tag tokens by `classifier`.
//! Recurrent models use `classifier` throughout.

use serde_json::{Map, Value};

use super::labels::{Classifier, LabelModel, Sentence, expect_words, rectangle};
use super::on_disk::{
    config_text, expect_labels, label_entries, weights_from_bytes, weights_to_bytes,
};
use super::tagger::Tagger;
use super::{Inputs, LanguageModel, ModelConfig, Purpose, estimate_memory};
use crate::error::{Error, Result};
use crate::nn::{Crf, Dropout, Init, Linear, Module, Visitor};
use crate::ops::{self, CrossEntropy};
use crate::tensor::Tensor;

/// Makes the linear layer of a classifier, with the first values of its family.
fn linear(
    config: &ModelConfig,
    name: &'static str,
    width: usize,
    labels: &[String],
    seed: u64,
) -> Result<Linear> {
    expect_labels(labels)?;
    let (at, bias) = (Init::new(seed).at(name), name != "score");
    match config {
        ModelConfig::Gpt(c) => Linear::normal(&at, width, labels.len(), bias, c.initializer_range),
        ModelConfig::Bert(c) => Linear::normal(&at, width, labels.len(), bias, c.initializer_range),
        ModelConfig::Rnn(_) => Linear::new(&at, width, labels.len(), bias),
    }
}

/// A head on a language model's body, which says the most about it.
pub trait OnBody: Module {
    /// The body.
    fn body(&self) -> &dyn LanguageModel;

    /// The labels by id.
    fn names(&self) -> &[String];

    /// What `config.json` says beside the body's sizes.
    fn entries(&self) -> Map<String, Value>;
}

impl<T: OnBody> LabelModel for T {
    fn labels(&self) -> &[String] {
        self.names()
    }

    fn num_layers(&self) -> usize {
        self.body().config().num_layers()
    }

    fn kind(&self) -> &'static str {
        self.body().config().kind()
    }

    fn config_json(&self, extra: &Map<String, Value>) -> String {
        let mut entries = self.entries();
        entries.extend(extra.clone());
        config_text(self.body().config(), &entries)
    }

    fn weights(&self) -> Result<Vec<u8>> {
        weights_to_bytes(self, self.body().config())
    }

    fn load_weights(&self, bytes: &[u8], name: &str) -> Result<()> {
        weights_from_bytes(bytes, name, self, self.body().config())
    }

    fn forward_flops(&self, batch: usize, t: usize) -> u64 {
        self.body().forward_flops(batch, t)
    }

    fn activations(&self, batch: usize, t: usize) -> u64 {
        estimate_memory(self.body().config(), batch, t).activations
    }
}

/// Calls `f` with the tokens of `rows` side by side, shorter ones filled up.
fn on_rows(
    body: &dyn LanguageModel,
    rows: &[&Sentence],
    f: impl FnOnce(&Inputs<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let config = body.config();
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let t = lengths.iter().copied().max().unwrap_or(0);
    let pad = if let ModelConfig::Bert(c) = config { c.pad_token_id as u32 } else { 0 };
    let ids = rectangle(rows.iter().map(|row| row.ids.as_slice()), t, pad)?;
    let types = rectangle(rows.iter().map(|row| row.token_type_ids.as_slice()), t, 0)?;
    f(&Inputs {
        ids: &ids,
        token_type_ids: (config.token_types() > 0).then_some(&types),
        padding_mask: None,
        lengths: Some(&lengths),
    })
}

/// One label a text.
pub struct SequenceClassifier {
    /// The body; its head over the vocabulary is gone.
    pub body: Box<dyn LanguageModel>,
    /// `[labels, P]`
    pub head: Linear,
    /// The names of the classes, by id.
    pub labels: Vec<String>,
    head_name: &'static str,
    dropout: Dropout,
}

impl SequenceClassifier {
    /// Puts a fresh head for `labels` on `body`.
    ///
    /// # Errors
    /// For no labels, or one twice.
    pub fn new(
        mut body: Box<dyn LanguageModel>,
        labels: Vec<String>,
        seed: u64,
    ) -> Result<SequenceClassifier> {
        body.prepare_for(Purpose::SequenceClassification);
        let config = body.config();
        // Hugging Face's GPT-2 classifier has neither dropout nor bias.
        let (head_name, p) = match config {
            ModelConfig::Gpt(_) => ("score", 0.0),
            other => ("classifier", other.classifier_dropout()),
        };
        let head = linear(config, head_name, body.pooled_width(), &labels, seed)?;
        let dropout = Dropout::new(&Init::new(seed).at("dropout"), p)?;
        Ok(SequenceClassifier { body, head, labels, head_name, dropout })
    }

    /// Scores of the classes, `[B, labels]`.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn logits(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        let hidden = self.body.hidden(inputs)?;
        let pooled = self.body.pooled(inputs, &hidden)?;
        self.head.forward(&self.dropout.forward(&pooled)?)
    }

    /// The cross-entropy against class ids `[B]`.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn loss(
        &self,
        inputs: &Inputs<'_>,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        ops::cross_entropy(&self.logits(inputs)?, targets, options)
    }

    /// What `config.json` says beside the body's sizes.
    pub fn config_entries(&self) -> Map<String, Value> {
        label_entries(
            match self.body.config() {
                ModelConfig::Gpt(_) => "GPT2ForSequenceClassification",
                ModelConfig::Bert(_) => "BertForSequenceClassification",
                ModelConfig::Rnn(_) => "RnnForSequenceClassification",
            },
            &self.labels,
        )
    }
}

impl OnBody for SequenceClassifier {
    fn body(&self) -> &dyn LanguageModel {
        &*self.body
    }

    fn names(&self) -> &[String] {
        &self.labels
    }

    fn entries(&self) -> Map<String, Value> {
        self.config_entries()
    }
}

impl Classifier for SequenceClassifier {
    fn scores(&self, rows: &[&Sentence]) -> Result<Tensor> {
        if rows.is_empty() || rows.iter().any(|row| row.ids.is_empty()) {
            return Err(Error::Data("a batch holds an empty text".into()));
        }
        on_rows(&*self.body, rows, |inputs| self.logits(inputs))
    }
}

impl Module for SequenceClassifier {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.body.visit(v);
        v.module(self.head_name, &self.head);
    }
}

/// One label a token.
pub struct TokenClassifier {
    /// The body; its head over the vocabulary and its pooler are gone.
    pub body: Box<dyn LanguageModel>,
    /// `[labels, C]`
    pub classifier: Linear,
    /// The names of the tags, by id.
    pub labels: Vec<String>,
    crf: Option<Crf>,
    dropout: Dropout,
}

impl TokenClassifier {
    /// Puts a fresh head for `labels` on `body`.
    ///
    /// # Errors
    /// For no labels, or one twice.
    pub fn new(
        mut body: Box<dyn LanguageModel>,
        labels: Vec<String>,
        seed: u64,
    ) -> Result<TokenClassifier> {
        body.prepare_for(Purpose::TokenClassification);
        let config = body.config();
        let classifier = linear(config, "classifier", config.hidden_size(), &labels, seed)?;
        let dropout = Dropout::new(&Init::new(seed).at("dropout"), config.classifier_dropout())?;
        Ok(TokenClassifier { body, classifier, labels, crf: None, dropout })
    }

    /// Puts a CRF on top.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn with_crf(mut self, seed: u64) -> Result<TokenClassifier> {
        self.crf = Some(Crf::new(&Init::new(seed).at("crf"), self.labels.len())?);
        Ok(self)
    }

    /// Scores of the tags of each token, `[B, T, labels]`.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn logits(&self, inputs: &Inputs<'_>) -> Result<Tensor> {
        self.classifier.forward(&self.dropout.forward(&self.body.hidden(inputs)?)?)
    }

    /// The cross-entropy against tag ids `[B, T]`; [`CrossEntropy::IGNORE`] does not count.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn loss(
        &self,
        inputs: &Inputs<'_>,
        targets: &Tensor,
        options: &CrossEntropy,
    ) -> Result<Tensor> {
        ops::cross_entropy(&self.logits(inputs)?, targets, options)
    }

    /// What `config.json` says beside the body's sizes.
    pub fn config_entries(&self) -> Map<String, Value> {
        let mut entries = label_entries(
            match self.body.config() {
                ModelConfig::Gpt(_) => "GPT2ForTokenClassification",
                ModelConfig::Bert(_) => "BertForTokenClassification",
                ModelConfig::Rnn(_) => "RnnForTokenClassification",
            },
            &self.labels,
        );
        if self.crf.is_some() {
            entries.insert("crf".into(), true.into());
        }
        entries
    }
}

impl OnBody for TokenClassifier {
    fn body(&self) -> &dyn LanguageModel {
        &*self.body
    }

    fn names(&self) -> &[String] {
        &self.labels
    }

    fn entries(&self) -> Map<String, Value> {
        self.config_entries()
    }
}

impl Tagger for TokenClassifier {
    fn crf(&self) -> Option<&Crf> {
        self.crf.as_ref()
    }

    fn emissions(&self, rows: &[&Sentence]) -> Result<Tensor> {
        let width = expect_words(rows)?;
        let hidden = on_rows(&*self.body, rows, |inputs| self.body.hidden(inputs))?;
        let &[b, t, c] = hidden.shape() else { unreachable!("hidden states are [B, T, C]") };
        // The first piece of each word; past the end of a row, any.
        let place = |(row, sentence): (usize, &&Sentence)| {
            let first = sentence.first.clone();
            (0..width).map(move |at| (row * t) as u32 + first.get(at).copied().unwrap_or(0))
        };
        let places: Vec<u32> = rows.iter().enumerate().flat_map(place).collect();
        let places = Tensor::from_slice(&places, places.len())?;
        let words = hidden.reshape([b * t, c])?.index_select(0, &places)?;
        let words = self.dropout.forward(&words.reshape([b, width, c])?)?;
        self.classifier.forward(&words) // [B, W, labels]
    }
}

impl Module for TokenClassifier {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.body.visit(v);
        v.module("classifier", &self.classifier);
        if let Some(crf) = &self.crf {
            v.module("crf", crf);
        }
    }
}
