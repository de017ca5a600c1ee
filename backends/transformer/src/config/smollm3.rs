//! SmolLM3: Llama in which some layers have no rotary positions.

use spo_api::Result;

use super::architecture::{Architecture, ModelType};
use super::fields::Fields;
use super::layers::{every, listed_flags, sliding_layers, window};
use super::llama::{Defaults, attention_bias, base};
use super::rotary::{Rope, RopeKeys};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| Rope::parse(fields, &RopeKeys { theta: 2_000_000.0, ..keys });
    let mut a = base(fields, model_type, Defaults { tied: true, rope, ..Defaults::default() })?;
    attention_bias(fields, &mut a)?;
    a.block.mlp_bias = fields.flag("mlp_bias", false)?;
    let rotated = match listed_flags(fields, "no_rope_layers", a.layers.len())? {
        // A list of the layers that have them, whatever it is called.
        Some(listed) => listed,
        None => {
            let interval = fields.maybe_size("no_rope_layer_interval")?.unwrap_or(4);
            (0..a.layers.len()).map(every(interval)).collect()
        }
    };
    let window = if fields.flag("use_sliding_window", false)? { window(fields, None)? } else { None };
    sliding_layers(fields, &mut a.layers, window, |layer| window.is_some() && !rotated[layer])?;
    for (layer, rotated) in a.layers.iter_mut().zip(rotated) {
        layer.rope = layer.rope.take().filter(|_| rotated);
    }
    Ok(a)
}
