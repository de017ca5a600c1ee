//! Preference objectives: losses over log-probabilities, in nats.
//!
//! Notation of the formulas: `s_w`, `s_l` are the log-probs of the preferred and the dispreferred
//! answer under the policy, summed over tokens; `r_w`, `r_l` the same under the reference; `|y|` counts
//! tokens, the end token included; `m = (s_w - r_w) - (s_l - r_l)` is the margin. Names and defaults are
//! TRL's where TRL has the loss.

#[macro_use]
mod options;

mod absolute_gain;
mod aot;
mod aot_unpaired;
mod apo_down;
mod apo_zero;
mod bco_pair;
mod discopop;
mod dpo;
mod exo_pair;
mod f_divergence;
mod hinge;
mod ipo;
mod mix;
mod nca_pair;
mod robust;
mod sft;
mod sigmoid_norm;
mod simpo;
mod sppo_hard;

pub use absolute_gain::{AbsoluteGain, Shape};
pub use aot::Aot;
pub use aot_unpaired::AotUnpaired;
pub use apo_down::ApoDown;
pub use apo_zero::ApoZero;
pub use bco_pair::BcoPair;
pub use discopop::Discopop;
pub use dpo::Dpo;
pub use exo_pair::ExoPair;
pub use f_divergence::FDivergence;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use mix::{Component, Mix};
pub use nca_pair::NcaPair;
pub use robust::Robust;
pub use sft::Sft;
pub use sigmoid_norm::SigmoidNorm;
pub use simpo::SimPo;
pub use sppo_hard::SppoHard;
