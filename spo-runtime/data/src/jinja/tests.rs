//! Tests: `value is name`.

use super::arguments::{Arguments, required};
use super::ast::Comparison;
use super::error::{Result, fail};
use super::machine::compare;
use super::operators::{self, defined};
use super::value::Value;
use super::{filters, strings};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether a value passes a test.
///
/// # Errors
/// When there is no such test, or its arguments or the value do not fit.
pub(super) fn apply(name: &str, value: &Value, arguments: Arguments) -> Result<bool> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Eq),
        "!=" | "ne" => Some(Comparison::Ne),
        "<" | "lt" | "lessthan" => Some(Comparison::Lt),
        "<=" | "le" => Some(Comparison::Le),
        ">" | "gt" | "greaterthan" => Some(Comparison::Gt),
        ">=" | "ge" => Some(Comparison::Ge),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if comparison.is_some() || matches!(name, "divisibleby" | "sameas") {
        let [other] = arguments.take(name, ["/other"])?;
        let other = required(other, name, "other")?;
        return match comparison {
            Some(comparison) => compare(comparison, value, &other),
            None if name == "sameas" => Ok(operators::same(value, &other) || same_number(value, &other)),
            None => divisible(value, &other),
        };
    }
    if !NAMES.contains(&name) {
        return fail(format!("there is no test `{name}`"));
    }
    arguments.none(name)?;
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => matches!(value, Value::Markup(_)),
        "even" => divisible(value, &Value::Int(2))?,
        "odd" => remainder(value, &Value::Int(2))? == Some(1),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "filter" => value.as_str().is_some_and(filters::is_known),
        "test" => value.as_str().is_some_and(|name| NAMES.contains(&name)),
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_) | Value::Huge(_)),
        "number" => matches!(value, Value::Int(_) | Value::Huge(_) | Value::Float(_) | Value::Bool(_)),
        "iterable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::View(..)
                | Value::Generator(_)
                | Value::Group(_)
                | Value::Loop(_)
        ),
        // What has a length and can be subscripted.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Group(_)
        ),
        "mapping" => matches!(value, Value::Dict(_)),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_) | Value::Markup(_)),
        // Text that has letters of one case only; other values are turned into text.
        _ => {
            let text = super::text::display(value)?;
            let [mine, other]: [fn(char) -> bool; 2] = match name {
                "lower" => [char::is_lowercase, char::is_uppercase],
                _ => [char::is_uppercase, char::is_lowercase],
            };
            text.chars().any(mine) && !text.chars().any(|c| other(c) || (strings::is_cased(c) && !mine(c)))
        }
    })
}

fn divisible(value: &Value, by: &Value) -> Result<bool> {
    Ok(remainder(value, by)? == Some(0))
}

/// The remainder, if it is 0 or 1.
fn remainder(value: &Value, by: &Value) -> Result<Option<i128>> {
    defined(value)?;
    let rest = operators::binary(super::ast::Binary::Mod, value, by)?;
    Ok([0, 1].into_iter().find(|whole| operators::equal(&rest, &Value::Int(*whole))))
}

/// Python has every small whole number once.
fn same_number(a: &Value, b: &Value) -> bool {
    matches!((a, b), (Value::Int(a), Value::Int(b)) if a == b && (-5..=256).contains(a))
}
