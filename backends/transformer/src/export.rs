//! Writes a model to a Hugging Face folder, or an adapter to a PEFT folder.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use spo_api::{Error, Result, WeightType};

use crate::decoder::LowRank;
use crate::engine::{Engine, Mat, Memory, Precision};
use crate::files::{OF_ADAPTER, TensorEntry, write_json, write_safetensors};
use crate::model::{Model, adapter};
use crate::parameters::{Id, Spec};

/// Writes `config.json` and `model.safetensors` with the names of the source weights, and their types unless another is
/// asked for. An adapter is merged into the weights.
pub(crate) fn save_model<E: Engine>(
    engine: &E,
    model: &Model<E>,
    folder: &Path,
    kind: Option<WeightType>,
) -> Result<()> {
    let decoder = &model.decoder;
    let entries: Vec<TensorEntry> = model
        .stored
        .iter()
        .enumerate()
        .map(|(id, (name, dtype))| TensorEntry {
            name: name.clone(),
            shape: decoder.specs[id].stored_shape(),
            dtype: kind.map_or(*dtype, dtype_of),
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
            if let Some(rows) = p.row_norms.get(&id) {
                let factors = engine.memory().download(&rows.factors)?;
                let scaled = values.chunks_exact_mut(spec.shape[1]).zip(factors);
                scaled.for_each(|(row, factor)| row.iter_mut().for_each(|w| *w *= factor));
            }
        }
        Ok(spec.in_file(values))
    })?;
    write_json(&folder.join("config.json"), &in_type(&model.config, kind))
}

/// A configuration that names the type of its weights.
pub(crate) fn in_type(config: &Value, kind: Option<WeightType>) -> Value {
    let mut config = config.clone();
    if let Some(kind) = kind {
        let name = match kind {
            WeightType::F32 => "float32",
            WeightType::F16 => "float16",
            WeightType::Bf16 => "bfloat16",
        };
        // The older of the two keys, where it is the only one.
        let key = if config.get("dtype").is_none() && config.get("torch_dtype").is_some() {
            "torch_dtype"
        } else {
            "dtype"
        };
        config[key] = name.into();
    }
    config
}

pub(crate) fn dtype_of(kind: WeightType) -> Dtype {
    match kind {
        WeightType::F32 => Dtype::F32,
        WeightType::F16 => Dtype::F16,
        WeightType::Bf16 => Dtype::BF16,
    }
}

/// Writes the adapter in a form that PEFT can load.
pub(crate) fn save_adapter<E: Engine>(engine: &E, model: &Model<E>, folder: &Path) -> Result<()> {
    let Some(lora) = &model.adapter else {
        return Err(Error::Model("the model has no adapter to export".into()));
    };
    let specs: Vec<&Spec> = model.trained().collect();
    let entry = |spec: &&Spec| TensorEntry {
        name: adapter::peft_name(&spec.name),
        shape: spec.stored_shape(),
        dtype: Dtype::F32,
    };
    let entries: Vec<TensorEntry> = specs.iter().map(entry).collect();
    write_safetensors(&folder.join(OF_ADAPTER), [], &entries, |i| {
        let values = engine.memory().download(&model.parameters.trained.parts[i])?;
        Ok(specs[i].in_file(values))
    })?;
    let transposed = model.decoder.architecture.block.transposed;
    let config = adapter::configuration(lora, model.source.as_deref(), transposed);
    write_json(&folder.join(adapter::CONFIG), &config)
}
