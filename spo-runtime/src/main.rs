//! The `spo-run` command.
fn main() {}
