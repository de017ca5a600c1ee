//! `spo-run check`: shows what a recipe would train on, without training.

use std::fmt::Write;
use std::path::PathBuf;

use spo_api::Registry;
use spo_data::{Dataset, Tokenizer};

use super::options::OverrideArguments;
use crate::plan::Plan;
use crate::recipe::document::Document;
use crate::reporter::say;
use crate::sweep;

/// Number of rows shown from each training set.
const SAMPLES: usize = 3;

#[derive(clap::Args)]
pub(crate) struct CheckArguments {
    /// The recipe.
    recipe: PathBuf,
    #[command(flatten)]
    overrides: OverrideArguments,
}

impl CheckArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let document = Document::read(&self.recipe, &self.overrides.set)?;
        say(&check(registry, &document)?);
        Ok(())
    }
}

/// Builds and checks everything a recipe names, and describes it.
fn check(registry: &mut Registry, document: &Document) -> anyhow::Result<String> {
    if document.get("sweep").is_some() {
        return sweep::check(registry, document);
    }
    let plan = Plan::new(registry, document)?;
    let mut out = plan.description().join("\n") + "\n";
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
            samples(&mut out, train, &plan.tokenizer);
        }
    }
    let info = plan.session.info();
    let _ = writeln!(out, "\n{}", memory(info.parameters, info.trainable));
    Ok(out)
}

/// The first rows, with the tokens that are trained on in brackets.
fn samples(out: &mut String, data: &Dataset, tokenizer: &Tokenizer) {
    let text = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_else(|e| format!("<{e}>"));
    for example in data.examples.iter().take(SAMPLES) {
        let _ = writeln!(out, "  {}", example.place);
        for group in &example.groups {
            let _ = writeln!(out, "    reads  {:?} ({} tokens)", text(&group.prompt), group.prompt.len());
            for completion in &group.completions {
                let _ = writeln!(out, "    scores [{:?}] ({} tokens)", text(completion), completion.len());
            }
        }
    }
}

/// Memory of parameters, gradient and optimizer moments, without activations.
fn memory(parameters: usize, trainable: usize) -> String {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    format!(
        "memory: {:.0} MiB of weights, {:.0} MiB of gradient and moments (f32), activations on top",
        mib(4 * parameters),
        mib(12 * trainable)
    )
}
