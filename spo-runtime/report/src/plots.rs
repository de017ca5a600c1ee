//! The pictures of a report: which numbers go into which chart.

use crate::arms::Arm;
use crate::chart::{
    Bar, Lines, Pareto, ParetoPoint, Quadrants, Scatter, ScatterGroup, Series, areas, bars, lines, pareto,
    quadrants, scatter,
};
use crate::figures::{CHOSEN_CHANGE, DISPLACED, Figure, REJECTED_CHANGE};
use crate::load::{Evolution, Stage};
use crate::stats::{mean, quantile};
use crate::svg::Svg;

/// A picture with what to know of it.
pub struct Plot {
    /// Its name in files.
    pub name: String,
    /// The picture.
    pub svg: Svg,
    /// How to read it.
    pub caption: &'static str,
}

/// What the answers are called in pictures, in the order of [`Evolution::answers`].
const ANSWERS: [&str; 5] =
    ["preferred", "dispreferred", "other prompts\u{2019}", "shuffled tokens", "model\u{2019}s own"];

/// Most points of a curve; what is beyond is averaged.
const POINTS: usize = 200;

/// All pictures of a stage that its numbers allow.
pub fn of_stage(stage: &Stage) -> Vec<Plot> {
    let plot = |name: &str, caption, svg: Option<Svg>| {
        svg.map(|svg| Plot { name: format!("{}-{name}", stage.name), svg, caption })
    };
    let mut plots: Vec<Plot> = [
        plot("trajectories", "Mean over the probes, with the middle half of them. Both falling together is displacement: the \
             margin grows, and the preferred answer still loses.", trajectories(stage)),
        plot("quadrants", "A dot per pair. In the shaded half the preferred answer lost probability; below the dashed line the \
             margin grew, which is all that the preference loss asks for.", of_pairs(stage)),
        plot("mass", "How likely the probes\u{2019} answers are, on average over prompts. What no probe names holds the rest.",
             mass(stage)),
        plot("ledger", "Mean change of log-prob over the stage, by kind of answer; lines span the middle half of the probes. \
             Answers that nobody asked for and that gained are where probability leaked to.", ledger(stage)),
        plot("cosine", "Cosine of the gradients of s_w and s_l, a faint line per probe and their median. Near 1, what lowers the \
             dispreferred answer lowers the preferred one too.", cosine(stage)),
        plot("prediction", "What an update did to the probes\u{2019} log-probs against what their gradients foretold. Dots far from \
             the dashed line are steps too long for a straight-line view.", prediction(stage)),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (name, title, y, metrics, level, caption) in CURVES {
        plots.extend(plot(name, caption, curves(stage, title, y, metrics, *level)));
    }
    plots
}

type Curves = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    Option<f64>,
    &'static str,
);

/// Pictures of metrics: name, title, axis, metrics with their labels, a level that matters, caption.
const CURVES: &[Curves] = &[
    (
        "constraint",
        "Constraint of the safe set",
        "G \u{2212} G* \u{2212} \u{3b5}, nats per token",
        &[("bilevel/constraint", "constraint")],
        Some(0.0),
        "The SFT loss against its limit, as the step saw it on its batch. Above the dashed line the policy is outside the safe set.",
    ),
    (
        "weight",
        "Weight of the SFT gradient",
        "factor of dG in the update",
        &[("bilevel/lambda", "\u{3bb}"), ("bilevel/weight", "weight")],
        None,
        "How strongly the lower level pulls. 0 means that preference learning goes unhindered.",
    ),
    (
        "levels",
        "Angle between the two levels",
        "cosine of dF and dG",
        &[("bilevel/cosine", "cosine")],
        Some(0.0),
        "Below the dashed line, the preference loss and the SFT loss want opposite things.",
    ),
    (
        "loss",
        "Loss",
        "loss of the objective",
        &[("loss", "training"), ("eval_loss", "held-out")],
        None,
        "On training batches, and on held-out rows where they were scored.",
    ),
    (
        "accuracy",
        "Reward accuracy",
        "share of pairs ranked right",
        &[
            ("rewards/accuracies", "training"),
            ("eval_rewards/accuracies", "held-out"),
            ("eval_pair_accuracy", "by log-prob"),
        ],
        None,
        "Share of pairs whose preferred answer has the higher implicit reward; by log-prob: the higher log-prob.",
    ),
];

/// The values that there are.
fn known(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().copied().flatten().collect()
}

/// s_w and s_l over steps, on the probes, or else on whole held-out sets.
fn trajectories(stage: &Stage) -> Option<Svg> {
    if stage.evolution.len() < 2 {
        let metrics = [("eval_logps/chosen", ANSWERS[0]), ("eval_logps/rejected", ANSWERS[1])];
        return curves(stage, "Log-probs of held-out answers", "log-prob, nats", &metrics, None);
    }
    let series = (0..2).filter_map(|i| {
        let of = |line: &Evolution| Some(known(line.answers()[i].1)).filter(|values| !values.is_empty());
        let lines = || stage.evolution.iter().filter_map(|line| Some((line.step as f64, of(line)?)));
        let series = Series {
            label: ANSWERS[i].to_owned(),
            colour: i,
            points: lines().map(|(step, values)| (step, mean(&values))).collect(),
            band: lines().map(|(step, v)| (step, quantile(&v, 0.25), quantile(&v, 0.75))).collect(),
            thin: Vec::new(),
        };
        (!series.points.is_empty()).then_some(series)
    });
    Some(lines(&Lines {
        title: "Log-probs of the pair".into(),
        y: "log-prob, nats".into(),
        series: series.collect(),
        ..Lines::default()
    }))
}

