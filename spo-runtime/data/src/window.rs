//! Cuts a tokenized row to the model's window.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::Group;

use crate::report::Finding;
use crate::tokenize::Tokens;

/// What to do with a row that is longer than the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Cut the end of the answer.
    #[default]
    KeepStart,
    /// Cut the beginning of the prompt.
    KeepEnd,
    /// Leave the row out.
    Drop,
}

/// A row that fits the window.
pub(crate) struct Cut {
    /// One group if all answers have the same context, otherwise one group per answer.
    pub groups: Vec<Group>,
    /// As in [`Tokens::scored`].
    pub scored: Vec<Vec<Range<usize>>>,
    pub truncated: bool,
}

/// Cuts prompt + answer to `max_length` tokens, separately for each answer, as TRL does. The first token of
/// the window is context even if it belongs to the answer, because no token precedes it to predict it from.
///
/// # Errors
/// The reason to drop the row.
pub(crate) fn cut(tokens: &Tokens, max_length: usize, truncation: Truncation) -> Result<Cut, Finding> {
    let mut cut = Cut { groups: Vec::new(), scored: Vec::new(), truncated: false };
    for (i, answer) in tokens.answers.iter().enumerate() {
        let length = tokens.prompt.len() + answer.len();
        let window = match truncation {
            _ if length <= max_length => 0..length,
            Truncation::KeepStart => 0..max_length,
            Truncation::KeepEnd => length - max_length..length,
            Truncation::Drop => return Err(Finding::TooLong),
        };
        cut.truncated |= length > max_length;
        let boundary = tokens.prompt.len().max(window.start + 1);
        if boundary >= window.end {
            return Err(match tokens.prompt.len() >= max_length {
                true => Finding::PromptFillsWindow,
                false => Finding::NothingToScore,
            });
        }
        if let Some(spans) = tokens.scored.get(i) {
            // From the beginning of the answer to that of the completion.
            let moved = |at: usize| (tokens.prompt.len() + at).clamp(boundary, window.end) - boundary;
            let spans = spans.iter().map(|span| moved(span.start)..moved(span.end));
            let kept: Vec<_> = spans.filter(|span| !span.is_empty()).collect();
            if kept.is_empty() {
                return Err(Finding::NothingToScore);
            }
            cut.scored.push(kept);
        }
        let whole = [tokens.prompt.as_slice(), answer].concat();
        let context = &whole[window.start..boundary];
        let completion = whole[boundary..window.end].to_vec();
        match cut.groups.first_mut().filter(|group| group.prompt == context) {
            Some(group) => group.completions.push(completion),
            None => cut.groups.push(Group { prompt: context.to_vec(), completions: vec![completion] }),
        }
    }
    Ok(cut)
}
