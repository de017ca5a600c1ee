//! Attributes, subscripts and methods of values.

use std::collections::HashSet;
use std::rc::Rc;

use super::arguments::{Arguments, required, text, whole};
use super::error::{Error, Result, fail};
use super::machine::{Knot, Machine};
use super::operators::{defined, equal};
use super::strings::{self, is_space};
use super::value::{Value, View, check_size};
use super::{format, fuel};

const STR: [&str; 37] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
];
const MORE_STR: [&str; 5] = ["strip", "swapcase", "title", "upper", "zfill"];
const DICT: [&str; 5] = ["copy", "get", "items", "keys", "values"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const LOOP: [&str; 2] = ["changed", "cycle"];
const CYCLER: [&str; 2] = ["next", "reset"];

/// What Python has besides, by type.
const UNSUPPORTED: [(&str, &[&str]); 5] = [
    ("a string", &["encode", "format_map", "isidentifier", "maketrans", "translate"]),
    ("a dict", &["fromkeys"]),
    (
        "an int",
        &["as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes", "is_integer", "to_bytes"],
    ),
    ("a float", &["as_integer_ratio", "conjugate", "fromhex", "hex", "is_integer"]),
    ("a range", &["count", "index", "start", "step", "stop"]),
];

/// An attribute as Python has it; `None` if the value has none of this name.
fn own(value: &Value, name: &str) -> Result<Option<Value>> {
    let methods: &[&[&str]] = match value {
        Value::Str(_) | Value::Markup(_) => &[&STR, &MORE_STR],
        Value::Dict(_) => &[&DICT],
        Value::List(_) => &[&LIST],
        Value::Tuple(_) | Value::Group(_) => &[&TUPLE],
        Value::Loop(_) => &[&LOOP],
        Value::Cycler(_) => &[&CYCLER],
        _ => &[],
    };
    if methods.iter().any(|methods| methods.contains(&name)) {
        return Ok(Some(Value::Method(Rc::new((value.clone(), name.into())))));
    }
    let changing: &[&str] = match value {
        Value::List(_) => &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
        Value::Dict(_) => &["clear", "pop", "popitem", "setdefault", "update"],
        _ => &[],
    };
    if changing.contains(&name) {
        let reason = format!("`{name}` would change {}, which a template must not", value.kind());
        return Ok(Some(Value::undefined(reason)));
    }
    if UNSUPPORTED.iter().any(|(kind, names)| *kind == value.kind() && names.contains(&name)) {
        return Err(Error::unsupported(format!("`{name}` of {}", value.kind())));
    }
    let number = |n: usize| Some(Value::Int(n as i128));
    Ok(match (value, name) {
        (Value::Int(_) | Value::Huge(_) | Value::Float(_), "real") => Some(value.clone()),
        (Value::Bool(_), "real" | "numerator") => value.as_int().map(Value::Int),
        (Value::Int(_) | Value::Huge(_), "numerator") => Some(value.clone()),
        (Value::Int(_) | Value::Huge(_) | Value::Bool(_), "denominator") => number(1),
        (Value::Int(_) | Value::Huge(_) | Value::Bool(_), "imag") => number(0),
        (Value::Float(_), "imag") => Some(Value::Float(0.0)),
        (Value::Group(group), "grouper") => Some(group.0.clone()),
        (Value::Group(group), "list") => Some(group.1.clone()),
        (Value::Namespace(fields), name) => fields.borrow().text(name).cloned(),
        (Value::Cycler(cycler), "current") => Some(cycler.values[cycler.at.get()].clone()),
        (Value::Loop(state), name) => {
            let (index, length) = (state.index.get(), state.items.len());
            let neighbour = |item: Option<&Value>, which: &str| {
                Some(item.cloned().unwrap_or_else(|| Value::undefined(format!("there is no {which} item"))))
            };
            match name {
                "index" => number(index + 1),
                "index0" => number(index),
                "revindex" => number(length - index),
                "revindex0" => number(length - index - 1),
                "first" => Some(Value::Bool(index == 0)),
                "last" => Some(Value::Bool(index + 1 == length)),
                "length" => number(length),
                "depth" => number(state.depth + 1),
                "depth0" => number(state.depth),
                "previtem" => neighbour(index.checked_sub(1).and_then(|i| state.items.get(i)), "previous"),
                "nextitem" => neighbour(state.items.get(index + 1), "next"),
                _ => None,
            }
        }
        (Value::Macro(called), name) => match name {
            "name" => Some(Value::str(&*called.definition.name)),
            "arguments" => {
                let names = called.definition.parameters.iter().map(|(name, _)| Value::str(&**name));
                Some(Value::tuple(names.collect()))
            }
            "caller" => Some(Value::Bool(called.definition.mentions.caller)),
            "catch_kwargs" => Some(Value::Bool(called.definition.mentions.kwargs)),
            "catch_varargs" => Some(Value::Bool(called.definition.mentions.varargs)),
            _ => None,
        },
        (Value::Function("dict"), "fromkeys") => return Err(Error::unsupported("`dict.fromkeys`")),
        _ => None,
    })
}

/// `value.name`: an attribute, or else an item of this name.
///
/// # Errors
/// When the value is undefined, or the attribute is not supported.
pub(super) fn attribute(_: &Machine, value: &Value, name: &str) -> Result<Value> {
    defined(value)?;
    if !name.starts_with('_')
        && let Some(found) = own(value, name)?
    {
        return Ok(found);
    }
    Ok(match value {
        Value::Dict(dict) => dict.text(name).cloned(),
        _ => None,
    }
    .unwrap_or_else(|| Value::undefined(format!("{} has no attribute `{name}`", value.kind()))))
}

/// `value[key]`: an item, or else an attribute of this name.
///
/// # Errors
/// As [`attribute`].
pub(super) fn item(_: &Machine, value: &Value, key: &Value) -> Result<Value> {
    defined(value)?;
    let index = |length: usize| {
        let index = key.as_int()?;
        let index = if index < 0 { index + length as i128 } else { index };
        usize::try_from(index).ok().filter(|index| *index < length)
    };
    let found = match value {
        Value::Dict(dict) => dict.get(key).cloned(),
        Value::List(items) | Value::Tuple(items) => index(items.items.len()).map(|i| items.items[i].clone()),
        Value::Range(range) => index(range.len()).map(|i| range.item(i)),
        Value::Group(group) => index(2).map(|i| if i == 0 { group.0.clone() } else { group.1.clone() }),
        Value::Str(text) | Value::Markup(text) => key.as_int().and_then(|at| {
            let c = match usize::try_from(at) {
                Ok(at) => text.chars().nth(at),
                Err(_) => text.chars().rev().nth(usize::try_from(-at - 1).ok()?),
            };
            let c = c?.to_string();
            Some(if matches!(value, Value::Str(_)) { Value::str(c) } else { Value::Markup(c.into()) })
        }),
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    if let Some(name) = key.as_str()
        && !name.starts_with('_')
        && let Some(found) = own(value, name)?
    {
        return Ok(found);
    }
    let key = super::text::repr(key).unwrap_or_else(|_| key.kind().to_owned());
    Ok(Value::undefined(format!("{} has no item {key}", value.kind())))
}

/// Calls a method.
pub(super) fn call(machine: &Machine, of: &Value, name: &str, arguments: Arguments) -> Result<Value> {
    match of {
        Value::Str(text) => string(machine, text, name, arguments),
        Value::Markup(_) => Err(Error::unsupported(format!("`{name}` of text that is marked as safe"))),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = arguments.take("get", ["/key", "/default"])?;
                let key = required(key, "get", "key")?;
                Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
            }
            "copy" => arguments.none(name).map(|()| of.clone()),
            _ => {
                arguments.none(name)?;
                let view = match name {
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => View::Items,
                };
                Ok(Value::View(view, dict.clone()))
            }
        },
        Value::List(_) | Value::Tuple(_) | Value::Group(_) => {
            if name == "copy" {
                return arguments.none(name).map(|()| of.clone());
            }
            let [item] = arguments.take(name, ["/value"])?;
            let item = required(item, name, "value")?;
            let items = of.iterate()?;
            if name == "count" {
                return Ok(Value::Int(items.iter().filter(|other| equal(other, &item)).count() as i128));
            }
            match items.iter().position(|other| equal(other, &item)) {
                Some(at) => Ok(Value::Int(at as i128)),
                None => fail(format!("{} has no such item to find the index of", of.kind())),
            }
        }
        Value::Loop(state) => {
            if !arguments.named.is_empty() {
                return fail(format!("`loop.{name}` takes no arguments by name"));
            }
            let values = arguments.positional;
            if name == "cycle" {
                let at = state.index.get();
                return match values.len() {
                    0 => fail("`loop.cycle` needs values"),
                    n => Ok(values[at % n].clone()),
                };
            }
            machine.tie(Knot::Loop(state.clone()));
            let new = Value::tuple(values.clone());
            let old = state.seen.replace(Some(values));
            Ok(Value::Bool(!old.is_some_and(|old| equal(&Value::tuple(old), &new))))
        }
        Value::Cycler(cycler) => {
            arguments.none(name)?;
            let at = cycler.at.get();
            if name == "reset" {
                cycler.at.set(0);
                return Ok(Value::None);
            }
            cycler.at.set((at + 1) % cycler.values.len());
            Ok(cycler.values[at].clone())
        }
        other => fail(format!("{} has no method `{name}`", other.kind())),
    }
}

