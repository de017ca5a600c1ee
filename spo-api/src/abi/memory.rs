//! What a loaded objective or step remembers: the program's end of their functions for it.

use std::ffi::c_void;

use super::status::{ErrorSink, call};
use super::text::{ByteSink, Text};
use super::watch::{self, At, fence};
use crate::{Error, Result};

/// Hands out what a part remembers; none where it remembers nothing.
type Read = Option<unsafe extern "C-unwind" fn(this: *mut c_void, out: *const ByteSink)>;

/// Makes it remember that again.
type Write =
    Option<unsafe extern "C-unwind" fn(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32>;

/// What a part remembers.
///
/// # Safety
/// The function is of the table that made `this`.
pub(super) unsafe fn read(this: *mut c_void, function: Read, at: &'static At) -> Vec<u8> {
    let Some(function) = function else { return Vec::new() };
    let _inside = watch::enter(at);
    // SAFETY: the caller's.
    ByteSink::collect(|sink| fence(|| unsafe { function(this, sink) }))
}

/// Makes a part remember what [`read`] told.
///
/// # Errors
/// When it is not its own.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn write(this: *mut c_void, function: Write, state: &[u8], at: &'static At) -> Result<()> {
    let Some(function) = function else {
        return match state {
            [] => Ok(()),
            state => Err(Error::Batch(format!("{at} keeps no state, got {} bytes", state.len()))),
        };
    };
    let _inside = watch::enter(at);
    let state = Text { bytes: state.as_ptr(), length: state.len() };
    // SAFETY: the caller's.
    call(at, |error| unsafe { function(this, state, error) })
}
