//! Filters: `value | name(...)`.

use std::rc::Rc;

use super::arguments::{Arguments, required, text, whole};
use super::ast::Binary;
use super::attributes::{path, replaced, stripped};
use super::error::{Error, Result, fail};
use super::format::{printf, truncated};
use super::machine::Machine;
use super::operators::{self, binary, compare, defined, equal};
use super::strings::{self, is_space};
use super::text::{display, push};
use super::value::{Dict, Value, View, check_size};
use super::{attributes, fuel, json, tests};

const NAMES: [&str; 49] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "xmlattr",
];
const UNSUPPORTED: [&str; 5] = ["pprint", "random", "striptags", "urlize", "wordwrap"];

/// Filters whose result is marked as safe if what they are given is.
const KEEP_MARK: [&str; 3] = ["lower", "trim", "upper"];
/// Filters that make no difference between text that is marked as safe and other text.
const IGNORE_MARK: [&str; 20] = [
    "attr",
    "count",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "int",
    "join",
    "last",
    "length",
    "list",
    "map",
    "safe",
    "select",
    "string",
    "tojson",
    "urlencode",
];

pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || UNSUPPORTED.contains(&name)
}

/// Applies a filter.
///
/// # Errors
/// When there is no such filter, it is not supported, or its arguments or the value do not fit.
pub(super) fn apply(machine: &Machine, name: &str, value: Value, arguments: Arguments) -> Result<Value> {
    fuel::spend(arguments.positional.len() + fuel::weight(&value))?;
    // `map` applies filters itself.
    machine.deeper(|| applied(machine, name, value, arguments))
}

