//! Bilevel steps against closed forms, on a problem of a few parameters.

use spo_objectives as _;
use test_support::world;

mod border;
mod budget;
mod closed_form;
mod config;
mod contract;
mod properties;
