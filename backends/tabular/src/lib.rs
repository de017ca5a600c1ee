//! The tabular backend: an enumerable world.
//!
//! Models with a handful of parameters over a handful of tokens, in f64, on one thread. The probability of
//! every answer there is can be written down, so one can see exactly where training moves it; gradients
//! are exact to the last digits, so a bilevel step can be held against what it approximates; and a run
//! takes no time, so it is the test bed of everything that does not need a transformer.
//!
//! A model reads the last `order` tokens (its *window*) and gives the logits of the next. The kinds differ in
//! what windows share, and sharing is what lets a preference on one prompt move the answers to another:
//!
//! - `table`: nothing. Every window has a row of logits of its own.
//! - `linear`: each position of the window adds a row of its own table. SFT on it is convex.
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
