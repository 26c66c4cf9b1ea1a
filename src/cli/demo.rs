//! `handloom demo`: the whole way, from text that the program writes itself to a table that shows what
//! pretraining bought.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::console::{self, Console};
use super::terminal::{To, bold, cyan, dim, green, note, out};
use super::values::count;
use super::{control, finetune as comparison, format};
use crate::models::{self, ModelConfig};
use crate::text::Tokenizer;
use crate::text::storyworld::{self, Language, TOPICS};
use crate::train::config::TrainerConfig;
use crate::train::finetune::{self, Arm, FinetuneConfig, median};
use crate::train::generate::Writer;
use crate::train::pretrain::{self, ModelShape, PretrainConfig};
use crate::train::sampling::GenerateOptions;
use crate::{Error, Result};

/// From raw text to a fine-tuned model, on stories that the program makes up: no file needed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handloom demo                      about a minute and a half on two cores
  handloom demo --quick              a third of that; fails unless the result is well above chance
  handloom demo --lang zh            in Chinese
  handloom demo --lang both --out runs/both --seed 7")]
pub struct Demo {
    /// Fewer steps, and an exit code of 1 when the fine-tuned model is not well above chance
    #[arg(long)]
    quick: bool,
    /// The folder for everything it makes; an earlier demo there is replaced
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
    /// The seed of stories, weights and batches
    #[arg(long, value_name = "N", default_value = "1337")]
    seed: u64,
    /// The language of the stories: en, zh or both
    #[arg(long, value_name = "LANG", default_value = "en", value_parser = ["en", "zh", "both"])]
    #[arg(hide_possible_values = true)]
    lang: String,
    /// Steps of pretraining [default: 3000, with --quick 1800]
    #[arg(long, value_name = "N", value_parser = count)]
    max_steps: Option<usize>,
    /// Threads; the result does not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
}

/// Labelled stories to fine-tune on.
const LABELS: usize = 64;
/// Labelled stories to test on.
const TEST: usize = 600;
/// Marks a folder as one that the demo made and may replace.
const MARK: &str = "demo.json";

/// How much of everything.
struct Plan {
    corpus_bytes: usize,
    tokenizer: &'static str,
    steps: u64,
    seeds: u64,
    epochs: f64,
}

impl Demo {
    fn plan(&self) -> Plan {
        let tokenizer = if self.lang == "en" { "bpe:1024" } else { "bpe:2048" };
        let (corpus_bytes, steps, seeds) =
            if self.quick { (1 << 20, 1800, 1) } else { (3 << 20, 3000, 3) };
        let steps = self.max_steps.map_or(steps, |n| n as u64);
        Plan { corpus_bytes, tokenizer, steps, seeds, epochs: 30.0 }
    }

