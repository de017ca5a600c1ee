//! What a GGUF file says of a model, as the `config.json` that transformers would have for it.

use serde_json::{Value, json};
use spo_api::{Error, Result, nearest};
use spo_gguf::{BlockType, Gguf};

use super::rotary;
use crate::config::ModelType;

/// Architectures of llama.cpp that are read, each with the type and the class that transformers has for it. Models of
/// Mistral call themselves `llama`, and are.
pub(super) const FAMILIES: [(&str, ModelType, &str); 12] = [
    ("llama", ModelType::Llama, "LlamaForCausalLM"),
    ("qwen2", ModelType::Qwen2, "Qwen2ForCausalLM"),
    ("qwen3", ModelType::Qwen3, "Qwen3ForCausalLM"),
    ("gemma", ModelType::Gemma, "GemmaForCausalLM"),
    ("gemma2", ModelType::Gemma2, "Gemma2ForCausalLM"),
    ("gemma3", ModelType::Gemma3, "Gemma3ForCausalLM"),
    ("phi3", ModelType::Phi3, "Phi3ForCausalLM"),
    ("gpt2", ModelType::Gpt2, "GPT2LMHeadModel"),
    ("olmo2", ModelType::Olmo2, "Olmo2ForCausalLM"),
    ("granite", ModelType::Granite, "GraniteForCausalLM"),
    ("smollm3", ModelType::SmolLm3, "SmolLM3ForCausalLM"),
    ("starcoder2", ModelType::Starcoder2, "Starcoder2ForCausalLM"),
];

/// The keys of one architecture in a file's metadata.
pub(super) struct Keys<'a> {
    pub gguf: &'a Gguf,
    pub architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        self.gguf.integer(&self.key(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.gguf.number(&self.key(name))
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.gguf.text(&self.key(name))
    }

    pub fn error(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        self.gguf.error(&self.key(name), problem)
    }

    fn size(&self, name: &str) -> Result<i64> {
        self.gguf.required(&self.key(name), self.integer(name)?)
    }

    /// Whether the first block has a tensor.
    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensors().contains_key(&format!("blk.0.{tensor}"))
    }
}

/// The configuration of the model in a file.
///
/// # Errors
/// [`Error::Model`] for an unknown architecture, a missing key, or a setting that is not supported.
pub(crate) fn config(gguf: &Gguf) -> Result<Value> {
    let architecture = gguf.required("general.architecture", gguf.text("general.architecture")?)?;
    let Some((_, model_type, class)) = FAMILIES.into_iter().find(|(name, ..)| *name == architecture) else {
        let known = FAMILIES.map(|(name, ..)| name);
        let hint = nearest(architecture, known).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
        let problem = format!("= \"{architecture}\" is not supported, only {}{hint}", known.join(", "));
        return Err(gguf.error("general.architecture", problem));
    };
    let keys = Keys { gguf, architecture };
    let mut config = json!({ "architectures": [class], "model_type": model_type.name() });
    for (key, value) in match model_type {
        ModelType::Gpt2 => gpt2(&keys)?,
        _ => usual(&keys, model_type)?,
    } {
        if !value.is_null() {
            config[key] = value;
        }
    }
    for (key, token) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        config[key] = gguf.integer(&format!("tokenizer.ggml.{token}_token_id"))?.into();
    }
    config["tie_word_embeddings"] = (!gguf.tensors().contains_key("output.weight")).into();
    // Numbers in blocks are products of two, for which half precision would be too short.
    config["torch_dtype"] = match gguf.tensors().get("token_embd.weight").map(|tensor| tensor.kind) {
        Some(BlockType::F16) => "float16",
        Some(BlockType::Bf16) => "bfloat16",
        _ => "float32",
    }
    .into();
    Ok(config)
}

