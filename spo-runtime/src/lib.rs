//! Recipes, training loop and the `spo-run` command.
//!
//! The way of a run: [`document`] reads the TOML, [`recipe`] says what it may say, [`compose`] finds the
//! objectives and steps it names, [`plan`] loads and checks everything, [`run`] trains. In a step,
//! [`rows`] turns rows into what a session scores and what an objective sees, [`problem`] puts the two
//! together as the bilevel problem that a step solves.
#![forbid(unsafe_code)]

pub mod check;
pub mod compose;
pub mod describe;
pub mod diagnostics;
pub mod document;
pub mod error;
pub mod evaluate;
pub mod lines;
pub mod loss;
pub mod model;
pub mod observation;
pub mod output;
pub mod plan;
pub mod problem;
pub mod recipe;
pub mod reference;
pub mod reporter;
pub mod rows;
pub mod run;
pub mod schedule;
pub mod summary;
