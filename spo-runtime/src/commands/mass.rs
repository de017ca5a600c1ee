//! `spo-run mass`: shows how the stages of a run redistributed the probability of the held-out prompts.

use std::fmt::Write;
use std::path::PathBuf;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use spo_api::Registry;
use spo_data::Tokenizer;

use super::options::TrustArguments;
use super::saved_run::SavedRun;
use crate::error::{BadInput, bad};
use crate::plan::fit;
use crate::reporter::say;
use crate::terminal::fit;
use crate::train::evaluate::mass::{Change, Ledger, Story, ledgers, stories};

#[derive(clap::Args)]
pub(crate) struct MassArguments {
    /// The folder of a run whose stages saved their models.
    run: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
    /// Tell of this stage alone.
    #[arg(long)]
    stage: Option<String>,
    /// Prompts whose answers are followed one by one.
    #[arg(long, default_value_t = 8)]
    prompts: usize,
    /// Answers named for each of them: those that gained most.
    #[arg(long, default_value_t = 3)]
    answers: usize,
}

impl MassArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        say(&mass(registry, self)?);
        Ok(())
    }
}

/// Shows for every stage how the probability of the held-out prompts was divided before and after training.
/// If all answers can be enumerated, also shows which of them gained most.
///
/// # Errors
/// [`BadInput`] if the folder holds no run, or the run has no such stage or no held-out rows.
fn mass(registry: &mut Registry, arguments: &MassArguments) -> anyhow::Result<String> {
    let run = SavedRun::open(registry, &arguments.run, arguments.trust.trust_plugins)?;
    let stages = &run.plan.stages;
    let wanted = |name: &str| arguments.stage.as_deref().is_none_or(|stage| stage == name);
    if !stages.iter().any(|s| wanted(&s.recipe.name)) {
        let names: Vec<_> = stages.iter().map(|s| s.recipe.name.as_str()).collect();
        let message = format!("error: --stage: the run has no such stage, only {}", names.join(", "));
        return Err(BadInput(message).into());
    }
    let tokenizer = &run.plan.tokenizer;
    let mut out = String::new();
    for stage in stages.iter().filter(|s| wanted(&s.recipe.name)) {
        let name = &stage.recipe.name;
        let Some(data) = &stage.eval else {
            return Err(bad(format!("stage `{name}` has no held-out rows (`data.eval`)")).into());
        };
        if let Some(problem) = fit::too_long_together(data, &run.plan.session.info()) {
            return Err(bad(format!("stage `{name}`: `spo-run mass` {problem}")).into());
        }
        let (mut before, mut after) = (run.model(&stage.from)?, run.model(name)?);
        let divided = [ledgers(&mut *before, data)?, ledgers(&mut *after, data)?];
        let _ =
            writeln!(out, "stage {name}, from {}: {} held-out prompts, mean", stage.from, divided[0].len());
        let _ = writeln!(out, "{}\n", division(&Ledger::mean(&divided[0]), &Ledger::mean(&divided[1])));
        let Some((_, stop)) = tokenizer.eos() else { continue };
        match stories(&mut *before, &mut *after, data, stop)? {
            Some(stories) => {
                let told = &stories[..stories.len().min(arguments.prompts)];
                let _ = writeln!(out, "{}\n", answers(told, tokenizer, arguments.answers));
            }
            None => {
                let _ = writeln!(out, "The answers are too many to be listed one by one.\n");
            }
        }
    }
    Ok(out)
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    fit(&mut table);
    table
}

fn percent(p: f64) -> String {
    format!("{:.1}%", 100.0 * p)
}

fn division(before: &Ledger, after: &Ledger) -> Table {
    let mut table = table();
    for ((name, before), (_, after)) in before.parts().into_iter().zip(after.parts()) {
        table.add_row([name.to_owned(), percent(before), "->".into(), percent(after)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn answers(stories: &[Story], tokenizer: &Tokenizer, named: usize) -> Table {
    let text = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_else(|e| format!("<{e}>"));
    let shown = |change: &Change| {
        let answer =
            change.answer.as_deref().map_or("(without end)".to_owned(), |ids| text(&ids[..ids.len() - 1]));
        let answer = if answer.is_empty() { "(nothing)".to_owned() } else { answer };
        format!("{answer} {} -> {}", percent(change.before), percent(change.after))
    };
    let mut table = table();
    table.set_header(["prompt", "preferred", "gained most"]);
    for story in stories {
        let gained = story.others.iter().take(named).filter(|c| c.after > c.before).map(shown);
        table.add_row([text(&story.prompt), shown(&story.preferred), gained.collect::<Vec<_>>().join(", ")]);
    }
    table
}
