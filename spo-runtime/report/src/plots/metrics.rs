use super::Drawn;
use crate::chart::{Lines, Series, lines};
use crate::load::Stage;
use crate::stats::mean;
use crate::svg::Svg;

/// The largest number of points of a curve; longer curves are averaged.
const POINTS: usize = 60;

/// The charts of what was logged at every step.
pub(super) fn all(stage: &Stage) -> Vec<Drawn> {
    vec![
        (
            "constraint",
            "The SFT loss against its limit, as the step saw it on its batch. Above the dashed line the policy \
             is outside the safe set.",
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
            "How strongly the lower level pulls, on average over neighbouring steps. 0 means that preference \
             learning goes unhindered.",
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
            "Below the dashed line, the preference loss and the SFT loss want opposite things.",
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
            "Share of pairs whose preferred answer has the higher implicit reward, in training and held-out; \
             by log-prob: the higher log-prob.",
            curves(
                stage,
                "Pairs ranked right",
                "share of pairs",
                &[
                    ("rewards/accuracies", "training"),
                    ("eval_rewards/accuracies", "held-out"),
                    ("eval_pair_accuracy", "by log-prob"),
                ],
                None,
            ),
        ),
    ]
}

/// Metrics over steps: those that were logged, if at least one was logged twice.
pub(super) fn curves(
    stage: &Stage,
    title: &str,
    y: &str,
    metrics: &[(&str, &str)],
    level: Option<f64>,
) -> Option<Svg> {
    let series: Vec<Series> = metrics
        .iter()
        .enumerate()
        .filter_map(|(colour, (name, label))| {
            let points = averaged(stage.curves.get(*name)?);
            (points.len() > 1).then(|| Series { label: (*label).into(), colour, points, ..Series::default() })
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
