//! The real program, as a person uses it: every bad input gets one sentence, the right exit code, and
//! leaves nothing half-written; what is good works from text to prediction.

#![cfg(feature = "cli")]

#[path = "cli/bench.rs"]
mod bench;
#[path = "common/folder.rs"]
mod folder;
#[path = "cli/tagging.rs"]
mod tagging;

use std::path::Path;
use std::process::{Command, Output};

use folder::Folder;

impl Folder {
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), content).unwrap();
        self.path(name)
    }

    /// Everything below, by name, sorted.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, root, out);
                }
                out.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
        let mut out = Vec::new();
        walk(&self.0, &self.0, &mut out);
        out.sort();
        out
    }
}

/// Runs handloom in `folder`.
fn handloom(folder: &Folder, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_handloom"))
        .args(args)
        .current_dir(&folder.0)
        .env_remove("HANDLOOM_ISA")
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it and expects success.
fn works(folder: &Folder, args: &[&str]) -> Output {
    let output = handloom(folder, args);
    assert!(output.status.success(), "handloom {}\n{}", args.join(" "), stderr(&output));
    output
}

/// Runs it and expects `code`, an error of one paragraph that has all of `words`, nothing on stdout,
/// no panic, and the folder as it was.
fn refuses(folder: &Folder, args: &[&str], code: i32, words: &[&str]) {
    let before = folder.files();
    let output = handloom(folder, args);
    let said = stderr(&output);
    let shown = format!("handloom {}\n{said}", args.join(" "));
    assert_eq!(output.status.code(), Some(code), "{shown}");
    let error = said.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("no `error:` line: {shown}"));
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {shown}");
    }
    assert!(!said.contains("panicked") && !said.contains("a bug in handloom"), "{shown}");
    assert_eq!(stdout(&output), "", "{shown}");
    assert_eq!(folder.files(), before, "left behind by {shown}");
}

/// A small English text.
fn story() -> String {
    "the weaver sat at the loom and the shuttle ran from hand to hand. ".repeat(60)
}

