//! Bilevel steps: how an upper and a lower objective become one update.
//!
//! F is the upper (preference) loss, G the lower (SFT) loss in nats per token, dF and dG their gradients,
//! d the direction handed to the optimizer.

mod alternating;
mod number_or;
mod penalty;
mod scratch;
mod single;
mod value;
mod weighted;

pub use alternating::Alternating;
pub use number_or::NumberOr;
pub use penalty::{Penalty, Schedule, Shape};
pub use single::Single;
pub use value::Value;
pub use weighted::Weighted;
