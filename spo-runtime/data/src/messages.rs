//! The text of a column: a string as it stands, or messages in one of the forms in which data sets have them.

use serde_json::{Map, Value};
use spo_api::nearest;

use crate::error::{DataError, Result};
use crate::read::json::kind;
use crate::read::number;
use crate::row::{Message, Text};

/// Roles that chat templates know, and ShareGPT's names for three of them.
const ROLES: [&str; 10] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "human",
    "gpt",
    "observation",
];

/// A message of this role with this content.
pub fn message(role: &str, content: Value) -> Message {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content)])
}

/// The role of a message.
pub(crate) fn role(message: &Message) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// Reads text, messages, a single message, or messages that are stored as JSON text.
///
/// # Errors
/// What was found, and what was expected.
pub(crate) fn text(value: &Value) -> Result<Text> {
    match value {
        Value::String(text) => Ok(match stored(text)? {
            Some(messages) => Text::Chat(messages.iter().map(normalized).collect::<Result<_>>()?),
            None => Text::Plain(text.clone()),
        }),
        Value::Array(items) if items.first().is_some_and(Value::is_string) => Err(DataError::new(
            "a list of texts, where one text or a list of messages is expected: a row has one answer of a kind, so \
             write a row for each",
        )),
        Value::Array(messages) => Ok(Text::Chat(messages.iter().map(normalized).collect::<Result<_>>()?)),
        Value::Object(fields)
            if !fields.is_empty() && fields.keys().all(|key| key.parse::<u64>().is_ok()) =>
        {
            Err(DataError::new(
                "a whole column, by the numbers of its rows: pandas writes columns unless it is told \
                 `to_json(FILE, orient=\"records\", lines=True)`",
            ))
        }
        Value::Object(_) => Ok(Text::Chat(vec![normalized(value)?])),
        other => Err(DataError::new(format!("expected text or a list of messages, found {}", kind(other)))),
    }
}

/// The messages in a text that is nothing but a list of messages, or one message, in JSON.
fn stored(text: &str) -> Result<Option<Vec<Value>>> {
    let text = text.trim();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if begins(&["[{'role'", "[{'from'", "[{'content'", "[{'value'"]) && text.ends_with("}]") {
        return Err(DataError::new(
            "a list of messages as Python prints it: store the list itself, or write it with `json.dumps`",
        ));
    }
    if !begins(&["[", "{"]) || !text.ends_with([']', '}']) {
        return Ok(None);
    }
    let values = match number::seen(text) {
        Ok(Value::Array(values)) => values,
        Ok(value) => vec![value],
        Err(_) => return Ok(None),
    };
    let is_text = |value: &Value, key: &str| value.get(key).is_some_and(Value::is_string);
    let is_message = |value: &Value| {
        is_text(value, "role") && (value.get("content").is_some() || value.get("tool_calls").is_some())
            || is_text(value, "from") && is_text(value, "value")
    };
    Ok((!values.is_empty() && values.iter().all(is_message)).then_some(values))
}

/// Converts a message to the form chat templates expect, from either role and content or ShareGPT's from
/// and value. Other fields are left to the template.
fn normalized(value: &Value) -> Result<Message> {
    let Value::Object(fields) = value else {
        return Err(DataError::new(format!("expected a message, found {}", kind(value))));
    };
    let given = |key: &str| fields.get(key).filter(|value| !value.is_null());
    let mut message = match (given("role"), given("from"), given("value")) {
        (Some(Value::String(role)), ..) => {
            let mut message = fields.clone();
            message.insert("role".into(), role_named(role)?.into());
            message
        }
        (Some(role), ..) => {
            return Err(DataError::new(format!("a message's role must be a string, not {}", kind(role))));
        }
        (None, Some(Value::String(from)), Some(value)) => {
            let mut message = message(speaker(from)?, value.clone());
            let own = |key: &str| ["role", "content", "from", "value"].contains(&key);
            message.extend(fields.iter().filter(|(key, _)| !own(key)).map(|(k, v)| (k.clone(), v.clone())));
            message
        }
        _ => {
            let found: Vec<_> = fields.keys().map(|key| format!("`{key}`")).collect();
            return Err(DataError::new(format!(
                "a message must have `role` and `content` (or `from` and `value`), this one has {}",
                if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
            )));
        }
    };
    let speaks = ["system", "developer", "user", "assistant"].contains(&role(&message));
    let content = match message.get("content") {
        None if speaks && message.get("tool_calls").is_none_or(Value::is_null) => {
            let words = format!("a message of the {} has no `content`", role(&message));
            return Err(DataError::new(words).suggest(nearest("content", message.keys().map(String::as_str))));
        }
        Some(Value::Array(parts)) => Value::String(joined(parts)?),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_))) if speaks => {
            return Err(DataError::new(format!("a message's content must be text, not {}", kind(other))));
        }
        _ => return Ok(message),
    };
    message.insert("content".into(), content);
    Ok(message)
}

/// Joins the text parts of a content, as chat templates do that are made for parts.
fn joined(parts: &[Value]) -> Result<String> {
    let mut text = String::new();
    for part in parts {
        let kind_of_part = part.get("type").and_then(Value::as_str).unwrap_or("text");
        match (kind_of_part, part.get("text").and_then(Value::as_str)) {
            ("text" | "input_text" | "output_text", Some(words)) => text += words,
            ("text" | "input_text" | "output_text", None) => {
                return Err(DataError::new("a part of a message's content has no `text`"));
            }
            (other, _) => {
                return Err(DataError::new(format!(
                    "a message has a part of type `{other}`: only text is read, and without that part the text may \
                     mean something else; remove such rows, or the part"
                )));
            }
        }
    }
    Ok(text)
}

/// The role that a role's name stands for. A name that is none but is near to one is a misspelling. The chat template
/// knows what to do with others.
fn role_named(name: &str) -> Result<&str> {
    match name {
        "human" | "gpt" | "observation" => speaker(name),
        name if ROLES.contains(&name) => Ok(name),
        name => match nearest(&name.to_lowercase(), ROLES) {
            Some(near) => Err(DataError::new(format!("unknown role `{name}`")).suggest(Some(near))),
            None => Ok(name),
        },
    }
}

/// The role of a speaker in ShareGPT's form.
fn speaker(from: &str) -> Result<&str> {
    match from {
        "human" => Ok("user"),
        "gpt" => Ok("assistant"),
        "observation" => Ok("tool"),
        "system" | "user" | "assistant" | "tool" => Ok(from),
        other => Err(DataError::new(format!(
            "unknown speaker `{other}`: expected human, gpt, system, user, assistant, tool or observation"
        ))
        .suggest(nearest(&other.to_lowercase(), ROLES))),
    }
}
