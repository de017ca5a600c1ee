//! Python's operators.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::Binary;
use super::error::{Error, Result, fail};
use super::strings::escape;
use super::text::display;
use super::value::{Value, View, check_size};
use super::{format, fuel};

/// Above this, a float does not hold every whole number.
const EXACT: i128 = 1 << 53;

pub(super) fn equal(a: &Value, b: &Value) -> bool {
    // A list can contain another many times. When nothing is left, the answer does not matter any more.
    if fuel::spend(1).is_err() {
        return false;
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return a == b;
    }
    let pairs = |a: &[Value], b: &[Value]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b));
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Huge(a), Value::Huge(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => pairs(&a.items, &b.items),
        (Value::Group(group), Value::Tuple(items)) | (Value::Tuple(items), Value::Group(group)) => {
            pairs(&[group.0.clone(), group.1.clone()], &items.items)
        }
        (Value::Group(a), Value::Group(b)) => equal(&a.0, &b.0) && equal(&a.1, &b.1),
        (Value::Dict(a), Value::Dict(b)) => {
            let same = |(key, value): &(Value, Value)| b.get(key).is_some_and(|other| equal(value, other));
            a.items.len() == b.items.len() && a.items.iter().all(same)
        }
        // Keys and items are sets; values are not.
        (Value::View(View::Keys | View::Items, x), Value::View(View::Keys | View::Items, y)) => {
            let items = |view: &Value| view.iterate().unwrap_or_default();
            let (a, b) = (items(a), items(b));
            x.items.len() == y.items.len() && a.iter().all(|item| b.iter().any(|other| equal(item, other)))
        }
        (Value::Range(a), Value::Range(b)) => {
            a.len() == b.len() && (a.len() == 0 || a.start == b.start) && (a.len() < 2 || a.step == b.step)
        }
        _ => numbers(a, b).is_some_and(|(a, b)| number_order(a, b) == Some(Ordering::Equal)) || same(a, b),
    }
}

/// Whether both are the same object.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Generator(a), Value::Generator(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
        (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        (Value::Method(a), Value::Method(b)) => a.1 == b.1 && same(&a.0, &b.0),
        _ => false,
    }
}

/// A number for comparison.
#[derive(Clone, Copy)]
enum Number<'a> {
    Int(i128),
    Huge(&'a str),
    Float(f64),
}

fn numbers<'a>(a: &'a Value, b: &'a Value) -> Option<(Number<'a>, Number<'a>)> {
    let number = |value: &'a Value| match value {
        Value::Huge(digits) => Some(Number::Huge(digits)),
        Value::Float(value) => Some(Number::Float(*value)),
        other => other.as_int().map(Number::Int),
    };
    Some((number(a)?, number(b)?))
}

/// The order of two numbers; `None` if one is not a number.
fn number_order(a: Number<'_>, b: Number<'_>) -> Option<Ordering> {
    // The order of a whole number and a float, exactly.
    let mixed = |int: i128, float: f64| -> Option<Ordering> {
        if float.is_nan() {
            return None;
        }
        let limit = 2f64.powi(127);
        if float >= limit {
            return Some(Ordering::Less);
        }
        if float < -limit {
            return Some(Ordering::Greater);
        }
        let whole = float.floor();
        Some(int.cmp(&(whole as i128)).then(if float > whole { Ordering::Less } else { Ordering::Equal }))
    };
    let huge = |digits: &str| match digits.strip_prefix('-') {
        Some(_) => Ordering::Less,
        None => Ordering::Greater,
    };
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(&b),
        (Number::Int(a), Number::Float(b)) => mixed(a, b),
        (Number::Float(a), Number::Int(b)) => mixed(b, a).map(Ordering::reverse),
        (Number::Huge(a), Number::Int(_)) => Some(huge(a)),
        (Number::Int(_), Number::Huge(b)) => Some(huge(b).reverse()),
        (Number::Huge(a), Number::Huge(b)) => Some(match (huge(a), huge(b)) {
            (Ordering::Greater, Ordering::Greater) => (a.len(), a).cmp(&(b.len(), b)),
            (Ordering::Less, Ordering::Less) => (b.len(), b).cmp(&(a.len(), a)),
            (a, b) => a.cmp(&b),
        }),
        (Number::Huge(a), Number::Float(b)) => a.parse().ok().and_then(|a: f64| a.partial_cmp(&b)),
        (Number::Float(a), Number::Huge(b)) => b.parse().ok().and_then(|b: f64| a.partial_cmp(&b)),
    }
}

