//! Tagging: named entities, and the arguments of a given predicate.
//!
//! Both are BIO tags on words; they differ in what is read and in one convention: of semantic roles the span
//! `V`, the predicate itself, is given and does not count. The loss is that of the tagger, its CRF's or the
//! cross-entropy, per word; what decides is F1 of whole spans on the best legal path. Words that were cut off count
//! as `O`, so that a short `--max-length` cannot look better than it is.

use serde_json::{Map, Value, json};

use super::{Loss, Metric, Task};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::Sentence;
use crate::models::tagger::{Tagger, decode, losses};
use crate::nn::Module;
use crate::text::rng::Rng;
use crate::train::data::{Cursor, bucketed};
use crate::train::observer::{Figures, Header};
use crate::train::pretrained::{Extras, read_labels, write_labels};
use crate::train::report::{Cell, Report, Table};
use crate::train::spans::SpanScores;
use crate::train::strategy::Strategy;

/// Keeps the stream of words read as unknown apart from others of the seed.
const UNKNOWN: u64 = 0x554E_4B4E;

/// Which tags on words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    /// Named entities.
    Ner,
    /// Semantic roles of a given predicate.
    Srl,
}

impl TagKind {
    /// `ner` or `srl`.
    pub fn name(self) -> &'static str {
        match self {
            TagKind::Ner => "ner",
            TagKind::Srl => "srl",
        }
    }

    /// Types of spans that do not count.
    fn without(self) -> &'static [&'static str] {
        match self {
            TagKind::Ner => &[],
            TagKind::Srl => &["V"],
        }
    }
}

/// Tagged sentences as a tagger takes them.
#[derive(Clone, Debug, Default)]
pub struct TagExamples {
    /// What is read.
    pub sentences: Vec<Sentence>,
    /// A tag for each word that is read; an unknown one is 0, `O`.
    pub tags: Vec<Vec<u32>>,
    /// The tags of all words, those that were cut off and unknown ones included.
    pub gold: Vec<Vec<String>>,
    /// Sentences that were cut.
    pub truncated: u64,
    /// Words that were cut off.
    pub lost: u64,
    /// Types of spans that the model does not know, with their numbers.
    pub unseen: Vec<(String, u64)>,
}

impl TagExamples {
    /// How many sentences.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }
}

/// How well a tagger does.
#[derive(Clone, Debug, PartialEq)]
pub struct TagReport {
    /// What was tagged.
    pub kind: TagKind,
    /// The mean loss in nats a word.
    pub loss: f64,
    /// The spans.
    pub scores: SpanScores,
    /// Words, those that were cut off included.
    pub words: u64,
    /// Words whose tag is right.
    pub correct: u64,
    /// Sentences.
    pub sentences: u64,
    /// Sentences that were cut.
    pub truncated: u64,
    /// Words that were cut off.
    pub lost: u64,
    /// Types that the model does not know, with their numbers of spans.
    pub unseen: Vec<(String, u64)>,
}

impl TagReport {
    /// `loss`, `precision`, `recall`, `f1` (of all spans together), `macro_f1` and the `accuracy` of single
    /// words.
    pub fn figures(&self, loss_name: &'static str) -> Figures {
        let all = self.scores.micro();
        Figures(vec![
            (loss_name, self.loss),
            ("precision", all.precision()),
            ("recall", all.recall()),
            ("f1", all.f1()),
            ("macro_f1", self.scores.macro_f1()),
            ("accuracy", self.correct as f64 / self.words.max(1) as f64),
        ])
    }

