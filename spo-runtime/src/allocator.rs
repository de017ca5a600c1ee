//! The allocator of the program.
//!
//! Every training step allocates and frees the same large buffers. Memory that is returned to the system in
//! between has to be mapped again page by page, each zeroed by the kernel, which takes a quarter of a step's
//! time. So freed memory is kept until the program ends.
#![allow(unsafe_code)]

use libmimalloc_sys::mi_option_set;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay`, which the bindings do not define: milliseconds before free memory is returned to
/// the system, or -1 for never.
const PURGE_DELAY: i32 = 15;

/// Keeps freed memory from now on. `MIMALLOC_PURGE_DELAY` in the environment takes precedence.
pub fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: sets a number that the allocator reads whenever it frees; any value is valid.
        unsafe { mi_option_set(PURGE_DELAY, -1) }
    }
}
