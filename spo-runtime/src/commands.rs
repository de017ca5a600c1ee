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
#[cfg(feature = "man")]
mod man;
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
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use spo_api::Registry;
use spo_loader::guard;

use crate::error::{exit_code, report};
use crate::plan::libraries;
use crate::reporter::{complain, say, unsaid};
use crate::stop::survive_file_limits;

/// Tunes language models on human preferences.
///
/// `spo-run recipe.toml` runs a recipe.
#[derive(Parser)]
#[command(
    name = "spo-run",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Examples:
  spo-run recipe.toml
  spo-run recipe.toml --set stage.align.objective.beta=0.2 --set run.seed=1"
)]
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
    #[command(after_help = "Example:
  spo-run resume runs/mine")]
    Resume(resume::ResumeArguments),
    /// Compute a batch again whose numbers were not finite, row by row.
    #[command(after_help = "Example:
  spo-run replay runs/mine/nonfinite/align")]
    Replay(replay::ReplayArguments),
    /// List the objectives, bilevel steps, optimizers, schedules and backends.
    #[command(after_help = "Example:
  spo-run list")]
    List,
    /// Tell everything about one of them.
    #[command(after_help = "Example:
  spo-run describe simpo")]
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
    #[command(after_help = "Examples:
  spo-run export models/base --adapter runs/mine/align merged
  spo-run export merged --gguf q8_0 merged.gguf")]
    Export(export::ExportArguments),
    /// Write the weights of a folder as safetensors, from `pytorch_model.bin` or in another type.
    #[command(after_help = "Examples:
  spo-run convert models/old models/new
  spo-run convert models/base models/half --dtype bf16")]
    Convert(convert::ConvertArguments),
    /// Begin a plugin, or put one to the test.
    #[command(after_help = "Examples:
  spo-run plugin new my-loss
  spo-run plugin test my-loss/target/release/libmy_loss.so")]
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Tell what runs came to, and how they compare: one HTML page with words and pictures.
    #[command(after_help = "Examples:
  spo-run report runs/mine
  spo-run report runs/sweep --baseline dpo --output sweep.html")]
    Report(spo_report::Arguments),
    /// Tell where the stages of a run took the probability of the held-out prompts.
    #[command(after_help = "Example:
  spo-run mass runs/mine --stage align")]
    Mass(mass::MassArguments),
    /// Measure what bilevel steps do to the parameters against exact hypergradients.
    #[command(after_help = "Example:
  spo-run audit runs/enumerable --step '{ step = \"penalty\", lambda = 3.0 }'")]
    Audit(audit::AuditArguments),
    /// List what runs keep for each other in their cache, or remove what is old.
    #[command(after_help = "Examples:
  spo-run cache
  spo-run cache --prune --older-than 30")]
    Cache(cache::CacheArguments),
    /// Print the JSON Schema of recipes, for editors.
    #[command(after_help = "Example:
  spo-run schema")]
    Schema,
    /// Evaluate an objective on a JSON batch of log-probs from standard input.
    #[command(after_help = "Example:
  spo-run loss --objective '{ name = \"dpo\", beta = 0.1 }'")]
    Loss(loss::LossArguments),
    /// Print a script that completes commands and options in a shell.
    #[command(
        hide = true,
        after_help = "Example:
  spo-run completions bash"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page for every command into a folder.
    #[cfg(feature = "man")]
    #[command(
        hide = true,
        after_help = "Example:
  spo-run man target/man"
    )]
    Man {
        /// The folder.
        folder: std::path::PathBuf,
    },
}

/// Runs the command line of this process. The registry contains the parts linked into the program.
pub fn main() -> ExitCode {
    guard::watch_exit();
    let given = command_line().get_matches_from(command_first(std::env::args_os().collect()));
    let arguments = Arguments::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    let outcome = survive_file_limits().and_then(|()| dispatch(&arguments)).and_then(|()| match unsaid() {
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

/// The command line with everything that its help and its version tell.
fn command_line() -> clap::Command {
    // It lives as long as the program.
    let version: &str = version::long().leak();
    Arguments::command().long_version(version)
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
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command_line(), "spo-run", &mut script);
            say(&String::from_utf8_lossy(&script));
            Ok(())
        }
        #[cfg(feature = "man")]
        Command::Man { folder } => man::write(command_line(), folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a line as a shell does: at spaces outside of quotes.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote) = (vec![String::new()], None);
        for c in line.chars() {
            match (c, quote) {
                (' ', None) => words.push(String::new()),
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (c, _) => words.last_mut().unwrap().push(c),
            }
        }
        words
    }

    fn examples(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<&str> = after.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(!lines.is_empty() || path.contains(" plugin "), "`{path}` has no example in its help");
        found.extend(lines.into_iter().map(str::to_owned));
        let inner = command.get_subcommands().filter(|command| command.get_name() != "help");
        inner.for_each(|command| examples(command, &path, found));
    }

    #[test]
    fn the_help_of_every_command_has_an_example_that_is_one() {
        let mut found = Vec::new();
        examples(&command_line(), "", &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for line in found {
            assert!(line.starts_with("spo-run "), "{line}");
            let parsed = Arguments::try_parse_from(words(&line));
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
        }
    }
}
