//! Tests that cannot run on a machine. The test harness hides the output of tests that pass, so a skip is also written
//! to a file, which `cargo xtask test` reads at the end.

use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names this file. It has a line for each skipped test: the reason.
pub const SKIPPED: &str = "SPO_SKIPPED";

/// Prints to standard error that the current test is skipped, and why. Tests with the same reason are counted together,
/// so the reason says what is missing, and not for which test.
///
/// # Panics
/// When the file of skipped tests is named and cannot be written.
pub fn skip(reason: &str) {
    let test = std::thread::current();
    eprintln!("SKIPPED: {}: {reason}", test.name().unwrap_or("a test"));
    let Some(path) = std::env::var_os(SKIPPED) else { return };
    // Several tests may write at the same time. A single appending write is not interleaved with others.
    let line = format!("{reason}\n");
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
