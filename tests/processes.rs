//! Real processes: two writers on one folder, signals at any moment, a data file that shrinks, a full quota.

#![cfg(all(unix, feature = "cli"))]

#[path = "common/folder.rs"]
mod folder;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use folder::Folder;
use handloom::text::{TokenFile, Tokenizer, TokenizerKind, quiet};
use handloom::train::checkpoint;
use handloom::train::fsx::Disk;

/// A folder with a text to train on.
fn with_text() -> Folder {
    let folder = Folder::new();
    let text = "the weaver sat at the loom and the shuttle ran from hand to hand. ".repeat(60);
    std::fs::write(folder.0.join("text.txt"), text).unwrap();
    folder
}

impl Folder {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handloom"));
        command.args(args).current_dir(&self.0).env_remove("RUST_BACKTRACE");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The highest step that a checkpoint of a run is named after, while the run goes on.
    fn highest(&self, run: &str) -> Option<u64> {
        let entries = std::fs::read_dir(self.0.join(run).join("checkpoints")).ok()?;
        let step = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok()
        };
        entries.filter_map(step).max()
    }

    /// The step of the newest checkpoint of a run; none may be damaged.
    fn newest(&self, run: &str) -> Option<u64> {
        let search = checkpoint::newest(&self.0.join(run), std::sync::Arc::new(Disk)).unwrap();
        assert!(search.damaged.is_empty(), "{:?}", search.damaged);
        search.newest.map(|checkpoint| checkpoint.step)
    }
}

/// A run of `steps` steps with a checkpoint after every fifth.
fn pretrain<'a>(out: &'a str, steps: &'a str) -> Vec<&'a str> {
    let flags = "--num-hidden-layers 1 --num-attention-heads 2 --hidden-size 16 --context-length 16 \
                 --batch-size 4 --eval-steps 0 --save-steps 5 --logging-steps 1 --sample-length 0 \
                 --threads 1 --warmup-steps 2";
    let mut all = vec!["pretrain", "--train", "text.txt", "--out", out, "--max-steps", steps];
    all.extend(flags.split_ascii_whitespace());
    all
}

const ENDLESS: &str = "10000000";

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the run has a checkpoint.
fn wait_for_checkpoint(folder: &Folder, run: &str) {
    wait_for("a checkpoint", || folder.highest(run).is_some());
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> Option<i32> {
    assert_eq!(output.status.signal(), None, "killed by a signal: {}", said(output));
    output.status.code()
}

#[test]
fn the_second_writer_is_refused_and_a_killed_one_leaves_no_lock() {
    let folder = with_text();
    let mut first = folder.start(&pretrain("run", ENDLESS));
    wait_for_checkpoint(&folder, "run");
    let pid = first.id().to_string();
    for args in [pretrain("run", "20"), vec!["pretrain", "--resume", "run"]] {
        let second = folder.run(&args);
        assert_eq!(code(&second), Some(3), "{}", said(&second));
        assert!(said(&second).contains(&format!("process {pid} is writing")), "{}", said(&second));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let step = folder.newest("run").unwrap();
    let more = (step + 3).to_string();
    let third = folder.run(&["pretrain", "--resume", "run", "--max-steps", &more]);
    assert_eq!(code(&third), Some(0), "{}", said(&third));
    assert_eq!(folder.newest("run"), Some(step + 3));
}

#[test]
fn of_many_that_start_at_once_one_trains() {
    let folder = with_text();
    let args = pretrain("run", "200");
    let all: Vec<Child> = (0..6).map(|_| folder.start(&args)).collect();
    let all: Vec<Output> = all.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
    let done = all.iter().filter(|output| code(output) == Some(0)).count();
    assert_eq!(done, 1, "{:?}", all.iter().map(said).collect::<Vec<_>>());
    for output in all.iter().filter(|output| code(output) != Some(0)) {
        let said = said(output);
        assert!(said.contains("is writing to this run") || said.contains("--resume"), "{said}");
    }
    assert_eq!(folder.newest("run"), Some(200));
}

#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    for name in ["-INT", "-TERM", "-HUP"] {
        let folder = with_text();
        let child = folder.start(&pretrain("run", ENDLESS));
        wait_for_checkpoint(&folder, "run");
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), Some(130), "{name}: {}", said(&output));
        assert!(said(&output).contains("handloom pretrain --resume run"), "{}", said(&output));
        let step = folder.newest("run").unwrap();
        let last = std::fs::read_to_string(folder.0.join("run/metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
        assert_eq!(last["step"], step, "every step that was logged is saved");
    }
}

