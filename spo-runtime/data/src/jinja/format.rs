//! Python's two ways to format text: `'%s' % value` and `'{}'.format(value)`.

use super::arguments::Arguments;
use super::error::{Error, Result, fail};
use super::machine::Machine;
use super::strings::pad;
use super::text::{display, exponent, printable, push, repr};
use super::value::{Value, check_size};
use super::{attributes, operators};

/// How a field is to be formatted.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^`, or `=` for padding after the sign.
    align: Option<char>,
    /// `+`, `-` or a blank.
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    /// `,` or `_` between the thousands.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `format % values`, printf-style.
pub(super) fn printf(format: &str, values: &Value) -> Result<String> {
    let single = [values.clone()];
    let positional: &[Value] = match values {
        Value::Tuple(items) => &items.items,
        Value::Group(_) => return Err(Error::unsupported("a group as the values of `%`")),
        _ => &single,
    };
    let mut left = positional.iter();
    let mut named = false;
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut key = None;
        if rest.next_if_eq(&'(').is_some() {
            let name: String = rest.by_ref().take_while(|c| *c != ')').collect();
            if name.contains('(') {
                return Err(Error::unsupported("a bracket in the name of `%(name)`"));
            }
            key = Some(name);
        }
        let mut spec = Spec::default();
        let mut left_aligned = false;
        while let Some(flag) = rest.next_if(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                '-' => left_aligned = true,
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        let mut next = || left.next().cloned().ok_or_else(|| Error::new("`%` has more fields than values"));
        if rest.next_if_eq(&'*').is_some() {
            let width = next()?;
            let Some(width) = width.as_int() else { return fail("`*` needs a whole number") };
            left_aligned |= width < 0;
            spec.width = size(width.unsigned_abs())?;
        } else {
            spec.width = number(&mut rest)?.unwrap_or(0);
        }
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(if rest.next_if_eq(&'*').is_some() {
                let precision = next()?;
                let Some(precision) = precision.as_int() else { return fail("`*` needs a whole number") };
                size(precision.max(0) as u128)?
            } else {
                number(&mut rest)?.unwrap_or(0)
            });
        }
        while rest.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = rest.next() else { return fail("the format ends after `%`") };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match &key {
            Some(key) => {
                named = true;
                let Value::Dict(dict) = values else { return fail("`%(name)` needs a dict") };
                let found = dict.text(key).cloned();
                found.ok_or_else(|| Error::new(format!("the dict has no key `{key}`")))?
            }
            None => next()?,
        };
        spec.align = Some(if left_aligned { '<' } else { '>' });
        push(&mut out, &conversion(kind, &value, spec)?)?;
    }
    let mapping = matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
    if left.next().is_some() && !mapping && !named {
        return fail("`%` has more values than fields");
    }
    Ok(out)
}

