//! `spo-run audit`: compares the updates of bilevel steps with exact hypergradients.

pub(crate) mod hypergradient;
mod measured;

use std::path::PathBuf;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spo_api::{Objective, Part, Passes, Progress, Registry, Result, Session, Vector};
use spo_data::epoch_order;

use super::options::TrustArguments;
use super::saved_run::SavedRun;
use crate::error::{BadInput, bad};
use crate::plan::external;
use crate::plan::view::View;
use crate::recipe::Reference;
use crate::recipe::bilevel::BilevelSpec;
use crate::recipe::compose;
use crate::recipe::document::Document;
use crate::reporter::say;
use crate::store::scores::Scores;
use crate::terminal::fit;
use crate::train::reference::Scoring;
use crate::train::step::problem::{LowerTerm, Scored, StepProblem, StepSetting, UpperLevel};
use crate::train::step::rows::Batch;
use hypergradient::{Inner, implicit, sharpness, unrolled, value_function};
use measured::Measured;

#[derive(clap::Args)]
pub(crate) struct AuditArguments {
    /// The folder of a run on a backend in f64 (`backend.name = "tabular"`) whose stages saved their models.
    run: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
    /// Audit at the end of this stage, on its objective and its training rows; by default the last.
    #[arg(long)]
    stage: Option<String>,
    /// A step to audit as inline TOML, `'{ step = "penalty", lambda = 3.0 }'`; may be repeated. By default
    /// every registered step, in the forms that the other options suggest.
    #[arg(long)]
    step: Vec<String>,
    /// K, the SFT steps that the exact problems look ahead.
    #[arg(long, default_value_t = 3)]
    inner_steps: usize,
    /// Alpha, the length of such a step in units of the gradient.
    #[arg(long, default_value_t = 0.5)]
    inner_lr: f64,
    /// Factor of the SFT loss, where a step has one.
    #[arg(long, default_value_t = 1.0)]
    lambda: f64,
    /// Learning rate of the plain gradient descent that a step's update is measured with.
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Batches to take the mean over.
    #[arg(long, default_value_t = 8)]
    batches: usize,
    /// Speak JSON, every digit.
    #[arg(long)]
    json: bool,
}

/// The exact problems, in the order of the columns.
const PROBLEMS: [&str; 3] = ["unrolled", "implicit", "value function"];

/// Agreement of an update with an exact gradient: means over batches.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Agreement {
    cosine: f64,
    /// Norm of the update divided by the norm of the gradient.
    ratio: f64,
}

/// The measurements of one step.
#[derive(Clone, Debug, Serialize)]
struct Audited {
    step: Value,
    agreement: [Agreement; PROBLEMS.len()],
    forward: usize,
    backward: usize,
    /// The largest number of scratch vectors in use at a time.
    vectors: usize,
}

impl AuditArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        say(&audit(registry, self)?);
        Ok(())
    }
}

