//! Adapters in a folder, in PEFT's layout.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spo_api::{Error, Lora, Result, Targets};

use super::super::source::Source;
use crate::config::Fields;
use crate::decoder::Decoder;
use crate::files::{Weights, read_json};
use crate::parameters::Spec;

pub(crate) const CONFIG: &str = "adapter_config.json";

/// The name that PEFT gives to a parameter of an adapted model.
pub(crate) fn peft_name(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Keys of an adapter's configuration that change what it computes and are not implemented.
const UNSUPPORTED: [&str; 13] = [
    "lora_bias",
    "layers_pattern",
    "ensure_weight_tying",
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
pub(crate) struct Saved {
    /// Where the configuration was read.
    path: PathBuf,
    config: Value,
    weights: Weights,
}

impl Saved {
    /// Opens an adapter's folder; also weights of `torch.save` if `pickled`.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no LoRA, or one that computes something that is not implemented.
    pub fn open(folder: &Path, pickled: bool) -> Result<Self> {
        let path = folder.join(CONFIG);
        let config = read_json(&path)?;
        let saved = Saved { path, config, weights: Weights::of_adapter(folder, pickled)? };
        saved.check_variant()?;
        Ok(saved)
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

    /// What its configuration says.
    pub fn lora(&self) -> Result<Lora> {
        let origin = self.path.display().to_string();
        let fields = Fields { config: &self.config, origin: &origin };
        let read = |key: &str| match &self.config[key] {
            Value::Null => Ok(None),
            Value::Array(list) if list.is_empty() => Ok(None),
            value => serde_json::from_value::<Targets>(value.clone())
                .map(Some)
                .map_err(|_| fields.error(key, format!("must be a list of names or a string, got {value}"))),
        };
        let layers = match &self.config["layers_to_transform"] {
            Value::Number(one) => json!([one]),
            other => other.clone(),
        };
        let dropout = fields.maybe_within("lora_dropout", 0.0, 1.0)?.unwrap_or(0.0);
        let dora = fields.flag("use_dora", false)?;
        Ok(Lora {
            rank: fields.size("r")?,
            alpha: fields.positive("lora_alpha")?,
            dropout: if dora { 0.0 } else { dropout },
            targets: fields.required("target_modules", read("target_modules")?)?,
            exclude: read("exclude_modules")?,
            layers: self.table("layers_to_transform", &layers, "a list of numbers of blocks")?,
            rank_pattern: self.table("rank_pattern", &self.config["rank_pattern"], "a table of ranks")?,
            alpha_pattern: self.table(
                "alpha_pattern",
                &self.config["alpha_pattern"],
                "a table of numbers",
            )?,
            rslora: fields.flag("use_rslora", false)?,
            dora,
            modules_to_save: self.table(
                "modules_to_save",
                &self.config["modules_to_save"],
                "a list of names",
            )?,
        })
    }

    fn table<T: DeserializeOwned + Default>(&self, key: &str, value: &Value, expected: &str) -> Result<T> {
        match value {
            Value::Null => Ok(T::default()),
            value => serde_json::from_value(value.clone())
                .map_err(|_| self.error(format!("`{key}` must be {expected}, got {value}"))),
        }
    }

    /// Checks that the files hold every trained parameter in its shape, without reading any, and no other but copies of the embedding
    /// table and the head, which PEFT adds where they have adapters. Each must be what the model has.
    pub(in crate::model) fn check(&self, decoder: &Decoder, model: Option<&Source>) -> Result<()> {
        let trained = || decoder.specs.iter().filter(|spec| spec.trained);
        trained().try_for_each(|spec| self.weights.check(&peft_name(&spec.name), spec))?;
        let mut known: BTreeSet<String> = trained().map(|spec| peft_name(&spec.name)).collect();
        for spec in decoder.specs.iter().filter(|spec| decoder.is_of_ends(spec)) {
            let Some((module, part)) = spec.name.rsplit_once('.') else { continue };
            let name = peft_name(&format!("{module}.base_layer.{part}"));
            if let (true, Some(model)) = (self.weights.contains(&name), model) {
                let (theirs, own) =
                    (self.weights.read(&name, spec)?, model.read(&decoder.architecture, spec)?);
                if !theirs.iter().zip(&own).all(|(&theirs, &own)| rounded(theirs, own)) {
                    let (origin, own) = (self.weights.origin(), &spec.name);
                    return Err(Error::Model(format!(
                        "{origin}: {name} is not {own} of the model: the adapter belongs to a model with other weights there"
                    )));
                }
            }
            known.insert(name);
        }
        match self.weights.names().find(|name| !known.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let origin = self.weights.origin();
                Err(Error::Model(format!("{origin}: {name} belongs to nothing that {CONFIG} names")))
            }
        }
    }

    /// The values of a trained parameter.
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
        let dropout = self.config["lora_dropout"].as_f64().filter(|dropout| *dropout > 0.0);
        if let (Some(dropout), true) = (dropout, self.config["use_dora"] == true) {
            let path = self.path.display();
            remarks.push(format!(
                "{path}: `lora_dropout` = {dropout} is not applied in training, because of `use_dora`"
            ));
        }
        remarks
    }
}

/// The content of `adapter_config.json` for an adapter on the model of a folder. `transposed` says whether the linear
/// layers of that model are kept as their transpose.
pub(crate) fn configuration(lora: &Lora, base: Option<&Path>, transposed: bool) -> Value {
    let Lora {
        rank,
        alpha,
        dropout,
        targets,
        exclude,
        layers,
        rank_pattern,
        alpha_pattern,
        rslora,
        dora,
        modules_to_save,
    } = lora;
    let targets = match targets {
        Targets::Names(names) if names.iter().any(|name| name == Targets::ALL) => json!(Targets::ALL),
        targets => json!(targets),
    };
    let unless_empty = |list: Value| if is_set(&list) { list } else { Value::Null };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.map(|folder| folder.display().to_string()),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": targets,
        "exclude_modules": exclude,
        "layers_to_transform": unless_empty(json!(layers)),
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "use_rslora": rslora,
        "use_dora": dora,
        "modules_to_save": unless_empty(json!(modules_to_save)),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": true,
        "inference_mode": true,
    })
}

/// Whether a number is another, perhaps in bf16.
fn rounded(one: f32, other: f32) -> bool {
    (one - other).abs() <= other.abs() / 256.0
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
