//! Recipes, the training loop and the `spo-run` command.
//!
//! The modules of this crate form layers. A module imports only from its own layer and those below:
//!
//! | module | contents |
//! |---|---|
//! | `commands` | one file per command |
//! | `sweep` | many runs of one recipe |
//! | `train` | a run, its stages and their steps; evaluation, diagnostics, checkpoints |
//! | `plan` | turns a recipe into everything a run needs, and checks it before training |
//! | `store` | files that are written atomically; independent of training |
//! | `recipe` | the recipe's format, and the parts it names |
//! | `error`, `stop`, `reporter`, `shell` | errors and exit codes, signals, output to the user |
//!
//! A run passes through these layers in order: `recipe::document` reads the TOML, `recipe` defines its keys,
//! `recipe::compose` builds the objectives and steps it names, `plan` loads and checks everything, and
//! `train::run` trains. Within a step, `train::step::rows` turns rows into token batches for the session and
//! log-prob batches for the objective, and `train::step::problem` combines the two into the bilevel problem
//! that a step solves.
#![forbid(unsafe_code)]

mod commands;
mod error;
mod hub;
mod plan;
mod recipe;
mod reporter;
mod shell;
mod stop;
mod store;
mod sweep;
mod terminal;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tidy;
mod train;

pub use commands::main;
