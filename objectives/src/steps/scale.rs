use serde::{Deserialize, Serialize};
use spo_api::{BilevelProblem, Result};

/// The factor of F under which it is as steep, where it prefers neither answer, as DPO with `beta = 0.1`. One strength
/// then means the same for every objective. It is asked for once, and so stays the same where the objective changes
/// over the stage.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Scale(Option<f64>);

impl Scale {
    /// The factor; 1 unless it is asked for.
    pub(super) fn factor(&mut self, normalize: bool, problem: &mut dyn BilevelProblem) -> Result<f64> {
        match (normalize, self.0) {
            (false, _) => Ok(1.0),
            (true, Some(factor)) => Ok(factor),
            (true, None) => Ok(*self.0.insert(1.0 / problem.upper_slope()?)),
        }
    }
}
