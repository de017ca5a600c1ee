use super::{ANSWERS, Drawn, changes, ends, known, metrics::curves};
use crate::chart::{Bar, Lines, Quadrants, Series, areas, bars, lines, quadrants};
use crate::figures::{CHOSEN_CHANGE, REJECTED_CHANGE};
use crate::load::{Evolution, Stage};
use crate::stats::{mean, quantile};
use crate::svg::Svg;

/// The charts that show where the probes' probability went.
pub(super) fn all(stage: &Stage) -> Vec<Drawn> {
    vec![
        (
            "trajectories",
            match followed(stage) {
                true => {
                    "The median probe, with the middle half of them. Both falling together is displacement: the \
                     margin may grow while the preferred answer loses."
                }
                false => {
                    "The mean over the held-out rows, whenever they were scored. Both falling together is displacement: \
                     the margin may grow while the preferred answer loses."
                }
            },
            trajectories(stage),
        ),
        (
            "quadrants",
            "A dot per pair, and the share of pairs in each corner. In the shaded half the preferred answer lost probability; below the dashed \
             line the margin grew, which is all that the preference loss asks for.",
            of_pairs(stage),
        ),
        (
            "mass",
            "How likely the probes\u{2019} answers are, on average over prompts. What no probe names holds the rest.",
            mass(stage),
        ),
        (
            "ledger",
            "Mean change of log-prob over the stage, by kind of answer; lines span the middle half of the \
             probes. Answers that nobody asked for and that gained are where probability leaked to.",
            ledger(stage),
        ),
    ]
}

/// Whether the probes were measured more than once.
fn followed(stage: &Stage) -> bool {
    stage.evolution.len() > 1
}

/// s_w and s_l over steps, on the probes, or else on all held-out rows.
fn trajectories(stage: &Stage) -> Option<Svg> {
    if !followed(stage) {
        let metrics = [("eval_sum_logps/chosen", ANSWERS[0]), ("eval_sum_logps/rejected", ANSWERS[1])];
        return curves(stage, "Log-probs of held-out answers", "log-prob, nats", &metrics, None);
    }
    let series = (0..2).filter_map(|i| {
        let of = |line: &Evolution| Some(known(line.answers()[i].1)).filter(|values| !values.is_empty());
        let lines = || stage.evolution.iter().filter_map(|line| Some((line.step as f64, of(line)?)));
        let series = Series {
            label: ANSWERS[i].to_owned(),
            colour: i,
            points: lines().map(|(step, values)| (step, quantile(&values, 0.5))).collect(),
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

/// Change of s_w and s_l for every pair: on held-out rows, or else on the probes so far.
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

/// Mean probability of each kind of answer, in the order of [`Evolution::answers`].
pub fn masses(line: &Evolution) -> [f64; 5] {
    line.answers().map(|(_, values)| {
        values.iter().map(|log_prob| log_prob.map_or(0.0, f64::exp)).sum::<f64>() / values.len().max(1) as f64
    })
}

/// Probability over steps, if the answers are short enough to have any.
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
    // A layer that is too thin to see is added to the rest.
    let seen = |i: &usize| over_time.iter().any(|(_, masses)| masses[*i] > 0.005);
    let seen: Vec<usize> = (0..5).filter(seen).collect();
    let mut all: Vec<Series> = seen.iter().map(|&i| series(ANSWERS[i], i, &|masses| masses[i])).collect();
    all.push(series("everything else", 6, &|masses| {
        (1.0 - seen.iter().map(|&i| masses[i]).sum::<f64>()).max(0.0)
    }));
    telling.then(|| {
        areas(&Lines {
            title: "Where probability lies".into(),
            y: "share of probability".into(),
            series: all,
            ..Lines::default()
        })
    })
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
