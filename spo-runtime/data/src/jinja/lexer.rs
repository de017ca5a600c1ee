//! From the text of a template to tokens, with Jinja's rules for white space around tags.

use super::ast::Literal;
use super::error::{Error, Result, fail};
use super::strings::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Text(String),
    PrintStart,
    PrintEnd,
    BlockStart,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    /// A whole number beyond 128 bits.
    Huge(String),
    Float(f64),
    /// An operator, a bracket or other punctuation.
    Sign(&'static str),
    End,
}

/// A token and the line it begins on.
pub(super) type Placed = (Token, usize);

/// Longest first, so that `**` is not read as two `*`.
const SIGNS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";", "!",
];

/// Splits a template into tokens.
///
/// # Errors
/// For a tag or string without an end, and characters that mean nothing.
pub(super) fn tokens(source: &str) -> Result<Vec<Placed>> {
    // Every kind of line ending is `\n`, and one at the end of the template is dropped.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line_start: true, counted: (1, 0), tokens: Vec::new() };
    match lexer.template() {
        Ok(()) => {
            let line = lexer.line();
            lexer.tokens.push((Token::End, line));
            Ok(lexer.tokens)
        }
        Err(error) => Err(error.at(lexer.line())),
    }
}

struct Lexer<'a> {
    source: &'a str,
    /// Byte position.
    at: usize,
    /// Whether the last tag ended with a line break.
    line_start: bool,
    /// A line and the byte position it was counted for.
    counted: (usize, usize),
    tokens: Vec<Placed>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// The line of the position.
    fn line(&mut self) -> usize {
        // Counted from the last token: from the beginning each time would be quadratic.
        let (line, at) = self.counted;
        self.counted = (line + self.source[at..self.at].matches('\n').count(), self.at);
        self.counted.0
    }

    fn push(&mut self, token: Token) {
        let line = self.line();
        self.tokens.push((token, line));
    }

    fn template(&mut self) -> Result<()> {
        loop {
            let start = self.rest().match_indices('{').find_map(|(i, _)| {
                let kind = self.rest()[i + 1..].chars().next()?;
                matches!(kind, '{' | '%' | '#').then_some((i, kind))
            });
            let Some((length, kind)) = start else {
                let text = self.rest().to_owned();
                self.text(&text);
                self.at = self.source.len();
                return Ok(());
            };
            let text = self.rest()[..length].to_owned();
            let sign = self.rest()[length + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let text = self.before(&text, sign, kind != '{');
            self.text(&text);
            self.at += length + 2 + usize::from(sign.is_some());
            match kind {
                '#' => self.comment()?,
                '%' if self.raw_begins() => self.raw()?,
                '%' => self.tag(Token::BlockStart, Token::BlockEnd, "%}")?,
                _ => self.tag(Token::PrintStart, Token::PrintEnd, "}}")?,
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Text(text.to_owned()));
        }
    }

    /// The text before a tag, without the white space that the tag takes away.
    fn before(&self, text: &str, sign: Option<char>, block: bool) -> String {
        match sign {
            Some('-') => text.trim_end_matches(is_space).to_owned(),
            None if block => {
                let last_line = text.rfind('\n').map_or(0, |i| i + 1);
                let alone = (last_line > 0 || self.line_start) && text[last_line..].chars().all(is_space);
                if alone { text[..last_line].to_owned() } else { text.to_owned() }
            }
            _ => text.to_owned(),
        }
    }

    /// Steps over the end of a tag, of which `sign` and the delimiter have been seen, and over the white space
    /// that it takes away.
    fn after(&mut self, sign: Option<char>, block: bool) {
        let end = self.at;
        if sign == Some('-') {
            self.at += self.rest().len() - self.rest().trim_start_matches(is_space).len();
        } else if sign.is_none() && block && self.rest().starts_with('\n') {
            self.at += 1;
        }
        self.line_start = self.source[end..self.at].ends_with('\n');
    }

    fn comment(&mut self) -> Result<()> {
        let Some(length) = self.rest().find("#}") else { return fail("a comment without its end `#}`") };
        let sign = self.rest()[..length].chars().last().filter(|c| matches!(c, '-' | '+'));
        self.at += length + 2;
        self.after(sign, true);
        Ok(())
    }

    /// Whether `raw` and the end of its tag follow; steps over them.
    fn raw_begins(&mut self) -> bool {
        let Some(rest) = self.rest().trim_start_matches(is_space).strip_prefix("raw") else { return false };
        let rest = rest.trim_start_matches(is_space);
        let (rest, sign) = match rest.strip_prefix('-') {
            Some(rest) => (rest, Some('-')),
            None => (rest, None),
        };
        let Some(rest) = rest.strip_prefix("%}") else { return false };
        self.at = self.source.len() - rest.len();
        self.after(sign, false);
        true
    }

    /// Text up to `endraw`.
    fn raw(&mut self) -> Result<()> {
        let mut from = 0;
        while let Some(start) = self.rest()[from..].find("{%") {
            let start = from + start;
            let tag = &self.rest()[start + 2..];
            let sign = tag.chars().next().filter(|c| matches!(c, '-' | '+'));
            let inner = tag[usize::from(sign.is_some())..].trim_start_matches(is_space);
            if let Some(rest) = inner.strip_prefix("endraw") {
                let rest = rest.trim_start_matches(is_space);
                let closing = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
                if let Some(rest) = rest[usize::from(closing.is_some())..].strip_prefix("%}") {
                    let end = self.source.len() - rest.len();
                    let text = self.rest()[..start].to_owned();
                    let text = self.before(&text, sign, true);
                    self.text(&text);
                    self.at = end;
                    self.after(closing, true);
                    return Ok(());
                }
            }
            from = start + 2;
        }
        fail("`raw` without `endraw`")
    }

    /// The tokens of a tag.
    fn tag(&mut self, start: Token, end: Token, delimiter: &str) -> Result<()> {
        self.push(start);
        let block = delimiter == "%}";
        let mut open: Vec<&str> = Vec::new();
        loop {
            self.at += self.rest().len() - self.rest().trim_start_matches(is_space).len();
            // `}}` inside of brackets closes two dicts.
            if open.is_empty() {
                let sign = self.rest().chars().next().filter(|c| *c == '-' || (*c == '+' && block));
                if self.rest()[usize::from(sign.is_some())..].starts_with(delimiter) {
                    self.push(end);
                    self.at += delimiter.len() + usize::from(sign.is_some());
                    self.after(sign, block);
                    return Ok(());
                }
            }
            let Some(first) = self.rest().chars().next() else {
                return fail(format!("a tag without its end `{delimiter}`"));
            };
            match first {
                '\'' | '"' => self.string(first)?,
                '0'..='9' => self.number()?,
                c if c.is_alphabetic() || c == '_' => {
                    let rest = self.rest();
                    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    let name = rest[..length].to_owned();
                    self.push(Token::Name(name));
                    self.at += length;
                }
                _ => {
                    let Some(sign) = SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) else {
                        return fail(format!("unexpected `{first}`"));
                    };
                    match *sign {
                        "[" => open.push("]"),
                        "(" => open.push(")"),
                        "{" => open.push("}"),
                        "]" | ")" | "}" if open.pop() != Some(*sign) => {
                            return fail(format!("unexpected `{sign}`"));
                        }
                        _ => {}
                    }
                    self.push(Token::Sign(sign));
                    self.at += sign.len();
                }
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let mut escaped = false;
        let end = self.rest()[1..].char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((length, _)) = end else { return fail("a string without its end") };
        let text = unescaped(&self.rest()[1..=length])?;
        self.push(Token::Str(text));
        self.at += length + 2;
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
            if rest.len() > 2 && rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
                let length = 2 + digits(&rest[2..], radix);
                let value = i128::from_str_radix(&rest[2..length].replace('_', ""), radix)
                    .map_err(|_| Error::new(format!("not a number: `{}`", &rest[..length])))?;
                self.push(Token::Int(value));
                self.at += length;
                return Ok(());
            }
        }
        let mut length = digits(rest, 10);
        let whole = length;
        // In `list.0.1`, `0.1` is not a number.
        if !self.source[..self.at].ends_with('.') {
            let fraction = |at: usize| match rest[at..].strip_prefix('.') {
                Some(more) if more.starts_with(|c: char| c.is_ascii_digit()) => 1 + digits(more, 10),
                _ => 0,
            };
            length += fraction(length);
            if let Some(more) = rest[length..].strip_prefix(['e', 'E']) {
                let sign = usize::from(more.starts_with(['+', '-']));
                if more[sign..].starts_with(|c: char| c.is_ascii_digit()) {
                    length += 1 + sign + digits(&more[sign..], 10);
                }
            }
        }
        let text = rest[..length].replace('_', "");
        let token = if length > whole {
            Token::Float(text.parse().map_err(|_| Error::new(format!("not a number: `{text}`")))?)
        } else if text.len() > 1 && text.starts_with('0') && text.bytes().any(|b| b != b'0') {
            return fail(format!("not a number: `{text}`"));
        } else {
            match whole_number(&text) {
                Literal::Int(value) => Token::Int(value),
                _ => Token::Huge(text),
            }
        };
        self.push(token);
        self.at += length;
        Ok(())
    }
}

