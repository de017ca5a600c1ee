//! Charts: what they show, without what they mean.

mod axes;
mod bars;
mod lines;
mod points;

pub use bars::{Bar, bars};
pub use lines::{Lines, Series, areas, lines};
pub use points::{Pareto, ParetoPoint, Quadrants, Scatter, ScatterGroup, pareto, quadrants, scatter};
