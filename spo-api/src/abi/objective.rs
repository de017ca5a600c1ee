//! Objectives across the plugin ABI.

use std::ffi::c_void;

use super::handle::Handle;
use super::layout::{TableError, both_or_none, table};
use super::plugin::{self, Crossing};
use super::status::{ErrorSink, answers};
use super::text::{ByteSink, Text};
use crate::{
    Error, EvaluationMut, Layout, Metrics, Objective, PreferenceBatch, Ragged, Requirements, Result, Rewards,
    Side, Totals,
};

/// Rows of different lengths: row `i` is `values[offsets[i]..offsets[i + 1]]`. `offsets` is null if there is
/// no data.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RaggedView {
    /// The flat values, nats.
    pub values: *const f64,
    /// `rows + 1` offsets, increasing from 0.
    pub offsets: *const usize,
    /// Number of rows.
    pub rows: usize,
}

/// See [`Side`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SideView {
    /// Log-probs under the policy.
    pub policy: RaggedView,
    /// Log-probs under the reference, if the objective requires them.
    pub reference: RaggedView,
    /// The collision statistic, if the objective requires it.
    pub collision: RaggedView,
}

/// See [`PreferenceBatch`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BatchView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// 0 pairs, 1 unpaired, 2 demonstrations.
    pub layout: u32,
    /// Chosen answers.
    pub chosen: SideView,
    /// Rejected answers.
    pub rejected: SideView,
    /// Unpaired data: prompts with answers to other prompts. `policy.offsets` is null if there are none.
    pub mismatched: SideView,
    /// Pairs: one score gap per row, or null.
    pub gaps: *const f64,
    /// Rows of the whole optimizer batch; losses are divided by this.
    pub whole_rows: usize,
    /// Number of tokens in all chosen answers of the whole optimizer batch.
    pub whole_chosen_tokens: usize,
}

/// Where an objective writes its evaluation. The buffers have the size of the batch and are zeroed; see
/// [`EvaluationMut`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EvaluationView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// Set to 1 if the rewards were written.
    pub has_rewards: u32,
    /// One loss per row.
    pub losses: *mut f64,
    /// One number per policy log-prob of the chosen answers.
    pub grad_chosen: *mut f64,
    /// One number per policy log-prob of the rejected answers.
    pub grad_rejected: *mut f64,
    /// One number per chosen answer.
    pub rewards_chosen: *mut f64,
    /// One number per rejected answer.
    pub rewards_rejected: *mut f64,
    /// First argument of `metric`.
    pub context: *mut c_void,
    /// Reports an additional metric.
    pub metric: unsafe extern "C-unwind" fn(context: *mut c_void, name: Text, value: f64),
}

/// See [`Requirements`]; flags are 0 or 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RequirementsView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// 0 pairs, 1 unpaired, 2 demonstrations.
    pub data: u32,
    /// Reference log-probs.
    pub reference: u32,
    /// The collision statistic.
    pub collision: u32,
    /// Mismatched answers.
    pub mismatched: u32,
    /// Score gaps.
    pub gaps: u32,
    /// The whole optimizer batch at once.
    pub whole_batch: u32,
    /// The least number of rows. A program that was built before this field does not have it: see `size`.
    pub least_rows: u32,
}

