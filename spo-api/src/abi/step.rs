//! Bilevel steps across the plugin ABI. The step belongs to the plugin and the problem to the program, so
//! both sides export and import.

use std::ffi::c_void;

use super::handle::Handle;
use super::layout::{TableError, both_or_none, read, table};
use super::lent::Lent;
use super::plugin::{self, Crossing};
use super::status::{ErrorSink, answer, answers, call};
use super::text::{ByteSink, Text};
use super::vectors::{self, RemoteSpace, VectorTable};
use super::watch;
use crate::{
    BilevelProblem, BilevelStep, Error, LevelWeights, Losses, Metrics, Passes, Progress, Result, StepNeeds,
    StepReport, Vector, VectorSpace, Weigh,
};

/// A pair of numbers, one per level.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LossesView {
    /// The value for F.
    pub upper: f64,
    /// The value for G.
    pub lower: f64,
}

/// See [`Weigh`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WeighView {
    /// The weights, if `by` is null.
    pub fixed: LossesView,
    /// First argument of `by`.
    pub context: *mut c_void,
    /// Computes the weights from the losses; called once.
    pub by: Option<
        unsafe extern "C-unwind" fn(
            context: *mut c_void,
            losses: LossesView,
            weights: *mut LossesView,
            error: *const ErrorSink,
        ) -> i32,
    >,
}

/// The report of a step; see [`StepReport`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReportView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// The losses; NaN for a level that was not computed.
    pub losses: LossesView,
    /// First argument of `metric`.
    pub context: *mut c_void,
    /// Reports an additional metric.
    pub metric: unsafe extern "C-unwind" fn(context: *mut c_void, name: Text, value: f64),
}

/// See [`StepNeeds`]; flags are 0 or 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NeedsView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// The step has a lower level.
    pub lower: u32,
    /// The step uses the problem's `reference_lower`.
    pub reference_lower: u32,
    /// The step uses the problem's `lower_hessian_vector`.
    pub hessian: u32,
}

table! {
    /// [`BilevelProblem`] as functions. Their first argument is `context`.
    ProblemTable, "table of the bilevel problem";
    data {
        /// First argument of all functions, including those of `vectors`.
        context: *mut c_void;
        /// The space of trainable parameters: vector 0 holds the parameters, vector 1 the gradient.
        vectors: *const VectorTable;
    }
    required {
        /// Evaluates both levels and writes the weighted gradient into a vector.
        gradient: fn(
            context: *mut c_void,
            weigh: *const WeighView,
            into: u32,
            losses: *mut LossesView,
            error: *const ErrorSink
        ) -> i32;
        /// Computes G without its gradient.
        lower: fn(context: *mut c_void, out: *mut f64, error: *const ErrorSink) -> i32;
        /// Computes G of the reference model.
        reference_lower: fn(context: *mut c_void, out: *mut f64, error: *const ErrorSink) -> i32;
        /// Draws a new lower batch.
        next_lower: fn(context: *mut c_void, error: *const ErrorSink) -> i32;
        /// Passes vector 1 to the optimizer.
        descend: fn(context: *mut c_void, lr_factor: f64, error: *const ErrorSink) -> i32;
        /// The number of steps done and of all steps in the stage.
        progress: fn(context: *mut c_void, step: *mut u64, total: *mut u64);
        /// Writes the Hessian of G times vector `v` into vector `into`.
        lower_hessian_vector: fn(context: *mut c_void, v: u32, into: u32, error: *const ErrorSink) -> i32;
    }
    optional {
        /// Computes the slope of F where it prefers neither answer, in units of DPO's.
        upper_slope: fn(context: *mut c_void, out: *mut f64, error: *const ErrorSink) -> i32;
    }
}

