//! Mixtral, Qwen3-MoE and OLMoE: a router sends each token to a few experts, in place of one MLP.

use serde_json::Value;
use spo_api::Result;

use super::architecture::{Architecture, ExpertsShape, HeadNorm, ModelType};
use super::fields::Fields;
use super::layers::window;
use super::llama::{Defaults, HEAD_NORMS, attention_bias, base};
use super::rotary::{Rope, RopeKeys};

/// The most experts of all layers together: beyond any model, and short of what fills memory with names.
const MOST: usize = 1 << 17;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    match model_type {
        ModelType::Mixtral => mixtral(fields, model_type),
        ModelType::Olmoe => olmoe(fields, model_type),
        _ => qwen3(fields, model_type),
    }
}

fn mixtral(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| Rope::parse(fields, &RopeKeys { theta: 1e6, ..keys });
    let mut a = base(fields, model_type, Defaults { epsilon: 1e-5, rope, ..Defaults::default() })?;
    if fields.maybe_within("router_jitter_noise", 0.0, 1.0)?.is_some_and(|noise| noise > 0.0) {
        return Err(
            fields.error("router_jitter_noise", "is not supported: routers get no noise, set it to 0")
        );
    }
    every_layer_slides(&mut a, window(fields, None)?);
    let experts = Experts { router: "block_sparse_moe.gate", experts: "block_sparse_moe.experts", ..EXPERTS };
    let experts = Experts { projections: ["w1", "w3", "w2"], count: 8, chosen: 2, ..experts };
    let shape = experts.shape(fields, a.intermediate, true)?;
    with_experts(fields, a, shape, |_| true)
}

fn olmoe(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type, Defaults { epsilon: 1e-5, ..Defaults::default() })?;
    attention_bias(fields, &mut a)?;
    a.block.head_norms = Some((HEAD_NORMS, HeadNorm::All));
    if let Some(limit) = fields.get("clip_qkv") {
        return Err(fields.error("clip_qkv", format!("= {limit} is not supported, only null")));
    }
    let experts = Experts { count: 64, chosen: 8, loss_weight: 0.01, ..EXPERTS };
    let shape = experts.shape(fields, a.intermediate, fields.flag("norm_topk_prob", false)?)?;
    with_experts(fields, a, shape, |_| true)
}

fn qwen3(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type, Defaults::default())?;
    attention_bias(fields, &mut a)?;
    a.block.head_norms = Some((HEAD_NORMS, HeadNorm::Each));
    if fields.flag("use_sliding_window", false)? {
        every_layer_slides(&mut a, window(fields, Some(4096))?);
    }
    if ["num_experts", "num_local_experts"].iter().any(|key| fields.get(key) == Some(&Value::from(0))) {
        return Ok(a);
    }
    let width = fields.maybe_size("moe_intermediate_size")?.unwrap_or(768);
    let experts = Experts { count: 128, chosen: 8, ..EXPERTS };
    let shape = experts.shape(fields, width, fields.flag("norm_topk_prob", false)?)?;
    let step = fields.maybe_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = layers_of(fields, "mlp_only_layers")?;
    with_experts(fields, a, shape, |layer| !dense.contains(&layer) && (layer + 1).is_multiple_of(step))
}