/// One field of a printf-style format.
fn conversion(kind: char, value: &Value, mut spec: Spec) -> Result<String> {
    let left = spec.align == Some('<');
    let text = match kind {
        's' => display(value)?,
        'r' => repr(value)?,
        'a' => repr(value)?.chars().map(ascii).collect(),
        'c' => match (value.as_str(), value.as_int()) {
            (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
            (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                Some(c) => c.to_string(),
                None => return fail("`%c` needs the code of a character"),
            },
            _ => return fail("`%c` needs a character"),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match value {
                Value::Float(x) if matches!(kind, 'd' | 'i' | 'u') => Some(truncated(*x)?),
                Value::Huge(_) => return Err(Error::unsupported("`%` with whole numbers beyond 128 bits")),
                other => other.as_int(),
            };
            let Some(whole) = whole else {
                return fail(format!("`%{kind}` needs a number, not {}", value.kind()));
            };
            let digits = radix(whole.unsigned_abs(), kind);
            let digits = pad(&digits, spec.precision.unwrap_or(0).saturating_sub(digits.len()), 0, '0');
            let prefix = match (spec.alternate, kind) {
                (true, 'x') => "0x",
                (true, 'X') => "0X",
                (true, 'o') => "0o",
                _ => "",
            };
            return Ok(padded_number(whole < 0, prefix, &digits, &spec, left));
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let x = match value {
                Value::Float(x) => *x,
                other => match other.as_int() {
                    Some(x) => x as f64,
                    None => return fail(format!("`%{kind}` needs a number, not {}", value.kind())),
                },
            };
            spec.kind = Some(kind);
            let digits = float_digits(x.abs(), kind, spec.precision.unwrap_or(6), spec.alternate)?;
            spec.zero &= x.is_finite();
            return Ok(padded_number(x.is_sign_negative() && !x.is_nan(), "", &digits, &spec, left));
        }
        other => return fail(format!("unknown field `%{other}`")),
    };
    let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
    let padding = spec.width.saturating_sub(text.chars().count());
    Ok(if left { pad(&text, 0, padding, ' ') } else { pad(&text, padding, 0, ' ') })
}

/// A number with its sign, padded with blanks, or with zeros after the sign.
fn padded_number(negative: bool, prefix: &str, digits: &str, spec: &Spec, left: bool) -> String {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let padding = spec.width.saturating_sub(sign.len() + prefix.len() + digits.len());
    if spec.zero && !left {
        return format!("{sign}{prefix}{}", pad(digits, padding, 0, '0'));
    }
    let text = format!("{sign}{prefix}{digits}");
    if left { pad(&text, 0, padding, ' ') } else { pad(&text, padding, 0, ' ') }
}

fn ascii(c: char) -> String {
    let code = u32::from(c);
    match code {
        0..=0x7f => c.to_string(),
        0x80..=0xff => format!("\\x{code:02x}"),
        0x100..=0xffff => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// The whole part of a float.
///
/// # Errors
/// When it has none, or more than 128 bits.
pub(super) fn truncated(x: f64) -> Result<i128> {
    if !x.is_finite() {
        return fail("infinity and nan are no whole numbers");
    }
    if x.abs() >= 2f64.powi(127) {
        return Err(Error::unsupported("a whole number beyond 128 bits"));
    }
    Ok(x.trunc() as i128)
}

fn radix(value: u128, kind: char) -> String {
    match kind {
        'x' => format!("{value:x}"),
        'X' => format!("{value:X}"),
        'o' => format!("{value:o}"),
        'b' => format!("{value:b}"),
        _ => value.to_string(),
    }
}

/// Digits after the point that are left to ask for: a float has at most 1074.
const MOST_DIGITS: usize = 2000;

/// A float that is not negative, in one of the forms of C.
///
/// # Errors
/// When more digits are asked for than a float can have.
fn float_digits(x: f64, kind: char, precision: usize, alternate: bool) -> Result<String> {
    if precision > MOST_DIGITS {
        return Err(Error::unsupported(format!("a precision above {MOST_DIGITS} digits")));
    }
    let text = if x.is_nan() {
        "nan".to_owned()
    } else if x.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{x:.precision$}"),
            'e' => exponent(&format!("{x:.precision$e}")),
            _ => general(x, precision.max(1), alternate),
        }
    };
    Ok(if kind.is_ascii_uppercase() { text.to_uppercase() } else { text })
}

/// The form `g`: significant digits without zeros at the end, with an exponent where that is shorter.
fn general(x: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{x:.*e}", precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let strip = |digits: &str| match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..precision as i64).contains(&power) {
        return strip(&format!("{x:.*}", (precision as i64 - 1 - power) as usize));
    }
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    exponent(&format!("{}e{power}", strip(digits)))
}

fn size(size: u128) -> Result<usize> {
    check_size(size)?;
    Ok(size as usize)
}

/// Digits, if some follow.
fn number(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>> {
    let mut value: Option<u128> = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        rest.next();
        value = Some(value.unwrap_or(0).saturating_mul(10).saturating_add(digit.into()));
    }
    value.map(size).transpose()
}

/// `text.format(...)`
pub(super) fn str_format(machine: &Machine, text: &str, arguments: &Arguments) -> Result<String> {
    Formatter { machine, arguments, automatic: 0, manual: false }.fill(text, 2)
}

