//! The shape of a decoder.
//!
//! An [`Architecture`] describes everything in which decoders differ: widths, the norms around a block's two
//! layers, how their projections are laid out, and what all of it is called in the weight files. Each family
//! has a file beside this one that fills it from a `config.json`; nothing else knows families.

use super::rotary::Rope;
use crate::engine::{Activation, Heads, NormKind};

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
    /// Gemma.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, the models for text alone.
    Gemma3,
    /// Phi-3, Phi-3.5 and Phi-4.
    Phi3,
    /// OLMo 2.
    Olmo2,
    /// OLMo 3.
    Olmo3,
    /// Granite 3.
    Granite,
    /// SmolLM3.
    SmolLm3,
    /// GPT-NeoX and Pythia.
    GptNeoX,
    /// Ministral.
    Ministral,
    /// StableLM.
    StableLm,
    /// StarCoder2.
    Starcoder2,
    /// Phi-1, Phi-1.5 and Phi-2.
    Phi,
    /// Command R.
    Cohere,
    /// Command R7B.
    Cohere2,
    /// GLM-4, the models of 2024.
    Glm,
    /// GLM-4, the models of 2025 (0414).
    Glm4,
    /// Helium.
    Helium,
    /// Mixtral.
    Mixtral,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// OLMoE.
    Olmoe,
    /// Seed-OSS.
    SeedOss,
    /// ERNIE 4.5, the models without experts.
    Ernie45,
    /// EXAONE 4.
    Exaone4,
    /// SantaCoder and StarCoder.
    GptBigCode,
    /// GPT-J.
    GptJ,
}

impl ModelType {
    /// All supported model types.
    pub const ALL: [ModelType; 31] = [
        ModelType::Llama,
        ModelType::Mistral,
        ModelType::Qwen2,
        ModelType::Qwen3,
        ModelType::Gpt2,
        ModelType::Gemma,
        ModelType::Gemma2,
        ModelType::Gemma3,
        ModelType::Phi3,
        ModelType::Olmo2,
        ModelType::Olmo3,
        ModelType::Granite,
        ModelType::SmolLm3,
        ModelType::GptNeoX,
        ModelType::Ministral,
        ModelType::StableLm,
        ModelType::Starcoder2,
        ModelType::Phi,
        ModelType::Cohere,
        ModelType::Cohere2,
        ModelType::Glm,
        ModelType::Glm4,
        ModelType::Helium,
        ModelType::Mixtral,
        ModelType::Qwen3Moe,
        ModelType::Olmoe,
        ModelType::SeedOss,
        ModelType::Ernie45,
        ModelType::Exaone4,
        ModelType::GptBigCode,
        ModelType::GptJ,
    ];

    /// The value of `model_type` in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Mistral => "mistral",
            ModelType::Qwen2 => "qwen2",
            ModelType::Qwen3 => "qwen3",
            ModelType::Gpt2 => "gpt2",
            ModelType::Gemma => "gemma",
            ModelType::Gemma2 => "gemma2",
            ModelType::Gemma3 => "gemma3_text",
            ModelType::Phi3 => "phi3",
            ModelType::Olmo2 => "olmo2",
            ModelType::Olmo3 => "olmo3",
            ModelType::Granite => "granite",
            ModelType::SmolLm3 => "smollm3",
            ModelType::GptNeoX => "gpt_neox",
            ModelType::Ministral => "ministral",
            ModelType::StableLm => "stablelm",
            ModelType::Starcoder2 => "starcoder2",
            ModelType::Phi => "phi",
            ModelType::Cohere => "cohere",
            ModelType::Cohere2 => "cohere2",
            ModelType::Glm => "glm",
            ModelType::Glm4 => "glm4",
            ModelType::Helium => "helium",
            ModelType::Mixtral => "mixtral",
            ModelType::Qwen3Moe => "qwen3_moe",
            ModelType::Olmoe => "olmoe",
            ModelType::SeedOss => "seed_oss",
            ModelType::Ernie45 => "ernie4_5",
            ModelType::Exaone4 => "exaone4",
            ModelType::GptBigCode => "gpt_bigcode",
            ModelType::GptJ => "gptj",
        }
    }
}

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Architecture {
    /// The model type given in the configuration.
    pub model_type: ModelType,
    /// Names of what is not in a block.
    pub names: Names,
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
    /// The key of the configuration that sets it.
    pub context_key: &'static str,
    /// How all norms are computed.
    pub norm: NormShape,
    /// What all blocks have in common.
    pub block: BlockShape,
    /// The experts of the blocks that have them.
    pub experts: Option<ExpertsShape>,
    /// Factor of the embeddings, rounded to the type of the activations as in transformers.
    pub embedding_scale: f64,
    /// Factor of the attention scores.
    pub attention_scale: f64,
    /// Cap of the attention scores.
    pub attention_cap: Option<f64>,
    /// Factor of what a layer adds to the residual stream.
    pub residual_scale: f64,
    /// Factor of the logits.
    pub logits_scale: f64,
    /// Cap of the logits.
    pub logits_cap: Option<f64>,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The type in which the weights were published: `float32`, `bfloat16`, `float16`.
    pub dtype: String,
}

