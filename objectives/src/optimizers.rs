//! Optimizers: how a gradient g changes the parameters p, at learning rate lr.
//!
//! The state of an optimizer is kept in separate vectors; each file says what they hold.

mod adamw;
mod adamw_8bit;
mod lion;
mod rmsprop;
mod sgd;

pub use adamw::AdamW;
pub use adamw_8bit::AdamW8bit;
pub use lion::Lion;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use spo_api::{Combine, ConfigError, Result, Vector, VectorSpace};

/// `mean <- beta mean + (1 - beta) x`.
fn average(space: &mut dyn VectorSpace, beta: f64, x: Vector, mean: Vector) -> Result<()> {
    space.scale(beta, mean)?;
    space.axpy(1.0 - beta, x, mean)
}

/// `mean <- beta mean + (1 - beta) x^2`. Overwrites the scratch vector.
fn average_square(
    space: &mut dyn VectorSpace,
    beta: f64,
    x: Vector,
    mean: Vector,
    scratch: Vector,
) -> Result<()> {
    space.copy(x, scratch)?;
    space.scale(1.0 - beta, scratch)?;
    space.combine(Combine::Multiply, x, scratch)?;
    space.scale(beta, mean)?;
    space.axpy(1.0, scratch, mean)
}

/// Decay rates of running means must be in `[0, 1)`.
fn check_betas(betas: [f64; 2]) -> Result<(), ConfigError> {
    match betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
        Some(b) => Err(ConfigError::at("betas", format!("must lie in [0, 1), got {b}"))),
        None => Ok(()),
    }
}