/// The order of two values; `None` if one is not a number.
///
/// # Errors
/// When Python does not order them.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    fuel::spend(1)?;
    defined(a)?;
    defined(b)?;
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    if let Some((a, b)) = numbers(a, b) {
        return Ok(number_order(a, b));
    }
    match (a, b) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            match a.items.iter().zip(&b.items).find(|(a, b)| !equal(a, b)) {
                Some((a, b)) => compare(a, b),
                None => Ok(Some(a.items.len().cmp(&b.items.len()))),
            }
        }
        _ => {
            no_set(a, b)?;
            fail(format!("{} and {} have no order", a.kind(), b.kind()))
        }
    }
}

/// # Errors
/// For the operators of sets, which Python has for `dict.keys()` and `dict.items()`.
fn no_set(a: &Value, b: &Value) -> Result<()> {
    match (a, b) {
        (Value::View(..), _) | (_, Value::View(..)) => {
            Err(Error::unsupported("an operator of sets (add `|list`)"))
        }
        _ => Ok(()),
    }
}

/// Sorts, without changing the order of equal values.
///
/// # Errors
/// When Python does not order them.
pub(super) fn sort<T>(items: &mut [(Value, T)], reverse: bool) -> Result<()> {
    let mut error = None;
    items.sort_by(|(a, _), (b, _)| {
        let order = compare(a, b).unwrap_or_else(|e| {
            error.get_or_insert(e);
            None
        });
        let order = order.unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    error.map_or(Ok(()), Err)
}

/// `item in container`
///
/// # Errors
/// When the container has no items, or when text is asked for something else than text.
pub(super) fn contains(container: &Value, item: &Value) -> Result<bool> {
    match (container, item) {
        (Value::Str(text) | Value::Markup(text), item) => match item.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => fail(format!("{} cannot be in a string", item.kind())),
        },
        (Value::Dict(_) | Value::View(View::Keys, _), key) if !key.hashable() => {
            fail(format!("{} cannot be a key of a dict", key.kind()))
        }
        (Value::Dict(dict) | Value::View(View::Keys, dict), key) => Ok(dict.get(key).is_some()),
        (Value::Range(range), item) => Ok(match item.as_int() {
            Some(item) => item.checked_sub(range.start).is_some_and(|away| {
                away % range.step == 0 && (0..range.len() as i128).contains(&(away / range.step))
            }),
            None => (0..range.len()).any(|i| equal(&range.item(i), item)),
        }),
        (Value::Generator(generator), item) => {
            Ok(generator.items.borrow_mut().any(|other| equal(&other, item)))
        }
        (container, item) => Ok(container.iterate()?.iter().any(|other| equal(other, item))),
    }
}

/// # Errors
/// With the reason, when it is undefined.
pub(super) fn defined(value: &Value) -> Result<()> {
    match value {
        Value::Undefined(reason) => fail(&**reason),
        _ => Ok(()),
    }
}

/// The values as floats, if both are numbers.
fn floats(a: &Value, b: &Value) -> Result<Option<(f64, f64)>> {
    let float = |value: &Value| match value {
        Value::Float(value) => Ok(Some(*value)),
        other => match other.as_int() {
            Some(value) if value.abs() > EXACT => {
                Err(Error::unsupported("a float together with a whole number beyond 53 bits"))
            }
            value => Ok(value.map(|value| value as f64)),
        },
    };
    Ok(float(a)?.zip(float(b)?))
}

/// The result of an arithmetic operator.
///
/// # Errors
/// When the values have no such operator, and for what is not supported: whole numbers beyond 128 bits.
pub(super) fn binary(operator: Binary, a: &Value, b: &Value) -> Result<Value> {
    fuel::spend(1 + fuel::weight(a) + fuel::weight(b))?;
    if let (Binary::Mod, Value::Str(format)) = (operator, a) {
        return format::printf(format, b).map(Value::str);
    }
    defined(a)?;
    defined(b)?;
    if let Some(value) = sequences(operator, a, b)? {
        return Ok(value);
    }
    no_set(a, b)?;
    let number =
        |value: &Value| matches!(value, Value::Float(_) | Value::Huge(_)) || value.as_int().is_some();
    if !(number(a) && number(b)) {
        let sign = match operator {
            Binary::Add => "+",
            Binary::Sub => "-",
            Binary::Mul => "*",
            Binary::Div => "/",
            Binary::FloorDiv => "//",
            Binary::Mod => "%",
            Binary::Pow => "**",
        };
        return fail(format!("`{sign}` has no meaning between {} and {}", a.kind(), b.kind()));
    }
    let beyond = || Error::unsupported("arithmetic with whole numbers beyond 128 bits");
    if matches!(a, Value::Huge(_)) || matches!(b, Value::Huge(_)) {
        return Err(beyond());
    }
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        let zero = matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod) && y == 0;
        if zero || (operator == Binary::Pow && x == 0 && y < 0) {
            return fail("division by zero");
        }
        let result = match operator {
            Binary::Add => x.checked_add(y),
            Binary::Sub => x.checked_sub(y),
            Binary::Mul => x.checked_mul(y),
            Binary::FloorDiv => {
                let towards_zero = x.checked_div(y).ok_or_else(beyond)?;
                Some(towards_zero - i128::from(x % y != 0 && (x < 0) != (y < 0)))
            }
            Binary::Mod => {
                let rest = x.checked_rem(y).ok_or_else(beyond)?;
                Some(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })
            }
            Binary::Pow if y >= 0 => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
            Binary::Div | Binary::Pow => return decimal(operator, a, b),
        };
        return result.map(Value::Int).ok_or_else(beyond);
    }
    decimal(operator, a, b)
}

