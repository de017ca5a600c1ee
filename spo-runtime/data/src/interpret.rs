//! From the columns of a row to its prompt and its answers.

use std::fmt;

use serde_json::Value;
use spo_api::Layout;

use crate::choice::Content;
use crate::columns::Columns;
use crate::dataset::Fit;
use crate::error::{DataError, Place, Result};
use crate::implicit;
use crate::messages::{message, role};
use crate::report::PLAIN_TEXT;
use crate::row::{Answers, Message, Row, Text};
use crate::source::Record;
use crate::turns::TrainOn;

/// Turns the records of a file into rows, checks that all of them have the same form, and notes which columns were not
/// used.
pub(crate) struct Interpreter<'a> {
    layout: Layout,
    fit: &'a Fit,
    first: Option<(Form, Place)>,
    unused: Vec<String>,
    /// The columns that the first row used.
    used: Vec<String>,
}

/// A file with more columns than this that are not used has names that are data.
const MOST_UNUSED: usize = 100;

/// What must be the same for all rows. A mixture suggests that files were concatenated by mistake.
#[derive(Clone, Copy, PartialEq)]
struct Form {
    conversational: bool,
    explicit: bool,
}

impl<'a> Interpreter<'a> {
    pub fn new(layout: Layout, fit: &'a Fit) -> Self {
        Interpreter { layout, fit, first: None, unused: Vec::new(), used: Vec::new() }
    }

    pub fn row(&mut self, place: Place, record: &Record) -> Result<Row> {
        let columns = Columns::new(record, self.layout);
        let (row, form) = interpret(&place, &columns, self.fit).map_err(|e| e.at(&place))?;
        let (expected, first) = self.first.get_or_insert_with(|| (form, place.clone()));
        if *expected != form {
            let message = match (form.explicit, expected.explicit) {
                (false, true) if record.contains_key("prompt") => format!(
                    "`prompt` is null, and the first row ({first}) has one: give this row its prompt (\"\" for none), or \
                     remove it"
                ),
                _ => format!("this row has {form}, the first row ({first}) {expected}: split the file"),
            };
            return Err(DataError::new(message).at(&place));
        }
        if self.used.is_empty() {
            self.used = columns.used();
        }
        for name in columns.unused() {
            if self.unused.len() < MOST_UNUSED && !self.unused.iter().any(|known| known == name) {
                self.unused.push(name.to_owned());
            }
        }
        Ok(row)
    }

    /// What a row says, for a split: the same however the row is used.
    pub fn content(&self, row: &Row, record: &Record) -> Content {
        let plainly = Fit::default();
        let read = |layout| interpret(&row.place, &Columns::new(record, layout), &plainly);
        if self.layout == Layout::Pairs {
            return Content::of(row, self.layout);
        }
        match read(Layout::Pairs) {
            Ok((pair, _)) => Content::of(&pair, Layout::Pairs),
            Err(_) => read(self.layout)
                .map_or_else(|_| Content::of(row, self.layout), |(row, _)| Content::of(&row, self.layout)),
        }
    }

    /// What the rows were taken for, and the columns that the first of them used.
    pub fn form(&self) -> String {
        let Some((form, _)) = &self.first else { return String::new() };
        let rows = match self.layout {
            Layout::Pairs => "pairs",
            Layout::Unpaired => "unpaired answers",
            Layout::Demonstrations => "demonstrations",
        };
        format!("{rows}, {form}, from {}", self.used.join(", "))
    }

    /// The columns that some row did not use.
    pub fn unused(self) -> Vec<String> {
        self.unused
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = if self.conversational { "messages with" } else { PLAIN_TEXT };
        match self.explicit {
            true => write!(f, "{texts} a prompt of its own"),
            false => write!(f, "{texts}out a prompt of its own"),
        }
    }
}

