//! `cargo xtask test`: runs every test, and says at the end how many were skipped and why.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use test_support::SKIPPED;

use crate::libtorch::{self, Libtorch};

/// Runs the tests in a release build, because they train models: it is the build that `cargo run --release` uses.
/// Arguments go to `cargo test`; without any, the tch backend is linted and tested too.
///
/// # Errors
/// When a test fails.
pub fn run(arguments: &[String]) -> Result<(), String> {
    if let Ok(folder) = std::env::var("SPO_SHARED") {
        eprintln!("reference models and data: {folder}");
    }
    let skipped = tempfile::NamedTempFile::new().map_err(|e| format!("cannot note skipped tests: {e}"))?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--release", "--workspace"]).args(arguments).env(SKIPPED, skipped.path());
    let mut passed = libtorch::succeed(cargo, "`cargo test` failed");
    let mut tch = None;
    if passed.is_ok() && arguments.is_empty() {
        match Libtorch::for_tests() {
            Ok(libtorch) => passed = libtorch.test(skipped.path()),
            Err(reason) => tch = Some(reason),
        }
    }
    let reasons = std::fs::read_to_string(skipped.path()).map_err(|e| format!("{SKIPPED}: {e}"))?;
    eprint!("\n{}", summary(&reasons, tch.as_deref()));
    passed
}

/// The number of skipped tests, and a line for each reason. `reasons` has a line for each skipped test, `tch` is the
/// reason why no test of the tch backend could run.
fn summary(reasons: &str, tch: Option<&str>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    reasons.lines().for_each(|reason| *counts.entry(reason).or_default() += 1);
    let all: usize = counts.values().sum();
    let mut out = match all {
        0 if tch.is_none() => return "no test was skipped\n".into(),
        0 => "SKIPPED:\n".to_owned(),
        1 => "SKIPPED: 1 test\n".to_owned(),
        _ => format!("SKIPPED: {all} tests\n"),
    };
    for (reason, count) in counts {
        let _ = writeln!(out, "  {count}: {reason}");
    }
    if let Some(reason) = tch {
        let _ = writeln!(out, "  every test of the tch backend: {reason}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_by_reason() {
        let reasons = "valgrind is not installed\nSPO_SHARED is not set\nvalgrind is not installed\n";
        let expected = "SKIPPED: 3 tests\n  1: SPO_SHARED is not set\n  2: valgrind is not installed\n";
        assert_eq!(summary(reasons, None), expected);
        let with_tch = format!("{expected}  every test of the tch backend: no libtorch\n");
        assert_eq!(summary(reasons, Some("no libtorch")), with_tch);
        assert_eq!(
            summary("", Some("no libtorch")),
            "SKIPPED:\n  every test of the tch backend: no libtorch\n"
        );
        assert_eq!(summary("one\n", None), "SKIPPED: 1 test\n  1: one\n");
        assert_eq!(summary("", None), "no test was skipped\n");
    }
}
