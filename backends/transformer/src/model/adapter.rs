//! Low-rank adapters: attaching them to a decoder, and reading them from a folder in PEFT's layout.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{Adapter, Error, Result, nearest};

use crate::config::Fields;
use crate::decoder::Decoder;
use crate::files::{Weights, read_json};
use crate::parameters::Spec;

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's name for all linear layers except the head.
pub(crate) const ALL: &str = "all-linear";

/// Adds an adapter to every linear layer that matches a target.
///
/// A target matches a layer with that name, and layers whose name ends in `.target`.
pub(crate) fn attach(decoder: &mut Decoder, adapter: &Adapter) -> Result<()> {
    if adapter.rank == 0 || adapter.targets.is_empty() || !(adapter.alpha > 0.0 && adapter.alpha.is_finite())
    {
        return Err(Error::Model(format!(
            "adapter: needs a rank of at least 1, an alpha above 0 and targets, got rank {}, alpha {}, targets {:?}",
            adapter.rank, adapter.alpha, adapter.targets
        )));
    }
    let matches = |name: &str, target: &str| {
        target == ALL || name == target || name.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
    };
    let mut leaves: Vec<String> = Vec::new();
    let mut used = vec![false; adapter.targets.len()];
    decoder.adapt(adapter.rank, adapter.alpha / adapter.rank as f64, |name| {
        let leaf = name.rsplit('.').next().unwrap_or_default();
        if !leaves.iter().any(|l| l == leaf) {
            leaves.push(leaf.to_owned());
        }
        let mut wanted = false;
        for (target, used) in adapter.targets.iter().zip(&mut used) {
            let named = matches(name, target);
            wanted |= named;
            *used |= named;
        }
        wanted
    });
    match used.iter().position(|used| !used) {
        None => Ok(()),
        Some(i) => {
            let target = &adapter.targets[i];
            let hint = nearest(target, leaves.iter().map(String::as_str))
                .map(|n| format!(" (nearest: {n})"))
                .unwrap_or_default();
            Err(Error::Model(format!(
                "adapter: no linear layer is called `{target}`{hint}; there are {}, or {ALL}",
                leaves.join(", ")
            )))
        }
    }
}