/// A method of a string.
fn string(machine: &Machine, of: &Rc<str>, name: &str, arguments: Arguments) -> Result<Value> {
    let of: &str = of;
    let yes = |answer: bool| Ok(Value::Bool(answer));
    let new = |text: String| Ok(Value::str(text));
    let int = |value: Option<usize>| Value::Int(value.map_or(-1, |value| value as i128));
    // Methods without arguments.
    let simple = match name {
        "upper" => Some(new(of.to_uppercase())),
        "lower" => Some(new(of.to_lowercase())),
        "casefold" if of.is_ascii() => Some(new(of.to_lowercase())),
        "casefold" => Some(Err(Error::unsupported("`casefold` of letters outside of ASCII"))),
        "capitalize" => Some(new(strings::capitalized(of))),
        "title" => Some(new(strings::titled(of))),
        "swapcase" => Some(new(strings::swapped_case(of))),
        "isalpha" => Some(strings::all(of, name, char::is_alphabetic).map(Value::Bool)),
        "isalnum" => Some(strings::all(of, name, char::is_alphanumeric).map(Value::Bool)),
        "isdigit" | "isnumeric" | "isdecimal" => {
            Some(strings::all(of, name, |c| c.is_ascii_digit()).map(Value::Bool))
        }
        "isspace" => Some(yes(!of.is_empty() && of.chars().all(is_space))),
        "isascii" => Some(yes(of.is_ascii())),
        "isprintable" => Some(yes(format::all_printable(of))),
        "islower" => Some(yes(of.chars().any(char::is_lowercase) && !of.chars().any(char::is_uppercase))),
        "isupper" => Some(yes(of.chars().any(char::is_uppercase) && !of.chars().any(char::is_lowercase))),
        "istitle" => Some(yes(of.chars().any(strings::is_cased) && strings::titled(of) == of)),
        _ => None,
    };
    if let Some(simple) = simple {
        arguments.none(name)?;
        return simple;
    }
    match name {
        "format" => new(format::str_format(machine, of, &arguments)?),
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments.take(name, ["/chars"])?;
            let characters = match &characters {
                None | Some(Value::None) => None,
                Some(characters) => Some(text(characters, name)?),
            };
            new(stripped(of, name, characters.as_deref()).to_owned())
        }
        "join" => {
            let [items] = arguments.take(name, ["/iterable"])?;
            let items = required(items, name, "iterable")?.iterate()?;
            let items: Vec<Rc<str>> = items.iter().map(|item| text(item, name)).collect::<Result<_>>()?;
            check_size(items.iter().map(|item| (item.len() + of.len()) as u128).sum())?;
            new(items.join(of))
        }
        "replace" => {
            let [old, replacement, count] = arguments.take(name, ["/old", "/new", "count"])?;
            let old = text(&required(old, name, "old")?, name)?;
            let replacement = text(&required(replacement, name, "new")?, name)?;
            let count = count.map_or(Ok(-1), |count| whole(&count, name))?;
            new(replaced(of, &old, &replacement, count)?)
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments.take(name, ["sep", "maxsplit"])?;
            let limit = limit.map_or(Ok(-1), |limit| whole(&limit, name))?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let separator = match &separator {
                None | Some(Value::None) => None,
                Some(separator) => Some(text(separator, name)?),
            };
            if separator.as_deref() == Some("") {
                return fail(format!("`{name}` needs a separator that is not empty"));
            }
            let parts = split(of, separator.as_deref(), limit, name == "rsplit");
            Ok(Value::list(parts.into_iter().map(Value::str).collect()))
        }
        "splitlines" => {
            let [keep] = arguments.take(name, ["keepends"])?;
            let lines = strings::lines(of, keep.is_some_and(|keep| keep.truth()));
            Ok(Value::list(lines.into_iter().map(Value::str).collect()))
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.take(name, ["/sep"])?;
            let separator = text(&required(separator, name, "sep")?, name)?;
            if separator.is_empty() {
                return fail(format!("`{name}` needs a separator that is not empty"));
            }
            let last = name == "rpartition";
            let found = if last { of.rsplit_once(&*separator) } else { of.split_once(&*separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if last => ["", "", of],
                None => [of, "", ""],
            };
            Ok(Value::tuple(parts.into_iter().map(Value::str).collect()))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = arguments.take(name, ["/part"])?;
            let part = text(&required(part, name, "part")?, name)?;
            let rest = if name == "removeprefix" { of.strip_prefix(&*part) } else { of.strip_suffix(&*part) };
            new(rest.unwrap_or(of).to_owned())
        }
        "startswith" | "endswith" => {
            let [part, start, end] = arguments.take(name, ["/part", "/start", "/end"])?;
            let part = required(part, name, "part")?;
            let Some((of, _)) = window(of, [start, end], name)? else { return yes(false) };
            let parts = match &part {
                Value::Tuple(parts) => parts.items.clone(),
                part => vec![part.clone()],
            };
            for part in parts {
                let part = text(&part, name)?;
                if if name == "startswith" { of.starts_with(&*part) } else { of.ends_with(&*part) } {
                    return yes(true);
                }
            }
            yes(false)
        }
        "find" | "index" | "rfind" | "rindex" | "count" => {
            let [part, start, end] = arguments.take(name, ["/sub", "/start", "/end"])?;
            let part = text(&required(part, name, "sub")?, name)?;
            let within = window(of, [start, end], name)?;
            if name == "count" {
                let count = within.map_or(0, |(within, _)| match part.is_empty() {
                    true => within.chars().count() + 1,
                    false => within.matches(&*part).count(),
                });
                return Ok(Value::Int(count as i128));
            }
            let found = within.and_then(|(within, before)| {
                let at = if name.starts_with('r') { within.rfind(&*part) } else { within.find(&*part) };
                at.map(|at| before + strings::characters_before(within, at))
            });
            match (found, name) {
                (None, "index" | "rindex") => fail(format!("`{name}` has not found {part:?} in the string")),
                (found, _) => Ok(int(found)),
            }
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = arguments.take(name, ["/width", "/fillchar"])?;
            let width = whole(&required(width, name, "width")?, name)?.max(0) as u128;
            check_size(width)?;
            let fill = fill.map_or(Ok(" ".into()), |fill| text(&fill, name))?;
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return fail(format!("`{name}` needs one character to fill with"));
            };
            let width = width as usize;
            let padding = width.saturating_sub(of.chars().count());
            new(match name {
                "center" => strings::centered(of, width, fill),
                "ljust" => strings::pad(of, 0, padding, fill),
                _ => strings::pad(of, padding, 0, fill),
            })
        }
        "zfill" => {
            let [width] = arguments.take(name, ["/width"])?;
            let width = whole(&required(width, name, "width")?, name)?.max(0) as u128;
            check_size(width)?;
            let padding = (width as usize).saturating_sub(of.chars().count());
            let digits = of.trim_start_matches(['+', '-']);
            let signs = of.len() - digits.len();
            let (sign, digits) = of.split_at(signs.min(1));
            new(format!("{sign}{}", strings::pad(digits, padding, 0, '0')))
        }
        "expandtabs" => {
            let [size] = arguments.take(name, ["tabsize"])?;
            let size = size.map_or(Ok(8), |size| whole(&size, name))?.clamp(0, 1000) as usize;
            let (mut out, mut column) = (String::new(), 0);
            for c in of.chars() {
                match c {
                    '\t' if size > 0 => {
                        let more = size - column % size;
                        out.extend(std::iter::repeat_n(' ', more));
                        column += more;
                    }
                    '\t' => {}
                    '\n' | '\r' => {
                        out.push(c);
                        column = 0;
                    }
                    c => {
                        out.push(c);
                        column += 1;
                    }
                }
            }
            new(out)
        }
        other => fail(format!("a string has no method `{other}`")),
    }
}

