//! A bilevel step across the border. The step is on the plugin's side, the problem on the program's: so
//! here both sides export and import.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::layout::{Table, TableError, required};
use super::memory;
use super::plugin::{self, Create, Exported};
use super::status::{ErrorSink, Status, answer, call};
use super::text::{ByteSink, Text};
use super::vectors::{self, Owner, VectorTable};
use super::watch::{self, At, fence};
use serde_json::Value;

use crate::{
    BilevelProblem, BilevelStep, Build, ConfigError, Entry, Error, LevelWeights, Losses, Metrics, Passes,
    Progress, Result, StepNeeds, StepReport, Vector, VectorSpace, Weigh,
};

/// A pair of numbers, one per level.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LossesView {
    /// Of F.
    pub upper: f64,
    /// Of G.
    pub lower: f64,
}

/// See [`Weigh`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WeighView {
    /// The weights, if `by` is null.
    pub fixed: LossesView,
    /// For `by`.
    pub context: *mut c_void,
    /// Finds the weights from the losses; called once.
    pub by: Option<
        unsafe extern "C-unwind" fn(
            context: *mut c_void,
            losses: LossesView,
            weights: *mut LossesView,
            error: *const ErrorSink,
        ) -> i32,
    >,
}

/// What a step says of itself; see [`StepReport`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReportView {
    /// Bytes of this struct.
    pub size: u32,
    /// The losses; NaN for a level that was not computed.
    pub losses: LossesView,
    /// For `metric`.
    pub context: *mut c_void,
    /// Reports a further figure.
    pub metric: unsafe extern "C-unwind" fn(context: *mut c_void, name: Text, value: f64),
}

type Number = unsafe extern "C-unwind" fn(*mut c_void, *mut f64, *const ErrorSink) -> i32;

/// [`BilevelProblem`] as functions, their first argument being `context`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProblemTable {
    /// Bytes of this table.
    pub size: u32,
    /// First argument of all functions, those of `vectors` too.
    pub context: *mut c_void,
    /// The space of trainable parameters: 0 are the parameters, 1 is the gradient.
    pub vectors: *const VectorTable,
    /// Evaluates both levels and writes the weighted gradient into a vector.
    pub gradient: Option<
        unsafe extern "C-unwind" fn(
            context: *mut c_void,
            weigh: *const WeighView,
            into: u32,
            losses: *mut LossesView,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// G, without gradient.
    pub lower: Option<Number>,
    /// G of the reference.
    pub reference_lower: Option<Number>,
    /// Draws another lower batch.
    pub next_lower: Option<unsafe extern "C-unwind" fn(*mut c_void, *const ErrorSink) -> i32>,
    /// Hands vector 1 to the optimizer.
    pub descend: Option<unsafe extern "C-unwind" fn(*mut c_void, lr_factor: f64, *const ErrorSink) -> i32>,
    /// Steps done and steps of the whole stage.
    pub progress: Option<unsafe extern "C-unwind" fn(*mut c_void, step: *mut u64, total: *mut u64)>,
    /// Writes the Hessian of G times vector `v` into vector `into`.
    pub lower_hessian_vector:
        Option<unsafe extern "C-unwind" fn(*mut c_void, v: u32, into: u32, *const ErrorSink) -> i32>,
}

// SAFETY: repr(C), begins with its size, absent functions and pointers are null.
unsafe impl Table for ProblemTable {
    const NAME: &'static str = "table of the bilevel problem";
    const REQUIRED: usize = std::mem::offset_of!(Self, lower_hessian_vector);
}

