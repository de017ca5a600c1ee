//! Jinja templates with Python's values: what `transformers` renders chat templates with.
//!
//! A template must render to the same characters as in Jinja2, or be refused: another prompt than the model
//! was made for is worse than an error. So numbers, lists and dicts have Python's operators and Python's text,
//! and whatever is left out (template inheritance, escaping of whole templates, a few filters) is an error
//! that names it. Source: the documentation of Jinja 3.1 and of Python's built-in types.

mod arguments;
mod ast;
mod attributes;
mod error;
mod filters;
mod format;
mod fuel;
mod functions;
mod json;
mod lexer;
mod machine;
mod operators;
mod parser;
mod scope;
mod strings;
mod tests;
mod text;
mod value;

use std::rc::Rc;

use chrono::NaiveDateTime;
use serde_json::{Map, Value as Json};

pub(crate) use error::Error;

use machine::Machine;
use scope::Scope;
use value::Value;

/// The key of a JSON object that stands for a whole number beyond 64 bits, which JSON values here cannot hold.
pub(crate) const WHOLE_NUMBER: &str = "\u{1}whole number";

/// A compiled template.
pub(crate) struct Template {
    body: Vec<ast::Statement>,
}

impl Template {
    /// Compiles a template with `trim_blocks` and `lstrip_blocks`.
    ///
    /// # Errors
    /// For a syntax error, or a statement that is not supported.
    pub(crate) fn new(source: &str) -> Result<Self, Error> {
        Ok(Template { body: parser::parse(lexer::tokens(source)?)? })
    }

    /// Renders the template with these variables. `now` is the time that `strftime_now` tells.
    ///
    /// # Errors
    /// Where Jinja has an error, for whatever is not supported, and when the template takes too long or makes
    /// too much.
    pub(crate) fn render(&self, variables: &Map<String, Json>, now: NaiveDateTime) -> Result<String, Error> {
        let scope = Rc::new(Scope::default());
        for (name, value) in variables {
            scope.set(name, Value::from_json(value));
        }
        fuel::fill();
        Machine::new(now).render(&self.body, &scope)
    }
}