/// The name PEFT gives to an adapter matrix.
pub(crate) fn peft_name(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Keys of an adapter's configuration that change what it computes and are not implemented.
const UNSUPPORTED: [&str; 15] = [
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "megatron_config",
];

/// Beginnings of the values of `init_lora_weights` with which PEFT changes the weights of the base model.
const CHANGE_THE_BASE: [&str; 6] = ["pissa", "corda", "olora", "mica", "loftq", "lora_ga"];

/// A trained adapter in PEFT's layout.
pub(super) struct Tuned {
    /// Where the configuration was read.
    path: PathBuf,
    config: Value,
    weights: Weights,
}

impl Tuned {
    /// Opens an adapter's folder.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no LoRA, or one that computes something that is not implemented.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let config = read_json(&path)?;
        let tuned = Tuned { path, config, weights: Weights::open(vec![folder.join(WEIGHTS)])? };
        tuned.check_variant()?;
        Ok(tuned)
    }

    fn error(&self, problem: impl Display) -> Error {
        Error::Model(format!("{}: {problem}", self.path.display()))
    }

    fn check_variant(&self) -> Result<()> {
        let config = &self.config;
        if config["peft_type"] != "LORA" {
            return Err(self.error(format!("`peft_type` must be \"LORA\", got {}", config["peft_type"])));
        }
        if let Some(key) = UNSUPPORTED.into_iter().find(|key| is_set(&config[*key])) {
            return Err(self.error(format!("`{key}` = {} is not supported", config[key])));
        }
        if !config["bias"].is_null() && config["bias"] != "none" {
            let bias = &config["bias"];
            return Err(self.error(format!("`bias` = {bias} is not supported, only \"none\"")));
        }
        let init = config["init_lora_weights"].as_str().unwrap_or_default().to_lowercase();
        if CHANGE_THE_BASE.iter().any(|kind| init.starts_with(kind)) {
            return Err(self.error(format!(
                "`init_lora_weights` = \"{init}\": PEFT changes the base model's weights for such an adapter, which is not \
                 supported. Convert it to a plain one: save it in PEFT with `path_initial_model_for_weight_conversion`"
            )));
        }
        Ok(())
    }

    /// The linear layers that it has weights for.
    pub fn layers(&self) -> Result<Vec<String>> {
        let of =
            |name: &str| Some(name.strip_prefix(&peft_name(""))?.strip_suffix(".lora_A.weight")?.to_owned());
        let layers: Vec<String> = self.weights.names().filter_map(of).collect();
        match layers.is_empty() {
            false => Ok(layers),
            true => {
                let origin = self.weights.origin();
                Err(Error::Model(format!("{origin}: holds no weights of an adapter (LAYER.lora_A.weight)")))
            }
        }
    }

    /// Checks that this is the adapter that was attached to a decoder.
    pub fn check(&self, decoder: &Decoder, adapter: &Adapter) -> Result<()> {
        let origin = self.path.display().to_string();
        let fields = Fields { config: &self.config, origin: &origin };
        let (rank, alpha) = (fields.positive("r")?, fields.positive("lora_alpha")?);
        fields.maybe_within("lora_dropout", 0.0, 1.0)?;
        if rank != adapter.rank as f64 {
            return Err(self
                .error(format!("`r` is {rank}, but the adapter was asked for with rank {}", adapter.rank)));
        }
        // Rank-stabilised LoRA (Kalajdzievski 2023).
        let (divisor, formula) = match fields.flag("use_rslora", false)? {
            true => (rank.sqrt(), "`lora_alpha` / sqrt(`r`)"),
            false => (rank, "`lora_alpha` / `r`"),
        };
        let (scale, asked) = (alpha / divisor, adapter.alpha / rank);
        if (scale - asked).abs() > 1e-9 * scale.abs() {
            return Err(self.error(format!(
                "its scale, {formula}, is {scale}, but the adapter was asked for with alpha / rank = {asked}: alpha must be \
                 {}",
                scale * rank
            )));
        }
        let specs = decoder.specs.iter().filter(|s| s.role.of_adapter());
        let known: Vec<String> = specs.map(|s| peft_name(&s.name)).collect();
        match self.weights.names().find(|name| !known.iter().any(|k| k == name)) {
            None => Ok(()),
            Some(name) => {
                let origin = self.weights.origin();
                Err(Error::Model(format!("{origin}: {name} belongs to no target of the adapter")))
            }
        }
    }

    /// Checks that the file holds every matrix of the adapter in its shape, without reading any.
    pub fn check_shapes(&self, decoder: &Decoder) -> Result<()> {
        let mut own = decoder.specs.iter().filter(|spec| spec.role.of_adapter());
        own.try_for_each(|spec| self.weights.check(&peft_name(&spec.name), spec))
    }

    /// The values of an adapter matrix.
    pub fn read(&self, spec: &Spec) -> Result<Vec<f32>> {
        self.weights.read(&peft_name(&spec.name), spec)
    }

    /// What the user should know about the adapter on the model of a folder.
    pub fn remarks(&self, model: Option<&Path>) -> Vec<String> {
        let mut remarks = Vec::new();
        if let (Some(base), Some(model)) = (self.config["base_model_name_or_path"].as_str(), model)
            && !base.is_empty()
            && !is_named(model, base)
        {
            let (path, model) = (self.path.display(), model.display());
            remarks.push(format!("{path}: the adapter was made for {base}, and is used with {model}"));
        }
        if let Some(dropout) = self.config["lora_dropout"].as_f64().filter(|dropout| *dropout > 0.0) {
            let path = self.path.display();
            remarks.push(format!("{path}: `lora_dropout` = {dropout} is not applied in training"));
        }
        remarks
    }
}

/// Whether a setting is not off.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => !table.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Number(_) => true,
    }
}

/// Whether a folder is the model of this path, or of this name on a hub: the folder has its name, or is in
/// the cache of such a hub.
fn is_named(folder: &Path, name: &str) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (folder, named) = (real(folder), real(Path::new(name)));
    let cached = format!("models--{}", name.replace('/', "--"));
    folder == named
        || folder.file_name() == named.file_name()
        || folder.iter().any(|part| part.to_str() == Some(&cached))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_path_by_its_name_and_in_a_cache() {
        let folder = Path::new("/models/Qwen2.5-0.5B");
        assert!(is_named(folder, "/models/Qwen2.5-0.5B"));
        assert!(is_named(folder, "Qwen/Qwen2.5-0.5B"));
        assert!(!is_named(folder, "Qwen/Qwen2.5-0.5B-Instruct"));
        let cached = Path::new("/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123");
        assert!(is_named(cached, "Qwen/Qwen2.5-0.5B") && !is_named(cached, "Qwen/Qwen2.5-1.5B"));
    }
}
