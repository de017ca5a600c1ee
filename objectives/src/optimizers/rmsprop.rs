use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{Combine, Map, Optimizer, Part, Result, Update, Vector, VectorSpace, register, with_scratch};

use super::{average, average_square};

/// `p <- p - lr g' / (sqrt(v) + epsilon)`, with `g' = g + weight_decay p` and a running mean of its square,
/// `v <- alpha v + (1 - alpha) g'^2`. `centered` takes the variance instead, `v - m^2` with m the running mean of
/// g'. With momentum: `b <- momentum b + g' / (sqrt(v) + epsilon)`, `p <- p - lr b`.
///
/// As torch's RMSprop, with which the first DPO was trained. One vector of state, one more each when centered and
/// with momentum.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RmsProp {
    /// Decay of the running means.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub alpha: f64,
    /// Added to the root of the mean square.
    #[serde(default = "default_epsilon")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Factor of the parameters in the gradient (an L2 penalty).
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// How much of the direction before is kept.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Divide by the standard deviation instead of the root mean square.
    #[serde(default)]
    pub centered: bool,
}

fn default_alpha() -> f64 {
    0.99
}
fn default_epsilon() -> f64 {
    1e-8
}

impl Part for RmsProp {}

impl Optimizer for RmsProp {
    fn states(&self) -> usize {
        1 + usize::from(self.centered) + usize::from(self.momentum != 0.0)
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let (gradient, square) = (Vector::GRADIENT, state[0]);
        with_scratch(space, 1, |space, scratch| {
            let scratch = scratch[0];
            space.scale(update.gradient_scale, gradient)?;
            if self.weight_decay != 0.0 {
                space.axpy(self.weight_decay, Vector::PARAMETERS, gradient)?;
            }
            average_square(space, self.alpha, gradient, square, scratch)?;
            if self.centered {
                let mean = state[1];
                average(space, self.alpha, gradient, mean)?;
                space.copy(mean, scratch)?;
                space.combine(Combine::Multiply, mean, scratch)?;
                space.scale(-1.0, scratch)?;
                space.axpy(1.0, square, scratch)?;
                // A variance of 0 may come out a rounding error below.
                space.map(Map::Absolute, scratch)?;
            } else {
                space.copy(square, scratch)?;
            }
            space.map(Map::SquareRoot, scratch)?;
            space.map(Map::Add(self.epsilon), scratch)?;
            space.combine(Combine::Divide, scratch, gradient)?;
            if self.momentum != 0.0 {
                let momentum = state[self.states() - 1];
                space.scale(self.momentum, momentum)?;
                space.axpy(1.0, gradient, momentum)?;
                space.copy(momentum, gradient)?;
            }
            space.axpy(-update.lr, gradient, Vector::PARAMETERS)
        })
    }
}

register!(optimizer RmsProp {
    name: "rmsprop",
    summary: "the gradient over its root mean square",
    source: "Tieleman & Hinton 2012; Graves 2013 (centered)",
});