table! {
    /// [`Objective`] as functions. `this` is what `create` made.
    part ObjectiveTable, "table of objective functions";
    data {}
    required {
        /// Reports the requirements. `out` is zeroed on entry.
        requirements: fn(this: *mut c_void, out: *mut RequirementsView, error: *const ErrorSink) -> i32;
        /// Computes losses and gradient.
        evaluate: fn(
            this: *mut c_void,
            batch: *const BatchView,
            out: *mut EvaluationView,
            error: *const ErrorSink
        ) -> i32;
    }
    optional {
        /// Called at the start of a training step.
        begin: fn(this: *mut c_void, steps_done: u64);
        /// Writes the state needed to resume a run.
        state: fn(this: *mut c_void, out: *const ByteSink);
        /// Restores the state written by `state`; both functions or neither.
        restore: fn(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32;
        /// Computes the losses of `batch` with the constants of the gradient held at `at`.
        evaluate_held: fn(
            this: *mut c_void,
            at: *const BatchView,
            batch: *const BatchView,
            out: *mut EvaluationView,
            error: *const ErrorSink
        ) -> i32;
    }
}

impl Crossing for dyn Objective {
    const NUMBER: u32 = 1;
    const TABLE: &'static ObjectiveTable = &ObjectiveTable {
        size: size_of::<ObjectiveTable>() as u32,
        create: plugin::create::<Self>,
        destroy: plugin::destroy::<Self>,
        requirements,
        evaluate,
        begin: Some(begin),
        state: Some(state),
        restore: Some(restore),
        evaluate_held: Some(evaluate_held),
    };
    type Table = ObjectiveTable;

    unsafe fn check(table: &ObjectiveTable) -> Result<(), TableError> {
        both_or_none::<ObjectiveTable>(["state", "restore"], [table.state.is_some(), table.restore.is_some()])
    }

    fn import(part: Handle<ObjectiveTable>) -> Result<Box<Self>> {
        let needs = ask_requirements(&part)?;
        Ok(Box::new(ImportedObjective { part, needs }))
    }
}

// Export: the plugin's side.

answers! { Box<dyn Objective>:
    fn requirements(objective, out: *mut RequirementsView) {
        let needs = objective.requirements();
        (*out).data = needs.data as u32;
        (*out).reference = needs.reference.into();
        (*out).collision = needs.collision.into();
        (*out).mismatched = needs.mismatched.into();
        (*out).gaps = needs.gaps.into();
        (*out).whole_batch = needs.whole_batch.into();
        if (*out).size as usize >= size_of::<RequirementsView>() {
            (*out).least_rows = needs.least_rows.try_into().unwrap_or(u32::MAX);
        }
        Ok(())
    }
    fn evaluate(objective, batch: *const BatchView, out: *mut EvaluationView) {
        let batch = (*batch).batch()?;
        (*out).fill(&batch, |out| objective.evaluate(&batch, out))
    }
    fn evaluate_held(objective, at: *const BatchView, batch: *const BatchView, out: *mut EvaluationView) {
        let (at, batch) = ((*at).batch()?, (*batch).batch()?);
        (*out).fill(&batch, |out| objective.evaluate_held(&at, &batch, out))
    }
    fn restore(objective, state: Text) { objective.restore(state.bytes()) }
}

unsafe extern "C-unwind" fn begin(this: *mut c_void, steps_done: u64) {
    // SAFETY: by the contract of the table.
    unsafe { plugin::part::<dyn Objective>(this).begin(steps_done as usize) }
}

unsafe extern "C-unwind" fn state(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: by the contract of the table.
    unsafe { ByteSink::put(out, &plugin::part::<dyn Objective>(this).state()) }
}

impl RaggedView {
    const NONE: RaggedView = RaggedView { values: std::ptr::null(), offsets: std::ptr::null(), rows: 0 };

    fn of(ragged: Ragged<'_>) -> Self {
        RaggedView {
            values: ragged.values().as_ptr(),
            offsets: ragged.offsets().as_ptr(),
            rows: ragged.rows(),
        }
    }

    /// # Safety
    /// The arrays have the lengths given by the offsets, and live for `'a`. The same applies below.
    unsafe fn get<'a>(self) -> Result<Option<Ragged<'a>>> {
        if self.offsets.is_null() {
            return Ok(None);
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            let offsets = std::slice::from_raw_parts(self.offsets, self.rows + 1);
            let values = std::slice::from_raw_parts(self.values, offsets[self.rows]);
            Ragged::new(values, offsets).map(Some)
        }
    }
}

impl SideView {
    const NONE: SideView =
        SideView { policy: RaggedView::NONE, reference: RaggedView::NONE, collision: RaggedView::NONE };

    fn of(side: &Side<'_>) -> Self {
        let view = |ragged: Option<Ragged<'_>>| ragged.map_or(RaggedView::NONE, RaggedView::of);
        SideView {
            policy: RaggedView::of(side.policy),
            reference: view(side.reference),
            collision: view(side.collision),
        }
    }

