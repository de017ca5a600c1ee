//! The results of a sweep: means over seeds for each arm, compared with the baseline.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use spo_api::Metrics;
use spo_report::arms::Arm;
use spo_report::figures::of_metric;
use spo_report::load::{self, Stage};
use spo_report::stats::{Estimate, student};
use spo_report::table::Column;
use spo_report::words;

use super::cells::{Cell, Plot};
use crate::recipe::Sweep;
use crate::reporter::shown_figure;
use crate::terminal;
use crate::train::summary::{COLUMNS, StageSummary, Summary};

/// The cells, with the last stage of those that are complete.
pub(crate) struct Results<'a> {
    plot: &'a Plot,
    cells: Vec<(&'a Cell, Option<Done>)>,
}

/// The last stage of a complete cell.
struct Done {
    summary: StageSummary,
    /// Its held-out rows.
    rows: Stage,
}

impl<'a> Results<'a> {
    /// Reads the summaries and the held-out rows in a sweep's folder.
    pub(crate) fn read(folder: &Path, plot: &'a Plot) -> Self {
        let last = |cell: &Cell| -> Option<Done> {
            let folder = folder.join(&cell.name);
            let text = spo_api::read_small(&folder.join("summary.json")).ok()?;
            let summary = serde_json::from_slice::<Summary>(&text).ok()?.stages.pop()?;
            let stages =
                load::runs(&[folder]).ok().and_then(|mut runs| Some(runs.pop()?.stages)).unwrap_or_default();
            let rows = stages.into_iter().find(|stage| stage.name == summary.name).unwrap_or_default();
            Some(Done { summary, rows })
        };
        Results { plot, cells: plot.cells.iter().map(|cell| (cell, last(cell))).collect() }
    }

    /// One row per cell: name, arm, seed, whether it is complete, and all metrics of its last stage.
    pub(crate) fn export(&self) -> spo_report::table::Table {
        let mut names: Vec<String> = self
            .cells
            .iter()
            .filter_map(|(_, done)| done.as_ref())
            .flat_map(|done| figures(&done.summary).into_keys())
            .collect();
        names.sort();
        names.dedup();
        let of_cell =
            |done: &Option<Done>| done.as_ref().map(|done| figures(&done.summary)).unwrap_or_default();
        let known: Vec<Metrics> = self.cells.iter().map(|(_, done)| of_cell(done)).collect();
        let cells = || self.cells.iter();
        let mut table = spo_report::table::Table::default()
            .with("cell", Column::Text(cells().map(|(cell, _)| cell.name.clone()).collect()))
            .with("arm", Column::Text(cells().map(|(cell, _)| cell.arm.clone()).collect()))
            .with("seed", Column::Count(cells().map(|(cell, _)| i64::try_from(cell.seed).ok()).collect()))
            .with("complete", Column::Flag(cells().map(|(_, done)| done.is_some()).collect()));
        for name in names {
            let values = known.iter().map(|figures| figures.get(&name).copied()).collect();
            table = table.with(name, Column::Number(values));
        }
        table
    }

    /// A table of arms and metrics; `None` if no cell is complete.
    pub(crate) fn table(&self, sweep: &Sweep) -> Option<String> {
        let complete: Vec<Metrics> =
            self.cells.iter().filter_map(|(_, done)| Some(figures(&done.as_ref()?.summary))).collect();
        if complete.is_empty() {
            return None;
        }
        let columns = columns(sweep, &complete);
        let mut arms: Vec<&str> = Vec::new();
        for (cell, _) in &self.cells {
            if !arms.contains(&&*cell.arm) {
                arms.push(&cell.arm);
            }
        }
        let seeds: Vec<Seeds<'_>> = arms.iter().map(|arm| self.seeds(arm)).collect();
        let base = arms.iter().position(|arm| *arm == self.plot.baseline);
        let (mut rows, mut comparisons) = (Vec::new(), 0);
        for (i, (arm, own)) in arms.iter().zip(&seeds).enumerate() {
            let planned = self.cells.iter().filter(|(cell, _)| cell.arm == *arm).count();
            let mut row = vec![(*arm).to_owned(), format!("{}/{planned}", own.0.len())];
            for column in &columns {
                let mut text = show(own.estimate(column), column.share, false);
                if let Some(base) = base.filter(|base| *base != i) {
                    let difference = own.difference(&seeds[base], column);
                    comparisons += usize::from(difference.is_some());
                    let _ = write!(text, "\nΔ {}", show(difference, column.share, true));
                }
                row.push(text);
            }
            rows.push(row);
        }
        let titles = ["arm", "runs"].into_iter().chain(columns.iter().map(|column| &*column.title));
        let header: Vec<String> = titles.map(str::to_owned).collect();
        let mut notes = vec![format!(
            "The last stage of every arm: mean over the seeds ± half a 95% interval, where there is one; Δ against `{}`, \
             seed by seed.",
            self.plot.baseline
        )];
        notes.push(terminal::figures(&header, &rows, 1));
        let fewest = seeds.iter().map(|seeds| seeds.0.len()).filter(|seeds| *seeds > 0).min();
        notes.extend(fewest.and_then(words::few));
        notes.extend(words::corrected(comparisons));
        Some(notes.join("\n"))
    }

    /// The complete cells of an arm.
    fn seeds(&self, arm: &str) -> Seeds<'_> {
        let of_arm = self.cells.iter().filter(|(cell, _)| cell.arm == arm);
        Seeds(of_arm.filter_map(|(cell, done)| Some((cell.seed, done.as_ref()?))).collect())
    }
}

