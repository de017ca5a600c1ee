//! What llama.cpp calls the tensors of a decoder, and in which order it has their rows.

use crate::config::{Architecture, MlpShape, ModelType, Projected};
use crate::parameters::Spec;

/// The name of a tensor in a GGUF file, given that in Hugging Face's files. Names say what a tensor does in its block,
/// whatever the family.
pub(crate) fn name(a: &Architecture, spec: &Spec) -> String {
    let (module, kind) = spec.name.rsplit_once('.').unwrap_or((&spec.name, "weight"));
    let names = &a.names;
    let outside = [
        (Some(names.table), "token_embd"),
        (names.positions, "position_embd"),
        (Some(names.norm), "output_norm"),
        (Some(names.head), "output"),
    ];
    if let Some((_, ours)) = outside.into_iter().find(|(theirs, _)| *theirs == Some(module)) {
        return format!("{ours}.{kind}");
    }
    let in_block = module.strip_prefix(names.blocks).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
    let Some((block, part)) = in_block else { return spec.name.clone() };
    let ours = within(a).into_iter().find(|(theirs, _)| *theirs == Some(part)).map_or(part, |(_, ours)| ours);
    format!("blk.{block}.{ours}.{kind}")
}

/// The parts of a block, by their names there and here.
fn within(a: &Architecture) -> Vec<(Option<&'static str>, &'static str)> {
    let block = &a.block;
    let mut parts = vec![
        (block.attention_norm, "attn_norm"),
        (block.attention_post_norm, "post_attention_norm"),
        (block.mlp_norm, "ffn_norm"),
        (block.mlp_post_norm, "post_ffw_norm"),
        (Some(block.output), "attn_output"),
    ];
    match block.projections {
        Projected::Separate([q, k, v]) => {
            parts.extend([(Some(q), "attn_q"), (Some(k), "attn_k"), (Some(v), "attn_v")]);
        }
        Projected::Joint(joint) | Projected::JointByHead(joint) => parts.push((Some(joint), "attn_qkv")),
    }
    if let Some(([q, k], _)) = block.head_norms {
        parts.extend([(Some(q), "attn_q_norm"), (Some(k), "attn_k_norm")]);
    }
    match block.mlp {
        MlpShape::Plain { up, down } => parts.extend([(Some(up), "ffn_up"), (Some(down), "ffn_down")]),
        MlpShape::Gated { gate, up, down } => {
            parts.extend([(Some(gate), "ffn_gate"), (Some(up), "ffn_up"), (Some(down), "ffn_down")]);
        }
        MlpShape::JointGated { gate_up, down } => {
            parts.extend([(Some(gate_up), "ffn_up"), (Some(down), "ffn_down")]);
        }
    }
    parts
}

/// Which row of the file each row of a tensor is; `None` where they are in the same order.
///
/// llama.cpp rotates neighbours in the models that descend from Llama, and files have the rows of q and k so: element
/// `i` of the first half of a head, then element `i` of the second.
pub(crate) fn rows_in_file(a: &Architecture, spec: &Spec) -> Option<Vec<usize>> {
    let rotated = matches!(
        a.model_type,
        ModelType::Llama
            | ModelType::Mistral
            | ModelType::Ministral
            | ModelType::Granite
            | ModelType::SmolLm3
    );
    let Projected::Separate([q, k, _]) = a.block.projections else { return None };
    let module = spec.name.rsplit_once('.')?.0;
    let width = a.heads.dim;
    (rotated && [q, k].iter().any(|part| module.ends_with(part))).then(|| {
        let row = |row: usize| {
            let (head, within) = (row / width, row % width);
            head * width + within % (width / 2) * 2 + within / (width / 2)
        };
        (0..spec.shape[0]).map(row).collect()
    })
}