/// `strip`, `lstrip` and `rstrip`.
pub(super) fn stripped<'a>(text: &'a str, method: &str, characters: Option<&str>) -> &'a str {
    let characters: Option<HashSet<char>> = characters.map(|characters| characters.chars().collect());
    let strip =
        |c: char| characters.as_ref().map_or_else(|| is_space(c), |characters| characters.contains(&c));
    match method {
        "lstrip" => text.trim_start_matches(strip),
        "rstrip" => text.trim_end_matches(strip),
        _ => text.trim_matches(strip),
    }
}

/// `str.replace`; a negative count replaces all.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: i128) -> Result<String> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    check_size(places.min(count) as u128 * new.len() as u128 + text.len() as u128)?;
    Ok(text.replacen(old, new, count))
}

/// `str.split` and `str.rsplit`.
fn split<'a>(text: &'a str, separator: Option<&str>, limit: usize, from_end: bool) -> Vec<&'a str> {
    let Some(separator) = separator else { return words(text, limit, from_end) };
    let limit = limit.saturating_add(1);
    if !from_end {
        return text.splitn(limit, separator).collect();
    }
    let mut parts: Vec<_> = text.rsplitn(limit, separator).collect();
    parts.reverse();
    parts
}

/// Words between white space; with a limit, the last one is the rest of the text.
fn words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    // The white space at the outer end is only taken away if no limit stops the search.
    let mut rest = if from_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() && parts.len() < limit {
        let at = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = at else { break };
        if from_end {
            let width = rest[at..].chars().next().map_or(1, char::len_utf8);
            parts.push(&rest[at + width..]);
            rest = rest[..at].trim_end_matches(is_space);
        } else {
            parts.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(is_space);
        }
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// The part of a text between two positions, and how many characters are before it. `None` if it begins after
/// the end of the text.
fn window<'a>(text: &'a str, bounds: [Option<Value>; 2], method: &str) -> Result<Option<(&'a str, usize)>> {
    let [start, end] = bounds.map(|bound| match bound {
        None | Some(Value::None) => Ok(None),
        Some(bound) => whole(&bound, method).map(Some),
    });
    let (start, end) = (start?, end?);
    if start.is_none() && end.is_none() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count() as i128;
    let place = |bound: i128| if bound < 0 { (bound + length).max(0) } else { bound };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)).min(length));
    if start > length || start > end {
        return Ok(None);
    }
    let byte = |at: i128| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((&text[byte(start)..byte(end)], start as usize)))
}

/// The value of a path such as `function.name` or `content.0`, as filters take it.
pub(super) fn path(machine: &Machine, value: &Value, path: &str) -> Result<Value> {
    let mut value = value.clone();
    for part in path.split('.') {
        let key = match part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            true => Value::Int(part.parse().map_err(|_| Error::new(format!("`{part}` is too large")))?),
            false => Value::str(part),
        };
        fuel::spend(1)?;
        value = item(machine, &value, &key)?;
    }
    Ok(value)
}