    unsafe fn get<'a>(self) -> Result<Option<Side<'a>>> {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let Some(policy) = self.policy.get()? else { return Ok(None) };
            Ok(Some(Side { policy, reference: self.reference.get()?, collision: self.collision.get()? }))
        }
    }
}

/// The layout with this number, the inverse of `layout as u32`.
fn layout(number: u32) -> Option<Layout> {
    [Layout::Pairs, Layout::Unpaired, Layout::Demonstrations].get(number as usize).copied()
}

impl BatchView {
    fn of(batch: &PreferenceBatch<'_>) -> Self {
        BatchView {
            size: size_of::<BatchView>() as u32,
            layout: batch.layout as u32,
            chosen: SideView::of(&batch.chosen),
            rejected: SideView::of(&batch.rejected),
            mismatched: batch.mismatched.as_ref().map_or(SideView::NONE, SideView::of),
            gaps: batch.gaps.map_or(std::ptr::null(), <[f64]>::as_ptr),
            whole_rows: batch.whole.rows,
            whole_chosen_tokens: batch.whole.chosen_tokens,
        }
    }

    unsafe fn batch<'a>(&self) -> Result<PreferenceBatch<'a>> {
        let missing = || Error::Batch("a batch came without log-probs".into());
        // SAFETY: guaranteed by the caller.
        unsafe {
            let mut batch = PreferenceBatch {
                layout: layout(self.layout).ok_or_else(|| {
                    Error::Batch(format!("a batch came with the unknown layout {}", self.layout))
                })?,
                chosen: self.chosen.get()?.ok_or_else(missing)?,
                rejected: self.rejected.get()?.ok_or_else(missing)?,
                mismatched: self.mismatched.get()?,
                gaps: None,
                whole: Totals { rows: self.whole_rows, chosen_tokens: self.whole_chosen_tokens },
            };
            if !self.gaps.is_null() {
                batch.gaps = Some(std::slice::from_raw_parts(self.gaps, batch.rows()));
            }
            Ok(batch)
        }
    }
}

impl EvaluationView {
    /// Lets an objective write directly into the caller's buffers.
    ///
    /// # Safety
    /// The buffers have the size of the batch.
    unsafe fn fill(
        &mut self,
        batch: &PreferenceBatch<'_>,
        evaluate: impl FnOnce(&mut EvaluationMut<'_>) -> Result<()>,
    ) -> Result<()> {
        let (chosen, rejected) = (&batch.chosen.policy, &batch.rejected.policy);
        let (mut rewards, mut metrics) = (SPARE.take(), Metrics::new());
        rewards.chosen.clear();
        rewards.rejected.clear();
        // SAFETY: guaranteed by the caller.
        let mut out = unsafe {
            EvaluationMut {
                losses: std::slice::from_raw_parts_mut(self.losses, batch.rows()),
                grad_chosen: std::slice::from_raw_parts_mut(self.grad_chosen, chosen.values().len()),
                grad_rejected: std::slice::from_raw_parts_mut(self.grad_rejected, rejected.values().len()),
                rewards: &mut rewards,
                metrics: &mut metrics,
            }
        };
        evaluate(&mut out)?;
        if !(rewards.chosen.is_empty() && rewards.rejected.is_empty()) {
            for (name, values, rows, buffer) in [
                ("chosen", &rewards.chosen, chosen.rows(), self.rewards_chosen),
                ("rejected", &rewards.rejected, rejected.rows(), self.rewards_rejected),
            ] {
                if values.len() != rows {
                    return Err(Error::Batch(format!(
                        "the objective gave {} rewards for {rows} {name} answers",
                        values.len()
                    )));
                }
                // SAFETY: the buffer has one element per answer.
                unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), buffer, rows) };
            }
            self.has_rewards = 1;
        }
        for (name, value) in &metrics {
            // SAFETY: by the contract of the table.
            unsafe { (self.metric)(self.context, Text::of(name), *value) };
        }
        SPARE.set(rewards);
        Ok(())
    }
}

