//! Preference objectives: losses over log-probabilities, in nats.
//!
//! Notation in the formulas: `s_w`, `s_l` are the log-probs of the chosen and the rejected answer under the
//! policy, summed over tokens; `r_w`, `r_l` are the same under the reference; `|y|` is the number of tokens,
//! including the end token; `m = (s_w - r_w) - (s_l - r_l)` is the margin. Names and defaults follow TRL if
//! TRL has the loss.

#[macro_use]
mod options;

mod absolute_gain;
mod alpha_dpo;
mod alphapo;
mod aot;
mod aot_unpaired;
mod apo_down;
mod apo_zero;
mod apo_zero_unpaired;
mod bco;
mod bco_pair;
mod bdpo;
mod beta_dpo;
mod cal_dpo;
mod cpo;
mod discopop;
mod dpo;
mod dpo_shift;
mod dpop;
mod exo_pair;
mod f_divergence;
mod finite_target;
mod hinge;
mod ipo;
mod kto;
mod margin_dpo;
mod mix;
mod nca_pair;
mod odpo;
mod orpo;
mod paired;
mod r_dpo;
mod robust;
mod rpo;
mod running;
mod sft;
mod sigmoid_norm;
mod simpo;
mod sppo_hard;
#[cfg(test)]
mod testing;
mod tpo;
mod unpaired;

pub use absolute_gain::{AbsoluteGain, Shape};
pub use alpha_dpo::AlphaDpo;
pub use alphapo::AlphaPo;
pub use aot::Aot;
pub use aot_unpaired::AotUnpaired;
pub use apo_down::ApoDown;
pub use apo_zero::ApoZero;
pub use apo_zero_unpaired::ApoZeroUnpaired;
pub use bco::Bco;
pub use bco_pair::BcoPair;
pub use bdpo::Bdpo;
pub use beta_dpo::BetaDpo;
pub use cal_dpo::CalDpo;
pub use cpo::{Cpo, CpoLoss};
pub use discopop::Discopop;
pub use dpo::Dpo;
pub use dpo_shift::DpoShift;
pub use dpop::Dpop;
pub use exo_pair::ExoPair;
pub use f_divergence::FDivergence;
pub use finite_target::FiniteTarget;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use kto::Kto;
pub use margin_dpo::MarginDpo;
pub use mix::{Component, Mix, WeightSchedule};
pub use nca_pair::NcaPair;
pub use odpo::{Growth, Odpo};
pub use orpo::Orpo;
pub use r_dpo::RDpo;
pub use robust::Robust;
pub use rpo::Rpo;
pub use sft::Sft;
pub use sigmoid_norm::SigmoidNorm;
pub use simpo::SimPo;
pub use sppo_hard::SppoHard;
pub use tpo::{Tpo, TpoLoss};
