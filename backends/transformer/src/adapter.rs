//! Low-rank adapters: attached to a decoder, and in PEFT's layout on disk.

use std::path::Path;

use safetensors::Dtype;
use serde_json::json;
use spo_api::{Adapter, Error, Result, nearest};

use crate::config::Family;
use crate::decoder::Decoder;
use crate::engine::Engine;
use crate::files::{read_json, write_json};
use crate::linear::LowRank;
use crate::parameters::{Role, Spec};
use crate::save::{Entry, write_safetensors};
use crate::session::TransformerSession;
use crate::weights::Weights;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's name for every linear layer but the head.
const ALL: &str = "all-linear";

/// Gives every linear layer that a target names its two matrices.
///
/// A target names the layers that are called so, or whose name ends in `.target`.
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
    for linear in decoder.blocks.iter_mut().flat_map(|block| block.linears_mut()) {
        let leaf = linear.name.rsplit('.').next().unwrap_or_default();
        if !leaves.iter().any(|l| l == leaf) {
            leaves.push(leaf.to_owned());
        }
        let mut wanted = false;
        for (target, used) in adapter.targets.iter().zip(&mut used) {
            let named = matches(&linear.name, target);
            wanted |= named;
            *used |= named;
        }
        if !wanted {
            continue;
        }
        let (output, input) = (decoder.specs[linear.weight].shape[0], decoder.specs[linear.weight].shape[1]);
        let mut add = |letter: &str, shape: Vec<usize>, role: Role| {
            let name = format!("{}.lora_{letter}.weight", linear.name);
            decoder.specs.push(Spec { name, shape, transposed: false, role });
            decoder.specs.len() - 1
        };
        let low_rank = LowRank {
            a: add("A", vec![adapter.rank, input], Role::AdapterA),
            b: add("B", vec![output, adapter.rank], Role::AdapterB),
            scale: adapter.alpha / adapter.rank as f64,
        };
        decoder.adapted.push((linear.weight, low_rank));
        linear.adapter = Some(low_rank);
    }
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

/// The name under which PEFT keeps an adapter's matrix.
pub(crate) fn peft_name(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Opens the weights of an adapter folder, checked against the decoder it was attached to.
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

/// Writes the adapter so that PEFT loads it.
pub(crate) fn save<E: Engine>(session: &TransformerSession<E>, folder: &Path) -> Result<()> {
    let Some(adapter) = &session.adapter else {
        return Err(Error::Model("the model has no adapter to export".into()));
    };
    // Beside an adapter nothing is trained.
    let entries: Vec<Entry> = session
        .trained
        .iter()
        .map(|&id| &session.decoder.specs[id])
        .map(|spec| Entry { name: peft_name(&spec.name), shape: spec.shape.clone(), dtype: Dtype::F32 })
        .collect();
    write_safetensors(&folder.join(WEIGHTS), [], &entries, |i| {
        session.engine.download(session.parameters.value(session.trained[i]))
    })?;
    let targets = match &adapter.targets[..] {
        [only] if only == ALL => json!(ALL),
        list => json!(list),
    };
    let base = session.source.as_ref().map(|folder| folder.display().to_string());
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": session.decoder.architecture.family == Family::Gpt2,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    write_json(&folder.join(CONFIG), &config)
}