thread_local! {
    /// Memory for rewards, reused from the previous evaluation. Only the objective knows how many rewards
    /// there will be.
    static SPARE: std::cell::Cell<Rewards> = std::cell::Cell::default();
}

// Import: the program's side.

/// An objective on the other side, with the requirements it reported when it was created.
struct ImportedObjective {
    part: Handle<ObjectiveTable>,
    needs: Requirements,
}

fn ask_requirements(part: &Handle<ObjectiveTable>) -> Result<Requirements> {
    // SAFETY: a struct of numbers may be all zeros.
    let mut out: RequirementsView = unsafe { std::mem::zeroed() };
    out.size = size_of::<RequirementsView>() as u32;
    // SAFETY: by the contract of the table.
    part.call(|t, this, error| unsafe { (t.requirements)(this, &mut out, error) })?;
    Ok(Requirements {
        data: layout(out.data).ok_or_else(|| {
            Error::Engine(format!("{} asks for data of the unknown kind {}", part.at(), out.data))
        })?,
        reference: out.reference != 0,
        collision: out.collision != 0,
        mismatched: out.mismatched != 0,
        gaps: out.gaps != 0,
        whole_batch: out.whole_batch != 0,
        least_rows: out.least_rows as usize,
    })
}

unsafe extern "C-unwind" fn metric(context: *mut c_void, name: Text, value: f64) {
    // SAFETY: the context is the `Metrics` of `evaluate`, which is waiting; the name is valid for the call.
    unsafe { (*context.cast::<Metrics>()).insert(name.lossy(), value) };
}

impl Objective for ImportedObjective {
    fn requirements(&self) -> Requirements {
        self.needs
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        self.part.fill(batch, out, |t, this, seen, view, error| {
            // SAFETY: the batch and the buffers, which have its size, outlive the call.
            unsafe { (t.evaluate)(this, seen, view, error) }
        })
    }

    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let Some(evaluate_held) = self.part.table().evaluate_held else {
            return self.evaluate(batch, out);
        };
        let at = BatchView::of(at);
        self.part.fill(batch, out, |_, this, seen, view, error| {
            // SAFETY: as above.
            unsafe { evaluate_held(this, &at, seen, view, error) }
        })
    }

    fn begin(&mut self, steps_done: usize) {
        if let Some(begin) = self.part.table().begin {
            // SAFETY: by the contract of the table.
            self.part.ask(|_, this| unsafe { begin(this, steps_done as u64) });
        }
    }

    fn state(&self) -> Vec<u8> {
        self.part.state(self.part.table().state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.part.restore(self.part.table().restore, state)
    }
}

impl Handle<ObjectiveTable> {
    /// Lends a batch and the caller's buffers to a function of the table.
    fn fill(
        &self,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
        function: impl FnOnce(
            &ObjectiveTable,
            *mut c_void,
            *const BatchView,
            *mut EvaluationView,
            *const ErrorSink,
        ) -> i32,
    ) -> Result<()> {
        let (chosen, rejected) = (batch.chosen.policy.rows(), batch.rejected.policy.rows());
        out.rewards.chosen.resize(chosen, 0.0);
        out.rewards.rejected.resize(rejected, 0.0);
        let mut view = EvaluationView {
            size: size_of::<EvaluationView>() as u32,
            has_rewards: 0,
            losses: out.losses.as_mut_ptr(),
            grad_chosen: out.grad_chosen.as_mut_ptr(),
            grad_rejected: out.grad_rejected.as_mut_ptr(),
            rewards_chosen: out.rewards.chosen.as_mut_ptr(),
            rewards_rejected: out.rewards.rejected.as_mut_ptr(),
            context: std::ptr::from_mut(out.metrics).cast(),
            metric,
        };
        let seen = BatchView::of(batch);
        self.call(|table, this, error| function(table, this, &seen, &mut view, error))?;
        if view.has_rewards == 0 {
            out.rewards.chosen.clear();
            out.rewards.rejected.clear();
        }
        Ok(())
    }
}
