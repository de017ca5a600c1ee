//! What the columns of a row mean.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};
use spo_api::{Column, Layout};

use crate::error::{DataError, Result};
use crate::messages::{message, role, text};
use crate::read::json::kind;
use crate::read::number;
use crate::row::{Answers, Message, Text};
use crate::source::{Record, missing};
use crate::tokenize::brief;

/// Column names with a meaning; a recipe's `columns` maps a file's own names to these.
pub(crate) const COLUMNS: [&str; 20] = [
    "prompt",
    "chosen",
    "rejected",
    "score_chosen",
    "score_rejected",
    "weight",
    "completion",
    "label",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "history",
    "question",
    "choices",
    "answer",
    "system",
    "tools",
    "chat_template_kwargs",
];

/// Columns of what is no text. The text beside it is about it.
const MEDIA: [&str; 6] = ["image", "images", "video", "videos", "audio", "audios"];

/// The columns of a row. It notes which of them were used.
pub(crate) struct Columns<'a> {
    record: &'a Record,
    layout: Layout,
    used: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Columns<'a> {
    pub fn new(record: &'a Record, layout: Layout) -> Self {
        Columns { record, layout, used: RefCell::default() }
    }

    /// The columns that hold something and were not used.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let used = self.used.borrow().clone();
        let held = self.record.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
        held.filter(move |name| !used.contains(*name))
    }

    /// The columns that hold something and were used.
    pub fn used(&self) -> Vec<String> {
        let used = self.used.borrow();
        let held =
            self.record.iter().filter(|(name, value)| !value.is_null() && used.contains(name.as_str()));
        held.map(|(name, _)| name.clone()).collect()
    }

    /// Nulls count as absent: Parquet fills absent fields with nulls.
    fn peek(&self, column: &str) -> Option<&'a Value> {
        self.record.get(column).filter(|value| !value.is_null())
    }

    fn has(&self, column: &str) -> bool {
        self.peek(column).is_some()
    }

    fn get(&self, column: &'a str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(column);
        self.peek(column)
    }

    fn require(&self, column: &'a str) -> Result<&'a Value> {
        self.get(column).ok_or_else(|| {
            let present = self.record.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name);
            let mut error = missing(column, present);
            error.message = format!("{} ({})", error.message, needs(self.layout));
            error
        })
    }

    fn text(&self, column: &'a str) -> Result<Text> {
        text(self.require(column)?).map_err(|e| in_column(column, e))
    }

    fn string(&self, column: &'a str) -> Result<&'a str> {
        let value = self.require(column)?;
        value.as_str().ok_or_else(|| wrong_type(column, "a string", value))
    }

    /// The prompt that is in a column of its own: text or messages, or the question of a user.
    pub fn prompt(&self) -> Result<Option<Text>> {
        if self.has("prompt") {
            return self.text("prompt").map(Some);
        }
        // When there are separate answers, these columns hold the conversation so far.
        for column in ["conversations", "messages"] {
            if self.has(column) && (self.has("chosen") || self.has("completion")) {
                return self.text(column).map(Some);
            }
        }
        let answered = ["chosen", "rejected", "completion", "output"].iter().any(|column| self.has(column));
        if answered { self.asked() } else { Ok(None) }
    }

    /// The prompt of a row that needs no answer.
    pub fn prompt_alone(&self) -> Result<Text> {
        if let Some(prompt) = self.prompt()? {
            return Ok(prompt);
        }
        for column in ["conversations", "messages"] {
            if self.has(column) {
                return self.text(column);
            }
        }
        match self.asked()? {
            Some(prompt) => Ok(prompt),
            None => self.text("prompt"),
        }
    }

    /// The question of a user.
    fn asked(&self) -> Result<Option<Text>> {
        let question = ["instruction", "question", "input"].into_iter().find(|column| self.has(column));
        let Some(column) = question else { return Ok(None) };
        let mut content = self.string(column)?.to_owned();
        if column == "instruction" && self.has("input") && !self.string("input")?.is_empty() {
            content = format!("{content}\n{}", self.string("input")?);
        }
        let mut messages = match self.get("history") {
            Some(history) => turns(history)?,
            None => Vec::new(),
        };
        messages.push(message("user", content.into()));
        Ok(Some(Text::Chat(messages)))
    }

    /// The answers, which are pairs if the row has them and the layout can be made of pairs.
    pub fn answers(&self) -> Result<Answers> {
        match self.layout {
            Layout::Pairs => self.pair(),
            Layout::Unpaired if self.has("chosen") && !self.has("completion") => self.pair(),
            Layout::Unpaired => Ok(Answers::Labelled {
                completion: self.text("completion")?,
                desirable: label(self.require("label")?)?,
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

    /// The prompt with the system prompt of a column of its own at its beginning.
    ///
    /// # Errors
    /// When a column belongs to the prompt that has no place in it.
    pub fn complete(&self, prompt: Text) -> Result<Text> {
        let is_empty = |value: &Value| match value {
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if let Some(column) =
            MEDIA.iter().find(|column| self.peek(column).is_some_and(|value| !is_empty(value)))
        {
            return Err(DataError::new(format!(
                "column `{column}`: only text is read, and without it the text may mean something else: remove such \
                 rows, or the column"
            )));
        }
        // Elsewhere a column of this name may hold anything.
        let turns = self.peek("history").is_some_and(|history| match history {
            Value::String(json) => json.trim().starts_with('[') && json.trim() != "[]",
            turns => turns.as_array().is_some_and(|turns| !turns.is_empty()),
        });
        if turns && !self.used.borrow().contains("history") {
            return Err(DataError::new(
                "column `history`: earlier turns belong to an `instruction` or a `question`; write them as messages of \
                 the prompt",
            ));
        }
        let system = match self.get("system") {
            None => return Ok(prompt),
            Some(Value::String(system)) if system.is_empty() => return Ok(prompt),
            Some(Value::String(system)) => system,
            Some(other) => return Err(wrong_type("system", "a string", other)),
        };
        match prompt {
            Text::Plain(_) => Err(DataError::new(
                "column `system`: a system prompt has no place in plain text; make the prompt a list of messages, or \
                 map its column to `question` instead of `prompt`: columns = { question = ... }",
            )),
            Text::Chat(mut messages) => {
                match messages.first().filter(|first| ["system", "developer"].contains(&role(first))) {
                    None => messages.insert(0, message("system", system.as_str().into())),
                    Some(first) if first.get("content").and_then(Value::as_str) == Some(system.as_str()) => {}
                    Some(_) => {
                        return Err(DataError::new(
                            "column `system`: the messages begin with another system prompt; remove one of the two",
                        ));
                    }
                }
                Ok(Text::Chat(messages))
            }
        }
    }

    /// For a pair with scores, the score of the chosen answer minus that of the rejected one.
    pub fn gap(&self) -> Result<Option<f64>> {
        // An empty cell of a table is no score.
        let given = |column| self.peek(column).is_some_and(|value| value.as_str() != Some(""));
        if !given("score_chosen") && !given("score_rejected") {
            return Ok(None);
        }
        let score = |column| {
            let value = self.require(column)?;
            number_in(value).ok_or_else(|| wrong_type(column, "a number", value))
        };
        Ok(Some(score("score_chosen")? - score("score_rejected")?))
    }

    /// The factor of the row's loss: 1 unless given.
    pub fn weight(&self) -> Result<f64> {
        // An empty cell of a table is no weight.
        if self.peek("weight").is_none_or(|value| value.as_str() == Some("")) {
            return Ok(1.0);
        }
        let value = self.require("weight")?;
        let weight = number_in(value).ok_or_else(|| wrong_type("weight", "a number", value))?;
        match weight.is_finite() && weight >= 0.0 {
            true => Ok(weight),
            false => Err(DataError::new(format!(
                "column `weight`: expected the factor of the row's loss, 0 or more and finite, found {weight}"
            ))),
        }
    }

    /// The numbers that an objective reads.
    pub fn numbers(&self, wanted: &'a [Column]) -> Result<Vec<f64>> {
        wanted.iter().map(|column| self.number(column)).collect()
    }

    fn number(&self, Column { name, default, .. }: &'a Column) -> Result<f64> {
        // An empty cell of a table is no number.
        let value = self.get(name).filter(|value| value.as_str() != Some(""));
        let Some(value) = value else {
            return default.ok_or_else(|| {
                let present = self.record.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name);
                let mut error = missing(name, present);
                error.message += ": the objective needs a number there";
                error
            });
        };
        number_in(value).ok_or_else(|| {
            let found = match value {
                Value::String(text) => format!("the text {:?}", brief(text)),
                other => kind(other).to_owned(),
            };
            DataError::new(format!("column `{name}`: expected a finite number, found {found}"))
        })
    }

    /// What the chat template sees besides the messages.
    pub fn variables(&self) -> Result<Map<String, Value>> {
        let mut variables = match self.get("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(variables)) => variables.clone(),
            Some(Value::String(json)) if json.trim().is_empty() => Map::new(),
            Some(Value::String(json)) => match number::seen(json) {
                Ok(Value::Object(variables)) => variables,
                Ok(other) => return Err(wrong_type("chat_template_kwargs", "an object", &other)),
                Err(e) => return Err(in_column("chat_template_kwargs", malformed(&e))),
            },
            Some(other) => return Err(wrong_type("chat_template_kwargs", "an object", other)),
        };
        let tools = match self.get("tools") {
            None => return Ok(variables),
            Some(Value::String(json)) if json.trim().is_empty() => return Ok(variables),
            Some(Value::String(json)) => number::seen(json).map_err(|e| in_column("tools", malformed(&e)))?,
            Some(tools) => tools.clone(),
        };
        if !tools.is_array() {
            return Err(wrong_type("tools", "a list", &tools));
        }
        variables.insert("tools".into(), tools);
        Ok(variables)
    }
}

/// What a row of this layout needs, for messages.
pub(crate) fn needs(layout: Layout) -> &'static str {
    match layout {
        Layout::Pairs => "pairs need `chosen` and `rejected`",
        Layout::Unpaired => "unpaired answers need `prompt`, `completion` and `label`",
        Layout::Demonstrations => "demonstrations need `prompt` and `completion`, or `messages`",
    }
}

fn in_column(column: &str, error: DataError) -> DataError {
    DataError { message: format!("column `{column}`: {}", error.message), ..error }
}

fn malformed(error: &serde_json::Error) -> DataError {
    DataError::new(format!("malformed JSON: {error}"))
}

/// A number, or a text that is one, as in a table.
pub(crate) fn number_in(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.trim().parse().ok().filter(|x: &f64| x.is_finite()),
        other => other.as_f64(),
    }
}

fn wrong_type(column: &str, expected: &str, found: &Value) -> DataError {
    DataError::new(format!("column `{column}`: expected {expected}, found {}", kind(found)))
}

/// True or false, also as a number (pandas makes 1.0 of a boolean beside nulls) or a word.
fn label(value: &Value) -> Result<bool> {
    let of_number = |x: f64| if x == 1.0 { Some(true) } else { (x == 0.0).then_some(false) };
    let label = match value {
        Value::Bool(label) => Some(*label),
        Value::Number(number) => number.as_f64().and_then(of_number),
        Value::String(word) => match &*word.to_ascii_lowercase() {
            "true" => Some(true),
            "false" => Some(false),
            _ => number_in(value).and_then(of_number),
        },
        _ => None,
    };
    label.ok_or_else(|| match value {
        Value::Number(_) | Value::String(_) => {
            DataError::new(format!("column `label`: expected true or false (or 1 or 0), found {value}"))
        }
        other => wrong_type("label", "true or false", other),
    })
}

/// The turns of Alpaca's `history`: a list of questions with their answers.
fn turns(history: &Value) -> Result<Vec<Message>> {
    let stored = history.as_str().map(|json| if json.trim().is_empty() { "[]" } else { json });
    let stored = stored.and_then(|json| serde_json::from_str(json).ok());
    let history = stored.as_ref().unwrap_or(history);
    let turn = |turn: &Value| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(question), Value::String(answer)]) => {
            Some([message("user", question.as_str().into()), message("assistant", answer.as_str().into())])
        }
        _ => None,
    };
    let turns = history.as_array().and_then(|turns| turns.iter().map(turn).collect::<Option<Vec<_>>>());
    turns.map(|turns| turns.into_iter().flatten().collect()).ok_or_else(|| {
        DataError::new(
            "column `history`: expected a list of turns, each a list of two texts: [question, answer]",
        )
    })
}
