//! The shape of a decoder.

use super::rotary::Rope;
use crate::engine::{Activation, Heads};

/// The supported model types: the accepted values of `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// Llama, and models with the same architecture: SmolLM, SmolLM2, TinyLlama.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// GPT-2.
    Gpt2,
}

impl ModelType {
    /// All supported model types.
    pub const ALL: [ModelType; 5] =
        [ModelType::Llama, ModelType::Mistral, ModelType::Qwen2, ModelType::Qwen3, ModelType::Gpt2];

    /// The value of `model_type` in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Mistral => "mistral",
            ModelType::Qwen2 => "qwen2",
            ModelType::Qwen3 => "qwen3",
            ModelType::Gpt2 => "gpt2",
        }
    }
}

/// Families that share weight names and block structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// RMS norm, rotary positions, separate q/k/v, gated MLP.
    Llama,
    /// Layer norm, learned positions, joint q/k/v, plain MLP, weights stored transposed.
    Gpt2,
}

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Architecture {
    /// The model type given in the configuration.
    pub model_type: ModelType,
    pub family: Family,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Settings that can differ between blocks, one entry per block.
    pub layers: Vec<Layer>,
    /// Widths of the attention heads.
    pub heads: Heads,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Epsilon added to the variance in norms.
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
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The type in which the weights were published: `float32`, `bfloat16`, `float16`.
    pub dtype: String,
}

/// Attention settings of one block.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layer {
    /// Rotary positions; `None` if the block does not use them.
    pub rope: Option<Rope>,
    /// Longest sequence that this block's sliding window does not truncate, in tokens.
    pub window: Option<usize>,
}

impl Architecture {
    /// The keys of the configuration that set the number of parameters, with their values.
    pub fn sizes(&self) -> [(&'static str, usize); 6] {
        let Architecture { vocabulary, hidden, intermediate, context, .. } = *self;
        let (layers, width) = (self.layers.len(), self.heads.dim);
        match self.family {
            Family::Llama => [
                ("vocab_size", vocabulary),
                ("hidden_size", hidden),
                ("intermediate_size", intermediate),
                ("num_hidden_layers", layers),
                ("num_attention_heads", self.heads.heads),
                ("head_dim", width),
            ],
            Family::Gpt2 => [
                ("vocab_size", vocabulary),
                ("n_embd", hidden),
                ("n_inner", intermediate),
                ("n_layer", layers),
                ("n_head", self.heads.heads),
                ("n_positions", context),
            ],
        }
    }

    /// The longest sequence that the model can read here, in tokens, and the key of the configuration that
    /// sets it. Sliding windows are not computed, so sequences must not be longer than any of them.
    pub fn longest(&self) -> (usize, &'static str) {
        let window = self.layers.iter().filter_map(|layer| layer.window).min();
        match window.filter(|&window| window < self.context) {
            Some(window) => (window, "sliding_window"),
            None if self.family == Family::Gpt2 => (self.context, "n_positions"),
            None => (self.context, "max_position_embeddings"),
        }
    }
}