fn applied(machine: &Machine, name: &str, value: Value, arguments: Arguments) -> Result<Value> {
    if UNSUPPORTED.contains(&name) {
        return Err(Error::unsupported(format!("the filter `{name}` of Jinja")));
    }
    if !NAMES.contains(&name) {
        return fail(format!("there is no filter `{name}`"));
    }
    if let Value::Markup(text) = &value {
        if KEEP_MARK.contains(&name) && arguments.positional.is_empty() {
            let changed = of_text(name, text, arguments)?;
            return Ok(Value::Markup(display(&changed)?.into()));
        }
        if !IGNORE_MARK.contains(&name) {
            return Err(Error::unsupported(format!("the filter `{name}` of text that is marked as safe")));
        }
    }
    match name {
        // These take nothing but text, the others make text of what they are given.
        "indent" | "truncate" => of_text(name, &text(&value, name)?, arguments),
        "capitalize" | "center" | "lower" | "replace" | "title" | "trim" | "upper" | "format" => {
            of_text(name, &display(&value)?, arguments)
        }
        "batch" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list" | "map" | "max"
        | "min" | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice" | "sort"
        | "sum" | "unique" => of_items(machine, name, &value, arguments),
        "tojson" => json::tojson(&value, arguments),
        "d" | "default" => {
            let [other, falsy] = arguments.take(name, ["default_value", "boolean"])?;
            let replace =
                value.is_undefined() || (falsy.is_some_and(|falsy| falsy.truth()) && !value.truth());
            Ok(if replace { other.unwrap_or_else(|| Value::str("")) } else { value })
        }
        "attr" => {
            let [attribute] = arguments.take(name, ["name"])?;
            let attribute = text(&required(attribute, name, "name")?, name)?;
            // Attributes only, not items.
            match value {
                Value::Dict(_)
                    if attributes::item(machine, &Value::Dict(Rc::default()), &Value::str(&*attribute))?
                        .is_undefined() =>
                {
                    Ok(Value::undefined(format!("a dict has no attribute `{attribute}`")))
                }
                value => attributes::attribute(machine, &value, &attribute),
            }
        }
        "filesizeformat" => filesize(&value, arguments),
        "float" => float(&value, arguments),
        "int" => int(&value, arguments),
        "round" => round(&value, arguments),
        "wordcount" => {
            arguments.none(name)?;
            let text = display(&value)?;
            let words =
                text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
        "xmlattr" => {
            let [space] = arguments.take(name, ["autospace"])?;
            xml_attributes(&value, space.is_none_or(|space| space.truth())).map(Value::str)
        }
        "urlencode" => {
            arguments.none(name)?;
            urlencode(&value).map(Value::str)
        }
        _ => {
            arguments.none(name)?;
            match name {
                "abs" => match &value {
                    Value::Float(x) => Ok(Value::Float(x.abs())),
                    Value::Huge(digits) => Ok(Value::Huge(digits.trim_start_matches('-').into())),
                    Value::Int(x) if *x > i128::MIN => Ok(Value::Int(x.abs())),
                    Value::Bool(x) => Ok(Value::Int(i128::from(*x))),
                    other => {
                        defined(other)?;
                        fail(format!("`abs` needs a number, not {}", other.kind()))
                    }
                },
                "count" | "length" => value.len().map(|length| Value::Int(length as i128)),
                "string" => match value {
                    Value::Markup(_) => Ok(value),
                    value => display(&value).map(Value::str),
                },
                "safe" => Ok(Value::Markup(display(&value)?.into())),
                "e" | "escape" if matches!(value, Value::Markup(_)) => Ok(value),
                "e" | "escape" | "forceescape" => {
                    Ok(Value::Markup(strings::escape(&display(&value)?).into()))
                }
                other => fail(format!("there is no filter `{other}`")),
            }
        }
    }
}

/// A filter of text.
fn of_text(name: &str, of: &str, mut arguments: Arguments) -> Result<Value> {
    let new = |text: String| Ok(Value::str(text));
    match name {
        "capitalize" | "lower" | "upper" | "title" => {
            arguments.none(name)?;
            new(match name {
                "capitalize" => strings::capitalized(of),
                "lower" => of.to_lowercase(),
                "upper" => of.to_uppercase(),
                _ => title(of),
            })
        }
        "format" => {
            let named = std::mem::take(&mut arguments.named);
            if named.is_empty() {
                return printf(of, &Value::tuple(arguments.positional)).map(Value::str);
            }
            if !arguments.positional.is_empty() {
                return fail("`format` takes arguments with names or without, not both");
            }
            let mut dict = Dict::default();
            for (name, value) in named {
                dict.insert(Value::str(name), value)?;
            }
            printf(of, &Value::Dict(Rc::new(dict))).map(Value::str)
        }
        "trim" => {
            let [characters] = arguments.take(name, ["chars"])?;
            let characters = match &characters {
                None | Some(Value::None) => None,
                Some(characters) => Some(text(characters, name)?),
            };
            new(stripped(of, "strip", characters.as_deref()).to_owned())
        }
        "replace" => {
            let [old, replacement, count] = arguments.take(name, ["old", "new", "count"])?;
            let old = display(&required(old, name, "old")?)?;
            let replacement = display(&required(replacement, name, "new")?)?;
            let count = match &count {
                None | Some(Value::None) => -1,
                Some(count) => whole(count, name)?,
            };
            new(replaced(of, &old, &replacement, count)?)
        }
        "center" => {
            let [width] = arguments.take(name, ["width"])?;
            let width = width.map_or(Ok(80), |width| whole(&width, name))?.max(0) as u128;
            check_size(width)?;
            new(strings::centered(of, width as usize, ' '))
        }
        "indent" => {
            let [width, first, blank] = arguments.take(name, ["width", "first", "blank"])?;
            let width = match width {
                None => "    ".to_owned(),
                Some(Value::Str(text)) => text.to_string(),
                Some(width) => match whole(&width, name)? {
                    width @ ..=1000 => strings::pad("", width.max(0) as usize, 0, ' '),
                    _ => return fail("`indent` of more than 1000 blanks"),
                },
            };
            let truth = |option: Option<Value>| option.is_some_and(|option| option.truth());
            check_size(
                (1 + strings::lines(of, false).len()) as u128 * width.len() as u128 + of.len() as u128,
            )?;
            new(indented(of, &width, truth(first), truth(blank)))
        }
        _ => {
            let [length, kill, end, leeway] =
                arguments.take(name, ["length", "killwords", "end", "leeway"])?;
            let length = length.map_or(Ok(255), |length| whole(&length, name))?;
            let leeway = match &leeway {
                None | Some(Value::None) => 5,
                Some(leeway) => whole(leeway, name)?,
            };
            let end = end.map_or(Ok("...".into()), |end| text(&end, name))?;
            let room = length - end.chars().count() as i128;
            if room < 0 || leeway < 0 {
                return fail("`truncate` needs a length of at least that of its end, and a leeway from 0");
            }
            if of.chars().count() as i128 <= length + leeway {
                return new(of.to_owned());
            }
            let cut: String = of.chars().take(room as usize).collect();
            if kill.is_some_and(|kill| kill.truth()) {
                return new(cut + &end);
            }
            let word = cut.rfind(' ').map_or(&*cut, |at| &cut[..at]);
            new(format!("{word}{end}"))
        }
    }
}

/// Words after blanks, hyphens and opening brackets with a capital letter.
fn title(of: &str) -> String {
    let mut out = String::new();
    let mut begins = true;
    for c in of.chars() {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = is_space(c) || "-({[<".contains(c);
    }
    out
}

fn indented(of: &str, width: &str, first: bool, blank: bool) -> String {
    // A line break at the end is a last line that is empty.
    let of = format!("{of}\n");
    let lines = strings::lines(&of, false);
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            out.push_str(width);
        }
        out.push_str(line);
    }
    out
}

