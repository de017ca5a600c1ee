//! Rows with whole numbers of any size.
//!
//! The JSON values of this program hold whole numbers of up to 64 bits, and longer ones as floats. Python holds
//! all of them, and a chat template prints all of their digits. So where a template can see a number, a longer one is
//! kept as an object that [`WHOLE_NUMBER`] names.

use serde_json::{Number, Value};

use crate::jinja::WHOLE_NUMBER;

/// Columns whose values a chat template sees.
const SEEN: [&str; 8] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "messages",
    "conversations",
    "tools",
    "chat_template_kwargs",
];

/// A number of a file that is no JSON, which has neither NaN nor infinity. NaN becomes null: tables of data frames have it where
/// a number is missing. Infinity becomes its name, so that it is refused where a number is wanted.
pub(super) fn float(x: f64) -> Value {
    match Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => Value::Null,
        None => Value::String(x.to_string()),
    }
}

/// Parses a row.
///
/// # Errors
/// When the text is not JSON.
pub(super) fn row(text: &str) -> serde_json::Result<Value> {
    let mut row: Value = serde_json::from_str(text)?;
    if let Some(marked) = with_objects(text) {
        let whole: Value = serde_json::from_str(&marked)?;
        for column in SEEN {
            if let (Some(place), Some(value)) = (row.get_mut(column), whole.get(column)) {
                *place = value.clone();
            }
        }
    }
    Ok(row)
}

/// Parses JSON that a chat template sees.
///
/// # Errors
/// When the text is not JSON.
pub(crate) fn seen(text: &str) -> serde_json::Result<Value> {
    // Parsed as it is first, so that an error tells the right place.
    let value = serde_json::from_str(text)?;
    with_objects(text).map_or(Ok(value), |marked| serde_json::from_str(&marked))
}

/// JSON with an object in place of every whole number beyond 64 bits; `None` if there are none.
fn with_objects(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut marked: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let start = at;
                at += 1;
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || b".+-".contains(&bytes[at])) {
                    at += 1;
                }
                let number = &json[start..at];
                let whole = number.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit());
                if whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    let out = marked.get_or_insert_default();
                    out.push_str(&json[copied..start]);
                    let name = Value::from(WHOLE_NUMBER);
                    out.push_str(&format!("{{{name}:\"{number}\"}}"));
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    marked.map(|out| out + &json[copied..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_beyond_64_bits_are_marked() {
        let same = r#"{"a": [18446744073709551615, -9223372036854775808, 1e99, 123456789012345678901.5], "12345678901234567890123": "\"12345678901234567890123"}"#;
        assert_eq!(with_objects(same), None);
        let row = r#"{"prompt": [{"role": "u", "n": -12345678901234567890123, "\\": 18446744073709551616}], "score_chosen": 18446744073709551616}"#;
        let parsed = super::row(row).unwrap();
        assert_eq!(parsed["prompt"][0]["n"][WHOLE_NUMBER], "-12345678901234567890123");
        assert_eq!(parsed["prompt"][0]["\\"][WHOLE_NUMBER], "18446744073709551616");
        assert_eq!(parsed["score_chosen"], 18446744073709551616.0);
        assert!(super::row("{\"prompt\": 18446744073709551616").is_err());
    }
}
