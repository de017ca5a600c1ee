//! Readers that yield a file's records one by one.
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod parquet;
pub(crate) mod recognize;
