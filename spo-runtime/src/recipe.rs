//! The recipe: what a TOML file may say. Doc comments are its reference.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::{ConfigError, Part};
use spo_data::Truncation;

mod backend;
pub(crate) mod compose;
mod diagnostics;
pub(crate) mod document;
mod keeping;
mod stage;
mod sweep;

pub(crate) use backend::BackendChoice;
pub(crate) use diagnostics::{Action, Diagnostics, Guard};
pub(crate) use keeping::{Cache, Checkpoint, OnNonfinite, Resume};
pub(crate) use stage::{Moving, Optimizer, Reference, Schedule, Stage};
pub(crate) use sweep::Sweep;

/// A run: a model, preference data, and the stages that train one on the other.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// What the run is called and where it goes.
    #[serde(default)]
    pub(crate) run: Run,
    /// The model to train.
    pub(crate) model: Model,
    /// The engine that runs it: a name, or a table.
    #[serde(default, deserialize_with = "backend::name_or_table")]
    #[schemars(schema_with = "backend::schema")]
    pub(crate) backend: BackendChoice,
    /// Parts that are not built in.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub(crate) plugins: Plugins,
    /// The data every stage learns from, unless it names its own.
    pub(crate) data: Data,
    /// What is measured on held-out data.
    #[serde(default)]
    pub(crate) evaluation: Evaluation,
    /// What is followed while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) diagnostics: Option<Diagnostics>,
    /// What an interrupted run continues from.
    #[serde(default)]
    pub(crate) checkpoint: Checkpoint,
    /// Work that runs share.
    #[serde(default)]
    pub(crate) cache: Cache,
    /// Many runs of this recipe instead of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sweep: Option<Sweep>,
    /// The stages, in order: `[[stage]]`.
    #[schemars(length(min = 1))]
    pub(crate) stage: Vec<Stage>,
}

/// `[run]`: what the run is called and where it goes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Run {
    /// Name of the run; that of the recipe's file unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Seed of everything random: initialisation, order of the data, sampling.
    pub(crate) seed: u64,
    /// Folder for metrics and models; `runs/NAME` unless given. Relative paths in a recipe start at
    /// the current folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an earlier run in that folder. Without it, a folder that holds one is an error.
    pub(crate) overwrite: bool,
    /// `"auto"` continues an unfinished run of this recipe in that folder; one that is finished is left as it is.
    pub(crate) resume: Resume,
    /// When a loss or gradient is not finite: `"stop"`, or `"skip"` the batch. The first such batch of a stage
    /// is written down for `spo-run replay`.
    pub(crate) on_nonfinite: OnNonfinite,
}

/// `[model]`: a Hugging Face folder, or a configuration to initialise at random.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// Hugging Face folder: config.json, safetensors weights, tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Instead of `path`: the keys of a config.json, for a model with random weights. `vocab_size` and
    /// the special tokens' ids come from the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Map<String, Value>>,
    /// Folder with tokenizer.json, if not the model's own; a model with random weights that learns a
    /// generated task uses the task's characters unless this is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Train a low-rank adapter and freeze the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<Adapter>,
}

/// `model.adapter`: a low-rank adapter, in PEFT's terms.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adapter {
    /// The kind of adapter.
    #[serde(default)]
    pub(crate) kind: AdapterKind,
    /// Rank of the update.
    #[schemars(range(min = 1))]
    pub(crate) rank: usize,
    /// Scale of the update: `alpha / rank`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) alpha: f64,
    /// Names of the linear layers to adapt.
    #[schemars(length(min = 1))]
    pub(crate) targets: Vec<String>,
    /// Folder of an adapter in PEFT's layout to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
}

/// Kinds of adapter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AdapterKind {
    /// Low-rank adaptation (Hu et al. 2021).
    #[default]
    Lora,
}

/// `[plugins]`: libraries whose objectives, steps and backends this recipe uses.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Plugins {
    /// Paths of libraries (`"target/release/libmy_loss.so"`), or names (`"my-loss"`) to be looked for in the
    /// folders of `SPO_PLUGIN_PATH` and the user's own, `~/.local/share/spo/plugins`. Libraries in those
    /// folders are found without being listed when the recipe uses a part that nothing else has.
    pub(crate) load: Vec<String>,
    /// The folder of libtorch, for libraries that need it (the tch backend): the `torch` package of a Python
    /// environment, or an unpacked libtorch. Else `SPO_LIBTORCH`, `libtorch` beside the library, the active
    /// virtual environment.
    pub(crate) libtorch: Option<PathBuf>,
}

