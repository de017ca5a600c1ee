//! Low-rank adapters (Hu et al. 2021), in the terms of PEFT.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The adapter that is trained while the rest of the model is frozen.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Adapter {
    /// One that was saved in PEFT's layout. Its folder says everything about it.
    Saved {
        /// The folder, with `adapter_config.json` and `adapter_model.safetensors`.
        path: PathBuf,
    },
    /// A new one, which changes nothing before it is trained.
    New(Lora),
}

/// A low-rank adapter of linear layers: `W x + scale B A x`, with `A` `[rank, in]` and `B` `[out, rank]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// The share of an adapted layer's input that the adapter does not see in training, drawn anew in every step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// The linear layers that are adapted.
    pub targets: Targets,
    /// Layers that are not adapted, although they are among the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Targets>,
    /// The blocks in which layers named by `targets` are adapted, counted from 0; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Other ranks, for layers whose name is, or ends in a dot and, what a key matches (a regular expression).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other values of alpha, in the same way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whether the scale is `alpha / sqrt(rank)` (Kalajdzievski 2023), and not `alpha / rank`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rslora: bool,
    /// Whether every row of an adapted matrix is given a trained norm (DoRA, Liu et al. 2024).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dora: bool,
    /// Modules that are trained as a whole beside the adapter: those whose name ends in one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Lora {
    /// An adapter without any of the options.
    pub fn new(rank: usize, alpha: f64, targets: impl Into<Targets>) -> Self {
        Lora {
            rank,
            alpha,
            dropout: 0.0,
            targets: targets.into(),
            exclude: None,
            layers: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            modules_to_save: Vec::new(),
        }
    }
}

/// A choice of linear layers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// Layers that have one of these names, or whose name ends in a dot and one of them: `q_proj`, `c_attn`, ...
    Names(Vec<String>),
    /// `"all-linear"` for all linear layers of the blocks, or a regular expression for the whole name.
    Pattern(String),
}

impl Targets {
    /// All linear layers of the blocks.
    pub const ALL: &str = "all-linear";
}

impl<T: Into<String>> FromIterator<T> for Targets {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        Targets::Names(names.into_iter().map(Into::into).collect())
    }
}

impl From<&str> for Targets {
    fn from(pattern: &str) -> Self {
        Targets::Pattern(pattern.to_owned())
    }
}

impl<const N: usize> From<[&str; N]> for Targets {
    fn from(names: [&str; N]) -> Self {
        names.into_iter().collect()
    }
}
