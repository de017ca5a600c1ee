//! What one rendering may use. A template comes with a model, from a stranger, and is a program.
//!
//! Every expression costs 1, and what it yields costs its size, so that neither loops nor lists that contain each
//! other many times over can take long. Rendering a conversation takes some thousand; all of it is used up in one
//! or two seconds.
//!
//! The count belongs to the thread, because most of what costs is far below the machine that runs a template.

use std::cell::Cell;

use super::error::{Result, fail};
use super::value::Value;

/// What a rendering begins with.
const FULL: usize = 10_000_000;

/// Bytes of text that cost as much as one expression.
const BYTES: usize = 32;

/// Items that cost as much as one expression.
const ITEMS: usize = 8;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Begins a rendering.
pub(super) fn fill() {
    LEFT.set(FULL);
}

/// # Errors
/// When nothing is left. Everything that is spent from then on is such an error too.
pub(super) fn spend(cost: usize) -> Result<()> {
    let left = LEFT.get().saturating_sub(cost);
    LEFT.set(left);
    match left {
        0 => fail("the template does not come to an end, or makes too much of the messages"),
        _ => Ok(()),
    }
}

/// Spends what text costs that is made or read.
///
/// # Errors
/// As [`spend`].
pub(super) fn spend_text(bytes: usize) -> Result<()> {
    spend(bytes / BYTES)
}

/// What it costs to yield a value.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Str(text) | Value::Markup(text) | Value::Huge(text) => text.len() / BYTES,
        Value::List(items) | Value::Tuple(items) => items.items.len() / ITEMS,
        Value::Dict(dict) | Value::View(_, dict) => dict.items.len() / ITEMS,
        Value::Generator(generator) => generator.left() / ITEMS,
        _ => 0,
    }
}
