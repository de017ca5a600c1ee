use super::{ANSWERS, Plot, changes, known};
use crate::arms::Arm;
use crate::chart::{Lines, Pareto, ParetoPoint, Series, lines, pareto};
use crate::figures::{DISPLACED, Figure};
use crate::load::Evolution;
use crate::stats::mean;
use crate::svg::Svg;

/// All charts that compare arms.
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
        (
            0,
            "Mean over the probes (and seeds; a faint line per seed). Below the dashed line, preferred answers lost probability.",
        ),
        (
            1,
            "Mean over the probes (and seeds; a faint line per seed). Dispreferred answers are meant to fall.",
        ),
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
            caption: "Up and to the left is better. Crosses are 95% intervals; the dashed line joins the arms that no \
                      other beats in one without being worse in the other.",
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
