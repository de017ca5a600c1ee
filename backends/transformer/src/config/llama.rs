//! The configurations of Llama and related models.

use serde_json::Value;
use spo_api::Result;

use super::architecture::{Architecture, Family, Layer, ModelType};
use super::fields::Fields;
use super::rotary::Rope;
use crate::engine::{Activation, Heads};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    fields.only_text("hidden_act", &["silu"])?;
    let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let dim = match fields.maybe_size("head_dim")? {
        Some(dim) => dim,
        // Qwen3 is the only type whose default is not hidden / heads.
        None if model_type == ModelType::Qwen3 => 128,
        None => fields.head_width(hidden, heads, "num_attention_heads")?,
    };
    let attention_bias = match model_type {
        ModelType::Llama | ModelType::Qwen3 => fields.flag("attention_bias", false)?,
        _ => false,
    };
    let rope = Rope::parse(fields)?;
    let windows = windows(fields, model_type)?;
    Ok(Architecture {
        model_type,
        family: Family::Llama,
        vocabulary: fields.size("vocab_size")?,
        hidden,
        layers: windows.into_iter().map(|window| Layer { rope: Some(rope.clone()), window }).collect(),
        heads: Heads { heads, kv_heads: fields.maybe_size("num_key_value_heads")?.unwrap_or(heads), dim },
        intermediate: fields.size("intermediate_size")?,
        context: fields.context("max_position_embeddings")?,
        epsilon: fields.epsilon("rms_norm_eps", 1e-6)?,
        qkv_bias: attention_bias || model_type == ModelType::Qwen2,
        output_bias: attention_bias,
        mlp_bias: model_type == ModelType::Llama && fields.flag("mlp_bias", false)?,
        activation: Activation::Silu,
        qk_norm: model_type == ModelType::Qwen3,
        tied: fields.flag("tie_word_embeddings", false)?,
        initializer_range: fields.initializer_range()?,
        dtype: fields.dtype()?,
    })
}

/// The sliding window of each layer, in tokens; `None` for a layer whose attention reaches back to the
/// beginning. Defaults and precedence are those of transformers.
fn windows(fields: &Fields<'_>, model_type: ModelType) -> Result<Vec<Option<usize>>> {
    let layers = fields.layers("num_hidden_layers")?;
    let window = || match fields.config.get("sliding_window") {
        None => Ok(Some(4096)),
        Some(_) => fields.maybe_size("sliding_window"),
    };
    match model_type {
        // Every layer slides, whatever `layer_types` says.
        ModelType::Mistral => Ok(vec![window()?; layers]),
        ModelType::Qwen2 | ModelType::Qwen3 => {
            let window = if fields.flag("use_sliding_window", false)? { window()? } else { None };
            let Some(types) = fields.get("layer_types") else {
                let first = fields.maybe_count("max_window_layers")?.unwrap_or(28);
                return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
            };
            layer_types(fields, types, layers, window)
        }
        ModelType::Llama | ModelType::Gpt2 => Ok(vec![None; layers]),
    }
}

fn layer_types(
    fields: &Fields<'_>,
    types: &Value,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    let listed = types.as_array().filter(|list| list.len() == layers);
    let listed = listed.ok_or_else(|| {
        fields.error("layer_types", format!("must be a list of {layers} types, one per layer, got {types}"))
    })?;
    let each = listed.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            let problem =
                "has a sliding_attention layer, but no window: set `use_sliding_window` and `sliding_window`";
            Err(fields.error("layer_types", problem))
        }
        _ => {
            let problem =
                format!("has {kind}, which is not supported, only full_attention, sliding_attention");
            Err(fields.error("layer_types", problem))
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::parse;

    fn windows_of(model_type: &str, changes: Value) -> Result<Vec<Option<usize>>> {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3,
            "num_attention_heads": 2, "head_dim": 4, "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Ok(parse(&config, "test")?.layers.iter().map(|layer| layer.window).collect())
    }

    /// As transformers 5.24 reads these configurations.
    #[test]
    fn layers_slide_where_transformers_lets_them() {
        let window = |n| Some(n);
        let sliding = json!({ "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1 });
        let with = |changes: Value| {
            let mut config = sliding.clone();
            config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            config
        };
        let types =
            |kinds: [&str; 3]| json!({ "layer_types": kinds.map(|kind| format!("{kind}_attention")) });
        for (model_type, changes, expected) in [
            ("qwen2", json!({ "sliding_window": 16 }), vec![None; 3]),
            ("qwen2", sliding.clone(), vec![None, window(16), window(16)]),
            ("qwen3", with(json!({ "max_window_layers": 0 })), vec![window(16); 3]),
            ("qwen2", with(json!({ "max_window_layers": 3 })), vec![None; 3]),
            ("qwen3", json!({ "use_sliding_window": true, "sliding_window": 16 }), vec![None; 3]),
            ("qwen2", with(json!({ "sliding_window": null })), vec![None; 3]),
            (
                "qwen2",
                json!({ "use_sliding_window": true, "max_window_layers": 2 }),
                vec![None, None, window(4096)],
            ),
            ("qwen3", with(types(["sliding", "full", "full"])), vec![window(16), None, None]),
            ("qwen2", with(types(["full"; 3])), vec![None; 3]),
            ("mistral", json!({ "sliding_window": 16 }), vec![window(16); 3]),
            ("mistral", json!({ "sliding_window": null }), vec![None; 3]),
            ("mistral", json!({}), vec![window(4096); 3]),
            ("llama", sliding.clone(), vec![None; 3]),
        ] {
            assert_eq!(windows_of(model_type, changes.clone()).unwrap(), expected, "{model_type} {changes}");
        }
    }

    #[test]
    fn layer_types_that_make_no_sense_are_named() {
        let on = json!({ "use_sliding_window": true, "sliding_window": 16 });
        let said = |mut config: Value, types: Value| {
            config["layer_types"] = types;
            windows_of("qwen2", config).unwrap_err().to_string()
        };
        assert!(said(on.clone(), json!(["full_attention"])).contains("a list of 3 types"));
        assert!(
            said(on.clone(), json!(["full_attention", "chunked_attention", 1])).contains("chunked_attention")
        );
        assert!(
            said(json!({}), json!(["sliding_attention", "full_attention", "full_attention"]))
                .contains("no window")
        );
    }
}
