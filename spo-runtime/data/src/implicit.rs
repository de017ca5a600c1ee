//! Prompts that are not given separately: the common beginning of two answers, or a dialogue before its
//! last message.

use crate::error::{DataError, Result};
use crate::messages::role;
use crate::row::{Answers, Message, Text};
use crate::turns::TrainOn;

/// Splits the prompt off the answers of a row that has no prompt of its own.
///
/// # Errors
/// When the answers do not hold one.
pub(crate) fn split(answers: Answers, train_on: TrainOn) -> Result<(Text, Answers)> {
    match answers {
        Answers::Pair { chosen, rejected } => of_pair(chosen, rejected),
        Answers::Demonstration(text) => of_dialogue(text, train_on),
        Answers::Labelled { .. } => Err(DataError::new("there is no column `prompt`")),
    }
}

/// Splits off the common beginning of two answers as the prompt, as TRL's `extract_prompt` does.
///
/// Each answer keeps at least one character or message. A space just before the point where the answers
/// diverge stays with the answers, because it belongs to the next word's token.
fn of_pair(chosen: Text, rejected: Text) -> Result<(Text, Answers)> {
    let (prompt, chosen, rejected) = match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let [c, r] = [&chosen, &rejected].map(|text| text.chars().collect::<Vec<_>>());
            let mut shared = shared(&c, &r);
            if shared > 0 && c[shared - 1] == ' ' && c.get(shared) != r.get(shared) {
                shared -= 1;
            }
            let text = |chars: &[char]| chars.iter().collect::<String>();
            (
                Text::Plain(text(&c[..shared])),
                Text::Plain(text(&c[shared..])),
                Text::Plain(text(&r[shared..])),
            )
        }
        (Text::Chat(mut chosen), Text::Chat(mut rejected)) => {
            let shared = shared(&chosen, &rejected);
            let chosen_tail = chosen.split_off(shared);
            (Text::Chat(chosen), Text::Chat(chosen_tail), Text::Chat(rejected.split_off(shared)))
        }
        _ => {
            return Err(DataError::new(
                "`chosen` and `rejected` must both be plain text or both be lists of messages",
            ));
        }
    };
    Ok((prompt, Answers::Pair { chosen, rejected }))
}

fn shared<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let shorter = a.len().min(b.len());
    (0..shorter).find(|&i| a[i] != b[i]).unwrap_or(shorter.saturating_sub(1))
}

/// Splits a dialogue into a prompt and a demonstration: its last message, which must be the assistant's, or all from the
/// first of the assistant's.
fn of_dialogue(dialogue: Text, train_on: TrainOn) -> Result<(Text, Answers)> {
    let Text::Chat(mut messages) = dialogue else {
        return Err(DataError::new("there is no column `prompt`, and the answer is plain text"));
    };
    let is_answer = |message: &Message| role(message) == "assistant";
    match messages.last().filter(|last| is_answer(last)) {
        Some(_) => {
            let first = match train_on {
                TrainOn::Last => None,
                TrainOn::AllAssistant => messages.iter().position(is_answer),
            };
            let answer = messages.split_off(first.unwrap_or(messages.len() - 1));
            Ok((Text::Chat(messages), Answers::Demonstration(Text::Chat(answer))))
        }
        None => Err(DataError::new("the last message must be the assistant's: it is what is demonstrated")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extracted(chosen: &str, rejected: &str) -> [String; 3] {
        let plain = |text: &str| Text::Plain(text.into());
        let Ok((Text::Plain(prompt), Answers::Pair { chosen: Text::Plain(c), rejected: Text::Plain(r) })) =
            of_pair(plain(chosen), plain(rejected))
        else {
            panic!("not a plain pair")
        };
        [prompt, c, r]
    }

    #[test]
    fn nothing_is_lost_and_no_answer_is_emptied() {
        assert_eq!(extracted("naïve ünit", "naïve öde"), ["naïve", " ünit", " öde"]);
        assert_eq!(extracted("same", "same"), ["sam", "e", "e"]);
        assert_eq!(extracted("one", "one two"), ["on", "e", "e two"]);
        assert_eq!(extracted("yes", "no"), ["", "yes", "no"]);
        assert_eq!(extracted("", "text"), ["", "", "text"]);
        // TRL's index wraps around here: its prompt is "yes", and the rejected answer loses its first
        // letter.
        assert_eq!(extracted("yes ", "no"), ["", "yes ", "no"]);
    }
}
