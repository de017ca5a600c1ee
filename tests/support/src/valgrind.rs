//! Runs tests again under valgrind.

use std::process::Command;

use crate::skip;

/// Runs these tests of the current program under valgrind, which checks every memory access.
///
/// # Panics
/// When a test fails there, or valgrind reports an invalid access.
pub fn watch(tests: &[&str]) {
    let valgrind = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9"])
        .arg(std::env::current_exe().expect("a program"))
        .args(tests)
        .arg("--test-threads=1")
        .output();
    match valgrind {
        Err(_) => skip("valgrind, which watches memory at the plugin border, is not installed"),
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        }
    }
}
