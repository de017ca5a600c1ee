//! Learning-rate schedules across the plugin ABI.

use std::ffi::c_void;

use super::handle::Handle;
use super::layout::table;
use super::plugin::{self, Crossing};
use crate::{Result, Schedule, Span};

table! {
    /// [`Schedule`] as functions. `this` is what `create` made.
    part ScheduleTable, "table of schedule functions";
    data {}
    required {
        /// The learning rate after `step` completed steps, as a fraction of its peak. `warmup` and `total`
        /// are in steps, and `step >= warmup`.
        factor: fn(this: *mut c_void, step: u64, warmup: u64, total: u64) -> f64;
    }
    optional {}
}

impl Crossing for dyn Schedule {
    const NUMBER: u32 = 5;
    const TABLE: &'static ScheduleTable = &ScheduleTable {
        size: size_of::<ScheduleTable>() as u32,
        create: plugin::create::<Self>,
        destroy: plugin::destroy::<Self>,
        factor,
    };
    type Table = ScheduleTable;

    fn import(part: Handle<ScheduleTable>) -> Result<Box<Self>> {
        Ok(Box::new(part))
    }
}

unsafe extern "C-unwind" fn factor(this: *mut c_void, step: u64, warmup: u64, total: u64) -> f64 {
    let span = Span { warmup: warmup as usize, total: total as usize };
    // SAFETY: by the contract of the table.
    unsafe { plugin::part::<dyn Schedule>(this).factor(step as usize, span) }
}

impl Schedule for Handle<ScheduleTable> {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let Span { warmup, total } = span;
        // SAFETY: by the contract of the table.
        self.ask(|t, this| unsafe { (t.factor)(this, step as u64, warmup as u64, total as u64) })
    }
}