/// [`BilevelStep`] as functions. `this` is what `create` made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StepTable {
    /// Bytes of this table.
    pub size: u32,
    /// Makes a step from its table in the recipe, as JSON. `context` is that of the entry.
    pub create: Option<Create>,
    /// Frees it.
    pub destroy: Option<unsafe extern "C-unwind" fn(this: *mut c_void)>,
    /// Whether it has a lower level, and whether it asks for the reference's G: 0 or 1 each.
    pub needs:
        Option<unsafe extern "C-unwind" fn(this: *mut c_void, lower: *mut u32, reference_lower: *mut u32)>,
    /// Its cost in passes over a batch.
    pub passes:
        Option<unsafe extern "C-unwind" fn(this: *mut c_void, forward: *mut usize, backward: *mut usize)>,
    /// Moves the parameters once.
    pub step: Option<
        unsafe extern "C-unwind" fn(
            this: *mut c_void,
            problem: *const ProblemTable,
            report: *mut ReportView,
            error: *const ErrorSink,
        ) -> i32,
    >,
    /// Optional: writes the state that must survive a resume.
    pub state: Option<unsafe extern "C-unwind" fn(this: *mut c_void, out: *const ByteSink)>,
    /// Optional, goes with `state`: takes it back.
    pub restore:
        Option<unsafe extern "C-unwind" fn(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32>,
    /// Optional: 1 if it asks for the problem's `lower_hessian_vector`, else 0.
    pub needs_hessian: Option<unsafe extern "C-unwind" fn(this: *mut c_void) -> u32>,
}

// SAFETY: repr(C), begins with its size, absent functions are null.
unsafe impl Table for StepTable {
    const NAME: &'static str = "table of step functions";
    const REQUIRED: usize = std::mem::offset_of!(Self, state);
}

// The plugin's end: the step.

/// The table of every step written in Rust; `create` finds the entry behind its context.
pub(super) static TABLE: StepTable = StepTable {
    size: size_of::<StepTable>() as u32,
    create: Some(plugin::create::<dyn BilevelStep>),
    destroy: Some(plugin::destroy::<dyn BilevelStep>),
    needs: Some(needs),
    passes: Some(passes),
    step: Some(step),
    state: Some(state),
    restore: Some(restore),
    needs_hessian: Some(needs_hessian),
};

impl Exported for dyn BilevelStep {
    fn build(entry: &Entry, config: &Value) -> Result<Box<Self>, ConfigError> {
        match entry.build {
            Build::Step(build) => build(config),
            _ => unreachable!("the table of a kind stands in entries of that kind"),
        }
    }
}

/// # Safety
/// `this` came from `create` and nobody else uses it now: the contract of the table.
unsafe fn part<'a>(this: *mut c_void) -> &'a mut dyn BilevelStep {
    // SAFETY: the caller's.
    unsafe { &mut **this.cast::<Box<dyn BilevelStep>>() }
}

unsafe extern "C-unwind" fn needs(this: *mut c_void, lower: *mut u32, reference_lower: *mut u32) {
    // SAFETY: by the contract of the table, here and below.
    unsafe {
        let needs = part(this).needs();
        *lower = needs.lower.into();
        *reference_lower = needs.reference_lower.into();
    }
}

unsafe extern "C-unwind" fn needs_hessian(this: *mut c_void) -> u32 {
    // SAFETY: as above.
    unsafe { part(this).needs().hessian.into() }
}

unsafe extern "C-unwind" fn passes(this: *mut c_void, forward: *mut usize, backward: *mut usize) {
    // SAFETY: as above.
    unsafe {
        let passes = part(this).passes();
        *forward = passes.forward;
        *backward = passes.backward;
    }
}

