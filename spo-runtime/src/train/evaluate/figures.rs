//! Held-out figures with their confidence intervals, row by row.

use serde::Serialize;
use spo_api::Metrics;
use spo_report::stats::{self, Estimate};

use super::{HeldOut, ranked_right};
use crate::store::scores::Scores;

/// A figure over held-out rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// Without an interval where the figure is no mean over rows.
    pub(crate) estimate: Estimate,
}

/// What is known of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RowFigures {
    /// Log-prob of the chosen answer, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chosen: Option<f64>,
    /// The same of the rejected answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rejected: Option<f64>,
    /// Their tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chosen_tokens: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) rejected_tokens: usize,
    /// Their rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward_chosen: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reward_rejected: Option<f64>,
    /// The change of every token's log-prob against another model, nats.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) change_chosen: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) change_rejected: Vec<f64>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The rows of an evaluation. `against` holds the scores of a model to compare with.
pub(crate) fn rows(held_out: &HeldOut, against: Option<&Scores>) -> Vec<RowFigures> {
    let sum = |tokens: &[f64]| (!tokens.is_empty()).then(|| tokens.iter().sum());
    let change =
        |now: &[f64], before: &[f64]| now.iter().zip(before).map(|(now, before)| now - before).collect();
    let of_row = |(row, [reward_chosen, reward_rejected]): (usize, &[Option<f64>; 2])| {
        let [(_, chosen), (_, rejected)] = held_out.scores.answers(row);
        let before = against.map(|against| against.answers(row));
        let [change_chosen, change_rejected] = match before {
            Some([(_, a), (_, b)]) => [change(chosen, a), change(rejected, b)],
            None => [Vec::new(), Vec::new()],
        };
        RowFigures {
            chosen: sum(chosen),
            rejected: sum(rejected),
            chosen_tokens: chosen.len(),
            rejected_tokens: rejected.len(),
            reward_chosen: *reward_chosen,
            reward_rejected: *reward_rejected,
            change_chosen,
            change_rejected,
        }
    };
    held_out.rewards.iter().enumerate().map(of_row).collect()
}

/// The figures of an evaluation: those that are means over `rows`, with intervals, then what else `metrics` (named as in
/// `metrics.jsonl`) have.
pub(crate) fn figures(rows: &[RowFigures], metrics: &Metrics) -> Vec<Figure> {
    let mut figures = Figures(Vec::new());
    let of = |figure: &dyn Fn(&RowFigures) -> Option<f64>| rows.iter().filter_map(figure).collect::<Vec<_>>();
    let chosen_tokens = of(&|row| row.chosen.map(|_| row.chosen_tokens as f64));
    let share = |figures: &mut Figures, name: &str, right: &dyn Fn(&RowFigures) -> Option<f64>| {
        figures.add(name, stats::wilson(&of(right)));
    };
    let mean = |figures: &mut Figures, name: &str, value: &dyn Fn(&RowFigures) -> Option<f64>| {
        figures.add(name, stats::bootstrap(&of(value)));
    };
    let per_token = |log_prob: Option<f64>, tokens: usize| log_prob.map(|sum| sum / tokens as f64);
    share(&mut figures, "pair_accuracy", &|row| Some(ranked_right(row.chosen?, row.rejected?)));
    share(&mut figures, "pair_accuracy_per_token", &|row| {
        let rejected = per_token(row.rejected, row.rejected_tokens)?;
        Some(ranked_right(per_token(row.chosen, row.chosen_tokens)?, rejected))
    });
    mean(&mut figures, "margin", &|row| Some(row.chosen? - row.rejected?));
    let nll = stats::ratio(&of(&|row| row.chosen.map(|log_prob| -log_prob)), &chosen_tokens);
    figures.add("sft_loss", nll);
    let interval = nll.interval.map(|(low, high)| (low.exp(), high.exp()));
    figures.add("perplexity", Estimate { mean: nll.mean.exp(), interval, ..nll });
    mean(&mut figures, "sum_logps/chosen", &|row| row.chosen);
    mean(&mut figures, "sum_logps/rejected", &|row| row.rejected);
    share(&mut figures, "rewards/accuracies", &|row| {
        Some(f64::from(row.reward_chosen? > row.reward_rejected?))
    });
    mean(&mut figures, "rewards/margins", &|row| Some(row.reward_chosen? - row.reward_rejected?));
    mean(&mut figures, "rewards/chosen", &|row| row.reward_chosen);
    mean(&mut figures, "rewards/rejected", &|row| row.reward_rejected);
    let changed: Vec<&RowFigures> = rows.iter().filter(|row| !row.change_chosen.is_empty()).collect();
    let lost = |row: &&RowFigures| f64::from(row.change_chosen.iter().sum::<f64>() < 0.0);
    figures.add("displaced", stats::wilson(&changed.iter().map(lost).collect::<Vec<_>>()));
    type Change = fn(&RowFigures) -> &Vec<f64>;
    let sides: [(&str, Change); 2] = [
        ("change_per_token/chosen", |row| &row.change_chosen),
        ("change_per_token/rejected", |row| &row.change_rejected),
    ];
    for (name, change) in sides {
        let tokens: Vec<&Vec<f64>> = rows.iter().map(change).filter(|tokens| !tokens.is_empty()).collect();
        let sums: Vec<f64> = tokens.iter().map(|tokens| tokens.iter().sum()).collect();
        let counts: Vec<f64> = tokens.iter().map(|tokens| tokens.len() as f64).collect();
        figures.add(name, stats::ratio(&sums, &counts));
    }
    for (name, value) in metrics {
        let name = name.strip_prefix("eval_").unwrap_or(name);
        // Displacement is against another model, if there is one; and most losses read the sums.
        let again = |side: &str| {
            name == format!("logps/{side}") && metrics.get(&format!("eval_sum_logps/{side}")) == Some(value)
        };
        if name != "displaced"
            && !again("chosen")
            && !again("rejected")
            && figures.0.iter().all(|figure| figure.name != name)
        {
            figures.add(name, Estimate { mean: *value, interval: None, count: rows.len() });
        }
    }
    figures.0
}

struct Figures(Vec<Figure>);

impl Figures {
    /// Adds a figure, if there are rows that it is of.
    fn add(&mut self, name: &str, estimate: Estimate) {
        if estimate.count > 0 {
            self.0.push(Figure { name: name.to_owned(), estimate });
        }
    }
}