/// Change of s_w and s_l of every pair: held-out rows, or else the probes so far.
fn of_pairs(stage: &Stage) -> Option<Svg> {
    let (w, l) = match (CHOSEN_CHANGE.rows(stage), REJECTED_CHANGE.rows(stage)) {
        (Some(w), Some(l)) => (w, l),
        _ => {
            let (first, last) = (stage.evolution.first()?, stage.evolution.last()?);
            (changes(&first.chosen, &last.chosen), changes(&first.rejected, &last.rejected))
        }
    };
    let tip = |i, w, l| format!("row {}: preferred {w:+.2}, dispreferred {l:+.2} nats", i + 1);
    let pairs: Vec<_> = w
        .iter()
        .zip(&l)
        .enumerate()
        .filter_map(|(i, (w, l))| Some(((*w)?, (*l)?, tip(i, (*w)?, (*l)?))))
        .collect();
    let moved = pairs.iter().any(|(w, l, _)| *w != 0.0 || *l != 0.0);
    moved.then(|| quadrants(&Quadrants { title: "What became of each pair".into(), pairs }))
}

/// Differences where both are known.
pub fn changes(from: &[Option<f64>], to: &[Option<f64>]) -> Vec<Option<f64>> {
    from.iter().zip(to).map(|(from, to)| Some((*to)? - (*from)?)).collect()
}

/// Mean change of each kind of answer.
fn ledger(stage: &Stage) -> Option<Svg> {
    let (first, last) = ends(stage)?;
    let both = first.answers().into_iter().zip(last.answers()).enumerate();
    let all: Vec<Bar> = both
        .filter_map(|(i, ((_, from), (_, to)))| {
            let changes = known(&changes(from, to));
            (!changes.is_empty()).then(|| Bar {
                label: ANSWERS[i].to_owned(),
                colour: i,
                value: mean(&changes),
                range: (quantile(&changes, 0.25), quantile(&changes, 0.75)),
            })
        })
        .collect();
    Some(bars("Where log-prob went", "mean change of log-prob, nats", &all))
}

/// The probes when the stage began, and the last time they were looked at.
pub fn ends(stage: &Stage) -> Option<(&Evolution, &Evolution)> {
    let (first, last) = (stage.evolution.first()?, stage.evolution.last()?);
    (last.step > first.step).then_some((first, last))
}

/// Mean probability of each kind of answer, in the order of [`Evolution::answers`].
pub fn masses(line: &Evolution) -> [f64; 5] {
    line.answers().map(|(_, values)| {
        values.iter().map(|log_prob| log_prob.map_or(0.0, f64::exp)).sum::<f64>() / values.len().max(1) as f64
    })
}

/// Probability itself over steps, where the answers are short enough to have any.
fn mass(stage: &Stage) -> Option<Svg> {
    ends(stage)?;
    let over_time: Vec<(f64, [f64; 5])> =
        stage.evolution.iter().map(|line| (line.step as f64, masses(line))).collect();
    let telling = over_time.iter().any(|(_, masses)| masses.iter().sum::<f64>() > 0.01);
    let series = |label: &str, colour, value: &dyn Fn(&[f64; 5]) -> f64| Series {
        label: label.to_owned(),
        colour,
        points: over_time.iter().map(|(step, masses)| (*step, value(masses))).collect(),
        ..Series::default()
    };
    let mut all: Vec<Series> = (0..5).map(|i| series(ANSWERS[i], i, &|masses| masses[i])).collect();
    all.push(series("everything else", 6, &|masses| (1.0 - masses.iter().sum::<f64>()).max(0.0)));
    telling.then(|| {
        areas(&Lines {
            title: "Where probability lies".into(),
            y: "share of probability".into(),
            series: all,
            ..Lines::default()
        })
    })
}

/// The angle between the two gradients of a pair.
fn cosine(stage: &Stage) -> Option<Svg> {
    let probes = stage.geometry.first()?.product.len();
    let cosine = |line: &crate::load::Geometry, i: usize| {
        let norm = line.norm_chosen.get(i)? * line.norm_rejected.get(i).copied()??;
        Some(line.product.get(i).copied()?? / norm).filter(|cosine| cosine.is_finite())
    };
    let of_probe =
        |i| stage.geometry.iter().filter_map(|g| Some((g.step as f64, cosine(g, i)?))).collect::<Vec<_>>();
    let medians = stage.geometry.iter().filter_map(|g| {
        let all: Vec<f64> = (0..probes).filter_map(|i| cosine(g, i)).collect();
        (!all.is_empty()).then(|| (g.step as f64, quantile(&all, 0.5)))
    });
    let points: Vec<_> = medians.collect();
    let thin = (0..probes).map(of_probe).collect();
    let series = vec![Series { label: "median".into(), colour: 3, points, band: Vec::new(), thin }];
    (series[0].points.len() > 1).then(|| {
        let title = "Do the two answers move together?".into();
        lines(&Lines {
            title,
            y: "cosine of grad s_w, grad s_l".into(),
            level: Some(0.0),
            series,
            ..Lines::default()
        })
    })
}