struct Formatter<'a> {
    machine: &'a Machine,
    arguments: &'a Arguments,
    /// The next field without a number.
    automatic: usize,
    /// Whether a field had a number.
    manual: bool,
}

impl Formatter<'_> {
    /// Replaces the fields of a text; those in the specification of a field may have fields too.
    fn fill(&mut self, text: &str, depth: usize) -> Result<String> {
        if depth == 0 && text.contains(['{', '}']) {
            return fail("the fields of `format` are nested too deeply");
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let (brace, more) = rest[at..].split_at(1);
            if more.starts_with(brace) && depth == 2 {
                out.push_str(brace);
                rest = &more[1..];
                continue;
            }
            if brace == "}" {
                return fail("`format` has a `}` without its `{`");
            }
            let mut level = 1;
            let end = more.find(|c| {
                level += i32::from(c == '{') - i32::from(c == '}');
                level == 0
            });
            let Some(end) = end else { return fail("`format` has a `{` without its `}`") };
            push(&mut out, &self.field(&more[..end], depth)?)?;
            rest = &more[end + 1..];
        }
        Ok(out + rest)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let end = field.find([':', '!']).unwrap_or(field.len());
        let (name, more) = field.split_at(end);
        let (conversion, spec) = match more.strip_prefix('!') {
            Some(more) => match more.split_once(':') {
                Some((conversion, spec)) => (conversion, spec),
                None => (more, ""),
            },
            None => ("", more.strip_prefix(':').unwrap_or("")),
        };
        let value = self.value(name)?;
        let value = match conversion {
            "" => value,
            "s" => Value::str(display(&value)?),
            "r" => Value::str(repr(&value)?),
            "a" => Value::str(repr(&value)?.chars().map(ascii).collect::<String>()),
            other => return fail(format!("unknown conversion `!{other}` in `format`")),
        };
        let spec = self.fill(spec, depth - 1)?;
        formatted(&value, &spec)
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let given = &self.arguments.positional;
        let index = match first {
            "" if self.manual => return fail("`format` mixes fields with and without numbers"),
            "" => {
                self.automatic += 1;
                Some(self.automatic - 1)
            }
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                self.manual = true;
                if self.automatic > 0 {
                    return fail("`format` mixes fields with and without numbers");
                }
                number.parse().ok()
            }
            _ => None,
        };
        let mut value = match index {
            Some(index) => given.get(index).cloned(),
            None => {
                self.arguments.named.iter().find(|(name, _)| name == first).map(|(_, value)| value.clone())
            }
        }
        .ok_or_else(|| Error::new(format!("`format` has no value for `{{{name}}}`")))?;
        while !rest.is_empty() {
            if let Some(more) = rest.strip_prefix('[') {
                let Some((key, more)) = more.split_once(']') else {
                    return fail("`format` has a `[` without `]`");
                };
                let key = key.parse().map_or_else(|_| Value::str(key), Value::Int);
                value = attributes::item(self.machine, &value, &key)?;
                rest = more;
            } else {
                let more = rest.strip_prefix('.').unwrap_or(rest);
                let end = more.find(['.', '[']).unwrap_or(more.len());
                value = attributes::attribute(self.machine, &value, &more[..end])?;
                rest = &more[end..];
            }
            operators::defined(&value)?;
        }
        Ok(value)
    }
}