fn interpret<'a>(place: &Place, columns: &Columns<'a>, fit: &'a Fit) -> Result<(Row, Form)> {
    let own = columns.prompt()?;
    let explicit = own.is_some();
    let (prompt, answers) = unite(own, columns.answers()?, fit.train_on)?;
    let prompt = columns.complete(prompt)?;
    let conversational = matches!(prompt, Text::Chat(_));
    // Plain text is rendered by no template.
    let variables = if conversational { columns.variables()? } else { Default::default() };
    for answer in answers.iter() {
        spoken_by_the_assistant(answer)?;
    }
    let row = Row {
        place: place.clone(),
        prompt,
        answers,
        gap: columns.gap()?,
        weight: columns.weight()?,
        columns: columns.numbers(&fit.columns)?,
        variables,
    };
    Ok((row, Form { conversational, explicit }))
}

/// Gives prompt and answers one form. If the answers hold the prompt, it is removed from them.
fn unite(prompt: Option<Text>, answers: Answers, train_on: TrainOn) -> Result<(Text, Answers)> {
    match prompt {
        None => implicit::split(answers, train_on),
        Some(Text::Chat(context)) => {
            let answers = answers.map(spoken);
            let again = !context.is_empty() && answers.iter().all(|answer| answer.begins_with(&context));
            let answers = if again { answers.map(|answer| answer.without(context.len())) } else { answers };
            Ok((Text::Chat(context), answers))
        }
        Some(Text::Plain(prompt)) => {
            match answers.iter().filter(|answer| matches!(answer, Text::Chat(_))).count() {
                0 => Ok((Text::Plain(prompt), answers)),
                n if n == answers.iter().count() => asked(prompt, answers, train_on),
                _ => Err(DataError::new(
                    "one answer is plain text and the other a list of messages: both must have one form",
                )),
            }
        }
    }
}

/// A prompt that is text, with answers that are messages: it is the user's message before them, unless they are whole
/// conversations that hold it.
fn asked(prompt: String, answers: Answers, train_on: TrainOn) -> Result<(Text, Answers)> {
    let begins = |answer: &Text| matches!(answer, Text::Chat(messages) if messages.first().is_none_or(|first| role(first) == "assistant"));
    if prompt.is_empty() || !answers.iter().all(begins) {
        let (context, answers) = implicit::split(answers, train_on)?;
        return match prompt.is_empty() || holds(&context, &prompt) {
            true => Ok((context, answers)),
            false => Err(DataError::new(
                "the prompt is text that the messages of the answers do not hold: remove the column `prompt` if the \
                 messages are whole conversations, else leave the assistant's messages alone in the answers",
            )),
        };
    }
    Ok((Text::Chat(vec![message("user", prompt.into())]), answers))
}

/// Whether a message of the user is this text, give or take what is around it.
fn holds(context: &Text, prompt: &str) -> bool {
    let Text::Chat(messages) = context else { return false };
    let prompt = prompt.trim();
    messages.iter().filter(|message| role(message) == "user").any(|message| {
        let content = message.get("content").and_then(Value::as_str).unwrap_or_default().trim();
        !content.is_empty() && (content.contains(prompt) || prompt.contains(content))
    })
}

/// Converts an answer to an assistant message.
fn spoken(answer: Text) -> Text {
    match answer {
        Text::Plain(text) => Text::Chat(vec![message("assistant", Value::String(text))]),
        chat => chat,
    }
}

fn spoken_by_the_assistant(answer: &Text) -> Result<()> {
    let Text::Chat(messages) = answer else { return Ok(()) };
    if messages.is_empty() || messages.iter().any(|message| role(message) == "assistant") {
        return Ok(());
    }
    let mut roles: Vec<_> = messages.iter().map(|message| format!("`{}`", role(message))).collect();
    roles.dedup();
    Err(DataError::new(format!(
        "an answer has no message of the role `assistant`, only of {}: it is the assistant's that is learned",
        roles.join(", ")
    )))
}

impl Text {
    fn begins_with(&self, context: &[Message]) -> bool {
        matches!(self, Text::Chat(messages) if messages.len() > context.len() && messages.starts_with(context))
    }

    /// Without its first messages.
    fn without(self, count: usize) -> Text {
        match self {
            Text::Chat(mut messages) => Text::Chat(messages.split_off(count)),
            plain => plain,
        }
    }
}
