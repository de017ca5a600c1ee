use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    BilevelProblem, BilevelStep, ConfigError, LevelWeights, Losses, Part, Passes, Result, StepNeeds,
    StepReport, Vector, Weigh, register, with_scratch,
};

use super::scratch::excursion;

/// `d = gradient of theta -> F(theta')`, where theta' lies K plain SFT steps ahead:
/// `theta_0 = theta`, `theta_(k+1) = theta_k - alpha dG(theta_k)`, `theta' = theta_K`, all on one lower
/// batch. The preference loss is asked of the policy that SFT would make of theta; the parameters then
/// move from theta, not from theta'.
///
/// - `gradient = "first-order"`: `d = dF(theta')`, as if theta' moved with theta one to one.
/// - `gradient = "exact"`: `d = (I - alpha H(theta_0)) ... (I - alpha H(theta_(K-1))) dF(theta')`, H the
///   Hessian of G. K + 2 vectors of the parameters' size instead of one; `hessian` says how the products with H
///   are formed:
///   - `"differences"`: central differences of dG, twice K more passes, on every backend. They want parameters in
///     f32: in bf16 the displacement drowns in rounding.
///   - `"double-backward"`: exactly, by differentiating the backward pass. As many passes (one that is recorded,
///     and the way back through it; one more where G is not linear in log-probs), more memory, and no
///     displacement to choose. Backends `tch` and `tabular` have it.
///
/// Follows the first version of Stable Preference Optimization, `min F(theta') + lambda R(theta')` with
/// one inner step; its regularizer R joins the objective:
/// `[{ name = "dpo" }, { name = "absolute-gain", weight = lambda }]`. K > 1, named there as future work,
/// and the choice between the two gradients are ours.
///
/// The losses it reports are F at theta' and G at theta.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [
    { "inner_steps": 3, "inner_lr": 0.1 },
    { "inner_steps": 3, "inner_lr": 0.1, "gradient": "exact" },
    { "inner_steps": 3, "inner_lr": 0.1, "gradient": "exact", "hessian": "double-backward" },
]))]
pub struct Lookahead {
    /// K, the number of inner SFT steps.
    #[serde(default = "default_inner_steps")]
    #[schemars(range(min = 1))]
    pub inner_steps: usize,
    /// Alpha, the length of an inner step in units of the gradient; no optimizer, no schedule.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub inner_lr: f64,
    /// `"first-order"` or `"exact"`.
    #[serde(default)]
    pub gradient: Gradient,
    /// Exact only: `"differences"`, the default, or `"double-backward"`.
    pub hessian: Option<Hessian>,
    /// With differences only: Euclidean length of the displacement on either side that the Hessian is felt with;
    /// 0.01 by default, as in DARTS (Liu et al. 2019).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub difference: Option<f64>,
}

/// How the dependence of theta' on theta is treated.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gradient {
    /// As the identity.
    #[default]
    FirstOrder,
    /// By Hessian-vector products.
    Exact,
}

/// How products with the Hessian of G are formed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hessian {
    /// By central differences of dG.
    Differences,
    /// By differentiating the backward pass.
    DoubleBackward,
}

fn default_inner_steps() -> usize {
    1
}

impl Part for Lookahead {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.gradient == Gradient::FirstOrder {
            for (key, given) in
                [("hessian", self.hessian.is_some()), ("difference", self.difference.is_some())]
            {
                if given {
                    return Err(ConfigError::at(key, "has an effect with gradient = \"exact\" only"));
                }
            }
        }
        if self.difference.is_some() && self.double_backward() {
            let message =
                "has an effect with hessian = \"differences\" only: \"double-backward\" displaces nothing";
            return Err(ConfigError::at("difference", message));
        }
        Ok(())
    }
}

impl Lookahead {
    fn double_backward(&self) -> bool {
        self.hessian == Some(Hessian::DoubleBackward)
    }

    /// One inner step from the current parameters. Returns G at the start of the step.
    fn inner_step(&self, problem: &mut dyn BilevelProblem) -> Result<f64> {
        let losses = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), Vector::GRADIENT)?;
        problem.vectors().axpy(-self.inner_lr, Vector::GRADIENT, Vector::PARAMETERS)?;
        Ok(losses.lower)
    }

    /// `v <- (I - alpha H(point)) v`. Does not restore the parameters.
    fn pull_back(
        &self,
        problem: &mut dyn BilevelProblem,
        point: Vector,
        v: Vector,
        scratch: Vector,
    ) -> Result<()> {
        if self.double_backward() {
            problem.vectors().copy(point, Vector::PARAMETERS)?;
            problem.lower_hessian_vector(v, scratch)?;
            return problem.vectors().axpy(-self.inner_lr, scratch, v);
        }
        let norm = problem.vectors().norm(v)?;
        if norm == 0.0 {
            return Ok(());
        }
        let step = self.difference.unwrap_or(0.01) / norm;
        for (side, into) in [(step, scratch), (-step, Vector::GRADIENT)] {
            problem.vectors().copy(point, Vector::PARAMETERS)?;
            problem.vectors().axpy(side, v, Vector::PARAMETERS)?;
            problem.gradient(Weigh::Fixed(LevelWeights::LOWER), into)?;
        }
        let factor = self.inner_lr / (2.0 * step);
        problem.vectors().axpy(-factor, scratch, v)?;
        problem.vectors().axpy(factor, Vector::GRADIENT, v)
    }

    /// Writes d into the gradient; does not restore the parameters. Returns F at theta' and G at theta.
    fn first_order(&self, problem: &mut dyn BilevelProblem) -> Result<Losses> {
        let lower = self.inner_step(problem)?;
        for _ in 1..self.inner_steps {
            self.inner_step(problem)?;
        }
        let upper = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?.upper;
        Ok(Losses { upper, lower })
    }

    /// Like [`first_order`](Self::first_order), with the exact gradient; `home` holds theta.
    fn exact(&self, problem: &mut dyn BilevelProblem, home: Vector) -> Result<Losses> {
        with_scratch(problem, self.inner_steps + 1, |problem, scratch| {
            let (&[v, difference], later) = scratch.split_first_chunk().expect("at least one inner step");
            let lower = self.inner_step(problem)?;
            for &point in later {
                problem.vectors().copy(Vector::PARAMETERS, point)?;
                self.inner_step(problem)?;
            }
            let upper = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), v)?.upper;
            for &point in later.iter().rev().chain([&home]) {
                self.pull_back(problem, point, v, difference)?;
            }
            problem.vectors().copy(v, Vector::GRADIENT)?;
            Ok(Losses { upper, lower })
        })
    }
}

impl BilevelStep for Lookahead {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels().hessian(self.double_backward())
    }

    fn passes(&self) -> Passes {
        let ahead = match self.gradient {
            Gradient::FirstOrder => self.inner_steps,
            // A product takes two gradients, or one recorded gradient and the backward pass through it.
            Gradient::Exact => 3 * self.inner_steps,
        };
        Passes::new(ahead + 1, ahead + 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let losses = excursion(problem, |problem, home| match self.gradient {
            Gradient::FirstOrder => self.first_order(problem),
            Gradient::Exact => self.exact(problem, home),
        })?;
        problem.descend(1.0)?;
        Ok(StepReport::new(losses))
    }
}

register!(step Lookahead {
    name: "lookahead",
    summary: "the preference loss K SFT steps ahead",
    source: "Stable Preference Optimization, arXiv 2507.07723v1",
});
