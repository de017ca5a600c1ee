//! The figures of the fastest section of the documentation are those of this version. `cargo xtask figures` checks all.

use std::path::Path;
use std::process::Command;

use test_support::skip;

#[test]
fn the_fastest_figures_of_the_documentation_are_those_of_this_version() {
    let this = Path::new(env!("CARGO_BIN_EXE_xtask"));
    let spo_run = this.with_file_name(format!("spo-run{}", std::env::consts::EXE_SUFFIX));
    if !spo_run.exists() {
        return skip(
            "spo-run is not built: `cargo build --release`, or a test of the whole workspace, does it",
        );
    }
    let done = Command::new(this).args(["figures", "Two tasks"]).env("SPO_RUN", spo_run).output();
    let done = done.expect("xtask starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("figures, 0 differ"), "{done:?}");
}
