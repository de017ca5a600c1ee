//! The tabular backend: models small enough to enumerate.
//!
//! These models have a handful of parameters and a vocabulary of a handful of tokens, and compute in f64 on
//! one thread. The probability of every possible answer can be computed, so one can see exactly where
//! training moves it. Gradients are exact to rounding error, so a bilevel step can be compared with what it
//! approximates. A run takes almost no time, so this backend is used to test everything that does not need a
//! transformer.
//!
//! A model reads the last `order` tokens (its *window*) and predicts the logits of the next token. The kinds
//! of model differ in what windows share. Sharing is what lets a preference on one prompt change the answers
//! to another:
//!
//! - `table`: nothing. Every window has its own row of logits.
//! - `linear`: each position of the window adds a row of its own table. SFT on this model is convex.
//! - `mlp`: embeddings and one hidden layer (Bengio et al. 2003).
#![forbid(unsafe_code)]

mod backend;
mod config;
mod model;
mod session;
mod storage;
#[cfg(test)]
mod tests;
mod windows;

pub use backend::Tabular;