/// Flags of a run that takes a moment.
const TINY: &[&str] = &[
    "--num-hidden-layers",
    "1",
    "--num-attention-heads",
    "2",
    "--hidden-size",
    "16",
    "--context-length",
    "16",
    "--batch-size",
    "4",
    "--max-steps",
    "6",
    "--eval-steps",
    "3",
    "--threads",
    "1",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

/// A pretrained model in `run/` and its text in `text.txt`.
fn pretrained() -> Folder {
    let folder = Folder::new();
    folder.write("text.txt", story());
    works(&folder, &with(&["pretrain", "--train", "text.txt", "--out", "run"], TINY));
    folder
}

/// Label files of two classes.
fn labels(folder: &Folder, name: &str, good: &str, bad: &str) -> String {
    let mut csv = String::from("label,text\n");
    for i in 0..12 {
        csv += &format!(
            "{good},\"the loom sang {}\"\n{bad},\"the hand sat {}\"\n",
            "and ran".repeat(i),
            "at the loom ".repeat(i)
        );
    }
    folder.write(name, csv)
}

// ---------------------------------------------------------------- what works

#[test]
fn from_text_to_a_model_that_writes_evaluates_and_resumes() {
    let folder = pretrained();
    let files = folder.files();
    for file in [
        "run/config.toml",
        "run/metrics.jsonl",
        "run/loss.svg",
        "run/tokenizer.json",
        "run/best/config.json",
        "run/best/model.safetensors",
        "run/best/tokenizer.json",
    ] {
        assert!(files.contains(&file.to_string()), "{file} is missing in {files:?}");
    }
    // The log has the documented keys, and each line is whole.
    let log = std::fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for key in ["step", "loss", "val_loss", "learning_rate", "grad_norm", "tokens_per_s"] {
        assert!(lines.iter().any(|line| !line[key].is_null()), "{key} is nowhere in {log}");
    }
    let svg = std::fs::read_to_string(folder.path("run/loss.svg")).unwrap();
    assert!(svg.contains("<polyline"));

    // The same seed writes the same text; stdout is the text and nothing else.
    let write =
        ["generate", "--from", "run", "--prompt", "the ", "--max-new-tokens", "12", "--quiet"];
    let (first, second) = (works(&folder, &write), works(&folder, &write));
    assert!(stdout(&first).starts_with("the ") && stdout(&first).ends_with('\n'));
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(stderr(&first), "");

    let args = ["evaluate", "--from", "run", "--data", "text.txt", "--json"];
    let found: serde_json::Value = serde_json::from_str(&stdout(&works(&folder, &args))).unwrap();
    for key in ["val_loss", "perplexity", "bits_per_byte"] {
        assert!(found[key].as_f64().is_some_and(|x| x > 0.0), "{found}");
    }
    assert!(stdout(&works(&folder, &args[..5])).contains("bits_per_byte"));

    // Ten steps in one go, and six and four, end in the same file.
    works(&folder, &["pretrain", "--resume", "run", "--max-steps", "10"]);
    let longer = with(&["pretrain", "--train", "text.txt", "--out", "straight"], TINY);
    let mut longer = longer;
    longer[TINY.iter().position(|f| *f == "--max-steps").unwrap() + 6] = "10";
    works(&folder, &longer);
    let step = "checkpoints/step-000010/model.safetensors";
    let weights = |run: &str| std::fs::read(folder.0.join(run).join(step)).unwrap();
    // The schedule of the first six steps was another one, so only the sizes can agree.
    assert_eq!(weights("run").len(), weights("straight").len());
}

#[test]
fn the_settings_of_a_run_can_be_given_back() {
    let folder = pretrained();
    works(&folder, &["pretrain", "--config", "run/config.toml", "--out", "again"]);
    let weights =
        |run: &str| std::fs::read(folder.0.join(run).join("best/model.safetensors")).unwrap();
    assert!(weights("run") == weights("again"), "the same settings gave other weights");
}

#[test]
fn fine_tuning_evaluation_and_prediction() {
    let folder = pretrained();
    labels(&folder, "train.csv", "good", "bad");
    labels(&folder, "test.csv", "good", "bad");
    let output = works(
        &folder,
        &[
            "finetune",
            "--from",
            "run",
            "--train",
            "train.csv",
            "--test",
            "test.csv",
            "--out",
            "task",
            "--max-steps",
            "20",
            "--learning-rate",
            "1e-2",
            "--json",
            "--threads",
            "1",
        ],
    );
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["runs"][0]["arm"], "pretrained");

    let args = ["evaluate", "--from", "task", "--data", "test.csv", "--json"];
    let found: serde_json::Value = serde_json::from_str(&stdout(&works(&folder, &args))).unwrap();
    for key in ["loss", "accuracy", "macro_f1", "micro_f1"] {
        assert!(found[key].is_number(), "{found}");
    }
    let table = stdout(&works(&folder, &args[..5]));
    assert!(table.contains("precision") && table.contains("gold \\ predicted"), "{table}");

    let line = stdout(&works(&folder, &["predict", "--from", "task", "the loom sang"]));
    let cells: Vec<&str> = line.trim_end().split('\t').collect();
    assert!(cells.len() == 3 && ["good", "bad"].contains(&cells[0]), "{line}");
    let line =
        stdout(&works(&folder, &["predict", "--from", "task", "--data", "test.csv", "--json"]));
    assert_eq!(line.lines().count(), 24);
    let first: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert!(first["scores"]["good"].is_number(), "{first}");

    // A label that training has not seen is told of, and counts as wrong.
    labels(&folder, "other.csv", "good", "odd");
    let output = works(&folder, &["evaluate", "--from", "task", "--data", "other.csv"]);
    let said = stderr(&output) + &stdout(&output);
    assert!(said.contains("odd"), "{said}");
    labels(&folder, "none.csv", "strange", "odd");
    refuses(
        &folder,
        &["evaluate", "--from", "task", "--data", "none.csv"],
        3,
        &["none.csv", "label"],
    );
}

