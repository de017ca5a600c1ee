use super::{ANSWERS, Drawn};
use crate::chart::{Lines, Scatter, ScatterGroup, Series, lines, scatter};
use crate::load::{Geometry, Stage};
use crate::stats::quantile;
use crate::svg::Svg;

/// The charts of the gradients of single pairs.
pub(super) fn all(stage: &Stage) -> Vec<Drawn> {
    vec![
        (
            "cosine",
            "Cosine of the gradients of s_w and s_l, a faint line per probe and their median. Near 1, what \
             lowers the dispreferred answer lowers the preferred one too.",
            cosine(stage),
        ),
        (
            "prediction",
            "What an update did to the probes\u{2019} log-probs against what their gradients foretold. Dots far \
             from the dashed line are steps too long for a straight-line view.",
            prediction(stage),
        ),
    ]
}

/// The angle between the two gradients of a pair.
fn cosine(stage: &Stage) -> Option<Svg> {
    let probes = stage.geometry.first()?.product.len();
    let cosine = |line: &Geometry, i: usize| {
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

/// Predicted and actual changes of log-prob.
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
