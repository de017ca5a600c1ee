//! Recipes, the training loop and the `spo-run` command.
//!
//! The rooms of this crate stand on one another, and no import runs upwards:
//!
//! | room | what is there |
//! |---|---|
//! | `commands` | one file per command of the command line |
//! | `sweep` | many runs of one recipe |
//! | `train` | a run, its stages, their steps; evaluation, diagnostics, checkpoints |
//! | `plan` | from a recipe to everything a run needs, checked before training |
//! | `store` | files that are whole or not there; they know nothing of training |
//! | `recipe` | what a TOML file may say, and the parts it names |
//! | `error`, `stop`, `reporter` | how a command fails, stops and speaks |
//!
//! A run goes down and up again: `recipe::document` reads the TOML, `recipe` says what it may say,
//! `recipe::compose` builds the objectives and steps it names, `plan` loads and checks everything, `train::run`
//! trains. In a step, `train::step::rows` turns rows into what a session scores and what an objective sees, and
//! `train::step::problem` puts the two together as the bilevel problem that a step solves.
#![forbid(unsafe_code)]

mod commands;
mod error;
mod plan;
mod recipe;
mod reporter;
mod stop;
mod store;
mod sweep;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tidy;
mod train;

pub use commands::main;
