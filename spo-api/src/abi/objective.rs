//! Objectives across the plugin ABI.

use std::ffi::c_void;
use std::mem::offset_of;

use super::handle::Handle;
use super::layout::{Table, TableError, both_or_none, read, table};
use super::plugin::{self, Crossing};
use super::status::{ErrorSink, answers};
use super::text::{ByteSink, Text};
use crate::{
    Column, Columns, Error, EvaluationMut, Layout, Metrics, Objective, PreferenceBatch, Ragged, Requirements,
    Result, Rewards, Side, Totals,
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
    /// The columns that the objective requires, in the order in which it named them. A program that was built before
    /// this field and the next does not have them: see `size`.
    pub columns: *const ColumnView,
    /// Their number.
    pub column_count: usize,
}

/// A column of the data.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ColumnView {
    /// Its name.
    pub name: Text,
    /// One number per row, in the order of the losses.
    pub values: *const f64,
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
    /// First argument of `column`.
    pub context: *mut c_void,
    /// Asks for a column of the data, once for each. `default` is the number of rows without one; null if every row must
    /// have one. A program that was built before this field does not have it: see `size`.
    pub column: Option<unsafe extern "C-unwind" fn(context: *mut c_void, name: Text, default: *const f64)>,
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
        if (*out).size as usize >= offset_of!(RequirementsView, context) {
            (*out).least_rows = needs.least_rows.try_into().unwrap_or(u32::MAX);
        }
        let column = match (*out).size as usize >= size_of::<RequirementsView>() {
            true => (*out).column,
            false => None,
        };
        for Column { name, default } in &needs.columns {
            let Some(column) = column else {
                return Err(Error::Engine(format!(
                    "this version of spo gives an objective no columns of the data, and it needs `{name}`"
                )));
            };
            let default = default.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            column((*out).context, Text::of(name), default);
        }
        Ok(())
    }
    fn evaluate(objective, batch: *const BatchView, out: *mut EvaluationView) {
        let columns = BatchView::columns(batch)?;
        let batch = BatchView::batch(batch, &columns)?;
        (*out).fill(&batch, |out| objective.evaluate(&batch, out))
    }
    fn evaluate_held(objective, at: *const BatchView, batch: *const BatchView, out: *mut EvaluationView) {
        let columns = [BatchView::columns(at)?, BatchView::columns(batch)?];
        let (at, batch) = (BatchView::batch(at, &columns[0])?, BatchView::batch(batch, &columns[1])?);
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

// SAFETY: repr(C), starts with its size. Absent pointers are null.
unsafe impl Table for BatchView {
    const NAME: &'static str = "batch";
    const LEAST: usize = offset_of!(BatchView, columns);
    const FUNCTIONS: &'static [(&'static str, usize)] = &[];
}

/// The columns of a batch, copied: their names, and the numbers of one after the other.
struct OwnColumns(Vec<String>, Vec<f64>);

impl BatchView {
    /// `columns` are those that the objective requires.
    fn of(batch: &PreferenceBatch<'_>, columns: &[ColumnView]) -> Self {
        BatchView {
            size: size_of::<BatchView>() as u32,
            layout: batch.layout as u32,
            chosen: SideView::of(&batch.chosen),
            rejected: SideView::of(&batch.rejected),
            mismatched: batch.mismatched.as_ref().map_or(SideView::NONE, SideView::of),
            gaps: batch.gaps.map_or(std::ptr::null(), <[f64]>::as_ptr),
            whole_rows: batch.whole.rows,
            whole_chosen_tokens: batch.whole.chosen_tokens,
            columns: columns.as_ptr(),
            column_count: columns.len(),
        }
    }

    /// Copies what is there.
    ///
    /// # Safety
    /// The batch has the size that it says, and its arrays the lengths given by its offsets and counts. The same applies
    /// below.
    unsafe fn read(this: *const BatchView) -> Result<Self> {
        // SAFETY: guaranteed by the caller.
        unsafe { read(this) }.map_err(|e| Error::Batch(format!("a batch cannot be used: {e}")))
    }

