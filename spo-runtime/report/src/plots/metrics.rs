use super::Drawn;
use crate::chart::{Lines, Series, lines};
use crate::load::Stage;
use crate::stats::mean;
use crate::svg::Svg;

/// The largest number of points of a curve; longer curves are averaged.
const POINTS: usize = 60;

/// Steps and values.
type Points = Vec<(f64, f64)>;

/// The charts of what was logged at every step.
pub(super) fn all(stage: &Stage) -> Vec<Drawn> {
    vec![
        (
            "constraint",
            "The SFT loss against its limit, as the step saw it on its batches (means of neighbouring steps). Above the \
             dashed line the policy is outside the safe set.",
            curves(
                stage,
                "Constraint of the safe set",
                "G \u{2212} G* \u{2212} \u{3b5}, nats per token",
                &[("bilevel/constraint", "constraint")],
                Some(0.0),
            ),
        ),
        (
            "weight",
            "How strongly the lower level pulls (means of neighbouring steps). 0 means that preference learning goes \
             unhindered.",
            curves(
                stage,
                "Weight of the SFT gradient",
                "factor of dG in the update",
                &[("bilevel/lambda", "\u{3bb}"), ("bilevel/weight", "weight")],
                None,
            ),
        ),
        (
            "levels",
            "Below the dashed line, the preference loss and the SFT loss want opposite things (means of neighbouring steps).",
            curves(
                stage,
                "Angle between the two levels",
                "cosine of dF and dG",
                &[("bilevel/cosine", "cosine")],
                Some(0.0),
            ),
        ),
        (
            "loss",
            "On training batches (means of neighbouring steps), and on held-out rows when they were scored.",
            curves(
                stage,
                "Loss",
                "loss of the objective",
                &[("loss", "training"), ("eval_loss", "held-out")],
                None,
            ),
        ),
        (
            "accuracy",
            "Share of pairs whose preferred answer has the higher implicit reward, in training (means of neighbouring \
             steps) and held-out; by log-prob: the higher log-prob. A tie counts half: before the first step, policy and \
             reference are the same model, and all rewards are 0.",
            chart(
                "Pairs ranked right",
                "share of pairs",
                vec![
                    ("training", with_ties(stage, "")),
                    ("held-out", with_ties(stage, "eval_")),
                    ("by log-prob", stage.curves.get("eval_pair_accuracy").cloned()),
                ],
                None,
            ),
        ),
        (
            "learning-rate",
            "The learning rate after its schedule and the guard (means of neighbouring steps).",
            curves(stage, "Learning rate", "learning rate", &[("learning_rate", "rate")], None),
        ),
        (
            "gradient",
            "Norm of the gradient before it is clipped (means of neighbouring steps).",
            curves(stage, "Norm of the gradient", "norm", &[("grad_norm", "norm")], None),
        ),
    ]
}

/// Share of pairs with the higher reward for the chosen answer, where a tie counts half. The logged metric has TRL's
/// name, and so TRL's meaning: a tie counts as wrong.
fn with_ties(stage: &Stage, prefix: &str) -> Option<Points> {
    let ties = stage.curves.get(&format!("{prefix}rewards/ties"));
    let ties_at =
        |step: f64| ties.and_then(|ties| ties.iter().find(|tie| tie.0 == step)).map_or(0.0, |tie| tie.1);
    let right = stage.curves.get(&format!("{prefix}rewards/accuracies"))?;
    Some(right.iter().map(|(step, share)| (*step, share + 0.5 * ties_at(*step))).collect())
}

/// Metrics over steps: those that were logged, if at least one was logged twice.
pub(super) fn curves(
    stage: &Stage,
    title: &str,
    y: &str,
    metrics: &[(&str, &str)],
    level: Option<f64>,
) -> Option<Svg> {
    let all = metrics.iter().map(|(name, label)| (*label, stage.curves.get(*name).cloned()));
    chart(title, y, all.collect(), level)
}

/// Labelled curves, as far as they are known and have more than one point.
fn chart(title: &str, y: &str, curves: Vec<(&str, Option<Points>)>, level: Option<f64>) -> Option<Svg> {
    let series: Vec<Series> = curves
        .into_iter()
        .enumerate()
        .filter_map(|(colour, (label, points))| {
            let points = averaged(&points?);
            (points.len() > 1).then(|| Series { label: label.into(), colour, points, ..Series::default() })
        })
        .collect();
    (!series.is_empty()).then(|| {
        let share = y.starts_with("share");
        lines(&Lines { title: title.into(), y: y.into(), share, level, series, x: None })
    })
}

/// At most [`POINTS`] points, each the mean of as many neighbours as needed.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let average = |chunk: &[(f64, f64)]| {
        let (steps, values): (Vec<f64>, Vec<f64>) = chunk.iter().copied().unzip();
        (mean(&steps), mean(&values))
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(average).collect()
}
