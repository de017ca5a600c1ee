mod multiplier;

use multiplier::Multiplier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    BilevelProblem, BilevelStep, Budget, LevelWeights, Part, Passes, Result, Rise, Ruling, StepNeeds,
    StepReport, Weigh, register,
};

use super::{
    scale::Scale,
    state::{from_state, to_state},
};

/// Wins as much preference as a budget allows: G on held-out demonstrations may rise by at most `budget` over the stage.
/// `d = dF / s + lambda dG`, where s is the slope of F (see `normalize`).
///
/// Two loops keep the budget:
///
/// - The fast one sees training batches. Lambda is a PID controller (Stooke et al. 2020) of `G - G_reference` on the same
///   batch. It is 0 where nothing rises; the update is then that of the preference loss alone.
/// - The slow one sees held-out rows. Rows that are trained on understate the rise, so every so many steps G is measured
///   on the calibration rows, forward only, and the target of the fast loop moves to where the held-out rise, plus
///   `margin` standard errors, meets the budget.
///
/// Parameters are kept whenever the held-out rise is within the budget by half of the margin. Where it is above the budget
/// beyond doubt (by two standard errors, in two measurements in a row between which it does not fall by a fifth; or above
/// three times the budget in one), the last kept parameters come back, the optimizer begins anew with half the learning
/// rate, and the target is lowered by a quarter. After the fourth time the stage ends. A stage whose last measurement is
/// not good enough to keep ends with the last kept parameters.
///
/// The verdict at the end is on held-out rows that neither loop has seen.
///
/// One forward and one backward when both levels share their batch, also if it is processed in parts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spo {
    /// How much G may rise on held-out demonstrations, nats per token.
    #[serde(default = "default_budget")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub budget: f64,
    /// Standard errors of the calibration that are left between the rise that is aimed at and the budget.
    #[serde(default = "default_margin")]
    #[schemars(range(min = 0))]
    pub margin: f64,
    /// Held-out rows to calibrate on; at most half of them are taken.
    #[serde(default = "default_rows")]
    #[schemars(range(min = 4))]
    pub rows: usize,
    /// Training steps between two calibrations. Unless given, as many as keep their cost at about a twentieth of the
    /// training, but at least four calibrations a stage, and at most twenty.
    #[schemars(range(min = 1))]
    pub every: Option<usize>,
    /// Divide F by its slope where it prefers neither answer, in units of DPO with `beta = 0.1`.
    #[serde(default = "default_normalize")]
    pub normalize: bool,
    /// Fail (exit code 1) if the verdict is that the budget was not kept.
    #[serde(default)]
    pub strict: bool,
    #[serde(skip)]
    state: State,
}

fn default_budget() -> f64 {
    0.05
}

fn default_margin() -> f64 {
    2.0
}

fn default_rows() -> usize {
    128
}

fn default_normalize() -> bool {
    true
}

/// After so many returns to the kept parameters the stage ends.
const PATIENCE: u32 = 4;
/// Steps over which the learning rate comes back after a return: the optimizer has no moments yet.
const WARM_UP: u32 = 10;

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct State {
    scale: Scale,
    multiplier: Multiplier,
    calibration: Option<Calibration>,
    /// The estimate of the fast loop where the parameters were last kept.
    kept_level: f64,
    /// Measurements above the budget, in a row, without those that were on their way down.
    above: u32,
    /// The last measurement.
    last: Option<f64>,
    returns: u32,
    /// Steps since the last return.
    since: u32,
}

/// What the measurements so far say.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Calibration {
    /// How much more G rises on held-out rows than the fast loop believes.
    gap: f64,
    /// The standard error of the last measurement.
    standard_error: f64,
}

impl Spo {
    /// Where the fast loop shall hold the rise on training batches.
    fn target(&self) -> f64 {
        let budget = self.budget * 0.75_f64.powi(self.state.returns as i32);
        match self.state.calibration {
            // Nothing is known yet of the gap.
            None => 0.5 * budget,
            Some(Calibration { gap, standard_error }) => {
                (budget - self.margin * standard_error).max(0.0) - gap
            }
        }
    }

    /// The factor of the learning rate: halved with every return, after which it grows from almost nothing.
    fn lr_factor(&self) -> f64 {
        match self.state.returns {
            0 => 1.0,
            n => 0.5_f64.powi(n as i32) * (f64::from(self.state.since + 1) / f64::from(WARM_UP)).min(1.0),
        }
    }
}

impl Part for Spo {}

impl BilevelStep for Spo {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels().reference_lower(true).update_alone(true)
    }

    fn passes(&self) -> Passes {
        Passes::new(1, 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let reference = problem.reference_lower()?;
        let upper = self.state.scale.factor(self.normalize, problem)?;
        let lambda = self.state.multiplier.lambda;
        let weights = LevelWeights { upper, lower: lambda };
        // Lambda follows from the batches before this one, so that a batch in parts needs no second forward pass.
        let lr_factor = self.lr_factor();
        let losses = problem.update(Weigh::Known(weights), lr_factor)?;
        let (rise, target) = (losses.lower - reference, self.target());
        self.state.multiplier.follow(rise, target, self.budget);
        self.state.since = self.state.since.saturating_add(1);
        let report = StepReport::new(losses).with([
            ("bilevel/constraint", rise - target),
            ("bilevel/lambda", lambda),
            ("bilevel/rise", self.state.multiplier.level),
            ("bilevel/target", target),
            ("bilevel/scale", upper),
            ("bilevel/value", reference),
        ]);
        Ok(match self.state.returns {
            0 => report,
            _ => report.with([("bilevel/lr_factor", lr_factor)]),
        })
    }

    fn budget(&self) -> Option<Budget> {
        Some(Budget::new(self.budget, self.rows).every(self.every).strict(self.strict))
    }

    fn measured(&mut self, Rise { mean, standard_error }: Rise) -> Ruling {
        let State { multiplier, calibration, kept_level, above, last, returns, since, .. } = &mut self.state;
        let sure = mean - 2.0 * standard_error;
        let falls = last.replace(mean).is_some_and(|last| mean < 0.8 * last);
        *above = match (sure > self.budget, *above) {
            (false, _) => 0,
            (true, before) => before + u32::from(before == 0 || !falls),
        };
        // A rise that is not a number is above everything.
        if *above >= 2 || sure.is_nan() || sure > 3.0 * self.budget {
            (*above, *last, *since) = (0, None, 0);
            *returns += 1;
            multiplier.again(*kept_level);
            return if *returns < PATIENCE { Ruling::GoBack } else { Ruling::End };
        }
        let found = mean - multiplier.level;
        let gap = calibration.map_or(found, |before| 0.5 * (before.gap + found));
        *calibration = Some(Calibration { gap, standard_error });
        if mean + 0.5 * self.margin * standard_error <= self.budget {
            *kept_level = multiplier.level;
            Ruling::Keep
        } else {
            Ruling::GoOn
        }
    }

    fn state(&self) -> Vec<u8> {
        to_state(&self.state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.state = from_state(state)?;
        Ok(())
    }
}

register!(step Spo {
    name: "spo",
    summary: "as much preference as a budget on the held-out SFT loss allows",
    source: "this project, after Stable Preference Optimization (arXiv 2507.07723v2) and Stooke et al. 2020",
});
