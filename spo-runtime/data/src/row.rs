use std::fmt;

use serde_json::{Map, Value};
use spo_api::Layout;

use crate::error::{DataError, Place, Result};
use crate::implicit;
use crate::read::json::kind;
use crate::read::number;
use crate::source::{Record, missing};

/// Column names with a meaning; a recipe's `columns` maps a file's own names to these.
pub(crate) const COLUMNS: [&str; 14] = [
    "prompt",
    "chosen",
    "rejected",
    "score_chosen",
    "score_rejected",
    "completion",
    "label",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "tools",
    "chat_template_kwargs",
];

/// One message of a conversation: `role`, `content`, and whatever else the chat template reads.
pub type Message = Map<String, Value>;

/// The text of one field of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// Text that is tokenized as it is.
    Plain(String),
    /// A conversation that is rendered by the model's chat template.
    Chat(Vec<Message>),
}

/// The answers of a row, by kind of data.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// A preferred and a dispreferred answer.
    Pair {
        /// The preferred answer.
        chosen: Text,
        /// The dispreferred answer.
        rejected: Text,
    },
    /// An answer to imitate.
    Demonstration(Text),
    /// A single answer with a label.
    Labelled {
        /// The answer.
        completion: Text,
        /// True if the answer is labelled desirable.
        desirable: bool,
    },
}

/// A prompt and its answers, either all plain text or all conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where the row came from.
    pub place: Place,
    /// The context, which is read but not scored.
    pub prompt: Text,
    /// The answers, which are scored.
    pub answers: Answers,
    /// For a pair with scores: `score_chosen` minus `score_rejected`.
    pub gap: Option<f64>,
    /// Additional variables for the chat template, such as `tools`.
    pub variables: Map<String, Value>,
}

impl Row {
    /// Converts the row to `layout`. A pair becomes one demonstration (its chosen answer) or two labelled
    /// answers.
    pub(crate) fn arranged(self, layout: Layout) -> Result<Vec<Row>> {
        let alone = |prompt: &Text, answers| Row {
            place: self.place.clone(),
            prompt: prompt.clone(),
            answers,
            gap: self.gap,
            variables: self.variables.clone(),
        };
        Ok(match (layout, self.answers) {
            (Layout::Pairs, answers @ Answers::Pair { .. })
            | (Layout::Demonstrations, answers @ Answers::Demonstration(_))
            | (Layout::Unpaired, answers @ Answers::Labelled { .. }) => vec![alone(&self.prompt, answers)],
            (Layout::Demonstrations, Answers::Pair { chosen, .. }) => {
                vec![alone(&self.prompt, Answers::Demonstration(chosen))]
            }
            (Layout::Unpaired, Answers::Pair { chosen, rejected }) => vec![
                alone(&self.prompt, Answers::Labelled { completion: chosen, desirable: true }),
                alone(&self.prompt, Answers::Labelled { completion: rejected, desirable: false }),
            ],
            _ => return Err(DataError::new(needs(layout)).at(&self.place)),
        })
    }
}

impl Text {
    /// Whether there is no text, or only messages without content.
    pub(crate) fn is_empty(&self) -> bool {
        let silent = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(parts)) => parts.is_empty(),
            Some(_) => false,
        };
        match self {
            Text::Plain(text) => text.is_empty(),
            Text::Chat(messages) => messages
                .iter()
                .all(|message| silent(message.get("content")) && silent(message.get("tool_calls"))),
        }
    }
}

/// Turns records into rows and checks that all of them have the same form.
pub(crate) struct Interpreter {
    layout: Layout,
    first: Option<(Form, Place)>,
}

/// What must be the same for all rows. A mixture suggests that files were concatenated by mistake.
#[derive(Clone, Copy, PartialEq)]
struct Form {
    conversational: bool,
    explicit: bool,
}

impl Interpreter {
    pub fn new(layout: Layout) -> Self {
        Interpreter { layout, first: None }
    }

    pub fn row(&mut self, place: Place, record: &Record) -> Result<Row> {
        let (row, form) = interpret(&place, record, self.layout).map_err(|e| e.at(&place))?;
        let (expected, first) = self.first.get_or_insert_with(|| (form, place.clone()));
        if *expected != form {
            return Err(DataError::new(format!(
                "this row has {form}, the first row ({first}) {expected}: split the file"
            ))
            .at(&place));
        }
        Ok(row)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = if self.conversational { "messages" } else { "plain text" };
        match self.explicit {
            true => write!(f, "{texts} with a prompt of its own"),
            false => write!(f, "{texts} without a prompt of its own"),
        }
    }
}