/// `format(value, spec)`
fn formatted(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return display(value);
    }
    let mut parsed = Spec::default();
    let mut rest = spec.chars().peekable();
    let mut ahead = spec.chars();
    let (first, second) = (ahead.next(), ahead.next());
    if second.is_some_and(|c| "<>^=".contains(c)) {
        (parsed.fill, parsed.align) = (first, second);
        rest.nth(1);
    } else if first.is_some_and(|c| "<>^=".contains(c)) {
        parsed.align = first;
        rest.next();
    }
    parsed.sign = rest.next_if(|c| "+- ".contains(*c));
    parsed.alternate = rest.next_if_eq(&'#').is_some();
    parsed.zero = rest.next_if_eq(&'0').is_some();
    parsed.width = number(&mut rest)?.unwrap_or(0);
    parsed.grouping = rest.next_if(|c| ",_".contains(*c));
    if rest.next_if_eq(&'.').is_some() {
        parsed.precision = number(&mut rest)?;
        if parsed.precision.is_none() {
            return fail("a precision is missing in `format`");
        }
    }
    parsed.kind = rest.next();
    if rest.next().is_some() || parsed.alternate {
        return Err(Error::unsupported(format!("the format `{spec}`")));
    }
    match value {
        Value::Str(text) => match parsed.kind {
            None | Some('s')
                if parsed.sign.is_none() && parsed.align != Some('=') && parsed.grouping.is_none() =>
            {
                let text: String = text.chars().take(parsed.precision.unwrap_or(usize::MAX)).collect();
                let fill = parsed.fill.unwrap_or(if parsed.zero { '0' } else { ' ' });
                Ok(aligned(&text, parsed.align.unwrap_or('<'), fill, parsed.width))
            }
            _ => fail(format!("the format `{spec}` has no meaning for a string")),
        },
        Value::Float(x) => formatted_float(*x, spec, &parsed),
        other => match (other.as_int(), parsed.kind) {
            (Some(whole), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                if whole.unsigned_abs() > 1 << 53 {
                    return Err(Error::unsupported(format!("the format `{spec}` of so large a number")));
                }
                formatted_float(whole as f64, spec, &parsed)
            }
            (Some(whole), None | Some('d' | 'x' | 'X' | 'o' | 'b')) if parsed.precision.is_none() => {
                let digits = radix(whole.unsigned_abs(), parsed.kind.unwrap_or('d'));
                signed(whole < 0, &digits, &parsed)
            }
            (Some(_), _) => fail(format!("the format `{spec}` has no meaning for an int")),
            _ => fail(format!("the format `{spec}` has no meaning for {}", other.kind())),
        },
    }
}

fn formatted_float(x: f64, spec: &str, parsed: &Spec) -> Result<String> {
    let digits = match (parsed.kind, parsed.precision) {
        (Some('%'), precision) => float_digits(x.abs() * 100.0, 'f', precision.unwrap_or(6), false)? + "%",
        (Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')), precision) => {
            float_digits(x.abs(), kind, precision.unwrap_or(6), false)?
        }
        (None, None) => super::text::float(x.abs()),
        _ => return Err(Error::unsupported(format!("the format `{spec}` of a float"))),
    };
    signed(x.is_sign_negative() && !x.is_nan(), &digits, parsed)
}

/// A number with sign, separators of thousands and padding.
fn signed(negative: bool, digits: &str, spec: &Spec) -> Result<String> {
    let digits = match spec.grouping {
        None => digits.to_owned(),
        Some(_) if spec.zero || spec.kind.is_some_and(|kind| "xXob".contains(kind)) => {
            return Err(Error::unsupported("separators of thousands together with zeros or other bases"));
        }
        Some(separator) => {
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            let (whole, rest) = digits.split_at(end);
            let mut grouped = String::new();
            for (i, c) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i) % 3 == 0 {
                    grouped.push(separator);
                }
                grouped.push(c);
            }
            grouped + rest
        }
    };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { '>' });
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    if align == '=' {
        return Ok(format!("{sign}{}", aligned(&digits, '>', fill, spec.width.saturating_sub(sign.len()))));
    }
    Ok(aligned(&format!("{sign}{digits}"), align, fill, spec.width))
}

fn aligned(text: &str, align: char, fill: char, width: usize) -> String {
    let padding = width.saturating_sub(text.chars().count());
    match align {
        '<' => pad(text, 0, padding, fill),
        '^' => pad(text, padding / 2, padding - padding / 2, fill),
        _ => pad(text, padding, 0, fill),
    }
}

/// Whether all characters are printed as they are (`str.isprintable`).
pub(super) fn all_printable(text: &str) -> bool {
    text.chars().all(printable)
}
