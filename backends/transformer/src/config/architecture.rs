//! The shape of a decoder.

use super::rotary::Rope;
use crate::engine::{Activation, Heads};

/// The model types that can be read: what `model_type` of a configuration may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// Llama, and what is built like it: SmolLM, SmolLM2, TinyLlama.
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
    /// All of them.
    pub const ALL: [ModelType; 5] =
        [ModelType::Llama, ModelType::Mistral, ModelType::Qwen2, ModelType::Qwen3, ModelType::Gpt2];

    /// Its name in a configuration.
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

/// The families of weight names and block structure.
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
    /// `model_type` as the configuration says it.
    pub model_type: ModelType,
    pub family: Family,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// What blocks may differ in, one entry for each block.
    pub layers: Vec<Layer>,
    /// Widths of the attention heads.
    pub heads: Heads,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
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
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The type the weights were published in: `float32`, `bfloat16`, `float16`.
    pub dtype: String,
}

/// How a block attends.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layer {
    /// Rotary positions; `None` where the block does not rotate.
    pub rope: Option<Rope>,
    /// Longest sequence that sliding-window attention does not cut, in tokens.
    pub window: Option<usize>,
}

impl Architecture {
    /// The longest sequence that no block's window cuts, in tokens.
    pub fn window(&self) -> Option<usize> {
        self.layers.iter().filter_map(|layer| layer.window).min()
    }
}
