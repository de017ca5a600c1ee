//! Special tokens that stand in the text of a message, such as `<|im_end|>` in a question about chat formats.
//!
//! A chat template puts messages and special tokens into one text, so that what a message says about a token
//! looks like the token. While the template runs, such places can be hidden behind marks.

use aho_corasick::{AhoCorasick, MatchKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::row::Message;

/// What becomes of special tokens in the text of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpecialTokens {
    /// They are the tokens, as in transformers: text can end a turn, or begin one of the system.
    #[default]
    AsTokens,
    /// They are text, spelled in ordinary tokens.
    AsText,
}

/// Around the number of a hidden token. Unicode reserves these for use within a program.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Finds special tokens by their text.
pub(crate) struct Special {
    texts: Vec<String>,
    finder: AhoCorasick,
}

/// A part of a rendered conversation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text in which special tokens are tokens.
    Rendered(String),
    /// Text between two special tokens, in which there are none.
    Text(String),
}

impl Special {
    /// # Errors
    /// When they are too many or too long for a search.
    pub(crate) fn new(mut texts: Vec<String>) -> Result<Self, String> {
        texts.retain(|text| !text.is_empty());
        texts.sort();
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts);
        Ok(Special { finder: finder.map_err(|e| e.to_string())?, texts })
    }

    /// The first special token in the texts of these messages.
    pub(crate) fn first<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) -> Option<&str> {
        messages.into_iter().find_map(|message| message.values().find_map(|value| self.first_in(value)))
    }

    fn first_in(&self, value: &Value) -> Option<&str> {
        match value {
            Value::String(text) => {
                self.finder.find(text).map(|found| &*self.texts[found.pattern().as_usize()])
            }
            Value::Array(items) => items.iter().find_map(|item| self.first_in(item)),
            Value::Object(fields) => fields.values().find_map(|field| self.first_in(field)),
            _ => None,
        }
    }

    /// The messages with marks in place of special tokens.
    pub(crate) fn hidden(&self, messages: &[Message]) -> Vec<Message> {
        let field = |(name, value): (&String, &Value)| (name.clone(), self.hidden_in(value));
        messages.iter().map(|message| message.iter().map(field).collect()).collect()
    }

    fn hidden_in(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let mut hidden = String::new();
                self.finder.replace_all_with(text, &mut hidden, |found, _, out| {
                    out.push(MARKS[0]);
                    out.push_str(&found.pattern().as_usize().to_string());
                    out.push(MARKS[1]);
                    true
                });
                hidden.into()
            }
            Value::Array(items) => items.iter().map(|item| self.hidden_in(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, field)| (name.clone(), self.hidden_in(field))).collect()
            }
            other => other.clone(),
        }
    }

    /// A text with the special tokens again that were hidden in it.
    pub(crate) fn shown(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(MARKS[0]) {
            shown.push_str(before);
            let hidden = after.split_once(MARKS[1]);
            let token = hidden
                .and_then(|(number, rest)| Some((self.texts.get(number.parse::<usize>().ok()?)?, rest)));
            match token {
                Some((token, after)) => {
                    shown.push_str(token);
                    rest = after;
                }
                // Not a mark of ours.
                None => {
                    shown.push(MARKS[0]);
                    rest = after;
                }
            }
        }
        shown + rest
    }

    /// A rendered conversation, cut at the special tokens around text that hides others.
    pub(crate) fn parts(&self, rendered: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut current = String::new();
        let mut text = |text: &str, current: &mut String| match text.contains(MARKS[0]) {
            true => {
                if !current.is_empty() {
                    parts.push(Part::Rendered(std::mem::take(current)));
                }
                parts.push(Part::Text(self.shown(text)));
            }
            false => current.push_str(text),
        };
        let mut end = 0;
        for found in self.finder.find_iter(rendered) {
            text(&rendered[end..found.start()], &mut current);
            current.push_str(&rendered[found.range()]);
            end = found.end();
        }
        text(&rendered[end..], &mut current);
        if !current.is_empty() {
            parts.push(Part::Rendered(current));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hidden_tokens_are_shown_again() {
        let special = Special::new(["<e>", "<end>", "<s>"].map(str::to_owned).to_vec()).unwrap();
        let message = json!({"role": "user", "content": [{"text": "a <end> b<e>"}], "n": 1});
        let message = message.as_object().unwrap().clone();
        assert_eq!(special.first([&message]), Some("<end>"));
        let hidden = special.hidden(&[message]);
        assert_eq!(special.first(&hidden), None);
        let content = hidden[0]["content"][0]["text"].as_str().unwrap();
        assert_eq!(special.shown(content), "a <end> b<e>");
        let parts = special.parts(&format!("<s>user\n<e>x{content}y<end>z"));
        let expected = [
            Part::Rendered("<s>user\n<e>".into()),
            Part::Text("xa <end> b<e>y".into()),
            Part::Rendered("<end>z".into()),
        ];
        assert_eq!(parts, expected);
        // Marks that are in the data.
        assert_eq!(
            special.shown("\u{fdd0}x\u{fdd1}\u{fdd0}9\u{fdd1}\u{fdd0}"),
            "\u{fdd0}x\u{fdd1}\u{fdd0}9\u{fdd1}\u{fdd0}"
        );
    }
}
