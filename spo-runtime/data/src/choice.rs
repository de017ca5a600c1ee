//! Which rows are used: told by what they say, so that neither their order nor the format of their file matters.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use spo_api::Layout;

use crate::row::{Answers, Row, Text};

/// A share of the rows that is held out.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The share, between 0 and 1. A row is held out or not by a hash of its prompt and answers: the same row always,
    /// whatever else is in the file.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub eval: f64,
}

/// One of the two sides of a [`Split`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    /// The rows that are not held out.
    Train(Split),
    /// The rows that are.
    Eval(Split),
}

impl Side {
    pub(crate) fn has(self, content: Content) -> bool {
        let held_out = |split: Split| content.mixed("split", 0).fraction() < split.eval;
        match self {
            Side::Train(split) => !held_out(split),
            Side::Eval(split) => held_out(split),
        }
    }
}

/// Why rows are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// The filter is false.
    Filter,
    /// No answer is better than another.
    Tie,
    /// It is on the other side of the split.
    Split,
    /// The same row has been before.
    Duplicate,
    /// It is not in the sample.
    Sample,
}

impl LeftOut {
    pub(crate) fn words(self) -> &'static str {
        match self {
            LeftOut::Filter => "by the filter",
            LeftOut::Tie => "as no answer is better than another",
            LeftOut::Split => "as they are on the other side of the split",
            LeftOut::Duplicate => "as duplicates",
            LeftOut::Sample => "as they are not in the sample",
        }
    }
}

/// Rows left out, by reason.
pub(crate) type Counts = BTreeMap<LeftOut, usize>;

/// A hash of what a row says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Content([u8; 16]);

impl Content {
    /// Of a prompt and its answers, as a layout uses them.
    pub(crate) fn of(row: &Row, layout: Layout) -> Self {
        let mut hasher = Sha256::new_with_prefix("row");
        text(&mut hasher, &row.prompt);
        let answers = match (&row.answers, layout) {
            (Answers::Pair { .. }, Layout::Demonstrations) => 1,
            _ => 2,
        };
        row.answers.iter().take(answers).for_each(|answer| text(&mut hasher, answer));
        hasher.update([match row.answers {
            Answers::Labelled { desirable, .. } => u8::from(desirable),
            _ => 2,
        }]);
        Content::end(hasher)
    }

    fn mixed(self, purpose: &str, number: u64) -> Self {
        let mut hasher = Sha256::new_with_prefix(purpose);
        hasher.update(self.0);
        hasher.update(number.to_le_bytes());
        Content::end(hasher)
    }

    fn end(hasher: Sha256) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize()[..16]);
        Content(bytes)
    }

    /// A number from 0 to below 1.
    fn fraction(self) -> f64 {
        let [a, b, c, d, e, f, g, ..] = self.0;
        let bits = u64::from_be_bytes([0, a, b, c, d, e, f, g]) >> 3;
        bits as f64 / (1_u64 << 53) as f64
    }
}

fn text(hasher: &mut Sha256, text: &Text) {
    let mut part = |kind: &str, text: &str| {
        hasher.update(kind);
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    match text {
        Text::Plain(text) => part("text", text),
        Text::Chat(messages) => {
            for message in messages {
                part("message", &canonical(&Value::Object(message.clone())).to_string());
            }
            part("end", "");
        }
    }
}

/// The value with the keys of objects in order and without nulls, with which Parquet fills absent fields.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect()
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// Rows in the order that a seed gives them, of which a sample is the first. Each further row of the same content has a
/// place of its own.
pub(crate) struct Draw {
    seed: u64,
    times: HashMap<Content, u64>,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Draw { seed, times: HashMap::new() }
    }

    pub(crate) fn place(&mut self, content: Content) -> Content {
        let times = self.times.entry(content).or_default();
        *times += 1;
        content.mixed("sample", self.seed).mixed("again", *times)
    }
}

/// The last place that is in a sample of this many; `None` if it has no row.
pub(crate) fn last(places: &mut [Content], count: usize) -> Option<Content> {
    let last = count.min(places.len()).checked_sub(1)?;
    Some(*places.select_nth_unstable(last).1)
}

/// Rows that have been seen.
pub(crate) type Seen = HashSet<Content>;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::error::Place;

    fn row(prompt: &str) -> Row {
        let message = json!({"role": "user", "content": prompt, "name": null});
        Row {
            place: Place::file(Path::new("rows")),
            prompt: Text::Chat(vec![message.as_object().unwrap().clone()]),
            answers: Answers::Demonstration(Text::Plain("a".into())),
            gap: None,
            weight: 1.0,
            columns: Vec::new(),
            variables: Default::default(),
        }
    }

    #[test]
    fn a_share_is_held_out_and_what_is_held_out_stays_so() {
        let side = |eval| Side::Eval(Split { eval });
        let held_out = |eval| {
            let contents = (0..10_000).map(|i| Content::of(&row(&i.to_string()), Layout::Demonstrations));
            contents.filter(|content| side(eval).has(*content)).collect::<HashSet<_>>()
        };
        let (few, more) = (held_out(0.02), held_out(0.1));
        // Six standard deviations of 10,000 draws.
        assert!(
            few.len().abs_diff(200) < 84 && more.len().abs_diff(1000) < 180,
            "{} {}",
            few.len(),
            more.len()
        );
        assert!(few.is_subset(&more));
        // A change of this would move rows from one side to the other.
        let content = Content::of(&row("0"), Layout::Demonstrations);
        insta::assert_snapshot!(format!("{:.6}", content.mixed("split", 0).fraction()), @"0.464116");
    }
}
