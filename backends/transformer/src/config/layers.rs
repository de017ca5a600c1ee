//! Which layers attend through a sliding window.

use serde_json::Value;
use spo_api::Result;

use super::architecture::Layer;
use super::fields::Fields;

/// The sliding window, in tokens; null means that there is none.
pub(super) fn window(fields: &Fields<'_>, default: Option<usize>) -> Result<Option<usize>> {
    match fields.config.get("sliding_window") {
        None => Ok(default),
        Some(_) => fields.maybe_size("sliding_window"),
    }
}

/// Sets the window of the layers that slide according to `layer_types`, or else to `default`.
pub(super) fn sliding_layers(
    fields: &Fields<'_>,
    layers: &mut [Layer],
    window: Option<usize>,
    default: impl Fn(usize) -> bool,
) -> Result<()> {
    let slides = slides(fields, layers.len(), default)?;
    if window.is_none() && slides.contains(&true) {
        let problem = "has a sliding_attention layer, but no window: set `sliding_window` (and `use_sliding_window` for Qwen)";
        return Err(fields.error("layer_types", problem));
    }
    for (layer, slides) in layers.iter_mut().zip(slides) {
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}

/// Whether each layer is a sliding one.
fn slides(fields: &Fields<'_>, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let Some(types) = fields.get("layer_types") else { return Ok((0..layers).map(default).collect()) };
    let listed = types.as_array().filter(|list| list.len() == layers);
    let listed = listed.ok_or_else(|| {
        fields.error("layer_types", format!("must be a list of {layers} types, one per layer, got {types}"))
    })?;
    let each = listed.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            let problem =
                format!("has {kind}, which is not supported, only full_attention, sliding_attention");
            Err(fields.error("layer_types", problem))
        }
    });
    each.collect()
}

/// For each layer whether it slides, as transformers writes `layer_types`.
pub(super) fn every(pattern: usize) -> impl Fn(usize) -> bool {
    move |layer| !(layer + 1).is_multiple_of(pattern)
}

/// For each layer, a list of 0 and 1 under a key; `None` if it is not there.
pub(super) fn listed_flags(fields: &Fields<'_>, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let flag = |v: &Value| v.as_u64().filter(|v| *v <= 1).map(|v| v == 1);
    let list = value.as_array().filter(|list| list.len() >= layers);
    let flags = list.and_then(|list| list.iter().take(layers).map(flag).collect());
    let wanted = || fields.error(key, format!("must be a list of {layers} numbers, 0 or 1, got {value}"));
    flags.ok_or_else(wanted).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