table! {
    /// [`BilevelStep`] as functions. `this` is what `create` made.
    part StepTable, "table of step functions";
    data {}
    required {
        /// Reports what the step needs. `out` is zeroed on entry.
        needs: fn(this: *mut c_void, out: *mut NeedsView);
        /// Reports the cost in passes over a batch.
        passes: fn(this: *mut c_void, forward: *mut usize, backward: *mut usize);
        /// Updates the parameters once.
        step: fn(
            this: *mut c_void,
            problem: *const ProblemTable,
            report: *mut ReportView,
            error: *const ErrorSink
        ) -> i32;
    }
    optional {
        /// Writes the state needed to resume a run.
        state: fn(this: *mut c_void, out: *const ByteSink);
        /// Restores the state written by `state`; both functions or neither.
        restore: fn(this: *mut c_void, state: Text, error: *const ErrorSink) -> i32;
    }
}

impl Crossing for dyn BilevelStep {
    const NUMBER: u32 = 2;
    const TABLE: &'static StepTable = &StepTable {
        size: size_of::<StepTable>() as u32,
        create: plugin::create::<Self>,
        destroy: plugin::destroy::<Self>,
        needs,
        passes,
        step,
        state: Some(state),
        restore: Some(restore),
    };
    type Table = StepTable;

    unsafe fn check(table: &StepTable) -> Result<(), TableError> {
        both_or_none::<StepTable>(["state", "restore"], [table.state.is_some(), table.restore.is_some()])
    }

    fn import(part: Handle<StepTable>) -> Result<Box<Self>> {
        Ok(Box::new(part))
    }
}

// Export: the step, on the plugin's side.

unsafe extern "C-unwind" fn needs(this: *mut c_void, out: *mut NeedsView) {
    // SAFETY: by the contract of the table, here and below.
    unsafe {
        let needs = plugin::part::<dyn BilevelStep>(this).needs();
        (*out).lower = needs.lower.into();
        (*out).reference_lower = needs.reference_lower.into();
        (*out).hessian = needs.hessian.into();
    }
}

unsafe extern "C-unwind" fn passes(this: *mut c_void, forward: *mut usize, backward: *mut usize) {
    // SAFETY: as above.
    unsafe {
        let passes = plugin::part::<dyn BilevelStep>(this).passes();
        *forward = passes.forward;
        *backward = passes.backward;
    }
}

unsafe extern "C-unwind" fn state(this: *mut c_void, out: *const ByteSink) {
    // SAFETY: as above.
    unsafe { ByteSink::put(out, &plugin::part::<dyn BilevelStep>(this).state()) }
}

answers! { Box<dyn BilevelStep>:
    fn step(step, problem: *const ProblemTable, report: *mut ReportView) {
        let StepReport { losses, metrics } = step.step(&mut RemoteProblem::new(problem)?)?;
        (*report).losses = losses.into();
        for (name, value) in &metrics {
            ((*report).metric)((*report).context, Text::of(name), *value);
        }
        Ok(())
    }
    fn restore(step, state: Text) { step.restore(state.bytes()) }
}

/// The program's problem, as seen by a step in a plugin.
struct RemoteProblem {
    table: ProblemTable,
    vectors: RemoteSpace,
}

impl RemoteProblem {
    /// # Safety
    /// `table` is null or a valid table, whose functions may be called while the result lives.
    unsafe fn new(table: *const ProblemTable) -> Result<Self> {
        // SAFETY: guaranteed by the caller.
        let usable = unsafe {
            read(table).and_then(|table: ProblemTable| {
                let vectors = RemoteSpace::new(table.vectors, table.context, None)?;
                Ok(RemoteProblem { table, vectors })
            })
        };
        usable.map_err(|e| Error::Engine(format!("the problem cannot be used: {e}")))
    }

    /// Calls a function of the problem; `name` identifies it in error messages.
    fn call(
        &self,
        name: &str,
        function: impl FnOnce(&ProblemTable, *mut c_void, *const ErrorSink) -> i32,
    ) -> Result<()> {
        call(&name, |error| function(&self.table, self.table.context, error))
    }
}