/// A whole number by its decimal digits, with a sign if it is negative.
pub(super) fn whole_number(text: &str) -> Literal {
    text.parse().map_or_else(|_| Literal::Huge(text.to_owned()), Literal::Int)
}

/// Length of the digits at the beginning; single underscores may part them.
fn digits(text: &str, radix: u32) -> usize {
    let mut length = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((i, c)) = characters.next() {
        let part = c == '_' && characters.peek().is_some_and(|(_, next)| next.is_digit(radix));
        if !c.is_digit(radix) && !part {
            break;
        }
        length = i + 1;
    }
    length
}

/// The text of a string literal, with Python's escapes.
fn unescaped(literal: &str) -> Result<String> {
    let mut text = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(start) = rest.find('\\') {
        text.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let Some(c) = rest.chars().next() else { break };
        rest = &rest[c.len_utf8()..];
        let plain = match c {
            '\n' => continue,
            '\\' | '\'' | '"' => c,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let octal = format!("{c}{}", &rest[..more]);
                rest = &rest[more..];
                u32::from_str_radix(&octal, 8).ok().and_then(char::from_u32).unwrap_or_default()
            }
            'x' | 'u' | 'U' => {
                let length = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = rest.get(..length).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                let Some(code) = code else { return fail(format!("malformed escape `\\{c}` in a string")) };
                rest = &rest[length..];
                char::from_u32(code)
                    .ok_or_else(|| Error::unsupported(format!("half a character (`\\{c}{code:x}`)")))?
            }
            'N' => return Err(Error::unsupported("a character by its name (`\\N`)")),
            other => {
                text.push('\\');
                other
            }
        };
        text.push(plain);
    }
    Ok(text + rest)
}
