//! The summary table of a run.

use std::fmt;

use serde::{Deserialize, Serialize};
use spo_api::Metrics;

use crate::recipe::EarlyStopping;
use crate::reporter::shown_figure;
use crate::terminal;
use crate::train::budget::Verdict;
use crate::train::figures::{figures, optional_figures};

/// The results of a stage.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StageSummary {
    pub(crate) name: String,
    /// The stage it started from.
    pub(crate) from: String,
    /// Name of its bilevel step.
    pub(crate) bilevel: String,
    /// Optimizer steps.
    pub(crate) steps: usize,
    /// Training time in seconds, including evaluations during training.
    pub(crate) seconds: f64,
    /// Seconds of that spent waiting for batches.
    #[serde(default)]
    pub(crate) data_seconds: f64,
    /// Median step time in seconds.
    pub(crate) step_seconds: f64,
    /// Tokens trained on. Each prompt is counted once per answer.
    pub(crate) tokens: usize,
    /// Those tokens per second of training steps, without evaluations. Summaries of earlier versions lack it.
    #[serde(default)]
    pub(crate) tokens_per_second: Option<f64>,
    /// Rows scored under the reference for this stage. Rows with scores from earlier stages are not counted.
    pub(crate) reference_rows: usize,
    /// Batches skipped because their numbers were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skipped: usize,
    /// Metrics of the last step.
    #[serde(deserialize_with = "figures")]
    pub(crate) train: Metrics,
    /// Held-out metrics before the stage.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_figures")]
    pub(crate) before: Option<Metrics>,
    /// Held-out metrics after the stage.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_figures")]
    pub(crate) after: Option<Metrics>,
    /// What became of the step's budget, if it kept one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<Verdict>,
    /// Why it ended before its last step, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stopped_early: Option<StoppedEarly>,
}

/// A stage that ended early.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StoppedEarly {
    /// The steps that it was to take.
    pub(crate) planned: usize,
    /// The best value of the rule's figure; none if it never was a finite number.
    pub(crate) best: Option<f64>,
    pub(crate) rule: EarlyStopping,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Summary {
    /// The stages, in order.
    pub(crate) stages: Vec<StageSummary>,
}

impl Summary {
    /// The stages that ended early, a line for each.
    pub(crate) fn early(&self) -> impl Iterator<Item = String> {
        let ended = self.stages.iter().filter_map(|stage| Some((stage, stage.stopped_early.as_ref()?)));
        ended.map(|(StageSummary { name, steps, .. }, StoppedEarly { planned, best, rule })| {
            let better = best.map_or("finite".to_owned(), |best| format!("better than {best:.4}"));
            let EarlyStopping { metric, patience, .. } = rule;
            format!(
                "{name}: stopped early, after {steps} of {planned} steps: {metric} has not become {better} at {patience} \
                 evaluations."
            )
        })
    }

    /// What became of the budgets, a line per stage that had one.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = String> {
        let judged = self.stages.iter().filter_map(|stage| Some((stage, stage.budget.as_ref()?)));
        judged.map(|(stage, verdict)| format!("{}: {verdict}{}", stage.name, won(stage)))
    }

    /// The first stage that fails the run because its budget was not kept.
    pub(crate) fn broken(&self) -> Option<&StageSummary> {
        self.stages.iter().find(|stage| stage.budget.as_ref().is_some_and(|b| b.strict && !b.kept))
    }
}

/// What a stage won for its budget, as the end of a sentence.
fn won(stage: &StageSummary) -> String {
    let (Some(before), Some(after)) = (&stage.before, &stage.after) else { return ".".into() };
    let margin = |m: &Metrics| Some(m.get("eval_sum_logps/chosen")? - m.get("eval_sum_logps/rejected")?);
    let accuracy = |m: &Metrics| m.get("eval_pair_accuracy").copied();
    match (accuracy(before).zip(accuracy(after)), margin(before).zip(margin(after))) {
        (Some((a, b)), Some((c, d))) => format!(
            "; for it, held-out pair accuracy went from {:.1}% to {:.1}%, the margin from {c:.2} to {d:.2} nats.",
            100.0 * a,
            100.0 * b
        ),
        _ => ".".into(),
    }
}

/// A column: title, metric, whether it is a percentage, whether the value before the stage is shown too.
pub(crate) const COLUMNS: [(&str, &str, bool, bool); 8] = [
    ("exact match", "eval_exact_match", true, true),
    ("ROUGE-L", "eval_rouge_l", true, true),
    ("faithful", "eval_faithful", true, true),
    ("pair accuracy", "eval_pair_accuracy", true, true),
    ("reward accuracy", "eval_rewards/accuracies", true, false),
    ("log p(chosen)", "eval_sum_logps/chosen", false, true),
    ("log p(rejected)", "eval_sum_logps/rejected", false, true),
    ("chosen lost probability", "eval_displaced", true, false),
];

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held_out: Vec<_> =
            self.stages.iter().filter_map(|s| Some((s, s.before.as_ref()?, s.after.as_ref()?))).collect();
        if held_out.is_empty() {
            let header = ["stage", "from", "steps", "last loss", "seconds"].map(str::to_owned);
            let row = |s: &StageSummary| {
                let loss = s.train.get("loss").map_or(String::new(), |l| format!("{l:.4}"));
                vec![s.name.clone(), s.from.clone(), s.steps.to_string(), loss, format!("{:.0}", s.seconds)]
            };
            return f.write_str(&terminal::figures(
                &header,
                &self.stages.iter().map(row).collect::<Vec<_>>(),
                5,
            ));
        }
        let known = |name: &str| held_out.iter().any(|(_, _, after)| after.contains_key(name));
        let columns: Vec<_> = COLUMNS.into_iter().filter(|c| known(c.1)).collect();
        let header: Vec<String> =
            ["stage", "from"].into_iter().chain(columns.iter().map(|c| c.0)).map(str::to_owned).collect();
        let row = |(stage, before, after): &(&StageSummary, &Metrics, &Metrics)| {
            let cells = columns.iter().map(|(_, metric, share, with_before)| {
                let show = |m: &Metrics| match shown_figure(m, metric) {
                    Some(x) if *share => format!("{:.1}%", 100.0 * x),
                    Some(x) => format!("{x:.3}"),
                    None => "-".into(),
                };
                if *with_before { format!("{} -> {}", show(before), show(after)) } else { show(after) }
            });
            [stage.name.clone(), stage.from.clone()].into_iter().chain(cells).collect()
        };
        writeln!(f, "Held-out data, before -> after each stage:")?;
        f.write_str(&terminal::figures(&header, &held_out.iter().map(row).collect::<Vec<_>>(), 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strict_budget_that_is_not_kept_fails_a_run() {
        let summary = |kept: bool, strict: bool| -> Summary {
            let verdict = serde_json::json!({
                "budget": 0.05, "rise": 0.04, "standard_error": 0.01, "rows": 9, "kept": kept, "kept_at": 8, "steps": 8,
                "returns": 0, "strict": strict,
            });
            let stage = serde_json::json!({
                "name": "align", "from": "sft", "bilevel": "spo", "steps": 8, "seconds": 1.0, "step_seconds": 0.1,
                "tokens": 7, "reference_rows": 3, "train": {}, "budget": verdict,
            });
            serde_json::from_value(serde_json::json!({ "stages": [stage] })).unwrap()
        };
        for (kept, strict) in [(true, true), (true, false), (false, false)] {
            assert!(summary(kept, strict).broken().is_none());
        }
        assert_eq!(summary(false, true).broken().unwrap().name, "align");
    }
}
