//! Parses `config.json` of a Hugging Face folder into the shape of a decoder.

mod architecture;
mod fields;
mod gpt2;
mod llama;
mod rotary;

use serde_json::Value;
use spo_api::{Error, Result, nearest};

pub use architecture::ModelType;
pub(crate) use architecture::{Architecture, Family};
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
    if fields.get("quantization_config").is_some() {
        return Err(fields.error("quantization_config", "is set: quantised weights are not supported"));
    }
    let architecture = match model_type(&fields)? {
        ModelType::Gpt2 => gpt2::read(&fields)?,
        llama => llama::read(&fields, llama)?,
    };
    let heads = architecture.heads;
    if architecture.layers.iter().any(|layer| layer.rope.is_some()) && heads.dim % 2 != 0 {
        let problem = format!("must be even for rotary positions, got {}", heads.dim);
        return Err(fields.error("head_dim", problem));
    }
    if !heads.heads.is_multiple_of(heads.kv_heads) {
        let problem = format!("must divide the number of heads ({}), got {}", heads.heads, heads.kv_heads);
        return Err(fields.error("num_key_value_heads", problem));
    }
    Ok(architecture)
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
