//! Writes a model to a Hugging Face folder, or an adapter to a PEFT folder.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;
use spo_api::{Error, Result};

use crate::decoder::LowRank;
use crate::engine::{Engine, Mat, Memory, Precision};
use crate::files::{TensorEntry, transposed, write_json, write_safetensors};
use crate::model::{Model, adapter};
use crate::parameters::{Id, Spec};

/// Writes `config.json` and `model.safetensors` with the names and types of the source weights. An adapter is
/// merged into the weights.
pub(crate) fn save_model<E: Engine>(engine: &E, model: &Model<E>, folder: &Path) -> Result<()> {
    let decoder = &model.decoder;
    let entries: Vec<TensorEntry> = model
        .stored
        .iter()
        .enumerate()
        .map(|(id, (name, dtype))| TensorEntry {
            name: name.clone(),
            shape: decoder.specs[id].stored_shape(),
            dtype: *dtype,
        })
        .collect();
    let deltas: BTreeMap<Id, LowRank> = decoder.adapted.iter().copied().collect();
    let p = &model.parameters;
    write_safetensors(&folder.join("model.safetensors"), [], &entries, |id| {
        let spec = &decoder.specs[id];
        let mut values = engine.memory().download(&p.matrix(engine, id)?)?;
        if let Some(low_rank) = deltas.get(&id) {
            let merged = engine.memory().upload(values, &spec.shape, Precision::Full)?;
            let (a, b) = (p.value(low_rank.a), p.value(low_rank.b));
            engine.matmul_add(&merged, low_rank.scale, Mat::new(b), Mat::new(a))?;
            values = engine.memory().download(&merged)?;
        }
        if spec.transposed {
            values = transposed(&values, spec.shape[0], spec.shape[1]);
        }
        Ok(values)
    })?;
    write_json(&folder.join("config.json"), &model.config)
}

/// Writes the adapter in a form that PEFT can load.
pub(crate) fn save_adapter<E: Engine>(engine: &E, model: &Model<E>, folder: &Path) -> Result<()> {
    let Some(wanted) = &model.adapter else {
        return Err(Error::Model("the model has no adapter to export".into()));
    };
    // With an adapter, the adapter's parameters are the only trained ones.
    let entry = |spec: &Spec| TensorEntry {
        name: adapter::peft_name(&spec.name),
        shape: spec.shape.clone(),
        dtype: Dtype::F32,
    };
    let entries: Vec<TensorEntry> = model.trained().map(entry).collect();
    write_safetensors(&folder.join(adapter::WEIGHTS), [], &entries, |i| {
        engine.memory().download(&model.parameters.trained.parts[i])
    })?;
    let targets = match &wanted.targets[..] {
        [only] if only == adapter::ALL => json!(adapter::ALL),
        list => json!(list),
    };
    let base = model.source.as_ref().map(|folder| folder.display().to_string());
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": wanted.rank,
        "lora_alpha": wanted.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": model.decoder.architecture.block.transposed,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    write_json(&folder.join(adapter::CONFIG), &config)
}