/// Keys of a `config.json` with their values; those that are null are left out.
type Settings = Vec<(&'static str, Value)>;

fn vocabulary(keys: &Keys<'_>) -> Result<usize> {
    let table = keys.gguf.tensors().get("token_embd.weight").filter(|table| table.shape.len() == 2);
    let missing =
        || Error::Model(format!("{}: there is no matrix token_embd.weight", keys.gguf.path().display()));
    Ok(table.ok_or_else(missing)?.shape[0])
}

fn gpt2(keys: &Keys<'_>) -> Result<Settings> {
    Ok(vec![
        ("vocab_size", vocabulary(keys)?.into()),
        ("n_positions", keys.size("context_length")?.into()),
        ("n_embd", keys.size("embedding_length")?.into()),
        ("n_layer", keys.size("block_count")?.into()),
        ("n_head", keys.size("attention.head_count")?.into()),
        ("n_inner", keys.integer("feed_forward_length")?.into()),
        ("layer_norm_epsilon", keys.number("attention.layer_norm_epsilon")?.into()),
        ("activation_function", "gelu_new".into()),
    ])
}

/// The keys that most families share, and those of their own.
fn usual(keys: &Keys<'_>, model_type: ModelType) -> Result<Settings> {
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let layers = keys.size("block_count")?;
    if heads < 1 {
        return Err(keys.error("attention.head_count", format!("must be above 0, got {heads}")));
    }
    let width = keys.integer("attention.key_length")?.unwrap_or(hidden / heads);
    let mut settings = vec![
        ("vocab_size", vocabulary(keys)?.into()),
        ("hidden_size", hidden.into()),
        ("intermediate_size", keys.size("feed_forward_length")?.into()),
        ("num_hidden_layers", layers.into()),
        ("num_attention_heads", heads.into()),
        ("num_key_value_heads", keys.integer("attention.head_count_kv")?.unwrap_or(heads).into()),
        ("head_dim", width.into()),
        ("max_position_embeddings", keys.size("context_length")?.into()),
        ("rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")?.into()),
        ("attention_bias", keys.has("attn_output.bias").into()),
    ];
    let window = Value::from(keys.integer("attention.sliding_window")?);
    let mut set = |more: Settings| settings.extend(more);
    set(rotary::settings(keys, model_type, width)?);
    match model_type {
        ModelType::Llama => {
            set(vec![("hidden_act", "silu".into()), ("mlp_bias", keys.has("ffn_up.bias").into())]);
        }
        // Windows are not kept for these; the models that have them do not use them.
        ModelType::Qwen2 | ModelType::Qwen3 => {
            set(vec![("hidden_act", "silu".into()), ("use_sliding_window", false.into())]);
        }
        ModelType::Gemma => set(vec![("hidden_activation", "gelu_pytorch_tanh".into())]),
        ModelType::Gemma2 | ModelType::Gemma3 => {
            // Of the largest models of both, llama.cpp knows by their layers that scores are scaled otherwise.
            let scaled_by_hidden = layers == if model_type == ModelType::Gemma2 { 46 } else { 62 };
            set(vec![
                ("hidden_activation", "gelu_pytorch_tanh".into()),
                ("sliding_window", window),
                ("query_pre_attn_scalar", if scaled_by_hidden { hidden / heads } else { width }.into()),
                ("attn_logit_softcapping", keys.number("attn_logit_softcapping")?.into()),
                ("final_logit_softcapping", keys.number("final_logit_softcapping")?.into()),
            ]);
            if model_type == ModelType::Gemma3 {
                let pattern = keys.integer("attention.sliding_window_pattern")?.unwrap_or(6);
                set(vec![("sliding_window_pattern", pattern.into())]);
            }
        }
        ModelType::Phi3 => set(vec![("hidden_act", "silu".into()), ("sliding_window", window)]),
        ModelType::Granite => set(vec![
            ("embedding_multiplier", keys.number("embedding_scale")?.into()),
            ("attention_multiplier", keys.number("attention.scale")?.into()),
            ("residual_multiplier", keys.number("residual_scale")?.into()),
            ("logits_scaling", keys.number("logit_scale")?.into()),
            ("mlp_bias", keys.has("ffn_up.bias").into()),
        ]),
        ModelType::Starcoder2 => set(vec![
            ("norm_epsilon", keys.number("attention.layer_norm_epsilon")?.into()),
            ("use_bias", keys.has("attn_q.bias").into()),
            ("sliding_window", window),
        ]),
        _ => {}
    }
    Ok(settings)
}