    /// The form that all tasks share: a row a type, the pooled figures, their means.
    pub fn report(&self) -> Report {
        let what = if self.kind == TagKind::Srl { "role" } else { "type" };
        let row = |name: &str, figures: [f64; 3], spans: u64| {
            let figures = figures.map(Cell::Number);
            let name = Cell::Text(name.into());
            [name].into_iter().chain(figures).chain([Cell::Count(spans)]).collect::<Vec<_>>()
        };
        let scores = &self.scores;
        let mut rows: Vec<Vec<Cell>> = scores
            .types
            .iter()
            .map(|(name, n)| row(name, [n.precision(), n.recall(), n.f1()], n.gold))
            .collect();
        let all = scores.micro();
        rows.push(row("micro", [all.precision(), all.recall(), all.f1()], all.gold));
        let means =
            [scores.mean(|n| n.precision()), scores.mean(|n| n.recall()), scores.macro_f1()];
        rows.push(row("macro", means, all.gold));
        let head = [what, "precision", "recall", "f1", "spans"].map(String::from).to_vec();
        let mut remarks = Vec::new();
        if self.kind == TagKind::Srl {
            remarks.push("the predicate itself (V) is given and does not count".to_owned());
        }
        if self.lost > 0 {
            remarks.push(format!(
                "{} sentences were cut; their last {} words count as O",
                self.truncated, self.lost
            ));
        }
        if !self.unseen.is_empty() {
            let spans: u64 = self.unseen.iter().map(|(_, n)| n).sum();
            let names: Vec<&str> = self.unseen.iter().map(|(name, _)| name.as_str()).collect();
            remarks.push(format!(
                "{spans} spans are of a {what} that the model does not know ({}); they count as missed",
                names.join(", ")
            ));
        }
        Report {
            metric: "f1".into(),
            figures: self.figures("loss").named(),
            tables: vec![Table { head, rows }],
            remarks,
            json: self.to_json(),
        }
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut all = self.figures("loss").to_json();
        let counts = [("sentences", self.sentences), ("words", self.words)];
        let cut = [("truncated", self.truncated), ("lost_words", self.lost)];
        all.extend(counts.map(|(name, n)| (name.to_owned(), json!(n))));
        all.extend(cut.into_iter().filter(|(_, n)| *n > 0).map(|(k, n)| (k.into(), json!(n))));
        let types = self.scores.types.iter().map(|(name, n)| {
            json!({
                "type": name,
                "precision": n.precision(),
                "recall": n.recall(),
                "f1": n.f1(),
                "support": n.gold,
            })
        });
        all.insert("types".into(), types.collect());
        if !self.unseen.is_empty() {
            let unseen: Map<String, Value> =
                self.unseen.iter().map(|(name, n)| (name.clone(), json!(n))).collect();
            all.insert("unseen_labels".into(), Value::Object(unseen));
        }
        all
    }
}

/// Tags sentences: for each batch the rows' places, the best paths and the losses, summed over a row's words.
fn in_batches(
    tagger: &dyn Tagger,
    sentences: &[Sentence],
    tags: Option<&[Vec<u32>]>,
    batch: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Vec<u32>>, Vec<f64>)> {
    let mut order: Vec<usize> = (0..sentences.len()).collect();
    order.sort_by_key(|&i| sentences[i].ids.len());
    let (mut paths, mut lost) = (vec![Vec::new(); sentences.len()], vec![0.0; sentences.len()]);
    let mut done = 0;
    for chunk in order.chunks(batch.max(1)) {
        let rows: Vec<&Sentence> = chunk.iter().map(|&i| &sentences[i]).collect();
        no_grad(|| -> Result<()> {
            let emissions = tagger.emissions(&rows)?;
            for (&i, path) in chunk.iter().zip(decode(tagger, &emissions, &rows)?) {
                paths[i] = path;
            }
            if let Some(tags) = tags {
                let gold: Vec<&[u32]> = chunk.iter().map(|&i| tags[i].as_slice()).collect();
                let all = losses(tagger, &emissions, &rows, &gold, 0.0)?.to_f64_vec()?;
                chunk.iter().zip(all).for_each(|(&i, loss)| lost[i] = loss);
            }
            Ok(())
        })?;
        done += chunk.len() as u64;
        progress(done, sentences.len() as u64);
    }
    Ok((paths, lost))
}

