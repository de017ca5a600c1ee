//! The border that parts cross when they are loaded at run time instead of linked.
//!
//! Plain C: `#[repr(C)]` tables of functions, each beginning with its own size, and no Rust type on the
//! other side. So a plugin may be built by another compiler, against other versions of the dependencies,
//! or in another language; `docs/plugin-abi.md` tells a C programmer all of it and `include/spo.h` is the
//! header. Authors in Rust see none of this: they implement the traits of this crate, call
//! [`register!`](crate::register) and say [`export_plugins!`](crate::export_plugins).
//!
//! Each module holds one kind of part, and both ends of the border: what a plugin *exports* (a trait object
//! behind a table) and what a program *imports* (a table behind a trait). What was exported and imported
//! again behaves as before, to the last bit; tests hold every built-in part to that.
//!
//! # Rules
//! - Who makes memory frees it. Results go into buffers of the caller, or through a [`ByteSink`] or
//!   another callback of the caller, which copies.
//! - Text is UTF-8 with a length, configurations and other structured things are JSON.
//! - A function that can fail returns a [`Status`] and describes the failure to the caller's
//!   [`ErrorSink`].
//! - Nothing unwinds across the border: panics are caught on the side where they arise.
//! - Tables are immutable and may be read from any thread. A part may move between threads; no two use it
//!   at once.
//! - Tables grow at their end only. A reader takes the fields that the size covers; the rest are absent.
//! - A library is never unloaded.

mod backend;
mod handle;
mod layout;
mod lent;
mod objective;
mod optimizer;
mod plugin;
mod schedule;
mod session;
mod status;
mod step;
mod text;
mod tokens;
mod vectors;
mod watch;

pub use backend::BackendTable;
pub use handle::Create;
pub use layout::{Table, TableError};
pub use objective::{
    BatchView, ColumnView, EvaluationView, ObjectiveTable, RaggedView, RequirementsView, SideView,
};
pub use optimizer::{OptimizerTable, UpdateView};
pub use plugin::{ABI_VERSION, EntryTable, ExportedBy, LoadedPlugin, PluginTable, SYMBOL, import, through};
pub use schedule::ScheduleTable;
pub use session::{LogProbsView, SessionTable, ShowSink};
pub use status::{ErrorSink, Status};
pub use step::{LossesView, NeedsView, ProblemTable, ReportView, StepTable, WeighView};
pub use text::{ByteSink, Text};
pub use tokens::TokensView;
pub use vectors::{SpaceView, VectorTable};
pub use watch::{At, Here, current};

/// `spo.h`: this border for C.
pub const HEADER: &str = include_str!("../include/spo.h");
