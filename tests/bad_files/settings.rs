//! Settings: TOML.

use handloom::cli::layers::{Sources, resolve};
use handloom::train::pretrain::PretrainConfig;
use serde_json::json;

use crate::{Folder, nested, refused};

pub fn files() {
    let folder = Folder::new();
    let deep = format!("train = {}\n", nested("[", "]", 100_000));
    let tables = format!("{} = 1\n", vec!["a"; 100_000].join("."));
    let cases: Vec<(&str, &str)> = vec![
        ("", "empty"),
        ("max_steps", "line 1 & TOML"),
        ("max_steps = ", "line 1 & TOML"),
        ("max_steps = = 3", "line 1 & TOML"),
        ("max_steps = 3\nmax_steps = 4\n", "line 2 & TOML & duplicate"),
        ("\"max_steps\" = 3\nmax_steps = 4\n", "line 2 & TOML & duplicate"),
        ("max_steps = \"many\"\n", "line 1 & max_steps"),
        ("max_steps = 1.5\n", "line 1 & max_steps"),
        ("max_steps = -1\n", "line 1 & max_steps"),
        ("max_steps = 9223372036854775808\n", "line 1"),
        ("max_steps = 99999999999999999999999\n", "line 1"),
        ("max_steps = 1979-05-27\n", "line 1 & max_steps"),
        ("max_steps = [3]\n", "line 1 & max_steps"),
        ("max_steps = {a = 1}\n", "line 1 & max_steps"),
        ("learning_rate = nan\n", "line 1: learning_rate is not a finite number"),
        ("learning_rate = inf\n", "line 1: learning_rate is not a finite number"),
        ("# one\n\nlearning_rat = 1\n", "line 3 & did you mean 'learning_rate'"),
        ("[trainer]\nmax_steps = 3\n", "line 1 & trainer"),
        ("seed = 0x1_\n", "line 1 & TOML"),
        ("seed = 'a\nb'\n", "line & TOML"),
        ("model = \"\\ud800\"\n", "line 1 & TOML"),
        ("model = 3\n", "line 1 & model"),
        ("on_nonfinite = \"ignore\"\n", "line 1 & on_nonfinite & skip"),
        ("optimizer = \"adam\"\n", "line 1 & optimizer & adamw"),
        ("train = \"one.txt\"\n", "line 1 & train"),
        ("budget = \"soon\"\n", "line 1 & budget & 10m"),
        ("budget = \"-3m\"\n", "line 1 & budget"),
        (&deep, "run.toml"),
        (&tables, "run.toml"),
    ];
    for (text, words) in cases {
        let config = Some(folder.write("run.toml", text));
        refused(text, &format!("run.toml & {words}"), || {
            resolve::<PretrainConfig>(&Sources { config, set: vec![] }, &json!({}))
        });
    }
    let config = Some(folder.write("run.toml", b"model = \"\xff\"\n"));
    refused("not UTF-8", "run.toml & line 1 & 0xFF", || {
        resolve::<PretrainConfig>(&Sources { config, set: vec![] }, &json!({}))
    });
}