unsafe extern "C-unwind" fn weigh_by(
    context: *mut c_void,
    losses: LossesView,
    weights: *mut LossesView,
    error: *const ErrorSink,
) -> i32 {
    type Rule<'a> = &'a mut dyn FnMut(Losses) -> Result<LevelWeights>;
    // SAFETY: the context is the rule borrowed from `gradient`.
    unsafe {
        answer(error, || {
            let LevelWeights { upper, lower } = (*context.cast::<Rule<'_>>())(losses.into())?;
            *weights = LossesView { upper, lower };
            Ok(())
        })
    }
}

impl BilevelProblem for RemoteProblem {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        &mut self.vectors
    }

    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        let mut rule;
        let view = match weigh {
            Weigh::Fixed(LevelWeights { upper, lower }) => {
                WeighView { fixed: LossesView { upper, lower }, context: std::ptr::null_mut(), by: None }
            }
            Weigh::By(function) => {
                rule = function;
                let fixed = LossesView { upper: 0.0, lower: 0.0 };
                WeighView { fixed, context: (&raw mut rule).cast(), by: Some(weigh_by) }
            }
            // The border has no third kind of weights. By a function the result is the same, with more forward passes.
            Weigh::Known(weights) => return self.gradient(Weigh::By(&mut |_| Ok(weights)), into),
        };
        let mut losses = LossesView { upper: f64::NAN, lower: f64::NAN };
        // SAFETY: by the contract of the table, here and below; borrowed arguments outlive the call.
        self.call("the problem's gradient", |t, context, error| unsafe {
            (t.gradient)(context, &view, into.0, &mut losses, error)
        })?;
        Ok(losses.into())
    }

    fn lower(&mut self) -> Result<f64> {
        let mut value = f64::NAN;
        // SAFETY: as above.
        self.call("the problem's lower loss", |t, context, error| unsafe {
            (t.lower)(context, &mut value, error)
        })?;
        Ok(value)
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        // SAFETY: as above.
        self.call("the Hessian of the problem's lower loss", |t, context, error| unsafe {
            (t.lower_hessian_vector)(context, v.0, into.0, error)
        })
    }

    fn reference_lower(&mut self) -> Result<f64> {
        let mut value = f64::NAN;
        // SAFETY: as above.
        self.call("the reference's lower loss", |t, context, error| unsafe {
            (t.reference_lower)(context, &mut value, error)
        })?;
        Ok(value)
    }

    fn upper_slope(&mut self) -> Result<f64> {
        let Some(upper_slope) = self.table.upper_slope else {
            return Err(Error::Engine(
                "this version of spo does not tell a step the slope of its loss".into(),
            ));
        };
        let mut value = f64::NAN;
        // SAFETY: as above.
        self.call("the slope of the upper loss", |_, context, error| unsafe {
            upper_slope(context, &mut value, error)
        })?;
        Ok(value)
    }

    fn next_lower(&mut self) -> Result<()> {
        // SAFETY: as above.
        self.call("the next lower batch", |t, context, error| unsafe { (t.next_lower)(context, error) })
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        // SAFETY: as above.
        self.call("the descent", |t, context, error| unsafe { (t.descend)(context, lr_factor, error) })
    }

    fn progress(&self) -> Progress {
        let (mut step, mut total) = (0, 0);
        // SAFETY: as above.
        unsafe { (self.table.progress)(self.table.context, &mut step, &mut total) };
        Progress { step: step as usize, total: total as usize }
    }
}

// Import: the problem and the step, on the program's side.

type Loan<'a> = Lent<'a, dyn BilevelProblem + 'a>;

static VECTORS: VectorTable = vectors::export::<Loan<'static>>();

/// Defines the functions of the problem that can fail. Their bodies get the problem, and the part that calls.
macro_rules! problem {
    ($(fn $name:ident($problem:ident, $at:pat_param $(, $argument:ident: $type:ty)*) $body:block)+) => {
        $(unsafe extern "C-unwind" fn $name(
            context: *mut c_void,
            $($argument: $type,)*
            error: *const ErrorSink,
        ) -> i32 {
            // SAFETY: by the contract of the table, the context is that of the loan, and the pointers for
            // results are valid.
            unsafe { Loan::answer(context, error, |$problem, $at| $body) }
        })+
    };
}

