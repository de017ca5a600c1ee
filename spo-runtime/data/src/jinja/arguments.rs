//! The arguments of a call.

use super::error::{Error, Result, fail};
use super::value::Value;

#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Arguments {
    /// The arguments in the order of these parameters. A parameter whose name begins with `/` cannot be given
    /// by name.
    ///
    /// # Errors
    /// When there are too many, or one that has no parameter.
    pub(super) fn take<const N: usize>(self, of: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut taken = [const { None }; N];
        if self.positional.len() > N {
            return fail(format!("`{of}` takes at most {N} arguments, not {}", self.positional.len()));
        }
        for (place, value) in taken.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|parameter| *parameter == name) {
                Some(i) if taken[i].is_none() => taken[i] = Some(value),
                Some(_) => return fail(format!("`{of}` is given `{name}` twice")),
                None => return fail(format!("`{of}` has no parameter `{name}`")),
            }
        }
        Ok(taken)
    }

    /// As [`take`](Self::take), for a call without arguments.
    pub(super) fn none(self, of: &str) -> Result<()> {
        self.take(of, []).map(|[]: [Option<Value>; 0]| ())
    }
}

/// The argument, which must be there.
pub(super) fn required(argument: Option<Value>, of: &str, name: &str) -> Result<Value> {
    argument
        .ok_or_else(|| Error::new(format!("`{of}` needs the argument `{}`", name.trim_start_matches('/'))))
}

/// The text of an argument, which must be a string.
pub(super) fn text(argument: &Value, of: &str) -> Result<std::rc::Rc<str>> {
    match argument {
        Value::Str(text) => Ok(text.clone()),
        Value::Markup(_) => Err(Error::unsupported(format!("`{of}` with text that is marked as safe"))),
        other => fail(format!("`{of}` needs a string, not {}", other.kind())),
    }
}

/// A whole number, which an argument must be.
pub(super) fn whole(argument: &Value, of: &str) -> Result<i128> {
    argument
        .as_int()
        .ok_or_else(|| Error::new(format!("`{of}` needs a whole number, not {}", argument.kind())))
}
