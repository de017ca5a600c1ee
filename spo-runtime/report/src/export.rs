//! Metrics, held-out rows and the comparison as tables.

use crate::arms::{Arm, Over};
use crate::load::{Run, Stage};
use crate::table::{Column, Table};
use crate::words::figures;

/// The tables by name: all metrics in long form, the held-out rows, and the comparison of the arms.
pub fn tables(runs: &[Run], arms: &[Arm<'_>]) -> [(&'static str, Table); 3] {
    [("metrics", metrics(runs)), ("rows", rows(runs)), ("comparison", comparison(arms))]
}

fn stages(runs: &[Run]) -> impl Iterator<Item = (&Run, &Stage)> {
    runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)))
}

/// A column with the value of a function on every record.
fn texts<T>(records: &[T], of: impl Fn(&T) -> String) -> Column {
    Column::Text(records.iter().map(of).collect())
}

fn counts<T>(records: &[T], of: impl Fn(&T) -> Option<i64>) -> Column {
    Column::Count(records.iter().map(of).collect())
}

fn numbers<T>(records: &[T], of: impl Fn(&T) -> Option<f64>) -> Column {
    Column::Number(records.iter().map(of).collect())
}

fn metrics(runs: &[Run]) -> Table {
    let points = stages(runs).flat_map(|(run, stage)| {
        stage.curves.iter().flat_map(move |(name, curve)| {
            curve.iter().map(move |&(step, value)| (run, stage, name, step, value))
        })
    });
    let points: Vec<_> = points.collect();
    Table::default()
        .with("run", texts(&points, |(run, ..)| run.label.clone()))
        .with("stage", texts(&points, |(_, stage, ..)| stage.name.clone()))
        .with("step", counts(&points, |(.., step, _)| Some(*step as i64)))
        .with("metric", texts(&points, |(_, _, name, ..)| (*name).clone()))
        .with("value", numbers(&points, |(.., value)| Some(*value)))
}

fn rows(runs: &[Run]) -> Table {
    let rows = stages(runs).flat_map(|(run, stage)| {
        let ends = stage.before.as_ref().zip(stage.after.as_ref());
        ends.into_iter().flat_map(move |ends| (0..ends.1.chosen.len()).map(move |i| (run, stage, ends, i)))
    });
    let rows: Vec<_> = rows.collect();
    let number = |side: &[Option<f64>], row: usize| side.get(row).copied().flatten();
    let right = |side: &[Option<bool>], row: usize| side.get(row).copied().flatten().map(i64::from);
    Table::default()
        .with("run", texts(&rows, |(run, ..)| run.label.clone()))
        .with("stage", texts(&rows, |(_, stage, ..)| stage.name.clone()))
        .with("row", counts(&rows, |(.., i)| Some(*i as i64 + 1)))
        .with("chosen_before", numbers(&rows, |(_, _, (before, _), i)| number(&before.chosen, *i)))
        .with("chosen_after", numbers(&rows, |(_, _, (_, after), i)| number(&after.chosen, *i)))
        .with("rejected_before", numbers(&rows, |(_, _, (before, _), i)| number(&before.rejected, *i)))
        .with("rejected_after", numbers(&rows, |(_, _, (_, after), i)| number(&after.rejected, *i)))
        .with("exact_match_before", counts(&rows, |(_, _, (before, _), i)| right(&before.exact_match, *i)))
        .with("exact_match_after", counts(&rows, |(_, _, (_, after), i)| right(&after.exact_match, *i)))
}

fn comparison(arms: &[Arm<'_>]) -> Table {
    let baseline = arms.first();
    let compared = arms.iter().enumerate().flat_map(|(i, arm)| {
        figures(arms).into_iter().filter_map(move |figure| {
            let own = arm.estimate(&figure)?;
            let difference = baseline.filter(|_| i > 0).and_then(|b| arm.difference(b, &figure));
            Some((arm, figure, own, difference))
        })
    });
    let compared: Vec<_> = compared.collect();
    let unit = |share: bool| if share { "share" } else { "nats" };
    let over = |arm: &Arm<'_>| if arm.over() == Over::Seeds { "seeds" } else { "rows" };
    Table::default()
        .with("arm", texts(&compared, |(arm, ..)| arm.label.clone()))
        .with("figure", texts(&compared, |(_, figure, ..)| figure.key.to_owned()))
        .with("unit", texts(&compared, |(_, figure, ..)| unit(figure.share).to_owned()))
        .with(
            "before",
            numbers(&compared, |(arm, figure, ..)| {
                let known = arm.members.iter().filter_map(|(_, stage)| figure.before(stage));
                let known: Vec<f64> = known.collect();
                (!known.is_empty()).then(|| crate::stats::mean(&known))
            }),
        )
        .with("mean", numbers(&compared, |(_, _, own, _)| Some(own.mean)))
        .with("low", numbers(&compared, |(_, _, own, _)| own.interval.map(|i| i.0)))
        .with("high", numbers(&compared, |(_, _, own, _)| own.interval.map(|i| i.1)))
        .with("difference", numbers(&compared, |(.., difference)| difference.map(|d| d.mean)))
        .with("difference_low", numbers(&compared, |(.., d)| d.and_then(|d| d.interval).map(|i| i.0)))
        .with("difference_high", numbers(&compared, |(.., d)| d.and_then(|d| d.interval).map(|i| i.1)))
        .with("over", texts(&compared, |(arm, ..)| over(arm).to_owned()))
        .with("count", counts(&compared, |(_, _, own, _)| Some(own.count as i64)))
}
