//! The results of a sweep: means over seeds for each arm, compared with the baseline.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use spo_api::Metrics;
use spo_report::stats::student;
use spo_report::table::Column;

use super::cells::{Cell, Plot};
use crate::recipe::Sweep;
use crate::train::summary::{COLUMNS, StageSummary, Summary};

/// The cells, with the last stage of those that are complete.
pub(crate) struct Results<'a> {
    plot: &'a Plot,
    cells: Vec<(&'a Cell, Option<StageSummary>)>,
}

impl<'a> Results<'a> {
    /// Reads the summaries in a sweep's folder.
    pub(crate) fn read(folder: &Path, plot: &'a Plot) -> Self {
        let last = |cell: &Cell| -> Option<StageSummary> {
            let text = std::fs::read(folder.join(&cell.name).join("summary.json")).ok()?;
            serde_json::from_slice::<Summary>(&text).ok()?.stages.pop()
        };
        Results { plot, cells: plot.cells.iter().map(|cell| (cell, last(cell))).collect() }
    }

    /// One row per cell: name, arm, seed, whether it is complete, and all metrics of its last stage.
    pub(crate) fn export(&self) -> spo_report::table::Table {
        let mut names: Vec<String> = self
            .cells
            .iter()
            .filter_map(|(_, stage)| stage.as_ref())
            .flat_map(|s| figures(s).into_keys())
            .collect();
        names.sort();
        names.dedup();
        let known: Vec<Metrics> =
            self.cells.iter().map(|(_, s)| s.as_ref().map(figures).unwrap_or_default()).collect();
        let cells = || self.cells.iter();
        let mut table = spo_report::table::Table::default()
            .with("cell", Column::Text(cells().map(|(cell, _)| cell.name.clone()).collect()))
            .with("arm", Column::Text(cells().map(|(cell, _)| cell.arm.clone()).collect()))
            .with("seed", Column::Count(cells().map(|(cell, _)| i64::try_from(cell.seed).ok()).collect()))
            .with("complete", Column::Flag(cells().map(|(_, stage)| stage.is_some()).collect()));
        for name in names {
            let values = known.iter().map(|figures| figures.get(&name).copied()).collect();
            table = table.with(name, Column::Number(values));
        }
        table
    }

    /// A table of arms and metrics; `None` if no cell is complete.
    pub(crate) fn table(&self, sweep: &Sweep) -> Option<String> {
        let complete: Vec<Metrics> =
            self.cells.iter().filter_map(|(_, stage)| stage.as_ref()).map(figures).collect();
        let known = |name: &str| complete.iter().any(|figures| figures.contains_key(name));
        let columns: Vec<(String, String, bool)> = if sweep.metrics.is_empty() {
            let usual = COLUMNS
                .iter()
                .map(|(title, metric, share, _)| (title.to_string(), metric.to_string(), *share));
            let held_out: Vec<_> = usual.filter(|(_, metric, _)| known(metric)).collect();
            if held_out.is_empty() { vec![("last loss".into(), "loss".into(), false)] } else { held_out }
        } else {
            sweep.metrics.iter().map(|metric| (metric.clone(), metric.clone(), false)).collect()
        };
        if complete.is_empty() {
            return None;
        }
        let mut arms: Vec<&str> = Vec::new();
        for (cell, _) in &self.cells {
            if !arms.contains(&&*cell.arm) {
                arms.push(&cell.arm);
            }
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["arm", "runs"].into_iter().chain(columns.iter().map(|(title, ..)| &**title)));
        for arm in arms {
            let of_arm = self.cells.iter().filter(|(cell, _)| cell.arm == arm);
            let runs = of_arm.clone().filter(|(_, stage)| stage.is_some()).count();
            let mut row = vec![arm.to_owned(), format!("{runs}/{}", of_arm.count())];
            for (_, metric, share) in &columns {
                let own = self.by_seed(arm, metric);
                let mut text = Estimate::of(&own.values().copied().collect::<Vec<_>>()).show(*share, false);
                if arm != self.plot.baseline {
                    let base = self.by_seed(&self.plot.baseline, metric);
                    let paired: Vec<f64> =
                        own.iter().filter_map(|(seed, x)| Some(x - base.get(seed)?)).collect();
                    let _ = write!(text, "\nΔ {}", Estimate::of(&paired).show(*share, true));
                }
                row.push(text);
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = "The last stage of every arm: mean over the seeds".to_owned();
        if self.cells.iter().any(|(cell, _)| cell.seed != self.cells[0].0.seed) {
            text += " ± half a 95% interval (Student's t)";
        }
        let _ = write!(text, "; Δ against `{}`, seed by seed.\n{table}", self.plot.baseline);
        Some(text)
    }

    /// A metric of an arm's complete cells, by seed.
    fn by_seed(&self, arm: &str, metric: &str) -> BTreeMap<u64, f64> {
        let of_arm = self.cells.iter().filter(|(cell, _)| cell.arm == arm);
        of_arm.filter_map(|(cell, stage)| Some((cell.seed, *figures(stage.as_ref()?).get(metric)?))).collect()
    }
}

/// The metrics of a stage that are compared: those of its last step, and the held-out metrics after it.
fn figures(stage: &StageSummary) -> Metrics {
    let mut figures = stage.train.clone();
    figures.extend(stage.after.clone().unwrap_or_default());
    figures
}

/// A mean with its confidence interval.
struct Estimate {
    mean: f64,
    /// Half the width of the 95% confidence interval; requires at least two values.
    half: Option<f64>,
}

impl Estimate {
    fn of(values: &[f64]) -> Self {
        let student = student(values);
        Estimate { mean: student.mean, half: student.interval.map(|(low, high)| (high - low) / 2.0) }
    }

    fn show(&self, share: bool, signed: bool) -> String {
        if self.mean.is_nan() {
            return "-".into();
        }
        let number = |x: f64, signed: bool| match (share, signed) {
            (true, true) => format!("{:+.1}", 100.0 * x),
            (true, false) => format!("{:.1}", 100.0 * x),
            (false, true) => format!("{x:+.3}"),
            (false, false) => format!("{x:.3}"),
        };
        let half = self.half.map(|half| format!(" ± {}", number(half, false))).unwrap_or_default();
        format!("{}{half}{}", number(self.mean, signed), if share { "%" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_textbook() {
        let estimate = Estimate::of(&[4.0, 6.0, 8.0, 10.0]);
        assert_eq!(estimate.mean, 7.0);
        // s = 2.58199, t(3) = 3.182, n = 4.
        assert!((estimate.half.unwrap() - 3.182_446 * 2.581_988_9 / 2.0).abs() < 1e-4);
        assert_eq!(Estimate::of(&[0.5]).show(true, false), "50.0%");
        assert_eq!(Estimate::of(&[0.5, 0.5]).show(true, true), "+50.0 ± 0.0%");
        assert_eq!(Estimate::of(&[]).show(false, true), "-");
    }
}
