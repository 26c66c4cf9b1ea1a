//! Writing text, one token at a time.
//!
//! A [`Reader`] feeds tokens into a model and gives the scores of the next one. It keeps what the model
//! remembers (keys and values of a gpt, the state of a recurrent network), so a new token costs one position.
//! When a gpt's context is full, the last half of the text is read again and the writing goes on from there.
//!
//! [`write_ids`] draws tokens until there are enough, the text has ended or somebody stops it.
//! [`Writer`] does this for text: it streams whole characters, and holds back what may be the beginning
//! of a stop text.

use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::models::{LanguageModel, State};
use crate::tensor::Tensor;

pub use super::sampling::{Finish, GenerateOptions};
use super::sampling::{check_writes, choose};

/// Reads tokens and predicts the next one.
pub struct Reader<'m> {
    model: &'m dyn LanguageModel,
    state: State,
    /// Everything read so far, the part that the model has forgotten included.
    history: Vec<u32>,
}

impl<'m> Reader<'m> {
    /// A reader that has read nothing.
    ///
    /// # Errors
    /// For a model that reads in both directions and cannot write.
    pub fn new(model: &'m dyn LanguageModel) -> Result<Reader<'m>> {
        check_writes(model)?;
        Ok(Reader { model, state: model.new_state(1)?, history: Vec::new() })
    }

    /// Everything read so far.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Reads `ids` (at least one) and gives the scores of the token after them, `[V]`.
    ///
    /// # Errors
    /// When an id is beyond the vocabulary.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.history.extend_from_slice(ids);
        let fresh = match self.state.room() {
            Some(room) if ids.len() > room => {
                let context = self.state.len() + room;
                self.state = self.model.new_state(1)?;
                &self.history[self.history.len().saturating_sub((context / 2).max(1))..]
            }
            _ => ids,
        };
        let input = Tensor::from_slice(fresh, [1, fresh.len()])?;
        let logits = no_grad(|| self.model.next_logits(&input, &mut self.state))?;
        logits.to_vec::<f32>()
    }
}

/// Writes tokens after `prompt` (at least one token). The text is a pure function of model, prompt and
/// options: who writes beside it changes nothing. `on_token` hears each token and says whether to go on. The end-of-text token `eos` is not reported.
///
/// # Errors
/// When the prompt is empty, an id is beyond the vocabulary, or the options make no sense.
pub fn write_ids(
    model: &dyn LanguageModel,
    prompt: &[u32],
    options: &GenerateOptions,
    eos: Option<u32>,
    on_token: &mut dyn FnMut(u32) -> Result<bool>,
) -> Result<Finish> {
    options.validate()?;
    if prompt.is_empty() {
        return Err(Error::Usage("there is no token to begin from; give a --prompt".into()));
    }
    if options.num_beams > 1 {
        let (ids, finish) = super::beam::search(model, prompt, options, eos)?;
        for id in ids {
            if !on_token(id)? {
                return Ok(Finish::Stop);
            }
        }
        return Ok(finish);
    }
    let mut reader = Reader::new(model)?;
    if options.max_new_tokens == 0 {
        return Ok(Finish::Length);
    }
    let mut logits = reader.read(prompt)?;
    for n in 0..options.max_new_tokens {
        let id = choose(&mut logits, reader.history(), options, n as u64);
        if Some(id) == eos {
            return Ok(Finish::EndOfText);
        }
        if !on_token(id)? {
            return Ok(Finish::Stop);
        }
        if n + 1 < options.max_new_tokens {
            logits = reader.read(&[id])?;
        }
    }
    Ok(Finish::Length)
}

