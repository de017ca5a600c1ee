//! Files that are written atomically. This module is independent of training.

pub(crate) mod bundle;
pub(crate) mod cache;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod lines;
pub(crate) mod logs;
pub(crate) mod output;
pub(crate) mod ownership;
pub(crate) mod scores;
pub(crate) mod trust;
pub(crate) mod write;

/// The longest log, state or file of scores that is read, in MiB.
pub(crate) const LARGE: u64 = 4096;