unsafe extern "C-unwind" fn step(
    this: *mut c_void,
    problem: *const ProblemTable,
    report: *mut ReportView,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        answer(error, || {
            let mut problem = ImportedProblem::new(problem)?;
            let StepReport { losses, metrics } = part(this).step(&mut problem)?;
            (*report).losses = losses.into();
            for (name, value) in &metrics {
                ((*report).metric)((*report).context, Text::of(name), *value);
            }
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn state(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &part(this).state()) }
}

unsafe extern "C-unwind" fn restore(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { answer(error, || part(this).restore(state.bytes())) }
}

/// The program's problem, as a step in a plugin sees it.
struct ImportedProblem {
    table: ProblemTable,
    vectors: vectors::Imported,
}

impl ImportedProblem {
    /// # Safety
    /// `table` is null or a valid table, whose functions may be called while the result lives.
    unsafe fn new(table: *const ProblemTable) -> Result<Self> {
        let bad = |e: TableError| Error::Engine(format!("the problem cannot be used: {e}"));
        // SAFETY: the caller's.
        unsafe {
            let table = super::layout::read(table).map_err(bad)?;
            let complete = || {
                required!(
                    table,
                    ProblemTable,
                    gradient,
                    lower,
                    reference_lower,
                    next_lower,
                    descend,
                    progress
                );
                Ok(())
            };
            complete().map_err(bad)?;
            Ok(ImportedProblem {
                table,
                vectors: vectors::Imported::new(table.vectors, table.context).map_err(bad)?,
            })
        }
    }

    fn number(&mut self, name: &str, function: Option<Number>) -> Result<f64> {
        let mut value = f64::NAN;
        // SAFETY: by the contract of the table.
        call(&name, |error| unsafe {
            function.expect("checked on import")(self.table.context, &mut value, error)
        })?;
        Ok(value)
    }
}

unsafe extern "C-unwind" fn weigh_by(
    context: *mut c_void,
    losses: LossesView,
    weights: *mut LossesView,
    error: *const ErrorSink,
) -> i32 {
    type Rule<'a> = &'a mut dyn FnMut(Losses) -> Result<LevelWeights>;
    // SAFETY: the context is the rule that `gradient` lends.
    unsafe {
        answer(error, || {
            let LevelWeights { upper, lower } = (*context.cast::<Rule<'_>>())(losses.into())?;
            *weights = LossesView { upper, lower };
            Ok(())
        })
    }
}

impl BilevelProblem for ImportedProblem {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.vectors
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        let (mut fixed, mut rule);
        let (weights, context, by): (_, _, Option<_>) = match weigh {
            Weigh::Fixed(weights) => {
                fixed = LossesView { upper: weights.upper, lower: weights.lower };
                (&mut fixed, std::ptr::null_mut(), None)
            }
            Weigh::By(function) => {
                rule = function;
                fixed = LossesView { upper: 0.0, lower: 0.0 };
                (&mut fixed, (&raw mut rule).cast(), Some(weigh_by as _))
            }
        };
        let view = WeighView { fixed: *weights, context, by };
        let mut losses = LossesView { upper: f64::NAN, lower: f64::NAN };
        // SAFETY: by the contract of the table, here and below.
        call(&"the problem's gradient", |error| unsafe {
            let gradient = self.table.gradient.expect("checked on import");
            gradient(self.table.context, &view, into.0, &mut losses, error)
        })?;
        Ok(losses.into())
    }

    fn lower(&mut self) -> Result<f64> {
        self.number("the problem's lower loss", self.table.lower)
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        let Some(function) = self.table.lower_hessian_vector else {
            return Err(Error::Engine("this program offers steps no exact Hessian-vector products".into()));
        };
        // SAFETY: as above.
        call(&"the Hessian of the problem's lower loss", |error| unsafe {
            function(self.table.context, v.0, into.0, error)
        })
    }

    fn reference_lower(&mut self) -> Result<f64> {
        self.number("the reference's lower loss", self.table.reference_lower)
    }

    fn next_lower(&mut self) -> Result<()> {
        // SAFETY: as above.
        call(&"the next lower batch", |error| unsafe {
            self.table.next_lower.expect("checked on import")(self.table.context, error)
        })
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        // SAFETY: as above.
        call(&"the descent", |error| unsafe {
            self.table.descend.expect("checked on import")(self.table.context, lr_factor, error)
        })
    }

    fn progress(&self) -> Progress {
        let (mut step, mut total) = (0, 0);
        // SAFETY: as above.
        unsafe { self.table.progress.expect("checked on import")(self.table.context, &mut step, &mut total) };
        Progress { step: step as usize, total: total as usize }
    }
}

// The program's end: the problem.

/// A problem while it is lent to a plugin. What the program itself throws or returns must not be lost in
/// translation: a panic goes on where it began, an error keeps its type.
struct Lent<'a> {
    problem: &'a mut dyn BilevelProblem,
    panic: Option<Box<dyn Any + Send>>,
    error: Option<Error>,
}

