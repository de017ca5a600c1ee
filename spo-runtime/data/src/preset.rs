//! Forms of rows that columns alone do not tell.

use serde_json::{Value, json};
use spo_api::nearest;

use crate::columns::number_in;
use crate::error::{DataError, Result};
use crate::hash;
use crate::read::json::kind;
use crate::source::Record;

/// A form of rows with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    /// Dialogues as text, as in Anthropic's HH-RLHF.
    Dialogues,
    /// A list of answers with scores, of which the best and the worst are a pair.
    Ranked,
    /// The same; every two answers of different scores are a pair.
    RankedPairs,
    /// The same; the best and a random one of a lower score are a pair, as UltraFeedback was binarized.
    RankedRandom,
}

/// Forms that need no name.
const RECOGNIZED: [&str; 5] = ["alpaca", "kto", "orca", "sharegpt", "ultrafeedback"];

/// Names for the list of answers, for that of their scores, and in an answer for its text and its score.
const ANSWERS: [&str; 3] = ["answers", "responses", "completions"];
const TEXTS: [&str; 5] = ["answer", "response", "text", "content", "completion"];
const SCORES: [&str; 4] = ["score", "overall_score", "rating", "reward"];

impl Preset {
    pub(crate) const ALL: [Preset; 4] =
        [Preset::Dialogues, Preset::Ranked, Preset::RankedPairs, Preset::RankedRandom];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Preset::Dialogues => "hh",
            Preset::Ranked => "ranked",
            Preset::RankedPairs => "ranked-pairs",
            Preset::RankedRandom => "ranked-random",
        }
    }

    /// The form of this name.
    ///
    /// # Errors
    /// Which there are.
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        if let Some(preset) = Self::ALL.into_iter().find(|preset| preset.name() == name) {
            return Ok(preset);
        }
        if RECOGNIZED.contains(&name) {
            return Err(format!(
                "rows of the form \"{name}\" are recognized by their columns: leave the key out"
            ));
        }
        let names = Self::ALL.map(Preset::name);
        let hint = nearest(name, names).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        Err(format!(
            "no form of rows is called \"{name}\": expected one of {}, or a table{hint}",
            names.join(", ")
        ))
    }

    /// Whether a column of this name belongs to the form.
    pub(crate) fn knows(self, name: &str) -> bool {
        self != Preset::Dialogues && (ANSWERS.contains(&name) || name == "scores")
    }

    /// The columns that it makes, whatever the file has under their names.
    pub(crate) fn makes(self) -> &'static [&'static str] {
        match self {
            Preset::Dialogues => &[],
            _ => &["chosen", "rejected", "score_chosen", "score_rejected"],
        }
    }

    /// The rows that a record stands for.
    pub(crate) fn rows(self, record: Record) -> Result<Vec<Record>> {
        match self {
            Preset::Dialogues => dialogues(record).map(|row| vec![row]),
            ranked => pairs(record, ranked),
        }
    }
}

/// Makes messages of dialogues that are text.
fn dialogues(mut record: Record) -> Result<Record> {
    for column in ["chosen", "rejected"] {
        let Some(value) = record.get_mut(column) else { continue };
        let messages = value.as_str().and_then(messages).ok_or_else(|| {
            DataError::new(format!(
                "column `{column}`: expected a dialogue, which is text that begins \"\\n\\nHuman: \" and has \
                 \"\\n\\nAssistant: \" before each answer"
            ))
        })?;
        *value = messages;
    }
    Ok(record)
}

/// The messages of a dialogue; `None` if the text is none.
fn messages(text: &str) -> Option<Value> {
    let speaker = |text: &str| {
        let at = |mark: &str| text.find(mark).map(|at| (at, mark.len()));
        let (human, assistant) = (at("\n\nHuman:"), at("\n\nAssistant:"));
        let first = [human.map(|h| (h, "user")), assistant.map(|a| (a, "assistant"))];
        first.into_iter().flatten().min()
    };
    let (((0, mut length), mut role), mut rest) = (speaker(text)?, text) else { return None };
    let mut messages = Vec::new();
    loop {
        rest = &rest[length..];
        let next = speaker(rest);
        let end = next.map_or(rest.len(), |((at, _), _)| at);
        let content = rest[..end].strip_prefix(' ').unwrap_or(&rest[..end]);
        messages.push(json!({ "role": role, "content": content }));
        let Some(((_, mark), by)) = next else { return Some(Value::Array(messages)) };
        (rest, length, role) = (&rest[end..], mark, by);
    }
}

