//! Built-in objectives and bilevel steps, one file each.
//!
//! The parts register themselves; a program that wants them must name the crate once:
//! `use spo_objectives as _;`.
#![forbid(unsafe_code)]

pub mod losses;
pub mod steps;
