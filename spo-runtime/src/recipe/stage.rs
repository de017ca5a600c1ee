//! `[[stage]]`: the data, objective, bilevel step and optimizer of a stage.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::ConfigError;
use spo_data::MicroBatch;

use super::bilevel::BilevelSpec;
use super::data::DataSection;
use super::keeping::Goal;
use super::name;
use super::objective::ObjectiveSpec;
use super::optimizer::OptimizerSpec;

/// `[[stage]]`: one objective, trained for a while.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    /// Name of the stage, and of the folder its model is saved in.
    pub(crate) name: String,
    /// The stage whose result this one starts from; the one before unless given. `"model"` is the
    /// model as it was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// The loss: a name, a table `{ name = "dpo", beta = 0.1 }`, or a list of tables with a `weight`
    /// each.
    pub(crate) objective: ObjectiveSpec,
    /// How it becomes an update: a name, or a table `{ step = "penalty", lambda = 1.0, lower = "sft" }`.
    /// `lower` may be a list of objectives with a `weight` and `data` each: several tasks at once. Without
    /// `data` (a source, or `{ task = { ... } }`), a term learns from the stage's chosen answers, or from
    /// `lower_data`.
    #[serde(default = "Stage::default_bilevel")]
    pub(crate) bilevel: BilevelSpec,
    /// The reference model: `"start"` is the model as the stage finds it, `"model"` the model as it was
    /// opened, `{ moving = { sync_steps = 512, mixup_alpha = 0.6 } }` follows the policy. Held-out figures
    /// are against `"start"` where it moves. `{ external = { path = "..." } }` is another model: it scores all rows
    /// before the first step, and is let go.
    #[serde(default)]
    pub(crate) reference: Reference,
    /// Passes over the training rows; 1 unless this or `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) epochs: Option<f64>,
    /// Optimizer steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(crate) steps: Option<usize>,
    /// End the stage early when a held-out figure has not become better at so many evaluations in a row:
    /// `{ metric = "eval_loss", patience = 3 }`. `evaluation.every` says how often to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) early_stopping: Option<EarlyStopping>,
    /// Rows per optimizer step.
    #[serde(default = "Stage::default_batch_size")]
    #[schemars(range(min = 1))]
    pub(crate) batch_size: usize,
    /// What goes through the model at once: `{ rows = 2 }` or `{ tokens = 4096 }`; the whole batch unless
    /// given. Changes memory and speed, not the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) micro_batch: Option<MicroBatch>,
    /// Take the rows in a new random order every epoch; `false` takes them as they stand in the file. The lower level's
    /// own rows too.
    #[serde(default = "Stage::default_true")]
    pub(crate) shuffle: bool,
    /// How the gradient moves the parameters: a table with `lr`, the name of an optimizer (`adamw` unless given) and its
    /// keys.
    pub(crate) optimizer: OptimizerSpec,
    /// Data of this stage alone, instead of `[data]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<DataSection>,
    /// Save the stage's model.
    #[serde(default = "Stage::default_true")]
    pub(crate) save: bool,
}

impl Stage {
    fn default_bilevel() -> BilevelSpec {
        BilevelSpec::named("single").expect("a step has no required keys of the runtime's")
    }
    fn default_batch_size() -> usize {
        8
    }
    fn default_true() -> bool {
        true
    }

    /// Records its location in the recipe.
    pub(super) fn place(&mut self, path: &str) {
        self.objective.place(&format!("{path}.objective"));
        self.bilevel.place(&format!("{path}.bilevel"));
        self.optimizer.place(&format!("{path}.optimizer"));
        if let Some(data) = &mut self.data {
            data.place(&format!("{path}.data"));
        }
    }

    /// Checks rules that involve several keys, for the stage at `path` that follows the stages `earlier`.
    pub(super) fn validate(&self, path: &str, earlier: &[Stage]) -> Result<(), ConfigError> {
        let at = |key: &str| format!("{path}.{key}");
        name::check(&at("name"), &self.name)?;
        // Some file systems do not tell capitals from small letters.
        if let Some(other) = earlier.iter().find(|stage| stage.name.eq_ignore_ascii_case(&self.name)) {
            let message = format!("`{}` is taken by the earlier stage `{}`", self.name, other.name);
            return Err(ConfigError::at(at("name"), message));
        }
        if let Some(from) = &self.from {
            let known: Vec<&str> = earlier.iter().map(|s| s.name.as_str()).chain(["model"]).collect();
            if !known.contains(&from.as_str()) {
                let mut error = ConfigError::at(
                    at("from"),
                    format!("no earlier stage `{from}`, only {}", known.join(", ")),
                );
                error.suggestion = spo_api::nearest(from, known).map(str::to_owned);
                return Err(error);
            }
        }
        if self.epochs.is_some() && self.steps.is_some() {
            return Err(ConfigError::at(at("steps"), "`epochs` and `steps` exclude each other"));
        }
        if self.early_stopping.as_ref().is_some_and(|rule| rule.patience == 0) {
            return Err(ConfigError::at(at("early_stopping.patience"), "must be at least 1"));
        }
        if let Some(MicroBatch::Rows(0) | MicroBatch::Tokens(0)) = self.micro_batch {
            return Err(ConfigError::at(at("micro_batch"), "must be greater than 0"));
        }
        if let Some(data) = &self.data {
            data.validate(&at("data"))?;
        }
        Ok(())
    }
}

/// `stage.early_stopping`: when a stage ends before its last step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EarlyStopping {
    /// Name of a held-out figure: `eval_loss`, `eval_pair_accuracy`, ...
    pub(crate) metric: String,
    /// Evaluations in a row at which it may fail to become better than ever before in the stage. The one before the
    /// first step does not count.
    #[schemars(range(min = 1))]
    pub(crate) patience: usize,
    /// Whether it is to be small or large.
    #[serde(default)]
    pub(crate) goal: Goal,
}

/// Where the reference log-probs come from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reference {
    /// The model as the stage finds it.
    #[default]
    Start,
    /// The model as it was opened, before the first stage.
    Model,
    /// A reference that follows the policy.
    Moving(Moving),
    /// Another model than the one that is trained.
    External(External),
}

/// A reference that is another model. It has to read the same tokens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct External {
    /// Hugging Face folder of the model, or its id on the hub, as `owner/name` or `owner/name@revision`.
    pub(crate) path: PathBuf,
    /// Folder of an adapter for it, in PEFT's layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<PathBuf>,
}

/// A moving reference, in TRL's terms (`sync_ref_model`).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Moving {
    /// Steps between two moves.
    #[schemars(range(min = 1))]
    pub(crate) sync_steps: usize,
    /// How much of the policy goes into the reference: 1 replaces it.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub(crate) mixup_alpha: f64,
}
