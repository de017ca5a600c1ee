//! Shared by the tests of several crates. A test that cannot run on a machine calls [`skip`].
#![forbid(unsafe_code)]

#[cfg(feature = "trl")]
pub mod adapters;
#[cfg(feature = "trl")]
pub mod architectures;
pub mod fuzz;
mod goldens;
pub mod hub;
mod place;
#[cfg(feature = "trl")]
pub mod routers;
mod skip;
#[cfg(feature = "trl")]
pub mod trl;
pub mod valgrind;
#[cfg(feature = "world")]
pub mod world;

pub use goldens::{close, golden, shared};
pub use place::{Outcome, Place};
pub use skip::{SKIPPED, skip};
