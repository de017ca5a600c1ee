//! Schedules: how the learning rate goes after the warm-up, as a share of its peak. All are those of transformers,
//! whose names serve as well.
//!
//! x is the share of the way after the warm-up that lies behind: 0 at its first step, 1 at the end of the stage.

mod constant;
mod cosine;
mod cosine_with_restarts;
mod inverse_sqrt;
mod linear;
mod polynomial;
mod warmup_stable_decay;

pub use constant::Constant;
pub use cosine::Cosine;
pub use cosine_with_restarts::CosineWithRestarts;
pub use inverse_sqrt::InverseSqrt;
pub use linear::Linear;
pub use polynomial::Polynomial;
pub use warmup_stable_decay::{Decay, Shape, WarmupStableDecay};