#[test]
fn lines_prompts_and_beams() {
    let folder = Folder::new();
    let names: String =
        (0..60).map(|i| format!("an{}\n", ["na", "n", "ette", "dy"][i % 4])).collect();
    folder.write("names.txt", &names);
    let train = ["pretrain", "--train", "names.txt", "--line-by-line", "--out", "run"];
    works(&folder, &with(&train, TINY));
    let evaluate = ["evaluate", "--from", "run", "--data", "names.txt", "--line-by-line", "--json"];
    let found: serde_json::Value =
        serde_json::from_str(&stdout(&works(&folder, &evaluate))).unwrap();
    // Each name's letters and its end: 4, 3, 6 and 4 letters, fifteen times.
    assert_eq!(found["tokens"], 15 * (4 + 3 + 6 + 4 + 4));

    // Several prompts: the texts that each would get alone, in their order.
    let generate = |more: &[&str]| {
        let args = ["generate", "--from", "run", "--max-new-tokens", "8", "--quiet"];
        stdout(&works(&folder, &with(&args, more)))
    };
    folder.write("prompts.txt", "an\nann\n");
    let both = generate(&["--prompts-file", "prompts.txt", "--json"]);
    for (line, prompt) in both.lines().zip(["an", "ann"]) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = line["text"].as_str().unwrap();
        assert_eq!(generate(&["--prompt", prompt]), format!("{prompt}{text}\n"));
    }
    // The end of a line ends the text, here and for programs that read the folder.
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.path(name)).unwrap()).unwrap()
    };
    let line_feed = &json("run/best/tokenizer.json")["model"]["vocab"]["\n"];
    assert!(line_feed.is_u64());
    assert_eq!(json("run/best/config.json")["eos_token_id"], *line_feed);
    for seed in ["1", "2", "3"] {
        assert_eq!(
            generate(&["--seed", seed]).trim_matches('\n').lines().count(),
            1,
            "seed {seed}"
        );
    }
    assert_eq!(generate(&["--prompt", "an", "ann", "--json"]), both);
    let beams = generate(&["--prompt", "an", "--num-beams", "3", "--stop", "\n"]);
    assert!(beams.starts_with("an") && beams.lines().count() == 1, "{beams}");
    let short = |threads| generate(&["--prompt", "an", "--dtype", "bf16", "--threads", threads]);
    assert!(short("1").starts_with("an") && short("1") == short("3"));
    let f16 = ["generate", "--from", "run", "--dtype", "f16"];
    refuses(&folder, &f16, 2, &["--dtype", "f32 or bf16"]);
    let lstm = ["pretrain", "--train", "names.txt", "--out", "lstm", "--model", "lstm"];
    let small = ["--hidden-size", "8", "--context-length", "16", "--batch-size", "4"];
    works(&folder, &with(&with(&lstm, &small), &["--max-steps", "1", "--quiet"]));
    let recurrent = ["generate", "--from", "lstm", "--dtype", "bf16"];
    refuses(
        &folder,
        &recurrent,
        2,
        &["--dtype bf16", "a recurrent model keeps its weights in f32"],
    );
    refuses(
        &folder,
        &["generate", "--from", "run", "--prompts-file", "none.txt"],
        3,
        &["none.txt"],
    );
}

#[test]
fn gaps_are_filled_and_adapters_open() {
    let folder = Folder::new();
    folder.write("text.txt", story());
    let train = ["pretrain", "--model", "bert", "--tokenizer", "wordpiece:80", "--train"];
    let train = with(&train, &["text.txt", "--whole-word-mask", "--out", "run"]);
    works(&folder, &with(&train, TINY));
    let line = stdout(&works(&folder, &["predict", "--from", "run", "--json", "a [MASK] hand"]));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["candidates"].as_array().unwrap().len(), 5, "{line}");
    let shown = stdout(&works(&folder, &["predict", "--from", "run", "a [MASK] hand"]));
    assert_eq!(shown.lines().count(), 6, "{shown}");
    refuses(&folder, &["predict", "--from", "run", "no gap"], 2, &["[MASK]"]);

    labels(&folder, "train.csv", "good", "bad");
    let tune = ["finetune", "--from", "run", "--train", "train.csv", "--out", "task"];
    let tune = with(&tune, &["--lora-r", "2", "--max-steps", "4", "--threads", "1"]);
    works(&folder, &tune);
    let data = ["--data", "train.csv", "--json", "--threads", "1"];
    let figures = |from: &str| stdout(&works(&folder, &with(&["evaluate", "--from", from], &data)));
    // The adapter names its base by an absolute path and opens beside the merged model.
    assert_eq!(figures("task"), figures("task/best/adapter"));
    let predict = ["predict", "--from", "task/best/adapter", "the loom"];
    assert!(stdout(&works(&folder, &predict)).contains("the loom"));
}

