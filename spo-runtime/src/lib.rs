//! Recipes, training loop and the spo-run command.
#![forbid(unsafe_code)]

pub mod document;
pub mod error;
pub mod recipe;
