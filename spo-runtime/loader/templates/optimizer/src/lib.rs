//! An optimizer for spo.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Optimizer, Part, Result, Update, Vector, VectorSpace, register};

spo_api::export_plugins!();

/// `v <- momentum v + g`, `p <- p - lr v`: gradient descent with momentum. One vector of state, v.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct @TYPE@ {
    /// How much of v is kept from one update to the next.
    #[serde(default = "default_momentum")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
}

fn default_momentum() -> f64 {
    0.9
}

impl Part for @TYPE@ {}

impl Optimizer for @TYPE@ {
    /// Vectors of the parameters' size that it keeps from one update to the next.
    fn states(&self) -> usize {
        1
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let (gradient, velocity) = (Vector::GRADIENT, state[0]);
        space.scale(update.gradient_scale, gradient)?; // clipping: always first
        space.scale(self.momentum, velocity)?; // v <- momentum v
        space.axpy(1.0, gradient, velocity)?; // v <- v + g
        space.axpy(-update.lr, velocity, Vector::PARAMETERS) // p <- p - lr v
    }
}

register!(optimizer @TYPE@ {
    name: "@NAME@",
    summary: "gradient descent with momentum",
    source: "replace me: paper and equation",
});

#[cfg(test)]
mod tests {
    use spo_api::MemorySpace;

    use super::*;

    #[test]
    fn the_velocity_grows_along_a_constant_gradient() {
        let optimizer = @TYPE@ { momentum: 0.5 };
        let mut space = MemorySpace::new(vec![1.0]);
        let state = [space.allocate().unwrap()];
        for (count, expected) in [(1, 0.875), (2, 0.6875)] {
            space.get_mut(Vector::GRADIENT).unwrap()[0] = 1.0;
            let update = Update { lr: 0.125, gradient_scale: 1.0, count };
            optimizer.step(&mut space, &state, &update).unwrap();
            assert_eq!(space.get(Vector::PARAMETERS).unwrap()[0], expected);
        }
    }
}