/// Names in the weight files, without `.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The embedding table.
    pub table: &'static str,
    /// The table of learned positions.
    pub positions: Option<&'static str>,
    /// What the names of a block begin with, before its number.
    pub blocks: &'static str,
    /// The final norm.
    pub norm: &'static str,
    /// The head, where it is not the embedding table.
    pub head: &'static str,
}

/// How norms are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormShape {
    pub kind: NormKind,
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weights.
    pub offset: f64,
    /// Whether there is a bias.
    pub bias: bool,
}

impl NormShape {
    pub fn rms(epsilon: f64) -> Self {
        NormShape { kind: NormKind::Rms, epsilon, offset: 0.0, bias: false }
    }

    pub fn layer(epsilon: f64) -> Self {
        NormShape { kind: NormKind::Layer, epsilon, offset: 0.0, bias: true }
    }
}

/// A block: `x + attention(x)`, then the same with the MLP. Norms stand before a layer, after it, or both.
/// Names are those within the block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BlockShape {
    pub attention_norm: Option<&'static str>,
    pub projections: Projected,
    pub qkv_bias: bool,
    /// Norms of q and k, before the rotation.
    pub head_norms: Option<([&'static str; 2], HeadNorm)>,
    /// The attention's output projection.
    pub output: &'static str,
    pub output_bias: bool,
    pub attention_post_norm: Option<&'static str>,
    pub mlp_norm: Option<&'static str>,
    pub mlp: MlpShape,
    pub mlp_bias: bool,
    pub activation: Activation,
    pub mlp_post_norm: Option<&'static str>,
    /// Whether the MLP reads the input of the block, and not the result of the attention.
    pub parallel: bool,
    /// Whether the weight files hold the transposes of the projections.
    pub transposed: bool,
}

/// How q, k and v are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projected {
    /// Each by its own matrix.
    Separate([&'static str; 3]),
    /// By one matrix, side by side in the columns of the result.
    Joint(&'static str),
    /// By one matrix, side by side for each key head.
    JointByHead(&'static str),
}

/// What a norm of q or k takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadNorm {
    /// Each head for itself, with the same weights.
    Each,
    /// All heads.
    All,
}

/// The projections of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MlpShape {
    Plain {
        up: &'static str,
        down: &'static str,
    },
    Gated {
        gate: &'static str,
        up: &'static str,
        down: &'static str,
    },
    /// Gate and up by one matrix, side by side in the columns of the result.
    JointGated {
        gate_up: &'static str,
        down: &'static str,
    },
}

/// Experts in place of one MLP: each is a gated MLP without biases, and computes the rows that a router sends to it
/// (Shazeer et al. 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ExpertsShape {
    /// The layer that scores the experts.
    pub router: &'static str,
    /// What the names of an expert begin with, before its number.
    pub experts: &'static str,
    /// Gate, up and down within an expert.
    pub projections: [&'static str; 3],
    /// Number of experts.
    pub count: usize,
    /// Number of experts that compute each row.
    pub chosen: usize,
    /// Width of each expert.
    pub width: usize,
    /// Whether the weights of the chosen experts are made to add up to 1.
    pub normalised: bool,
    /// The weight that the configuration gives the routers' loss in training; 0 if it does not count.
    pub loss_weight: f64,
}

/// Settings of one block.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layer {
    /// Rotary positions; `None` if the block does not use them.
    pub rope: Option<Rope>,
    /// The number of tokens that a token attends to at most, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Whether it has experts in place of its MLP.
    pub sparse: bool,
}

impl Architecture {
    /// The keys of the configuration that set the number of parameters, with their values.
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let Architecture { vocabulary, hidden, intermediate, context, .. } = *self;
        let (layers, width) = (self.layers.len(), self.heads.dim);
        let mut sizes = match self.model_type {
            ModelType::Gpt2 => vec![
                ("vocab_size", vocabulary),
                ("n_embd", hidden),
                ("n_inner", intermediate),
                ("n_layer", layers),
                ("n_head", self.heads.heads),
                ("n_positions", context),
            ],
            _ => vec![
                ("vocab_size", vocabulary),
                ("hidden_size", hidden),
                ("intermediate_size", intermediate),
                ("num_hidden_layers", layers),
                ("num_attention_heads", self.heads.heads),
                ("head_dim", width),
            ],
        };
        sizes.extend(self.experts.map(|experts| ("num_experts", experts.count)));
        sizes
    }

    /// What the rotations of a sequence depend on apart from positions: sequences for which this is the same
    /// can share rows.
    pub fn regime(&self, length: usize) -> Vec<usize> {
        let ropes = self.layers.iter().filter_map(|layer| layer.rope.as_ref());
        ropes.filter_map(|rope| rope.representative(length)).collect()
    }

    /// The length from which on keys that were rotated in a shorter sequence are to be computed anew: where
    /// LongRoPE takes its factors for long sequences. (Under dynamic scaling, transformers keeps them.)
    pub fn recomputed_from(&self) -> Option<usize> {
        let ropes = self.layers.iter().filter_map(|layer| layer.rope.as_ref());
        ropes.filter_map(Rope::switches_at).min()
    }
}
