//! Sign descent with momentum, an optimizer that `spo-run` loads at run time.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Map, Optimizer, Part, Result, Update, Vector, VectorSpace, register, with_scratch};

spo_api::export_plugins!();

/// `m <- momentum m + (1 - momentum) g`, `p <- (1 - lr weight_decay) p - lr sign(m)`: every parameter moves by the
/// learning rate, biases and norms without decay. One vector of state, m.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignMomentum {
    /// How much of the mean gradient is kept from one update to the next.
    #[serde(default = "SignMomentum::momentum")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

impl SignMomentum {
    fn momentum() -> f64 {
        0.9
    }
}

impl Part for SignMomentum {}

impl Optimizer for SignMomentum {
    fn states(&self) -> usize {
        1
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let mean = state[0];
        space.scale(self.momentum, mean)?;
        space.axpy((1.0 - self.momentum) * update.gradient_scale, Vector::GRADIENT, mean)?;
        space.decay(1.0 - update.lr * self.weight_decay, Vector::PARAMETERS)?;
        with_scratch(space, 1, |space, scratch| {
            space.copy(mean, scratch[0])?;
            space.map(Map::Sign, scratch[0])?;
            space.axpy(-update.lr, scratch[0], Vector::PARAMETERS)
        })
    }
}

register!(optimizer SignMomentum {
    name: "sign-momentum",
    aliases: ["signum"],
    summary: "descent by the sign of a momentum",
    source: "Bernstein et al. 2018, signSGD, alg. 2 (Signum)",
});

#[cfg(test)]
mod tests {
    use spo_api::MemorySpace;

    use super::*;

    #[test]
    fn parameters_move_by_the_learning_rate_against_the_mean_gradient() {
        let optimizer = SignMomentum { momentum: 0.5, weight_decay: 0.0 };
        let mut space = MemorySpace::new(vec![1.0, 1.0]);
        let state = [space.allocate().unwrap()];
        for (count, gradient, expected) in
            [(1, [4.0, 0.0], [0.75, 1.0]), (2, [-1.0, -2.0], [0.5, 1.25]), (3, [-3.0, -2.0], [0.75, 1.5])]
        {
            space.get_mut(Vector::GRADIENT).unwrap().copy_from_slice(&gradient);
            let update = Update { lr: 0.25, gradient_scale: 1.0, count };
            optimizer.step(&mut space, &state, &update).unwrap();
            assert_eq!(space.get(Vector::PARAMETERS).unwrap(), &expected);
        }
    }
}