impl Owner for Lent<'_> {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self.problem.vectors()
    }
}

impl Lent<'_> {
    /// Answers a call of the plugin, keeping the original of a failure.
    ///
    /// # Safety
    /// `context` is the `Lent` of the step at work; `error` is null or valid.
    unsafe fn answer(
        context: *mut c_void,
        error: *const ErrorSink,
        body: impl FnOnce(&mut dyn BilevelProblem) -> Result<()>,
    ) -> i32 {
        // SAFETY: the caller's.
        let lent = unsafe { &mut *context.cast::<Lent<'_>>() };
        let told = match catch_unwind(AssertUnwindSafe(|| body(lent.problem))) {
            Ok(Ok(())) => return Status::OK,
            Ok(Err(e)) => {
                let text = e.to_string();
                lent.error = Some(e);
                Error::Engine(text)
            }
            Err(panic) => {
                lent.panic = Some(panic);
                Error::Engine("the program panicked".into())
            }
        };
        // SAFETY: the caller's.
        unsafe { answer(error, || Err(told)) }
    }
}

static VECTORS: VectorTable = vectors::export::<Lent<'static>>();

unsafe extern "C-unwind" fn gradient(
    context: *mut c_void,
    weigh: *const WeighView,
    into: u32,
    losses: *mut LossesView,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: by the contract of the table, here and below.
    unsafe {
        let weigh = *weigh;
        Lent::answer(context, error, |problem| {
            let mut rule = |seen: Losses| {
                let mut weights = LossesView { upper: f64::NAN, lower: f64::NAN };
                let by = weigh.by.expect("asked only if there");
                call(&"the step's weights", |error| by(weigh.context, seen.into(), &mut weights, error))?;
                Ok(LevelWeights { upper: weights.upper, lower: weights.lower })
            };
            let weigh = match weigh.by {
                Some(_) => Weigh::By(&mut rule),
                None => Weigh::Fixed(LevelWeights { upper: weigh.fixed.upper, lower: weigh.fixed.lower }),
            };
            *losses = problem.gradient(weigh, Vector(into))?.into();
            Ok(())
        })
    }
}

unsafe extern "C-unwind" fn lower(context: *mut c_void, out: *mut f64, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { Lent::answer(context, error, |problem| problem.lower().map(|g| *out = g)) }
}

unsafe extern "C-unwind" fn lower_hessian_vector(
    context: *mut c_void,
    v: u32,
    into: u32,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { Lent::answer(context, error, |problem| problem.lower_hessian_vector(Vector(v), Vector(into))) }
}

unsafe extern "C-unwind" fn reference_lower(
    context: *mut c_void,
    out: *mut f64,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: as above.
    unsafe { Lent::answer(context, error, |problem| problem.reference_lower().map(|g| *out = g)) }
}

unsafe extern "C-unwind" fn next_lower(context: *mut c_void, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { Lent::answer(context, error, |problem| problem.next_lower()) }
}

unsafe extern "C-unwind" fn descend(context: *mut c_void, lr_factor: f64, error: *const ErrorSink) -> i32 {
    // SAFETY: as above.
    unsafe { Lent::answer(context, error, |problem| problem.descend(lr_factor)) }
}

