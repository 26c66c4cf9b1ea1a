//! The command line: one file a subcommand.
//!
//! Each subcommand is a struct of flags and a `run`: it turns flags, file and `--set` into the
//! configuration that a room below takes ([`layers`]), calls that room and prints what comes back.
//! Results go to stdout, everything else to stderr ([`terminal`]); training reports through
//! [`console`]. No room below prints.

mod console;
mod flags;
mod format;
mod interrupt;
pub mod layers;
mod machine;
mod roofline;
mod svg;
pub mod terminal;
mod values;

mod bench;
mod demo;
mod evaluate;
mod finetune;
mod generate;
mod info;
mod predict;
mod pretrain;
mod report;
mod tokenizer;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::train::control::Control;
use crate::{Error, Result};
use terminal::Color;

/// A tensor engine woven by hand: from raw text to a pretrained, fine-tuned, generating model.
#[derive(Debug, Parser)]
#[command(name = "handloom", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// When to use colour [default: auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true)]
    #[arg(help_heading = "Output")]
    color: Option<Color>,
    /// Print results and errors only
    #[arg(long, short, global = true, help_heading = "Output")]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  handloom demo                            the whole way in a minute or two, no file needed
  handloom pretrain --train book.txt --out runs/book
  handloom generate --from runs/book --prompt \"It was\"

Exit codes: 0 done, 1 failed, 2 usage, 3 bad data or checkpoint, 4 bench regression, 5 diverged,
130 stopped by Ctrl-C (what was trained is saved).";

// One value in the life of the process: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Tokenizer(tokenizer::TokenizerCommand),
    Pretrain(pretrain::Pretrain),
    Finetune(finetune::Finetune),
    Evaluate(evaluate::Evaluate),
    Predict(predict::Predict),
    Generate(generate::Generate),
    Bench(bench::Bench),
    Info(info::Info),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Demo(command) => command.run(),
            Command::Tokenizer(command) => command.run(),
            Command::Pretrain(command) => command.run(),
            Command::Finetune(command) => command.run(),
            Command::Evaluate(command) => command.run(),
            Command::Predict(command) => command.run(),
            Command::Generate(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Info(command) => command.run(),
        }
    }
}

/// What a run is given by the command line: the console, and Ctrl-C.
fn control(console: &mut console::Console) -> Control<'_> {
    let mut control = Control::new(console);
    control.stop = interrupt::stop_flag();
    control
}

/// What the last panic said and where, for [`main`] to tell.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs the command line of this process and gives its exit code.
pub fn main() -> ExitCode {
    interrupt::let_large_writes_fail();
    let argv: Vec<OsString> = std::env::args_os().collect();
    // clap prints its own errors and help in colour, so it must know before it parses.
    let color = match argv.iter().position(|arg| arg == "--color") {
        Some(at) => argv.get(at + 1).and_then(|value| value.to_str()),
        None => argv.iter().find_map(|arg| arg.to_str()?.strip_prefix("--color=")),
    };
    let command = Cli::command().color(match color {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    });
    let cli = match command.try_get_matches_from(argv).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = error.exit_code() as u8;
            let printed = error.print().map_err(|why| terminal::unwritten(&why));
            return ExitCode::from(printed.map_or_else(|other| code.max(other), |()| code));
        }
    };
    terminal::set(cli.color.unwrap_or_default(), cli.quiet);

    // The last net. A panic is a bug, and says so in one line; libraries below that panic on purpose
    // and are caught there leave no trace on the screen.
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let said = (payload.downcast_ref::<&str>().copied())
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without words");
        let at =
            info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        let mut text = format!("{said}{at}");
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            text += &format!("\n{}", std::backtrace::Backtrace::force_capture());
        }
        if let Ok(mut last) = PANIC.lock() {
            *last = Some(text);
        }
    }));
    match std::panic::catch_unwind(|| cli.command.run()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            match &error {
                // Asked for, not a failure.
                Error::Interrupted(how) => terminal::always(how),
                error => terminal::error(error),
            }
            ExitCode::from(error.exit_code())
        }
        Err(_) => {
            let said = PANIC.lock().ok().and_then(|mut last| last.take()).unwrap_or_default();
            terminal::error(format_args!(
                "this is a bug in handloom, please report it with the command you typed: {said}"
            ));
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let name = command.get_name().to_owned();
            if name == "help" {
                return;
            }
            if command.has_subcommands() && name != "handloom" {
                command.get_subcommands_mut().for_each(|below| check(below, &path));
                return;
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains(path.trim()), "{path}: no example in\n{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 120, "{path}: a long line: {line}");
            }
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path}: --{} says nothing", arg.get_id());
            }
            command.get_subcommands_mut().for_each(|below| check(below, &path));
        }
        check(&mut Cli::command(), "");
    }
}