impl Plugins {
    fn is_empty(&self) -> bool {
        self.load.is_empty() && self.libtorch.is_none()
    }
}

/// `[data]`: where rows come from and how they become tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    /// Rows to train on: a path, or a table `{ path = "rows.jsonl", columns = { prompt = "question" } }`
    /// with the keys `path`, `format` (`jsonl`, `json`, `parquet`), `columns` (the file's own names),
    /// `skip` and `take`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) train: Option<Value>,
    /// Held-out rows, in the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eval: Option<Value>,
    /// Instead of files, a generated task with its options: `{ name = "modular-chain", train = 4000 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<Map<String, Value>>,
    /// Longest prompt with answer, in tokens.
    #[serde(default = "Data::default_max_length")]
    #[schemars(range(min = 2))]
    pub(crate) max_length: usize,
    /// What happens to longer rows: `keep_start` cuts the end of the answer, `keep_end` the beginning of
    /// the prompt, `drop` leaves them out.
    #[serde(default)]
    pub(crate) truncation: Truncation,
    /// Make it an error when a row cannot be used as it is (empty answers, identical pairs, rows that
    /// do not fit), instead of counting and reporting it.
    #[serde(default)]
    pub(crate) strict: bool,
}

impl Data {
    fn default_max_length() -> usize {
        1024
    }

    fn validate(&self, at: &str) -> Result<(), ConfigError> {
        match (&self.train, &self.task) {
            (None, None) => Err(ConfigError::at(at, "needs `train` (a file) or `task` (a generated one)")),
            (Some(_), Some(_)) => {
                Err(ConfigError::at(format!("{at}.task"), "`train` and `task` exclude each other"))
            }
            (None, Some(_)) if self.eval.is_some() => Err(ConfigError::at(
                format!("{at}.eval"),
                "has no effect: a task has held-out rows of its own",
            )),
            _ => Ok(()),
        }
    }
}

/// `[evaluation]`: what is measured on `data.eval`. At the start and the end of a stage, always.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Evaluation {
    /// And every so many steps; 0 for never in between.
    pub(crate) every: usize,
    /// Rows scored at a time.
    #[schemars(range(min = 1))]
    pub(crate) batch_size: usize,
    /// At the start and end of stages, answer every held-out prompt by greedy decoding and count the
    /// answers that are the chosen one to the letter. By default only for generated tasks, whose
    /// answers are right or wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exact_match: Option<bool>,
    /// At the start and end of stages, keep the greedy answers to so many held-out prompts, evenly spaced,
    /// in `held_out.jsonl`. Those that exact match does not need anyway end after 128 tokens.
    pub(crate) samples: usize,
    /// Divide the probability of every held-out prompt between the preferred answer, the dispreferred one,
    /// the answers of the other held-out rows and everything else: `eval_mass/...`. Scores every answer with
    /// every prompt, so keep the held-out rows few.
    pub(crate) mass: bool,
}

impl Default for Evaluation {
    fn default() -> Self {
        Evaluation { every: 0, batch_size: 16, exact_match: None, samples: 4, mass: false }
    }
}

/// The JSON Schema of recipes.
pub(crate) fn schema() -> String {
    format!("{:#}", schemars::schema_for!(Recipe).as_value())
}

impl Recipe {
    /// The name of the stage that a stage starts from, or `model`.
    pub(crate) fn from(&self, stage: usize) -> &str {
        match (&self.stage[stage].from, stage) {
            (Some(from), _) => from,
            (None, 0) => "model",
            (None, stage) => &self.stage[stage - 1].name,
        }
    }

    /// What decides on the run's results: all but where it goes and what it keeps. An unknown section counts.
    pub(crate) fn essence(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("a recipe is plain data");
        for place in ["checkpoint", "cache"] {
            value[place].take();
        }
        for place in ["name", "output", "overwrite", "resume"] {
            value["run"][place].take();
        }
        value
    }
}

impl Part for Recipe {
    fn validate(&self) -> Result<(), ConfigError> {
        match (&self.model.path, &self.model.config) {
            (None, None) => {
                return Err(ConfigError::at("model", "needs `path` (a folder) or `config` (random weights)"));
            }
            (Some(_), Some(_)) => {
                return Err(ConfigError::at("model.config", "`path` and `config` exclude each other"));
            }
            _ => {}
        }
        if self.model.adapter.is_some() && self.model.config.is_some() {
            return Err(ConfigError::at(
                "model.adapter",
                "an adapter needs trained weights: give `model.path`",
            ));
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
        keeping::validate(self)
    }
}
