//! JSON as written by Python's `json.dumps`, which chat templates are written for.

use std::fmt::Write;

use super::arguments::Arguments;
use super::error::{Result, fail};
use super::strings::pad;
use super::text::float;
use super::value::{Value, check_size};
use super::{fuel, operators};

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`
pub(super) fn tojson(value: &Value, arguments: Arguments) -> Result<Value> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = arguments.take("tojson", parameters)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(other) => match other.as_int() {
            Some(width @ 0..=1000) => Some(pad("", width as usize, 0, ' ')),
            Some(_) => return fail("`indent` of `tojson` must be between 0 and 1000"),
            None => {
                return fail(format!("`indent` of `tojson` must be a whole number, not {}", other.kind()));
            }
        },
    };
    let (item, key) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match pair.iterate()?.as_slice() {
            [Value::Str(item), Value::Str(key)] => (item.to_string(), key.to_string()),
            _ => return fail("`separators` of `tojson` must be two strings"),
        },
    };
    let truth = |option: Option<Value>| option.is_some_and(|option| option.truth());
    let mut writer = Writer { out: String::new(), indent, item, key, sort: truth(sort), ascii: truth(ascii) };
    writer.value(value, 0)?;
    Ok(Value::str(writer.out))
}

struct Writer {
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
    ascii: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        fuel::spend(1 + fuel::weight(value))?;
        check_size(self.out.len() as u128)?;
        match value {
            Value::Str(text) | Value::Markup(text) => self.string(text),
            Value::List(items) | Value::Tuple(items) => self.items(&items.items, depth)?,
            Value::Group(group) => self.items(&[group.0.clone(), group.1.clone()], depth)?,
            Value::Dict(dict) => {
                let mut items: Vec<(Value, Value)> = dict.items.clone();
                if self.sort {
                    operators::sort(&mut items, false)?;
                }
                self.enclosed(["{", "}"], &items, depth, |writer, (key, value)| {
                    match scalar(key) {
                        Some(text) => writer.string(&text),
                        None => match key.as_str() {
                            Some(text) => writer.string(text),
                            None => return fail(format!("a key of JSON cannot be {}", key.kind())),
                        },
                    }
                    let separator = writer.key.clone();
                    writer.out.push_str(&separator);
                    writer.value(value, depth + 1)
                })?;
            }
            other => match scalar(other) {
                Some(text) => self.out.push_str(&text),
                None => return fail(format!("{} cannot be written as JSON", other.kind())),
            },
        }
        Ok(())
    }

    fn items(&mut self, items: &[Value], depth: usize) -> Result<()> {
        self.enclosed(["[", "]"], items, depth, |writer, item| writer.value(item, depth + 1))
    }

    fn enclosed<T>(
        &mut self,
        [open, close]: [&str; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<()>,
    ) -> Result<()> {
        self.out.push_str(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.newline(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.newline(depth);
        }
        self.out.push_str(close);
        Ok(())
    }

    fn newline(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A value that is neither text nor has items.
fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Huge(digits) => digits.to_string(),
        Value::Float(value) if value.is_nan() => "NaN".to_owned(),
        Value::Float(value) if value.is_infinite() => {
            if *value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
        }
        Value::Float(value) => float(*value),
        _ => return None,
    })
}