/// Arithmetic of floats.
fn decimal(operator: Binary, a: &Value, b: &Value) -> Result<Value> {
    let Some((x, y)) = floats(a, b)? else { return fail("not a number") };
    if y == 0.0 && matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod) {
        return fail("division by zero");
    }
    // As CPython computes them: the remainder has the sign of the divisor.
    let towards_zero = x % y;
    let other_sign = towards_zero != 0.0 && (towards_zero < 0.0) != (y < 0.0);
    let remainder = match towards_zero == 0.0 {
        true => 0f64.copysign(y),
        false => towards_zero + if other_sign { y } else { 0.0 },
    };
    Ok(Value::Float(match operator {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Mod => remainder,
        Binary::FloorDiv => {
            let quotient = (x - towards_zero) / y - f64::from(u8::from(other_sign));
            match quotient == 0.0 {
                true => 0f64.copysign(x / y),
                false => quotient.floor() + f64::from(u8::from(quotient - quotient.floor() > 0.5)),
            }
        }
        Binary::Pow => {
            if x == 0.0 && y < 0.0 {
                return fail("division by zero");
            }
            if x < 0.0 && y.fract() != 0.0 {
                return Err(Error::unsupported("a complex number (the root of a negative number)"));
            }
            let power = x.powf(y);
            if power.is_infinite() && x.is_finite() && y.is_finite() {
                return fail("the power is too large for a float");
            }
            power
        }
    }))
}

