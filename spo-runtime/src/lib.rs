//! Recipes, training loop and the `spo-run` command.
//!
//! The way of a run: [`document`] reads the TOML, [`recipe`] says what it may say, [`compose`] finds the
//! objectives and steps it names, [`plan`] loads and checks everything, [`run`] trains. In a step,
//! [`rows`] turns rows into what a session scores and what an objective sees, [`problem`] puts the two
//! together as the bilevel problem that a step solves.
#![forbid(unsafe_code)]

pub mod answers;
pub mod audit;
pub mod bundle;
pub mod cache;
pub mod cache_command;
pub mod check;
pub mod checkpoint;
pub mod compose;
mod curvature;
pub mod describe;
pub mod diagnostics;
pub mod document;
pub mod error;
pub mod evaluate;
pub mod hypergradient;
pub mod incident;
pub mod lines;
pub mod logs;
pub mod loss;
pub mod mass;
pub mod mass_report;
pub mod measured;
pub mod model;
pub mod observation;
pub mod output;
pub mod plan;
pub mod plugin_command;
pub mod plugins;
pub mod problem;
pub mod provenance;
pub mod recipe;
pub mod reference;
pub mod replay;
pub mod reporter;
pub mod resume;
pub mod rows;
pub mod run;
pub mod saved_run;
pub mod schedule;
pub mod scores_file;
pub mod start_check;
pub mod starts;
pub mod stop;
pub mod summary;
pub mod sweep;
pub mod tokens;