fn interpret(place: &Place, record: &Record, layout: Layout) -> Result<(Row, Form)> {
    let fields = Fields { record, layout };
    let explicit = fields.prompt()?;
    let answers = fields.answers()?;
    let form =
        Form { conversational: matches!(answers.first(), Text::Chat(_)), explicit: explicit.is_some() };
    let (prompt, answers) = unite(explicit, answers)?;
    let row =
        Row { place: place.clone(), prompt, answers, gap: fields.gap()?, variables: fields.variables()? };
    Ok((row, form))
}

/// Converts prompt and answers to the same form. If the answers contain the prompt, it is removed from
/// them.
fn unite(prompt: Option<Prompt>, answers: Answers) -> Result<(Text, Answers)> {
    let chat = |text: &Text| matches!(text, Text::Chat(_));
    match (prompt, answers) {
        (None, Answers::Pair { chosen, rejected }) => implicit::of_pair(chosen, rejected),
        // The prompt is repeated as a conversation at the start of both answers.
        (Some(Prompt { text: Text::Plain(_), .. }), Answers::Pair { chosen, rejected })
            if chat(&chosen) && chat(&rejected) =>
        {
            implicit::of_pair(chosen, rejected)
        }
        (None, Answers::Demonstration(text)) => implicit::of_dialogue(text),
        (None, Answers::Labelled { .. }) => Err(DataError::new("there is no column `prompt`")),
        (Some(Prompt { text, turns }), answers) => {
            let answers = if turns { answers.map(spoken) } else { answers };
            if let Some(answer) = answers.iter().find(|answer| chat(answer) != chat(&text)) {
                return Err(DataError::new(format!(
                    "the prompt is {} but an answer is {}: both must have one form",
                    form_of(&text),
                    form_of(answer),
                )));
            }
            Ok((text, answers))
        }
    }
}

fn form_of(text: &Text) -> &'static str {
    match text {
        Text::Plain(_) => "plain text",
        Text::Chat(_) => "a list of messages",
    }
}

/// Converts an answer to an assistant message.
fn spoken(answer: Text) -> Text {
    match answer {
        Text::Plain(text) => Text::Chat(vec![message("assistant", Value::String(text))]),
        chat => chat,
    }
}

pub(crate) fn message(role: &str, content: Value) -> Message {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content)])
}

/// A prompt from its own column.
struct Prompt {
    text: Text,
    /// Whether plain-text answers to this prompt are assistant messages.
    turns: bool,
}

struct Fields<'a> {
    record: &'a Record,
    layout: Layout,
}

impl Fields<'_> {
    /// Nulls count as absent: Parquet fills absent fields with nulls.
    fn get(&self, column: &str) -> Option<&Value> {
        self.record.get(column).filter(|value| !value.is_null())
    }

    fn has(&self, column: &str) -> bool {
        self.get(column).is_some()
    }

    fn require(&self, column: &str) -> Result<&Value> {
        self.get(column).ok_or_else(|| {
            let present = self.record.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name);
            let mut error = missing(column, present);
            error.message = format!("{} ({})", error.message, needs(self.layout));
            error
        })
    }

    fn text(&self, column: &str) -> Result<Text> {
        text(self.require(column)?).map_err(|e| DataError::new(format!("column `{column}`: {}", e.message)))
    }

    fn prompt(&self) -> Result<Option<Prompt>> {
        if self.has("prompt") {
            return Ok(Some(Prompt { text: self.text("prompt")?, turns: false }));
        }
        // When there are separate answers, these columns hold the conversation so far.
        for column in ["conversations", "messages"] {
            if self.has(column) && (self.has("chosen") || self.has("completion")) {
                return Ok(Some(Prompt { text: self.text(column)?, turns: true }));
            }
        }
        if !self.has("instruction") {
            return Ok(None);
        }
        let mut content = self.string("instruction")?.to_owned();
        if self.has("input") && !self.string("input")?.is_empty() {
            content = format!("{content}\n{}", self.string("input")?);
        }
        Ok(Some(Prompt { text: Text::Chat(vec![message("user", content.into())]), turns: true }))
    }

    fn answers(&self) -> Result<Answers> {
        match self.layout {
            Layout::Pairs => self.pair(),
            Layout::Unpaired if self.has("chosen") && !self.has("completion") => self.pair(),
            Layout::Unpaired => Ok(Answers::Labelled {
                completion: self.text("completion")?,
                desirable: match self.require("label")? {
                    Value::Bool(label) => *label,
                    Value::Number(n) if n.as_u64() == Some(1) => true,
                    Value::Number(n) if n.as_u64() == Some(0) => false,
                    other => return Err(wrong_type("label", "true or false", other)),
                },
            }),
            Layout::Demonstrations if self.has("label") => Err(DataError::new(
                "the row has a `label`: imitating it would imitate undesirable answers too",
            )),
            Layout::Demonstrations if self.has("rejected") && !self.has("completion") => self.pair(),
            Layout::Demonstrations => {
                let columns = ["completion", "chosen", "output", "messages", "conversations"];
                let column = columns.into_iter().find(|c| self.has(c)).unwrap_or("completion");
                Ok(Answers::Demonstration(self.text(column)?))
            }
        }
    }

    fn pair(&self) -> Result<Answers> {
        Ok(Answers::Pair { chosen: self.text("chosen")?, rejected: self.text("rejected")? })
    }

    fn gap(&self) -> Result<Option<f64>> {
        if !self.has("score_chosen") && !self.has("score_rejected") {
            return Ok(None);
        }
        let score = |column| {
            let value = self.require(column)?;
            value.as_f64().ok_or_else(|| wrong_type(column, "a number", value))
        };
        Ok(Some(score("score_chosen")? - score("score_rejected")?))
    }

    fn variables(&self) -> Result<Map<String, Value>> {
        let mut variables = match self.get("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(variables)) => variables.clone(),
            Some(other) => return Err(wrong_type("chat_template_kwargs", "an object", other)),
        };
        let tools = match self.get("tools") {
            None => return Ok(variables),
            Some(Value::String(json)) => number::seen(json)
                .map_err(|e| DataError::new(format!("column `tools`: malformed JSON: {e}")))?,
            Some(tools) => tools.clone(),
        };
        if !tools.is_array() {
            return Err(wrong_type("tools", "a list", &tools));
        }
        variables.insert("tools".into(), tools);
        Ok(variables)
    }

    fn string(&self, column: &str) -> Result<&str> {
        let value = self.require(column)?;
        value.as_str().ok_or_else(|| wrong_type(column, "a string", value))
    }
}

