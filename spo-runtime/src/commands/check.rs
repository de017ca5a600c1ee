//! `spo-run check`: shows what a recipe would train on, without training.

mod tokens;
mod trial;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use spo_api::Registry;
use spo_data::{Dataset, Example, Report, Tokenizer};

use super::options::OverrideArguments;
use crate::plan::Plan;
use crate::plan::memory::Forecast;
use crate::recipe::document::Document;
use crate::reporter::say;
use crate::store::output;
use crate::sweep;

/// Number of rows shown from each training set.
const SAMPLES: usize = 3;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  spo-run check recipe.toml --tokens 2
  spo-run check recipe.toml --time --set stage.align.batch_size=4")]
pub(crate) struct CheckArguments {
    /// The recipe.
    recipe: PathBuf,
    #[command(flatten)]
    overrides: OverrideArguments,
    /// Show so many rows of each training set token by token, with ids and with what is trained on.
    #[arg(long, value_name = "N", conflicts_with = "json")]
    tokens: Option<usize>,
    /// Forecast the time of the run and the most memory: scores a batch and trains three steps of every stage, and
    /// keeps nothing of it.
    #[arg(long)]
    time: bool,
    /// Speak JSON: one object, with the token ids of the rows shown.
    #[arg(long)]
    json: bool,
}

impl CheckArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let document = Document::read(&self.recipe, &self.overrides.set)?;
        if document.get("sweep").is_some() {
            if self.time || self.tokens.is_some() {
                let message =
                    "--time and --tokens look at one run: leave `[sweep]` out, or check the recipe of a cell";
                return Err(document.error("sweep", message).into());
            }
            let listing = sweep::check(registry, &document)?;
            say(&if self.json { serde_json::to_string(&listing)? } else { listing.to_string() });
            return Ok(());
        }
        let plan = Plan::new(registry, &document)?;
        plan.memory().check(&document)?;
        let mut object = if self.json { as_json(&plan)? } else { Value::Null };
        if !self.json {
            say(&as_text(&plan)?);
        }
        if let Some(count) = self.tokens {
            tokens::show(&training_sets(&plan), &plan.tokenizer, count)?;
        }
        if self.time {
            let time = trial::Time::measure(registry, plan)?;
            match self.json {
                true => object["time"] = time.json(),
                false => say(&time.to_string()),
            }
        }
        if self.json {
            say(&object.to_string());
        }
        Ok(())
    }
}

/// What the stages train on, each set once.
fn training_sets(plan: &Plan) -> Vec<&Dataset> {
    let mut sets: Vec<&Dataset> = Vec::new();
    for stage in &plan.stages {
        if !sets.iter().any(|set| std::ptr::eq(*set, &*stage.train)) {
            sets.push(&stage.train);
        }
    }
    sets
}

/// Describes what was built and checked.
fn as_text(plan: &Plan) -> spo_api::Result<String> {
    let mut out = plan.description().join("\n") + "\n";
    let forms = plan.data.iter().flat_map(|(_, data)| &data.report.forms);
    let forms: BTreeSet<_> = forms.map(|(file, form)| format!("{}: {form}", file.display())).collect();
    for form in forms {
        let _ = writeln!(out, "{form}");
    }
    let plain: BTreeSet<_> = plan.data.iter().flat_map(|(_, data)| data.report.plain_text()).collect();
    if plan.tokenizer.has_chat_template() && !plain.is_empty() {
        let files: Vec<_> = plain.iter().map(|file| file.display().to_string()).collect();
        let _ = writeln!(
            out,
            "warning: the model has a chat template, and rows of plain text are trained on without it ({}). To use it, make \
             the prompt a list of messages, or map its column to `question` instead of `prompt`: columns = {{ question = ... }}",
            files.join(", ")
        );
    }
    if let Some(message) = output::in_the_way(&plan.output, &plan.recipe) {
        let _ = writeln!(out, "warning: {message}");
    }
    let mut shown: Vec<*const Dataset> = Vec::new();
    for stage in &plan.stages {
        let recipe = &stage.recipe;
        let _ = writeln!(
            out,
            "\nstage {}: from {}, step {}, {} steps of {} rows",
            recipe.name,
            stage.from,
            stage.step_name(),
            stage.steps,
            recipe.batch_size
        );
        let train = &*stage.train;
        if !shown.contains(&std::ptr::from_ref(train)) {
            shown.push(train);
            samples(&mut out, train, &plan.tokenizer)?;
        }
    }
    let Forecast { weights, gradient, moments, .. } = plan.memory();
    let [weights, gradient, moments] =
        [weights, gradient, moments].map(|bytes| bytes as f64 / f64::from(1 << 20));
    let _ = writeln!(
        out,
        "\nmemory: {weights:.0} MiB of weights, {gradient:.0} MiB of gradient, {moments:.0} MiB of moments, activations on top"
    );
    Ok(out)
}

