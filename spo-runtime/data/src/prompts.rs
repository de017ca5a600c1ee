//! Rows without answers of their own kind: prompts to be continued, and questions with choices.

use serde_json::{Map, Value};
use spo_api::Layout;

use crate::choice::Counts;
use crate::columns::Columns;
use crate::error::{DataError, Place, Result};
use crate::messages::{message, role};
use crate::read::json::kind;
use crate::row::Text;
use crate::source::{Record, Source};
use crate::tokenizer::Tokenizer;

/// What rows are, by their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Questions with choices.
    Choices,
    /// Prompts with answers.
    Answers(Layout),
}

impl Form {
    /// Tells what the rows are by the columns of the first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(sources: &[Source]) -> Result<Self> {
        let mut found = Form::Answers(Layout::Demonstrations);
        let Some(first) = sources.first() else { return Ok(found) };
        first.read(&mut Counts::new(), &mut |_, record| {
            let has = |column: &str| record.get(column).is_some_and(|value| !value.is_null());
            found = match () {
                () if has("choices") => Form::Choices,
                () if has("completion") && has("label") => Form::Answers(Layout::Unpaired),
                () if has("rejected") => Form::Answers(Layout::Pairs),
                () => found,
            };
            Ok(false)
        })?;
        Ok(found)
    }
}

/// A prompt to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Where it came from.
    pub place: Place,
    /// The prompt: plain text, or a conversation.
    pub text: Text,
    /// Additional variables for the chat template.
    pub variables: Map<String, Value>,
}

impl Prompt {
    /// Reads prompts: the columns `prompt`, `messages` or `conversations`, or a user's `question` or `instruction`. A
    /// conversation may not end with the assistant.
    ///
    /// # Errors
    /// When a file cannot be read, or a row has no prompt.
    pub fn read(sources: &[Source]) -> Result<Vec<Self>> {
        let mut prompts = Vec::new();
        each(sources, &mut |place, record| {
            let columns = Columns::new(record, Layout::Demonstrations);
            let text = columns.complete(columns.prompt_alone()?)?;
            if let Text::Chat(messages) = &text
                && messages.last().is_some_and(|last| role(last) == "assistant")
            {
                return Err(DataError::new(
                    "the conversation ends with the assistant: nothing is left to answer",
                ));
            }
            let variables = match text {
                Text::Chat(_) => columns.variables()?,
                Text::Plain(_) => Map::new(),
            };
            prompts.push(Prompt { place, text, variables });
            Ok(())
        })?;
        Ok(prompts)
    }

    /// Its token ids. A conversation is followed by the beginning of the assistant's answer.
    ///
    /// # Errors
    /// When the tokenizer or the chat template fails.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let ids = match &self.text {
            Text::Plain(text) => tokenizer.encode(text),
            Text::Chat(messages) => tokenizer.encode_chat(messages, true, &self.variables),
        };
        ids.map_err(|e| e.at(&self.place))
    }

    /// The prompt as the message of a user, if it is plain text.
    #[must_use]
    pub fn asked(self) -> Self {
        match self.text {
            Text::Plain(text) => Prompt { text: Text::Chat(vec![message("user", text.into())]), ..self },
            Text::Chat(_) => self,
        }
    }
}

/// A question with choices, of which one is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The question.
    pub prompt: Prompt,
    /// The answers to choose from.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub right: usize,
}

impl Question {
    /// Reads questions: `question` or `prompt`, `choices` (a list of texts, or ARC's table of `text` and `label`), and
    /// `answer`: the right choice's text, its label, its letter (`A` is the first), or its index from 0.
    ///
    /// # Errors
    /// When a file cannot be read, or a row is no such question.
    pub fn read(sources: &[Source]) -> Result<Vec<Self>> {
        let mut questions = Vec::new();
        each(sources, &mut |place, record| {
            questions.push(question(place, record)?);
            Ok(())
        })?;
        Ok(questions)
    }
}

fn each(sources: &[Source], take: &mut dyn FnMut(Place, &Record) -> Result<()>) -> Result<()> {
    for source in sources {
        source.columns.check(&[])?;
        source.read(&mut Counts::new(), &mut |place, record| {
            take(place.clone(), &record).map_err(|e| e.at(&place))?;
            Ok(true)
        })?;
    }
    Ok(())
}

fn question(place: Place, record: &Record) -> Result<Question> {
    let columns = Columns::new(record, Layout::Demonstrations);
    let text = match record.get("question") {
        Some(Value::String(question)) => Text::Plain(question.clone()),
        _ => columns.prompt_alone()?,
    };
    let (choices, labels) = choices(record.get("choices").unwrap_or(&Value::Null))?;
    let answer = record.get("answer").filter(|answer| !answer.is_null());
    let answer = answer.ok_or_else(|| {
        DataError::new(
            "there is no column `answer`, which says the right one of the `choices`; \
             name the file's own: columns = { answer = \"answerKey\" }",
        )
    })?;
    let right = right(answer, &choices, &labels)?;
    let variables = match text {
        Text::Chat(_) => columns.variables()?,
        Text::Plain(_) => Map::new(),
    };
    Ok(Question { prompt: Prompt { place, text, variables }, choices, right })
}

/// The texts of the choices, and their labels if they have some.
fn choices(value: &Value) -> Result<(Vec<String>, Vec<String>)> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let stored = value.as_str().and_then(|json| serde_json::from_str::<Value>(json).ok());
    let value = stored.as_ref().unwrap_or(value);
    let read = match value {
        Value::Object(table) => table.get("text").and_then(texts).zip(table.get("label").and_then(texts)),
        list => texts(list).map(|texts| (texts, Vec::new())),
    };
    let (choices, labels) = read.ok_or_else(|| {
        DataError::new(format!(
            "column `choices`: expected a list of texts, or a table of the lists `text` and `label`, found {}",
            kind(value)
        ))
    })?;
    match choices.len() {
        0 | 1 => Err(DataError::new("column `choices`: expected at least two")),
        _ if choices.iter().any(String::is_empty) => {
            Err(DataError::new("column `choices`: one of them is empty"))
        }
        count if !labels.is_empty() && labels.len() != count => {
            Err(DataError::new(format!("column `choices`: {count} texts, but {} labels", labels.len())))
        }
        _ => Ok((choices, labels)),
    }
}

/// The index of the right choice.
fn right(answer: &Value, choices: &[String], labels: &[String]) -> Result<usize> {
    let index = |index: u64| usize::try_from(index).ok().filter(|index| *index < choices.len());
    let found = match answer {
        Value::Number(number) => number.as_u64().and_then(index),
        Value::String(text) => {
            let letter = || match text.as_bytes() {
                [letter @ b'A'..=b'Z'] => index(u64::from(letter - b'A')),
                _ => None,
            };
            let place = |among: &[String]| among.iter().position(|known| known == text);
            let number = || text.parse().ok().and_then(index);
            place(labels).or_else(|| place(choices)).or_else(letter).or_else(number)
        }
        _ => None,
    };
    found.ok_or_else(|| {
        let labels = if labels.is_empty() { String::new() } else { format!(", a label ({})", labels.join(", ")) };
        DataError::new(format!(
            "column `answer`: {answer} is none of the {} choices: expected a text of them{labels}, a letter from A, or an \
             index from 0",
            choices.len()
        ))
    })
}
