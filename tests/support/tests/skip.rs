//! A skipped test says so on standard error, and in the file that `cargo xtask test` counts from.

use std::process::Command;

use test_support::{SKIPPED, shared};

#[test]
fn a_skipped_test_says_why_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("skipped");
    let run = |counted: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--nocapture", "a_test_that_needs_the_folder"]);
        command.env_remove("SPO_SHARED").env_remove(SKIPPED);
        if counted {
            command.env(SKIPPED, &file);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let reason = "SPO_SHARED does not name the folder of reference models and data";
    for counted in [false, true, true] {
        assert!(run(counted).contains(&format!("SKIPPED: a_test_that_needs_the_folder: {reason}\n")));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{reason}\n{reason}\n"));
}

#[test]
#[ignore = "the test above runs it without the folder"]
fn a_test_that_needs_the_folder() {
    assert!(shared().is_none());
}
