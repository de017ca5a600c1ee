use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    ConfigError, Map, Optimizer, Part, Result, Update, Vector, VectorSpace, register, with_scratch,
};

use super::{average, check_betas};

/// `p <- (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)`, then `m <- beta2 m + (1 - beta2) g`.
///
/// Every parameter moves by the learning rate, so that is to be 3 to 10 times less than AdamW's, and the weight
/// decay greater by as much. One vector of state.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lion {
    /// Decay of the running mean: as the update sees it, and as it is kept.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.99]
}

impl Part for Lion {
    fn validate(&self) -> Result<(), ConfigError> {
        check_betas(self.betas)
    }
}

impl Optimizer for Lion {
    fn states(&self) -> usize {
        1
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let (gradient, mean) = (Vector::GRADIENT, state[0]);
        with_scratch(space, 1, |space, scratch| {
            let direction = scratch[0];
            space.scale(update.gradient_scale, gradient)?;
            space.copy(mean, direction)?;
            average(space, self.betas[0], gradient, direction)?;
            space.map(Map::Sign, direction)?;
            average(space, self.betas[1], gradient, mean)?;
            space.scale(1.0 - update.lr * self.weight_decay, Vector::PARAMETERS)?;
            space.axpy(-update.lr, direction, Vector::PARAMETERS)
        })
    }
}

register!(optimizer Lion {
    name: "lion",
    summary: "the sign of a running mean of gradients",
    source: "Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, alg. 2",
});
