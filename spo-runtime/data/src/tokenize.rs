//! Converts a row to token ids and finds where the prompt ends and the answers begin.

use serde_json::{Map, Value};

use crate::error::{DataError, Result};
use crate::row::Text;
use crate::tokenizer::Tokenizer;

/// Token ids of a prompt and its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The context that all answers share.
    pub prompt: Vec<u32>,
    /// The ids of each answer, including its end token.
    pub answers: Vec<Vec<u32>>,
}

/// Tokenizes a prompt with its answers, as TRL does.
///
/// The prompt and each prompt + answer are tokenized separately. The answers begin at the first position
/// where the ids of any prompt + answer differ from those of the prompt. Prompt tokens after this position
/// are dropped (for example, a trailing space that becomes part of the next word's token). The text of the
/// end token is appended to a plain answer unless the answer already ends with it. Nothing is appended to a
/// conversation, because the chat template ends it.
pub(crate) fn tokenize(
    tokenizer: &Tokenizer,
    prompt: &Text,
    answers: &[&Text],
    variables: &Map<String, Value>,
) -> Result<Tokens> {
    let prompt_ids = match prompt {
        Text::Plain(text) => tokenizer.encode(text)?,
        // Templates access the first message, and there is none.
        Text::Chat(messages) if messages.is_empty() => Vec::new(),
        Text::Chat(messages) => tokenizer.encode_chat(messages, true, variables)?,
    };
    let whole: Vec<_> = answers
        .iter()
        .map(|answer| match (prompt, answer) {
            (Text::Plain(prompt), Text::Plain(answer)) => {
                let (eos, _) = tokenizer.eos().ok_or_else(|| {
                    DataError::new("the tokenizer has no eos_token: plain-text answers would never end")
                })?;
                let end = if answer.ends_with(eos) { "" } else { eos };
                tokenizer.encode(&[prompt, answer.as_str(), end].concat())
            }
            (Text::Chat(prompt), Text::Chat(answer)) => {
                tokenizer.encode_chat(&[prompt.as_slice(), answer].concat(), false, variables)
            }
            _ => Err(DataError::new("prompt and answers must both be plain text or both be messages")),
        })
        .collect::<Result<_>>()?;
    let boundary = whole.iter().map(|ids| common(&prompt_ids, ids)).min().unwrap_or(prompt_ids.len());
    Ok(Tokens {
        prompt: prompt_ids[..boundary].to_vec(),
        answers: whole.iter().map(|ids| ids[boundary..].to_vec()).collect(),
    })
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
