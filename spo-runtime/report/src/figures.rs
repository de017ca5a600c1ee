//! The figures by which stages are judged: a number per held-out row.

use crate::load::{HeldOut, Stage};

/// A figure: how it is named, and how it is computed.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name in files.
    pub key: &'static str,
    /// Its name in text.
    pub title: &'static str,
    /// Whether it is a share; otherwise it is in nats.
    pub share: bool,
    /// Its value on a row, given the held-out rows before and after a stage.
    value: fn(&HeldOut, &HeldOut, usize) -> Option<f64>,
}

fn chosen_change(before: &HeldOut, after: &HeldOut, row: usize) -> Option<f64> {
    Some(after.chosen.get(row).copied()?? - before.chosen.get(row).copied()??)
}

fn rejected_change(before: &HeldOut, after: &HeldOut, row: usize) -> Option<f64> {
    Some(after.rejected.get(row).copied()?? - before.rejected.get(row).copied()??)
}

fn ranked(held_out: &HeldOut, row: usize) -> Option<f64> {
    let (chosen, rejected) = (held_out.chosen.get(row).copied()??, held_out.rejected.get(row).copied()??);
    Some(match chosen == rejected {
        true => 0.5,
        false => f64::from(u8::from(chosen > rejected)),
    })
}

/// Share of pairs whose answers have the same log-prob; `None` without pairs.
pub fn tied(held_out: &HeldOut) -> Option<f64> {
    let ties = (0..held_out.chosen.len()).filter_map(|row| Some(ranked(held_out, row)? == 0.5));
    let ties: Vec<f64> = ties.map(|tie| f64::from(u8::from(tie))).collect();
    (!ties.is_empty()).then(|| crate::stats::mean(&ties))
}

fn right(held_out: &HeldOut, row: usize) -> Option<f64> {
    Some(f64::from(u8::from(held_out.exact_match.get(row).copied()??)))
}

/// Share of greedy answers that equal the chosen one to the letter.
pub const EXACT_MATCH: Figure = Figure {
    key: "exact_match",
    title: "exact match",
    share: true,
    value: |_, after, row| right(after, row),
};

/// Share of pairs whose chosen answer has the higher log-prob. A tie counts half, as a coin would decide it.
pub const PAIR_ACCURACY: Figure = Figure {
    key: "pair_accuracy",
    title: "pair accuracy",
    share: true,
    value: |_, after, row| ranked(after, row),
};

/// Share of pairs whose chosen answer lost probability.
pub const DISPLACED: Figure = Figure {
    key: "displaced",
    title: "displaced",
    share: true,
    value: |before, after, row| {
        chosen_change(before, after, row).map(|change| f64::from(u8::from(change < 0.0)))
    },
};

/// Change of the chosen answer's log-prob, in nats.
pub const CHOSEN_CHANGE: Figure =
    Figure { key: "chosen_change", title: "change of log p(preferred)", share: false, value: chosen_change };

/// Change of the rejected answer's log-prob, in nats.
pub const REJECTED_CHANGE: Figure = Figure {
    key: "rejected_change",
    title: "change of log p(dispreferred)",
    share: false,
    value: rejected_change,
};

/// Log-prob of the chosen answer, in nats.
const CHOSEN: Figure = Figure {
    key: "chosen",
    title: "log p(preferred)",
    share: false,
    value: |_, after, row| after.chosen.get(row).copied()?,
};

/// Log-prob of the rejected answer, in nats.
const REJECTED: Figure = Figure {
    key: "rejected",
    title: "log p(dispreferred)",
    share: false,
    value: |_, after, row| after.rejected.get(row).copied()?,
};

/// The figure whose mean over the held-out rows is this metric, if there is one.
pub fn of_metric(metric: &str) -> Option<Figure> {
    Some(match metric {
        "eval_exact_match" => EXACT_MATCH,
        "eval_pair_accuracy" => PAIR_ACCURACY,
        "eval_displaced" => DISPLACED,
        "eval_logps/chosen" => CHOSEN,
        "eval_logps/rejected" => REJECTED,
        _ => return None,
    })
}

/// The figures of a report, the most informative first.
pub const ALL: [Figure; 5] = [EXACT_MATCH, PAIR_ACCURACY, DISPLACED, CHOSEN_CHANGE, REJECTED_CHANGE];

impl Figure {
    /// Its value on each held-out row, `None` where a row has none; no list while the stage has not ended.
    pub fn rows(&self, stage: &Stage) -> Option<Vec<Option<f64>>> {
        let (before, after) = (stage.before.as_ref()?, stage.after.as_ref()?);
        let rows: Vec<_> = (0..after.chosen.len()).map(|row| (self.value)(before, after, row)).collect();
        rows.iter().any(Option::is_some).then_some(rows)
    }

    /// Its mean before the stage, for a figure that is not a change.
    pub fn before(&self, stage: &Stage) -> Option<f64> {
        let before = stage.before.as_ref().filter(|_| self.share && self.key != DISPLACED.key)?;
        let known: Vec<f64> =
            (0..before.chosen.len()).filter_map(|row| (self.value)(before, before, row)).collect();
        (!known.is_empty()).then(|| crate::stats::mean(&known))
    }
}