/// The first rows, with the tokens that are trained on in brackets.
fn samples(out: &mut String, data: &Dataset, tokenizer: &Tokenizer) -> spo_api::Result<()> {
    let text = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_else(|e| format!("<{e}>"));
    for example in data.examples.iter().take(SAMPLES) {
        let _ = writeln!(out, "  {}", example.place);
        let mut answer = 0;
        for group in &*example.groups()? {
            let _ = writeln!(out, "    reads  {:?} ({} tokens)", text(&group.prompt), group.prompt.len());
            for completion in &group.completions {
                let mut read = 0;
                for span in example.scored(answer, completion.len()) {
                    if span.start > read {
                        let between = &completion[read..span.start];
                        let _ = writeln!(out, "    reads  {:?} ({} tokens)", text(between), between.len());
                    }
                    read = span.end;
                    let _ = writeln!(
                        out,
                        "    scores [{:?}] ({} tokens)",
                        text(&completion[span.clone()]),
                        span.len()
                    );
                }
                answer += 1;
            }
        }
    }
    Ok(())
}

/// The same as a JSON object, with token ids.
fn as_json(plan: &Plan) -> spo_api::Result<Value> {
    let info = plan.session.info();
    let data = plan.data.iter().map(|(source, data)| {
        let layout = format!("{:?}", data.layout).to_lowercase();
        json!({ "source": source, "layout": layout, "report": report(&data.report) })
    });
    let stages = plan.stages.iter().map(|stage| {
        let rows = stage.train.examples.iter().take(SAMPLES);
        let rows =
            rows.map(|example| sample(example, &plan.tokenizer)).collect::<spo_api::Result<Vec<_>>>()?;
        Ok(json!({
            "name": stage.recipe.name,
            "from": stage.from,
            "step": stage.step_name(),
            "steps": stage.steps,
            "batch_size": stage.recipe.batch_size,
            "rows": rows,
        }))
    });
    let stages = stages.collect::<spo_api::Result<Vec<_>>>()?;
    let Forecast { weights, gradient, moments, .. } = plan.memory();
    Ok(json!({
        "name": plan.name,
        "model": {
            "architecture": info.architecture,
            "parameters": info.parameters,
            "trainable": info.trainable,
            "dtype": info.dtype,
            "device": info.device,
        },
        "plugins": plan.libraries,
        "data": data.collect::<Vec<_>>(),
        "stages": stages,
        "memory": { "weights": weights, "gradient": gradient, "moments": moments },
    }))
}

fn report(report: &Report) -> Value {
    let findings = report.findings.iter().map(|(finding, found)| {
        json!({
            "finding": finding,
            "dropped": finding.dropped(),
            "rows": found.count,
            "first": found.first.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "detail": found.detail,
        })
    });
    let unused = report.unused.iter().map(|(file, columns)| (file.display().to_string(), json!(columns)));
    json!({
        "read": report.read,
        "kept": report.kept,
        "findings": findings.collect::<Vec<_>>(),
        "left_out": report.left_out,
        "forms": report.forms.iter().map(|(file, form)| (file.display().to_string(), json!(form))).collect::<serde_json::Map<_, _>>(),
        "columns_not_used": unused.collect::<serde_json::Map<_, _>>(),
    })
}

/// A row: what is read and what is scored, as text and as token ids.
fn sample(example: &Example, tokenizer: &Tokenizer) -> spo_api::Result<Value> {
    let tokens = |ids: &[u32]| json!({ "text": tokenizer.decode(ids).ok(), "ids": ids });
    let mut answer = 0;
    let groups = example.groups()?;
    let groups = groups.iter().map(|group| {
        let scores = group.completions.iter().map(|ids| {
            let mut told = tokens(ids);
            if let Some(spans) = example.scored.get(answer) {
                told["scored"] = spans.iter().map(|span| [span.start, span.end]).collect::<Vec<_>>().into();
            }
            answer += 1;
            told
        });
        json!({ "reads": tokens(&group.prompt), "scores": scores.collect::<Vec<_>>() })
    });
    Ok(json!({ "place": example.place.to_string(), "groups": groups.collect::<Vec<_>>() }))
}
