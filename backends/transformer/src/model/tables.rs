//! Constant tables that older programs saved together with the weights. They follow from the configuration,
//! so they are not read; but they show what the model was trained with.

use crate::config::{Architecture, Rope, Scaling};

/// A kind of constant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// GPT-2 and GPT-NeoX: the causal mask, `[1, 1, n, n]`.
    Mask,
    /// GPT-2 and GPT-NeoX: what is added to masked scores, one number.
    Masked,
    /// The radians per position of the rotary pairs, one for each.
    Frequencies,
}

impl Table {
    /// The table that a tensor of this name holds, if any.
    pub fn named(name: &str) -> Option<Self> {
        let (module, name) = name.rsplit_once('.')?;
        match (module.rsplit('.').next()?, name) {
            ("attn" | "attention", "bias") => Some(Table::Mask),
            ("attn" | "attention", "masked_bias") => Some(Table::Masked),
            ("rotary_emb", "inv_freq") => Some(Table::Frequencies),
            _ => None,
        }
    }

    /// What it must hold, for messages.
    pub fn expectation(self) -> &'static str {
        match self {
            Table::Mask => "a causal mask",
            Table::Masked => "a number that masks (-10000 or less)",
            Table::Frequencies => {
                "the table of rotary frequencies that follows from the base (`rope_theta`) and `head_dim`"
            }
        }
    }

    /// Whether it holds what the decoder computes with.
    pub fn agrees(self, a: &Architecture, shape: &[usize], values: &[f32]) -> bool {
        match self {
            Table::Mask => {
                let n = shape.last().copied().unwrap_or(0);
                let lower = |i: usize| if i % n <= i / n { 1.0 } else { 0.0 };
                n > 0 && values.len() == n * n && (0..n * n).all(|i| values[i] == lower(i))
            }
            // -10000, as near as bf16 comes to it.
            Table::Masked => matches!(values, [masked] if *masked <= -9984.0),
            Table::Frequencies => a.layers.iter().filter_map(|layer| layer.rope.as_ref()).all(|rope| {
                // With some scalings, the table is that without one: the scaling came later.
                let plain = Rope { scaling: Scaling::Default, ..rope.clone() };
                [rope, &plain].iter().any(|rope| near(values, &rope.frequencies(0)))
            }),
        }
    }
}

/// Whether the values are these, rounded to bf16, to f16 or to f32.
fn near(values: &[f32], expected: &[f64]) -> bool {
    // Half a unit in the last place of bf16, and of the smallest numbers in f16.
    let close = |(value, expected): (&f32, &f64)| {
        (f64::from(*value) - expected).abs() <= expected * 0.5f64.powi(8) + 0.5f64.powi(25)
    };
    values.len() == expected.len() && values.iter().zip(expected).all(close)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use serde_json::json;

    use super::*;
    use crate::config;

    fn architecture(theta: f64) -> Architecture {
        let config = json!({
            "model_type": "llama", "vocab_size": 9, "hidden_size": 128, "intermediate_size": 20, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 64, "rope_theta": theta,
        });
        config::parse(&config, "test").unwrap()
    }

    #[test]
    fn frequencies_agree_however_they_are_rounded_and_no_others_do() {
        let a = architecture(10_000.0);
        let exact: Vec<f32> = (0..32).map(|i| 10_000f64.powf(-f64::from(i) / 32.0) as f32).collect();
        let rounded = [
            exact.clone(),
            exact.iter().map(|&f| f16::from_f32(f).to_f32()).collect(),
            exact.iter().map(|&f| bf16::from_f32(f).to_f32()).collect(),
        ];
        for table in &rounded {
            assert!(Table::Frequencies.agrees(&a, &[32], table));
            assert!(!Table::Frequencies.agrees(&architecture(10_500.0), &[32], table));
        }
        assert!(!Table::Frequencies.agrees(&a, &[31], &exact[..31]));
    }

    #[test]
    fn a_mask_is_causal_or_refused() {
        let a = architecture(10_000.0);
        let causal = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
        assert!(Table::Mask.agrees(&a, &[1, 1, 3, 3], &causal));
        for at in [1, 3] {
            let mut other = causal;
            other[at] = 1.0 - other[at];
            assert!(!Table::Mask.agrees(&a, &[1, 1, 3, 3], &other));
        }
        assert!(!Table::Mask.agrees(&a, &[9], &causal));
        assert!(!Table::Mask.agrees(&a, &[], &[1.0]));
        assert!(Table::Masked.agrees(&a, &[], &[-1e4]) && !Table::Masked.agrees(&a, &[], &[-1.0]));
    }
}
