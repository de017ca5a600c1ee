//! Built-in objectives, bilevel steps, optimizers and schedules, one file each.
//!
//! The parts register themselves. A program that uses them must refer to the crate once:
//! `use spo_objectives as _;`.
#![forbid(unsafe_code)]

pub mod losses;
mod number_or;
pub mod optimizers;
pub mod schedules;
mod share_or_steps;
pub mod steps;

pub use number_or::NumberOr;
pub use share_or_steps::{Length, ShareOrSteps};