problem! {
    fn gradient(problem, at, weigh: *const WeighView, into: u32, losses: *mut LossesView) {
        let WeighView { fixed, context, by } = *weigh;
        let mut rule;
        let weigh = match by {
            None => Weigh::Fixed(LevelWeights { upper: fixed.upper, lower: fixed.lower }),
            Some(by) => {
                rule = move |seen: Losses| {
                    let mut weights = LossesView { upper: f64::NAN, lower: f64::NAN };
                    let _inside = watch::enter(Some(at));
                    call(&"the step's weights", |error| by(context, seen.into(), &mut weights, error))?;
                    Ok(LevelWeights { upper: weights.upper, lower: weights.lower })
                };
                Weigh::By(&mut rule)
            }
        };
        *losses = problem.gradient(weigh, Vector(into))?.into();
        Ok(())
    }
    fn lower(problem, _, out: *mut f64) { problem.lower().map(|g| *out = g) }
    fn reference_lower(problem, _, out: *mut f64) { problem.reference_lower().map(|g| *out = g) }
    fn upper_slope(problem, _, out: *mut f64) { problem.upper_slope().map(|slope| *out = slope) }
    fn lower_hessian_vector(problem, _, v: u32, into: u32) { problem.lower_hessian_vector(Vector(v), Vector(into)) }
    fn next_lower(problem, _) { problem.next_lower() }
    fn descend(problem, _, lr_factor: f64) { problem.descend(lr_factor) }
}

unsafe extern "C-unwind" fn progress(context: *mut c_void, step: *mut u64, total: *mut u64) {
    // SAFETY: by the contract of the table.
    unsafe { (*step, *total) = Loan::ask(context, |p| (p.progress().step as u64, p.progress().total as u64)) }
}

unsafe extern "C-unwind" fn metric(context: *mut c_void, name: Text, value: f64) {
    // SAFETY: the context is the `Metrics` of `step`, which is waiting; the name is valid for the call.
    unsafe { (*context.cast::<Metrics>()).insert(name.lossy(), value) };
}

impl BilevelStep for Handle<StepTable> {
    fn needs(&self) -> StepNeeds {
        let size = size_of::<NeedsView>() as u32;
        let mut needs = NeedsView { size, lower: 0, reference_lower: 0, hessian: 0 };
        // SAFETY: by the contract of the table, here and below.
        self.ask(|t, this| unsafe { (t.needs)(this, &mut needs) });
        StepNeeds {
            lower: needs.lower != 0,
            reference_lower: needs.reference_lower != 0,
            hessian: needs.hessian != 0,
            // Across the border a step asks for a gradient and a descent.
            update_alone: false,
        }
    }

    fn passes(&self) -> Passes {
        let (mut forward, mut backward) = (0, 0);
        // SAFETY: as above.
        self.ask(|t, this| unsafe { (t.passes)(this, &mut forward, &mut backward) });
        Passes { forward, backward }
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let mut lent = Loan::to(self.at(), problem);
        let table = ProblemTable {
            size: size_of::<ProblemTable>() as u32,
            context: lent.context(),
            vectors: &VECTORS,
            gradient,
            lower,
            reference_lower,
            next_lower,
            descend,
            progress,
            lower_hessian_vector,
            upper_slope: Some(upper_slope),
        };
        let mut metrics = Metrics::new();
        let mut report = ReportView {
            size: size_of::<ReportView>() as u32,
            losses: LossesView { upper: f64::NAN, lower: f64::NAN },
            context: (&raw mut metrics).cast(),
            metric,
        };
        // SAFETY: as above; borrowed arguments outlive the call.
        let stepped = self.call(|t, this, error| unsafe { (t.step)(this, &table, &mut report, error) });
        lent.settle(stepped)?;
        Ok(StepReport { losses: report.losses.into(), metrics })
    }

    fn state(&self) -> Vec<u8> {
        Handle::state(self, self.table().state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        Handle::restore(self, self.table().restore, state)
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
