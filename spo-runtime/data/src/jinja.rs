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

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
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
        Machine::new(now).render(&self.body, &scope(variables))
    }

    /// Renders the template, and tells where the text of `{% generation %}` lies in it, in bytes.
    ///
    /// # Errors
    /// As [`render`](Self::render), and where this is not known.
    pub(crate) fn render_marked(
        &self,
        variables: &Map<String, Json>,
        now: NaiveDateTime,
    ) -> Result<(String, Vec<Range<usize>>), Error> {
        Machine::new(now).render_marked(&self.body, &scope(variables))
    }

    /// Renders the template with the columns of a row as variables, and tells which of them it read.
    ///
    /// # Errors
    /// As [`render`](Self::render); also for a name that is no column, and a null that would be printed.
    pub(crate) fn render_row(&self, row: &Map<String, Json>) -> Result<(String, BTreeSet<String>), Error> {
        let machine = over_columns();
        let text = machine.render(&self.body, &row_scope(row))?;
        Ok((text, machine.columns.map(RefCell::into_inner).unwrap_or_default()))
    }
}

/// A compiled expression over the columns of a row.
pub(crate) struct Expression(ast::Expr);

impl Expression {
    /// # Errors
    /// For a syntax error.
    pub(crate) fn new(source: &str) -> Result<Self, Error> {
        let body = parser::parse(lexer::tokens(&format!("{{{{ {source} }}}}"))?)?;
        match <[ast::Statement; 1]>::try_from(body) {
            Ok([ast::Statement { kind: ast::Kind::Print(expression), .. }]) => Ok(Expression(expression)),
            _ => Err(Error::new("not one expression: write it without `{{` and `}}`")),
        }
    }

    /// Whether it is true of a row.
    ///
    /// # Errors
    /// As [`Template::render_row`].
    pub(crate) fn truth(&self, row: &Map<String, Json>) -> Result<bool, Error> {
        over_columns().truth(&self.0, &row_scope(row))
    }
}

/// The columns of a row, and Python's `len` unless one of them is called so.
fn row_scope(row: &Map<String, Json>) -> Rc<Scope> {
    let scope = scope(row);
    if !row.contains_key(functions::LEN) {
        scope.set(functions::LEN, Value::Function(functions::LEN));
    }
    scope
}

fn over_columns() -> Machine {
    let mut machine = Machine::new(NaiveDateTime::default());
    machine.columns = Some(RefCell::default());
    machine
}

/// The variables, and what rendering with them may use.
fn scope(variables: &Map<String, Json>) -> Rc<Scope> {
    let scope = Rc::new(Scope::default());
    for (name, value) in variables {
        scope.set(name, Value::from_json(value));
    }
    fuel::fill();
    scope
}
