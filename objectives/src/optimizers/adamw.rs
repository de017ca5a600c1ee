use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spo_api::{
    Combine, ConfigError, Kernel, Map, Optimizer, Part, Result, Update, Vector, VectorSpace, register,
    with_scratch,
};

use super::{average, average_square, check_betas};

/// `p <- (1 - lr weight_decay) p - lr m' / (sqrt(v') + epsilon)`, with running means of the gradient,
/// `m <- beta1 m + (1 - beta1) g`, and of its square, `v <- beta2 v + (1 - beta2) g^2`, each corrected for
/// having begun at 0: `m' = m / (1 - beta1^t)`, `v' = v / (1 - beta2^t)` at update t.
///
/// Adam with decoupled weight decay. Two vectors of state.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct AdamW {
    /// Decay of the two running means.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    #[serde(default = "default_epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Decay biases and norms too.
    #[serde(default = "default_true")]
    pub decay_bias_and_norm: bool,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_true() -> bool {
    true
}

impl Part for AdamW {
    fn validate(&self) -> Result<(), ConfigError> {
        check_betas(self.betas)
    }
}

impl Optimizer for AdamW {
    fn kernel(&self) -> Option<Kernel> {
        Some(Kernel { name: "adamw".into(), config: json!(self) })
    }

    fn states(&self) -> usize {
        2
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let (gradient, mean, square) = (Vector::GRADIENT, state[0], state[1]);
        let correction = self.betas.map(|beta| 1.0 - beta.powf(update.count as f64));
        with_scratch(space, 1, |space, scratch| {
            let scratch = scratch[0];
            space.scale(update.gradient_scale, gradient)?;
            average(space, self.betas[0], gradient, mean)?;
            average_square(space, self.betas[1], gradient, square, scratch)?;
            // The direction goes where the gradient was, its denominator into the scratch vector.
            space.copy(square, scratch)?;
            space.map(Map::Divide(correction[1]), scratch)?;
            space.map(Map::SquareRoot, scratch)?;
            space.map(Map::Add(self.epsilon), scratch)?;
            space.copy(mean, gradient)?;
            space.map(Map::Divide(correction[0]), gradient)?;
            space.combine(Combine::Divide, scratch, gradient)?;
            let keep = 1.0 - update.lr * self.weight_decay;
            match self.decay_bias_and_norm {
                true => space.scale(keep, Vector::PARAMETERS)?,
                false => space.decay(keep, Vector::PARAMETERS)?,
            }
            space.axpy(-update.lr, gradient, Vector::PARAMETERS)
        })
    }
}

register!(optimizer AdamW {
    name: "adamw",
    summary: "Adam with decoupled weight decay",
    source: "Loshchilov & Hutter 2019",
});
