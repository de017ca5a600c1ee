//! The values of a template: Python's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::WHOLE_NUMBER;
use super::ast::{Definition, For, Literal};
use super::error::{Error, Result, fail};
use super::lexer::whole_number;
use super::scope::Scope;
use super::{fuel, operators};

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    /// With the reason.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    /// A whole number beyond 128 bits, in decimal digits. It can be printed and compared, nothing else.
    Huge(Rc<str>),
    Float(f64),
    Str(Rc<str>),
    /// Text that is marked as safe for HTML. It prints as other text does.
    Markup(Rc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Range(Range),
    /// `dict.keys()`, `dict.values()` or `dict.items()`.
    View(View, Rc<Dict>),
    /// What filters such as `map` return: values that can be taken once.
    Generator(Rc<Generator>),
    /// A group of `groupby`: the value that its items share, and the list of them. Otherwise a tuple.
    Group(Rc<(Value, Value)>),
    Namespace(Rc<RefCell<Dict>>),
    Loop(Rc<Loop>),
    Macro(Rc<Macro>),
    Cycler(Rc<Cycler>),
    /// The separator, and whether it was used before.
    Joiner(Rc<(Rc<str>, Cell<bool>)>),
    /// A global function.
    Function(&'static str),
    Method(Rc<(Value, Rc<str>)>),
}

/// The items of a list or tuple.
#[derive(Default)]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    depth: usize,
}

/// A dict in the order of insertion.
#[derive(Clone, Default)]
pub(super) struct Dict {
    pub(super) items: Vec<(Value, Value)>,
    depth: usize,
}

/// Values that can be taken once.
pub(super) struct Generator {
    pub(super) items: RefCell<std::vec::IntoIter<Value>>,
    depth: usize,
}

/// What `cycler(...)` makes: values that are given in turn.
pub(super) struct Cycler {
    pub(super) values: Vec<Value>,
    pub(super) at: Cell<usize>,
    depth: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// The variable `loop`.
pub(super) struct Loop {
    pub(super) items: Vec<Value>,
    /// From 0.
    pub(super) index: Cell<usize>,
    /// How many recursive loops are around it.
    pub(super) depth: usize,
    /// Levels of lists and dicts.
    levels: usize,
    /// What `loop.changed` was last asked about.
    pub(super) seen: RefCell<Option<Vec<Value>>>,
    /// The loop itself and the scope around it, if it is recursive.
    pub(super) again: Option<(Arc<For>, Rc<Scope>)>,
}

/// A macro with the scope it was defined in.
pub(super) struct Macro {
    pub(super) definition: Arc<Definition>,
    pub(super) scope: Rc<Scope>,
}

impl Loop {
    pub(super) fn new(items: Vec<Value>, depth: usize, again: Option<(Arc<For>, Rc<Scope>)>) -> Self {
        let levels = deepest(&items);
        Loop { items, index: Cell::new(0), depth, levels, seen: RefCell::new(None), again }
    }
}

impl Generator {
    /// How many items are left.
    pub(super) fn left(&self) -> usize {
        self.items.borrow().len()
    }
}

impl Range {
    pub(super) fn len(&self) -> usize {
        let Range { start, stop, step } = *self;
        let span = if step > 0 { stop - start } else { start - stop };
        if span <= 0 { 0 } else { ((span - 1) / step.abs() + 1) as usize }
    }

    pub(super) fn item(&self, index: usize) -> Value {
        Value::Int(self.start + index as i128 * self.step)
    }
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.items.iter().find(|(k, _)| operators::equal(k, key)).map(|(_, value)| value)
    }

    pub(super) fn text(&self, key: &str) -> Option<&Value> {
        self.items.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// # Errors
    /// When the key is a value that can change.
    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        if !key.hashable() {
            fuel::spend(1)?;
            return fail(format!("a key of a dict cannot be {}", key.kind()));
        }
        self.depth = self.depth.max(1 + value.depth().max(key.depth()));
        match self.items.iter_mut().find(|(k, _)| operators::equal(k, &key)) {
            Some((_, old)) => *old = value,
            None => self.items.push((key, value)),
        }
        Ok(())
    }
}

/// Most items that a template may make at once. More is a mistake, and would exhaust the memory.
pub(super) const MOST_ITEMS: usize = 10_000_000;

impl Value {
    pub(super) fn undefined(reason: impl Into<Rc<str>>) -> Self {
        Value::Undefined(reason.into())
    }

