//! Python's operations on text.

use super::error::{Error, Result};

/// White space, as `str.isspace` knows it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `&`, `<`, `>` and quotes, escaped for HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `str.splitlines`
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The first letter of a word. Some letters have a third form besides upper and lower case.
fn title_case(c: char) -> String {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".to_owned(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".to_owned(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".to_owned(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".to_owned(),
        c => {
            let mut upper = c.to_uppercase();
            let first: String = upper.by_ref().take(1).collect();
            first + &upper.flat_map(char::to_lowercase).collect::<String>()
        }
    }
}

/// `str.capitalize`
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(title_case).unwrap_or_default();
    first + &characters.as_str().to_lowercase()
}

pub(super) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// `str.title`: every letter that does not follow a letter begins a word.
pub(super) fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&title_case(c)),
        }
        inside = is_cased(c);
    }
    out
}

pub(super) fn swapped_case(text: &str) -> String {
    let swap = |c: char| {
        if c.is_uppercase() { c.to_lowercase().collect::<String>() } else { c.to_uppercase().collect() }
    };
    text.chars().map(swap).collect()
}

/// Whether all characters are of one kind, and there are some.
///
/// # Errors
/// When Python's tables would be needed: for digits and marks outside of ASCII.
pub(super) fn all(text: &str, method: &str, kind: impl Fn(char) -> bool) -> Result<bool> {
    let doubtful = |c: char| {
        !c.is_ascii() && (c.is_numeric() || !(c.is_alphabetic() || is_space(c) || !c.is_alphanumeric()))
    };
    if text.chars().any(doubtful) {
        return Err(Error::unsupported(format!("`{method}` of digits outside of ASCII")));
    }
    Ok(!text.is_empty() && text.chars().all(kind))
}

/// Centres text in `width` characters, as `str.center` does.
pub(super) fn centered(text: &str, width: usize, fill: char) -> String {
    let length = text.chars().count();
    let padding = width.saturating_sub(length);
    let left = padding / 2 + (padding & width & 1);
    pad(text, left, padding - left, fill)
}

/// Text with `left` and `right` characters of padding.
pub(super) fn pad(text: &str, left: usize, right: usize, fill: char) -> String {
    let fill = |n: usize| std::iter::repeat_n(fill, n);
    fill(left).chain(text.chars()).chain(fill(right)).collect()
}

/// The position of a character, counted in characters, by its position in bytes.
pub(super) fn characters_before(text: &str, byte: usize) -> usize {
    text[..byte].chars().count()
}
