//! A part on the other side of the plugin ABI.

use std::ffi::c_void;

use serde_json::Value;

use super::layout::Table;
use super::status::{ErrorSink, call};
use super::text::{ByteSink, Text};
use super::watch::{self, At, fence};
use crate::{Error, Result};

/// `create` of a kind: creates a part from its configuration, as JSON. `context` is the context of the entry.
pub type Create = unsafe extern "C-unwind" fn(
    context: *const c_void,
    config: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32;

/// Frees an object.
pub(super) type Destroy = unsafe extern "C-unwind" fn(this: *mut c_void);

/// Returns the state of a part; `None` for parts without state.
type ReadState = Option<unsafe extern "C-unwind" fn(this: *mut c_void, out: *const ByteSink)>;

/// Restores the state of a part.
type WriteState =
    Option<unsafe extern "C-unwind" fn(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32>;

/// The function table of a kind of part.
pub(super) trait PartTable: Table + Send + Sync + 'static {
    fn create(&self) -> Create;
    fn destroy(&self) -> Destroy;
}

/// An object on the other side, with its function table. Dropping the handle destroys the object.
pub(super) struct Handle<T> {
    table: T,
    this: *mut c_void,
    destroy: Destroy,
    at: &'static At,
}

// SAFETY: by the contract of the tables, objects may move between threads.
unsafe impl<T> Send for Handle<T> {}

impl<T: Table> Handle<T> {
    /// # Safety
    /// The functions of the table and `destroy` may be called with `this` for as long as the result lives.
    pub(super) unsafe fn new(table: T, this: *mut c_void, destroy: Destroy, at: &'static At) -> Self {
        Handle { table, this, destroy, at }
    }

    /// Creates a part.
    ///
    /// # Safety
    /// The table and the context belong to the same entry and follow the contract.
    pub(super) unsafe fn create(
        table: T,
        context: *const c_void,
        config: &Value,
        at: &'static At,
    ) -> Result<Self>
    where
        T: PartTable,
    {
        let config = config.to_string();
        let mut this = std::ptr::null_mut();
        let _inside = watch::enter(Some(at));
        // SAFETY: guaranteed by the caller.
        call(at, |error| unsafe { table.create()(context, Text::of(&config), &mut this, error) })?;
        Ok(Handle { table, this, destroy: table.destroy(), at })
    }

    pub(super) fn table(&self) -> &T {
        &self.table
    }

    /// The part, for messages.
    pub(super) fn at(&self) -> &'static At {
        self.at
    }

    /// Calls a function of the table that may fail.
    pub(super) fn call(&self, function: impl FnOnce(&T, *mut c_void, *const ErrorSink) -> i32) -> Result<()> {
        let _inside = watch::enter(Some(self.at));
        call(self.at, |error| function(&self.table, self.this, error))
    }

    /// Calls a function of the table that cannot fail.
    pub(super) fn ask<R>(&self, function: impl FnOnce(&T, *mut c_void) -> R) -> R {
        let _inside = watch::enter(Some(self.at));
        fence(|| function(&self.table, self.this))
    }

    /// The state of the part.
    pub(super) fn state(&self, function: ReadState) -> Vec<u8> {
        let Some(function) = function else { return Vec::new() };
        // SAFETY: the function belongs to the table that created the part. The same applies below.
        ByteSink::collect(|sink| self.ask(|_, this| unsafe { function(this, sink) }))
    }

    /// Restores what [`state`](Self::state) returned.
    pub(super) fn restore(&self, function: WriteState, state: &[u8]) -> Result<()> {
        match function {
            // SAFETY: as above.
            Some(function) => {
                // SAFETY: by the contract of the table; the state is valid for the call.
                self.call(|_, this, error| unsafe { function(this, Text::bytes_of(state), error) })
            }
            None if state.is_empty() => Ok(()),
            None => Err(Error::Batch(format!("{} keeps no state, got {} bytes", self.at, state.len()))),
        }
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        let _inside = watch::enter(Some(self.at));
        // SAFETY: `this` was created by `create` or `open` and is not used again.
        fence(|| unsafe { (self.destroy)(self.this) });
    }
}
