//! Global functions: Jinja's, and those that transformers adds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::arguments::{Arguments, required, text, whole};
use super::error::{Error, Result, fail};
use super::machine::{Knot, Machine};
use super::text::display;
use super::value::{Dict, Range, Value};
use crate::clock;

const NAMES: [&str; 7] =
    ["cycler", "dict", "joiner", "namespace", "raise_exception", "range", "strftime_now"];

/// Python's `len`, which chat templates do not have, and templates and expressions over rows do.
pub(super) const LEN: &str = "len";

/// The longest format of a time, in bytes.
const LONGEST_FORMAT: usize = 1000;

/// The global function of this name, if there is one.
///
/// # Errors
/// When Jinja has it and this program does not.
pub(super) fn global(name: &str) -> Result<Option<Value>> {
    match name {
        "lipsum" | "self" => Err(Error::unsupported(format!("`{name}` of Jinja"))),
        _ => Ok(NAMES.into_iter().find(|known| *known == name).map(Value::Function)),
    }
}

/// Calls a global function.
pub(super) fn call(machine: &Machine, name: &str, arguments: Arguments) -> Result<Value> {
    match name {
        "cycler" => {
            if !arguments.named.is_empty() || arguments.positional.is_empty() {
                return fail("`cycler` needs values, without names");
            }
            Ok(Value::cycler(arguments.positional))
        }
        "joiner" => {
            let [separator] = arguments.take(name, ["sep"])?;
            let separator = separator.map_or(Ok(", ".into()), |separator| text(&separator, name))?;
            Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
        }
        "dict" => dict(name, arguments).map(|dict| Value::Dict(Rc::new(dict))),
        "namespace" => {
            let fields = dict(name, arguments)?;
            for (field, _) in &fields.items {
                check_field(field.as_str().unwrap_or(""))?;
            }
            let fields = Rc::new(RefCell::new(fields));
            machine.tie(Knot::Namespace(fields.clone()));
            Ok(Value::Namespace(fields))
        }
        "raise_exception" => {
            let [message] = arguments.take(name, ["message"])?;
            fail(display(&required(message, name, "message")?)?)
        }
        "range" => {
            let bounds = arguments.take(name, ["/start", "/stop", "/step"])?;
            let [start, stop, step] = bounds.map(|bound| bound.map(|bound| whole(&bound, name)).transpose());
            let range = match (start?, stop?, step?) {
                (Some(stop), None, None) => Range { start: 0, stop, step: 1 },
                (Some(start), Some(stop), step) => Range { start, stop, step: step.unwrap_or(1) },
                _ => return fail("`range` needs a whole number"),
            };
            // Jinja's sandbox has the same limit.
            let span = range.stop.checked_sub(range.start);
            if range.step == 0
                || range.step.unsigned_abs() > 1 << 64
                || span.is_none()
                || range.len() > 100_000
            {
                return fail("`range` needs a step that is not 0, and at most 100000 numbers");
            }
            Ok(Value::Range(range))
        }
        LEN => {
            let [of] = arguments.take(name, ["/obj"])?;
            Ok(Value::Int(required(of, name, "obj")?.len()? as i128))
        }
        _ => {
            let [format] = arguments.take("strftime_now", ["format"])?;
            let format = text(&required(format, name, "format")?, name)?;
            if format.len() > LONGEST_FORMAT {
                return fail(format!("`strftime_now` needs a format of at most {LONGEST_FORMAT} bytes"));
            }
            clock::strftime(machine.now, &format).map(Value::str).map_err(Error::new)
        }
    }
}

/// A dict from a dict or pairs, and from arguments with names.
fn dict(name: &str, mut arguments: Arguments) -> Result<Dict> {
    let named = std::mem::take(&mut arguments.named);
    let [of] = arguments.take(name, ["/items"])?;
    let mut dict = match of {
        None => Dict::default(),
        Some(Value::Dict(dict)) => (*dict).clone(),
        Some(pairs) => {
            let mut dict = Dict::default();
            for pair in pairs.iterate()? {
                match <[Value; 2]>::try_from(pair.iterate()?) {
                    Ok([key, value]) => dict.insert(key, value)?,
                    Err(_) => return fail(format!("`{name}` needs pairs of a key and a value")),
                }
            }
            dict
        }
    };
    for (name, value) in named {
        dict.insert(Value::str(name), value)?;
    }
    Ok(dict)
}

/// # Errors
/// For a name that a namespace must not have, as in transformers.
pub(super) fn check_field(name: &str) -> Result<()> {
    match name.starts_with('_') {
        true => fail(format!("the field `{name}` of a namespace must not begin with an underscore")),
        false => Ok(()),
    }
}
