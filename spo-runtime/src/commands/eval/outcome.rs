//! What was measured, as a table, as JSON, and row by row.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use spo_data::{Example, Question};

use super::answers::Answer;
use crate::terminal;
use crate::train::evaluate::choices::Chosen;
use crate::train::evaluate::figures::{Figure, RowFigures};

pub(super) struct Outcome {
    pub(super) model: PathBuf,
    pub(super) data: String,
    /// What should be known about the rows.
    pub(super) notes: Vec<String>,
    pub(super) figures: Vec<Figure>,
    /// A line of JSON for each row.
    pub(super) rows: Vec<Value>,
}

impl Outcome {
    pub(super) fn table(&self) -> String {
        let header = ["figure", "value", "95% interval", "rows"].map(str::to_owned);
        let row = |Figure { name, estimate }: &Figure| {
            let interval = estimate.interval.map(|(low, high)| format!("{low:.4} to {high:.4}"));
            let interval = interval.unwrap_or_else(|| "-".to_owned());
            vec![name.clone(), format!("{:.4}", estimate.mean), interval, estimate.count.to_string()]
        };
        let table = terminal::figures(&header, &self.figures.iter().map(row).collect::<Vec<_>>(), 1);
        let notes = self.notes.iter().map(|note| format!("{note}\n"));
        format!("{} on {}\n{}{table}", self.model.display(), self.data, notes.collect::<String>())
    }

    pub(super) fn json(&self) -> Value {
        let figure = |Figure { name, estimate }: &Figure| {
            let interval = estimate.interval.map(|(low, high)| [low, high]);
            let of = json!({ "mean": estimate.mean, "interval": interval, "rows": estimate.count });
            (name.clone(), of)
        };
        let figures: Map<String, Value> = self.figures.iter().map(figure).collect();
        json!({ "model": self.model, "data": self.data, "rows": self.rows.len(), "figures": figures })
    }

    pub(super) fn lines(&self) -> String {
        self.rows.iter().map(|row| format!("{row}\n")).collect()
    }
}

/// The line of a row with answers.
pub(super) fn answered(example: &Example, row: &RowFigures, answer: Option<&Answer>) -> Value {
    let mut line = json!({ "place": example.place.to_string() });
    let table = line.as_object_mut().expect("an object");
    if let Ok(Value::Object(figures)) = serde_json::to_value(row) {
        table.extend(figures);
    }
    if let Some(answer) = answer {
        table.insert("answer".into(), json!(answer.text));
        table.insert("cut".into(), json!(answer.cut));
        let more = [
            ("extracted", answer.extracted.as_ref().map(|text| json!(text))),
            ("exact_match", answer.exact_match.map(|same| json!(same))),
            ("rouge_l", answer.rouge_l.map(|overlap| json!(overlap))),
        ];
        table.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    line
}

/// The line of a question with choices.
pub(super) fn chosen(question: &Question, found: &Chosen) -> Value {
    json!({
        "place": question.prompt.place.to_string(),
        "log_probs": found.log_probs,
        "right": found.right,
        "choice": found.choice,
        "choice_per_character": found.choice_per_character,
    })
}
