//! Classifiers: another head on the body of a language model.
//!
//! Names and shapes are Hugging Face's: a GPT-2 classifies texts by `score.weight` (no bias) on the
//! last token, a BERT by `classifier.{weight,bias}` on the pooler; both tag tokens by `classifier`.
//! Recurrent models use `classifier` throughout.

use serde_json::{Map, Value, json};

use super::{Inputs, LanguageModel, ModelConfig, Purpose};
use crate::error::{Error, Result};
use crate::nn::{Dropout, Init, Linear, Module, Visitor};
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
    if labels.is_empty() {
        return Err(Error::Usage("a classifier needs at least one label".into()));
    }
    if let Some(twice) = labels.iter().enumerate().find(|(i, label)| labels[..*i].contains(label)) {
        return Err(Error::Usage(format!("the label `{}` occurs twice", twice.1)));
    }
    let (at, bias) = (Init::new(seed).at(name), name != "score");
    match config {
        ModelConfig::Gpt(c) => Linear::normal(&at, width, labels.len(), bias, c.initializer_range),
        ModelConfig::Bert(c) => Linear::normal(&at, width, labels.len(), bias, c.initializer_range),
        ModelConfig::Rnn(_) => Linear::new(&at, width, labels.len(), bias),
    }
}

/// The entries of `config.json` that a classifier adds: architecture and labels.
fn entries(architecture: &str, labels: &[String]) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("architectures".into(), json!([architecture]));
    let by_id = labels.iter().enumerate().map(|(i, label)| (i.to_string(), label.as_str().into()));
    map.insert("id2label".into(), Value::Object(by_id.collect()));
    let by_label = labels.iter().enumerate().map(|(i, label)| (label.clone(), i.into()));
    map.insert("label2id".into(), Value::Object(by_label.collect()));
    map
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
        entries(
            match self.body.config() {
                ModelConfig::Gpt(_) => "GPT2ForSequenceClassification",
                ModelConfig::Bert(_) => "BertForSequenceClassification",
                ModelConfig::Rnn(_) => "RnnForSequenceClassification",
            },
            &self.labels,
        )
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
        Ok(TokenClassifier { body, classifier, labels, dropout })
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
        entries(
            match self.body.config() {
                ModelConfig::Gpt(_) => "GPT2ForTokenClassification",
                ModelConfig::Bert(_) => "BertForTokenClassification",
                ModelConfig::Rnn(_) => "RnnForTokenClassification",
            },
            &self.labels,
        )
    }
}

impl Module for TokenClassifier {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.body.visit(v);
        v.module("classifier", &self.classifier);
    }
}
