//! `spo-run import`: makes a recipe of a configuration or a command line of TRL.

mod command_line;
mod draft;
mod file;
mod left_out;
mod settings;
mod trl;
mod yaml;

use std::path::PathBuf;

use spo_api::Registry;

use crate::error::BadInput;
use crate::recipe::compose;
use crate::recipe::document::Document;
use crate::reporter::{complain, say};
use crate::store::write::write_text;

use settings::Settings;
use trl::Trainer;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  spo-run import dpo.yaml --trainer dpo --output recipe.toml
  spo-run import -- trl dpo --model_name_or_path models/base --dataset_name rows.jsonl --learning_rate 5e-7")]
pub(crate) struct ImportArguments {
    /// A YAML file as `trl dpo --config FILE` reads it.
    #[arg(required_unless_present = "command")]
    file: Option<PathBuf>,
    /// The trainer that the file is for; told by its keys if they are those of one trainer alone.
    #[arg(long, value_enum)]
    trainer: Option<Trainer>,
    /// The recipe to write, instead of printing it.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A command line, after `--`: `trl dpo ...`, or one with a script such as `dpo.py`.
    #[arg(last = true, conflicts_with = "file")]
    command: Vec<String>,
}

impl ImportArguments {
    /// Makes the recipe, checks that it is one, and prints or writes it.
    pub(crate) fn run(&self, registry: &Registry) -> anyhow::Result<()> {
        let (settings, named) = match &self.file {
            Some(file) => (file::read(file)?, None),
            None => command_line::read(&self.command)?,
        };
        let trainer = trainer(self.trainer.or(named), &settings)?;
        let recipe = trl::recipe(trainer, settings)?;
        check(registry, &recipe.text)?;
        recipe.loud.iter().for_each(|message| complain(&format!("warning: {message}")));
        match &self.output {
            Some(output) => Ok(write_text(output, &recipe.text)?),
            None => {
                say(&recipe.text);
                Ok(())
            }
        }
    }
}

/// Whatever a configuration says, what is written is a recipe whose parts are there.
fn check(registry: &Registry, text: &str) -> Result<(), BadInput> {
    let document = Document::parse("the imported recipe", text.to_owned(), &[])?;
    for stage in document.to_recipe()?.stage {
        let optimizer = &stage.optimizer;
        compose::objective(registry, &stage.objective, None)
            .and_then(|_| optimizer.part.build(registry, Registry::optimizer))
            .and_then(|_| optimizer.own.schedule.part.build(registry, Registry::schedule))
            .map_err(|e| document.locate("", e))?;
    }
    Ok(())
}

/// The trainer that was named, or the only one that has the keys.
fn trainer(named: Option<Trainer>, settings: &Settings) -> Result<Trainer, BadInput> {
    let of_keys = || {
        let told = [
            (Trainer::Kto, ["desirable_weight", "undesirable_weight"].as_slice()),
            (Trainer::Cpo, &["cpo_alpha", "simpo_gamma"]),
            (
                Trainer::Dpo,
                &[
                    "loss_type",
                    "rpo_alpha",
                    "precompute_ref_log_probs",
                    "sync_ref_model",
                    "ld_alpha",
                    "f_divergence_type",
                    "discopop_tau",
                ],
            ),
            (Trainer::Sft, &["packing", "assistant_only_loss", "completion_only_loss", "dataset_text_field"]),
        ];
        told.into_iter()
            .find(|(_, keys)| keys.iter().any(|key| settings.has(key)))
            .map(|(trainer, _)| trainer)
    };
    named.or_else(of_keys).ok_or_else(|| {
        BadInput(
            "error: no key tells which trainer this is for: say --trainer dpo, sft, kto, cpo or orpo".into(),
        )
    })
}