    pub(super) fn str(text: impl Into<Rc<str>>) -> Self {
        Value::Str(text.into())
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        Value::List(Items::new(items))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Self {
        Value::Tuple(Items::new(items))
    }

    pub(super) fn generator(items: Vec<Value>) -> Self {
        let depth = deepest(&items);
        Value::Generator(Rc::new(Generator { items: RefCell::new(items.into_iter()), depth }))
    }

    pub(super) fn cycler(values: Vec<Value>) -> Self {
        let depth = deepest(&values);
        Value::Cycler(Rc::new(Cycler { values, at: Cell::new(0), depth }))
    }

    pub(super) fn literal(literal: &Literal) -> Self {
        match literal {
            Literal::None => Value::None,
            Literal::Bool(value) => Value::Bool(*value),
            Literal::Int(value) => Value::Int(*value),
            Literal::Huge(digits) => Value::Huge(digits.as_str().into()),
            Literal::Float(value) => Value::Float(*value),
            Literal::Str(text) => Value::str(text.as_str()),
        }
    }

    pub(super) fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Value::None,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value.into()),
                (_, Some(value)) => Value::Int(value.into()),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::str(text.as_str()),
            Json::Array(items) => Value::list(items.iter().map(Value::from_json).collect()),
            Json::Object(items) => {
                if let (1, Some(Json::String(digits))) = (items.len(), items.get(WHOLE_NUMBER)) {
                    return Value::literal(&whole_number(digits));
                }
                // The keys of a JSON object differ, so that none needs to be looked for.
                let items =
                    items.iter().map(|(key, value)| (Value::str(key.as_str()), Value::from_json(value)));
                let items: Vec<_> = items.collect();
                let depth = 1 + items.iter().map(|(_, value)| value.depth()).max().unwrap_or(0);
                Value::Dict(Rc::new(Dict { items, depth }))
            }
        }
    }

    /// Levels of lists and dicts.
    pub(super) fn depth(&self) -> usize {
        match self {
            Value::List(items) | Value::Tuple(items) => items.depth,
            Value::Dict(dict) | Value::View(_, dict) => dict.depth,
            Value::Group(group) => 1 + group.1.depth(),
            Value::Generator(generator) => generator.depth,
            Value::Cycler(cycler) => cycler.depth,
            Value::Loop(state) => state.levels,
            Value::Namespace(fields) => 1 + fields.try_borrow().map_or(0, |fields| fields.depth),
            Value::Method(method) => 1 + method.0.depth(),
            _ => 0,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// Whole numbers; in Python, truth values are whole numbers too.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// The name of its type in Python.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "undefined",
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) | Value::Huge(_) => "an int",
            Value::Float(_) => "a float",
            Value::Str(_) | Value::Markup(_) => "a string",
            Value::List(_) => "a list",
            Value::Tuple(_) | Value::Group(_) => "a tuple",
            Value::Dict(_) => "a dict",
            Value::Range(_) => "a range",
            Value::View(..) => "a view of a dict",
            Value::Generator(_) => "a generator",
            Value::Namespace(_) => "a namespace",
            Value::Loop(_) => "a loop",
            Value::Macro(_) => "a macro",
            Value::Cycler(_) => "a cycler",
            Value::Joiner(_) => "a joiner",
            Value::Function(_) => "a function",
            Value::Method(_) => "a method",
        }
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(items) | Value::Tuple(items) => !items.items.is_empty(),
            Value::Dict(dict) | Value::View(_, dict) => !dict.items.is_empty(),
            Value::Range(range) => range.len() > 0,
            _ => true,
        }
    }

    pub(super) fn hashable(&self) -> bool {
        // A tuple can contain another many times. When nothing is left, the answer does not matter any more.
        if fuel::spend(1).is_err() {
            return false;
        }
        match self {
            Value::List(_) | Value::Dict(_) | Value::View(..) => false,
            Value::Tuple(items) => items.items.iter().all(Value::hashable),
            Value::Group(group) => group.1.hashable(),
            _ => true,
        }
    }

    /// The number of items.
    ///
    /// # Errors
    /// When it has none to be counted.
    pub(super) fn len(&self) -> Result<usize> {
        match self {
            Value::Undefined(_) => Ok(0),
            Value::Str(text) | Value::Markup(text) => Ok(text.chars().count()),
            Value::List(items) | Value::Tuple(items) => Ok(items.items.len()),
            Value::Dict(dict) | Value::View(_, dict) => Ok(dict.items.len()),
            Value::Range(range) => Ok(range.len()),
            Value::Group(_) => Ok(2),
            Value::Loop(state) => Ok(state.items.len()),
            other => fail(format!("{} has no length", other.kind())),
        }
    }

    /// Its items. Those of a generator can be taken once.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn iterate(&self) -> Result<Vec<Value>> {
        let items = self.items()?;
        fuel::spend(items.len())?;
        Ok(items)
    }

    fn items(&self) -> Result<Vec<Value>> {
        Ok(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Str(text) | Value::Markup(text) => {
                text.chars().map(|c| Value::str(c.to_string())).collect()
            }
            Value::List(items) | Value::Tuple(items) => items.items.clone(),
            Value::Dict(dict) | Value::View(View::Keys, dict) => {
                dict.items.iter().map(|(key, _)| key.clone()).collect()
            }
            Value::View(View::Values, dict) => dict.items.iter().map(|(_, value)| value.clone()).collect(),
            Value::View(View::Items, dict) => {
                dict.items.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect()
            }
            Value::Range(range) => {
                check_size(range.len() as u128)?;
                (0..range.len()).map(|i| range.item(i)).collect()
            }
            Value::Generator(generator) => generator.items.borrow_mut().by_ref().collect(),
            Value::Group(group) => vec![group.0.clone(), group.1.clone()],
            other => return fail(format!("{} has no items to go through", other.kind())),
        })
    }
}

impl Items {
    fn new(items: Vec<Value>) -> Rc<Self> {
        let depth = deepest(&items);
        Rc::new(Items { items, depth })
    }
}

/// Levels of a value that has these items.
fn deepest(items: &[Value]) -> usize {
    1 + items.iter().map(Value::depth).max().unwrap_or(0)
}

/// # Errors
/// When a list or text would have too many items.
pub(super) fn check_size(size: u128) -> Result<()> {
    match size > MOST_ITEMS as u128 {
        true => Err(Error::new(format!("{size} items or bytes at once: at most {MOST_ITEMS} are allowed"))),
        false => Ok(()),
    }
}
