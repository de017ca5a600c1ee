//! The `spo-run` command.
#![deny(unsafe_code)]

mod allocator;

// Linking a crate registers its parts.
use spo_backend_candle as _;
use spo_backend_tabular as _;
use spo_objectives as _;

fn main() -> std::process::ExitCode {
    allocator::keep_freed_memory();
    spo_runtime::main()
}
