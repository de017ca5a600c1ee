use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    Error, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements, Result, Scalar, register,
};

use super::options::tenth;
use super::unpaired::LogRatios;

/// `L = -ln sigmoid(beta (s - r) - delta)` of a desirable answer, `L = -ln sigmoid(delta - beta (s - r))`
/// of an undesirable one.
///
/// Binary classifier optimization: answers are classified as good or bad by their reward
/// `beta (s - r)`, against the running mean `delta` of all rewards seen so far; a constant for the
/// gradient.
///
/// Reduction: log-probs are summed over tokens, losses averaged over all answers of both kinds. Every
/// evaluation moves `delta`, by its batch and before using it, as in TRL; it survives a resume. The mean
/// couples the rows of the optimizer batch, which is taken as a whole however it is split for memory.
/// Raises a desirable answer's probability relative to the answers at large, not to the reference: all
/// may fall together.
///
/// Metrics: `delta`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bco {
    /// Inverse temperature, per nat. TRL's default.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    #[serde(skip)]
    mean: f64,
    #[serde(skip)]
    count: f64,
}

impl Part for Bco {}

impl Bco {
    /// Takes the mean reward of `n` answers into the running mean and returns the shift.
    ///
    /// TRL computes these few numbers in single precision; doing so too makes the figures comparable to
    /// their last digits.
    fn update(&mut self, mean: f64, n: f64) -> f64 {
        let distance = (f64::from(mean as f32) - self.mean) as f32;
        self.mean += f64::from(distance * n as f32 / (self.count + n) as f32);
        self.count += n;
        f64::from(self.mean as f32)
    }

    /// Takes the rewards of a batch into the running mean and returns the shift.
    fn shift(&mut self, batch: &PreferenceBatch<'_>) -> Result<f64> {
        let rows = batch.rows_of_whole()?;
        let mean = LogRatios::new(batch)?.mean();
        Ok(self.update(self.beta * mean, rows as f64))
    }

    fn classify(&self, batch: &PreferenceBatch<'_>, delta: f64, out: &mut EvaluationMut<'_>) -> Result<()> {
        let beta = self.beta;
        out.metrics.insert("delta".into(), delta);
        LogRatios::new(batch)?.evaluate(
            batch,
            out,
            beta,
            |r| -(r * beta - delta).log_sigmoid(),
            |r| -(-r * beta + delta).log_sigmoid(),
        );
        Ok(())
    }
}

impl Objective for Bco {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Unpaired).reference(true).whole_batch(true)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let delta = self.shift(batch)?;
        self.classify(batch, delta, out)
    }

    /// Holds `delta`.
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let delta = self.shift(at)?;
        self.classify(batch, delta, out)
    }

    /// The running mean and the number of rewards in it, each as 8 bytes, little-endian.
    fn state(&self) -> Vec<u8> {
        [self.mean.to_le_bytes(), self.count.to_le_bytes()].concat()
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let (numbers, rest) = state.as_chunks();
        let ([mean, count], []) = (numbers, rest) else {
            return Err(Error::Batch(format!("bco keeps 16 bytes of state, got {}", state.len())));
        };
        (self.mean, self.count) = (f64::from_le_bytes(*mean), f64::from_le_bytes(*count));
        Ok(())
    }
}

register!(objective Bco {
    name: "bco",
    summary: "answers classified against the running mean reward; unpaired data",
    source: "Jung et al. 2024, BCO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn the_shift_is_the_mean_of_all_rewards_so_far_and_survives_a_resume() {
        let mut bco: Bco = objective(json!({"beta": 0.5}));
        assert_eq!(evaluate(&mut bco, Layout::Unpaired, &[1.0, 2.0], &[3.0]).metrics["delta"], 1.0);
        let mut resumed: Bco = objective(json!({"beta": 0.5}));
        resumed.restore(&bco.state()).unwrap();
        let out = evaluate(&mut resumed, Layout::Unpaired, &[], &[-2.0]);
        // Rewards 0.5, 1, 1.5 and -1.
        assert_eq!(out.metrics["delta"], 0.5);
        assert_eq!(out.losses, [-1.5f64.log_sigmoid()]);
        assert!(bco.restore(&[0; 15]).is_err());
    }
}