/// What a family calls its experts, and what it takes for keys that its `config.json` does not have.
struct Experts {
    router: &'static str,
    experts: &'static str,
    projections: [&'static str; 3],
    count: usize,
    chosen: usize,
    loss_weight: f64,
}

const EXPERTS: Experts = Experts {
    router: "mlp.gate",
    experts: "mlp.experts",
    projections: ["gate_proj", "up_proj", "down_proj"],
    count: 0,
    chosen: 0,
    loss_weight: 0.001,
};

impl Experts {
    fn shape(&self, fields: &Fields<'_>, width: usize, normalised: bool) -> Result<ExpertsShape> {
        let Experts { router, experts, projections, .. } = *self;
        // transformers takes the one for the other, and writes either.
        let key = if fields.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
        let count = fields.maybe_size(key)?.unwrap_or(self.count);
        let chosen = fields.maybe_size("num_experts_per_tok")?.unwrap_or(self.chosen);
        if chosen > count {
            let problem = format!("= {chosen} is more than there are experts, {count} (`{key}`)");
            return Err(fields.error("num_experts_per_tok", problem));
        }
        let loss_weight =
            fields.maybe_within("router_aux_loss_coef", 0.0, f64::MAX)?.unwrap_or(self.loss_weight);
        let loss_weight = if fields.flag("output_router_logits", false)? { loss_weight } else { 0.0 };
        Ok(ExpertsShape { router, experts, projections, count, chosen, width, normalised, loss_weight })
    }
}

/// Gives experts to the layers that have them.
fn with_experts(
    fields: &Fields<'_>,
    mut a: Architecture,
    shape: ExpertsShape,
    sparse: impl Fn(usize) -> bool,
) -> Result<Architecture> {
    if shape.count.saturating_mul(a.layers.len()) > MOST {
        let problem = format!("= {} in {} layers are more than {MOST}", shape.count, a.layers.len());
        return Err(fields.error("num_experts", problem));
    }
    a.layers.iter_mut().enumerate().for_each(|(i, layer)| layer.sparse = sparse(i));
    a.experts = Some(shape).filter(|_| a.layers.iter().any(|layer| layer.sparse));
    Ok(a)
}

fn every_layer_slides(a: &mut Architecture, window: Option<usize>) {
    a.layers.iter_mut().for_each(|layer| layer.window = window);
}

/// A list of layers, counted from 0.
fn layers_of(fields: &Fields<'_>, key: &str) -> Result<Vec<usize>> {
    let Some(value) = fields.get(key) else { return Ok(Vec::new()) };
    let layer = |value: &Value| value.as_u64().map(|layer| layer as usize);
    let listed = value.as_array().and_then(|list| list.iter().map(layer).collect());
    listed.ok_or_else(|| fields.error(key, format!("must be a list of layers, counted from 0, got {value}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::parse;

    fn with(model_type: &str, changes: Value) -> Result<super::Architecture, String> {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 4,
            "num_attention_heads": 2, "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        parse(&config, "test").map_err(|e| e.to_string())
    }

    /// As transformers 5.24 reads these configurations.
    #[test]
    fn layers_are_sparse_where_transformers_has_them_so() {
        for (changes, expected) in [
            (json!({}), [true; 4]),
            (json!({ "decoder_sparse_step": 2 }), [false, true, false, true]),
            (json!({ "mlp_only_layers": [0, 3] }), [false, true, true, false]),
            (json!({ "mlp_only_layers": [1], "decoder_sparse_step": 2 }), [false, false, false, true]),
            (json!({ "num_experts": 0 }), [false; 4]),
        ] {
            let a = with("qwen3_moe", changes.clone()).unwrap();
            assert_eq!(a.layers.iter().map(|layer| layer.sparse).collect::<Vec<_>>(), expected, "{changes}");
        }
    }

    #[test]
    fn the_routers_loss_counts_if_router_logits_are_asked_for() {
        for (model_type, changes, expected) in [
            ("mixtral", json!({ "router_aux_loss_coef": 0.5 }), 0.0),
            ("mixtral", json!({ "router_aux_loss_coef": 0.5, "output_router_logits": true }), 0.5),
            ("qwen3_moe", json!({ "output_router_logits": true }), 0.001),
            ("olmoe", json!({ "output_router_logits": true }), 0.01),
        ] {
            let found = with(model_type, changes.clone()).unwrap().experts.unwrap().loss_weight;
            assert_eq!(found, expected, "{model_type} {changes}");
        }
    }

    #[test]
    fn what_is_unsupported_is_named() {
        for (model_type, changes, said) in [
            ("olmoe", json!({ "clip_qkv": 8.0 }), "`clip_qkv` = 8.0 is not supported"),
            ("mixtral", json!({ "router_jitter_noise": 0.1 }), "`router_jitter_noise` is not supported"),
            ("mixtral", json!({ "num_experts_per_tok": 9 }), "`num_experts_per_tok` = 9 is more than"),
            ("qwen3_moe", json!({ "mlp_only_layers": 3 }), "`mlp_only_layers` must be a list of layers"),
            ("qwen3_moe", json!({ "num_experts": 1 << 20 }), "in 4 layers are more than"),
        ] {
            let error = with(model_type, changes).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