/// Pairs of answers by their scores; without any if all scores are the same.
fn pairs(mut record: Record, how: Preset) -> Result<Vec<Record>> {
    let column = ANSWERS.into_iter().find(|name| record.contains_key(*name)).ok_or_else(|| {
        DataError::new(format!(
            "there is no list of answers: expected one of the columns {}",
            ANSWERS.join(", ")
        ))
    })?;
    let answers = list(column, record.shift_remove(column).unwrap_or_default())?;
    let mut scored = match record.shift_remove("scores") {
        Some(scores) => {
            let scores = list("scores", scores)?;
            if scores.len() != answers.len() {
                let message = format!("{} `scores` for {} `{column}`", scores.len(), answers.len());
                return Err(DataError::new(message));
            }
            let score = |value: &Value| {
                number_in(value).ok_or_else(|| {
                    DataError::new(format!("column `scores`: expected numbers, found {}", kind(value)))
                })
            };
            answers.into_iter().zip(&scores).map(|(a, s)| Ok((score(s)?, a))).collect::<Result<Vec<_>>>()?
        }
        None => answers.into_iter().map(|answer| judged(column, answer)).collect::<Result<_>>()?,
    };
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let all = (0..scored.len()).flat_map(|i| (i + 1..scored.len()).map(move |j| (i, j)));
    let mut pairs: Vec<_> = all.filter(|&(i, j)| scored[i].0 > scored[j].0).collect();
    match how {
        Preset::RankedPairs => {}
        Preset::RankedRandom => {
            pairs.retain(|(i, _)| *i == 0);
            // What the answers say draws, so that a row has the same pair whatever is beside it.
            let draw = pairs.len().checked_sub(1).map(|_| draw(&scored) % pairs.len());
            pairs = draw.map(|drawn| pairs[drawn]).into_iter().collect();
        }
        _ => pairs.retain(|pair| *pair == (0, scored.len() - 1)),
    }
    Ok(pairs
        .into_iter()
        .map(|(i, j)| {
            let mut row = record.clone();
            for (answer, score, (value, text)) in
                [("chosen", "score_chosen", &scored[i]), ("rejected", "score_rejected", &scored[j])]
            {
                row.insert(answer.to_owned(), text.clone());
                row.insert(score.to_owned(), json!(value));
            }
            row
        })
        .collect())
}

/// A number that depends on what the answers say.
fn draw(answers: &[(f64, Value)]) -> usize {
    let said: Vec<_> = answers.iter().map(|(_, answer)| answer.to_string()).collect();
    let hash = hash::of_bytes(said.join("\n"));
    let digits = hash.chars().take(7).filter_map(|digit| digit.to_digit(16));
    digits.fold(0, |number, digit| number << 4 | digit as usize)
}

/// The score and the text of an answer that is an object. A rank counts from 1, the best.
fn judged(column: &str, answer: Value) -> Result<(f64, Value)> {
    let field =
        |names: &[&str]| names.iter().find_map(|name| answer.get(name).filter(|value| !value.is_null()));
    let score = field(&SCORES).and_then(number_in);
    let score = score.or_else(|| field(&["rank"]).and_then(number_in).map(|rank| -rank));
    match (score, field(&TEXTS)) {
        (Some(score), Some(text)) => Ok((score, text.clone())),
        _ => Err(DataError::new(format!(
            "column `{column}`: an answer needs a score. Either there is a column `scores` beside it, or each answer is an \
             object with its text as one of {}, and one of {}, rank",
            TEXTS.join(", "),
            SCORES.join(", ")
        ))),
    }
}

/// A list, or a list as JSON text.
fn list(column: &str, value: Value) -> Result<Vec<Value>> {
    let stored = value.as_str().and_then(|json| serde_json::from_str(json).ok());
    match stored.unwrap_or(value) {
        Value::Array(items) => Ok(items),
        other => Err(DataError::new(format!("column `{column}`: expected a list, found {}", kind(&other)))),
    }
}
