//! What the assistant says in a conversation, where more than the last answer is learned.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Result};
use crate::messages::role;
use crate::row::Message;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What is learned of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// All that follows the prompt. Of `messages` that is the last.
    #[default]
    Last,
    /// Every turn of the assistant that follows the prompt, and no other text. Of `messages`, every turn of the assistant.
    AllAssistant,
}

/// A conversation as token ids.
pub(crate) struct Turns {
    pub ids: Vec<u32>,
    /// Whether each token is the assistant's.
    pub scored: Vec<bool>,
}

impl Turns {
    /// Tokenizes a conversation, and tells which tokens are the assistant's: those that reach into its text, as in
    /// transformers. Turns before the message `first` are context.
    ///
    /// Where the template marks the assistant's text (`{% generation %}`), that is it. Else the text of a turn is what
    /// comes to the rendering with its message, behind the beginning of an answer to be generated.
    ///
    /// # Errors
    /// When the template refuses the messages, or renders earlier turns otherwise once later ones follow.
    pub fn of(
        tokenizer: &Tokenizer,
        messages: &[Message],
        first: usize,
        variables: &Map<String, Value>,
    ) -> Result<Self> {
        let template = tokenizer.template()?;
        let (text, mut spans) = match template.marks_answers() {
            true => template.render_marked(messages, variables)?,
            false => derived(template, messages, first, variables)?,
        };
        if template.marks_answers() && spans.iter().all(Range::is_empty) {
            return Err(DataError::new(
                "the chat template puts no text of this conversation between {% generation %} and {% endgeneration %}, so \
                 nothing in it is known to be the assistant's: mark the assistant's text, or take the marks out of the template",
            ));
        }
        if template.marks_answers() && first > 0 {
            // What the context ends with, before the first answer.
            let context = template.render(&messages[..first], true, variables)?;
            let shared = shared(&context, &text);
            spans.retain(|span| span.end > shared);
        }
        let (ids, places) = tokenizer.encode_with_places(&text)?;
        let spans: Vec<Range<usize>> = spans.into_iter().map(|span| characters(&text, span)).collect();
        let reaches =
            |place: &Range<usize>| spans.iter().any(|span| place.start < span.end && place.end > span.start);
        let scored = places.iter().map(reaches);
        Ok(Turns { scored: scored.collect(), ids })
    }
}

/// The text of a conversation, and where the assistant's turns lie in it, found by rendering its beginnings.
fn derived(
    template: &ChatTemplate,
    messages: &[Message],
    first: usize,
    variables: &Map<String, Value>,
) -> Result<(String, Vec<Range<usize>>)> {
    let text = template.render(messages, false, variables)?;
    let mut spans = Vec::new();
    for turn in (first..messages.len()).filter(|turn| role(&messages[*turn]) == "assistant") {
        let otherwise = || {
            DataError::new(format!(
                "the chat template renders message {} otherwise when others follow, so what the assistant said there is not \
                 known: mark it in the template with {{% generation %}}, or set train_on = \"last\"",
                turn + 1
            ))
        };
        let rendered = |count: usize, generation: bool| match count {
            // Many templates refuse to begin an answer to nothing. Then all that comes before it is taken for the turn's.
            0 => Ok(template.render(&[], generation, variables).unwrap_or_default()),
            _ => template.render(&messages[..count], generation, variables),
        };
        let whole = rendered(turn + 1, false)?;
        if !text.starts_with(&whole) {
            return Err(otherwise());
        }
        let opened = rendered(turn, true)?;
        let start = shared(&opened, &text);
        if start < opened.len() {
            // The beginning of an answer to be generated differs from that of one that is there.
            let before = rendered(turn, false)?;
            if !text.starts_with(&before) || start < before.len() {
                return Err(otherwise());
            }
        }
        spans.push(start.min(whole.len())..whole.len());
    }
    Ok((text, spans))
}

/// How many bytes two texts share at their beginning.
fn shared(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// A range of bytes as one of characters.
fn characters(text: &str, Range { start, end }: Range<usize>) -> Range<usize> {
    let before = text[..start].chars().count();
    before..before + text[start..end].chars().count()
}

/// The ranges of what is scored.
pub(crate) fn spans(scored: &[bool]) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for at in (0..scored.len()).filter(|at| scored[*at]) {
        match spans.last_mut().filter(|last| last.end == at) {
            Some(last) => last.end += 1,
            None => spans.push(at..at + 1),
        }
    }
    spans
}
