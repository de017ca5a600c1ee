//! Tiny random models of every architecture, with every option that changes the computation.

use serde_json::{Value, json};
use spo_api::{Adapter, Lora, ModelSource, ModelSpec, Targets};

use crate::config::ModelType;

pub(super) const VOCABULARY: u32 = 37;

/// Configurations for every supported model type.
pub fn configurations() -> Vec<(&'static str, Value)> {
    ModelType::ALL.into_iter().flat_map(configurations_of).collect()
}

/// The simplest configuration of a model type.
pub fn tiny(model_type: ModelType) -> Value {
    configurations_of(model_type).swap_remove(0).1
}

/// A Llama in which some tensors are large enough for 8-bit moments but are not a whole number of blocks.
pub(super) fn wide() -> Value {
    llama(json!({ "hidden_size": 72, "intermediate_size": 60, "head_dim": 18 }))
}

/// The configurations of a model type used in tests, simplest first. A model type that is missing here does
/// not compile.
fn configurations_of(model_type: ModelType) -> Vec<(&'static str, Value)> {
    match model_type {
        ModelType::Llama => vec![
            ("llama", llama(json!({}))),
            (
                "llama with biases, tied, linear rope",
                llama(json!({
                    "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true,
                    "rope_parameters": null, "rope_theta": 5000.0,
                    "rope_scaling": { "type": "linear", "factor": 2.0 },
                })),
            ),
            (
                "llama 3 rope",
                llama(json!({
                    "rope_parameters": {
                        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                    },
                })),
            ),
        ],
        // Windows are shorter than the prompts and answers of the batch.
        ModelType::Mistral => {
            vec![("mistral", llama(json!({ "model_type": "mistral", "sliding_window": 5 })))]
        }
        ModelType::Qwen2 => vec![
            ("qwen2", llama(json!({ "model_type": "qwen2", "head_dim": null, "tie_word_embeddings": true }))),
            (
                "qwen2 that slides from the second layer on, dynamic rope",
                llama(json!({
                    "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1,
                    "rope_parameters": { "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0 },
                    "max_position_embeddings": 45,
                })),
            ),
        ],
        ModelType::Qwen3 => vec![
            ("qwen3", llama(json!({ "model_type": "qwen3", "head_dim": 8 }))),
            (
                "qwen3 with yarn",
                llama(json!({
                    "model_type": "qwen3", "head_dim": 8, "attention_bias": true,
                    "rope_parameters": {
                        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 8.0,
                        "original_max_position_embeddings": 32,
                    },
                })),
            ),
        ],
        ModelType::Gpt2 => vec![("gpt2", gpt2(json!({ "model_type": "gpt2" })))],
        ModelType::Gemma => {
            vec![("gemma", llama(json!({ "model_type": "gemma", "tie_word_embeddings": true })))]
        }
        ModelType::Gemma2 => vec![(
            "gemma2",
            llama(json!({
                "model_type": "gemma2", "tie_word_embeddings": true, "query_pre_attn_scalar": 9, "sliding_window": 6,
                "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
            })),
        )],
        ModelType::Gemma3 => vec![(
            "gemma3_text",
            llama(json!({
                "model_type": "gemma3_text", "tie_word_embeddings": true, "query_pre_attn_scalar": 9,
                "sliding_window": 6, "sliding_window_pattern": 2, "rope_parameters": null,
                "rope_local_base_freq": 100.0, "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
            })),
        )],
        ModelType::Phi3 => vec![(
            "phi3",
            llama(json!({
                "model_type": "phi3", "head_dim": 8, "partial_rotary_factor": 0.75, "sliding_window": 30,
                "original_max_position_embeddings": 13, "initializer_range": 0.2, "rope_parameters": {
                    "rope_type": "longrope", "rope_theta": 10000.0,
                    "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.5, 3.0, 9.0],
                },
            })),
        )],
        ModelType::Olmo2 => vec![("olmo2", llama(json!({ "model_type": "olmo2" })))],
        ModelType::Olmo3 => vec![(
            "olmo3",
            llama(json!({
                "model_type": "olmo3", "num_hidden_layers": 2, "sliding_window": 6, "rope_parameters": null,
                "layer_types": ["sliding_attention", "full_attention"],
            })),
        )],
        ModelType::Granite => vec![(
            "granite",
            llama(json!({
                "model_type": "granite", "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
                "residual_multiplier": 0.4, "logits_scaling": 2.0,
            })),
        )],
        ModelType::SmolLm3 => vec![(
            "smollm3",
            llama(json!({ "model_type": "smollm3", "tie_word_embeddings": true, "no_rope_layers": [1, 0] })),
        )],
        ModelType::Ministral => vec![(
            "ministral",
            llama(json!({
                "model_type": "ministral", "sliding_window": 6,
                "layer_types": ["full_attention", "sliding_attention"],
            })),
        )],
        ModelType::StableLm => vec![(
            "stablelm",
            llama(json!({
                "model_type": "stablelm", "use_qkv_bias": true, "use_parallel_residual": true, "head_dim": 8,
                "rope_parameters": null,
            })),
        )],
        ModelType::Starcoder2 => {
            vec![("starcoder2", llama(json!({ "model_type": "starcoder2", "sliding_window": 9 })))]
        }
        ModelType::Phi => {
            vec![("phi", llama(json!({ "model_type": "phi", "head_dim": 8, "rope_parameters": null })))]
        }
        ModelType::Cohere => vec![("cohere", llama(json!({ "model_type": "cohere", "logit_scale": 0.7 })))],
        ModelType::Cohere2 => vec![(
            "cohere2",
            llama(json!({
                "model_type": "cohere2", "logit_scale": 0.7, "sliding_window": 6, "sliding_window_pattern": 2,
            })),
        )],
        ModelType::Glm => {
            vec![("glm", llama(json!({ "model_type": "glm", "head_dim": 8, "rope_parameters": null })))]
        }
        ModelType::Glm4 => {
            vec![("glm4", llama(json!({ "model_type": "glm4", "head_dim": 8, "rope_parameters": null })))]
        }
        ModelType::Helium => vec![("helium", llama(json!({ "model_type": "helium", "mlp_bias": true })))],
        ModelType::Mixtral => vec![(
            "mixtral",
            llama(json!({
                "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9,
            })),
        )],
        ModelType::Qwen3Moe => vec![
            (
                "qwen3_moe",
                llama(json!({
                    "model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 12,
                    "norm_topk_prob": true, "head_dim": 8,
                })),
            ),
            (
                "qwen3_moe with an MLP in the first layer",
                llama(json!({
                    "model_type": "qwen3_moe", "num_experts": 3, "num_experts_per_tok": 1, "moe_intermediate_size": 12,
                    "mlp_only_layers": [0],
                })),
            ),
        ],
        ModelType::Olmoe => vec![(
            "olmoe",
            llama(json!({ "model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2 })),
        )],
        ModelType::SeedOss => vec![(
            "seed_oss",
            llama(json!({ "model_type": "seed_oss", "attention_out_bias": true, "mlp_bias": true })),
        )],
        ModelType::Ernie45 => vec![(
            "ernie4_5",
            llama(json!({ "model_type": "ernie4_5", "use_bias": true, "tie_word_embeddings": true })),
        )],
        ModelType::Exaone4 => vec![(
            "exaone4",
            llama(json!({ "model_type": "exaone4", "sliding_window": 6, "sliding_window_pattern": 2 })),
        )],
        ModelType::GptBigCode => [("gpt_bigcode", true), ("gpt_bigcode with all heads", false)]
            .map(|(name, one)| (name, gpt2(json!({ "model_type": "gpt_bigcode", "multi_query": one }))))
            .to_vec(),
        ModelType::GptJ => vec![("gptj", gpt2(json!({ "model_type": "gptj", "rotary_dim": 4 })))],
        ModelType::GptNeoX => vec![
            (
                "gpt_neox",
                llama(json!({
                    "model_type": "gpt_neox", "head_dim": null, "hidden_size": 32,
                })),
            ),
            (
                "gpt_neox in sequence",
                llama(json!({
                    "model_type": "gpt_neox", "head_dim": null, "use_parallel_residual": false, "rotary_pct": 1.0,
                    "rope_parameters": null,
                })),
            ),
        ],
    }
}

/// A GPT-2 configuration with these changes.
fn gpt2(changes: Value) -> Value {
    changed(
        json!({
            "vocab_size": VOCABULARY, "n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 128,
            "initializer_range": 0.3,
        }),
        changes,
    )
}

/// A Llama configuration with these changes.
fn llama(changes: Value) -> Value {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
        "tie_word_embeddings": false,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
    });
    changed(config, changes)
}

/// A configuration with changes; null removes a key.
fn changed(mut config: Value, changes: Value) -> Value {
    let fields = config.as_object_mut().expect("it is a table");
    for (key, value) in changes.as_object().into_iter().flatten() {
        fields.insert(key.clone(), value.clone());
    }
    fields.retain(|_, value| !value.is_null());
    config
}

/// The specification of a randomly initialised model.
pub fn random(config: &Value, adapter: Option<Adapter>) -> ModelSpec {
    ModelSpec {
        source: ModelSource::Random(config.clone()),
        adapter,
        quantize: None,
        allow_pickle: false,
        seed: 7,
        device: "cpu".into(),
        dtype: "f32".into(),
    }
}

/// An adapter on every linear layer.
pub fn adapter() -> Adapter {
    Adapter::New(Lora::new(3, 6.0, Targets::ALL))
}

/// An adapter on the embedding table and the head, and on a layer below.
pub(super) fn adapter_of_ends() -> Adapter {
    let pattern = r".*\.(embed_tokens|wte|embed_in|v_proj|c_attn|query_key_value)|lm_head|embed_out";
    Adapter::New(Lora::new(3, 6.0, Targets::Pattern(pattern.into())))
}

/// Models that differ in what adapters of the embedding table and the head have to do with: factors, caps, biases, tied tables.
const ENDS: [&str; 6] =
    ["llama with biases, tied, linear rope", "granite", "gemma2", "phi", "gpt2", "gpt_neox"];

/// Every model to check: each configuration with all parameters trained, and with an adapter.
pub(super) fn cases() -> Vec<(String, ModelSpec)> {
    let both = |(name, config): (&str, Value)| {
        let ends = ENDS.contains(&name).then(|| {
            (format!("{name}, adapter of embedding and head"), random(&config, Some(adapter_of_ends())))
        });
        [
            (format!("{name}, full"), random(&config, None)),
            (format!("{name}, adapter"), random(&config, Some(adapter()))),
        ]
        .into_iter()
        .chain(ends)
    };
    configurations().into_iter().flat_map(both).collect()
}
