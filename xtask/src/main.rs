//! Developer commands: `cargo xtask test`.
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask test [ARGUMENTS]   every test of the workspace, in a release build
                               (arguments go to `cargo test`)

SPO_SHARED=FOLDER makes the tests on reference models and real data run too; without it they say
that they are skipped.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("test") => test(arguments),
        _ => {
            eprint!("{HELP}");
            ExitCode::from(2)
        }
    }
}

/// Release, because the tests train models: the build is the one `cargo run --release` uses.
fn test(arguments: impl Iterator<Item = String>) -> ExitCode {
    match std::env::var("SPO_SHARED") {
        Ok(folder) => eprintln!("reference models and data: {folder}"),
        Err(_) => eprintln!("SPO_SHARED is not set: tests on reference models and real data will be SKIPPED"),
    }
    let status =
        Command::new(env!("CARGO")).args(["test", "--release", "--workspace"]).args(arguments).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot start cargo: {e}");
            ExitCode::FAILURE
        }
    }
}
