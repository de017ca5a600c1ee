//! The recipe's sections on output, model, evaluation and related settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::{ConfigError, Quantize};
use spo_data::Moment;

use super::adapter::AdapterSection;
use super::every::Every;
use super::keeping::{OnNonfinite, Resume};
use super::name;
use crate::hub;

/// `[run]`: what the run is called and where it goes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Run")]
pub(crate) struct RunSection {
    /// Name of the run; that of the recipe's file unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Seed of everything random: initialisation, order of the data, sampling.
    pub(crate) seed: u64,
    /// Folder for metrics and models; `runs/NAME` unless given. Relative paths in a recipe start at
    /// the current folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an earlier run in that folder. Without it, a folder that holds one is an error. What no run has made,
    /// and what the run itself reads, is never replaced.
    pub(crate) overwrite: bool,
    /// `"auto"` continues an unfinished run of this recipe in that folder; one that is finished is left as it is.
    pub(crate) resume: Resume,
    /// When a loss or gradient is not finite: `"stop"`, or `"skip"` the batch. The first such batch of a stage
    /// is written down for `spo-run replay`.
    pub(crate) on_nonfinite: OnNonfinite,
    /// Write the metrics for TensorBoard too, while the run trains: event files in `tensorboard/STAGE` of its folder.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tensorboard: bool,
    /// What chat templates that ask for the time are told, such as `"2026-01-31T12:00:00"`. It is written down
    /// with the run when the run begins, and is the beginning of the run unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) moment: Option<Moment>,
}

impl RunSection {
    /// Fills in the name and the folder, where the recipe does not give them. `stem` is the name of its file.
    ///
    /// # Errors
    /// If the name is to name a folder and cannot, or if the folder has no name.
    pub(crate) fn resolve(
        &mut self,
        stem: impl FnOnce() -> String,
    ) -> Result<(String, PathBuf), ConfigError> {
        let name = self.name.get_or_insert_with(stem).clone();
        match &self.output {
            None => name::check_run("run.name", &name)?,
            Some(output) if output.as_os_str().is_empty() => {
                return Err(ConfigError::at("run.output", "must be the path of a folder, got nothing"));
            }
            Some(_) => {}
        }
        let output = self.output.get_or_insert_with(|| PathBuf::from("runs").join(&name)).clone();
        Ok((name, output))
    }
}

/// `[model]`: a Hugging Face folder, a GGUF file, or a configuration to initialise at random.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Model")]
pub(crate) struct ModelSection {
    /// Hugging Face folder (config.json, safetensors weights, tokenizer), or a GGUF file of llama.cpp, which holds all of
    /// it; also a folder with one such file. Where there is none of this name, `owner/name` is the id of a model on the
    /// Hugging Face Hub ([models.md](models.md#from-the-hub)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// The branch, the tag or the commit of a model on the hub; `main` unless given. A run keeps the commit that it
    /// begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    /// Instead of `path`: the keys of a config.json, for a model with random weights. `vocab_size` and
    /// the special tokens' ids come from the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Map<String, Value>>,
    /// Folder with tokenizer.json, or an id on the hub, if not the model's own; a model with random weights that learns a
    /// generated task uses the task's characters unless this is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Train a low-rank adapter and freeze the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<AdapterSection>,
    /// Read weights from `pytorch_model.bin`, and those of an adapter from `adapter_model.bin`, where there are no safetensors. Such a file is a pickle, which Python would run;
    /// nothing of it is run here. It counts for external references too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_pickle: bool,
    /// In what the frozen weights below an adapter are kept. Those in blocks are decoded where they are used. `"file"`
    /// unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quantize: Option<Quantize>,
    /// Weight of the loss that keeps the routers of experts from sending everything to the same few
    /// ([models.md](models.md#the-loss-of-routers)); 0 for none. Unless given, the `router_aux_loss_coef` of `config.json` if
    /// `output_router_logits` is true there, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(crate) router_aux_loss: Option<f64>,
}

impl ModelSection {
    /// The model's folder or GGUF file on this machine.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.path.as_ref().map(|path| hub::folder(path, self.revision.as_deref()))
    }
}

/// `[plugins]`: libraries whose parts this recipe uses ([guide](plugins.md#use-it)). They are loaded only if it names a
/// part that is not built in, and the run is bound to those of which it uses one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Plugins")]
pub(crate) struct PluginsSection {
    /// Paths of libraries (`"target/release/libmy_loss.so"`), or names (`"my-loss"`) to be looked for in the
    /// folders of `SPO_PLUGIN_PATH` and the user's own, `~/.local/share/spo/plugins`. Libraries in those
    /// folders are found without being listed if the recipe uses a part of theirs that nothing else has.
    pub(crate) load: Vec<String>,
    /// The folder of libtorch, for libraries that need it (the tch backend): the `torch` package of a Python
    /// environment, or an unpacked libtorch. Else `SPO_LIBTORCH`, `libtorch` beside the library, the active
    /// virtual environment.
    pub(crate) libtorch: Option<PathBuf>,
}

impl PluginsSection {
    pub(super) fn is_empty(&self) -> bool {
        self.load.is_empty() && self.libtorch.is_none()
    }
}

/// `[evaluation]`: what is measured on `data.eval`. At the start and the end of a stage, always.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Evaluation")]
pub(crate) struct EvaluationSection {
    /// And every so many steps, or such a share of the stage (`0.1` for ten times); 0 for never in between.
    pub(crate) every: Every,
    /// Rows scored at a time.
    #[schemars(range(min = 1))]
    pub(crate) batch_size: usize,
    /// At the start and end of stages, answer every held-out prompt by greedy decoding and count the
    /// answers that end and are the chosen one to the letter. By default only for generated tasks, whose
    /// answers are right or wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exact_match: Option<bool>,
    /// At the start and end of stages, keep the greedy answers to so many held-out prompts, evenly spaced,
    /// in `held_out.jsonl`. An answer is cut (`cut`) after 128 tokens; where all prompts are answered anyway,
    /// after the length of the longest chosen answer, and half as much again for a task that judges answers.
    pub(crate) samples: usize,
    /// Divide the probability of every held-out prompt between the preferred answer, the dispreferred one,
    /// the answers of the other held-out rows and everything else: `eval_mass/...`. Scores every answer with
    /// every prompt, so keep the held-out rows few.
    pub(crate) mass: bool,
}

impl Default for EvaluationSection {
    fn default() -> Self {
        EvaluationSection { every: Every::NEVER, batch_size: 16, exact_match: None, samples: 4, mass: false }
    }
}
