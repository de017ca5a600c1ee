//! The pictures of a report: which numbers go into which chart.

mod arms;
mod gradients;
mod metrics;
mod probes;

pub use arms::of_arms;
pub use probes::masses;

use crate::load::{Evolution, Stage};
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

/// All pictures of a stage that its numbers allow.
pub fn of_stage(stage: &Stage) -> Vec<Plot> {
    let all = [probes::all(stage), gradients::all(stage), metrics::all(stage)];
    let named = all.into_iter().flatten().map(|(name, caption, svg)| {
        svg.map(|svg| Plot { name: format!("{}-{name}", stage.name), svg, caption })
    });
    named.flatten().collect()
}

/// A picture that may be wanting: its name, its caption, itself.
type Drawn = (&'static str, &'static str, Option<Svg>);

/// Differences where both are known.
pub fn changes(from: &[Option<f64>], to: &[Option<f64>]) -> Vec<Option<f64>> {
    from.iter().zip(to).map(|(from, to)| Some((*to)? - (*from)?)).collect()
}

/// The probes when the stage began, and the last time they were looked at.
pub fn ends(stage: &Stage) -> Option<(&Evolution, &Evolution)> {
    let (first, last) = (stage.evolution.first()?, stage.evolution.last()?);
    (last.step > first.step).then_some((first, last))
}

/// The values that there are.
fn known(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().copied().flatten().collect()
}
