use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{ConfigError, Optimizer, Part, Result, Update, Vector, VectorSpace, register};

/// `p <- p - lr d`, with `d = g + weight_decay p`, or with momentum `d = b`,
/// `b <- momentum b + (1 - dampening) (g + weight_decay p)`; `b` is `g + weight_decay p` at the first update.
/// Nesterov's form takes `d = (g + weight_decay p) + momentum b`.
///
/// As torch's SGD: weight decay is part of the gradient. One vector of state with momentum, none without.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// How much of the direction before is kept; 0 for plain descent.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Share of the gradient that is left out of the momentum.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dampening: f64,
    /// Look ahead along the momentum (Nesterov 1983).
    #[serde(default)]
    pub nesterov: bool,
    /// Factor of the parameters in the gradient (an L2 penalty).
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

impl Part for Sgd {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.momentum == 0.0 && self.dampening != 0.0 {
            return Err(ConfigError::at("dampening", "has an effect with momentum only"));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(ConfigError::at("nesterov", "needs a momentum, and no dampening"));
        }
        Ok(())
    }
}

impl Optimizer for Sgd {
    fn states(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let gradient = Vector::GRADIENT;
        space.scale(update.gradient_scale, gradient)?;
        if self.weight_decay != 0.0 {
            space.axpy(self.weight_decay, Vector::PARAMETERS, gradient)?;
        }
        if let Some(&momentum) = state.first() {
            if update.count == 1 {
                space.copy(gradient, momentum)?;
            } else {
                space.scale(self.momentum, momentum)?;
                space.axpy(1.0 - self.dampening, gradient, momentum)?;
            }
            match self.nesterov {
                true => space.axpy(self.momentum, momentum, gradient)?,
                false => space.copy(momentum, gradient)?,
            }
        }
        space.axpy(-update.lr, gradient, Vector::PARAMETERS)
    }
}

register!(optimizer Sgd {
    name: "sgd",
    summary: "gradient descent, with momentum if wanted",
    source: "Polyak 1964; Sutskever et al. 2013",
});
