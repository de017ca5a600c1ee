//! Developer commands: `cargo xtask test`, `cargo xtask libtorch`, `cargo xtask man`, `cargo xtask browser`,
//! `cargo xtask table`, `cargo xtask figures`.
#![forbid(unsafe_code)]

mod browser;
mod figures;
mod libtorch;
mod table;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask test [ARGUMENTS]   runs every test of the workspace in a release build, and those of the tch backend
                               if libtorch is set up. ARGUMENTS go to `cargo test`; then only the
                               workspace is tested. The last lines count what was skipped, and say why

cargo xtask libtorch           sets up the tch backend: gets libtorch (530 MB, once), builds the plugin, and
                               installs both where spo-run finds them. LIBTORCH=FOLDER uses an unpacked
                               libtorch instead, LIBTORCH_USE_PYTORCH=1 that of Python
cargo xtask libtorch COMMAND   runs a cargo command on the crate of the tch backend: `clippy`, `test`

cargo xtask man [FOLDER]       writes the manual pages of spo-run, into target/man unless given

cargo xtask browser            installs a headless Chromium from npm into target/browser and prints its
                               path. With SPO_BROWSER=PATH, the tests open a report in it

cargo xtask table [--against STAGE] RUN...
                               prints a Markdown table of the held-out figures of one recipe under several
                               seeds: the mean and 95% confidence interval of every stage, or of its
                               difference to STAGE. Runs that differ in more than the seed are refused

cargo xtask figures [HEADING]  runs the commands of docs/spo/ and checks that every figure there is among what they
                               print. All of it takes hours; HEADING chooses sections, as in
                               `enumerable.md, The arms`. SPO_RUN names the
                               spo-run to use, by default target/release/spo-run, which is built first

SPO_SHARED=FOLDER names the folder of reference models and real data. Without it, the tests that need
it are skipped.
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
        Some("man") => man(arguments.next().as_deref()).map_or_else(failure, |()| ExitCode::SUCCESS),
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
        Some("figures") => match figures(&arguments.collect::<Vec<_>>().join(" ")) {
            Ok(told) => {
                print!("{told}");
                ExitCode::SUCCESS
            }
            Err(message) => failure(message),
        },
        _ => {
            eprint!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn figures(wanted: &str) -> Result<String, String> {
    if let Some(program) = std::env::var_os("SPO_RUN") {
        return figures::check(wanted, Path::new(&program));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--package", "spo-runtime"]);
    libtorch::succeed(cargo, "`cargo build` failed")?;
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    figures::check(wanted, &folder.join("release").join(format!("spo-run{}", std::env::consts::EXE_SUFFIX)))
}

fn failure(message: String) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

/// Writes the manual pages of `spo-run`. They need a feature that its default build does without.
fn man(folder: Option<&str>) -> Result<(), String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--release", "--package", "spo-runtime", "--features", "man", "--", "man"]);
    cargo.arg(folder.unwrap_or("target/man"));
    libtorch::succeed(cargo, "the manual pages were not written")
}