#[test]
fn tokenizers_are_trained_and_shown() {
    let folder = Folder::new();
    folder.write("text.txt", "织布机在唱歌。".repeat(20) + &story());
    for kind in ["char", "bpe:300", "wordpiece:200"] {
        works(
            &folder,
            &["tokenizer", "train", "--tokenizer", kind, "--train", "text.txt", "--out", "t.json"],
        );
        let output = works(
            &folder,
            &["tokenizer", "encode", "--tokenizer", "t.json", "--json", "织布 the loom"],
        );
        let shown: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        // Word pieces split Chinese into characters and do not keep the spaces between them.
        let kept =
            if kind.starts_with("wordpiece") { "织 布 the loom" } else { "织布 the loom" };
        assert_eq!(shown["decoded"], kept, "{kind}");
    }
    refuses(
        &folder,
        &["tokenizer", "train", "--tokenizer", "bpe:many", "--train", "text.txt"],
        2,
        &["bpe:many"],
    );
    refuses(
        &folder,
        &["tokenizer", "train", "--train", "no.txt", "--out", "u.json"],
        3,
        &["no.txt"],
    );
}

#[test]
fn info_says_what_is_there() {
    let folder = Folder::new();
    let info: serde_json::Value =
        serde_json::from_str(&stdout(&works(&folder, &["info", "--json"]))).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["isa_levels"].as_array().unwrap().contains(&info["isa"]));
    assert!(info["threads"].as_u64().unwrap() >= 1);
    assert!(stdout(&works(&folder, &["info"])).contains("GPU"));
}

// ---------------------------------------------------------------- how it speaks

#[test]
fn in_a_pipe_there_are_plain_lines_and_quiet_is_quiet() {
    let folder = Folder::new();
    folder.write("text.txt", story());
    let output = works(&folder, &with(&["pretrain", "--train", "text.txt", "--out", "a"], TINY));
    let said = stderr(&output);
    assert_eq!(stdout(&output), "");
    assert!(!said.contains('\r') && !said.contains('\x1b'), "{said}");
    for word in
        ["parameters", "memory", "machine", "step=1 of=6 loss=", "eval step=6 val_loss=", "next"]
    {
        assert!(said.contains(word), "no {word} in {said}");
    }
    let output =
        works(&folder, &with(&["pretrain", "--quiet", "--train", "text.txt", "--out", "b"], TINY));
    assert_eq!(stderr(&output), "");
    let output = works(&folder, &["info", "--color", "always"]);
    assert!(stdout(&output).contains('\x1b'));
}

#[test]
fn a_reader_that_leaves_is_nobodys_error() {
    let folder = pretrained();
    let mut child = Command::new(env!("CARGO_BIN_EXE_handloom"))
        .args(["generate", "--from", "run", "--max-new-tokens", "400"])
        .current_dir(&folder.0)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(!said.contains("error") && !said.contains("panic"), "{said}");
}

#[test]
fn help_has_examples_everywhere() {
    let folder = Folder::new();
    for command in ["demo", "pretrain", "finetune", "evaluate", "predict", "generate", "info"] {
        let help = stdout(&works(&folder, &[command, "--help"]));
        assert!(
            help.contains(&format!("handloom {command}")) && help.contains("Examples:"),
            "{help}"
        );
    }
    assert!(stdout(&works(&folder, &["--help"])).contains("Exit codes"));
    assert!(stdout(&works(&folder, &["--version"])).starts_with("handloom "));
}

// ---------------------------------------------------------------- what bad input gets

#[test]
fn bad_text_files() {
    let folder = Folder::new();
    folder.write("empty.txt", "");
    folder.write("latin.txt", b"gr\xfcn ist gr\xfcn\n");
    folder.write("second.txt", b"a good line\nanother\nbad \xff\xfe\n");
    folder.write("short.txt", "too short");
    folder.write("good.txt", story());
    std::fs::create_dir(folder.path("dir")).unwrap();
    let train = |file: &'static str, words: &[&str]| {
        refuses(&folder, &with(&["pretrain", "--out", "run", "--train", file], TINY), 3, words);
    };
    train("missing.txt", &["missing.txt", "cannot read"]);
    train("empty.txt", &["empty.txt", "empty"]);
    train("latin.txt", &["latin.txt", "UTF-8", "line 1"]);
    train("second.txt", &["second.txt", "UTF-8", "line 3"]);
    train("dir", &["dir", "folder"]);
    train("short.txt", &["context", "16"]);
    refuses(
        &folder,
        &with(&["pretrain", "--out", "run", "--train", "good.txt", "--validation", "no.txt"], TINY),
        3,
        &["no.txt"],
    );
    refuses(&folder, &["pretrain", "--out", "run"], 2, &["--train"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = folder.write("locked.txt", story());
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
        // Root may read everything; there is nothing to refuse then.
        if std::fs::read(&locked).is_err() {
            train("locked.txt", &["locked.txt", "cannot read"]);
        }
    }
}

