//! The recipe: the contents of a TOML file. The doc comments become its reference.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spo_api::{ConfigError, Part};

mod adapter;
mod backend;
pub(crate) mod bilevel;
pub(crate) mod compose;
pub(crate) mod data;
mod diagnostics;
pub(crate) mod document;
mod elsewhere;
mod every;
mod extends;
mod keeping;
mod name;
pub(crate) mod objective;
pub(crate) mod optimizer;
pub(crate) mod part;
pub(crate) mod schema;
mod sections;
mod stage;
mod sweep;

pub(crate) use backend::BackendSpec;
pub(crate) use data::DataSection;
pub(crate) use diagnostics::{Action, Diagnostics, Guard};
pub(crate) use keeping::{CacheSection, CheckpointSection, OnNonfinite, Resume};
pub(crate) use sections::{EvaluationSection, ModelSection, PluginsSection, RunSection};
pub(crate) use stage::{EarlyStopping, External, Moving, Reference, Stage};
pub(crate) use sweep::Sweep;

use data::Rows;
use every::Every;
use part::PartSpec;

/// A run: a model, preference data, and the stages that train one on the other.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Another recipe, from whose keys this one begins: a path, relative to this file. Tables are merged key by key,
    /// stages by their names; every other value replaces the one there. A part that is given another name, and a key that excludes
    /// another (`steps` and `epochs`), replace what stood in its place. `--set` comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) extends: Option<PathBuf>,
    /// What the run is called and where it goes.
    #[serde(default)]
    pub(crate) run: RunSection,
    /// The model to train.
    pub(crate) model: ModelSection,
    /// The engine that runs it: a name, or a table.
    #[serde(default, deserialize_with = "backend::name_or_table")]
    #[schemars(schema_with = "backend::schema")]
    pub(crate) backend: BackendSpec,
    /// Parts that are not built in.
    #[serde(default, skip_serializing_if = "PluginsSection::is_empty")]
    pub(crate) plugins: PluginsSection,
    /// The data every stage learns from, unless it names its own.
    pub(crate) data: DataSection,
    /// What is measured on held-out data.
    #[serde(default)]
    pub(crate) evaluation: EvaluationSection,
    /// What is followed while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) diagnostics: Option<Diagnostics>,
    /// What an interrupted run continues from.
    #[serde(default)]
    pub(crate) checkpoint: CheckpointSection,
    /// Work that runs share.
    #[serde(default)]
    pub(crate) cache: CacheSection,
    /// Many runs of this recipe instead of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sweep: Option<Sweep>,
    /// The stages, in order: `[[stage]]`.
    #[schemars(length(min = 1))]
    pub(crate) stage: Vec<Stage>,
}

impl Recipe {
    /// Records every part's location in the recipe, for error messages.
    pub(crate) fn place_parts(&mut self) {
        self.data.place("data");
        for (i, stage) in self.stage.iter_mut().enumerate() {
            stage.place(&format!("stage[{i}]"));
        }
    }

    /// The kinds and names of all parts it uses.
    pub(crate) fn parts(&self) -> Vec<(&'static str, &str)> {
        let mut parts = vec![("backend", self.backend.name.as_str())];
        for stage in &self.stage {
            let lower = stage.bilevel.own.lower.iter().flat_map(|lower| lower.parts());
            let levels = stage.objective.parts().into_iter().chain([&stage.bilevel.part]).chain(lower);
            let motion = [&stage.optimizer.part, &stage.optimizer.own.schedule.part];
            parts.extend(levels.chain(motion).map(PartSpec::identity));
        }
        parts
    }

    /// The files of rows that it names.
    pub(crate) fn rows(&self) -> Vec<&Rows> {
        let sections =
            [&self.data].into_iter().chain(self.stage.iter().filter_map(|stage| stage.data.as_ref()));
        let lower = self.stage.iter().flat_map(|stage| stage.bilevel.rows());
        sections.flat_map(|data| [&data.train, &data.eval]).flatten().chain(lower).collect()
    }

