//! Parses `config.json` of a Hugging Face folder into the shape of a decoder.

mod architecture;
mod cohere;
mod ernie;
mod exaone;
mod fields;
mod gemma;
mod glm;
mod gpt2;
mod gpt_neox;
mod granite;
mod layers;
mod llama;
mod moe;
mod olmo;
mod phi;
mod phi3;
mod rotary;
mod smollm3;
mod stablelm;
mod starcoder2;

use serde_json::Value;
use spo_api::{Error, Result, nearest};

pub use architecture::ModelType;
pub(crate) use architecture::{Architecture, ExpertsShape, HeadNorm, MlpShape, Names, NormShape, Projected};
pub(crate) use fields::Fields;
pub(crate) use rotary::{Rope, Scaling};

/// Parses a configuration in the older format (`rope_theta`, `torch_dtype`) or in that of transformers 5
/// (`rope_parameters`, `dtype`). `origin` names it in errors.
///
/// # Errors
/// [`Error::Model`] for an unknown architecture, a missing or invalid size, or an option that would change
/// the computation in a way that is not implemented.
pub(crate) fn parse(config: &Value, origin: &str) -> Result<Architecture> {
    let fields = Fields { config, origin };
    if !config.is_object() {
        return Err(Error::Model(format!("{origin}: must be a JSON object")));
    }
    if let Some(quantised) = fields.get("quantization_config") {
        let method = quantised["quant_method"].as_str().unwrap_or("no `quant_method`");
        let problem = format!(
            "is set ({method}): weights that are quantised so are not read. Take the model that this one was made from, which \
             `model.quantize` quantises below an adapter, or a GGUF file"
        );
        return Err(fields.error("quantization_config", problem));
    }
    let model_type = model_type(&fields)?;
    let architecture = reader(model_type)(&fields, model_type)?;
    let heads = architecture.heads;
    if !heads.heads.is_multiple_of(heads.kv_heads) {
        let problem = format!("must divide the number of heads ({}), got {}", heads.heads, heads.kv_heads);
        return Err(fields.error("num_key_value_heads", problem));
    }
    Ok(architecture)
}

/// Reads the configuration of one family.
type Reader = fn(&Fields<'_>, ModelType) -> Result<Architecture>;

fn reader(model_type: ModelType) -> Reader {
    match model_type {
        ModelType::Llama
        | ModelType::Mistral
        | ModelType::Ministral
        | ModelType::Qwen2
        | ModelType::Qwen3
        | ModelType::SeedOss => llama::read,
        ModelType::Gpt2 => gpt2::read,
        ModelType::GptBigCode => gpt2::read_bigcode,
        ModelType::GptJ => gpt2::read_j,
        ModelType::Gemma | ModelType::Gemma2 | ModelType::Gemma3 => gemma::read,
        ModelType::Phi3 => phi3::read,
        ModelType::Olmo2 | ModelType::Olmo3 => olmo::read,
        ModelType::Granite => granite::read,
        ModelType::SmolLm3 => smollm3::read,
        ModelType::GptNeoX => gpt_neox::read,
        ModelType::StableLm => stablelm::read,
        ModelType::Starcoder2 => starcoder2::read,
        ModelType::Phi => phi::read,
        ModelType::Cohere | ModelType::Cohere2 => cohere::read,
        ModelType::Glm | ModelType::Glm4 => glm::read,
        ModelType::Helium => glm::read_helium,
        ModelType::Ernie45 => ernie::read,
        ModelType::Exaone4 => exaone::read,
        ModelType::Mixtral | ModelType::Qwen3Moe | ModelType::Olmoe => moe::read,
    }
}

fn model_type(fields: &Fields<'_>) -> Result<ModelType> {
    let given = fields.required("model_type", fields.maybe_text("model_type")?)?;
    if let Some(found) = ModelType::ALL.into_iter().find(|known| known.name() == given) {
        return Ok(found);
    }
    let known = ModelType::ALL.map(ModelType::name);
    let hint = nearest(given, known).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
    let problem = format!("= \"{given}\" is not supported, only {}{hint}", known.join(", "));
    Err(fields.error("model_type", problem))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Files of older versions of transformers, and what is in their place today.
    #[test]
    fn older_files_mean_the_same() {
        let with = |changes: &[&Value]| {
            let mut config = json!({
                "vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 4,
                "num_attention_heads": 2, "max_position_embeddings": 64,
            });
            for change in changes {
                config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            }
            parse(&config, "test").unwrap()
        };
        let longrope = |kind: &str, key: &str| json!({ key: kind, "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0] });
        let mut scaled = longrope("longrope", "rope_type");
        scaled["rope_theta"] = json!(500.0);
        scaled["partial_rotary_factor"] = json!(0.5);
        for (model, older, today) in [
            (
                json!({ "model_type": "gemma3_text", "sliding_window": 5 }),
                json!({
                    "rope_theta": 2e6, "rope_local_base_freq": 300.0, "sliding_window_pattern": 2,
                    "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
                }),
                json!({
                    "layer_types": [
                        "sliding_attention", "full_attention", "sliding_attention", "full_attention",
                    ],
                    "rope_parameters": {
                        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 2e6 },
                        "sliding_attention": { "rope_type": "default", "rope_theta": 300.0 },
                    },
                }),
            ),
            (
                json!({ "model_type": "gpt_neox" }),
                json!({ "rotary_pct": 0.5, "rotary_emb_base": 300 }),
                json!({ "rope_parameters": { "rope_theta": 300, "partial_rotary_factor": 0.5 } }),
            ),
            (
                json!({ "model_type": "phi3", "original_max_position_embeddings": 32 }),
                json!({ "rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": longrope("su", "type") }),
                json!({ "rope_parameters": scaled }),
            ),
            (
                json!({ "model_type": "olmo3", "sliding_window": 5 }),
                json!({ "rope_theta": 5e5 }),
                json!({
                    "rope_parameters": {
                        "full_attention": { "rope_theta": 5e5 }, "sliding_attention": { "rope_theta": 5e5 },
                    },
                }),
            ),
            (
                json!({ "model_type": "gemma" }),
                json!({ "hidden_act": "gelu", "rope_scaling": null }),
                json!({ "hidden_act": "gelu_pytorch_tanh" }),
            ),
        ] {
            assert_eq!(with(&[&model, &older]), with(&[&model, &today]), "{model}");
        }
    }
}
