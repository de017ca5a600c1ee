//! Low-rank adapters: attaching them to a decoder, and reading them from a folder in PEFT's layout.

use std::path::Path;

use spo_api::{Adapter, Error, Result, nearest};

use crate::decoder::Decoder;
use crate::files::{Weights, read_json};

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's name for all linear layers except the head.
pub(crate) const ALL: &str = "all-linear";

/// Adds an adapter to every linear layer that matches a target.
///
/// A target matches a layer with that name, and layers whose name ends in `.target`.
pub(crate) fn attach(decoder: &mut Decoder, adapter: &Adapter) -> Result<()> {
    if adapter.rank == 0 || adapter.targets.is_empty() || !adapter.alpha.is_finite() {
        return Err(Error::Model(format!(
            "adapter: needs a rank of at least 1, a finite alpha and targets, got rank {}, alpha {}, targets {:?}",
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

/// Opens the weights of an adapter folder and checks them against the decoder with the adapter attached.
pub(crate) fn open(folder: &Path, decoder: &Decoder) -> Result<Weights> {
    let path = folder.join(CONFIG);
    let config = read_json(&path)?;
    let error = |problem: String| Error::Model(format!("{}: {problem}", path.display()));
    if config["peft_type"] != "LORA" {
        return Err(error(format!("`peft_type` must be \"LORA\", got {}", config["peft_type"])));
    }
    let variants = ["use_rslora", "use_dora", "lora_bias"];
    if let Some(variant) = variants.into_iter().find(|key| config[key] == true) {
        return Err(error(format!("`{variant}` is not supported")));
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if config[key].as_object().is_some_and(|pattern| !pattern.is_empty()) {
            return Err(error(format!("`{key}` is not supported")));
        }
    }
    if config["bias"].as_str().is_some_and(|bias| bias != "none") {
        return Err(error(format!("`bias` = {} is not supported, only \"none\"", config["bias"])));
    }
    let attached = decoder.adapted.first().map(|(_, low_rank)| low_rank.scale);
    let (rank, alpha) = (config["r"].as_f64(), config["lora_alpha"].as_f64());
    let scale = rank.zip(alpha).map(|(rank, alpha)| alpha / rank);
    if scale != attached {
        return Err(error(format!(
            "`lora_alpha` / `r` is {}, but the adapter was asked for with {}",
            scale.map_or("missing".to_owned(), |s| s.to_string()),
            attached.unwrap_or_default()
        )));
    }
    let weights = Weights::open(vec![folder.join(WEIGHTS)])?;
    let known: Vec<String> =
        decoder.specs.iter().filter(|s| s.role.of_adapter()).map(|s| peft_name(&s.name)).collect();
    if let Some(name) = weights.names().find(|name| !known.iter().any(|k| k == name)) {
        let origin = weights.origin();
        return Err(Error::Model(format!("{origin}: {name} belongs to no target of the adapter")));
    }
    Ok(weights)
}
