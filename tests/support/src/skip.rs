//! Tests that cannot run on a machine. The test harness shows nothing of a test that passes, so a skip also goes
//! into a file, which `cargo xtask test` reads at the end.

use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file: a line for each skipped test, with the reason.
pub const SKIPPED: &str = "SPO_SKIPPED";

/// Says on standard error that the current test is skipped, and why. The reason names what is missing, in the same
/// words for every test that misses it: they are counted together.
///
/// # Panics
/// When the file of skipped tests is named and cannot be written.
pub fn skip(reason: &str) {
    let test = std::thread::current();
    eprintln!("SKIPPED: {}: {reason}", test.name().unwrap_or("a test"));
    let Some(path) = std::env::var_os(SKIPPED) else { return };
    // Tests of several programs write here at a time: one write that appends is whole.
    let line = format!("{reason}\n");
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
