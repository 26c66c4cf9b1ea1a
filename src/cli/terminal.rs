//! What is printed where: results on stdout, everything else on stderr.
//!
//! Colour only for a person: never into a pipe, never with `NO_COLOR` set, never on a terminal that
//! calls itself dumb. A reader that has gone away (`handloom info | head -1`) ends the program
//! quietly.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// `--color`: when to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Into pipes and files too.
    Always,
    /// Nowhere.
    Never,
}

/// 0 auto, 1 always, 2 never.
static COLOR: AtomicU8 = AtomicU8::new(0);
static QUIET: AtomicBool = AtomicBool::new(false);

/// Settles `--color` and `--quiet` for the process.
pub fn set(color: Color, quiet: bool) {
    COLOR.store(color as u8, Relaxed);
    QUIET.store(quiet, Relaxed);
}

/// Whether `--quiet` was given: nothing on stderr but errors.
pub fn quiet() -> bool {
    QUIET.load(Relaxed)
}

/// Whether stderr is a terminal on which a line can be drawn again.
pub fn live() -> bool {
    std::io::stderr().is_terminal() && !dumb()
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn colored(terminal: bool) -> bool {
    match COLOR.load(Relaxed) {
        1 => true,
        2 => false,
        _ => terminal && !dumb() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}

/// Which stream a style is for.
#[derive(Clone, Copy)]
pub enum To {
    /// Results.
    Stdout,
    /// Progress and errors.
    Stderr,
}

/// `text` in an ANSI style, where the stream shows colour.
fn paint(to: To, code: &str, text: impl Display) -> String {
    let terminal = match to {
        To::Stdout => std::io::stdout().is_terminal(),
        To::Stderr => std::io::stderr().is_terminal(),
    };
    if colored(terminal) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// Bold.
pub fn bold(to: To, text: impl Display) -> String {
    paint(to, "1", text)
}

/// Dim: labels, what the eye may pass over.
pub fn dim(to: To, text: impl Display) -> String {
    paint(to, "2", text)
}

/// Red: what went wrong.
pub fn red(to: To, text: impl Display) -> String {
    paint(to, "1;31", text)
}

/// Green: what went well.
pub fn green(to: To, text: impl Display) -> String {
    paint(to, "32", text)
}

/// Cyan: a command to type.
pub fn cyan(to: To, text: impl Display) -> String {
    paint(to, "36", text)
}

/// Black on one of six background colours, the `n`-th (counted round).
pub fn highlight(to: To, n: usize, text: impl Display) -> String {
    // Yellow, cyan, green, magenta, blue, red.
    let code = [43, 46, 42, 45, 44, 41][n % 6];
    paint(to, &format!("30;{code}"), text)
}

/// Whether the stream shows colour.
pub fn shows_color(to: To) -> bool {
    !paint(to, "0", "").is_empty()
}

/// The columns of the terminal on stderr; 100 where nobody knows.
pub fn width() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(100, |(w, _)| w.0 as usize)
}

/// Prints a line of results on stdout. Ends the process quietly when nobody reads any more, and with a
/// sentence and exit code 3 when the result cannot be written where it was sent (a full disk).
pub fn out(line: impl Display) {
    write_out(format_args!("{line}\n"));
}

/// Prints a piece of a result on stdout at once, without a line end (text as it is generated).
pub fn out_piece(piece: &str) {
    write_out(format_args!("{piece}"));
}

fn write_out(text: std::fmt::Arguments) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        std::process::exit(unwritten(&error).into());
    }
}

/// The exit code after stdout could not be written.
pub fn unwritten(why: &std::io::Error) -> u8 {
    if why.kind() == std::io::ErrorKind::BrokenPipe {
        return 0;
    }
    error(format_args!("cannot write to stdout: {why}"));
    3
}

/// Prints a line for the person at the keyboard on stderr, unless `--quiet`. A closed stderr is
/// nobody's error.
pub fn note(line: impl Display) {
    if !quiet() {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// Writes to stderr as it is, without a line end.
pub fn note_piece(piece: &str) {
    if !quiet() {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(piece.as_bytes()).and_then(|()| stderr.flush());
    }
}

/// Prints a line on stderr, `--quiet` or not.
pub fn always(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints `error: …` on stderr, `--quiet` or not.
pub fn error(message: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{} {message}", red(To::Stderr, "error:"));
}

/// Prints `warning: …` on stderr, unless `--quiet`.
pub fn warning(message: impl Display) {
    note(format_args!("{} {message}", paint(To::Stderr, "33", "warning:")));
}