    unsafe fn columns(this: *const BatchView) -> Result<OwnColumns> {
        let mut own = OwnColumns(Vec::new(), Vec::new());
        // SAFETY: guaranteed by the caller.
        unsafe {
            let view = Self::read(this)?;
            if view.column_count == 0 {
                return Ok(own);
            }
            let rows = view.sides()?.rows();
            for column in std::slice::from_raw_parts(view.columns, view.column_count) {
                own.0.push(column.name.lossy());
                own.1.extend(std::slice::from_raw_parts(column.values, rows));
            }
        }
        Ok(own)
    }

    /// The batch of a view, whose columns were copied.
    unsafe fn batch<'a>(this: *const BatchView, columns: &'a OwnColumns) -> Result<PreferenceBatch<'a>> {
        // SAFETY: guaranteed by the caller.
        let mut batch: PreferenceBatch<'a> = unsafe { Self::read(this)?.sides()? };
        batch.columns = Columns::new(&columns.0, &columns.1)?;
        Ok(batch)
    }

    /// Everything but the columns.
    unsafe fn sides<'a>(&self) -> Result<PreferenceBatch<'a>> {
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
                columns: Columns::default(),
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
    let mut columns: Vec<Column> = Vec::new();
    out.context = (&raw mut columns).cast();
    out.column = Some(column);
    // SAFETY: by the contract of the table.
    part.call(|t, this, error| unsafe { (t.requirements)(this, &mut out, error) })?;
    for (i, Column { name, default }) in columns.iter().enumerate() {
        let twice = columns[..i].iter().any(|earlier| earlier.name == *name);
        if name.is_empty() || twice || default.is_some_and(|default| !default.is_finite()) {
            return Err(Error::Engine(format!(
                "{} asks for the column `{name}` (default {default:?}): a column has a name, is asked for once, and its \
                 default is finite",
                part.at()
            )));
        }
    }
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
        columns,
    })
}

unsafe extern "C-unwind" fn column(context: *mut c_void, name: Text, default: *const f64) {
    // SAFETY: the context are the columns of `ask_requirements`, which is waiting; name and number are valid for the call.
    unsafe {
        let column = Column { name: name.lossy(), default: default.as_ref().copied() };
        (*context.cast::<Vec<Column>>()).push(column);
    }
}

unsafe extern "C-unwind" fn metric(context: *mut c_void, name: Text, value: f64) {
    // SAFETY: the context is the `Metrics` of `evaluate`, which is waiting; the name is valid for the call.
    unsafe { (*context.cast::<Metrics>()).insert(name.lossy(), value) };
}

