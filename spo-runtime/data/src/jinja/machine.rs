//! Runs the statements of a template.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use chrono::NaiveDateTime;

use super::arguments::Arguments;
use super::ast::{self, Comparison, Definition, Expr, Filter, For, Kind, Statement, Target};
use super::error::{Error, Result, fail};
use super::scope::Scope;
use super::text::display;
use super::value::{Dict, Loop, Macro, Value, check_size};
use super::{attributes, filters, fuel, functions, operators, tests};

/// How deep calls and expressions may be nested, and lists and dicts. More would overflow the stack.
pub(super) const DEPTH: usize = 300;

pub(super) struct Machine {
    /// What `strftime_now` tells.
    pub(super) now: NaiveDateTime,
    /// The line of the statement that runs.
    pub(super) line: Cell<usize>,
    pub(super) depth: Cell<usize>,
    /// The columns of a row that have been read, if the variables are such. Then a name that is none is an error, and so
    /// is a null that is printed: a misspelt name would be empty text otherwise.
    pub(super) columns: Option<RefCell<BTreeSet<String>>>,
    /// Where the text of `{% generation %}` lies in what is printed, in bytes.
    generated: RefCell<Vec<Range<usize>>>,
    /// How many texts are being made that are not printed where they are made, such as that of a macro.
    apart: Cell<usize>,
    /// What may refer to itself, or begin a chain without end.
    knots: RefCell<Vec<Knot>>,
}

/// A value that can change after others refer to it. All are held until the end and then emptied, one by one: a
/// cycle would never be freed, and freeing a long chain would overflow the stack.
pub(super) enum Knot {
    Namespace(Rc<RefCell<Dict>>),
    /// The scope that a macro or a recursive loop refers to.
    Scope(Rc<Scope>),
    /// A loop that remembers what `changed` was asked about.
    Loop(Rc<Loop>),
}

