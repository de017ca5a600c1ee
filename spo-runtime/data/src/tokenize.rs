//! Converts a row to token ids and finds where the prompt ends and the answers begin.

use std::ops::Range;

use serde_json::Value;

use crate::dataset::Fit;
use crate::error::{DataError, Result};
use crate::report::{Finding, Noticed};
use crate::row::{Message, Row, Text};
use crate::special::SpecialTokens;
use crate::tokenizer::Tokenizer;
use crate::turns::{TrainOn, Turns, spans};

/// Token ids of a prompt and its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The context that all answers share.
    pub prompt: Vec<u32>,
    /// The ids of each answer, including its end token.
    pub answers: Vec<Vec<u32>>,
    /// For each answer, the ranges of its tokens that are scored; empty if all tokens are.
    pub scored: Vec<Vec<Range<usize>>>,
}

/// Tokenizes a row's prompt with its answers, as TRL does, and tells what is doubtful about a conversation.
///
/// The prompt and each prompt + answer are tokenized separately. The answers begin at the first position
/// where the ids of any prompt + answer differ from those of the prompt. Prompt tokens after this position
/// are dropped (for example, a trailing space that becomes part of the next word's token). The text of the
/// end token is appended to a plain answer unless the answer already ends with it. Nothing is appended to a
/// conversation, because the chat template ends it.
pub(crate) fn tokenize(
    tokenizer: &Tokenizer,
    row: &Row,
    &Fit { special_tokens: special, train_on, .. }: &Fit,
) -> Result<(Tokens, Vec<Noticed>)> {
    let Row { prompt, variables, .. } = row;
    let answers: Vec<_> = row.answers.iter().collect();
    let named = row.messages().and_then(|messages| tokenizer.special().first(messages));
    let hide = named.is_some() && special == SpecialTokens::AsText;
    let render = |messages: &[Message], generation: bool| {
        let template = tokenizer.template()?;
        match hide {
            true => template.render(&tokenizer.special().hidden(messages), generation, variables),
            false => template.render(messages, generation, variables),
        }
    };
    let prompt_text = match prompt {
        Text::Plain(text) => text.clone(),
        // Templates access the first message, and there is none.
        Text::Chat(messages) if messages.is_empty() => String::new(),
        Text::Chat(messages) => render(messages, true)?,
    };
    let whole_texts: Vec<_> = answers
        .iter()
        .map(|answer| match (prompt, answer) {
            (Text::Plain(prompt), Text::Plain(answer)) => {
                let (eos, _) = tokenizer.eos().ok_or_else(|| {
                    DataError::new("the tokenizer has no eos_token: plain-text answers would never end")
                })?;
                let end = if answer.ends_with(eos) { "" } else { eos };
                Ok([prompt, answer.as_str(), end].concat())
            }
            (Text::Chat(prompt), Text::Chat(answer)) => render(&[prompt.as_slice(), answer].concat(), false),
            _ => Err(DataError::new("prompt and answers must both be plain text or both be messages")),
        })
        .collect::<Result<_>>()?;
    let encode = |text: &String| match prompt {
        Text::Plain(_) => tokenizer.encode(text),
        Text::Chat(_) if hide => tokenizer.encode_hiding(text),
        Text::Chat(_) => tokenizer.encode_rendered(text),
    };
    let prompt_ids = encode(&prompt_text)?;
    let whole = whole_texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
    let boundary = whole.iter().map(|ids| common(&prompt_ids, ids)).min().unwrap_or(prompt_ids.len());
    let tokens = match (train_on, named.filter(|_| hide)) {
        (TrainOn::Last, _) => Tokens {
            prompt: prompt_ids[..boundary].to_vec(),
            answers: whole.iter().map(|ids| ids[boundary..].to_vec()).collect(),
            scored: Vec::new(),
        },
        (TrainOn::AllAssistant, None) => every_turn(tokenizer, row)?,
        (TrainOn::AllAssistant, Some(token)) => {
            return Err(DataError::new(format!(
                "{token:?} stands in the text of a message: with train_on = \"all-assistant\", special_tokens = \"as_text\" \
                 cannot tell which tokens are the assistant's"
            )));
        }
    };
    let mut noticed = Vec::new();
    if let Text::Chat(_) = prompt {
        let shown = |text: String| if hide { tokenizer.special().shown(&text) } else { text };
        let whole_texts: Vec<_> = whole_texts.into_iter().map(shown).collect();
        noticed.extend(end_of_prompt(&shown(prompt_text), &whole_texts));
        noticed.extend(endless(tokenizer, &tokens, &answers, &whole_texts));
    }
    if let (Some(token), false) = (named, hide) {
        let detail = format!("{token:?}, which is the token and not its text");
        noticed.push(Noticed { finding: Finding::SpecialToken, detail });
    }
    Ok((tokens, noticed))
}