unsafe extern "C-unwind" fn progress(context: *mut c_void, step: *mut u64, total: *mut u64) {
    // SAFETY: as above.
    unsafe {
        let progress = (*context.cast::<Lent<'_>>()).problem.progress();
        *step = progress.step as u64;
        *total = progress.total as u64;
    }
}

/// A step on the other side.
struct Imported {
    table: StepTable,
    this: *mut c_void,
    at: &'static At,
}

// SAFETY: the contract of the table lets a part move between threads.
unsafe impl Send for Imported {}

/// Makes a step by a table.
///
/// # Safety
/// The table and the context are those of one entry, and obey the contract.
pub(super) unsafe fn import(
    table: &StepTable,
    context: *const c_void,
    at: &'static At,
    config: &serde_json::Value,
) -> Result<Box<dyn BilevelStep>> {
    // SAFETY: the caller's.
    let this = unsafe { plugin::make(table.create.expect("checked on import"), context, at, config)? };
    Ok(Box::new(Imported { table: *table, this, at }))
}

/// Makes sure of a table before anything is called.
///
/// # Safety
/// As [`read`](super::layout::read).
pub(super) unsafe fn check(table: *const StepTable) -> Result<StepTable, TableError> {
    // SAFETY: the caller's.
    let table = unsafe { super::layout::read(table) }?;
    required!(table, StepTable, create, destroy, needs, passes, step);
    if table.state.is_some() != table.restore.is_some() {
        return Err(TableError::new::<StepTable>("has one of `state` and `restore` without the other"));
    }
    Ok(table)
}

unsafe extern "C-unwind" fn metric(context: *mut c_void, name: Text, value: f64) {
    // SAFETY: the context is the `Metrics` of `step`, which waits; the name is lent for the call.
    unsafe { (*context.cast::<Metrics>()).insert(name.lossy(), value) };
}

impl BilevelStep for Imported {
    fn needs(&self) -> StepNeeds {
        let (mut lower, mut reference_lower) = (0, 0);
        let _inside = watch::enter(self.at);
        // SAFETY: by the contract of the table, here and below.
        fence(|| unsafe {
            self.table.needs.expect("checked on import")(self.this, &mut lower, &mut reference_lower)
        });
        // SAFETY: as above.
        let hessian = fence(|| unsafe { self.table.needs_hessian.is_some_and(|f| f(self.this) != 0) });
        StepNeeds { lower: lower != 0, reference_lower: reference_lower != 0, hessian }
    }

    fn passes(&self) -> Passes {
        let (mut forward, mut backward) = (0, 0);
        let _inside = watch::enter(self.at);
        // SAFETY: as above.
        fence(|| unsafe {
            self.table.passes.expect("checked on import")(self.this, &mut forward, &mut backward)
        });
        Passes { forward, backward }
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let mut lent = Lent { problem, panic: None, error: None };
        let table = ProblemTable {
            size: size_of::<ProblemTable>() as u32,
            context: (&raw mut lent).cast(),
            vectors: &VECTORS,
            gradient: Some(gradient),
            lower: Some(lower),
            reference_lower: Some(reference_lower),
            next_lower: Some(next_lower),
            descend: Some(descend),
            progress: Some(progress),
            lower_hessian_vector: Some(lower_hessian_vector),
        };
        let mut metrics = Metrics::new();
        let mut report = ReportView {
            size: size_of::<ReportView>() as u32,
            losses: LossesView { upper: f64::NAN, lower: f64::NAN },
            context: (&raw mut metrics).cast(),
            metric,
        };
        let inside = watch::enter(self.at);
        // SAFETY: as above.
        let stepped = call(self.at, |error| unsafe {
            self.table.step.expect("checked on import")(self.this, &table, &mut report, error)
        });
        drop(inside);
        if let Some(panic) = lent.panic {
            resume_unwind(panic);
        }
        if let Some(error) = lent.error {
            // Whatever the step made of it, this is why.
            return Err(error);
        }
        stepped?;
        Ok(StepReport { losses: report.losses.into(), metrics })
    }

    fn state(&self) -> Vec<u8> {
        // SAFETY: as above.
        unsafe { memory::read(self.this, self.table.state, self.at) }
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { memory::write(self.this, self.table.restore, state, self.at) }
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        let _inside = watch::enter(self.at);
        // SAFETY: made by `create`, not used again.
        fence(|| unsafe { self.table.destroy.expect("checked on import")(self.this) });
    }
}

impl From<LossesView> for Losses {
    fn from(LossesView { upper, lower }: LossesView) -> Self {
        Losses { upper, lower }
    }
}

impl From<Losses> for LossesView {
    fn from(Losses { upper, lower }: Losses) -> Self {
        LossesView { upper, lower }
    }
}
