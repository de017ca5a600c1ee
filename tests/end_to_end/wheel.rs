//! `pip install`: the wheel that maturin builds, in a fresh virtual environment.

use std::path::PathBuf;
use std::process::Command;

use test_support::skip;

use crate::{place, project};

/// A program of Python's world: named by an environment variable, or on the path.
pub fn tool(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
    });
    if found.is_none() {
        skip(&format!("no {name}, on the path or named by {variable}"));
    }
    found
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_wheel_brings_the_program() {
    let Some(maturin) = tool("SPO_MATURIN", "maturin") else { return };
    let place = place();
    let (dist, fresh) = (place.path("dist"), place.path("fresh"));
    succeed(
        Command::new(maturin)
            .args(["build", "--release", "--locked", "--out"])
            .arg(&dist)
            .current_dir(project(".")),
    );
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&fresh));
    let install = ["install", "--quiet", "--no-index", "--find-links", dist.to_str().unwrap(), "spo-run"];
    succeed(Command::new(fresh.join("bin/pip")).args(install));
    let program = fresh.join("bin/spo-run");
    let version = succeed(Command::new(&program).arg("--version"));
    assert!(version.starts_with(&format!("spo-run {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
    let quickstart = project("recipes/quickstart.toml");
    succeed(Command::new(&program).arg("check").arg(quickstart).current_dir(place.path("")));
    let about = succeed(Command::new(fresh.join("bin/pip")).args(["show", "spo-run"]));
    assert!(about.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))), "{about}");
}
