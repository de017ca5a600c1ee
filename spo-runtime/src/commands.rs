//! The command line: one file per command.

mod answering;
mod audit;
mod cache;
mod chat;
mod check;
mod convert;
mod describe;
mod eval;
mod export;
mod generate;
mod import;
mod inline;
mod list;
mod loss;
mod mass;
mod options;
mod plugin;
mod replay;
mod report;
mod resume;
mod run;
mod saved_model;
mod saved_run;
mod schema;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand};
use spo_api::Registry;
use spo_loader::guard;

use crate::error::{exit_code, report};
use crate::plan::libraries;
use crate::reporter::{complain, unsaid};

/// Tunes language models on human preferences.
///
/// `spo-run recipe.toml` runs a recipe.
#[derive(Parser)]
#[command(name = "spo-run", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plugins: options::PluginArguments,
    #[command(flatten)]
    run: run::RunArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a recipe and show what would be trained on; trains nothing.
    Check(check::CheckArguments),
    /// Continue a run that was interrupted, from its last checkpoint.
    Resume(resume::ResumeArguments),
    /// Compute a batch again whose numbers were not finite, row by row.
    Replay(replay::ReplayArguments),
    /// List the objectives, bilevel steps, optimizers, schedules and backends.
    List,
    /// Tell everything about one of them.
    Describe(describe::DescribeArguments),
    /// Continue prompts with a saved model.
    Generate(generate::GenerateArguments),
    /// Talk with a saved model, or with two.
    Chat(chat::ChatArguments),
    /// Measure a saved model on rows of data: pairs, answers, questions with choices.
    Eval(eval::EvalArguments),
    /// Make a recipe of a configuration or a command line of TRL.
    Import(import::ImportArguments),
    /// Write a saved model with its adapter merged into the weights.
    Export(export::ExportArguments),
    /// Write the weights of a folder as safetensors, from `pytorch_model.bin` or in another type.
    Convert(convert::ConvertArguments),
    /// Begin a plugin, or put one to the test.
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Tell what runs came to, and how they compare: one HTML page with words and pictures.
    Report(spo_report::Arguments),
    /// Tell where the stages of a run took the probability of the held-out prompts.
    Mass(mass::MassArguments),
    /// Measure what bilevel steps do to the parameters against exact hypergradients.
    Audit(audit::AuditArguments),
    /// List what runs keep for each other in their cache, or remove what is old.
    Cache(cache::CacheArguments),
    /// Print the JSON Schema of recipes, for editors.
    Schema,
    /// Evaluate an objective on a JSON batch of log-probs from standard input.
    Loss(loss::LossArguments),
}

/// Runs the command line of this process. The registry contains the parts linked into the program.
pub fn main() -> ExitCode {
    guard::watch_exit();
    let arguments = Arguments::parse_from(command_first(std::env::args_os().collect()));
    let outcome = dispatch(&arguments).and_then(|()| match unsaid() {
        None => Ok(()),
        Some(error) => Err(anyhow!("cannot write standard output: {error}")),
    });
    // From here on, the program ends because it is done.
    guard::stand_down();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&report(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Moves options that stand before a command behind it, since the command is what knows them: `spo-run --json check
/// recipe.toml` is `spo-run check --json recipe.toml`.
fn command_first(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let known = Arguments::command();
    let takes_value = |option: &str| {
        let mut options = known.get_arguments();
        options.any(|known| known.get_long() == Some(option) && known.get_action().takes_values())
    };
    let word = |at: usize| arguments.get(at).and_then(|argument| argument.to_str());
    let mut at = 1;
    while let Some(option) = word(at).and_then(|word| word.strip_prefix("--")) {
        at += if takes_value(option) { 2 } else { 1 };
    }
    if word(at).is_some_and(|name| known.find_subcommand(name).is_some()) {
        arguments[1..=at].rotate_right(1);
    }
    arguments
}

fn dispatch(arguments: &Arguments) -> anyhow::Result<()> {
    let mut registry = Registry::linked()?;
    libraries::load(&mut registry, &arguments.plugins.load)?;
    let Some(command) = &arguments.command else { return arguments.run.run(&mut registry) };
    match command {
        Command::Check(check) => check.run(&mut registry),
        Command::Resume(resume) => resume.run(&mut registry),
        Command::Replay(replay) => replay.run(&mut registry),
        Command::List => list::run(&mut registry),
        Command::Describe(describe) => describe.run(&mut registry),
        Command::Generate(generate) => generate.run(&mut registry),
        Command::Chat(chat) => chat.run(&mut registry),
        Command::Eval(eval) => eval.run(&mut registry),
        Command::Export(export) => export.run(&mut registry),
        Command::Convert(convert) => convert.run(),
        Command::Import(import) => import.run(&registry),
        Command::Plugin { command } => command.run(),
        Command::Report(arguments) => report::run(arguments),
        Command::Mass(mass) => mass.run(&mut registry),
        Command::Audit(audit) => audit.run(&mut registry),
        Command::Cache(cache) => cache.run(),
        Command::Schema => schema::run(&mut registry),
        Command::Loss(loss) => loss.run(&mut registry),
    }
}
