//! Developer commands: `cargo xtask test`, `cargo xtask browser`, `cargo xtask table`.
#![forbid(unsafe_code)]

mod browser;
mod table;

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask test [ARGUMENTS]   every test of the workspace, in a release build
                               (arguments go to `cargo test`)

cargo xtask browser            installs a headless Chromium from npm into target/browser and prints its
                               path: with SPO_BROWSER=PATH the tests open a report in it

cargo xtask table [--against STAGE] RUN...
                               held-out figures of equal recipes under several seeds: mean and 95%
                               confidence interval of every stage, or of its difference to STAGE,
                               in Markdown

SPO_SHARED=FOLDER makes the tests on reference models and real data run too; without it they say
that they are skipped.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("test") => test(arguments),
        Some("browser") => match browser::install() {
            Ok(program) => {
                println!("{}", program.display());
                ExitCode::SUCCESS
            }
            Err(message) => {
                eprintln!("SKIPPED: no browser to open a report in: {message}");
                ExitCode::FAILURE
            }
        },
        Some("table") => match table::table(&arguments.collect::<Vec<_>>()) {
            Ok(table) => {
                print!("{table}");
                ExitCode::SUCCESS
            }
            Err(message) => {
                eprintln!("error: {message}");
                ExitCode::from(2)
            }
        },
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