/// Measures every step on the same batches at the same parameters.
///
/// # Errors
/// [`BadInput`] if the run or a step cannot be audited.
fn audit(registry: &mut Registry, arguments: &AuditArguments) -> anyhow::Result<String> {
    if !(arguments.inner_lr > 0.0 && arguments.lr > 0.0 && arguments.lambda >= 0.0)
        || arguments.inner_steps == 0
        || arguments.batches == 0
    {
        let message = "error: --inner-steps, --batches, --inner-lr and --lr must be greater than 0, --lambda at least 0";
        return Err(BadInput(message.into()).into());
    }
    let mut run = SavedRun::open(registry, &arguments.run, arguments.trust.trust_plugins)?;
    let names: Vec<String> = run.plan.stages.iter().map(|s| s.recipe.name.clone()).collect();
    let name = arguments.stage.as_ref().unwrap_or_else(|| names.last().expect("a run has stages"));
    let Some(index) = names.iter().position(|n| n == name) else {
        let message = format!("error: --stage: the run has no stage `{name}`, only {}", names.join(", "));
        return Err(BadInput(message).into());
    };
    let mut policy = run.model(name)?;
    let info = policy.info();
    if info.dtype != "f64" || !info.hessian_vectors {
        let message = format!(
            "error: an audit compares digits that {} does not have, and takes exact Hessian-vector products: it needs a run \
             with backend.name = \"tabular\"",
            info.dtype
        );
        return Err(BadInput(message).into());
    }
    let mut reference = match &run.plan.stages[index].recipe.reference {
        Reference::Start => run.model(&run.plan.stages[index].from)?,
        Reference::Model => run.model("model")?,
        Reference::External(other) => run.plan.backend.open(&external::spec(&run.plan.recipe, other))?,
        Reference::Moving(_) => {
            return Err(bad("the stage's reference moves: where it stood is not known").into());
        }
    };
    let stage = &mut run.plan.stages[index];
    if !stage.train.examples.iter().all(|e| e.desirable) {
        let message = format!(
            "error: stage `{name}` learns from unpaired answers, of which some are no demonstrations"
        );
        return Err(BadInput(message).into());
    }

    let rows = epoch_order(stage.train.examples.len(), run.plan.recipe.run.seed, 0);
    let batches: Vec<&[usize]> = rows.chunks_exact(stage.recipe.batch_size).take(arguments.batches).collect();
    let mut scores = Scores::empty(&stage.train);
    let at_once = run.plan.recipe.evaluation.batch_size;
    let (data, view) = (&stage.train, stage.view);
    Scoring { data, view, rows: &rows, at_once, parameters: None }.fill(
        &mut scores,
        &mut *reference,
        &mut |_, _| Ok(()),
    )?;
    drop(reference);
    let mut scene = Scene {
        session: &mut *policy,
        objective: &mut *stage.objective,
        lower: match stage.lower.is_empty() {
            false => stage.lower.swap_remove(0).objective,
            true => registry.objective("sft", &json!({}))?,
        },
        data: Scored { rows: &stage.train, reference: Some(&scores) },
        view: stage.view,
        progress: Progress { step: stage.steps, total: stage.steps },
    };
    let steps = match arguments.step.is_empty() {
        true => every_step(registry, arguments)?,
        false => arguments.step.iter().map(|step| given(registry, step)).collect::<Result<_, _>>()?,
    };
    let (audited, sharpness) = scene.audit(registry, &steps, &batches, arguments)?;
    Ok(match arguments.json {
        true => serde_json::to_string_pretty(&audited)? + "\n",
        false => format!(
            "{} parameters after stage {name}; mean over {} batches of {} rows; cosine and length of the update \
             against the exact gradient\n(K = {}, alpha = {}, lambda = {}; greatest curvature of G {:.3}: SFT steps longer than {:.3} \
             overshoot)\n\n{}\n",
            info.trainable,
            batches.len(),
            stage.recipe.batch_size,
            arguments.inner_steps,
            arguments.inner_lr,
            arguments.lambda,
            sharpness,
            2.0 / sharpness,
            table(&audited)
        ),
    })
}

/// Parses `--step` and checks that the step is registered.
fn given(registry: &Registry, step: &str) -> Result<BilevelSpec, BadInput> {
    let document = Document::parse("--step", format!("step = {step}"), &[])?;
    let Inline { mut step } = document.read_as()?;
    step.place("step");
    compose::bilevel(registry, &step).map_err(|e| document.locate("", e))?;
    let own = [("lower", step.own.lower.is_some()), ("lower_data", step.own.lower_data.is_some())];
    match own.into_iter().find(|(_, given)| *given) {
        Some((key, _)) => {
            Err(document.error(&format!("step.{key}"), "the lower level of an audit is the stage's"))
        }
        None => Ok(step),
    }
}

/// All registered steps, each in the forms given as examples in its schema, or with its defaults. The audit's
/// options override the examples' values.
fn every_step(registry: &Registry, options: &AuditArguments) -> anyhow::Result<Vec<BilevelSpec>> {
    let mut all = Vec::new();
    for entry in registry.iter().filter(|entry| entry.build.kind() == "step") {
        let schema = (entry.schema)();
        let examples = schema.as_value()["examples"].as_array().cloned();
        for mut form in examples.unwrap_or_else(|| vec![json!({})]) {
            options.put_into(&mut form);
            if let Err(error) = registry.step(entry.name, &form) {
                // Perhaps it has required keys, whose values only the user knows.
                let name = entry.name;
                eprintln!(
                    "note: step `{name}` is left out as {form}: {error}; audit it with --step '{{ step = \"{name}\", .. }}', \
                     or give its schema `examples`"
                );
                continue;
            }
            let mut spec = BilevelSpec::named(entry.name)?;
            spec.part = spec.part.with(form.as_object().cloned().unwrap_or_default());
            all.push(spec);
        }
    }
    if all.is_empty() {
        return Err(BadInput(
            "error: no registered step can be audited as it is: name one with --step".into(),
        )
        .into());
    }
    Ok(all)
}

impl AuditArguments {
    /// Overrides a step's keys with the options of the same name, at any depth.
    fn put_into(&self, table: &mut Value) {
        let known = [
            ("lambda", json!(self.lambda)),
            ("inner_steps", json!(self.inner_steps)),
            ("inner_lr", json!(self.inner_lr)),
            ("inner", json!({ "steps": self.inner_steps, "lr": self.inner_lr })),
        ];
        for (key, inner) in table.as_object_mut().into_iter().flatten() {
            match known.iter().find(|(name, _)| name == key) {
                Some((_, number)) => *inner = number.clone(),
                None => self.put_into(inner),
            }
        }
    }
}

