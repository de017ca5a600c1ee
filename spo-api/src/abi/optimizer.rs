//! Optimizers across the plugin ABI. The optimizer belongs to the plugin, the vector space to the program.

use std::ffi::c_void;

use super::handle::Handle;
use super::layout::table;
use super::lent::Lent;
use super::plugin::{self, Crossing};
use super::status::{ErrorSink, answers};
use super::text::{ByteSink, from_json, to_json};
use super::vectors::{self, RemoteSpace, SpaceView, VectorTable};
use crate::{Error, Kernel, Optimizer, Result, Update, Vector, VectorSpace};

/// See [`Update`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// Learning rate.
    pub lr: f64,
    /// Factor by which the gradient is multiplied.
    pub gradient_scale: f64,
    /// Number of this update, from 1.
    pub count: u64,
}

impl UpdateView {
    pub(super) fn of(update: &Update) -> Self {
        let Update { lr, gradient_scale, count } = *update;
        UpdateView { size: size_of::<UpdateView>() as u32, lr, gradient_scale, count }
    }

    pub(super) fn update(&self) -> Update {
        Update { lr: self.lr, gradient_scale: self.gradient_scale, count: self.count }
    }
}

table! {
    /// [`Optimizer`] as functions. `this` is what `create` made.
    part OptimizerTable, "table of optimizer functions";
    data {}
    required {
        /// The number of vectors it keeps between updates.
        states: fn(this: *mut c_void) -> usize;
        /// Performs one update of vector 0 from vector 1, which may be overwritten. `state` contains `states`
        /// vector handles.
        step: fn(
            this: *mut c_void,
            space: *const SpaceView,
            state: *const u32,
            update: *const UpdateView,
            error: *const ErrorSink
        ) -> i32;
    }
    optional {
        /// Writes the name and hyper-parameters of the optimizer, for sessions that have a kernel for it, as
        /// the JSON of a [`Kernel`].
        kernel: fn(this: *mut c_void, out: *const ByteSink);
        /// 1 if the optimizer can only be run by such a kernel, else 0.
        needs_kernel: fn(this: *mut c_void) -> u32;
    }
}

impl Crossing for dyn Optimizer {
    const NUMBER: u32 = 4;
    const TABLE: &'static OptimizerTable = &OptimizerTable {
        size: size_of::<OptimizerTable>() as u32,
        create: plugin::create::<Self>,
        destroy: plugin::destroy::<Self>,
        states,
        step,
        kernel: Some(kernel),
        needs_kernel: Some(needs_kernel),
    };
    type Table = OptimizerTable;

    fn import(part: Handle<OptimizerTable>) -> Result<Box<Self>> {
        // SAFETY: by the contract of the table.
        let (states, needs_kernel) = part.ask(|t, this| unsafe {
            ((t.states)(this), t.needs_kernel.is_some_and(|function| function(this) != 0))
        });
        let text = ByteSink::collect(|out| {
            // SAFETY: as above.
            part.ask(|t, this| t.kernel.map(|function| unsafe { function(this, out) }));
        });
        let kernel = if text.is_empty() { None } else { from_json("its kernel", &text)? };
        Ok(Box::new(ImportedOptimizer { part, states, kernel, needs_kernel }))
    }
}

// Export: the plugin's side.

unsafe extern "C-unwind" fn states(this: *mut c_void) -> usize {
    // SAFETY: by the contract of the table, here and below.
    unsafe { plugin::part::<dyn Optimizer>(this).states() }
}

unsafe extern "C-unwind" fn kernel(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &to_json(&plugin::part::<dyn Optimizer>(this).kernel())) }
}

unsafe extern "C-unwind" fn needs_kernel(this: *mut c_void) -> u32 {
    // SAFETY: as above.
    unsafe { plugin::part::<dyn Optimizer>(this).needs_kernel().into() }
}

answers! { Box<dyn Optimizer>:
    fn step(optimizer, space: *const SpaceView, state: *const u32, update: *const UpdateView) {
        let state: Vec<_> = (0..optimizer.states()).map(|i| Vector(*state.add(i))).collect();
        let space = RemoteSpace::new((*space).table, (*space).owner, None);
        let mut space = space.map_err(|e| Error::Engine(format!("the space cannot be used: {e}")))?;
        optimizer.step(&mut space, &state, &(*update).update())
    }
}

// Import: the program's side.

static VECTORS: VectorTable = vectors::export::<Lent<'static, dyn VectorSpace>>();

/// An optimizer on the other side, with what it reported when it was created.
struct ImportedOptimizer {
    part: Handle<OptimizerTable>,
    states: usize,
    kernel: Option<Kernel>,
    needs_kernel: bool,
}

impl Optimizer for ImportedOptimizer {
    fn kernel(&self) -> Option<Kernel> {
        self.kernel.clone()
    }

    fn needs_kernel(&self) -> bool {
        self.needs_kernel
    }

    fn states(&self) -> usize {
        self.states
    }

    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()> {
        let at = self.part.at();
        if state.len() != self.states {
            let words = format!("{at} keeps {} vectors, and was given {}", self.states, state.len());
            return Err(Error::Engine(words));
        }
        let state: Vec<u32> = state.iter().map(|v| v.0).collect();
        let mut lent = Lent::to(at, space);
        let view = SpaceView { table: &VECTORS, owner: lent.context() };
        let update = UpdateView::of(update);
        // SAFETY: by the contract of the table; borrowed arguments outlive the call.
        let stepped =
            self.part.call(|t, this, error| unsafe { (t.step)(this, &view, state.as_ptr(), &update, error) });
        lent.settle(stepped)
    }
}
