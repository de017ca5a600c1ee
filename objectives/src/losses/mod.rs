//! Preference objectives: losses over log-probabilities, in nats.
//!
//! Notation of the formulas: `s_w`, `s_l` are the log-probs of the preferred and the dispreferred
//! answer under the policy, summed over tokens; `r_w`, `r_l` the same under the reference; `|y|` counts
//! tokens, the end token included; `m = (s_w - r_w) - (s_l - r_l)` is the margin. Names and defaults are
//! TRL's where TRL has the loss.

#[macro_use]
mod options;

mod absolute_gain;
mod dpo;
mod f_divergence;
mod ipo;
mod mix;
mod sft;
mod simpo;

pub use absolute_gain::{AbsoluteGain, Shape};
pub use dpo::Dpo;
pub use f_divergence::FDivergence;
pub use ipo::Ipo;
pub use mix::{Component, Mix};
pub use sft::Sft;
pub use simpo::SimPo;
