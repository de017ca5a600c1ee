//! Bilevel steps: how an upper and a lower objective are combined into one update.
//!
//! F is the upper (preference) loss, G the lower (SFT) loss in nats per token, dF and dG are their gradients,
//! and d is the direction passed to the optimizer.

mod alternating;
mod barrier;
mod bome;
mod geometry;
mod lookahead;
mod penalty;
mod projected;
mod scale;
mod scratch;
mod single;
mod spo;
mod spo_v1;
mod state;
mod value;
mod weighted;

pub use alternating::Alternating;
pub use barrier::Barrier;
pub use bome::Bome;
pub use lookahead::{Gradient, Lookahead};
pub use penalty::{Penalty, Schedule, Shape};
pub use projected::Projected;
pub use single::Single;
pub use spo::Spo;
pub use spo_v1::SpoV1;
pub use value::Value;
pub use weighted::Weighted;