#[test]
fn bad_numbers_and_keys() {
    let folder = Folder::new();
    folder.write("text.txt", story());
    let refuse = |flags: &[&str], words: &[&str]| {
        refuses(
            &folder,
            &with(&["pretrain", "--train", "text.txt", "--out", "run"], flags),
            2,
            words,
        );
    };
    for value in ["nan", "inf", "-1", "0", "fast"] {
        refuse(&["--learning-rate", value], &["--learning-rate", "must be a number above 0"]);
    }
    refuse(&["--set", "learning_rate=nan"], &["learning_rate"]);
    refuse(&["--set", "learning_rate=-1"], &["learning-rate"]);
    refuse(&["--batch-size", "0"], &["--batch-size", "1 or more"]);
    refuse(&["--max-steps", "1.5"], &["--max-steps"]);
    refuse(&["--adam-beta2", "1"], &["--adam-beta2"]);
    refuse(&["--dropout", "1.5"], &["--dropout"]);
    refuse(&["--validation-fraction", "-0.5"], &["--validation-fraction"]);
    refuse(&["--budget", "soon"], &["--budget", "10m"]);
    refuse(&["--model", "gtp"], &["gtp"]);
    refuse(&["--size", "huge"], &["huge", "nano"]);
    refuse(&["--tokenizer", "words"], &["words", "char"]);
    refuse(&["--lr-scheduler", "sine"], &["sine", "cosine"]);
    refuse(&["--num-attention-heads", "3", "--hidden-size", "16"], &["3", "heads", "16"]);
    refuse(&["--learning-rat", "1"], &["--learning-rat"]);
    refuse(&["--set", "learning_rat=1"], &["did you mean", "learning_rate"]);
    refuse(&["--set", "learning_rate"], &["key=value"]);
    refuse(
        &["--hidden-size", "1000000", "--num-hidden-layers", "500"],
        &["needs", "this machine has"],
    );
    refuse(&["--batch-size", "100000000"], &["needs", "this machine has"]);

    folder.write("run.toml", "# settings\nmax_steps = 3\nlearnig_rate = 1e-3\n");
    refuse(&["--config", "run.toml"], &["run.toml, line 3", "did you mean", "learning_rate"]);
    folder.write("run.toml", "max_steps = \"many\"\n");
    refuse(&["--config", "run.toml"], &["run.toml, line 1", "max_steps"]);
    folder.write("run.toml", "max_steps = = 3\n");
    refuse(&["--config", "run.toml"], &["run.toml, line 1", "TOML"]);
    refuses(
        &folder,
        &["pretrain", "--train", "text.txt", "--out", "run", "--config", "no.toml"],
        3,
        &["no.toml"],
    );
    refuses(&folder, &["pretrain", "--resume", "nowhere"], 3, &["nowhere"]);
    refuses(&folder, &["weave"], 2, &["weave"]);
}