/// Watches a stream of text for stop texts. What may be the beginning of one is held back.
#[derive(Clone, Debug)]
pub struct StopWatch<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopWatch<'a> {
    /// Watches for any of `stops`.
    pub fn new(stops: &'a [String]) -> StopWatch<'a> {
        StopWatch { stops, held: String::new() }
    }

    /// Takes in more text; gives what can be shown now, and whether a stop text has come.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The longest end of the text that some stop text begins with.
        let starts = |&i: &usize| {
            let tail = &self.held[i..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let hold = self.held.char_indices().map(|(i, _)| i).find(starts);
        let rest = self.held.split_off(hold.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back when the text ends without a stop text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(feature = "cli")]
pub use with_tokenizer::{Generation, Writer, write_text};

#[cfg(feature = "cli")]
mod with_tokenizer {
    use std::path::Path;

    use rayon::prelude::*;

    use super::*;
    use crate::text::Tokenizer;
    use crate::train::pretrained;

    /// A text that a model has written.
    #[derive(Clone, Debug, serde::Serialize)]
    pub struct Generation {
        /// What it began from.
        pub prompt: String,
        /// What the model wrote after it.
        pub text: String,
        /// How many tokens that is.
        pub tokens: usize,
        /// Why it ends.
        pub finish: Finish,
    }

    /// A model folder opened for writing text.
    pub struct Writer {
        model: Box<dyn LanguageModel>,
        tokenizer: Tokenizer,
    }

    impl Writer {
        /// Opens a model folder, or the best model of a run folder.
        ///
        /// # Errors
        /// When there is no such model, or it cannot write.
        pub fn open(path: &Path) -> Result<Writer> {
            let (model, tokenizer) = pretrained::open_language_model(path)?;
            check_writes(model.as_ref())?;
            Ok(Writer { model, tokenizer })
        }

        /// A writer from its parts.
        pub fn new(model: Box<dyn LanguageModel>, tokenizer: Tokenizer) -> Writer {
            Writer { model, tokenizer }
        }

        /// The model.
        pub fn model(&self) -> &dyn LanguageModel {
            self.model.as_ref()
        }

        /// Writes on after `prompt`. `on_text` hears whole characters as they come.
        ///
        /// # Errors
        /// When the prompt cannot be tokenised or the options make no sense.
        pub fn write(
            &self,
            prompt: &str,
            options: &GenerateOptions,
            on_text: &mut dyn FnMut(&str),
        ) -> Result<Generation> {
            write_text(self.model.as_ref(), &self.tokenizer, prompt, options, on_text)
        }

        /// Writes one text after each prompt, the one it would write alone. The prompts are shared out
        /// among the threads: a text of one row has too little work for several.
        ///
        /// # Errors
        /// As [`Writer::write`].
        pub fn write_batch(
            &self,
            prompts: &[String],
            options: &GenerateOptions,
        ) -> Result<Vec<Generation>> {
            prompts.par_iter().map(|prompt| self.write(prompt, options, &mut |_| {})).collect()
        }
    }

    /// Writes on after `prompt` with a model and its tokenizer.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_text(
        model: &dyn LanguageModel,
        tokenizer: &Tokenizer,
        prompt: &str,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generation> {
        let mut ids = tokenizer.encode(prompt)?;
        let end = tokenizer.eos_id().or(model.config().eos_token_id());
        // Begin as after the end of a text, or of a line. A model that has learnt lines ends with such an end and has
        // never seen a text begin without one.
        if ids.is_empty() || tokenizer.eos_id().is_none() && end.is_some() {
            ids.insert(0, end.or_else(|| tokenizer.token_to_id("\n")).unwrap_or(0));
        }
        let (mut text, mut tokens) = (String::new(), 0);
        let mut decoder = tokenizer.decode_stream();
        if let (Some(&last), false) = (ids.last(), prompt.is_empty()) {
            decoder = decoder.after(last);
        }
        let mut watch = StopWatch::new(&options.stop);
        let mut show = |piece: &str| {
            if !piece.is_empty() {
                text.push_str(piece);
                on_text(piece);
            }
        };
        let finish = write_ids(model, &ids, options, end, &mut |id| {
            tokens += 1;
            let (piece, stop) = watch.push(&decoder.push(id)?);
            show(&piece);
            Ok(!stop)
        })?;
        if finish != Finish::Stop {
            let (piece, _) = watch.push(&decoder.finish());
            show(&piece);
            show(&watch.finish());
        }
        Ok(Generation { prompt: prompt.to_owned(), text, tokens, finish })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_texts_are_never_shown_not_even_in_part() {
        let stops = ["\n\n".to_owned(), "END".to_owned()];
        let run = |pieces: &[&str]| {
            let mut watch = StopWatch::new(&stops);
            let mut shown = Vec::new();
            for piece in pieces {
                let (text, stop) = watch.push(piece);
                shown.push(text);
                if stop {
                    return (shown.concat(), true);
                }
            }
            shown.push(watch.finish());
            (shown.concat(), false)
        };
        assert_eq!(run(&["ab\n", "\ncd"]), ("ab".into(), true));
        assert_eq!(run(&["a\n", "b"]), ("a\nb".into(), false));
        assert_eq!(run(&["x E", "N", "D y"]), ("x ".into(), true));
        assert_eq!(run(&["x E", "N", "d y"]), ("x ENd y".into(), false));
        assert_eq!(run(&["ÄEND"]), ("Ä".into(), true));
        let mut watch = StopWatch::new(&stops);
        assert_eq!(watch.push("abE"), ("ab".into(), false), "E may begin END");
    }

    use crate::models::{ModelConfig, build};

    /// A model of a kind with weights far enough from 0 to have a will of its own.
    fn model(kind: &str) -> Box<dyn LanguageModel> {
        let config = ModelConfig::preset(kind, "nano", 20, Some(12), None).unwrap();
        let model = build(&config, 7).unwrap();
        model.for_each_parameter(&mut |name, p| {
            if p.shape().len() > 1 {
                let key = crate::ops::Key { seed: 3, stream: name.len() as u64, step: 0 };
                let noise = Tensor::randn(p.shape(), p.dtype(), key).unwrap();
                p.load(&p.data().add(&noise.mul_scalar(0.3).unwrap()).unwrap()).unwrap();
            }
        });
        model
    }

    fn write(model: &dyn LanguageModel, prompt: &[u32], options: &GenerateOptions) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut push = |id| {
            ids.push(id);
            Ok(true)
        };
        write_ids(model, prompt, options, None, &mut push).unwrap();
        ids
    }

    fn options(max_new_tokens: usize) -> GenerateOptions {
        GenerateOptions { max_new_tokens, temperature: 1.0, ..GenerateOptions::default() }
    }

    /// What the model would say if it read everything anew for each token.
    fn greedy_without_memory(model: &dyn LanguageModel, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut all = prompt.to_vec();
        for _ in 0..n {
            let ids = Tensor::from_slice(&all, [1, all.len()]).unwrap();
            let hidden = model.hidden(&crate::models::Inputs::new(&ids)).unwrap();
            let last = hidden.select(1, all.len() - 1).unwrap();
            let logits = model.logits(&last).unwrap().to_vec::<f32>().unwrap();
            all.push(super::super::sampling::argmax(&logits));
        }
        all.split_off(prompt.len())
    }

    #[test]
    fn cache_and_carried_state_change_nothing() {
        for kind in ["gpt", "lstm", "gru", "rnn"] {
            let model = model(kind);
            let greedy = GenerateOptions { temperature: 0.0, ..options(8) };
            let found = write(model.as_ref(), &[3, 1, 4], &greedy);
            assert_eq!(found, greedy_without_memory(model.as_ref(), &[3, 1, 4], 8), "{kind}");
        }
    }

    #[test]
    fn a_full_context_is_read_again_and_writing_goes_on() {
        let model = model("gpt");
        assert_eq!(write(model.as_ref(), &[3, 1, 4], &options(40)).len(), 40);
        let long: Vec<u32> = (0..30).map(|i| i % 20).collect();
        assert_eq!(write(model.as_ref(), &long, &options(5)).len(), 5);
    }

    #[test]
    fn the_same_seed_writes_the_same_at_any_number_of_threads() {
        for kind in ["gpt", "lstm"] {
            let model = model(kind);
            let run = |threads: usize, seed: u64| {
                let options = GenerateOptions { seed, top_p: 0.9, ..options(30) };
                crate::train::control::in_pool(threads, || write(model.as_ref(), &[5], &options))
                    .unwrap()
            };
            assert_eq!(run(1, 1), run(3, 1), "{kind}");
            assert_ne!(run(1, 1), run(1, 2), "{kind}");
        }
    }

    #[test]
    fn beams_find_what_is_likelier_than_the_greedy_text() {
        let score = |model: &dyn LanguageModel, prompt: &[u32], ids: &[u32]| -> f64 {
            let mut reader = Reader::new(model).unwrap();
            let mut logits = reader.read(prompt).unwrap();
            let mut sum = 0.0;
            for &id in ids {
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let total: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
                sum += f64::from(logits[id as usize] - largest) - total.ln();
                logits = reader.read(&[id]).unwrap();
            }
            sum
        };
        for kind in ["gpt", "gru"] {
            let model = model(kind);
            let greedy =
                write(model.as_ref(), &[2], &GenerateOptions { temperature: 0.0, ..options(4) });
            let one = write(model.as_ref(), &[2], &GenerateOptions { num_beams: 20, ..options(1) });
            assert_eq!(one[0], greedy[0], "one step of beams is the likeliest token");
            // With as many beams as tokens, two steps are an exhaustive search.
            let best =
                write(model.as_ref(), &[2], &GenerateOptions { num_beams: 20, ..options(2) });
            let found = score(model.as_ref(), &[2], &best);
            for a in 0..20 {
                for b in 0..20 {
                    assert!(score(model.as_ref(), &[2], &[a, b]) <= found + 1e-6, "{kind} {a} {b}");
                }
            }
            let four = write(model.as_ref(), &[2], &GenerateOptions { num_beams: 5, ..options(4) });
            assert!(
                score(model.as_ref(), &[2], &four) >= score(model.as_ref(), &[2], &greedy) - 1e-6
            );
            let again =
                write(model.as_ref(), &[2], &GenerateOptions { num_beams: 5, ..options(4) });
            assert_eq!(four, again);
            // The context of 12 is left behind, with beams as well.
            let long = GenerateOptions { num_beams: 3, ..options(25) };
            assert_eq!(write(model.as_ref(), &[2], &long).len(), 25);
        }
    }

    #[test]
    fn what_was_said_is_penalised_and_the_end_of_text_ends_it() {
        let model = model("gpt");
        let options = GenerateOptions { temperature: 0.0, repetition_penalty: 1e6, ..options(10) };
        let ids = write(model.as_ref(), &[1], &options);
        let mut different = ids.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 10, "{ids:?}");
        let eos = Some(ids[4]);
        let finish = write_ids(model.as_ref(), &[1], &options, eos, &mut |_| Ok(true)).unwrap();
        assert_eq!(finish, Finish::EndOfText);
        assert!(write_ids(model.as_ref(), &[], &options, None, &mut |_| Ok(true)).is_err());
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_text_is_the_same_alone_and_in_a_batch() {
        use crate::text::TokenizerKind;
        let tokenizer = crate::text::Tokenizer::train(
            TokenizerKind::Char,
            ["abcdefghijklmno 天地\n".to_owned()],
            |_| {},
        )
        .unwrap();
        assert!(tokenizer.vocab_size() <= 20);
        let prompts: Vec<String> = ["ab", "", "天地", "ab"].map(str::to_owned).to_vec();
        for kind in ["gpt", "lstm"] {
            let writer = Writer::new(model(kind), tokenizer_again(&tokenizer));
            for options in [options(20), GenerateOptions { num_beams: 2, ..options(6) }] {
                let together = writer.write_batch(&prompts, &options).unwrap();
                for (prompt, generation) in prompts.iter().zip(&together) {
                    let mut streamed = String::new();
                    let alone = writer
                        .write(prompt, &options, &mut |piece| streamed.push_str(piece))
                        .unwrap();
                    assert_eq!((&alone.text, &alone.text), (&generation.text, &streamed));
                }
                let first = together[0].text.chars().take(1).collect();
                let options = GenerateOptions { stop: vec![first], ..options };
                let stopped = writer.write("ab", &options, &mut |_| {}).unwrap();
                assert_eq!((stopped.text.as_str(), stopped.finish), ("", Finish::Stop));
            }
        }
    }

    #[cfg(feature = "cli")]
    fn tokenizer_again(tokenizer: &crate::text::Tokenizer) -> crate::text::Tokenizer {
        crate::text::Tokenizer::from_bytes(tokenizer.to_json().as_bytes()).unwrap()
    }
}
