//! Entities and roles, from files of tagged words to highlighted text: what a small tagger learns of the
//! storyworld, and what bad input is told.

use super::*;
use handloom::text::storyworld::{Language, Story, stories, write_ner, write_srl};
use serde_json::Value;

/// Stories with entities and roles in `train.ner`, `test.ner`, `train.srl` and `test.srl`.
fn world() -> Folder {
    let folder = Folder::new();
    for (set, seed, n) in [("train", 1, 160), ("test", 2, 40)] {
        let all: Vec<Story> = stories(seed, Language::English).take(n).collect();
        write_ner(&all, folder.path(&format!("{set}.ner"))).unwrap();
        write_srl(&all, folder.path(&format!("{set}.srl"))).unwrap();
    }
    folder
}

/// Fine-tunes in `folder` and gives F1 on the test set.
fn f1(folder: &Folder, task: &str, flags: &[&str]) -> f64 {
    let (train, test) = (format!("train.{task}"), format!("test.{task}"));
    let common = [
        "finetune",
        "--task",
        task,
        "--train",
        &train,
        "--test",
        &test,
        "--threads",
        "2",
        "--json",
        "--eval-steps",
        "0",
        "--save-steps",
        "0",
    ];
    let output = works(folder, &with(&common, flags));
    let report: Value = serde_json::from_str(stdout(&output).trim()).unwrap();
    let figures = report["runs"][0]["test"]["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure[0] == "f1").unwrap()[1].as_f64().unwrap()
}

#[test]
fn a_tagger_of_words_finds_entities_and_roles() {
    let folder = world();
    let words = ["--scratch", "nano", "--model", "lstm", "--tokenizer", "word", "--crf"];
    let fast = ["--learning-rate", "5e-3", "--batch-size", "16", "--hidden-size", "48"];
    let flags = with(&words, &fast);
    let entities = f1(&folder, "ner", &with(&flags, &["--epochs", "6", "--out", "ner"]));
    assert!(entities > 0.9, "F1 of entities {entities}");
    let roles = f1(&folder, "srl", &with(&flags, &["--epochs", "4", "--out", "srl"]));
    assert!(roles > 0.8, "F1 of roles {roles}");

    // The same figure from the folder; the table has a row a type.
    let output = works(&folder, &["evaluate", "--from", "ner", "--data", "test.ner", "--json"]);
    let again: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(again["f1"].as_f64(), Some(entities));
    let output = works(&folder, &["evaluate", "--from", "srl", "--data", "test.srl"]);
    let shown = stdout(&output);
    assert!(shown.contains("ARG0") && shown.contains("micro"), "{shown}");
    assert!(!shown.lines().any(|line| line.starts_with("V ")), "V does not count:\n{shown}");

    // Predictions: brackets in a pipe, colour where it is wanted, offsets in characters as JSON.
    let text = "…Last winter, Mara Holden worked for the Glenford Bakery in Ashport.";
    let output = works(&folder, &["predict", "--from", "ner", text]);
    assert!(stdout(&output).contains("[Mara Holden]/PER"), "{}", stdout(&output));
    let output = works(&folder, &["predict", "--from", "ner", "--color", "always", text]);
    assert!(stdout(&output).contains("\u{1b}[30;43m Mara Holden PER "), "{}", stdout(&output));
    let output = works(&folder, &["predict", "--from", "ner", "--json", text]);
    let tagged: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let span = &tagged["spans"][0];
    assert_eq!((&span["type"], &span["text"]), (&"PER".into(), &"Mara Holden".into()));
    assert_eq!((span["start"].as_u64(), span["end"].as_u64()), (Some(14), Some(25)));

    let text = "Tomas kneaded the dough.";
    let output = works(&folder, &["predict", "--from", "srl", "--predicate", "kneaded", text]);
    let by_word = stdout(&output);
    assert!(by_word.contains("[Tomas]/ARG0 [kneaded]/V"), "{by_word}");
    let output = works(&folder, &["predict", "--from", "srl", "--predicate", "2", text]);
    assert_eq!(stdout(&output), by_word);
    let ask = ["whose roles?", "--predicate", "2 kneaded"];
    refuses(&folder, &["predict", "--from", "srl", text], 2, &ask);
    let unknown = ["--predicate ate", "not in the text", "1 Tomas"];
    refuses(&folder, &["predict", "--from", "srl", "--predicate", "ate", text], 2, &unknown);
    let no = ["asks for no predicate"];
    refuses(&folder, &["predict", "--from", "ner", "--predicate", "2", text], 2, &no);
}

#[test]
fn a_bert_finds_entities_with_and_without_a_crf() {
    let folder = world();
    let flags = [
        "--scratch",
        "nano",
        "--model",
        "bert",
        "--tokenizer",
        "wordpiece:1200",
        "--num-hidden-layers",
        "2",
        "--hidden-size",
        "64",
        "--epochs",
        "12",
        "--learning-rate",
        "3e-3",
        "--batch-size",
        "8",
        "--dropout",
        "0",
    ];
    for (out, more) in [("plain", &[][..]), ("crf", &["--crf"])] {
        let found = f1(&folder, "ner", &with(&with(&flags, &["--out", out]), more));
        assert!(found > 0.8, "{out}: F1 {found}");
    }
    // The folder is Hugging Face's, with the CRF beside the classifier.
    let config = std::fs::read_to_string(folder.0.join("crf/best/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["architectures"][0], "BertForTokenClassification");
    assert_eq!(config["id2label"]["0"], "O");
    let output = works(&folder, &["predict", "--from", "crf", "Mara Holden lived in Ashport."]);
    assert!(stdout(&output).contains("]/"), "{}", stdout(&output));
    // Cut to a few pieces, the words behind count as O.
    let short = ["evaluate", "--from", "plain", "--data", "test.ner", "--max-length", "8"];
    assert!(stdout(&works(&folder, &short)).contains("words count as O"));
}

#[test]
fn bad_files_of_tags() {
    let folder = Folder::new();
    folder.write("good.ner", "Mara B-PER\nsleeps O\n\nTomas B-PER\nwakes O\n");
    folder.write("words.ner", "Mara\nsleeps\n");
    folder.write("tags.ner", "Mara NNP\nsleeps VBZ\n");
    folder.write("none.ner", "a O\nb O\n\nc O\n");
    folder.write("none.srl", "Mara\t0\tB-ARG0\nsleeps\t0\tB-V\n");
    folder.write("good.srl", "Mara\t0\tB-ARG0\nsleeps\t1\tB-V\n\nHe\t0\tB-ARG0\nate\t1\tB-V\n");
    let scratch = ["--scratch", "nano", "--validation-fraction", "0", "--out", "out"];
    let run = |task: &'static str, train: &'static str, more: &[&'static str]| {
        with(&with(&["finetune", "--task", task, "--train", train], &scratch), more)
    };
    for (args, code, words) in [
        (run("ner", "words.ner", &[]), 3, ["words.ner", "line 1", "a word and a tag"]),
        (run("ner", "tags.ner", &[]), 3, ["tags.ner", "line 1", "no span tag"]),
        (run("ner", "none.ner", &[]), 3, ["none.ner", "no word is tagged", "O"]),
        (run("srl", "none.srl", &[]), 3, ["none.srl", "line 1", "predicate"]),
        (run("srl", "good.ner", &[]), 3, ["good.ner", "line 1", "tabs"]),
        (run("srl", "good.srl", &[]), 2, ["--task srl", "token type", "gpt"]),
        (run("parse", "good.ner", &[]), 2, ["--task parse", "classify, ner, srl", "lm"]),
        (run("ner", "good.ner", &["--tokenizer", "word"]), 2, ["--tokenizer word", "lstm", "gpt"]),
        (
            run("ner", "good.ner", &["--class-weights", "balanced"]),
            2,
            ["--class-weights", "tag", ""],
        ),
    ] {
        refuses(&folder, &args, code, &words);
    }
}
