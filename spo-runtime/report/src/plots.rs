//! The charts of a report, and the numbers that each of them shows.

mod arms;
mod gradients;
mod metrics;
mod probes;

pub use arms::of_arms;
pub use probes::masses;

use crate::load::{Evolution, Stage};
use crate::svg::Svg;

/// A chart with its name and caption.
pub struct Plot {
    /// Its name in files.
    pub name: String,
    /// The chart.
    pub svg: Svg,
    /// How to read it.
    pub caption: &'static str,
}

/// The names of the answers in charts, in the order of [`Evolution::answers`].
const ANSWERS: [&str; 5] =
    ["preferred", "dispreferred", "other prompts\u{2019}", "shuffled tokens", "model\u{2019}s own"];

/// All charts of a stage for which it has the numbers.
pub fn of_stage(stage: &Stage) -> Vec<Plot> {
    let all = [probes::all(stage), gradients::all(stage), metrics::all(stage)];
    let named = all.into_iter().flatten().map(|(name, caption, svg)| {
        svg.map(|svg| Plot { name: format!("{}-{name}", stage.name), svg, caption })
    });
    named.flatten().collect()
}

/// A chart, if there are numbers for it, with its name and caption.
type Drawn = (&'static str, &'static str, Option<Svg>);

/// Differences; `None` where one of the values is missing.
pub fn changes(from: &[Option<f64>], to: &[Option<f64>]) -> Vec<Option<f64>> {
    from.iter().zip(to).map(|(from, to)| Some((*to)? - (*from)?)).collect()
}

/// The first and the last measurement of the probes.
pub fn ends(stage: &Stage) -> Option<(&Evolution, &Evolution)> {
    let (first, last) = (stage.evolution.first()?, stage.evolution.last()?);
    (last.step > first.step).then_some((first, last))
}

/// The values without the missing ones.
fn known(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().copied().flatten().collect()
}