/// A step on the command line.
#[derive(Deserialize, JsonSchema)]
struct Inline {
    step: BilevelSpec,
}

impl Part for Inline {}

/// The common setting in which all steps are measured.
struct Scene<'a> {
    session: &'a mut dyn Session,
    objective: &'a mut dyn Objective,
    lower: Box<dyn Objective>,
    data: Scored<'a>,
    view: View,
    progress: Progress,
}

impl Scene<'_> {
    fn audit(
        &mut self,
        registry: &Registry,
        steps: &[BilevelSpec],
        batches: &[&[usize]],
        options: &AuditArguments,
    ) -> anyhow::Result<(Vec<Audited>, f64)> {
        let inner = Inner { steps: options.inner_steps, lr: options.inner_lr };
        let space = self.session.vectors();
        let mut allocate = || space.allocate();
        let (home, update) = (allocate()?, allocate()?);
        let exact = [allocate()?, allocate()?, allocate()?];
        space.copy(Vector::PARAMETERS, home)?;
        let mut audited: Vec<Audited> = Vec::new();
        let mut greatest = 0.0;
        for &rows in batches {
            self.on(rows, |problem| unrolled(problem, home, inner, exact[0]))?;
            self.on(rows, |problem| implicit(problem, home, inner, exact[1]))?;
            self.on(rows, |problem| value_function(problem, home, inner, options.lambda, exact[2]))?;
            greatest += self.on(rows, |problem| sharpness(problem, home))? / batches.len() as f64;
            for (i, spec) in steps.iter().enumerate() {
                let mut step = spec.part.build(registry, Registry::step)?;
                self.session.vectors().copy(home, Vector::PARAMETERS)?;
                let cost = self.on(rows, |problem| Measured::run(problem, &mut *step, options.lr))?;
                let space = self.session.vectors();
                // theta <- theta - lr update.
                space.copy(home, update)?;
                space.axpy(-1.0, Vector::PARAMETERS, update)?;
                space.scale(1.0 / options.lr, update)?;
                if audited.len() == i {
                    let (Passes { forward, backward, .. }, vectors) = cost;
                    let agreement = Default::default();
                    audited.push(Audited {
                        step: serde_json::to_value(spec)?,
                        agreement,
                        forward,
                        backward,
                        vectors,
                    });
                }
                for (mean, &gradient) in audited[i].agreement.iter_mut().zip(&exact) {
                    let (norm, length) = (space.norm(gradient)?, space.norm(update)?);
                    let share = 1.0 / batches.len() as f64;
                    mean.cosine += share * space.dot(update, gradient)? / (norm * length);
                    mean.ratio += share * length / norm;
                }
            }
        }
        Ok((audited, greatest))
    }

    /// Calls a function with the problem of a batch.
    fn on<T>(&mut self, rows: &[usize], work: impl FnOnce(&mut StepProblem<'_>) -> Result<T>) -> Result<T> {
        let state = self.objective.state();
        let batch = Batch::new(self.data.rows, rows, self.view, None)?;
        let upper = UpperLevel { objective: self.objective, data: self.data, batch };
        let lower = LowerTerm {
            objective: &mut *self.lower,
            data: self.data,
            shared: true,
            draw: Box::new(|| rows.to_vec()),
        };
        let setting = StepSetting { progress: self.progress, micro_batch: None };
        // No step in the audit uses the optimizer.
        let done = work(&mut StepProblem::new(self.session, upper, vec![lower], setting, None)?);
        // Every step must see the objective in the same state.
        self.objective.restore(&state)?;
        done
    }
}

fn table(audited: &[Audited]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    fit(&mut table);
    table.set_header(["step"].into_iter().chain(PROBLEMS).chain(["forward", "backward", "vectors"]));
    for row in audited {
        let cells = row.agreement.iter().map(Agreement::to_string);
        let counts = [row.forward, row.backward, row.vectors].map(|n| n.to_string());
        table.add_row(std::iter::once(in_words(&row.step)).chain(cells).chain(counts));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A step's table on one line: `penalty lambda=1.0 value=reference`.
fn in_words(step: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(table) => table.keys().cloned().collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    match step {
        Value::Object(table) => {
            let keys = table.iter().filter(|(key, _)| *key != "step");
            let keys = keys.map(|(key, value)| format!(" {key}={}", word(value)));
            word(&table["step"]) + &keys.collect::<String>()
        }
        name => word(name),
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cosine {
            c if !c.is_finite() => write!(f, "-"),
            // Values that round to 1 are shown by their distance from 1.
            c if c > 0.99995 => write!(f, "1 - {:.0e}, {:.3}", (1.0 - c).abs(), self.ratio),
            c => write!(f, "{c:.4}, {:.3}", self.ratio),
        }
    }
}
