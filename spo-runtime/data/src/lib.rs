//! Preference data: from files to token ids in batches.
//!
//! A [`Source`] is one or several files of rows: pairs, demonstrations, or single labelled answers, each as plain text or
//! as a conversation. A [`Tokenizer`] holds the text-related files of a model folder. [`Dataset::load`]
//! reads the rows, renders conversations with the model's chat template, tokenizes, truncates to the
//! window, and reports what it changed or dropped. Errors name the file, the line, and the nearest valid
//! choice.
//!
//! ```no_run
//! use spo_api::Layout;
//! use spo_data::{Dataset, Fit, Source, Tokenizer, epoch_order};
//!
//! # fn main() -> spo_data::Result<()> {
//! let tokenizer = Tokenizer::open("models/SmolLM2-135M".as_ref())?;
//! let train = [Source::new("data/train.jsonl")];
//! let data = Dataset::load(&train, Layout::Pairs, &tokenizer, &Fit::default())?;
//! println!("{}", data.report);
//! for batch in epoch_order(data.examples.len(), 0, 0).chunks(8) {
//!     let longest = batch.iter().map(|&i| data.examples[i].lengths.longest).max();
//! }
//! # Ok(()) }
//! ```
//!
//! Tokenization matches TRL token for token, so that runs can be compared. Deviations are reported as a
//! [`Finding`].
#![forbid(unsafe_code)]

mod batch;
mod choice;
mod clock;
mod columns;
mod dataset;
mod error;
mod files;
mod guard;
pub mod hash;
mod hub;
mod implicit;
mod interpret;
mod jinja;
mod mapping;
mod messages;
mod preset;
mod prompts;
mod random;
mod read;
mod report;
pub mod rouge;
mod row;
mod saved;
mod source;
mod special;
mod stem;
mod stored;
pub mod task;
mod template;
mod tokenize;
mod tokenizer;
mod tokens;
mod turns;
mod window;

pub use batch::{MicroBatch, epoch_order};
pub use choice::{LeftOut, Side, Split};
pub use clock::Moment;
pub use dataset::{Dataset, Example, Fit, Lengths};
pub use error::{At, DataError, Place, Result};
pub use mapping::Mapping;
pub use messages::message;
pub use prompts::{Form, Prompt, Question};
pub use report::{Finding, Found, Report};
pub use row::{Answers, Message, Row, Text};
pub use source::{Format, Source};
pub use special::SpecialTokens;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub use turns::TrainOn;
pub use window::Truncation;
