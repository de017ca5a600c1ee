//! Developer commands: `cargo xtask test`, `cargo xtask libtorch`, `cargo xtask browser`, `cargo xtask table`.
#![forbid(unsafe_code)]

mod browser;
mod libtorch;
mod table;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test [ARGUMENTS]   every test of the workspace, in a release build, and those of the tch backend
                               where libtorch is set up; with arguments, which go to `cargo test`, of
                               the workspace only

cargo xtask libtorch           the tch backend: gets libtorch (530 MB, once), builds the plugin, and puts
                               both where spo-run finds them. LIBTORCH=FOLDER takes an unpacked
                               libtorch instead, LIBTORCH_USE_PYTORCH=1 Python's
cargo xtask libtorch COMMAND   a cargo command on the crate of the tch backend: `clippy`, `test`

cargo xtask browser            installs a headless Chromium from npm into target/browser and prints its
                               path: with SPO_BROWSER=PATH the tests open a report in it

cargo xtask table [--against STAGE] RUN...
                               held-out figures of equal recipes under several seeds: mean and 95%
                               confidence interval of every stage, or of its difference to STAGE,
                               in Markdown

SPO_SHARED=FOLDER names the folder of reference models and real data; without it the tests that need
it are skipped. The last lines of `cargo xtask test` count what was skipped, and say why.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("test") => {
            test::run(&arguments.collect::<Vec<_>>()).map_or_else(failure, |()| ExitCode::SUCCESS)
        }
        Some("libtorch") => {
            let command: Vec<_> = arguments.collect();
            let done = if command.is_empty() { libtorch::install() } else { libtorch::cargo(command) };
            done.map_or_else(failure, |()| ExitCode::SUCCESS)
        }
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

fn failure(message: String) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