/// How a list of statements ended.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl Machine {
    pub(super) fn new(now: NaiveDateTime) -> Self {
        Machine {
            now,
            line: Cell::new(1),
            depth: Cell::new(0),
            columns: None,
            generated: RefCell::default(),
            apart: Cell::new(0),
            knots: RefCell::default(),
        }
    }

    /// Renders a template.
    pub(super) fn render(&self, body: &[Statement], scope: &Rc<Scope>) -> Result<String> {
        let mut out = String::new();
        let ended = self.run(body, scope, &mut out);
        self.untie();
        ended.map_err(|e| e.at(self.line.get()))?;
        Ok(out)
    }

    /// Renders a template, and tells where the text of `{% generation %}` lies in it, in bytes.
    pub(super) fn render_marked(
        &self,
        body: &[Statement],
        scope: &Rc<Scope>,
    ) -> Result<(String, Vec<Range<usize>>)> {
        let text = self.render(body, scope)?;
        match self.generated.take() {
            spans if spans.iter().all(|span| span.end <= text.len()) => Ok((text, spans)),
            _ => fail(
                "`generation` inside of a macro or of a text that is captured: where its text lies is not known",
            ),
        }
    }

    /// Makes a text that is not printed where it is made.
    fn apart<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.apart.set(self.apart.get() + 1);
        let made = make();
        self.apart.set(self.apart.get() - 1);
        made
    }

    /// Whether an expression is true.
    pub(super) fn truth(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<bool> {
        let value = self.value(expr, scope).and_then(|value| {
            operators::defined(&value)?;
            Ok(value.truth())
        });
        self.untie();
        value
    }

    fn untie(&self) {
        for knot in &self.knots.take() {
            knot.untie();
        }
    }

    /// Notes a value that may come to refer to itself.
    pub(super) fn tie(&self, knot: Knot) {
        self.knots.borrow_mut().push(knot);
    }

    /// Runs a part of a template, which costs 1.
    pub(super) fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        fuel::spend(1)?;
        if self.depth.get() >= DEPTH {
            return fail(format!("calls and expressions are nested deeper than {DEPTH} levels"));
        }
        self.depth.set(self.depth.get() + 1);
        let result = run();
        self.depth.set(self.depth.get() - 1);
        result
    }

    fn run(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        for statement in body {
            self.line.set(statement.line);
            let before = out.len();
            let flow = self.deeper(|| self.statement(&statement.kind, scope, out))?;
            fuel::spend_text(out.len() - before)?;
            check_size(out.len() as u128)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, kind: &Kind, scope: &Rc<Scope>, out: &mut String) -> Result<Flow> {
        match kind {
            Kind::Text(text) => out.push_str(text),
            Kind::Print(value) => {
                let value = self.value(value, scope)?;
                if self.columns.is_some() && matches!(value, Value::None) {
                    return fail("a null would be printed: write for example `{{ input or '' }}`");
                }
                out.push_str(&display(&value)?);
            }
            Kind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.value(condition, scope)?.truth() {
                        return self.run(body, scope, out);
                    }
                }
                return self.run(otherwise, scope, out);
            }
            Kind::For(repetition) => {
                let iterable = self.value(&repetition.iterable, scope)?;
                self.repeat(repetition, &iterable, (scope, 0), out)?;
            }
            Kind::Set(target, value) => {
                let value = self.value(value, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let text = self.captured(body, scope)?;
                let value = self.filtered(text, filters, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::With(values, body) => {
                // The values do not see each other.
                let inner = Scope::within(scope);
                for (target, value) in values {
                    let value = self.value(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.run(body, &inner, out);
            }
            Kind::Macro(definition) => {
                let closure = Macro { definition: definition.clone(), scope: scope.clone() };
                self.tie(Knot::Scope(scope.clone()));
                scope.set(&definition.name, Value::Macro(Rc::new(closure)));
            }
            Kind::Call(call, caller) => {
                let Expr::Call(callee, arguments) = call else { return fail("`call` needs a call") };
                let callee = self.value(callee, scope)?;
                let mut arguments = self.arguments(arguments, scope)?;
                let caller = Macro { definition: caller.clone(), scope: scope.clone() };
                self.tie(Knot::Scope(scope.clone()));
                arguments.named.push(("caller".into(), Value::Macro(Rc::new(caller))));
                out.push_str(&display(&self.call(&callee, arguments)?)?);
            }
            Kind::FilterBlock(filters, body) => {
                let text = self.captured(body, scope)?;
                out.push_str(&display(&self.filtered(text, filters, scope)?)?);
            }
            Kind::Generation(body) => {
                let start = out.len();
                let flow = self.run(body, &Scope::within(scope), out)?;
                let end = if self.apart.get() == 0 { out.len() } else { usize::MAX };
                self.generated.borrow_mut().push(start..end);
                return Ok(flow);
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// What a block prints, as text. Its assignments stay inside.
    fn captured(&self, body: &[Statement], scope: &Rc<Scope>) -> Result<Value> {
        let mut text = String::new();
        match self.apart(|| self.run(body, &Scope::within(scope), &mut text))? {
            Flow::Next => Ok(Value::str(text)),
            _ => Err(Error::unsupported("`break` or `continue` out of a block that is captured")),
        }
    }

    fn filtered(&self, mut value: Value, filters: &[Filter], scope: &Rc<Scope>) -> Result<Value> {
        for filter in filters {
            let arguments = self.arguments(&filter.arguments, scope)?;
            value = filters::apply(self, &filter.name, value, arguments)?;
        }
        Ok(value)
    }

    /// Prints a loop, which stands in a scope, and in other loops to a depth.
    fn repeat(
        &self,
        repetition: &Arc<For>,
        iterable: &Value,
        (scope, depth): (&Rc<Scope>, usize),
        out: &mut String,
    ) -> Result<()> {
        let mut items = iterable.iterate()?;
        if let Some(condition) = &repetition.condition {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::within(scope);
                self.assign(&repetition.target, item.clone(), &inner)?;
                if self.value(condition, &inner)?.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return match self.run(&repetition.otherwise, &Scope::within(scope), out)? {
                Flow::Next => Ok(()),
                _ => Err(Error::unsupported("`break` or `continue` in the `else` of a loop")),
            };
        }
        let again = repetition.recursive.then(|| (repetition.clone(), scope.clone()));
        if again.is_some() {
            self.tie(Knot::Scope(scope.clone()));
        }
        let state = Rc::new(Loop::new(items, depth, again));
        self.checked(Value::Loop(state.clone()))?;
        for (i, item) in state.items.iter().enumerate() {
            // A scope costs some more than an expression.
            fuel::spend(4)?;
            state.index.set(i);
            let inner = Scope::within(scope);
            inner.set("loop", Value::Loop(state.clone()));
            self.assign(&repetition.target, item.clone(), &inner)?;
            if self.run(&repetition.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Tuple(targets) => {
                operators::defined(&value)?;
                let items = value.iterate()?;
                if items.len() != targets.len() {
                    return fail(format!("{} names, but {} values for them", targets.len(), items.len()));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
            Target::Field(name, field) => {
                let Some(Value::Namespace(fields)) = scope.get(name) else {
                    return fail(format!("cannot assign to `{name}.{field}`: `{name}` is not a namespace"));
                };
                functions::check_field(field)?;
                fields.borrow_mut().insert(Value::str(field.as_str()), value)?;
            }
        }
        Ok(())
    }

    /// Calls a value.
    pub(super) fn call(&self, callee: &Value, arguments: Arguments) -> Result<Value> {
        let line = self.line.get();
        let value = self.deeper(|| match callee {
            Value::Macro(called) => self.call_macro(called, arguments),
            Value::Function(name) => functions::call(self, name, arguments),
            Value::Method(method) => attributes::call(self, &method.0, &method.1, arguments),
            Value::Joiner(joiner) => {
                arguments.none("joiner")?;
                Ok(if joiner.1.replace(true) { Value::Str(joiner.0.clone()) } else { Value::str("") })
            }
            Value::Loop(state) => {
                let [iterable] = arguments.take("loop", ["iterable"])?;
                let Some((repetition, scope)) = &state.again else {
                    return fail("`loop(...)` needs a loop that is marked as `recursive`");
                };
                let Some(iterable) = iterable else { return fail("`loop(...)` needs what to go through") };
                let mut text = String::new();
                self.apart(|| self.repeat(repetition, &iterable, (scope, state.depth + 1), &mut text))?;
                Ok(Value::str(text))
            }
            Value::Undefined(reason) => fail(&**reason),
            other => fail(format!("{} cannot be called", other.kind())),
        })?;
        self.line.set(line);
        self.checked(value)
    }

    fn call_macro(&self, called: &Macro, mut arguments: Arguments) -> Result<Value> {
        let Definition { name, parameters, body, mentions } = &*called.definition;
        let scope = Scope::within(&called.scope);
        let mut named = std::mem::take(&mut arguments.named);
        let mut positional = arguments.positional.into_iter();
        for (parameter, default) in parameters {
            let by_name = named.iter().position(|(name, _)| name == parameter);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => {
                    return fail(format!("the macro `{name}` is given `{parameter}` twice"));
                }
                (Some(value), None) => value,
                (None, Some(i)) => named.remove(i).1,
                (None, None) => match default {
                    Some(default) => self.value(default, &scope)?,
                    None => Value::undefined(format!("parameter `{parameter}` was not provided")),
                },
            };
            scope.set(parameter, value);
        }
        if mentions.caller {
            let caller = named.iter().position(|(name, _)| name == "caller").map(|i| named.remove(i).1);
            scope.set("caller", caller.unwrap_or_else(|| Value::undefined("no caller is defined")));
        }
        if mentions.kwargs {
            let mut kwargs = Dict::default();
            for (name, value) in named.drain(..) {
                kwargs.insert(Value::str(name), value)?;
            }
            scope.set("kwargs", Value::Dict(Rc::new(kwargs)));
        }
        if let Some((unknown, _)) = named.first() {
            return fail(format!("the macro `{name}` has no parameter `{unknown}`"));
        }
        let more: Vec<Value> = positional.collect();
        if mentions.varargs {
            scope.set("varargs", Value::tuple(more));
        } else if !more.is_empty() {
            return fail(format!("the macro `{name}` takes at most {} arguments", parameters.len()));
        }
        let mut text = String::new();
        self.apart(|| self.run(body, &scope, &mut text))?;
        Ok(Value::str(text))
    }

    fn arguments(&self, arguments: &ast::Arguments, scope: &Rc<Scope>) -> Result<Arguments> {
        let mut positional = Vec::new();
        for value in &arguments.positional {
            positional.push(self.value(value, scope)?);
        }
        if let Some(list) = &arguments.list {
            positional.extend(self.value(list, scope)?.iterate()?);
        }
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.value(value, scope)?));
        }
        if let Some(dict) = &arguments.dict {
            let Value::Dict(dict) = self.value(dict, scope)? else { return fail("`**` needs a dict") };
            for (name, value) in &dict.items {
                let Some(name) = name.as_str() else {
                    return fail("the keys of a dict after `**` must be strings");
                };
                named.push((name.to_owned(), value.clone()));
            }
        }
        Ok(Arguments { positional, named })
    }

    /// The value, unless it is nested too deeply or too long. It costs its size.
    fn checked(&self, value: Value) -> Result<Value> {
        fuel::spend(fuel::weight(&value))?;
        if let Some(text) = value.as_str() {
            check_size(text.len() as u128)?;
        }
        match value.depth() > DEPTH {
            true => fail(format!("lists and dicts are nested deeper than {DEPTH} levels")),
            false => Ok(value),
        }
    }

    fn value(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.deeper(|| self.evaluate(expr, scope))?;
        self.checked(value)
    }

    /// The value; a name may be unknown where that is what is asked about.
    fn perhaps(&self, expr: &Expr, asked: bool, scope: &Rc<Scope>) -> Result<Value> {
        match (self.value(expr, scope), expr) {
            (Err(Error { unknown: Some(_), message, .. }), Expr::Name(_)) if asked => {
                Ok(Value::undefined(message))
            }
            (value, _) => value,
        }
    }

    fn evaluate(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let value = |expr: &Expr| self.value(expr, scope);
        let all = |exprs: &[Expr]| exprs.iter().map(value).collect::<Result<Vec<_>>>();
        Ok(match expr {
            Expr::Literal(literal) => Value::literal(literal),
            Expr::Name(name) => match scope.get(name) {
                Some(value) => {
                    if let Some(read) = &self.columns {
                        read.borrow_mut().insert(name.clone());
                    }
                    value
                }
                None if self.columns.is_some() && functions::global(name)?.is_none() => {
                    let message = format!("there is no column `{name}`");
                    return Err(Error { unknown: Some(name.clone()), ..Error::new(message) });
                }
                None => functions::global(name)?
                    .unwrap_or_else(|| Value::undefined(format!("`{name}` is undefined"))),
            },
            Expr::List(items) => Value::list(all(items)?),
            Expr::Tuple(items) => Value::tuple(all(items)?),
            Expr::Dict(items) => {
                let mut dict = Dict::default();
                for (key, item) in items {
                    dict.insert(value(key)?, value(item)?)?;
                }
                Value::Dict(Rc::new(dict))
            }
            Expr::Attribute(of, name) => attributes::attribute(self, &value(of)?, name)?,
            Expr::Item(of, key) => attributes::item(self, &value(of)?, &value(key)?)?,
            Expr::Slice(of, [start, stop, step]) => {
                let bound = |bound: &Option<Box<Expr>>| bound.as_deref().map(value).transpose();
                operators::slice(&value(of)?, [bound(start)?, bound(stop)?, bound(step)?])?
            }
            Expr::Call(callee, arguments) => {
                let callee = value(callee)?;
                let arguments = self.arguments(arguments, scope)?;
                self.call(&callee, arguments)?
            }
            Expr::Filter(of, filter) => {
                let of = self.perhaps(of, ["default", "d"].contains(&&*filter.name), scope)?;
                self.filtered(of, std::slice::from_ref(filter), scope)?
            }
            Expr::Test(of, test) => {
                let of = self.perhaps(of, ["defined", "undefined"].contains(&&*test.name), scope)?;
                let arguments = self.arguments(&test.arguments, scope)?;
                Value::Bool(tests::apply(&test.name, &of, arguments)?)
            }
            Expr::Not(of) => Value::Bool(!value(of)?.truth()),
            Expr::Neg(of) => operators::negative(&value(of)?)?,
            Expr::Pos(of) => match value(of)? {
                of @ (Value::Float(_) | Value::Huge(_)) => of,
                of => {
                    operators::defined(&of)?;
                    match of.as_int() {
                        Some(whole) => Value::Int(whole),
                        None => return fail(format!("`+` has no meaning before {}", of.kind())),
                    }
                }
            },
            Expr::Binary(operator, a, b) => operators::binary(*operator, &value(a)?, &value(b)?)?,
            Expr::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    text.push_str(&display(&value(part)?)?);
                }
                Value::str(text)
            }
            Expr::Compare(first, others) => {
                let mut left = value(first)?;
                for (comparison, right) in others {
                    let right = value(right)?;
                    if !compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::And(a, b) => {
                let a = value(a)?;
                if a.truth() { value(b)? } else { a }
            }
            Expr::Or(a, b) => {
                let a = value(a)?;
                if a.truth() { a } else { value(b)? }
            }
            Expr::If(condition, yes, no) => match (value(condition)?.truth(), no) {
                (true, _) => value(yes)?,
                (false, Some(no)) => value(no)?,
                (false, None) => Value::undefined("an `if` without `else` whose condition is false"),
            },
        })
    }
}

impl Knot {
    fn untie(&self) {
        match self {
            Knot::Namespace(fields) => drop(fields.take()),
            Knot::Scope(scope) => scope.clear(),
            Knot::Loop(state) => drop(state.seen.take()),
        }
    }
}

/// Whether a comparison holds.
pub(super) fn compare(comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
    let order = |holds: fn(std::cmp::Ordering) -> bool| Ok(operators::compare(a, b)?.is_some_and(holds));
    match comparison {
        Comparison::Eq => Ok(operators::equal(a, b)),
        Comparison::Ne => Ok(!operators::equal(a, b)),
        Comparison::Lt => order(std::cmp::Ordering::is_lt),
        Comparison::Le => order(std::cmp::Ordering::is_le),
        Comparison::Gt => order(std::cmp::Ordering::is_gt),
        Comparison::Ge => order(std::cmp::Ordering::is_ge),
        Comparison::In => operators::contains(b, a),
        Comparison::NotIn => Ok(!operators::contains(b, a)?),
    }
}
