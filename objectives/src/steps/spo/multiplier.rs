use serde::{Deserialize, Serialize};

/// The fast loop: a multiplier that follows the rise of G on training batches. It is a PID controller as in Stooke et
/// al. 2020, on an estimate that weighs every batch by how noisy batches are. All gains are per budget, so that it does
/// the same for a budget of 0.01 and of 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Multiplier {
    /// The estimate of the rise, nats per token.
    pub(super) level: f64,
    /// How much the estimate changes in a step.
    speed: f64,
    /// The rise on the last batch.
    last: Option<f64>,
    /// Variance of a batch's rise around its expectation, and how many differences it was estimated from.
    noise: f64,
    seen: u32,
    /// The integral term.
    integral: f64,
    /// The factor of dG.
    pub(super) lambda: f64,
}

/// The share of the budget that the rise is expected to change by in a step.
const DRIFT: f64 = 0.05;
/// Batches over which the noise is averaged.
const MEMORY: u32 = 20;
/// Lambda per budget by which the rise is off its target.
const PROPORTIONAL: f64 = 5.0;
/// Lambda per budget and step.
const INTEGRAL: f64 = 0.1;
/// Steps that it looks ahead when the rise grows.
const AHEAD: f64 = 10.0;
/// The largest lambda: an SFT run in all but name.
const MOST: f64 = 100.0;

impl Default for Multiplier {
    /// It starts at the plain sum, so as not to be late. It takes about ten steps to fall to 0 where nothing rises.
    fn default() -> Self {
        let (integral, lambda) = (1.0, 1.0);
        Multiplier { level: 0.0, speed: 0.0, last: None, noise: 0.0, seen: 0, integral, lambda }
    }
}

impl Multiplier {
    /// Takes in the rise of G on a batch, and moves lambda: up if the rise is above `target`, down if it is below.
    pub(super) fn follow(&mut self, rise: f64, target: f64, budget: f64) {
        self.estimate(rise, budget);
        let off = (self.level - target) / budget;
        let ahead = AHEAD * self.speed.max(0.0) / budget;
        // Anti-windup: the integral stays where lambda can follow it, and takes no more of an outlier than of a budget.
        self.integral = (self.integral + INTEGRAL * off.clamp(-1.0, 1.0)).clamp(0.0, MOST);
        let wanted = (self.integral + PROPORTIONAL * (off + ahead)).clamp(0.0, MOST);
        let most = 0.5 + 0.25 * self.lambda;
        self.lambda += (wanted - self.lambda).clamp(-most, most);
    }

    /// A Kalman filter of a random walk. Its noise is that of the batches so far, from the differences of neighbours, which
    /// a slow change hardly touches.
    fn estimate(&mut self, rise: f64, budget: f64) {
        if let Some(last) = self.last.replace(rise) {
            self.seen = (self.seen + 1).min(MEMORY);
            self.noise += (0.5 * (rise - last).powi(2) - self.noise) / f64::from(self.seen);
        }
        let ratio = (DRIFT * budget).powi(2) / self.noise.max(f64::MIN_POSITIVE);
        let gain = match ratio.is_finite() {
            true => 2.0 / (1.0 + (1.0 + 4.0 / ratio).sqrt()),
            false => 1.0,
        };
        // A batch far from all others is believed in part.
        let most = 4.0 * (self.noise.sqrt() + DRIFT * budget);
        let change = gain * (rise - self.level).clamp(-most, most);
        self.level += change;
        self.speed += 0.2 * (change - self.speed);
    }

    /// Begins anew from parameters at which the estimate was `level`, with more strength than before.
    pub(super) fn again(&mut self, level: f64) {
        let strength = (2.0 * self.integral.max(self.lambda)).clamp(1.0, MOST);
        *self = Multiplier { level, speed: 0.0, last: None, integral: strength, lambda: strength, ..*self };
    }
}