#[test]
fn damaged_model_folders() {
    let folder = pretrained();
    let generate = ["generate", "--from", "run", "--prompt", "the"];
    refuses(&folder, &["generate", "--from", "nowhere"], 3, &["nowhere"]);
    // Of a run folder the best model is taken; spoil that.
    let spoil = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, words: &[&str]| {
        let path = folder.path(&format!("run/best/{file}"));
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, change(before.clone())).unwrap();
        refuses(&folder, &generate, 3, words);
        std::fs::write(&path, before).unwrap();
    };
    spoil("model.safetensors", &|bytes| bytes[..bytes.len() / 2].to_vec(), &["model.safetensors"]);
    spoil("model.safetensors", &|_| Vec::new(), &["model.safetensors"]);
    spoil(
        "model.safetensors",
        &|_| b"not a model at all, only text".to_vec(),
        &["model.safetensors"],
    );
    spoil("tokenizer.json", &|bytes| bytes[..bytes.len() / 2].to_vec(), &["tokenizer.json"]);
    spoil("tokenizer.json", &|_| b"{}".to_vec(), &["tokenizer.json"]);
    spoil(
        "config.json",
        &|_| b"{\"model_type\": \"gpt2\", \"n_head\": 3, \"n_embd\": 16}".to_vec(),
        &["3"],
    );
    spoil("config.json", &|_| b"[1, 2".to_vec(), &["config.json"]);
    // A tokenizer with more ids than the model has rows.
    let other = folder.write(
        "other.txt",
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789".repeat(3),
    );
    works(
        &folder,
        &["tokenizer", "train", "--tokenizer", "char", "--train", &other, "--out", "big.json"],
    );
    let big = std::fs::read(folder.path("big.json")).unwrap();
    spoil("tokenizer.json", &|_| big.clone(), &["tokenizer", "ids"]);
    // A character that the model has never seen is no reason to fail; a language model is no classifier.
    works(&folder, &["generate", "--from", "run", "--prompt", "织布 @", "--max-new-tokens", "3"]);
    refuses(&folder, &["predict", "--from", "run", "a text"], 3, &["classif"]);
    for (flag, value) in
        [("--temperature", "-1"), ("--top-p", "0"), ("--top-p", "nan"), ("--max-new-tokens", "0")]
    {
        refuses(&folder, &with(&generate, &[flag, value]), 2, &[flag]);
    }
}

#[test]
fn bad_label_files() {
    let folder = pretrained();
    let good = labels(&folder, "good.csv", "good", "bad");
    folder.write("one.csv", "label,text\ngood,a text\ngood,another\n");
    folder.write("nolabel.csv", "label,text\ngood,a text\n,another\nbad,third\n");
    folder.write("ragged.csv", "label,text\ngood,a text\nbad\ngood,more\n");
    folder.write("broken.jsonl", "{\"label\": \"a\", \"text\": \"x\"}\n{\"label\": \"b\", \n");
    folder.write("strange.csv", "label,text\nodd,a text\nstrange,another\n");
    let train = |file: &str, more: &[&str], code: i32, words: &[&str]| {
        let args =
            ["finetune", "--from", "run", "--out", "task", "--max-steps", "2", "--train", file];
        refuses(&folder, &with(&args, more), code, words);
    };
    train("missing.csv", &[], 3, &["missing.csv"]);
    train("one.csv", &[], 3, &["one.csv", "good"]);
    train("nolabel.csv", &[], 3, &["nolabel.csv", "line 3"]);
    train("ragged.csv", &[], 3, &["ragged.csv", "line 3"]);
    train("broken.jsonl", &[], 3, &["broken.jsonl", "line 2"]);
    train(&good, &["--label-column", "stars"], 2, &["good.csv", "stars"]);
    train(&good, &["--validation", "strange.csv"], 3, &["strange.csv", "label"]);
    train(&good, &["--task", "dance"], 2, &["dance", "classify"]);
    train(&good, &["--scratch", "nano"], 2, &["--from", "--scratch"]);
    train(&good, &["--max-length", "1000"], 2, &["--max-length", "16"]);
    refuses(&folder, &["finetune", "--train", &good], 2, &["--from", "--scratch"]);
    refuses(&folder, &["finetune", "--from", "run"], 2, &["--train"]);
    refuses(&folder, &["finetune", "--from", "nowhere", "--train", &good], 3, &["nowhere"]);
}

#[test]
fn runs_are_not_written_over() {
    let folder = pretrained();
    refuses(
        &folder,
        &with(&["pretrain", "--train", "text.txt", "--out", "run"], TINY),
        2,
        &["run", "--resume"],
    );
    refuses(&folder, &["pretrain", "--resume", "run", "--hidden-size", "32"], 2, &["hidden_size"]);
    folder.write("other.txt", "something else entirely. ".repeat(80));
    std::fs::create_dir(folder.path("mine")).unwrap();
    folder.write("mine/thesis.txt", "years of work");
    refuses(&folder, &["demo", "--out", "mine"], 2, &["mine", "choose another"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = pretrained();
    let newest = folder.path("run/checkpoints/step-000006/model.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() - 7]).unwrap();
    let output = handloom(&folder, &["pretrain", "--resume", "run", "--max-steps", "8"]);
    let said = stderr(&output);
    assert!(said.contains("warning:") && said.contains("step-000006"), "{said}");
    assert!(!said.contains("a bug in handloom"), "{said}");
}