#[test]
fn a_signal_at_any_moment_of_a_save_loses_nothing() {
    // A checkpoint after every step: most of the time is spent in saving.
    let folder = with_text();
    let mut args = pretrain("run", ENDLESS);
    let every = args.iter().position(|arg| *arg == "--save-steps").unwrap();
    args[every + 1] = "1";
    let mut before = 0;
    for turn in 0..12u64 {
        let child = match turn {
            0 => folder.start(&args),
            _ => folder.start(&["pretrain", "--resume", "run"]),
        };
        wait_for("progress", || folder.highest("run") > Some(before));
        std::thread::sleep(Duration::from_micros(317 * turn));
        // Twice in quick succession on odd turns: the second one stops at once.
        signal(&child, "-INT");
        if turn % 2 == 1 {
            std::thread::sleep(Duration::from_micros(100 * turn));
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), Some(130), "{}", said(&output));
        let step = folder.newest("run").unwrap();
        assert!(step > before, "{before} to {step}");
        before = step;
    }
}

#[test]
fn a_series_of_fine_tunings_stops_and_goes_on() {
    let folder = with_text();
    let mut csv = String::from("label,text\n");
    for i in 0..12 {
        csv += &format!("good,the loom sang {i}\nbad,the hand sat at the loom {i}\n");
    }
    std::fs::write(folder.0.join("labels.csv"), csv).unwrap();
    let flags = "--scratch nano --model gpt --num-hidden-layers 1 --num-attention-heads 2 --hidden-size 16 \
                 --max-length 16 --tokenizer char --train labels.csv --seeds 3 --max-steps 40 --batch-size 4 \
                 --save-steps 5 --threads 1 --out";
    let args = |out: &'static str| -> Vec<&str> {
        ["finetune"].into_iter().chain(flags.split_ascii_whitespace()).chain([out]).collect()
    };
    let whole = folder.run(&args("whole"));
    assert_eq!(code(&whole), Some(0), "{}", said(&whole));

    // Between the first run and the second, then somewhere in what is left.
    let child = folder.start(&args("series"));
    let first = folder.0.join("series/scratch-seed42/result.json");
    wait_for("the first run", || first.exists());
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(130), "{}", said(&output));
    assert!(said(&output).contains("handloom finetune --resume series"), "{}", said(&output));
    let mut child = folder.start(&["finetune", "--resume", "series"]);
    std::thread::sleep(Duration::from_millis(40));
    let _ = child.kill();
    child.wait().unwrap();
    let rest = folder.run(&["finetune", "--resume", "series"]);
    assert_eq!(code(&rest), Some(0), "{}", said(&rest));
    for seed in [42, 43, 44] {
        let weights = |series: &str| {
            let place = format!("{series}/scratch-seed{seed}/checkpoints/step-000040");
            std::fs::read(folder.0.join(place).join("model.safetensors")).unwrap()
        };
        assert!(weights("whole") == weights("series"), "seed {seed}");
    }
}

#[test]
fn a_data_file_that_shrinks_or_changes_ends_with_a_sentence() {
    let folder = with_text();
    let text = std::fs::read_to_string(folder.0.join("text.txt")).unwrap();
    let tokenizer = Tokenizer::train(TokenizerKind::Char, [text], quiet).unwrap();
    tokenizer.save(folder.0.join("tokenizer.json")).unwrap();
    let build = || {
        let files = [folder.0.join("text.txt")];
        TokenFile::build(&files, &tokenizer, folder.0.join("text.tokens"), quiet).unwrap();
    };
    let change = |how: &dyn Fn(&Path)| {
        build();
        let mut args = pretrain("run", ENDLESS);
        args[2] = "text.tokens";
        args.extend(["--tokenizer", "tokenizer.json"]);
        let child = folder.start(&args);
        wait_for_checkpoint(&folder, "run");
        how(&folder.0.join("text.tokens"));
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), Some(3), "{}", said(&output));
        for word in ["error: ", "text.tokens", "while it was", "--resume"] {
            assert!(said(&output).contains(word), "no {word} in {}", said(&output));
        }
        // With the file made anew, the run goes on.
        let step = folder.newest("run").unwrap();
        build();
        let more = (step + 2).to_string();
        let rest = folder.run(&["pretrain", "--resume", "run", "--max-steps", &more]);
        assert_eq!(code(&rest), Some(0), "{}", said(&rest));
        std::fs::remove_dir_all(folder.0.join("run")).unwrap();
    };
    let open = |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap();
    change(&|path| open(path).set_len(64).unwrap());
    change(&|path| open(path).set_len(0).unwrap());
    change(&|path| {
        use std::os::unix::fs::FileExt;
        open(path).write_all_at(&[0, 0], 64).unwrap();
    });
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_a_death() {
    let folder = with_text();
    let whole = folder.run(&pretrain("run", "5"));
    assert_eq!(code(&whole), Some(0), "{}", said(&whole));
    // Blocks of 512 bytes, or of 1024 in some shells: enough for the small files, not for the weights.
    let line = "ulimit -f 16; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", line, env!("CARGO_BIN_EXE_handloom")])
        .args(["pretrain", "--resume", "run", "--max-steps", "10"])
        .current_dir(&folder.0)
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(3), "{}", said(&output));
    assert!(said(&output).contains("cannot write"), "{}", said(&output));
    assert_eq!(folder.newest("run"), Some(5), "what was saved before is whole");
    assert!(
        !std::fs::read_dir(folder.0.join("run/checkpoints")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("tmp-"))
    );
    let rest = folder.run(&["pretrain", "--resume", "run", "--max-steps", "10"]);
    assert_eq!(code(&rest), Some(0), "{}", said(&rest));
}

