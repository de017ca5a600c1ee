//! GPT-2: learned positions, layer norms, biases everywhere, and weights stored transposed. StarCoder's predecessor
//! (`gpt_bigcode`) stores them as others do, and has one key head for all query heads. GPT-J has rotary positions, attention and
//! MLP side by side behind one norm, and no biases in the attention.

use spo_api::Result;

use super::architecture::{
    Architecture, BlockShape, Layer, MlpShape, ModelType, Names, NormShape, Projected,
};
use super::fields::Fields;
use super::rotary::{Rope, Scaling};
use crate::engine::{Activation, Heads, Pairs};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    fields.only_text("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    base(fields, model_type)
}

/// What the three have in common, as it is in GPT-2.
fn base(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    fields.only_flag("add_cross_attention", false)?;
    fields.only_flag("scale_attn_weights", true)?;
    fields.only_flag("scale_attn_by_inverse_layer_idx", false)?;
    let (hidden, heads) = (fields.size("n_embd")?, fields.size("n_head")?);
    let dim = fields.head_width(hidden, heads, "n_head")?;
    Ok(Architecture {
        model_type,
        names: Names {
            table: "transformer.wte",
            positions: Some("transformer.wpe"),
            blocks: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
        },
        vocabulary: fields.size("vocab_size")?,
        hidden,
        experts: None,
        layers: vec![Layer::default(); fields.layers("n_layer")?],
        heads: Heads { heads, kv_heads: heads, dim },
        intermediate: fields.maybe_size("n_inner")?.unwrap_or(4 * hidden),
        context: fields.size("n_positions")?,
        context_key: "n_positions",
        norm: NormShape::layer(fields.epsilon("layer_norm_epsilon", 1e-5)?),
        block: BlockShape {
            attention_norm: Some("ln_1"),
            projections: Projected::Joint("attn.c_attn"),
            qkv_bias: true,
            head_norms: None,
            output: "attn.c_proj",
            output_bias: true,
            attention_post_norm: None,
            mlp_norm: Some("ln_2"),
            mlp: MlpShape::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
            mlp_bias: true,
            activation: fields.activation("activation_function", Activation::GeluTanh)?,
            mlp_post_norm: None,
            parallel: false,
            transposed: true,
        },
        embedding_scale: 1.0,
        attention_scale: 1.0 / (dim as f64).sqrt(),
        attention_cap: None,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        head_bias: false,
        tied: fields.flag("tie_word_embeddings", true)?,
        initializer_range: fields.initializer_range()?,
        dtype: fields.dtype()?,
    })
}

pub(super) fn read_bigcode(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type)?;
    a.block.transposed = false;
    match fields.flag("multi_query", true)? {
        true => a.heads.kv_heads = 1,
        false => a.block.projections = Projected::JointByHead("attn.c_attn"),
    }
    Ok(a)
}

pub(super) fn read_j(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type)?;
    let (rotated, width) = (fields.maybe_size("rotary_dim")?.unwrap_or(64), a.heads.dim);
    if rotated > width || !rotated.is_multiple_of(2) {
        let problem = format!("must be even, and at most the width of a head ({width}), got {rotated}");
        return Err(fields.error("rotary_dim", problem));
    }
    let rope = Rope {
        theta: 10_000.0,
        dim: rotated,
        pairs: Pairs::Neighbours,
        scaling: Scaling::Default,
        magnitude: 1.0,
    };
    a.layers.iter_mut().for_each(|layer| layer.rope = Some(rope.clone()));
    a.names.positions = None;
    let block = &mut a.block;
    block.projections = Projected::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]);
    block.output = "attn.out_proj";
    (block.qkv_bias, block.output_bias) = (false, false);
    block.mlp = MlpShape::Plain { up: "mlp.fc_in", down: "mlp.fc_out" };
    block.parallel = true;
    block.mlp_norm = block.attention_norm;
    block.transposed = false;
    a.head_bias = true;
    a.tied = fields.flag("tie_word_embeddings", false)?;
    Ok(a)
}