/// How items are told apart: by themselves or an attribute, texts without regard to case.
struct Key {
    attributes: Option<Vec<String>>,
    case_sensitive: bool,
}

impl Key {
    fn new(attribute: Option<Value>, case_sensitive: Option<Value>) -> Result<Self> {
        let attributes = match attribute {
            None | Some(Value::None) => None,
            Some(Value::Int(index)) => Some(vec![index.to_string()]),
            Some(attribute) => Some(vec![text(&attribute, "attribute")?.to_string()]),
        };
        Ok(Key { attributes, case_sensitive: case_sensitive.is_some_and(|yes| yes.truth()) })
    }

    fn of(&self, machine: &Machine, item: &Value) -> Result<Value> {
        let fold = |value: Value| match (&value, self.case_sensitive) {
            (Value::Str(text), false) => Value::str(text.to_lowercase()),
            _ => value,
        };
        match self.attributes.as_deref() {
            None => Ok(fold(item.clone())),
            Some([attribute]) => Ok(fold(path(machine, item, attribute)?)),
            Some(attributes) => {
                let values = attributes.iter().map(|attribute| path(machine, item, attribute).map(fold));
                Ok(Value::list(values.collect::<Result<_>>()?))
            }
        }
    }
}

/// A filter of the items of a value.
fn of_items(machine: &Machine, name: &str, value: &Value, mut arguments: Arguments) -> Result<Value> {
    match name {
        "dictsort" => {
            let [sensitive, by, reverse] = arguments.take(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = value else {
                return fail(format!("`dictsort` needs a dict, not {}", value.kind()));
            };
            let by_value = match by.as_ref().map(Value::as_str) {
                None | Some(Some("key")) => false,
                Some(Some("value")) => true,
                _ => return fail("`by` of `dictsort` must be \"key\" or \"value\""),
            };
            let key = Key::new(None, sensitive)?;
            let mut items = Vec::new();
            for (k, v) in &dict.items {
                items.push((
                    key.of(machine, if by_value { v } else { k })?,
                    Value::tuple(vec![k.clone(), v.clone()]),
                ));
            }
            operators::sort(&mut items, reverse.is_some_and(|reverse| reverse.truth()))?;
            return Ok(Value::list(items.into_iter().map(|(_, item)| item).collect()));
        }
        "items" => {
            arguments.none(name)?;
            return match value {
                Value::Undefined(_) => Ok(Value::generator(Vec::new())),
                Value::Dict(dict) => Value::View(View::Items, dict.clone()).iterate().map(Value::generator),
                other => fail(format!("`items` needs a dict, not {}", other.kind())),
            };
        }
        "map" | "reject" | "rejectattr" | "select" | "selectattr" => {
            return mapped(machine, name, value, arguments);
        }
        "first" | "last" if matches!(value, Value::Generator(_)) && name == "last" => {
            return fail("`last` needs a list: a generator cannot be reversed");
        }
        "first" if matches!(value, Value::Generator(_)) => {
            arguments.none(name)?;
            let Value::Generator(items) = value else { return fail("not a generator") };
            let first = items.items.borrow_mut().next();
            return Ok(first.unwrap_or_else(|| Value::undefined("there is no first item")));
        }
        "reverse" => {
            arguments.none(name)?;
            if let Value::Str(text) = value {
                return Ok(Value::str(text.chars().rev().collect::<String>()));
            }
            let mut items = value.iterate()?;
            items.reverse();
            return Ok(Value::generator(items));
        }
        _ => {}
    }
    let items = value.iterate()?;
    match name {
        "first" | "last" => {
            arguments.none(name)?;
            let item = if name == "first" { items.into_iter().next() } else { items.into_iter().next_back() };
            Ok(item.unwrap_or_else(|| Value::undefined(format!("there is no {name} item"))))
        }
        "list" => arguments.none(name).map(|()| Value::list(items)),
        "batch" => {
            let [size, fill] = arguments.take(name, ["linecount", "fill_with"])?;
            let size = whole(&required(size, name, "linecount")?, name)?;
            let Ok(size @ 1..) = usize::try_from(size) else { return fail("`batch` needs a size from 1") };
            check_size(size as u128)?;
            let mut batches: Vec<Vec<Value>> = items.chunks(size).map(<[Value]>::to_vec).collect();
            if let (Some(fill), Some(last)) =
                (fill.filter(|fill| !matches!(fill, Value::None)), batches.last_mut())
            {
                last.resize(size, fill);
            }
            Ok(Value::generator(batches.into_iter().map(Value::list).collect()))
        }
        "slice" => {
            let [slices, fill] = arguments.take(name, ["slices", "fill_with"])?;
            let slices = whole(&required(slices, name, "slices")?, name)?;
            let Ok(slices @ 1..=100_000) = usize::try_from(slices) else {
                return fail("`slice` needs a number from 1");
            };
            let (size, larger) = (items.len() / slices, items.len() % slices);
            let mut parts = Vec::new();
            let mut rest = items.into_iter();
            for i in 0..slices {
                let mut part: Vec<Value> = rest.by_ref().take(size + usize::from(i < larger)).collect();
                if let Some(fill) =
                    fill.as_ref().filter(|fill| !matches!(fill, Value::None) && i >= larger && larger > 0)
                {
                    part.push(fill.clone());
                }
                parts.push(Value::list(part));
            }
            Ok(Value::generator(parts))
        }
        "groupby" => {
            let [attribute, default, sensitive] =
                arguments.take(name, ["attribute", "default", "case_sensitive"])?;
            let attribute = required(attribute, name, "attribute")?;
            let own = Key::new(Some(attribute), Some(Value::Bool(true)))?;
            let fold = Key::new(None, sensitive)?;
            let mut keyed = Vec::new();
            for item in items {
                let mut key = own.of(machine, &item)?;
                if let (Value::Undefined(_), Some(default)) = (&key, &default) {
                    key = default.clone();
                }
                keyed.push((fold.of(machine, &key)?, (key, item)));
            }
            operators::sort(&mut keyed, false)?;
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for (folded, (key, item)) in keyed {
                match groups.last_mut() {
                    Some((last, _, items)) if equal(last, &folded) => items.push(item),
                    _ => groups.push((folded, key, vec![item])),
                }
            }
            let groups =
                groups.into_iter().map(|(_, key, items)| Value::Group(Rc::new((key, Value::list(items)))));
            Ok(Value::list(groups.collect()))
        }
        "join" => {
            let [separator, attribute] = arguments.take(name, ["d", "attribute"])?;
            let separator = separator.map_or(Ok(String::new()), |separator| display(&separator))?;
            let key = Key::new(attribute, Some(Value::Bool(true)))?;
            let mut out = String::new();
            for (i, item) in items.iter().enumerate() {
                push(&mut out, if i > 0 { &separator } else { "" })?;
                push(&mut out, &display(&key.of(machine, item)?)?)?;
            }
            Ok(Value::str(out))
        }
        "max" | "min" => {
            let [sensitive, attribute] = arguments.take(name, ["case_sensitive", "attribute"])?;
            let key = Key::new(attribute, sensitive)?;
            let mut best: Option<(Value, Value)> = None;
            for item in items {
                let value = key.of(machine, &item)?;
                let better = match &best {
                    None => true,
                    Some((best, _)) => compare(&value, best)?.is_some_and(|order| match name {
                        "max" => order.is_gt(),
                        _ => order.is_lt(),
                    }),
                };
                if better {
                    best = Some((value, item));
                }
            }
            Ok(best.map_or_else(|| Value::undefined("there are no items"), |(_, item)| item))
        }
        "sort" => {
            let [reverse, sensitive, attribute] =
                arguments.take(name, ["reverse", "case_sensitive", "attribute"])?;
            let mut key = Key::new(attribute, sensitive)?;
            key.attributes = key.attributes.map(|names| names[0].split(',').map(str::to_owned).collect());
            let mut keyed = Vec::new();
            for item in items {
                keyed.push((key.of(machine, &item)?, item));
            }
            operators::sort(&mut keyed, reverse.is_some_and(|reverse| reverse.truth()))?;
            Ok(Value::list(keyed.into_iter().map(|(_, item)| item).collect()))
        }
        "unique" => {
            let [sensitive, attribute] = arguments.take(name, ["case_sensitive", "attribute"])?;
            let key = Key::new(attribute, sensitive)?;
            let mut seen = Dict::default();
            let mut kept = Vec::new();
            for item in items {
                let value = key.of(machine, &item)?;
                if seen.get(&value).is_none() {
                    seen.insert(value, Value::None)?;
                    kept.push(item);
                }
            }
            Ok(Value::generator(kept))
        }
        _ => {
            arguments.named.retain(|(_, value)| !matches!(value, Value::None));
            let [attribute, start] = arguments.take(name, ["attribute", "start"])?;
            let key = Key::new(attribute, Some(Value::Bool(true)))?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if sum.as_str().is_some()
                || items.iter().any(|item| matches!(item, Value::Float(_))) && items.len() > 2
            {
                // Python adds floats with a compensation that has changed between its versions.
                let whole =
                    |item: &Value| !matches!(item, Value::Float(x) if x.fract() != 0.0 || x.abs() > 1e15);
                if sum.as_str().is_some() || !items.iter().all(whole) {
                    return Err(Error::unsupported("`sum` of texts, or of more than two floats"));
                }
            }
            for item in &items {
                sum = binary(Binary::Add, &sum, &key.of(machine, item)?)?;
            }
            Ok(sum)
        }
    }
}

/// `map`, and the filters that choose items by a test.
fn mapped(machine: &Machine, name: &str, value: &Value, mut arguments: Arguments) -> Result<Value> {
    // Whatever counts as false has no items.
    let items = if value.truth() { value.iterate()? } else { Vec::new() };
    if name == "map" {
        if arguments.positional.is_empty() {
            let [attribute, default] = arguments.take(name, ["attribute", "default"])?;
            let key = Key::new(Some(required(attribute, name, "attribute")?), Some(Value::Bool(true)))?;
            let values = items.iter().map(|item| {
                let value = key.of(machine, item)?;
                Ok(match (&value, &default) {
                    (Value::Undefined(_), Some(default)) => default.clone(),
                    _ => value,
                })
            });
            return Ok(Value::generator(values.collect::<Result<_>>()?));
        }
        let filter = text(&arguments.positional.remove(0), name)?;
        let values = items.into_iter().map(|item| {
            let arguments =
                Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
            apply(machine, &filter, item, arguments)
        });
        return Ok(Value::generator(values.collect::<Result<_>>()?));
    }
    let by_attribute = name.ends_with("attr");
    let attribute = match by_attribute {
        true if arguments.positional.is_empty() => {
            return fail(format!("`{name}` needs the name of an attribute"));
        }
        true => Some(arguments.positional.remove(0)),
        false => None,
    };
    let key = Key::new(attribute, Some(Value::Bool(true)))?;
    let test = match arguments.positional.is_empty() {
        true => None,
        false => Some(text(&arguments.positional.remove(0), name)?),
    };
    let mut kept = Vec::new();
    for item in items {
        fuel::spend(1 + arguments.positional.len())?;
        let value = key.of(machine, &item)?;
        let passes = match &test {
            None => value.truth(),
            Some(test) => {
                let arguments =
                    Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
                tests::apply(test, &value, arguments)?
            }
        };
        if passes != name.starts_with("reject") {
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}

/// A float from text, as Python's `float` reads it.
fn parse_float(text: &str) -> Result<Option<f64>> {
    let text = text.trim_matches(is_space);
    if text.contains('_') {
        return Err(Error::unsupported("a number with underscores in a text"));
    }
    if !text.is_ascii() {
        return Err(Error::unsupported("a number with characters outside of ASCII"));
    }
    Ok(text.parse().ok())
}

/// `float(default=0.0)`
fn float(value: &Value, arguments: Arguments) -> Result<Value> {
    let [default] = arguments.take("float", ["default"])?;
    Ok(number(value)?.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

/// A number, or a text that is one, as a float.
fn number(value: &Value) -> Result<Option<f64>> {
    defined(value)?;
    Ok(match value {
        Value::Float(x) => Some(*x),
        Value::Huge(digits) => digits.parse().ok(),
        Value::Str(text) | Value::Markup(text) => parse_float(text)?,
        other => other.as_int().map(|whole| whole as f64),
    })
}

/// `int(default=0, base=10)`
fn int(value: &Value, arguments: Arguments) -> Result<Value> {
    let [default, base] = arguments.take("int", ["default", "base"])?;
    defined(value)?;
    let default = default.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |base| whole(&base, "int"))?;
    Ok(match value {
        Value::Huge(_) => value.clone(),
        Value::Float(x) if x.is_nan() => default,
        Value::Float(x) => Value::Int(truncated(*x)?),
        Value::Str(text) | Value::Markup(text) => {
            let text = text.trim_matches(is_space);
            if text.contains('_') || !text.is_ascii() {
                return Err(Error::unsupported("a number with underscores, or outside of ASCII, in a text"));
            }
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            let prefixed = |prefix: &str| {
                digits.get(..2).filter(|start| start.eq_ignore_ascii_case(prefix)).map(|_| &digits[2..])
            };
            let digits = match base {
                16 => prefixed("0x").unwrap_or(digits),
                8 => prefixed("0o").unwrap_or(digits),
                2 => prefixed("0b").unwrap_or(digits),
                10 => digits,
                _ => return Err(Error::unsupported("a base of `int` other than 2, 8, 10 and 16")),
            };
            let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base as u32));
            match i128::from_str_radix(&format!("{sign}{digits}"), base as u32) {
                Ok(whole) if plain => Value::Int(whole),
                _ if plain && base == 10 => {
                    let digits = digits.trim_start_matches('0');
                    Value::literal(&super::lexer::whole_number(&format!(
                        "{}{digits}",
                        sign.trim_start_matches('+')
                    )))
                }
                _ if plain => return Err(Error::unsupported("a whole number beyond 128 bits")),
                // `int("3.7")` fails in Python, and the filter then tries a float.
                _ => match parse_float(text)? {
                    Some(x) if x.is_finite() => Value::Int(truncated(x)?),
                    _ => default,
                },
            }
        }
        other => other.as_int().map_or(default, Value::Int),
    })
}

/// `round(precision=0, method="common")`
fn round(value: &Value, arguments: Arguments) -> Result<Value> {
    let [precision, method] = arguments.take("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| whole(&precision, "round"))?;
    let method = method.map_or(Ok("common".into()), |method| text(&method, "round"))?;
    if !["common", "ceil", "floor"].contains(&&*method) {
        return fail("`method` of `round` must be \"common\", \"ceil\" or \"floor\"");
    }
    if !(0..=300).contains(&precision) {
        return Err(Error::unsupported("`round` to a negative number of digits"));
    }
    let precision = precision as usize;
    match (value, &*method) {
        (Value::Float(x), "common") if !x.is_finite() => Ok(value.clone()),
        (Value::Float(x), "common") => {
            let text = format!("{x:.precision$}");
            Ok(Value::Float(text.parse().map_err(|_| Error::new("not a number"))?))
        }
        (Value::Int(_) | Value::Huge(_), "common") => Ok(value.clone()),
        (Value::Bool(x), "common") => Ok(Value::Int(i128::from(*x))),
        (value, method) => {
            let x = match value {
                Value::Float(x) => *x,
                other => match other.as_int() {
                    Some(whole) if whole.abs() < 1 << 53 => whole as f64,
                    Some(_) => return Err(Error::unsupported("`round` of so large a whole number")),
                    None => return fail(format!("`round` needs a number, not {}", other.kind())),
                },
            };
            let power = 10f64.powi(precision as i32);
            let scaled = x * power;
            Ok(Value::Float(if method == "ceil" { scaled.ceil() } else { scaled.floor() } / power))
        }
    }
}

/// Bytes in the units of a file's size, with powers of 1000 or 1024.
fn filesize(value: &Value, arguments: Arguments) -> Result<Value> {
    let [binary] = arguments.take("filesizeformat", ["binary"])?;
    let kind = value.kind();
    let bytes = number(value)?.filter(|bytes| !bytes.is_nan());
    let bytes = bytes.ok_or_else(|| Error::new(format!("`filesizeformat` needs a number, not {kind}")))?;
    let (base, units) = match binary.is_some_and(|binary| binary.truth()) {
        true => (1024f64, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000f64, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::str(format!("{} Bytes", truncated(bytes)?)));
    }
    let i = (1..=8).find(|i| bytes < base.powi(i + 1)).unwrap_or(8);
    Ok(Value::str(format!("{:.1} {}", base * bytes / base.powi(i + 1), units[i as usize - 1])))
}

/// A dict as attributes of a tag, without those that are none or undefined.
fn xml_attributes(value: &Value, space: bool) -> Result<String> {
    let Value::Dict(dict) = value else {
        return fail(format!("`xmlattr` needs a dict, not {}", value.kind()));
    };
    let mut text = String::new();
    for (key, value) in &dict.items {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = display(key)?;
        if key.contains(|c: char| is_space(c) || "/>=".contains(c)) {
            return fail(format!("`{key}` cannot be the name of an attribute"));
        }
        let value = match value {
            Value::Markup(text) => text.to_string(),
            other => strings::escape(&display(other)?),
        };
        let between = if space || !text.is_empty() { " " } else { "" };
        push(&mut text, &format!("{between}{}=\"{value}\"", strings::escape(&key)))?;
    }
    Ok(text)
}

/// Text for a URL; pairs of a name and a value for its query.
fn urlencode(value: &Value) -> Result<String> {
    let quoted = |value: &Value, query: bool| -> Result<String> {
        let mut out = String::new();
        for byte in display(value)?.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into()),
                b'/' if !query => out.push('/'),
                b' ' if query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    };
    let pairs = match value {
        Value::Dict(dict) => Value::View(View::Items, dict.clone()).iterate()?,
        Value::Str(_) | Value::Markup(_) => return quoted(value, false),
        other => match other.iterate() {
            Ok(items) => items,
            Err(_) => return quoted(value, false),
        },
    };
    let mut text = String::new();
    for pair in pairs {
        let Ok([name, value]) = <[Value; 2]>::try_from(pair.iterate()?) else {
            return fail("`urlencode` needs text, a dict, or pairs");
        };
        let between = if text.is_empty() { "" } else { "&" };
        push(&mut text, &format!("{between}{}={}", quoted(&name, true)?, quoted(&value, true)?))?;
    }
    Ok(text)
}
