//! What was read and computed, as CSV files.

use crate::arms::{Arm, Over};
use crate::load::Run;
use crate::words::figures;

/// The files by name: all metrics in long form, the held-out rows, and the comparison of the arms.
pub fn tables(runs: &[Run], arms: &[Arm<'_>]) -> [(&'static str, Vec<u8>); 3] {
    [("metrics.csv", metrics(runs)), ("rows.csv", rows(runs)), ("comparison.csv", comparison(arms))]
}

fn table(header: &[&str], records: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer
        .write_record(header)
        .and_then(|()| records.into_iter().try_for_each(|record| writer.write_record(record)));
    written
        .and_then(|()| Ok(writer.into_inner().map_err(|e| e.into_error())?))
        .expect("memory can be written to")
}

fn metrics(runs: &[Run]) -> Vec<u8> {
    let stages = runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)));
    let records = stages.flat_map(|(run, stage)| {
        stage.curves.iter().flat_map(move |(name, curve)| {
            curve.iter().map(move |(step, value)| {
                vec![run.label.clone(), stage.name.clone(), step.to_string(), name.clone(), value.to_string()]
            })
        })
    });
    table(&["run", "stage", "step", "metric", "value"], records)
}

fn rows(runs: &[Run]) -> Vec<u8> {
    let stages = runs.iter().flat_map(|run| run.stages.iter().map(move |stage| (run, stage)));
    let records = stages.flat_map(|(run, stage)| {
        let ends = stage.before.as_ref().zip(stage.after.as_ref());
        ends.into_iter().flat_map(move |(before, after)| {
            (0..after.chosen.len()).map(move |row| {
                let number = |side: &[Option<f64>]| text(side.get(row).copied().flatten());
                let right = |side: &[Option<bool>]| text(side.get(row).copied().flatten().map(u8::from));
                vec![
                    run.label.clone(),
                    stage.name.clone(),
                    (row + 1).to_string(),
                    number(&before.chosen),
                    number(&after.chosen),
                    number(&before.rejected),
                    number(&after.rejected),
                    right(&before.exact_match),
                    right(&after.exact_match),
                ]
            })
        })
    });
    let header = [
        "run",
        "stage",
        "row",
        "chosen_before",
        "chosen_after",
        "rejected_before",
        "rejected_after",
        "exact_match_before",
        "exact_match_after",
    ];
    table(&header, records)
}

fn comparison(arms: &[Arm<'_>]) -> Vec<u8> {
    let baseline = arms.first();
    let records = arms.iter().enumerate().flat_map(|(i, arm)| {
        figures(arms).into_iter().filter_map(move |figure| {
            let own = arm.estimate(&figure)?;
            let difference = baseline.filter(|_| i > 0).and_then(|b| arm.difference(b, &figure));
            let before: Vec<f64> = arm.members.iter().filter_map(|(_, stage)| figure.before(stage)).collect();
            let before = (!before.is_empty()).then(|| crate::stats::mean(&before));
            Some(vec![
                arm.label.clone(),
                figure.key.to_owned(),
                (if figure.share { "share" } else { "nats" }).to_owned(),
                text(before),
                own.mean.to_string(),
                text(own.interval.map(|i| i.0)),
                text(own.interval.map(|i| i.1)),
                text(difference.map(|d| d.mean)),
                text(difference.and_then(|d| d.interval).map(|i| i.0)),
                text(difference.and_then(|d| d.interval).map(|i| i.1)),
                (if arm.over() == Over::Seeds { "seeds" } else { "rows" }).to_owned(),
                own.count.to_string(),
            ])
        })
    });
    let header = [
        "arm",
        "figure",
        "unit",
        "before",
        "mean",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "over",
        "count",
    ];
    table(&header, records)
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
