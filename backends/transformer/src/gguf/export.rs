//! Writes the model of a Hugging Face folder, or an adapter in PEFT's layout, to a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value as Json;
use spo_api::{Error, Result};
use spo_gguf::{BlockType, Entry, Gguf, Value};

use super::config::FAMILIES;
use super::names;
use crate::config::{self, Architecture, ModelType, Rope, Scaling};
use crate::decoder::Decoder;
use crate::files::{Weights, read_json};
use crate::model::BaseWeights;
use crate::parameters::{Role, Spec};

/// Writes a model, its matrices in blocks of `kind` (embedding table and head in those of 8 bits at least), everything
/// else in f32. `tokenizer` are the metadata of its tokenizer.
///
/// # Errors
/// [`Error::Model`] when the folder cannot be read, or llama.cpp does not know such a model.
pub fn write_model(
    folder: &Path,
    out: &Path,
    kind: BlockType,
    tokenizer: Vec<(String, Value)>,
) -> Result<()> {
    let (json, decoder) = opened(folder)?;
    let a = &decoder.architecture;
    let weights = BaseWeights::open(folder, &decoder, false)?;
    weights.check(&decoder)?;
    let (metadata, tables) = described(&json, a, &folder.join("config.json"))?;
    let metadata = [metadata, tokenizer].concat();
    let mut entries: Vec<Entry> = tables
        .iter()
        .map(|(name, values)| Entry { name: (*name).into(), shape: vec![values.len()], kind: BlockType::F32 })
        .collect();
    let kind_of = |id: usize, spec: &Spec| match spec.role {
        _ if spec.shape.len() < 2 || decoder.positions() == Some(id) => BlockType::F32,
        Role::Matrix if decoder.is_linear(id) => fitting(kind, spec.shape[1]),
        _ => fitting(if kind.is_quantised() { BlockType::Q8_0 } else { kind }, spec.shape[1]),
    };
    entries.extend(decoder.specs.iter().enumerate().map(|(id, spec)| Entry {
        name: names::name(a, spec),
        shape: spec.shape.clone(),
        kind: kind_of(id, spec),
    }));
    spo_gguf::write(out, &metadata, &entries, |i| {
        let Some(spec) = i.checked_sub(tables.len()).map(|id| &decoder.specs[id]) else {
            return Ok(tables[i].1.clone());
        };
        let mut values = weights.read(spec)?;
        if spec.role == Role::GainFromOne {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        Ok(to_file_order(a, spec, values))
    })
}

/// Writes an adapter for the model of `folder`, in f32, as llama.cpp applies one (`--lora`).
///
/// # Errors
/// [`Error::Model`] when a folder cannot be read, or the adapter is more than matrices A and B with one `lora_alpha`.
pub fn write_adapter(folder: &Path, adapter: &Path, out: &Path) -> Result<()> {
    let (json, decoder) = opened(folder)?;
    let a = &decoder.architecture;
    let file = adapter.join("adapter_config.json");
    let config = read_json(&file)?;
    let refuse = |problem: String| Error::Model(format!("{}: {problem}", file.display()));
    let set = |key: &str| {
        !matches!(&config[key], Json::Null | Json::Bool(false)) && config[key] != serde_json::json!({})
    };
    let unknown = ["use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save"];
    if let Some(key) = unknown.into_iter().find(|key| set(key)) {
        return Err(refuse(format!(
            "`{key}` is set, which llama.cpp does not know of adapters: export the merged model instead"
        )));
    }
    let alpha =
        config["lora_alpha"].as_f64().ok_or_else(|| refuse("`lora_alpha` must be a number".into()))?;
    let weights = Weights::of_adapter(adapter, false)?;
    let mut rows: BTreeMap<String, (String, &Spec)> = BTreeMap::new();
    for spec in &decoder.specs {
        if let Some(module) = spec.name.strip_suffix(".weight") {
            for letter in ["A", "B"] {
                let theirs = format!("base_model.model.{module}.lora_{letter}.weight");
                rows.insert(
                    theirs,
                    (format!("{}.lora_{}", names::name(a, spec), letter.to_lowercase()), spec),
                );
            }
        }
    }
    let mut entries = Vec::new();
    let mut sources = Vec::new();
    for name in weights.names() {
        let module = name.trim_start_matches("base_model.model.");
        let of = |end: &str| module.strip_prefix(end).is_some_and(|rest| rest.starts_with('.'));
        if of(a.names.table) || (of(a.names.head) && a.tied) {
            return Err(refuse(
                "has an adapter on the embedding table or on a head that is tied to it, which llama.cpp would add to both or \
                 to neither: export the merged model instead"
                    .into(),
            ));
        }
        if of(a.names.head) && name.contains(".base_layer.") {
            continue;
        }
        let Some((ours, spec)) = rows.get(name) else {
            return Err(Error::Model(format!(
                "{}: {name} is not of a matrix of the model in {}",
                weights.origin(),
                folder.display()
            )));
        };
        let (shape, _) = weights.values(name).ok_or_else(|| refuse(format!("{name} cannot be read")))?;
        entries.push(Entry { name: ours.clone(), shape: shape.to_vec(), kind: BlockType::F32 });
        sources.push((name.to_owned(), *spec, ours.ends_with("lora_b")));
    }
    let (metadata, _) = described(&json, a, &folder.join("config.json"))?;
    let mut metadata: Vec<_> =
        metadata.into_iter().filter(|(key, _)| key == "general.architecture").collect();
    metadata.push(("general.type".into(), "adapter".into()));
    metadata.push(("adapter.type".into(), "lora".into()));
    metadata.push(("adapter.lora.alpha".into(), Value::Number(alpha)));
    spo_gguf::write(out, &metadata, &entries, |i| {
        let (name, spec, is_b) = &sources[i];
        let types = [Dtype::F32, Dtype::F16, Dtype::BF16];
        let values = weights.stored(name, &entries[i].shape, &types)?;
        Ok(if *is_b { to_file_order(a, spec, values) } else { values })
    })
}

fn opened(folder: &Path) -> Result<(Json, Decoder)> {
    let path = spo_gguf::file_of(folder).unwrap_or_else(|| folder.join("config.json"));
    let json = match path.ends_with("config.json") {
        true => read_json(&path)?,
        false => super::config(&Gguf::open(&path)?)?,
    };
    let decoder = Decoder::new(config::parse(&json, &path.display().to_string())?);
    Ok((json, decoder))
}

/// The blocks for rows of this width: those wanted, or, where these do not divide them, half precision.
fn fitting(kind: BlockType, width: usize) -> BlockType {
    if kind.bytes(width).is_some() { kind } else { BlockType::F16 }
}

/// Values of a tensor (or of a matrix with as many rows) in the order of rows that llama.cpp has.
fn to_file_order(a: &Architecture, spec: &Spec, values: Vec<f32>) -> Vec<f32> {
    let Some(rows) = names::rows_in_file(a, spec) else { return values };
    let width = values.len() / rows.len();
    let mut ordered = vec![0.0; values.len()];
    for (row, values) in rows.into_iter().zip(values.chunks_exact(width)) {
        ordered[row * width..][..width].copy_from_slice(values);
    }
    ordered
}

type Tables = Vec<(&'static str, Vec<f32>)>;

/// The metadata of a model, and the tables of rotary factors that it has as tensors.
fn described(json: &Json, a: &Architecture, origin: &Path) -> Result<(Vec<(String, Value)>, Tables)> {
    let refuse = |problem: String| Error::Model(format!("{}: {problem}", origin.display()));
    let family = FAMILIES.into_iter().find(|(_, model_type, _)| *model_type == a.model_type);
    let name = match (family, a.model_type) {
        (Some((name, ..)), _) => name,
        (None, ModelType::Mistral) => "llama",
        (None, other) => {
            let known = FAMILIES.map(|(_, model_type, _)| model_type.name()).join(", ");
            return Err(refuse(format!("a {} is not written as GGUF, only {known}, mistral", other.name())));
        }
    };
    if name == "llama" && a.layers.iter().any(|layer| layer.window.is_some_and(|window| window < a.context)) {
        return Err(refuse(
            "its layers slide (`sliding_window`), which llama.cpp does not know of this model".into(),
        ));
    }
    let integer = |n: usize| Value::Integer(n as i64);
    let mut metadata: Vec<(String, Value)> = vec![
        ("general.architecture".into(), name.into()),
        ("general.type".into(), "model".into()),
        ("general.quantization_version".into(), integer(2)),
    ];
    let mut set = |key: &str, value: Value| metadata.push((format!("{name}.{key}"), value));
    set("context_length", integer(a.context));
    set("embedding_length", integer(a.hidden));
    set("block_count", integer(a.layers.len()));
    set("feed_forward_length", integer(a.intermediate));
    set("attention.head_count", integer(a.heads.heads));
    set("attention.head_count_kv", integer(a.heads.kv_heads));
    set("attention.key_length", integer(a.heads.dim));
    set("attention.value_length", integer(a.heads.dim));
    set("vocab_size", integer(a.vocabulary));
    let epsilon = if a.norm.kind.centred() { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    set(&format!("attention.{epsilon}"), Value::Number(a.norm.epsilon));
    if let Some(window) = a.layers.iter().find_map(|layer| layer.window) {
        set("attention.sliding_window", integer(window));
    }
    if let Some(cap) = a.attention_cap {
        set("attn_logit_softcapping", Value::Number(cap));
    }
    if let Some(cap) = a.logits_cap {
        set("final_logit_softcapping", Value::Number(cap));
    }
    if a.model_type == ModelType::Granite {
        set("attention.scale", Value::Number(a.attention_scale));
        set("embedding_scale", Value::Number(a.embedding_scale));
        set("residual_scale", Value::Number(a.residual_scale));
        set("logit_scale", Value::Number(1.0 / a.logits_scale));
    }
    let full = a.layers.iter().filter(|layer| layer.window.is_none() || a.model_type != ModelType::Gemma3);
    let mut tables = Tables::new();
    if let Some(rope) = full.filter_map(|layer| layer.rope.as_ref()).next() {
        set("rope.freq_base", Value::Number(rope.theta));
        set("rope.dimension_count", integer(rope.dim));
        tables = scaled(rope, json, &mut set).map_err(refuse)?;
    }
    Ok((metadata, tables))
}

/// Sets how rotations are scaled.
fn scaled(rope: &Rope, json: &Json, set: &mut impl FnMut(&str, Value)) -> Result<Tables, String> {
    match &rope.scaling {
        Scaling::Default => Ok(Tables::new()),
        Scaling::Linear { factor } => {
            set("rope.scaling.type", "linear".into());
            set("rope.scaling.factor", Value::Number(*factor));
            Ok(Tables::new())
        }
        Scaling::Yarn { factor, .. } => {
            let tables = [&json["rope_scaling"], &json["rope_parameters"]];
            let key = "original_max_position_embeddings";
            let original = tables.iter().find_map(|table| table[key].as_i64()).or(json[key].as_i64());
            let original =
                original.ok_or_else(|| format!("`{key}` is missing, which llama.cpp wants for yarn"))?;
            set("rope.scaling.type", "yarn".into());
            set("rope.scaling.factor", Value::Number(*factor));
            set("rope.scaling.original_context_length", Value::Integer(original));
            Ok(Tables::new())
        }
        Scaling::Llama3 { .. } => {
            let plain = Rope { scaling: Scaling::Default, ..rope.clone() }.frequencies(0);
            let factors =
                plain.iter().zip(rope.frequencies(0)).map(|(plain, scaled)| (plain / scaled) as f32);
            Ok(vec![("rope_freqs.weight", factors.collect())])
        }
        Scaling::LongRope { short, long, original_context } => {
            set("rope.scaling.original_context_length", Value::Integer(*original_context as i64));
            set("rope.scaling.attn_factor", Value::Number(rope.magnitude));
            let table = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
            Ok(vec![("rope_factors_short.weight", table(short)), ("rope_factors_long.weight", table(long))])
        }
        Scaling::Dynamic { .. } => {
            Err("the scaling `dynamic` of its rotary positions is unknown to llama.cpp".into())
        }
    }
}