fn needs(layout: Layout) -> &'static str {
    match layout {
        Layout::Pairs => "pairs need `chosen` and `rejected`",
        Layout::Unpaired => "unpaired answers need `prompt`, `completion` and `label`",
        Layout::Demonstrations => "demonstrations need `prompt` and `completion`, or `messages`",
    }
}

fn wrong_type(column: &str, expected: &str, found: &Value) -> DataError {
    DataError::new(format!("column `{column}`: expected {expected}, found {}", kind(found)))
}

fn text(value: &Value) -> Result<Text> {
    match value {
        Value::String(text) => Ok(Text::Plain(text.clone())),
        Value::Array(messages) => Ok(Text::Chat(messages.iter().map(normalized).collect::<Result<_>>()?)),
        Value::Object(_) => Ok(Text::Chat(vec![normalized(value)?])),
        other => Err(DataError::new(format!("expected text or a list of messages, found {}", kind(other)))),
    }
}

/// Converts a message to the form chat templates expect, from either role and content or ShareGPT's from
/// and value.
fn normalized(value: &Value) -> Result<Message> {
    let Value::Object(fields) = value else {
        return Err(DataError::new(format!("expected a message, found {}", kind(value))));
    };
    if let Some(role) = fields.get("role") {
        if !role.is_string() {
            return Err(DataError::new(format!("a message's role must be a string, not {}", kind(role))));
        }
        return Ok(fields.clone());
    }
    let (Some(Value::String(from)), Some(value)) = (fields.get("from"), fields.get("value")) else {
        return Err(DataError::new("a message must have `role` and `content` (or `from` and `value`)"));
    };
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        "observation" | "tool" => "tool",
        other => {
            return Err(DataError::new(format!(
                "unknown speaker `{other}`: expected human, gpt, system, user, assistant, tool or observation"
            )));
        }
    };
    Ok(message(role, value.clone()))
}

impl Answers {
    fn first(&self) -> &Text {
        match self {
            Answers::Pair { chosen, .. } => chosen,
            Answers::Demonstration(text) | Answers::Labelled { completion: text, .. } => text,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Text> {
        let second = match self {
            Answers::Pair { rejected, .. } => Some(rejected),
            _ => None,
        };
        std::iter::once(self.first()).chain(second)
    }

    fn map(self, f: impl Fn(Text) -> Text) -> Self {
        match self {
            Answers::Pair { chosen, rejected } => Answers::Pair { chosen: f(chosen), rejected: f(rejected) },
            Answers::Demonstration(text) => Answers::Demonstration(f(text)),
            Answers::Labelled { completion, desirable } => {
                Answers::Labelled { completion: f(completion), desirable }
            }
        }
    }
}
