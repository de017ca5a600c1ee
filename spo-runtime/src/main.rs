//! The `spo-run` command.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
// Parts register themselves where their crate is named.
use spo_backend_candle as _;
use spo_objectives as _;
use spo_runtime::document::Document;
use spo_runtime::error::{BadInput, exit_code};
use spo_runtime::model::{Answering, SavedModel};
use spo_runtime::reporter::{Reporter, Voice};
use spo_runtime::{check, describe, loss, recipe, run};

// Training allocates and frees large buffers all the time: the system's allocator gives them back to
// the kernel and asks anew, a third of the time of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tunes language models on human preferences.
///
/// `spo-run recipe.toml` runs a recipe.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(clap::Args)]
struct RunArguments {
    /// The recipe to run.
    recipe: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Speak JSON, one object a line.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Say nothing but errors.
    #[arg(long)]
    quiet: bool,
}

#[derive(clap::Args)]
struct Overrides {
    /// Override a key of the recipe: `--set stage.align.objective.beta=0.2`.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Validate a recipe and show what would be trained on; trains nothing.
    Check {
        /// The recipe.
        recipe: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// List the objectives, bilevel steps and backends.
    List,
    /// Tell everything about one of them.
    Describe {
        /// Its name.
        name: String,
    },
    /// Continue prompts with a saved model.
    Generate {
        #[command(flatten)]
        model: SavedModel,
        #[command(flatten)]
        how: Answering,
        /// A prompt; with a chat template, the user's message.
        #[arg(required = true)]
        prompt: Vec<String>,
    },
    /// Write a saved model with its adapter merged into the weights.
    Export {
        #[command(flatten)]
        model: SavedModel,
        /// The folder to write.
        output: PathBuf,
    },
    /// Tell what runs came to, and how they compare: one HTML page with words and pictures.
    Report(spo_report::Arguments),
    /// Print the JSON Schema of recipes, for editors.
    Schema,
    /// Evaluate an objective on a JSON batch of log-probs from standard input.
    Loss {
        /// The objective as inline TOML: '{ name = "dpo", beta = 0.1 }'.
        #[arg(long)]
        objective: String,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            let prefix = if text.starts_with("error") { "" } else { "error: " };
            eprintln!("{prefix}{text}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<()> {
    let registry = spo_api::Registry::linked()?;
    match arguments.command {
        None => {
            let options = arguments.run;
            let recipe = options.recipe.ok_or_else(|| BadInput("error: which recipe?".into()))?;
            let voice = match (options.json, options.quiet) {
                (true, _) => Voice::Json,
                (_, true) => Voice::Quiet,
                _ => Voice::Human,
            };
            let document = Document::read(&recipe, &options.overrides.set)?;
            run::run(&registry, &document, Reporter::new(voice))
        }
        Some(Command::Check { recipe, overrides }) => {
            let document = Document::read(&recipe, &overrides.set)?;
            print!("{}", check::check(&registry, &document)?);
            Ok(())
        }
        Some(Command::List) => {
            print!("{}", describe::list(&registry));
            Ok(())
        }
        Some(Command::Describe { name }) => {
            print!("{}", describe::describe(&registry, &name)?);
            Ok(())
        }
        Some(Command::Generate { model, how, prompt }) => {
            let answers = model.generate(&registry, &prompt, &how)?;
            println!("{}", answers.join("\n"));
            Ok(())
        }
        Some(Command::Export { model, output }) => model.export(&registry, &output),
        Some(Command::Report(what)) => {
            let told = spo_report::report(&what).map_err(|e| match e {
                spo_report::Error::Input(message) => anyhow::Error::new(BadInput(message)),
                failed => failed.into(),
            })?;
            println!("{}", told.join("\n"));
            Ok(())
        }
        Some(Command::Schema) => {
            println!("{}", recipe::schema());
            Ok(())
        }
        Some(Command::Loss { objective }) => {
            loss::run(&registry, &objective, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
        }
    }
}
