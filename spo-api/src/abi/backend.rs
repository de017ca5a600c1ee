//! Backends across the plugin ABI.

use std::ffi::c_void;

use super::handle::Handle;
use super::layout::{TableError, read, table};
use super::plugin::{self, Crossing};
use super::session::{self, ImportedSession, SessionTable};
use super::status::{ErrorSink, answers};
use super::text::{Text, from_json};
use crate::{Backend, Error, ModelSpec, Result, Session};

table! {
    /// [`Backend`] as functions. `this` is what `create` made; sessions may outlive it.
    part BackendTable, "table of backend functions";
    data {
        /// The function table of its sessions.
        session: *const SessionTable;
    }
    required {
        /// Opens a model; `spec` is a [`ModelSpec`] as JSON.
        open: fn(this: *mut c_void, spec: Text, session: *mut *mut c_void, error: *const ErrorSink) -> i32;
    }
    optional {}
}

impl Crossing for dyn Backend {
    const NUMBER: u32 = 3;
    const TABLE: &'static BackendTable = &BackendTable {
        size: size_of::<BackendTable>() as u32,
        session: &session::TABLE,
        create: plugin::create::<Self>,
        destroy: plugin::destroy::<Self>,
        open,
    };
    type Table = BackendTable;

    unsafe fn check(table: &BackendTable) -> Result<(), TableError> {
        // SAFETY: guaranteed by the caller.
        unsafe { session::check(table.session) }
    }

    fn import(part: Handle<BackendTable>) -> Result<Box<Self>> {
        Ok(Box::new(part))
    }
}

answers! { Box<dyn Backend>:
    fn open(backend, spec: Text, out: *mut *mut c_void) {
        let spec: ModelSpec = from_json("the model's specification", spec.bytes())?;
        *out = Box::into_raw(Box::new(backend.open(&spec)?)).cast();
        Ok(())
    }
}

impl Backend for Handle<BackendTable> {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let spec = serde_json::to_string(spec).map_err(|e| Error::Model(format!("the model's path: {e}")))?;
        let mut this = std::ptr::null_mut();
        // SAFETY: by the contract of the table.
        self.call(|t, backend, error| unsafe { (t.open)(backend, Text::of(&spec), &mut this, error) })?;
        // SAFETY: the session belongs to this table, which was checked on import.
        let opened = unsafe { read(self.table().session) }
            .and_then(|table| unsafe { ImportedSession::new(table, this, self.at()) });
        Ok(Box::new(opened.map_err(|e| Error::Engine(format!("{}: {e}", self.at())))?))
    }
}
