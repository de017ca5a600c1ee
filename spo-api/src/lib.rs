//! The traits and types that the parts of spo implement and exchange.
//!
//! Preference optimization is divided into three areas with narrow interfaces:
//!
//! - an [`Objective`] works on log-probs of answers, in nats, as `f64` slices;
//! - a [`Session`] of a [`Backend`] works on token batches and on parameters on a device;
//! - a [`BilevelStep`] works on vectors in parameter space.
//!
//! An objective receives *n* log-probs from a backend and returns *n* gradients. Nothing else passes
//! between the two. Therefore an objective compiles in seconds, is computed in full `f64` precision, runs
//! on every backend, and can be tested with finite differences.
//!
//! # What may change
//!
//! Sources of parts keep compiling while only the last number of this crate's version changes. In such a release a trait
//! may get a function that has a default, a struct or enum marked `#[non_exhaustive]` a field or a variant, and new
//! items may appear; so structs that parts build are made by functions (`Requirements::of(Layout::Pairs)`). All else,
//! a field of another struct too, waits for a release that changes an earlier number. Libraries that were built stay
//! loadable while [`abi::ABI_VERSION`] stays.
//!
//! # A new loss in ten lines
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use spo_api::{Pair, PairLoss, Part, Scalar, register};
//!
//! /// Squared hinge on the margin: `max(0, 1 - beta * margin)^2`.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct SquaredHinge {
//!     /// Inverse temperature, per nat.
//!     #[schemars(extend("exclusiveMinimum" = 0))]
//!     beta: f64,
//! }
//!
//! impl Part for SquaredHinge {}
//!
//! impl PairLoss for SquaredHinge {
//!     fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
//!         let slack = (S::from(1.0) - pair.margin() * self.beta).relu();
//!         slack * slack
//!     }
//! }
//!
//! register!(objective SquaredHinge {
//!     name: "squared-hinge",
//!     summary: "hinge, squared",
//!     source: "this example",
//! });
//! # fn main() {}
//! ```
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "the one place where Rust's types end")]
pub mod abi;
mod adapter;
mod backend;
mod batch;
mod bilevel;
mod config;
mod error;
mod files;
pub mod machine;
mod memory_space;
mod objective;
mod optimizer;
mod pair;
mod registry;
mod sampling;
mod scalar;
mod schedule;
mod vector;

pub use adapter::{Adapter, Lora, Targets};
pub use backend::{
    Backend, Export, Group, LogProbs, ModelInfo, ModelSource, ModelSpec, Quantize, Session, Statistics,
    Tangent, TokenBatch, Upstream, Watch, WeightType,
};
pub use batch::{Columns, Layout, PreferenceBatch, Ragged, Side, Totals};
pub use bilevel::{
    BilevelProblem, BilevelStep, Budget, LevelWeights, Losses, Passes, Progress, Regularizer, Rise, Ruling,
    StepNeeds, StepReport, Weigh,
};
pub use config::{ConfigError, ConfigErrorKind, Part, nearest, parse};
pub use error::{Error, Result};
pub use files::{open_regular, read_small, read_whole, read_within, write_whole};
pub use memory_space::MemorySpace;
pub use objective::{Column, Evaluation, EvaluationMut, Metrics, Objective, Requirements, Rewards};
pub use optimizer::{Kernel, Optimizer, Update};
pub use pair::{Answer, Pair, PairLoss, Reading};
pub use registry::{Build, Constructor, Entry, Kind, Library, Registry};
pub use sampling::Sampling;
pub use scalar::{Dual, Scalar};
pub use schedule::{Schedule, Span};
pub use vector::{Combine, Map, SpaceOwner, Vector, VectorSpace, with_scratch};

/// Items used by the expansion of [`register!`]; not for direct use.
#[doc(hidden)]
pub mod macro_support {
    pub use inventory::submit;
    pub use schemars::schema_for;
}