    /// Runs it all.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let plan = self.plan();
        make_room(&self.out)?;
        self.stories(&plan)?;
        let pretrained = self.pretrain(&plan)?;
        let report = self.finetune(&plan, &pretrained)?;
        self.conclude(&report, start.elapsed().as_secs_f64())
    }

    fn language(&self) -> Language {
        match self.lang.as_str() {
            "zh" => Language::Chinese,
            "both" => Language::Mixed,
            _ => Language::English,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Writes the text, and labelled stories that are not in it.
    fn stories(&self, plan: &Plan) -> Result<()> {
        let language = self.language();
        let text = storyworld::corpus(self.seed, language, plan.corpus_bytes);
        let file = self.path("stories.txt");
        std::fs::write(&file, &text).map_err(|e| Error::io(&file, "write", e))?;
        // Other seeds, other stories: nothing that is tested on has been read before.
        for (set, seed, n) in [("train", 0x7261_696e, LABELS), ("test", 0x7465_7374, TEST)] {
            let stories: Vec<_> = storyworld::stories(self.seed ^ seed, language).take(n).collect();
            storyworld::write_topic_csv(&stories, self.path(&format!("topics-{set}.csv")))?;
            storyworld::write_sentiment_csv(&stories, self.path(&format!("moods-{set}.csv")))?;
        }
        headline(1, "text");
        note(format_args!(
            "{} stories, {}, made up by this program: {}",
            format::grouped(text.lines().count() as u64),
            format::bytes(text.len() as u64),
            file.display()
        ));
        quote(text.lines().next().unwrap_or_default());
        note(format_args!(
            "and {LABELS} other stories with their topic ({}) to learn from, {TEST} to test on",
            TOPICS.join(", ")
        ));
        Ok(())
    }

    /// Pretrains, and shows what the model writes before and after.
    fn pretrain(&self, plan: &Plan) -> Result<PathBuf> {
        headline(2, "pretrain a small GPT to predict the next token");
        let out = self.path("pretrained");
        let config = PretrainConfig {
            train: vec![self.path("stories.txt")],
            tokenizer: Some(plan.tokenizer.into()),
            shape: ModelShape {
                num_hidden_layers: Some(3),
                context_length: Some(128),
                dropout: Some(0.0),
                ..ModelShape::default()
            },
            out: out.clone(),
            sample_length: 0,
            trainer: TrainerConfig {
                max_steps: Some(plan.steps),
                eval_steps: plan.steps / 4,
                save_steps: 0,
                warmup_steps: 50.0,
                learning_rate: 4e-3,
                min_learning_rate: 2e-4,
                seed: self.seed,
                threads: self.threads.unwrap_or(0),
                ..TrainerConfig::pretraining()
            },
            ..PretrainConfig::default()
        };
        self.by_hand(
            "pretrain",
            &[
                ("train", console::quoted(self.path("stories.txt"))),
                ("tokenizer", plan.tokenizer.into()),
                ("num-hidden-layers", "3".into()),
                ("context-length", "128".into()),
                ("max-steps", plan.steps.to_string()),
                ("learning-rate", "4e-3".into()),
                ("min-learning-rate", "2e-4".into()),
                ("warmup-steps", "50".into()),
                ("out", console::quoted(&out)),
            ],
        );
        let mut console = Console::new(Vec::new());
        pretrain::run(&config, &mut control(&mut console))?;

        let tokenizer = || Tokenizer::from_file(out.join("tokenizer.json"));
        let untrained: ModelConfig =
            config.shape.config(&config.model, &config.size, tokenizer()?.vocab_size())?;
        let before = Writer::new(models::build(&untrained, self.seed)?, tokenizer()?);
        let after = Writer::open(&out)?;
        let options = GenerateOptions { max_new_tokens: 60, seed: self.seed, ..Default::default() };
        for (when, writer) in [("before training it writes", before), ("and now", after)] {
            note(format_args!("{when}:"));
            let text = writer.write("\n", &options, &mut |_| {})?.text;
            quote(text.trim().lines().next().unwrap_or_default());
        }
        Ok(out)
    }

    /// Fine-tunes on a few labels, from the pretrained model and from scratch.
    fn finetune(&self, plan: &Plan, pretrained: &Path) -> Result<finetune::FinetuneReport> {
        headline(3, "fine-tune it to tell the topic, and the same model from scratch");
        let out = self.path("topics");
        let config = FinetuneConfig {
            from: Some(pretrained.to_owned()),
            train: vec![self.path("topics-train.csv")],
            test: vec![self.path("topics-test.csv")],
            validation_fraction: 0.0,
            shape: ModelShape { dropout: Some(0.2), ..ModelShape::default() },
            compare_scratch: true,
            seeds: plan.seeds,
            out: out.clone(),
            trainer: TrainerConfig {
                epochs: Some(plan.epochs),
                batch_size: 16,
                learning_rate: 1e-3,
                eval_steps: 0,
                save_steps: 0,
                threads: self.threads.unwrap_or(0),
                ..TrainerConfig::finetuning()
            },
            ..FinetuneConfig::default()
        };
        self.by_hand(
            "finetune",
            &[
                ("from", console::quoted(pretrained)),
                ("train", console::quoted(self.path("topics-train.csv"))),
                ("test", console::quoted(self.path("topics-test.csv"))),
                ("validation-fraction", "0".into()),
                ("batch-size", "16".into()),
                ("epochs", plan.epochs.to_string()),
                ("dropout", "0.2".into()),
                ("learning-rate", "1e-3".into()),
                ("seeds", plan.seeds.to_string()),
                ("compare-scratch", String::new()),
                ("out", console::quoted(&out)),
            ],
        );
        let mut console = Console::compact();
        finetune::run(&config, &mut control(&mut console))
    }

    /// The table, and where to go from here.
    fn conclude(&self, report: &finetune::FinetuneReport, seconds: f64) -> Result<()> {
        headline(4, "what pretraining bought");
        out(comparison::comparison(report));
        let chance = 1.0 / TOPICS.len() as f64;
        let middle = |arm| median(&report.values(arm)).unwrap_or(0.0);
        let (pretrained, scratch) = (middle(Arm::Pretrained), middle(Arm::Scratch));
        out(format_args!(
            "with {LABELS} labels: {:.1}% right after pretraining, {:.1}% from scratch, {:.1}% by chance",
            100.0 * pretrained,
            100.0 * scratch,
            100.0 * chance
        ));
        let summary = json!({
            "labels": LABELS,
            "test_rows": TEST,
            "pretrained_accuracy": pretrained,
            "scratch_accuracy": scratch,
            "chance": chance,
            "seconds": seconds,
        });
        let file = self.path(MARK);
        std::fs::write(&file, format!("{summary:#}\n"))
            .map_err(|e| Error::io(&file, "write", e))?;
        note(green(To::Stderr, format_args!("\nthe whole demo took {}", format::took(seconds))));
        let best = self
            .path("topics")
            .join(format!("pretrained-seed{}", TrainerConfig::finetuning().seed));
        note("where to look next:");
        let stories = console::quoted(self.path("pretrained"));
        for (command, what) in [
            (
                format!("handloom generate --from {stories} --prompt \"Last winter\""),
                "let it write",
            ),
            (
                format!(
                    "handloom evaluate --from {} --data {}",
                    console::quoted(&best),
                    console::quoted(self.path("topics-test.csv"))
                ),
                "class by class",
            ),
            ("handloom pretrain --train YOUR-BOOK.txt --out runs/book".into(), "your own text"),
        ] {
            note(format_args!("  {}  {}", cyan(To::Stderr, command), dim(To::Stderr, what)));
        }
        note(format_args!(
            "  {}  {}",
            self.path("pretrained/loss.svg").display(),
            dim(To::Stderr, "the loss curve")
        ));
        if self.quick && pretrained < 2.0 * chance {
            return Err(Error::Failed(format!(
                "the fine-tuned model is right in {:.1}% of the test stories, hardly better than chance ({:.1}%)",
                100.0 * pretrained,
                100.0 * chance
            )));
        }
        Ok(())
    }

    /// The command that does the same.
    fn by_hand(&self, command: &str, flags: &[(&str, String)]) {
        let words: Vec<String> =
            flags
                .iter()
                .map(|(name, value)| {
                    if value.is_empty() {
                        format!(" --{name}")
                    } else {
                        format!(" --{name} {value}")
                    }
                })
                .collect();
        note(format_args!(
            "{} {}",
            dim(To::Stderr, "the same by hand:"),
            cyan(To::Stderr, format_args!("handloom {command}{}", words.concat()))
        ));
    }
}

fn headline(n: usize, what: &str) {
    note(bold(To::Stderr, format_args!("\n{n}/4 {what}")));
}

fn quote(text: &str) {
    for line in super::console::wrap_text(text, 88) {
        note(format_args!("    {}", dim(To::Stderr, line)));
    }
}

/// Makes the folder; empties it when an earlier demo is in it, and only then.
fn make_room(out: &Path) -> Result<()> {
    let taken = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !out.join(MARK).is_file() {
        return Err(Error::Usage(format!(
            "--out {}: the folder has files in it that no demo made; choose another",
            out.display()
        )));
    }
    if taken {
        std::fs::remove_dir_all(out).map_err(|e| Error::io(out, "empty the folder", e))?;
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
    let mark = out.join(MARK);
    std::fs::write(&mark, "{}\n").map_err(|e| Error::io(&mark, "write", e))
}
