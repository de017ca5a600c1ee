//! Chat templates, rendered in the same way as in transformers.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::clock::Moment;
use crate::error::{DataError, Result};
use crate::jinja::{self, Template};
use crate::row::Message;

/// A model's chat template: Jinja with the same settings and functions as in transformers.
pub struct ChatTemplate {
    template: Template,
    /// The tokenizer's special tokens by name: `bos_token`, `eos_token`, ...
    special_tokens: Map<String, Value>,
    asks_for_time: bool,
    marks_answers: bool,
    moment: Moment,
    /// The file that the template is in, for errors.
    file: Option<PathBuf>,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are available as variables in every rendering. If the template
    /// asks for the time, it is told the present moment.
    ///
    /// # Errors
    /// For a syntax error, and statements that are not supported, with the line.
    pub fn new(source: &str, special_tokens: Map<String, Value>) -> Result<Self> {
        let template = Template::new(source)
            .map_err(|e| DataError::new(format!("the chat template is malformed: {}", explain(&e, None))))?;
        // The name may stand in a comment or text: then the time is taken to matter, which does no harm.
        let asks_for_time = source.contains("strftime_now");
        let marks_answers = marks_answers(source);
        Ok(ChatTemplate {
            template,
            special_tokens,
            asks_for_time,
            marks_answers,
            moment: Moment::now(),
            file: None,
        })
    }

    /// The template, whose errors name this file.
    pub(crate) fn in_file(self, file: PathBuf) -> Self {
        ChatTemplate { file: Some(file), ..self }
    }

    /// The template at another moment than the present.
    pub fn at(self, moment: Moment) -> Self {
        ChatTemplate { moment, ..self }
    }

    /// The moment that renderings depend on; `None` if the template does not ask for the time.
    pub fn moment(&self) -> Option<Moment> {
        self.asks_for_time.then_some(self.moment)
    }

    /// Renders a conversation, followed by the start of the assistant's answer if `add_generation_prompt`
    /// is set. The template can read `variables` by name (`tools`, `enable_thinking`).
    ///
    /// # Errors
    /// When the template rejects the messages (with the template's own message), uses an undefined value or
    /// something that is not supported.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Result<String> {
        let context = self.context(messages, add_generation_prompt, variables);
        self.template.render(&context, self.moment.time()).map_err(|e| self.refused(&e))
    }

    /// Whether it says what the assistant's text is, in `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// Renders a whole conversation, and tells where the text in `{% generation %}` lies, in bytes.
    ///
    /// # Errors
    /// As [`render`](Self::render), and when such a block is in a macro.
    pub fn render_marked(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
    ) -> Result<(String, Vec<Range<usize>>)> {
        let context = self.context(messages, false, variables);
        self.template.render_marked(&context, self.moment.time()).map_err(|e| self.refused(&e))
    }

    fn context(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Map<String, Value> {
        let messages = messages.iter().map(normalized).collect();
        let mut context =
            Map::from_iter([("tools".to_owned(), Value::Null), ("documents".to_owned(), Value::Null)]);
        context.extend(self.special_tokens.clone());
        context.extend(variables.clone());
        context.insert("messages".into(), Value::Array(messages));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        context
    }

    fn refused(&self, error: &jinja::Error) -> DataError {
        let reason = explain(error, self.file.as_deref());
        DataError::new(format!("the chat template refuses the messages: {reason}"))
    }
}

/// Whether a template has the statement `{% generation %}`.
fn marks_answers(source: &str) -> bool {
    source.split("{%").skip(1).any(|rest| {
        let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
        let end = rest.strip_prefix("generation").map(str::trim_start);
        end.is_some_and(|end| end.starts_with("%}") || end.starts_with("-%}"))
    })
}

/// A message as templates see it. Keys whose value is null are absent: Parquet and Arrow fill absent keys with
/// nulls, and some services write `content: null` beside tool calls. Deeper nulls stay. The message's reasoning
/// is copied to the other names under which templates may look for it.
fn normalized(message: &Message) -> Value {
    let mut seen = Message::new();
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().filter_map(|name| message.get(*name)).find(|value| !value.is_null());
    if let Some(reasoning) = reasoning {
        seen.insert("thinking".into(), reasoning.clone());
    }
    let present = message.iter().filter(|(_, value)| !value.is_null());
    seen.extend(present.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        seen.insert("reasoning_content".into(), reasoning.clone());
    }
    Value::Object(seen)
}

/// The error's message, with the line of the template.
fn explain(error: &jinja::Error, file: Option<&Path>) -> String {
    match (error.line, file) {
        (0, _) => error.message.clone(),
        (line, None) => format!("{} (template line {line})", error.message),
        (line, Some(file)) => format!("{} ({}:{line})", error.message, file.display()),
    }
}
