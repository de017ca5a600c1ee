//! Which frozen matrices are kept in blocks, and in which.

use std::collections::BTreeMap;

use spo_api::{Error, Quantize, Result};
use spo_gguf::BlockType;

use crate::decoder::Decoder;
use crate::parameters::{Id, Kept, Role, Spec};

/// What was asked for, or what is done without being asked: below an adapter, what a file has in blocks stays in them.
///
/// # Errors
/// [`Error::Model`] for blocks without an adapter: what is trained needs every digit.
pub(super) fn checked(wanted: Option<Quantize>, adapted: bool) -> Result<Quantize> {
    match wanted {
        None if adapted => Ok(Quantize::File),
        None => Ok(Quantize::Off),
        Some(Quantize::Off) => Ok(Quantize::Off),
        Some(blocks) if adapted => Ok(blocks),
        Some(blocks) => Err(Error::Model(format!(
            "`quantize` = \"{}\" is for the frozen weights below an adapter, and without one every weight is trained: add \
             an adapter, or leave `quantize` out",
            blocks.name()
        ))),
    }
}

/// The blocks that a parameter is kept in, if any. `in_file` is its type in its file.
///
/// The embedding table and the head are read in every token, so they are not made coarser than 8 bits, as in most files
/// of llama.cpp. Rows that are not made of whole blocks are kept in smaller ones, or as they are.
pub(super) fn blocks(
    quantize: Quantize,
    decoder: &Decoder,
    id: Id,
    in_file: Option<BlockType>,
) -> Option<BlockType> {
    let spec = &decoder.specs[id];
    if spec.role != Role::Matrix {
        return None;
    }
    let wanted = match quantize {
        Quantize::Off => return None,
        Quantize::File => return in_file.filter(|kind| kind.is_quantised()),
        Quantize::Q8_0 => BlockType::Q8_0,
        Quantize::Q4K => BlockType::Q4K,
        Quantize::Nf4 => BlockType::Nf4,
    };
    // A router is small, and chooses by small differences.
    if decoder.positions() == Some(id) || decoder.is_router(id) {
        return None;
    }
    let wanted = if decoder.is_linear(id) { wanted } else { BlockType::Q8_0 };
    [wanted, BlockType::Q8_0].into_iter().find(|kind| kind.bytes(spec.shape[1]).is_some())
}

/// What the user should know: the blocks that weights are kept in, with their share.
pub(super) fn remark(decoder: &Decoder, kept: impl Fn(Id, &Spec) -> Kept) -> Option<String> {
    let mut shares = BTreeMap::new();
    let (mut all, mut bytes) = (0, 0);
    for (id, spec) in decoder.specs.iter().enumerate() {
        if let Kept::Blocks(kind) = kept(id, spec) {
            *shares.entry(kind.name()).or_insert(0) += spec.elements();
            bytes += spec.bytes_in(kind);
            all += spec.elements();
        }
    }
    let named: Vec<String> = shares
        .into_iter()
        .map(|(name, n)| format!("{:.0} % in {name}", 100.0 * n as f64 / all as f64))
        .collect();
    (all > 0).then(|| {
        format!(
            "the frozen weights stay quantised and are decoded where they are used: {} ({:.1} bits each)",
            named.join(", "),
            8.0 * bytes as f64 / all as f64
        )
    })
}
