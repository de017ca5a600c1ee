//! Schedules: the learning rate after warm-up, as a fraction of its peak. All of them exist in transformers,
//! whose names are accepted as aliases.
//!
//! x is the progress after warm-up: 0 at the first step after it, 1 at the end of the stage.

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
pub use warmup_stable_decay::{Shape, WarmupStableDecay};
