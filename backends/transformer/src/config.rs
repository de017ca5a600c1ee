//! Parses `config.json` of a Hugging Face folder into the shape of a decoder.

mod architecture;
mod cohere;
mod fields;
mod gemma;
mod gpt2;
mod gpt_neox;
mod granite;
mod layers;
mod llama;
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
pub(crate) use architecture::{Architecture, HeadNorm, MlpShape, NormShape, Projected};
use fields::Fields;
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
    if fields.get("quantization_config").is_some() {
        return Err(fields.error("quantization_config", "is set: quantised weights are not supported"));
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
        | ModelType::Qwen3 => llama::read,
        ModelType::Gpt2 => gpt2::read,
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
