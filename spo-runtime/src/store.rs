//! Files that are whole or not there. They know nothing of training.

pub(crate) mod bundle;
pub(crate) mod cache;
pub(crate) mod key;
pub(crate) mod lines;
pub(crate) mod logs;
pub(crate) mod output;
pub(crate) mod scores;
pub(crate) mod write;