/// The best legal tags of sentences, one a word that is read.
///
/// # Errors
/// When the forward pass fails.
pub fn tag(tagger: &dyn Tagger, sentences: &[Sentence], batch: usize) -> Result<Vec<Vec<u32>>> {
    Ok(in_batches(tagger, sentences, None, batch, &mut |_, _| {})?.0)
}

/// Evaluates a tagger.
///
/// # Errors
/// When there is nothing to evaluate on or the forward pass fails.
pub fn evaluate(
    tagger: &dyn Tagger,
    kind: TagKind,
    examples: &TagExamples,
    batch: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<TagReport> {
    if examples.is_empty() {
        return Err(Error::Data("there is no sentence to evaluate on".into()));
    }
    let tags = Some(examples.tags.as_slice());
    let (paths, lost) = in_batches(tagger, &examples.sentences, tags, batch, progress)?;
    let (labels, mut scores) = (tagger.labels(), SpanScores::default());
    let (mut words, mut correct) = (0, 0);
    for (gold, path) in examples.gold.iter().zip(&paths) {
        let kept = path.iter().map(|&tag| labels[tag as usize].as_str());
        let found: Vec<&str> = kept.chain(std::iter::repeat("O")).take(gold.len()).collect();
        scores.add(gold, &found, kind.without());
        words += gold.len() as u64;
        correct += gold.iter().zip(&found).filter(|(gold, found)| gold == *found).count() as u64;
    }
    let read: usize = examples.sentences.iter().map(|sentence| sentence.words).sum();
    Ok(TagReport {
        kind,
        // Summed in the order of the file, whatever the batches were.
        loss: lost.iter().sum::<f64>() / read.max(1) as f64,
        scores,
        words,
        correct,
        sentences: examples.len() as u64,
        truncated: examples.truncated,
        lost: examples.lost,
        unseen: examples.unseen.clone(),
    })
}

/// The sentences of a batch as training reads them: some rare words as unknown ones, drawn by seed and
/// number of the batch.
pub(super) fn read(
    sentences: &[Sentence],
    chosen: &[usize],
    seed: u64,
    stream: u64,
) -> Vec<Sentence> {
    let mut rng = Rng::new(seed ^ UNKNOWN, stream);
    let mut unit = || (rng.bits() >> 40) as f32 / (1u64 << 24) as f32;
    chosen.iter().map(|&i| sentences[i].with_unknowns(&mut unit)).collect()
}

/// What it takes to train a tagger.
pub struct TagTask {
    tagger: Box<dyn Tagger>,
    train: TagExamples,
    valid: Option<TagExamples>,
    lengths: Vec<usize>,
    options: TagOptions,
    /// The batches of one epoch, made when the epoch begins.
    order: Option<(u64, Vec<Vec<usize>>)>,
    extras: Extras,
}

/// What a [`TagTask`] can be told.
#[derive(Clone, Debug)]
pub struct TagOptions {
    /// What is tagged.
    pub kind: TagKind,
    /// Sentences of a batch.
    pub batch_size: usize,
    /// The seed of the order and of words read as unknown.
    pub seed: u64,
    /// Without a CRF: the share of the target's mass that goes to all tags alike.
    pub label_smoothing: f64,
    /// What learns how fast.
    pub strategy: Strategy,
}

impl TagTask {
    /// Trains `tagger` on `train` and evaluates on `valid`. `extras` go into every folder of the model.
    ///
    /// # Errors
    /// When there is nothing to train on, or the options name what the model does not have.
    pub fn new(
        tagger: Box<dyn Tagger>,
        train: TagExamples,
        valid: Option<TagExamples>,
        options: TagOptions,
        extras: Extras,
    ) -> Result<TagTask> {
        if train.is_empty() {
            return Err(Error::Data("there is no sentence to train on".into()));
        }
        options.strategy.freeze(&*tagger, tagger.num_layers())?;
        Ok(TagTask {
            lengths: train.sentences.iter().map(|sentence| sentence.ids.len()).collect(),
            tagger,
            train,
            valid: valid.filter(|valid| !valid.is_empty()),
            options,
            order: None,
            extras,
        })
    }

    fn mean_words(&self) -> usize {
        let words: usize = self.train.sentences.iter().map(|sentence| sentence.words).sum();
        (words / self.train.len().max(1)).max(1)
    }
}

impl Task for TagTask {
    fn module(&self) -> &dyn Module {
        &*self.tagger
    }

    fn batches_per_epoch(&self) -> u64 {
        self.train.len().div_ceil(self.options.batch_size.max(1)) as u64
    }

    fn loss(&mut self, at: Cursor) -> Result<Loss> {
        if self.order.as_ref().is_none_or(|(epoch, _)| *epoch != at.epoch) {
            let (batch, seed) = (self.options.batch_size.max(1), self.options.seed);
            self.order = Some((at.epoch, bucketed(&self.lengths, batch, seed, at.epoch)));
        }
        let Some((_, batches)) = &self.order else { unreachable!("just made") };
        let chosen = &batches[at.index as usize];
        let stream = at.epoch.wrapping_mul(self.batches_per_epoch()) + at.index;
        let rows = read(&self.train.sentences, chosen, self.options.seed, stream);
        let rows: Vec<&Sentence> = rows.iter().collect();
        let gold: Vec<&[u32]> = chosen.iter().map(|&i| self.train.tags[i].as_slice()).collect();
        let emissions = self.tagger.emissions(&rows)?;
        let smoothing = self.options.label_smoothing;
        let losses = losses(&*self.tagger, &emissions, &rows, &gold, smoothing)?;
        let words: usize = rows.iter().map(|row| row.words).sum();
        let loss = losses.sum_all()?.mul_scalar(1.0 / words as f64)?;
        Ok(Loss { loss, count: words as u64, tokens: words as u64 })
    }

    fn evaluate(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Figures>> {
        let Some(valid) = &self.valid else { return Ok(None) };
        let (kind, batch) = (self.options.kind, self.options.batch_size);
        let report = evaluate(&*self.tagger, kind, valid, batch, progress)?;
        Ok(Some(report.figures("val_loss")))
    }

    fn metric(&self) -> Metric {
        Metric { name: "f1", greater_is_better: true }
    }

    fn lr_scale(&self, name: &str) -> f64 {
        self.options.strategy.lr_scale(name, self.tagger.num_layers())
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.options.strategy.begin_epoch(&*self.tagger, self.tagger.num_layers(), epoch);
    }

    fn forward_flops_per_token(&self) -> u64 {
        let mean = self.mean_words();
        self.tagger.forward_flops(1, mean) / mean as u64
    }

    fn fingerprint(&self) -> u64 {
        let mut all = Vec::new();
        for (row, tags) in self.train.sentences.iter().zip(&self.train.tags) {
            row.ids.iter().chain(tags).for_each(|id| all.extend_from_slice(&id.to_le_bytes()));
        }
        crate::text::hash::hash_bytes(&all)
    }

    fn describe(&self, header: &mut Header) {
        header.title = format!("fine-tune {} ({})", self.tagger.kind(), self.options.kind.name());
        let config = self.tagger.config_json(&Map::new());
        header.model = serde_json::from_str(&config).unwrap_or_default();
        header.data.push(("train sentences".into(), self.train.len() as u64));
        if let Some(valid) = &self.valid {
            header.data.push(("validation sentences".into(), valid.len() as u64));
        }
        header.data.push(("tags".into(), self.tagger.labels().len() as u64));
        if self.train.lost > 0 {
            header.data.push(("sentences cut to the longest length".into(), self.train.truncated));
        }
    }

    fn write_folder(&self, write: &mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
        self.extras.write(write)?;
        let mut extra = Map::new();
        extra.insert("finetuning_task".into(), self.options.kind.name().into());
        write_labels(&*self.tagger, &extra, write)
    }

    fn read_folder(&mut self, read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<()> {
        read_labels(&*self.tagger, read)
    }
}
