//! The `spo-run` command.
#![deny(unsafe_code)]

mod allocator;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
// Parts register themselves where their crate is named.
use spo_backend_candle as _;
use spo_backend_tabular as _;
use spo_objectives as _;
use spo_runtime::audit::{AuditArguments, audit};
use spo_runtime::cache_command::CacheArguments;
use spo_runtime::document::Document;
use spo_runtime::error::{BadInput, exit_code, report};
use spo_runtime::mass_report::{MassArguments, mass};
use spo_runtime::model::{Answering, SavedModel};
use spo_runtime::plugin_command::PluginCommand;
use spo_runtime::reporter::{Reporter, Voice, say};
use spo_runtime::{check, describe, loss, plugins, recipe, replay, resume, run, sweep};

/// Tunes language models on human preferences.
///
/// `spo-run recipe.toml` runs a recipe.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    plugins: PluginArguments,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(clap::Args)]
struct PluginArguments {
    /// A plugin to load: a path, or a name to look for in the search path. May be repeated.
    #[arg(long = "plugin", value_name = "LIBRARY", global = true)]
    load: Vec<String>,
}

#[derive(clap::Args)]
struct RunArguments {
    /// The recipe to run.
    recipe: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    voice: VoiceArguments,
}

#[derive(clap::Args)]
struct VoiceArguments {
    /// Speak JSON, one object a line.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Say nothing but errors.
    #[arg(long)]
    quiet: bool,
}

impl VoiceArguments {
    fn reporter(&self) -> Reporter {
        Reporter::new(match (self.json, self.quiet) {
            (true, _) => Voice::Json,
            (_, true) => Voice::Quiet,
            _ => Voice::Human,
        })
    }
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
    /// Continue a run that was interrupted, from its last checkpoint.
    Resume {
        /// The run's folder.
        run: PathBuf,
        #[command(flatten)]
        voice: VoiceArguments,
    },
    /// Compute a batch again whose numbers were not finite, row by row.
    Replay {
        /// The run's folder, or that of one batch in its `nonfinite` folder.
        run: PathBuf,
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
    /// Begin a plugin, or put one to the test.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Tell what runs came to, and how they compare: one HTML page with words and pictures.
    Report(spo_report::Arguments),
    /// Tell where the stages of a run took the probability of the held-out prompts.
    Mass(MassArguments),
    /// Measure what bilevel steps do to the parameters against exact hypergradients.
    Audit(AuditArguments),
    /// List what runs keep for each other in their cache, or remove what is old.
    Cache(CacheArguments),
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
    allocator::keep_freed_memory();
    match dispatch(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", report(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn dispatch(arguments: Arguments) -> anyhow::Result<()> {
    let mut registry = spo_api::Registry::linked()?;
    plugins::load(&mut registry, &arguments.plugins.load)?;
    match arguments.command {
        None => {
            let options = arguments.run;
            let recipe = options.recipe.ok_or_else(|| BadInput("error: which recipe?".into()))?;
            let document = Document::read(&recipe, &options.overrides.set)?;
            match document.get("sweep") {
                Some(_) => sweep::run(&mut registry, &document, &options.voice.reporter()),
                None => run::run(&mut registry, &document, options.voice.reporter()),
            }
        }
        Some(Command::Resume { run, voice }) => resume::resume(&mut registry, &run, voice.reporter()),
        Some(Command::Check { recipe, overrides }) => {
            let document = Document::read(&recipe, &overrides.set)?;
            say(&check::check(&mut registry, &document)?);
            Ok(())
        }
        Some(Command::Replay { run }) => {
            say(&replay::replay(&mut registry, &run)?);
            Ok(())
        }
        Some(Command::List) => {
            plugins::load_all(&mut registry, None)?;
            say(&describe::list(&registry));
            Ok(())
        }
        Some(Command::Describe { name }) => {
            if describe::describe(&registry, &name).is_err() {
                plugins::load_all(&mut registry, None)?;
            }
            say(&describe::describe(&registry, &name)?);
            Ok(())
        }
        Some(Command::Generate { model, how, prompt }) => {
            let answers = model.generate(&mut registry, &prompt, &how)?;
            say(&answers.join("\n"));
            Ok(())
        }
        Some(Command::Export { model, output }) => model.export(&mut registry, &output),
        Some(Command::Report(what)) => {
            let told = spo_report::report(&what).map_err(|e| match e {
                spo_report::Error::Input(message) => anyhow::Error::new(BadInput(message)),
                failed => failed.into(),
            })?;
            say(&told.join("\n"));
            Ok(())
        }
        Some(Command::Mass(arguments)) => {
            say(&mass(&mut registry, &arguments)?);
            Ok(())
        }
        Some(Command::Audit(arguments)) => {
            say(&audit(&mut registry, &arguments)?);
            Ok(())
        }
        Some(Command::Cache(arguments)) => {
            say(&arguments.run()?);
            Ok(())
        }
        Some(Command::Schema) => {
            say(&recipe::schema());
            Ok(())
        }
        Some(Command::Plugin { command }) => command.run(),
        Some(Command::Loss { objective }) => {
            loss::run(&mut registry, &objective, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
        }
    }
}