/// Tokenizes conversations of which all turns of the assistant that follow the prompt are scored.
///
/// The prompt ends before the first token that is scored in any answer, or where the answers begin to differ.
fn every_turn(tokenizer: &Tokenizer, row: &Row) -> Result<Tokens> {
    let Text::Chat(prompt) = &row.prompt else {
        return Err(DataError::new(
            "train_on = \"all-assistant\" is for conversations, and this row is plain text: leave the key out",
        ));
    };
    let turns = |answer: &Text| match answer {
        Text::Chat(answer) => {
            Turns::of(tokenizer, &[prompt.as_slice(), answer].concat(), prompt.len(), &row.variables)
        }
        Text::Plain(_) => {
            Err(DataError::new("prompt and answers must both be plain text or both be messages"))
        }
    };
    let all = row.answers.iter().map(turns).collect::<Result<Vec<_>>>()?;
    let first = |turns: &Turns| turns.scored.iter().position(|scored| *scored).unwrap_or(turns.ids.len());
    let shared = all.iter().map(|turns| common(&all[0].ids, &turns.ids)).min().unwrap_or(0);
    let boundary = all.iter().map(first).min().unwrap_or(0).min(shared);
    let scored: Vec<_> = all.iter().map(|turns| spans(&turns.scored[boundary..])).collect();
    let answers: Vec<_> = all.iter().map(|turns| turns.ids[boundary..].to_vec()).collect();
    let whole = all.iter().all(|turns| turns.scored[boundary..].iter().all(|scored| *scored));
    Ok(Tokens {
        prompt: all[0].ids[..boundary].to_vec(),
        answers,
        scored: if whole { Vec::new() } else { scored },
    })
}

/// The end of the prompt that its answers do not continue: the template begins an answer that is to be generated
/// otherwise than one that is there.
fn end_of_prompt(prompt: &str, whole: &[String]) -> Option<Noticed> {
    let shared = |text: &String| {
        let pairs = prompt.char_indices().zip(text.chars());
        pairs.take_while(|((_, a), b)| a == b).last().map_or(0, |((at, a), _)| at + a.len_utf8())
    };
    let left_out = &prompt[whole.iter().map(shared).min()?..];
    let detail = format!(
        "{:?}; the template puts it before an answer to be generated, not before these",
        brief(left_out)
    );
    (!left_out.is_empty()).then_some(Noticed { finding: Finding::EndOfPrompt, detail })
}

/// An answer at whose end generation would not stop.
fn endless(tokenizer: &Tokenizer, tokens: &Tokens, answers: &[&Text], whole: &[String]) -> Option<Noticed> {
    let stop = tokenizer.stop_tokens();
    let which =
        tokens.answers.iter().position(|ids| !ids.is_empty() && !ids.iter().any(|id| stop.contains(id)))?;
    let Text::Chat(messages) = answers[which] else { return None };
    let content = messages.last().and_then(|last| last.get("content")).and_then(Value::as_str);
    let content = content.map(str::trim).filter(|content| !content.is_empty());
    let end = content.and_then(|content| Some(whole[which].rfind(content)? + content.len()));
    let end = match end {
        Some(end) => whole[which][end..].to_owned(),
        None => tokenizer.decode(&tokens.answers[which]).unwrap_or_default(),
    };
    let names: Vec<_> =
        stop.iter().map(|id| format!("{:?}", tokenizer.decode(&[*id]).unwrap_or_default())).collect();
    let stops = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let detail = match brief(&end) {
        end if end.is_empty() => {
            format!("the template puts nothing behind it, and generation stops at {stops}")
        }
        end => format!("the template ends it with {end:?}, and generation stops at {stops}"),
    };
    Some(Noticed { finding: Finding::Endless, detail })
}

/// The text, or its beginning if it is long.
pub(crate) fn brief(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
