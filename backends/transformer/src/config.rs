//! `config.json` of a Hugging Face folder, read into the shape of a decoder.

use serde_json::Value;
use spo_api::{Error, Result, nearest};

use crate::engine::Activation;
use crate::rotary::Rope;

/// The families of weight names and block structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// RMS norm, rotary positions, separate q/k/v, gated MLP.
    Llama,
    /// Layer norm, learned positions, joint q/k/v, GELU MLP, weights stored transposed.
    Gpt2,
}

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type` as the configuration says it.
    pub model_type: String,
    pub(crate) family: Family,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Longest sequence that sliding-window attention does not cut, in tokens.
    pub window: Option<usize>,
    /// Added to the variance in norms.
    pub epsilon: f64,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// The MLP's activation function.
    pub activation: Activation,
    /// Whether q and k are normalised per head.
    pub qk_norm: bool,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Rotary positions; `None` where they are learned.
    pub rope: Option<Rope>,
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The type the weights were published in: `float32`, `bfloat16`, `float16`.
    pub dtype: String,
}

const MODEL_TYPES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gpt2"];

impl Architecture {
    /// Reads a configuration in the older form (`rope_theta`, `torch_dtype`) or that of transformers 5
    /// (`rope_parameters`, `dtype`). `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Model`] for an unknown architecture, a missing or impossible size, and every option that
    /// would change the computation in a way that is not implemented.
    pub fn parse(config: &Value, origin: &str) -> Result<Self> {
        Fields { config, origin }.architecture()
    }
}

/// Access to a configuration with errors that name the file and the key.
pub(crate) struct Fields<'a> {
    pub config: &'a Value,
    pub origin: &'a str,
}

impl Fields<'_> {
    pub fn error(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::Model(format!("{}: `{key}` {problem}", self.origin))
    }

    /// The value of a key; null counts as absent, as transformers has it.
    fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|v| !v.is_null())
    }

    fn typed<'v, T>(
        &'v self,
        key: &str,
        kind: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|v| read(v).ok_or_else(|| self.error(key, format!("must be {kind}, got {v}"))))
            .transpose()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A size that memory is asked for: what no model has is a mistake, and is found before the asking.
    fn maybe_size(&self, key: &str) -> Result<Option<usize>> {
        self.bounded(key, "a positive whole number of at most 2^24", 1 << 24)
    }

    fn bounded(&self, key: &str, kind: &str, most: u64) -> Result<Option<usize>> {
        self.typed(key, kind, |v| v.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize))
    }

    fn layers(&self, key: &str) -> Result<usize> {
        self.required(key, self.bounded(key, "a positive whole number of at most 10,000", 10_000)?)
    }

    /// The longest sequence: nothing is allocated for it.
    fn context(&self, key: &str) -> Result<usize> {
        self.required(key, self.bounded(key, "a positive whole number of at most 2^32", 1 << 32)?)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.maybe_size(key)?)
    }

    pub fn maybe_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub fn number(&self, key: &str) -> Result<f64> {
        self.required(key, self.maybe_number(key)?)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn maybe_text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Rejects an option whose value is not the one implemented.
    fn only_flag(&self, key: &str, implemented: bool) -> Result<()> {
        match self.flag(key, implemented)? == implemented {
            true => Ok(()),
            false => Err(self.error(key, format!("= {} is not supported", !implemented))),
        }
    }

    fn only_text(&self, key: &str, implemented: &[&str]) -> Result<()> {
        match self.maybe_text(key)? {
            Some(other) if !implemented.contains(&other) => Err(self.error(
                key,
                format!("= \"{other}\" is not supported, only \"{}\"", implemented.join("\", \"")),
            )),
            _ => Ok(()),
        }
    }

    fn architecture(&self) -> Result<Architecture> {
        if !self.config.is_object() {
            return Err(Error::Model(format!("{}: must be a JSON object", self.origin)));
        }
        if self.get("quantization_config").is_some() {
            return Err(self.error("quantization_config", "is set: quantised weights are not supported"));
        }
        let model_type = self.required("model_type", self.maybe_text("model_type")?)?;
        if !MODEL_TYPES.contains(&model_type) {
            let hint =
                nearest(model_type, MODEL_TYPES).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            return Err(self.error(
                "model_type",
                format!("= \"{model_type}\" is not supported, only {}{hint}", MODEL_TYPES.join(", ")),
            ));
        }
        let architecture = if model_type == "gpt2" { self.gpt2()? } else { self.llama(model_type)? };
        let a = &architecture;
        if a.rope.is_some() && a.head_dim % 2 != 0 {
            return Err(
                self.error("head_dim", format!("must be even for rotary positions, got {}", a.head_dim))
            );
        }
        if !a.heads.is_multiple_of(a.kv_heads) {
            return Err(self.error(
                "num_key_value_heads",
                format!("must divide the number of heads ({}), got {}", a.heads, a.kv_heads),
            ));
        }
        Ok(architecture)
    }

    fn head_width(&self, hidden: usize, heads: usize, key: &str) -> Result<usize> {
        match hidden.is_multiple_of(heads) {
            true => Ok(hidden / heads),
            false => Err(self.error(key, format!("= {heads} must divide the hidden size, {hidden}"))),
        }
    }

    fn dtype(&self) -> Result<String> {
        Ok(self.maybe_text("dtype")?.or(self.maybe_text("torch_dtype")?).unwrap_or("float32").to_owned())
    }

    fn llama(&self, model_type: &str) -> Result<Architecture> {
        self.only_text("hidden_act", &["silu"])?;
        let (hidden, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let head_dim = match self.maybe_size("head_dim")? {
            Some(dim) => dim,
            // Qwen3 alone has a default that is not hidden / heads.
            None if model_type == "qwen3" => 128,
            None => self.head_width(hidden, heads, "num_attention_heads")?,
        };
        let attention_bias = match model_type {
            "llama" | "qwen3" => self.flag("attention_bias", false)?,
            _ => false,
        };
        let windowed = match model_type {
            "mistral" => true,
            "qwen2" | "qwen3" => self.flag("use_sliding_window", false)?,
            _ => false,
        };
        Ok(Architecture {
            model_type: model_type.to_owned(),
            family: Family::Llama,
            vocabulary: self.size("vocab_size")?,
            hidden,
            layers: self.layers("num_hidden_layers")?,
            heads,
            kv_heads: self.maybe_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            intermediate: self.size("intermediate_size")?,
            context: self.context("max_position_embeddings")?,
            window: if windowed { self.maybe_size("sliding_window")? } else { None },
            epsilon: self.maybe_number("rms_norm_eps")?.unwrap_or(1e-6),
            qkv_bias: attention_bias || model_type == "qwen2",
            output_bias: attention_bias,
            mlp_bias: model_type == "llama" && self.flag("mlp_bias", false)?,
            activation: Activation::Silu,
            qk_norm: model_type == "qwen3",
            tied: self.flag("tie_word_embeddings", false)?,
            rope: Some(Rope::parse(self)?),
            initializer_range: self.maybe_number("initializer_range")?.unwrap_or(0.02),
            dtype: self.dtype()?,
        })
    }

    fn gpt2(&self) -> Result<Architecture> {
        self.only_text("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
        self.only_flag("add_cross_attention", false)?;
        self.only_flag("scale_attn_weights", true)?;
        self.only_flag("scale_attn_by_inverse_layer_idx", false)?;
        let (hidden, heads) = (self.size("n_embd")?, self.size("n_head")?);
        Ok(Architecture {
            model_type: "gpt2".to_owned(),
            family: Family::Gpt2,
            vocabulary: self.size("vocab_size")?,
            hidden,
            layers: self.layers("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: self.head_width(hidden, heads, "n_head")?,
            intermediate: self.maybe_size("n_inner")?.unwrap_or(4 * hidden),
            context: self.size("n_positions")?,
            window: None,
            epsilon: self.maybe_number("layer_norm_epsilon")?.unwrap_or(1e-5),
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            activation: Activation::GeluTanh,
            qk_norm: false,
            tied: self.flag("tie_word_embeddings", true)?,
            rope: None,
            initializer_range: self.maybe_number("initializer_range")?.unwrap_or(0.02),
            dtype: self.dtype()?,
        })
    }
}
