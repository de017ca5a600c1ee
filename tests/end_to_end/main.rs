//! Tests of `spo-run` as users run it: each test runs the binary in a temporary folder, and checks what it prints and
//! writes. They are one program, because linking takes longer than most tests.

#[macro_use]
mod recipes;

mod answers;
mod bad_input;
#[cfg(unix)]
mod browser;
mod budget;
mod cache;
mod clock;
mod columns;
mod commands;
mod data;
mod diagnostics;
mod early;
mod editors;
mod enumerable;
mod eval;
mod experts;
#[cfg(target_os = "linux")]
mod faults;
mod gguf;
mod hostile;
mod hub;
mod import;
mod limits;
mod models;
mod nonfinite;
mod optimizers;
mod ownership;
mod pickled;
#[cfg(target_os = "linux")]
mod plugins;
mod report;
mod resume;
mod sweep;
mod tensorboard;
mod training;
mod trl;
#[cfg(target_os = "linux")]
mod trust;
mod turns;
mod weights;
mod wheel;

use std::path::{Path, PathBuf};

use test_support::Place;

/// A new, empty folder in which `spo-run` is run.
fn place() -> Place {
    Place::new(env!("CARGO_BIN_EXE_spo-run"))
}

/// A file or folder of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
