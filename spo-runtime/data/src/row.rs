//! A row: a prompt with its answers.

use serde_json::{Map, Value};
use spo_api::Layout;

use crate::columns::needs;
use crate::error::{DataError, Place, Result};
use crate::messages::role;

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
    /// The factor of the row's loss.
    pub weight: f64,
    /// The numbers that an objective reads, in the order of [`Fit::columns`](crate::Fit::columns).
    pub columns: Vec<f64>,
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
            weight: self.weight,
            columns: self.columns.clone(),
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

impl Row {
    /// The messages of its prompt and answers, if they are conversations.
    pub(crate) fn messages(&self) -> Option<impl Iterator<Item = &Message>> {
        let texts = || std::iter::once(&self.prompt).chain(self.answers.iter());
        let chat = |text: &'_ Text| matches!(text, Text::Chat(_));
        texts().any(chat).then(|| {
            texts().flat_map(|text| match text {
                Text::Chat(messages) => messages.as_slice(),
                Text::Plain(_) => &[],
            })
        })
    }
}

impl Text {
    /// Whether an answer says nothing: there is no text, or the assistant has a turn without content.
    pub(crate) fn says_nothing(&self) -> bool {
        let silent = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(parts)) => parts.is_empty(),
            Some(_) => false,
        };
        let silent = |message: &Message| silent(message.get("content")) && silent(message.get("tool_calls"));
        match self {
            Text::Plain(text) => text.is_empty(),
            Text::Chat(messages) => {
                let mut turns = messages.iter().filter(|message| role(message) == "assistant");
                messages.iter().all(silent) || turns.any(silent)
            }
        }
    }
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

    pub(crate) fn map(self, f: impl Fn(Text) -> Text) -> Self {
        match self {
            Answers::Pair { chosen, rejected } => Answers::Pair { chosen: f(chosen), rejected: f(rejected) },
            Answers::Demonstration(text) => Answers::Demonstration(f(text)),
            Answers::Labelled { completion, desirable } => {
                Answers::Labelled { completion: f(completion), desirable }
            }
        }
    }
}