/// Foretold changes and those that came.
fn prediction(stage: &Stage) -> Option<Svg> {
    let mut groups = [(0, ANSWERS[0]), (1, ANSWERS[1])].map(|(colour, label)| ScatterGroup {
        label: label.into(),
        colour,
        points: Vec::new(),
    });
    for line in &stage.geometry {
        groups[0]
            .points
            .extend(line.predicted_chosen.iter().copied().zip(line.actual_chosen.iter().copied()));
        let rejected = line.predicted_rejected.iter().zip(&line.actual_rejected);
        groups[1].points.extend(rejected.filter_map(|(foretold, came)| Some(((*foretold)?, (*came)?))));
    }
    let moved = groups.iter().any(|g| g.points.iter().any(|p| p.1 != 0.0));
    moved.then(|| {
        scatter(&Scatter {
            title: "First-order prediction of an update".into(),
            x: "foretold change of log-prob, nats".into(),
            y: "change that came, nats".into(),
            groups: groups.to_vec(),
        })
    })
}

/// Metrics over steps; those that were logged, if any was at least twice.
fn curves(stage: &Stage, title: &str, y: &str, metrics: &[(&str, &str)], level: Option<f64>) -> Option<Svg> {
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
        lines(&Lines { title: title.into(), y: y.into(), share, level, series })
    })
}

/// At most [`POINTS`] points: means of as many neighbours as it takes.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let average = |chunk: &[(f64, f64)]| {
        let (steps, values): (Vec<f64>, Vec<f64>) = chunk.iter().copied().unzip();
        (mean(&steps), mean(&values))
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(average).collect()
}

/// All pictures that hold arms against each other.
pub fn of_arms(arms: &[Arm<'_>], accuracy: &Figure) -> Vec<Plot> {
    let mut plots = Vec::new();
    let over = |i: usize| -> Option<Svg> {
        let series = arms.iter().enumerate().map(|(colour, arm)| mean_curve(arm, colour, i));
        let series: Vec<Series> = series.filter(|s| s.points.len() > 1).collect();
        (!series.is_empty()).then(|| {
            let title = format!("Change of log p({})", ANSWERS[i]);
            lines(&Lines {
                title,
                y: "since the stage began, nats".into(),
                level: Some(0.0),
                series,
                ..Lines::default()
            })
        })
    };
    for (i, caption) in [
        (0, "Mean over the probes (and seeds). Below the dashed line, preferred answers lost probability."),
        (1, "Mean over the probes (and seeds). Dispreferred answers are meant to fall."),
    ] {
        plots.extend(over(i).map(|svg| Plot { name: format!("arms-{}", ANSWERS[i]), svg, caption }));
    }
    let points: Vec<ParetoPoint> = arms
        .iter()
        .enumerate()
        .filter_map(|(colour, arm)| {
            let (x, y) = (arm.estimate(&DISPLACED)?, arm.estimate(accuracy)?);
            let at = (x.mean, y.mean);
            Some(ParetoPoint {
                label: arm.label.clone(),
                colour,
                at,
                x_interval: x.interval,
                y_interval: y.interval,
            })
        })
        .collect();
    if points.len() > 1 {
        plots.push(Plot {
            name: "arms-pareto".into(),
            svg: pareto(&Pareto {
                title: "Accuracy against displacement".into(),
                x: "pairs whose preferred answer lost probability".into(),
                y: format!("{} on held-out rows", accuracy.title),
                points,
            }),
            caption: "Up and to the left is better. Crosses are 95% intervals; the dashed line joins the arms that no other beats in \
                      both.",
        });
    }
    plots
}

/// The mean change of a kind of answer over steps, over all probes and seeds of an arm.
fn mean_curve(arm: &Arm<'_>, colour: usize, answer: usize) -> Series {
    let curves: Vec<Vec<(f64, f64)>> = arm
        .members
        .iter()
        .filter_map(|(_, stage)| {
            let start = stage.evolution.first()?.answers()[answer].1;
            let change = |line: &Evolution| {
                let changes = known(&changes(start, line.answers()[answer].1));
                (!changes.is_empty()).then(|| (line.step as f64, mean(&changes)))
            };
            Some(stage.evolution.iter().filter_map(change).collect())
        })
        .collect();
    let shortest = curves.iter().map(Vec::len).min().unwrap_or(0);
    let at = |i: usize| mean(&curves.iter().map(|curve| curve[i].1).collect::<Vec<_>>());
    let points = (0..shortest).map(|i| (curves[0][i].0, at(i))).collect();
    let thin = if curves.len() > 1 { curves.clone() } else { Vec::new() };
    Series { label: arm.label.clone(), colour, points, band: Vec::new(), thin }
}
