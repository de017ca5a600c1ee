//! A backend across the border.

use std::ffi::c_void;

use super::layout::{Table, TableError, read, required};
use super::plugin::{self, Create, Exported};
use super::session::{self, SessionTable};
use super::status::{ErrorSink, answer, call};
use super::text::{Text, from_json};
use super::watch::{self, At, fence};
use serde_json::Value;

use crate::{Backend, Build, ConfigError, Entry, Error, ModelSpec, Result, Session};

/// [`Backend`] as functions. `this` is what `create` made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BackendTable {
    /// Bytes of this table.
    pub size: u32,
    /// Makes a backend from `backend.options` of the recipe, as JSON. `context` is that of the entry.
    pub create: Option<Create>,
    /// Frees it. Its sessions live on.
    pub destroy: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Opens a model; `spec` is a [`ModelSpec`] as JSON.
    pub open: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            spec: Text,
            session: *mut *mut c_void,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// The functions of its sessions.
    pub session: *const SessionTable,
}

// SAFETY: repr(C), begins with its size, absent functions and pointers are null.
unsafe impl Table for BackendTable {
    const NAME: &'static str = "table of backend functions";
    const REQUIRED: usize = size_of::<Self>();
}

// SAFETY: by the contract a table, and the one it points to, is immutable and read by any thread.
unsafe impl Send for BackendTable {}
// SAFETY: as above.
unsafe impl Sync for BackendTable {}

// The plugin's end.

/// The table of every backend written in Rust; `create` finds the entry behind its context.
pub(super) static TABLE: BackendTable = BackendTable {
    size: size_of::<BackendTable>() as u32,
    create: Some(plugin::create::<dyn Backend>),
    destroy: Some(plugin::destroy::<dyn Backend>),
    open: Some(open),
    session: &session::TABLE,
};

impl Exported for dyn Backend {
    fn build(entry: &Entry, config: &Value) -> Result<Box<Self>, ConfigError> {
        match entry.build {
            Build::Backend(build) => build(config),
            _ => unreachable!("the table of a kind stands in entries of that kind"),
        }
    }
}

unsafe extern "C-unwind" fn open(
    this: *mut c_void,
    spec: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: by the contract of the table.
    unsafe {
        answer(error, || {
            let spec: ModelSpec = from_json("the model's specification", spec.bytes())?;
            let opened: Box<dyn Session> = (*this.cast::<Box<dyn Backend>>()).open(&spec)?;
            *out = Box::into_raw(Box::new(opened)).cast();
            Ok(())
        })
    }
}

// The program's end.

/// A backend on the other side.
struct Imported {
    table: BackendTable,
    session: SessionTable,
    this: *mut c_void,
    at: &'static At,
}

// SAFETY: the contract of the table lets a part move between threads.
unsafe impl Send for Imported {}

/// Makes a backend by a table.
///
/// # Safety
/// The table and the context are those of one entry, and obey the contract.
pub(super) unsafe fn import(
    table: &BackendTable,
    context: *const c_void,
    at: &'static At,
    config: &Value,
) -> Result<Box<dyn Backend>> {
    // SAFETY: the caller's.
    unsafe {
        let this = plugin::make(table.create.expect("checked on import"), context, at, config)?;
        let session = read(table.session).expect("checked on import");
        Ok(Box::new(Imported { table: *table, session, this, at }))
    }
}

/// Makes sure of a table before anything is called.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn check(table: *const BackendTable) -> Result<BackendTable, TableError> {
    // SAFETY: the caller's.
    unsafe {
        let table = read(table)?;
        required!(table, BackendTable, create, destroy, open);
        session::check(table.session)?;
        Ok(table)
    }
}

impl Backend for Imported {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let spec = serde_json::to_string(spec).map_err(|e| Error::Model(format!("the model's path: {e}")))?;
        let mut this = std::ptr::null_mut();
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table, here and below.
        call(self.at, |error| unsafe {
            self.table.open.expect("checked on import")(self.this, Text::of(&spec), &mut this, error)
        })?;
        // SAFETY: as above; the table was checked on import.
        let opened = unsafe { session::Imported::new(self.session, this, self.at)? };
        Ok(Box::new(opened))
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: made by `create`, not used again.
        fence(|| unsafe { self.table.destroy.expect("checked on import")(self.this) });
    }
}