    /// The files of rows that it names.
    pub(crate) fn rows_mut(&mut self) -> Vec<&mut Rows> {
        let Recipe { data, stage, .. } = self;
        let mut rows: Vec<&mut Rows> = [&mut data.train, &mut data.eval].into_iter().flatten().collect();
        for stage in stage {
            let own = stage.data.as_mut().map(|data| [&mut data.train, &mut data.eval]);
            rows.extend(own.into_iter().flatten().flatten());
            rows.extend(stage.bilevel.rows_mut());
        }
        rows
    }

    /// The name of the stage that a stage starts from, or `model`.
    pub(crate) fn from(&self, stage: usize) -> &str {
        match (&self.stage[stage].from, stage) {
            (Some(from), _) => from,
            (None, 0) => "model",
            (None, stage) => &self.stage[stage - 1].name,
        }
    }

    /// Everything that affects the run's results: all sections except output and storage options. Unknown
    /// sections are included.
    pub(crate) fn essence(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("a recipe is plain data");
        for place in ["checkpoint", "cache"] {
            value[place].take();
        }
        // The moment matters only through the prompts that tell it, and these are hashed by themselves.
        for place in ["name", "output", "overwrite", "resume", "moment"] {
            value["run"][place].take();
        }
        if let Some(run) = value["run"].as_object_mut() {
            run.shift_remove("tensorboard");
        }
        value
    }
}

impl Part for Recipe {
    fn validate(&self) -> Result<(), ConfigError> {
        // What a file says here, the document has taken in already.
        if self.extends.is_some() {
            return Err(ConfigError::at("extends", "can only be written in the recipe's file"));
        }
        match (&self.model.path, &self.model.config) {
            (None, None) => {
                return Err(ConfigError::at("model", "needs `path` (a folder) or `config` (random weights)"));
            }
            (Some(_), Some(_)) => {
                return Err(ConfigError::at("model.config", "`path` and `config` exclude each other"));
            }
            _ => {}
        }
        if self.model.revision.is_some() && self.model.path.is_none() {
            return Err(ConfigError::at("model.revision", "has no effect without `model.path`"));
        }
        if let Some(adapter) = &self.model.adapter {
            adapter.adapter()?;
            if self.model.config.is_some() {
                let message = "an adapter needs trained weights: give `model.path`";
                return Err(ConfigError::at("model.adapter", message));
            }
        }
        self.data.validate("data")?;
        if self.stage.is_empty() {
            return Err(ConfigError::at("stage", "needs at least one [[stage]]"));
        }
        for (i, stage) in self.stage.iter().enumerate() {
            stage.validate(&format!("stage[{i}]"), &self.stage[..i])?;
        }
        if let Some(sweep) = &self.sweep {
            sweep.validate()?;
        }
        validate_keeping(self)
    }
}

/// Checks rules that involve several sections.
fn validate_keeping(recipe: &Recipe) -> Result<(), ConfigError> {
    if recipe.checkpoint.best.is_some() && recipe.evaluation.every == Every::NEVER {
        let message = "has no effect unless `evaluation.every` says how often to look";
        return Err(ConfigError::at("checkpoint.best", message));
    }
    let stopping = recipe.stage.iter().position(|stage| stage.early_stopping.is_some());
    if let Some(stage) = stopping.filter(|_| recipe.evaluation.every == Every::NEVER) {
        let message = "has no effect unless `evaluation.every` says how often to look";
        return Err(ConfigError::at(format!("stage[{stage}].early_stopping"), message));
    }
    let first = recipe.stage.iter().map(|stage| &stage.name);
    for (i, (wanted, stage)) in recipe.cache.stages.iter().zip(first).enumerate() {
        if wanted != stage {
            let message = format!("the recipe's first stages are cached in their order: expected `{stage}`");
            return Err(ConfigError::at(format!("cache.stages[{i}]"), message));
        }
    }
    if recipe.cache.stages.len() > recipe.stage.len() {
        return Err(ConfigError::at("cache.stages", "names more stages than the recipe has"));
    }
    if recipe.checkpoint.best.is_some() && !recipe.cache.stages.is_empty() {
        let message = "excludes `checkpoint.best`: a stage from the cache has no best model";
        return Err(ConfigError::at("cache.stages", message));
    }
    if !recipe.cache.enabled && !recipe.cache.stages.is_empty() {
        return Err(ConfigError::at("cache.stages", "has no effect: the cache is not enabled"));
    }
    Ok(())
}