#[test]
fn a_closed_or_full_stdout_is_told_or_ignored() {
    let folder = with_text();
    let bash = |line: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", line, env!("CARGO_BIN_EXE_handloom")]).current_dir(&folder.0);
        command.output().unwrap()
    };
    let full = Path::new("/dev/full").exists();
    for arguments in ["info", "info --json", "--help", "tokenizer encode --help"] {
        let piped = bash(&format!("set -o pipefail; \"$0\" {arguments} | head -n 1 >/dev/null"));
        let closed = bash(&format!("\"$0\" {arguments} >&-"));
        for output in [piped, closed] {
            assert_eq!(code(&output), Some(0), "{arguments}: {}", said(&output));
            assert_eq!(said(&output), "", "{arguments}");
        }
        if full {
            let output = bash(&format!("\"$0\" {arguments} >/dev/full"));
            assert_eq!(code(&output), Some(3), "{arguments}: {}", said(&output));
            assert!(said(&output).contains("cannot write to stdout"), "{}", said(&output));
        }
    }
    // A run needs neither stdout nor stderr.
    let line = format!("exec \"$0\" {} >&- 2>&-", pretrain("run", "5").join(" "));
    assert_eq!(code(&bash(&line)), Some(0));
    assert_eq!(folder.newest("run"), Some(5));
}

/// A memory control group for a test, gone afterwards.
struct Group(PathBuf);

impl Group {
    /// A control group below the own one that may take `bytes`; `None` where they cannot be made.
    fn new(bytes: u64) -> Option<Group> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = |prefix: &str| {
            groups.lines().find_map(|line| line.split_once(prefix)).map(|(_, path)| path.to_owned())
        };
        let places = [
            (own(":memory:").map(|p| format!("/sys/fs/cgroup/memory{p}")), "memory.limit_in_bytes"),
            (own("0::").map(|p| format!("/sys/fs/cgroup{p}")), "memory.max"),
        ];
        places.into_iter().find_map(|(place, limit)| {
            let group = Path::new(&place?).join(format!("handloom-{}", std::process::id()));
            std::fs::create_dir(&group).ok()?;
            let group = Group(group);
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_starts() {
    let folder = with_text();
    let refused = |output: &Output| {
        assert_eq!(code(output), Some(2), "{}", said(output));
        for word in ["weights", "optimi", "activations", "--batch-size"] {
            assert!(said(output).contains(word), "no {word} in {}", said(output));
        }
        assert!(!folder.0.join("run").exists(), "nothing was begun");
    };
    let mut huge = pretrain("run", "5");
    let width = huge.iter().position(|arg| *arg == "16").unwrap();
    huge[width] = "1000000";
    refused(&folder.run(&huge));
    // The limit of a control group, where this test may set one: a model of 34 million weights.
    let Some(group) = Group::new(256 << 20) else {
        println!("no control group can be made here; its limits are read in train::memory's tests");
        return;
    };
    let mut large = pretrain("run", "5");
    large[width] = "1664";
    let line = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", group.0.display());
    let within = |args: &[&str]| {
        let program = ["-c", &line, env!("CARGO_BIN_EXE_handloom")];
        Command::new("sh").args(program).args(args).current_dir(&folder.0).output().unwrap()
    };
    refused(&within(&large));
    let small = within(&pretrain("run", "5"));
    assert_eq!(code(&small), Some(0), "{}", said(&small));
}
