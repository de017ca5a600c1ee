//! Reference figures, and the models and data that they belong to.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::skip;

/// The folder of reference models and real data. Without one the test is skipped.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("SPO_SHARED").map(PathBuf::from);
    if folder.is_none() {
        skip("SPO_SHARED does not name the folder of reference models and data");
    }
    folder
}

/// A file of reference figures in `tests/goldens`.
///
/// # Panics
/// When there is no such file, or it is not JSON.
#[track_caller]
pub fn golden(name: &str) -> Value {
    json_of(&goldens().join(name))
}

/// The folder of reference figures.
pub(crate) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens")
}

/// The content of a JSON file.
#[track_caller]
pub(crate) fn json_of(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Asserts `|actual - expected| <= tolerance * max(1, |expected|)`.
///
/// # Panics
/// When it does not hold, or a value is no number.
#[track_caller]
pub fn close(what: &str, actual: &Value, expected: &Value, tolerance: f64) {
    let (a, e) = (number(what, actual), number(what, expected));
    assert!((a - e).abs() <= tolerance * e.abs().max(1.0), "{what}: {a}, expected {e}");
}

#[track_caller]
fn number(what: &str, value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{what}: {value} is not a number"))
}