/// `+` and `*` of texts, lists and tuples.
fn sequences(operator: Binary, a: &Value, b: &Value) -> Result<Option<Value>> {
    let (times, sequence) = match (a.as_int(), b.as_int()) {
        (Some(times), None) => (Some(times), b),
        (None, Some(times)) => (Some(times), a),
        _ => (None, a),
    };
    let times = times.map(|times| times.max(0) as u128);
    let repeated = |length: usize, times: u128| -> Result<usize> {
        check_size(times.saturating_mul(length.max(1) as u128))?;
        Ok(times as usize)
    };
    let copies = |items: &[Value], times: u128| -> Result<Vec<Value>> {
        let times = repeated(items.len(), times)?;
        Ok(std::iter::repeat_n(items, times).flatten().cloned().collect())
    };
    Ok(Some(match (operator, times) {
        (Binary::Add, None) => match (a, b) {
            (Value::Str(a), Value::Str(b)) => Value::str([&**a, b].concat()),
            (Value::Markup(_), Value::Str(_) | Value::Markup(_)) | (Value::Str(_), Value::Markup(_)) => {
                let safe = |value: &Value| match value {
                    Value::Str(text) => escape(text),
                    other => display(other).unwrap_or_default(),
                };
                Value::Markup((safe(a) + &safe(b)).into())
            }
            (Value::List(a), Value::List(b)) => Value::list([a.items.as_slice(), &b.items].concat()),
            (Value::Tuple(a), Value::Tuple(b)) => Value::tuple([a.items.as_slice(), &b.items].concat()),
            _ => return Ok(None),
        },
        (Binary::Mul, Some(times)) => match sequence {
            Value::Str(text) => Value::str(text.repeat(repeated(text.len(), times)?)),
            Value::List(items) => Value::list(copies(&items.items, times)?),
            Value::Tuple(items) => Value::tuple(copies(&items.items, times)?),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// `-value`
///
/// # Errors
/// When the value is not a number.
pub(super) fn negative(value: &Value) -> Result<Value> {
    defined(value)?;
    match value {
        Value::Float(value) => Ok(Value::Float(-value)),
        Value::Huge(digits) => {
            let digits = digits.strip_prefix('-').map_or_else(|| format!("-{digits}"), str::to_owned);
            Ok(Value::literal(&super::lexer::whole_number(&digits)))
        }
        other => match other.as_int() {
            Some(i128::MIN) => Err(Error::unsupported("arithmetic with whole numbers beyond 128 bits")),
            Some(value) => Ok(Value::Int(-value)),
            None => fail(format!("`-` has no meaning before {}", other.kind())),
        },
    }
}

/// `value[start:stop:step]`
///
/// # Errors
/// When the value has no parts, a bound is not a whole number, or the step is 0.
pub(super) fn slice(value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
    defined(value)?;
    let [start, stop, step] = bounds.map(|bound| match bound {
        None | Some(Value::None) => Ok(None),
        Some(bound) => match bound.as_int() {
            Some(bound) => Ok(Some(bound)),
            None => fail(format!("the bounds of a slice must be whole numbers, not {}", bound.kind())),
        },
    });
    let (start, stop, step) = (start?, stop?, step?.unwrap_or(1));
    if step == 0 {
        return fail("the step of a slice cannot be 0");
    }
    let pick = |length: usize| -> Vec<usize> {
        let length = length as i128;
        // The bounds that Python's `slice.indices` gives.
        let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let clamp = |bound: i128| if bound < 0 { (bound + length).max(lowest) } else { bound.min(highest) };
        let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
        let (mut at, end) = (start.map_or(first, clamp), stop.map_or(last, clamp));
        let mut indices = Vec::new();
        while if step > 0 { at < end } else { at > end } {
            indices.push(at as usize);
            at = at.saturating_add(step);
        }
        indices
    };
    let items = |items: &[Value]| pick(items.len()).into_iter().map(|i| items[i].clone()).collect();
    Ok(match value {
        Value::Str(text) | Value::Markup(text) => {
            let characters: Vec<char> = text.chars().collect();
            let part: String = pick(characters.len()).into_iter().map(|i| characters[i]).collect();
            if matches!(value, Value::Str(_)) { Value::str(part) } else { Value::Markup(part.into()) }
        }
        Value::List(list) => Value::list(items(&list.items)),
        Value::Tuple(tuple) => Value::tuple(items(&tuple.items)),
        Value::Range(_) => return Err(Error::unsupported("a slice of a range (add `|list`)")),
        Value::Group(_) => return Err(Error::unsupported("a slice of a group (add `|list`)")),
        other => return fail(format!("{} has no slices", other.kind())),
    })
}
