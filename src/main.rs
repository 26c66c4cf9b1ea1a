//! The `handloom` command: parses the command line and hands over.

fn main() -> std::process::ExitCode {
    handloom::cli::main()
}