/// A column of the table.
struct Shown {
    title: String,
    metric: String,
    share: bool,
}

/// The metrics that the recipe names, else the usual ones of held-out data, else the loss.
fn columns(sweep: &Sweep, complete: &[Metrics]) -> Vec<Shown> {
    let known = |name: &str| complete.iter().any(|figures| figures.contains_key(name));
    let usual: Vec<Shown> = COLUMNS
        .iter()
        .map(|(title, metric, share, _)| Shown {
            title: (*title).into(),
            metric: (*metric).into(),
            share: *share,
        })
        .collect();
    if !sweep.metrics.is_empty() {
        let share = |metric: &str| usual.iter().any(|column| column.metric == metric && column.share);
        let column =
            |metric: &String| Shown { title: metric.clone(), metric: metric.clone(), share: share(metric) };
        return sweep.metrics.iter().map(column).collect();
    }
    let held_out: Vec<Shown> = usual.into_iter().filter(|column| known(&column.metric)).collect();
    match held_out.is_empty() {
        true => vec![Shown { title: "last loss".into(), metric: "loss".into(), share: false }],
        false => held_out,
    }
}

/// The complete cells of an arm, with their seeds.
struct Seeds<'a>(Vec<(u64, &'a Done)>);

impl<'a> Seeds<'a> {
    /// A metric by seed.
    fn values(&self, column: &Shown) -> BTreeMap<u64, f64> {
        let value = |(seed, done): &(u64, &Done)| {
            Some((*seed, shown_figure(&figures(&done.summary), &column.metric)?))
        };
        self.0.iter().filter_map(value).collect()
    }

    /// The same cells as an arm of a report, which knows the held-out rows.
    fn arm(&self) -> Arm<'a> {
        let members = self.0.iter().map(|(seed, done)| (Some(*seed), &done.rows)).collect();
        Arm { label: String::new(), members, baseline: false }
    }

    /// The mean over the seeds. Its interval reckons with other held-out rows where the metric is a mean over rows, else
    /// only with other seeds.
    fn estimate(&self, column: &Shown) -> Option<Estimate> {
        let values: Vec<f64> = self.values(column).into_values().collect();
        let by_rows = of_metric(&column.metric).filter(|_| !self.0.is_empty());
        let by_rows = by_rows
            .and_then(|figure| self.arm().estimate(&figure))
            .filter(|e| e.count == values.len() || values.len() == 1);
        by_rows.or_else(|| over_seeds(&values, column.share, 0.0))
    }

    /// The mean difference to the baseline, seed by seed; `None` if no seed has both.
    fn difference(&self, base: &Seeds<'_>, column: &Shown) -> Option<Estimate> {
        let theirs = base.values(column);
        let pairs = self.values(column).into_iter().filter_map(|(seed, x)| Some(x - theirs.get(&seed)?));
        let pairs: Vec<f64> = pairs.collect();
        let both = !(self.0.is_empty() || base.0.is_empty());
        let by_rows = of_metric(&column.metric).filter(|_| both);
        let by_rows = by_rows.and_then(|figure| self.arm().difference(&base.arm(), &figure));
        by_rows
            .filter(|e| e.count == pairs.len() || pairs.len() == 1)
            .or_else(|| over_seeds(&pairs, column.share, -1.0))
    }
}

/// The mean of a value of each seed; `None` without values. `least` is the least possible value of a share.
fn over_seeds(values: &[f64], share: bool, least: f64) -> Option<Estimate> {
    (!values.is_empty()).then(|| match share {
        true => student(values).within(least, 1.0),
        false => student(values),
    })
}

/// The metrics of a stage that are compared: those of its last step, and the held-out metrics after it.
fn figures(stage: &StageSummary) -> Metrics {
    let mut figures = stage.train.clone();
    figures.extend(stage.after.clone().unwrap_or_default());
    figures
}

/// A mean, with half of its interval.
fn show(estimate: Option<Estimate>, share: bool, signed: bool) -> String {
    let Some(estimate) = estimate else { return "-".into() };
    let number = |x: f64, signed: bool| match (share, signed) {
        (true, true) => format!("{:+.1}", 100.0 * x),
        (true, false) => format!("{:.1}", 100.0 * x),
        (false, true) => format!("{x:+.3}"),
        (false, false) => format!("{x:.3}"),
    };
    let half = estimate.half_width().map(|half| format!(" ± {}", number(half, false))).unwrap_or_default();
    format!("{}{half}{}", number(estimate.mean, signed), if share { "%" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_textbook_and_never_leave_what_is_possible() {
        let of = |values: &[f64], share| over_seeds(values, share, if share { 0.0 } else { f64::NAN });
        // s = 2.58199, t(3) = 3.182, n = 4.
        assert_eq!(show(of(&[4.0, 6.0, 8.0, 10.0], false), false, false), "7.000 ± 4.109");
        assert_eq!(show(of(&[0.5], true), true, false), "50.0%");
        // Seeds that agree say nothing of how much seeds differ.
        assert_eq!(show(of(&[0.5, 0.5], true), true, false), "50.0%");
        // Student's t of two values is +-238 points here.
        assert_eq!(show(of(&[0.0, 0.375], true), true, false), "18.8 ± 81.2%");
        assert_eq!(show(over_seeds(&[-0.375, 0.0], true, -1.0), true, true), "-18.8 ± 118.8%");
        assert_eq!(show(of(&[], false), false, true), "-");
    }
}
