use spo_api::{
    BilevelProblem, LevelWeights, Losses, Metrics, Result, StepReport, Vector, Weigh, with_scratch,
};

/// The losses of a batch, and the inner products of its two gradients.
pub(super) struct Geometry {
    /// F and G.
    pub losses: Losses,
    /// `<dF, dG>`.
    pub product: f64,
    /// `||dF||^2`.
    pub upper_squared: f64,
    /// `||dG||^2`.
    pub lower_squared: f64,
}

impl Geometry {
    /// The smallest `mu >= 0` with `<dF + mu dG, dG> >= phi`. Zero if dG is zero, since then no factor helps.
    pub(super) fn least_factor(&self, phi: f64) -> f64 {
        match self.lower_squared > 0.0 {
            true => ((phi - self.product) / self.lower_squared).max(0.0),
            false => 0.0,
        }
    }
}

/// Descends along `dF + mu dG`; `mu_of` computes `mu` from the geometry, and can add metrics. Costs two
/// forward passes, two backward passes and one scratch vector.
pub(super) fn descend_with(
    problem: &mut dyn BilevelProblem,
    mu_of: impl FnOnce(&Geometry, &mut Metrics) -> f64,
) -> Result<StepReport> {
    with_scratch(problem, 1, |problem, scratch| descend_along(problem, scratch[0], mu_of))
}

/// As [`descend_with`]; leaves dG in `lower_gradient`.
pub(super) fn descend_along(
    problem: &mut dyn BilevelProblem,
    lower_gradient: Vector,
    mu_of: impl FnOnce(&Geometry, &mut Metrics) -> f64,
) -> Result<StepReport> {
    let lower = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), lower_gradient)?.lower;
    let upper = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?.upper;
    let space = problem.vectors();
    let geometry = Geometry {
        losses: Losses { upper, lower },
        product: space.dot(Vector::GRADIENT, lower_gradient)?,
        upper_squared: space.dot(Vector::GRADIENT, Vector::GRADIENT)?,
        lower_squared: space.dot(lower_gradient, lower_gradient)?,
    };
    let mut metrics = Metrics::new();
    let mu = mu_of(&geometry, &mut metrics);
    space.axpy(mu, lower_gradient, Vector::GRADIENT)?;
    metrics.insert("bilevel/weight".into(), mu);
    let cosine = geometry.product / (geometry.upper_squared.sqrt() * geometry.lower_squared.sqrt());
    if cosine.is_finite() {
        metrics.insert("bilevel/cosine".into(), cosine);
    }
    problem.descend(1.0)?;
    Ok(StepReport::new(geometry.losses).with(metrics))
}