impl Objective for ImportedObjective {
    fn requirements(&self) -> Requirements {
        self.needs.clone()
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        self.fill(batch, out, |t, this, seen, view, error| {
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
        let columns = self.columns(at)?;
        let at = BatchView::of(at, &columns);
        self.fill(batch, out, |_, this, seen, view, error| {
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

impl ImportedObjective {
    /// The columns that the objective requires.
    fn columns(&self, batch: &PreferenceBatch<'_>) -> Result<Vec<ColumnView>> {
        let view = |Column { name, .. }: &Column| {
            Ok(ColumnView { name: Text::of(name), values: batch.column(name)?.as_ptr() })
        };
        self.needs.columns.iter().map(view).collect()
    }

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
        let columns = self.columns(batch)?;
        let seen = BatchView::of(batch, &columns);
        self.part.call(|table, this, error| function(table, this, &seen, &mut view, error))?;
        if view.has_rewards == 0 {
            out.rewards.chosen.clear();
            out.rewards.rejected.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::call;
    use super::*;
    use crate::Evaluation;

    /// The mean of a column is the loss.
    struct Mean(Vec<Column>);

    impl Objective for Mean {
        fn requirements(&self) -> Requirements {
            Requirements { columns: self.0.clone(), ..Requirements::of(Layout::Demonstrations) }
        }

        fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
            if let Some(column) = self.0.first() {
                out.losses.copy_from_slice(batch.column(&column.name)?);
            }
            Ok(())
        }
    }

    fn batch<'a>(values: &'a [f64], names: &'a [String], numbers: &'a [f64]) -> PreferenceBatch<'a> {
        let side = Side::policy_only(Ragged::new(values, &[0, 1, 3]).unwrap());
        let none = Side::policy_only(Ragged::empty());
        let batch = PreferenceBatch::new(Layout::Demonstrations, side, none).unwrap();
        PreferenceBatch { columns: Columns::new(names, numbers).unwrap(), ..batch }
    }

    /// What an objective of today says to a program that was built before there were columns.
    fn asked_earlier(columns: Vec<Column>) -> Result<u32> {
        let mut objective: Box<dyn Objective> = Box::new(Mean(columns));
        // SAFETY: a struct of numbers may be all zeros; fields beyond the size are not touched.
        let mut out: RequirementsView = unsafe { std::mem::zeroed() };
        out.size = offset_of!(RequirementsView, context) as u32;
        let this = (&raw mut objective).cast();
        // SAFETY: `this` is a part, and the rest lives.
        call(&"it", |error| unsafe { requirements(this, &mut out, error) })?;
        Ok(out.data)
    }

    #[test]
    fn a_program_without_columns_is_told_so_by_an_objective_that_needs_them() {
        assert_eq!(asked_earlier(vec![]).unwrap(), Layout::Demonstrations as u32);
        let refusal = asked_earlier(vec![Column::new("margin").or(1.0)]).unwrap_err().to_string();
        assert!(refusal.contains("no columns of the data, and it needs `margin`"), "{refusal}");
    }

    #[test]
    fn a_batch_without_the_fields_for_columns_has_none() {
        let values = [-1.0, -2.0, -3.0];
        let batch = batch(&values, &[], &[]);
        let mut view = BatchView::of(&batch, &[]);
        // Memory that an earlier program does not have.
        (view.columns, view.column_count) = (std::ptr::dangling(), 7);
        view.size = offset_of!(BatchView, columns) as u32;
        // SAFETY: the view is that of a batch that lives.
        let columns = unsafe { BatchView::columns(&view) }.unwrap();
        // SAFETY: as above.
        let read = unsafe { BatchView::batch(&view, &columns) }.unwrap();
        assert_eq!((read.rows(), read.columns.names().len()), (2, 0));
        view.size = 8;
        // SAFETY: as above.
        let refusal = unsafe { BatchView::batch(&view, &columns) }.unwrap_err().to_string();
        assert!(refusal.contains("its batch is truncated"), "{refusal}");
    }

    #[test]
    fn columns_cross_by_name_in_the_order_in_which_they_were_asked_for() {
        let names = ["other", "margin"].map(str::to_owned);
        let values = [-1.0, -2.0, -3.0];
        let batch = batch(&values, &names, &[1.0, 2.0, 3.0, 4.0]);
        let mut objective: Box<dyn Objective> = Box::new(Mean(vec![Column::new("margin")]));
        let lent =
            [ColumnView { name: Text::of(&names[1]), values: batch.column("margin").unwrap().as_ptr() }];
        let view = BatchView::of(&batch, &lent);
        // SAFETY: the view is that of a batch that lives.
        let columns = unsafe { BatchView::columns(&view) }.unwrap();
        // SAFETY: as above.
        let read = unsafe { BatchView::batch(&view, &columns) }.unwrap();
        let mut out = Evaluation::default();
        out.compute(&mut *objective, &read).unwrap();
        assert_eq!(out.losses, [3.0, 4.0]);
    }
}
