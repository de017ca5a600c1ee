//! Values as Python's `str` and `repr` write them.

use std::fmt::Write;

use super::error::{Error, Result, fail};
use super::fuel;
use super::machine::DEPTH;
use super::value::{Value, View, check_size};

/// Adds a part to a text that is made of many.
///
/// # Errors
/// When the text becomes too long.
pub(super) fn push(out: &mut String, part: &str) -> Result<()> {
    fuel::spend(1)?;
    fuel::spend_text(part.len())?;
    out.push_str(part);
    check_size(out.len() as u128)
}

/// `str(value)`, which is what `{{ value }}` prints.
///
/// # Errors
/// For values whose text in Python is an address in memory.
pub(super) fn display(value: &Value) -> Result<String> {
    match value {
        Value::Str(text) | Value::Markup(text) => {
            fuel::spend_text(text.len())?;
            Ok(text.to_string())
        }
        Value::Undefined(_) => Ok(String::new()),
        other => repr(other),
    }
}

/// `repr(value)`
///
/// # Errors
/// As [`display`].
pub(super) fn repr(value: &Value) -> Result<String> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<()> {
    // Lists and dicts are checked when they are made. A namespace can be given another one later.
    if depth > DEPTH {
        return fail(format!("values are nested deeper than {DEPTH} levels"));
    }
    fuel::spend(1 + fuel::weight(value))?;
    check_size(out.len() as u128)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
        Value::Int(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Huge(digits) => out.push_str(digits),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::Str(text) => quoted(out, text),
        Value::Markup(text) => {
            out.push_str("Markup(");
            quoted(out, text);
            out.push(')');
        }
        Value::List(list) => sequence(out, "[", &list.items, "]", depth)?,
        Value::Tuple(tuple) if tuple.items.len() == 1 => sequence(out, "(", &tuple.items, ",)", depth)?,
        Value::Tuple(tuple) => sequence(out, "(", &tuple.items, ")", depth)?,
        Value::Group(group) => sequence(out, "(", &[group.0.clone(), group.1.clone()], ")", depth)?,
        Value::Dict(dict) => {
            out.push('{');
            for (i, (key, value)) in dict.items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, value, depth + 1)?;
            }
            out.push('}');
        }
        Value::Range(range) => {
            let _ = match range.step {
                1 => write!(out, "range({}, {})", range.start, range.stop),
                step => write!(out, "range({}, {}, {step})", range.start, range.stop),
            };
        }
        Value::View(view, _) => {
            let name = match view {
                View::Keys => "dict_keys([",
                View::Values => "dict_values([",
                View::Items => "dict_items([",
            };
            sequence(out, name, &value.iterate()?, "])", depth)?;
        }
        Value::Namespace(fields) => {
            // Borrowed for change, so that a namespace within itself is noticed.
            let Ok(fields) = fields.try_borrow_mut() else {
                return Err(Error::unsupported("a namespace in itself"));
            };
            out.push_str("<Namespace ");
            write_repr(out, &Value::Dict(std::rc::Rc::new(fields.clone())), depth + 1)?;
            out.push('>');
        }
        Value::Loop(state) => {
            let _ = write!(out, "<LoopContext {}/{}>", state.index.get() + 1, state.items.len());
        }
        other => return Err(Error::unsupported(format!("{} as text", other.kind()))),
    }
    Ok(())
}

fn sequence(out: &mut String, open: &str, items: &[Value], close: &str, depth: usize) -> Result<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(out, item, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

/// A string in quotes: in single ones, unless it contains these and no double ones.
fn quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Whether Python prints a character as it is.
pub(super) fn printable(c: char) -> bool {
    // Rust escapes what Python escapes, and marks at the beginning of a text.
    let text: String = ['x', c].into_iter().collect();
    !text.escape_debug().collect::<String>().starts_with("x\\u")
        && (c == ' ' || !c.is_whitespace())
        && !c.is_control()
}

/// A float as `repr` writes it: the shortest digits that read back as the same number, with an exponent below
/// 1e-4 and from 1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    exponent(&format!("{x:e}"))
}

/// Rust's `1.5e-7` as Python's `1.5e-07`.
pub(super) fn exponent(scientific: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}
