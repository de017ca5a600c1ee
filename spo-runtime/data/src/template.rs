//! Chat templates, rendered in the same way as in transformers.

mod json;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::error::{DataError, Result};
use crate::row::Message;

/// A model's chat template: Jinja with the same settings and functions as in transformers.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The tokenizer's special tokens by name: `bos_token`, `eos_token`, ...
    special_tokens: Map<String, Json>,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are available as variables in every rendering.
    ///
    /// # Errors
    /// For a syntax error, with its line.
    pub fn new(source: &str, special_tokens: Map<String, Json>) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.expect("the delimiters are Jinja's own");
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        // In Jinja, Python's strings and dicts are sequences, and None is not iterable.
        environment.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
        });
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(&newlines(source)))
            .map_err(|e| DataError::new(format!("the chat template is malformed: {}", explain(&e))))?;
        Ok(ChatTemplate { environment, special_tokens })
    }

    /// Renders a conversation, followed by the start of the assistant's answer if `add_generation_prompt`
    /// is set. The template can read `variables` by name (`tools`, `enable_thinking`).
    ///
    /// # Errors
    /// When the template rejects the messages (with the template's own message) or reads an undefined
    /// value.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<String> {
        let messages: Vec<_> = messages.iter().map(with_reasoning).collect();
        let mut context =
            Map::from_iter([("tools".to_owned(), Json::Null), ("documents".to_owned(), Json::Null)]);
        context.extend(self.special_tokens.clone());
        context.extend(variables.clone());
        context.insert("messages".into(), Json::Array(messages));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from(Serde(&context))))
            .map_err(|e| DataError::new(format!("the chat template refuses the messages: {}", explain(&e))))
    }
}

/// Copies a message's reasoning to the other names under which templates may look for it.
fn with_reasoning(message: &Message) -> Json {
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().filter_map(|name| message.get(*name)).find(|value| !value.is_null());
    let mut message = message.clone();
    if let Some(reasoning) = reasoning.cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
    Json::Object(message)
}

/// The error's own message, with the line of the template.
fn explain(error: &minijinja::Error) -> String {
    let text = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{text} (template line {line})"),
        None => text,
    }
}

/// The local time, in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    use std::fmt::Write;
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("bad time format `{format}`"))
    })?;
    Ok(text)
}

/// Jinja treats every kind of line ending as `\n`.
fn newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Replaces `{% generation %}`, which marks the assistant's text for loss masks and renders nothing. It
/// opens a block with its own scope, so it becomes a `with` block, the simplest block of that kind.
fn without_generation_tags(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        rewritten.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let name = tag[2..end].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match name {
            "generation" => rewritten.push_str(&tag[..end + 2].replacen(name, "with", 1)),
            "endgeneration" => rewritten.push_str(&tag[..end + 2].replacen(name, "endwith", 1)),
            _ => rewritten.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    rewritten + rest
}
